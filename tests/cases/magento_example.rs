//! The example of an application that is built for long: resumed where it failed or was killed, and its output seen while it runs.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{
    NginxServer, TestEnvironment,
    doc_blocks::{fenced_block, page_path},
};

const PAGE: &str = "examples/magento/README.md";
const FILES: &[&str] = &[
    "deploy.yml",
    "env.php",
    "app/bin/magento",
    "app/composer.json",
    "app/composer.lock",
    "app/pub/release.txt",
    "app/schema-version",
    "app/src/Order.php",
];

/// The example, with the folder and the address of a test, its r1 packed, and nginx as its page configures it.
struct MagentoShop {
    environment: TestEnvironment,
    nginx: NginxServer,
}

fn world() -> MagentoShop {
    let environment = TestEnvironment::with_plan("");
    fs::remove_dir_all(environment.path("app")).unwrap();
    let root = environment.path("srv").display().to_string();
    let nginx = NginxServer::with_configuration(|port| {
        let lines = fenced_block(PAGE, "server {").replace("/srv/shop", &root);
        lines.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
    });
    for file in FILES {
        let text = fs::read_to_string(page_path("examples/magento").join(file)).unwrap();
        environment.write(file, text.replace("/srv/shop", &root).replace("127.0.0.1:8080", &nginx.address()));
    }
    // Each part of the work waits while a file is there, so that a test sees what is said before the work is done.
    let hold = environment.path("hold").display().to_string();
    let wait = format!("while (file_exists('{hold}-' . basename($folder))) usleep(10_000);");
    environment.edit("app/bin/magento", "usleep(100_000);", &wait);
    let world = MagentoShop { environment, nginx };
    world.run_commands_of_the_page(&root);
    world
}

impl MagentoShop {
    /// All but the last one, which deploys.
    fn run_commands_of_the_page(&self, root: &str) {
        let block = fenced_block(PAGE, "mkdir -p /srv/shop").replace("/srv/shop", root);
        let (commands, deploys): (Vec<&str>, Vec<&str>) = block.lines().partition(|line| !line.starts_with("runner "));
        assert_eq!(deploys, ["runner --local --release r1"]);
        for line in commands {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["cargo", "xtask", "pack", release, "--dir", ".", ..] => drop(self.environment.pack(release)),
                _ => drop(self.environment.run_script(line).assert_exit(0)),
            }
        }
    }

    /// What a visitor gets.
    fn answer(&self) -> String {
        let mut connection = TcpStream::connect(self.nginx.address()).unwrap();
        connection.write_all(b"GET /release.txt HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().trim().to_owned()
    }

    /// What was built, in the only release.
    fn built(&self) -> Vec<String> {
        let release = self.environment.list("srv/releases").remove(0);
        let mut names = self.environment.list(&format!("srv/releases/{release}"));
        names.retain(|name| name.starts_with(".built-"));
        let marker = |name: &str| self.environment.read(&format!("srv/releases/{release}/{name}"));
        names.retain(|name| marker(name).contains("\"finished\":true"));
        names
    }
}

#[test]
fn failed_upgrade_is_resumed_and_nothing_is_built_again() {
    let world = world();
    let environment = &world.environment;
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(world.answer(), "r1");
    environment.write("app/schema-version", "2\n");
    environment.pack("r2");
    environment.write("srv/shared/database.locked", "");
    let failed = environment.deploy("r2", &[]);
    failed
        .assert_exit(1)
        .assert_stderr_contains("step `upgrade` failed")
        .assert_stderr_contains("Lock wait timeout exceeded")
        .assert_stderr_contains("(skips: pull, composer, compile, static)");
    assert_eq!(world.answer(), "r1");
    fs::remove_file(environment.path("srv/shared/database.locked")).unwrap();
    let resumed = environment.deploy("r2", &[]);
    resumed.assert_exit(0);
    assert_eq!(
        resumed.decisions()[..5],
        ["pull skip held", "composer skip held", "compile skip held", "static skip held", "upgrade run failed-before"]
    );
    assert_eq!((world.answer().as_str(), environment.read("srv/shared/database").trim()), ("r2", "2"));
    // A release with the same schema: nothing is upgraded.
    environment.write("app/src/Order.php", "<?php\nnamespace Shop;\n\nclass Order {}\n");
    environment.pack("r3");
    let third = environment.run(&["--local", "--release", "r3"]);
    third.assert_exit(0).assert_stderr_contains("skip   upgrade");
    assert_eq!(world.answer(), "r3");
}

#[test]
fn output_is_seen_live_and_a_kill_in_static_is_resumed_there() {
    let world = world();
    let environment = &world.environment;
    let hold = |what: &str| environment.path(format!("hold-{what}"));
    for what in ["code", "frontend"] {
        fs::write(hold(what), "").unwrap();
    }
    let mut killed = environment.start_with_stderr(&["--local", "--release", "r1"]);
    let mut lines = BufReader::new(killed.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut wait_for = |text: &str| assert!(lines.any(|line| line.contains(text)), "{text} was not seen");
    wait_for("compile   Area configuration aggregation: 1/5");
    assert_eq!(world.built(), [".built-composer"], "it is seen while the program runs");
    fs::remove_file(hold("code")).unwrap();
    wait_for("static    frontend/Acme/shop: 1/5");
    assert_eq!(world.built(), [".built-compile", ".built-composer"]);
    killed.kill().unwrap();
    killed.wait().unwrap();
    fs::remove_file(hold("frontend")).unwrap();
    let resumed = environment.deploy("r1", &[]);
    resumed.assert_exit(0);
    assert_eq!(
        resumed.decisions()[..4],
        ["pull skip held", "composer skip held", "compile skip held", "static run interrupted"]
    );
    assert_eq!((world.answer().as_str(), world.built().len()), ("r1", 3));
}
