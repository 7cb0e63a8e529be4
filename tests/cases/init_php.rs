//! The template `php`, with real Composer, PHP-FPM and nginx: deployed, broken, resumed, rolled back; once with the `artisan` of the example, and
//! once with a real Laravel.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
};

use crate::support::{
    NginxServer, PhpFpmServer, RunnerOutput, TestEnvironment,
    doc_blocks::{fenced_block, page_path},
};

/// The folder of the application.
const PROJECT: &str = "project/shop";

/// The template, with the folders and servers of a test.
struct PhpShop {
    environment: TestEnvironment,
    nginx: NginxServer,
    fpm: PhpFpmServer,
}

impl PhpShop {
    fn new() -> Self {
        let environment = TestEnvironment::new();
        fs::create_dir_all(environment.path(PROJECT)).unwrap();
        let shop = Self::in_project(environment);
        shop.set("Corner shop", "srv/shared/storage/database.json");
        shop
    }

    /// A Laravel application that was there before the template.
    fn of_laravel() -> Self {
        let environment = TestEnvironment::new();
        copy_folder(&page_path("tests/fixtures/laravel"), &environment.path(PROJECT));
        let proposed = environment.run_in(PROJECT, &["init"]);
        proposed.assert_exit(0);
        assert!(proposed.stdout.contains("proposal   php: "), "{}", proposed.stdout);
        let commands = fenced_block("docs/init.md", "# As root, for php\n");
        let (_, folders) = commands.split_once("for folder in ").unwrap();
        for folder in folders.split_once(';').unwrap().0.split(' ').filter(|folder| *folder != ".") {
            fs::create_dir_all(environment.path("srv/shared/storage").join(folder)).unwrap();
        }
        environment.write("srv/shared/storage/database.sqlite", "");
        let shop = Self::in_project(environment);
        shop.set("Corner shop", "srv/shared/storage/database.sqlite");
        shop
    }

    /// Writes the template into the folder of the application.
    fn in_project(environment: TestEnvironment) -> Self {
        environment.run_in(PROJECT, &["init", "--template", "php"]).assert_exit(0);
        let fpm = PhpFpmServer::start(&environment.read(&format!("{PROJECT}/deploy/php-fpm.conf")));
        let root = environment.path("srv").display().to_string();
        let configuration = environment.read(&format!("{PROJECT}/deploy/nginx.conf"));
        let nginx = NginxServer::with_configuration(|port| {
            configuration
                .replace("/srv/shop", &root)
                .replace("8080", &format!("127.0.0.1:{port}"))
                .replace("/run/php/shop.sock", &fpm.socket().display().to_string())
                .replace("include fastcgi_params", "include /etc/nginx/fastcgi_params")
        });
        let plan = environment.read(&format!("{PROJECT}/deploy.yml"));
        let reload = format!("[/bin/sh, -c, \"{}\"]", fpm.reload_command());
        let plan = plan
            .replace("/srv/shop", &root)
            .replace("127.0.0.1:8080", &nginx.address())
            .replace("[/usr/bin/sudo, /usr/bin/systemctl, reload, php8.2-fpm]", &reload);
        environment.write(&format!("{PROJECT}/deploy.yml"), plan);
        Self { environment, nginx, fpm }
    }

    /// Writes the settings of the machine.
    fn set(&self, name: &str, database: &str) {
        let database = self.environment.path(database).display().to_string();
        let key = "base64:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let text = format!("APP_NAME=\"{name}\"\nAPP_KEY=\"{key}\"\nDB_DATABASE={database}\n");
        self.environment.write("srv/shared/.env", text);
    }

    fn build(&self, release: &str) {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {PROJECT}\nsh build.sh {release}");
        self.environment.run_script(&script).assert_exit(0);
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.run_in(PROJECT, &["--local", "--release", release, "--json"])
    }

    /// What a visitor gets.
    fn answer(&self) -> String {
        self.request("/").rsplit("\r\n").next().unwrap().trim_end().to_owned()
    }

    /// The answer to a request, with its headers.
    fn request(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(self.nginx.address()).unwrap();
        connection.write_all(format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Somebody who changes the database of Laravel by hand.
    fn in_database(&self, statement: &str) {
        let database = self.environment.path("srv/shared/storage/database.sqlite");
        assert!(Command::new("sqlite3").arg(database).arg(statement).status().unwrap().success());
    }

    /// How often PHP-FPM was reloaded.
    fn reloads(&self) -> usize {
        self.fpm.log().matches("reloading: execvp").count()
    }
}

#[test]
fn php_template_is_deployed_broken_resumed_and_rolled_back() {
    let shop = PhpShop::new();
    shop.build("r1");
    shop.deploy("r1").assert_exit(0);
    assert_eq!((shop.answer().as_str(), shop.reloads()), ("Hello from shop, Corner shop, release r1", 1));

    // What lies beside the page is no page.
    for path in ["public/.env", "public/phpinfo.php"] {
        shop.environment.write(&format!("srv/current/{path}"), "APP_KEY=secret");
        let request = path.strip_prefix("public").unwrap();
        assert!(shop.request(request).starts_with("HTTP/1.1 404"), "{request}");
        fs::remove_file(shop.environment.path(format!("srv/current/{path}"))).unwrap();
    }

    // The second release has a migration, and the settings a database that can't be had.
    let migration = "<?php\n\nreturn fn (App\\Database $database) => $database->rows['name'] = 'the new shop';\n";
    shop.environment.write(&format!("{PROJECT}/database/migrations/0002_name.php"), migration);
    shop.build("r2");
    shop.set("Corner shop", "nowhere/database.json");
    shop.deploy("r2").assert_exit(1).assert_stderr_contains("step `migrate` failed");
    assert_eq!(shop.answer(), "Hello from shop, Corner shop, release r1");
    shop.set("Corner shop", "srv/shared/storage/database.json");
    let resumed = shop.deploy("r2");
    resumed.assert_exit(0);
    assert_eq!(resumed.decisions()[..3], ["pull skip held", "config run changed", "migrate run failed-before"]);
    assert_eq!(shop.answer(), "Hello from the new shop, Corner shop, release r2");

    // The same release with other settings.
    shop.set("Market", "srv/shared/storage/database.json");
    shop.deploy("r2").assert_exit(0);
    assert_eq!(shop.answer(), "Hello from the new shop, Market, release r2");

    // A release that answers nothing is shown to nobody for long.
    shop.environment.edit(&format!("{PROJECT}/public/index.php"), "<?php\n", "<?php\nthrow new Exception('none');\n");
    shop.build("r3");
    shop.deploy("r3").assert_exit(1).assert_stderr_contains("step `switch` failed");
    assert_eq!(shop.answer(), "Hello from the new shop, Market, release r2");

    shop.environment.run_in(PROJECT, &["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!(shop.answer(), "Hello from the new shop, Market, release r1");
}

/// A migration that fails while two greetings are the same.
const UNIQUE_GREETINGS: &str = "<?php

return new class extends Illuminate\\Database\\Migrations\\Migration
{
    public function up(): void
    {
        Illuminate\\Support\\Facades\\Schema::table('greetings', fn ($table) => $table->unique('text'));
        Illuminate\\Support\\Facades\\DB::table('greetings')->insert(['text' => 'Welcome to shop']);
    }
};
";

#[test]
fn laravel_is_deployed_with_the_php_template_broken_resumed_and_rolled_back() {
    let shop = PhpShop::of_laravel();
    // The page says that other caches are steps like this one.
    let plan = shop.environment.read(&format!("{PROJECT}/deploy.yml"));
    let (_, config) = plan.split_once("  config:\n").unwrap();
    let (config, _) = config.split_once("  # artisan").unwrap();
    let routes = format!("  routes:\n{config}").replace("config:cache", "route:cache").replace(".config-", ".route-");
    shop.environment
        .write(&format!("{PROJECT}/deploy.yml"), plan.replacen("  # artisan", &format!("{routes}  # artisan"), 1));
    shop.build("r1");
    shop.deploy("r1").assert_exit(0);
    assert_eq!(shop.answer(), "Hello from shop, Corner shop, release r1");
    for cache in ["config.php", "routes-v7.php"] {
        assert!(shop.environment.path("srv/current/bootstrap/cache").join(cache).is_file(), "{cache}");
    }
    assert!(shop.environment.read("srv/shared/storage/logs/laravel.log").contains("somebody visits"));

    // The second release wants each greeting once, and there is one twice.
    shop.in_database("INSERT INTO greetings (text) VALUES ('Hello from shop')");
    let migration = "database/migrations/2026_12_02_000000_make_greetings_unique.php";
    shop.environment.write(&format!("{PROJECT}/{migration}"), UNIQUE_GREETINGS);
    shop.build("r2");
    shop.deploy("r2").assert_exit(1).assert_stderr_contains("step `migrate` failed");
    let logs = shop.environment.run_in(PROJECT, &["logs"]);
    assert!(logs.stdout.contains("Integrity constraint violation"), "{}", logs.stdout);
    assert_eq!(shop.answer(), "Hello from shop, Corner shop, release r1");
    shop.in_database("DELETE FROM greetings WHERE id > 1");
    let resumed = shop.deploy("r2");
    resumed.assert_exit(0);
    assert_eq!(
        resumed.decisions()[..4],
        ["pull skip held", "config skip held", "routes skip held", "migrate run failed-before"]
    );
    assert_eq!(shop.answer(), "Welcome to shop, Corner shop, release r2");

    // The same release with other settings.
    shop.set("Market", "srv/shared/storage/database.sqlite");
    shop.deploy("r2").assert_exit(0);
    assert_eq!(shop.answer(), "Welcome to shop, Market, release r2");

    shop.environment.run_in(PROJECT, &["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!(shop.answer(), "Welcome to shop, Market, release r1");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            fs::copy(path, copy).unwrap();
        }
    }
}
