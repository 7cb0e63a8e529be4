<?php

return function (App\Database $database): void {
    $database->rows['name'] = 'shop';
};
