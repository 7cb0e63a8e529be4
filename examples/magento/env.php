<?php
// The shop's settings. In the stand-in, the database is a file with the version of its schema.
return ['db' => '/srv/shop/shared/database'];
