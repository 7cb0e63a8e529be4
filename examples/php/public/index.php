<?php

// A greeting at /, and at /health the release.

require __DIR__ . '/../vendor/autoload.php';

$release = trim(file_get_contents(__DIR__ . '/../VERSION'));
if (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) === '/health') {
    header('Content-Type: application/json');
    echo json_encode(['release' => $release]), "\n";
    return;
}
$config = require __DIR__ . '/../bootstrap/cache/config.php';
$name = App\Database::open($config)->rows['name'];
header('Content-Type: text/plain');
echo Acme\Greeting\Greeting::of($name), ", {$config['APP_NAME']}, release $release\n";
