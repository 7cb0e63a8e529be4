<?php

namespace App;

/** A file that stands in for a database: which migrations ran, and the rows. */
class Database
{
    public array $migrations = [];
    public array $rows = [];

    private function __construct(private string $path)
    {
    }

    /** The database of the settings, or nothing if it is not there yet. */
    public static function open(array $config): ?self
    {
        $path = $config['DB_DATABASE'];
        if (!is_file($path)) {
            return null;
        }
        $database = new self($path);
        ['migrations' => $database->migrations, 'rows' => $database->rows] = json_decode(file_get_contents($path), true);
        return $database;
    }

    public static function create(array $config): self
    {
        $database = new self($config['DB_DATABASE']);
        $database->save();
        return $database;
    }

    public function save(): void
    {
        $text = json_encode(['migrations' => $this->migrations, 'rows' => $this->rows]);
        if (@file_put_contents("{$this->path}.new", $text) === false) {
            throw new \RuntimeException("the database {$this->path} can't be written");
        }
        rename("{$this->path}.new", $this->path);
    }
}
