//! The template `java`, with a real JDK, supervisord and nginx: a release goes from dev to prod, and one that answers a visitor of prod
//! differently stays in pre.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{
    NginxServer, RunnerOutput, SupervisordServer, TestEnvironment, doc_blocks::fenced_block, free_ports, wait_until,
};

/// The folder of the application.
const PROJECT: &str = "project/shop";
/// The environments with the port of each in the template.
const ENVIRONMENTS: [(&str, &str); 4] = [("dev", "8080"), ("test", "8081"), ("pre", "8082"), ("prod", "8083")];
/// The ports of their slots.
const SLOTS: [&str; 8] = ["8001", "8002", "8011", "8012", "8021", "8022", "8031", "8032"];

/// The template, with the folders, ports and servers of a test.
struct JavaShop {
    environment: TestEnvironment,
    /// The port of each environment.
    ports: [u16; 4],
    supervisord: SupervisordServer,
    _nginx: NginxServer,
}

impl JavaShop {
    fn new() -> Self {
        let environment = TestEnvironment::new();
        for folder in [PROJECT, "log"] {
            fs::create_dir_all(environment.path(folder)).unwrap();
        }
        environment.run_in(PROJECT, &["init", "--template", "java"]).assert_exit(0);
        let supervisord = SupervisordServer::new();
        let free: [u16; 12] = free_ports();
        let known = ENVIRONMENTS.map(|(_, port)| port).into_iter().chain(SLOTS);
        let replaced = |text: &str| {
            let mut text = text
                .replace("/srv/shop", &environment.path("srv").display().to_string())
                .replace("/var/lib/pawl", &environment.path("state").display().to_string())
                .replace("/var/log/nginx", &environment.path("log").display().to_string())
                .replace("/etc/nginx/snippets/shop.conf", &environment.path("location.conf").display().to_string())
                .replace("/etc/supervisor/conf.d", &supervisord.path("conf.d").display().to_string())
                .replace("/run/supervisor.sock", &supervisord.path("supervisor.sock").display().to_string())
                .replace("        user: deploy\n", "")
                .replace("stay: 2s", "every: 50ms, stay: 300ms");
            // In two rounds, since a free port may contain the digits of another.
            for port in known.clone() {
                text = text.replace(port, &format!("<{port}>"));
            }
            for (port, free) in known.clone().zip(free) {
                text = text.replace(&format!("<{port}>"), &free.to_string());
            }
            text
        };
        let template = |path: &str| replaced(&environment.read(&format!("{PROJECT}/{path}")));
        environment.write("location.conf", template("deploy/nginx-location.conf"));
        let nginx = NginxServer::with_configuration(|port| {
            let own = format!("server {{ listen 127.0.0.1:{port}; }}\n");
            own + &template("deploy/nginx.conf").replace("listen ", "listen 127.0.0.1:")
        });
        environment.write(&format!("{PROJECT}/deploy.yml"), template("deploy.yml"));
        let ports = [0, 1, 2, 3].map(|number| free[number]);
        Self { environment, ports, supervisord, _nginx: nginx }
    }

    /// Types a command in the folder of the application.
    fn shell(&self, command: &str) {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {PROJECT}\n{command}");
        self.environment.run_script(&script).assert_exit(0);
    }

    fn build(&self, release: &str) {
        self.shell(&format!("sh build.sh {release}"));
    }

    fn run(&self, arguments: &[&str]) -> RunnerOutput {
        self.environment.run_in(PROJECT, &[arguments, &["--local", "--json"]].concat())
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.run(&["deploy", "--env", "dev", "--release", release])
    }

    fn promote(&self, from: &str, to: &str) -> RunnerOutput {
        self.run(&["promote", "--from", from, "--to", to])
    }

    /// What a visitor of an environment gets.
    fn get(&self, environment: usize, path: &str) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.ports[environment])).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Which release each environment shows.
    fn releases(&self) -> [String; 4] {
        [0, 1, 2, 3].map(|environment| {
            let answer = self.get(environment, "/health");
            answer.split("\"release\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        })
    }
}

#[test]
fn java_template_is_promoted_stopped_by_a_real_request_resumed_and_rolled_back() {
    let shop = JavaShop::new();
    for command in fenced_block("docs/init.md", "# As deploy, for java").lines() {
        shop.shell(command);
    }
    assert_eq!(shop.releases(), ["1.0"; 4]);
    assert!(shop.get(3, "/price?3").ends_with("{\"price\": 750}\n"));

    // From three articles on, the next release counts one too few. Nobody has asked for that in dev and test.
    let server = format!("{PROJECT}/src/web/Server.java");
    let good = shop.environment.read(&server);
    shop.environment.edit(&server, "articles * 250", "(articles < 3 ? articles : articles - 1) * 250");
    shop.build("1.1");
    shop.deploy("1.1").assert_exit(0);
    shop.promote("dev", "pre").assert_exit(2).assert_stderr_contains("P0216");
    shop.promote("dev", "test").assert_exit(0);
    let stopped = shop.promote("test", "pre");
    stopped
        .assert_exit(1)
        .assert_stderr_contains("step `try` failed")
        .assert_stderr_contains("1 of 3 requests out of requests/shop-prod.log differs");
    assert_eq!(shop.releases(), ["1.1", "1.1", "1.0", "1.0"]);
    assert_eq!(shop.supervisord.programs().iter().filter(|program| program.contains("-pre-")).count(), 1);
    shop.promote("test", "prod").assert_exit(2).assert_stderr_contains("P0216");

    // The corrected one goes on where it failed, for another reason: the log was just rotated.
    shop.environment.write(&server, good);
    shop.build("1.2");
    shop.deploy("1.2").assert_exit(0);
    shop.promote("dev", "test").assert_exit(0);
    let log = shop.environment.path("log/shop-prod.log");
    let rotated = shop.environment.path("log/shop-prod.log.1");
    fs::rename(&log, &rotated).unwrap();
    fs::write(&log, "").unwrap();
    shop.promote("test", "pre").assert_exit(1).assert_stderr_contains("has no GET or HEAD request");
    fs::rename(&rotated, &log).unwrap();
    let resumed = shop.promote("test", "pre");
    resumed.assert_exit(0);
    assert_eq!(resumed.decisions()[0], "pull skip held");
    shop.promote("pre", "prod").assert_exit(0);
    assert_eq!(shop.releases(), ["1.2"; 4]);

    // The slot before still runs. Supervisord calls a program so a second after its start.
    let are_running = || shop.supervisord.programs().iter().all(|program| program.ends_with(" RUNNING"));
    wait_until("every program runs", are_running);
    let programs = shop.supervisord.programs();
    shop.run(&["rollback", "--env", "prod"]).assert_exit(0);
    assert_eq!(shop.releases(), ["1.2", "1.2", "1.2", "1.0"]);
    assert_eq!(shop.supervisord.programs(), programs);
}
