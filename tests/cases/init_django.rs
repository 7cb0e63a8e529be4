//! The template `django`, with a real package index, supervisord and nginx: deployed, broken, resumed, rolled back.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use crate::support::{NginxServer, PypiAuth, PypiServer, RunnerOutput, SupervisordServer, TestEnvironment};

/// The folder of the application.
const PROJECT: &str = "project/shop";
/// Begins to write to the database of its argument, and waits.
const WRITER: &str = "
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('BEGIN IMMEDIATE')
print('it writes', flush=True)
sys.stdin.read()
";

/// The template, with the folders and servers of a test.
struct DjangoSite {
    environment: TestEnvironment,
    nginx: NginxServer,
    supervisord: SupervisordServer,
    _index: PypiServer,
}

impl DjangoSite {
    fn new() -> Self {
        let environment = TestEnvironment::new();
        fs::create_dir_all(environment.path(PROJECT)).unwrap();
        environment.run_in(PROJECT, &["init", "--template", "django"]).assert_exit(0);
        let index = PypiServer::start(PypiAuth::Anonymous);
        let supervisord = SupervisordServer::new();
        let root = environment.path("srv").display().to_string();
        let configuration = environment.read(&format!("{PROJECT}/deploy/nginx.conf"));
        let nginx = NginxServer::with_configuration(|port| {
            configuration.replace("/srv/shop", &root).replace("8080", &format!("127.0.0.1:{port}"))
        });
        let plan = environment.read(&format!("{PROJECT}/deploy.yml"));
        let plan = plan
            .replace("/srv/shop", &root)
            .replace("/etc/supervisor/conf.d", &supervisord.path("conf.d").display().to_string())
            .replace("/run/supervisor.sock", &supervisord.path("supervisor.sock").display().to_string())
            .replace("127.0.0.1:8080", &nginx.address())
            .replace("  venv:\n", &format!("  venv:\n    with: {{ index: \"{}\" }}\n", index.url()))
            .replace("        user: deploy\n", "")
            .replace("stay: 2s", "every: 50ms, stay: 300ms");
        environment.write(&format!("{PROJECT}/deploy.yml"), plan);
        environment.write("srv/shared/secret-key", "of this machine\n");
        Self { environment, nginx, supervisord, _index: index }
    }

    fn write(&self, path: &str, text: &str) {
        self.environment.write(&format!("{PROJECT}/{path}"), text);
    }

    /// A migration that adds a greeting.
    fn add_migration(&self, name: &str, greeting: &str) {
        let text = format!(
            "from django.db import migrations\n\n\n\
             def add(apps, schema_editor):\n    apps.get_model('web', 'Greeting').objects.create(text='{greeting}')\n\n\n\
             class Migration(migrations.Migration):\n    dependencies = [('web', '0001_greetings')]\n    \
             operations = [migrations.RunPython(add)]\n"
        );
        self.write(&format!("web/migrations/{name}.py"), &text);
    }

    fn build(&self, release: &str) {
        let script = format!("PATH=$(dirname \"$0\"):$PATH\ncd {PROJECT}\nsh build.sh {release}");
        self.environment.run_script(&script).assert_exit(0);
    }

    fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.run_in(PROJECT, &["--local", "--release", release, "--json"])
    }

    /// What a visitor gets.
    fn get(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(self.nginx.address()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The greeting at `/`, which is a whole page.
    #[track_caller]
    fn assert_greeting(&self, expected: &str) {
        let answer = self.get("/");
        assert!(answer.contains(&format!("<p>{expected}\n")), "{answer}");
    }

    /// Where the page of now has its style.
    fn style(&self) -> String {
        let page = self.get("/");
        page.split_once("href=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    }

    /// Somebody who writes to the database until its standard input ends.
    fn writer(&self) -> Child {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", WRITER]).arg(self.environment.path("srv/shared/database/db.sqlite3"));
        let mut writer = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "it writes\n");
        writer
    }
}

#[test]
fn django_template_is_deployed_broken_resumed_and_rolled_back() {
    let site = DjangoSite::new();
    site.build("r1");
    site.deploy("r1").assert_exit(0);
    site.assert_greeting("Hello from shop, release r1");
    let style = site.style();
    assert!(site.get(&style).contains("sans-serif"), "nginx serves {style}");

    // Somebody keeps the database busy while the second release wants to upgrade it.
    site.add_migration("0002_welcome", "Welcome to shop");
    site.write("web/static/web/style.css", "p { font-family: serif }\n");
    site.build("r2");
    let mut writer = site.writer();
    let failed = site.deploy("r2");
    failed.assert_exit(1).assert_stderr_contains("step `migrate` failed");
    let logs = site.environment.run_in(PROJECT, &["logs"]);
    assert!(logs.stdout.contains("database is locked"), "{}", logs.stdout);
    site.assert_greeting("Hello from shop, release r1");
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    let resumed = site.deploy("r2");
    resumed.assert_exit(0);
    assert_eq!(
        resumed.decisions()[..5],
        ["pull skip held", "venv skip held", "pending skip trusted", "static skip held", "migrate run failed-before"]
    );
    site.assert_greeting("Welcome to shop, release r2");
    // A page that a visitor has got from r1 still finds its style.
    assert!(site.style() != style && site.get(&style).contains("sans-serif"), "{style}");
    assert!(site.get(&site.style()).contains("{ font-family: serif }"), "{}", site.style());

    // A release whose migrations contradict each other ends before anything is changed.
    site.add_migration("0002_other", "Good morning");
    site.build("r3");
    site.deploy("r3").assert_exit(1).assert_stderr_contains("Conflicting migrations detected");
    site.assert_greeting("Welcome to shop, release r2");

    // On the way back nothing is started, and the database stays as it is.
    let programs = site.supervisord.programs();
    assert_eq!(programs.len(), 2, "{programs:?}");
    site.environment.run_in(PROJECT, &["rollback", "--local", "--json"]).assert_exit(0);
    site.assert_greeting("Welcome to shop, release r1");
    assert_eq!(site.supervisord.programs(), programs);
}
