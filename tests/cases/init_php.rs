//! The template `php`, with real Composer, PHP-FPM and nginx: deployed, broken, resumed, rolled back. `artisan` is the example's.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{NginxServer, PhpFpmServer, RunnerOutput, TestEnvironment};

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
        let shop = Self { environment, nginx, fpm };
        shop.set("Corner shop", "srv/shared/storage/database.json");
        shop
    }

    /// Writes the settings of the machine.
    fn set(&self, name: &str, database: &str) {
        let database = self.environment.path(database).display().to_string();
        self.environment.write("srv/shared/.env", format!("APP_NAME=\"{name}\"\nDB_DATABASE={database}\n"));
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
