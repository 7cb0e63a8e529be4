//! A first afternoon on real parts: PostgreSQL, supervisor and nginx, two environments. After each command, what `status` says is what
//! the port answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    migration_fixture::{MigrationFixture, wait_until},
    ports::free_ports,
    server::{TestDatabase, TestDbEngine},
};

/// The application: it reads its release when it starts, and says which one that is.
const APPLICATION: &str = r#"import http.server, sys
release = open("VERSION").read().strip()
status = 500 if release.endswith("-broken") else 200
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"Release {release}\n".encode())
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Two environments behind one nginx, with their processes under one supervisor.
struct Afternoon {
    shop: MigrationFixture,
    /// The ports of nginx, which users see.
    ports: [u16; 2],
    servers: Vec<Child>,
}

fn start(program: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask setup`"))
}

impl Afternoon {
    fn new(databases: &[TestDatabase; 2]) -> Self {
        let shop = MigrationFixture::new(&databases[0], "");
        let (ports, inner): ([u16; 2], [u16; 2]) = (free_ports(), free_ports());
        for folder in ["app", "dist", "deploy/test", "deploy/prod", "ops"] {
            fs::create_dir_all(shop.path(folder)).unwrap();
        }
        let mut afternoon = Self { shop, ports, servers: Vec::new() };
        afternoon.shop.write("deploy.yml", afternoon.plan(databases));
        afternoon.shop.write("app/serve.py", APPLICATION);
        afternoon.shop.write_migration("0001_orders.sql", "CREATE TABLE orders (id bigint PRIMARY KEY);\n");
        afternoon.start_supervisor(inner);
        afternoon.start_nginx(inner);
        afternoon
    }

    fn plan(&self, databases: &[TestDatabase; 2]) -> String {
        let url = databases[0].url().replace(&databases[0].name, "${{ vars.database }}");
        let [test, prod] = databases.each_ref().map(|database| &database.name);
        let [test_port, prod_port] = self.ports;
        let control = self.shop.path("ops/supervisord.conf").display().to_string();
        format!(
            r#"version: 1
app: shop
state: "dir:${{{{ env.STATE }}}}"
secrets: {{ PASSWORD: env:PASSWORD }}
dirs: {{ app: "${{{{ vars.root }}}}", dist: "./dist:ro", migrations: "./migrations:ro" }}
on-failure: rollback
environments:
  test: {{ vars: {{ root: ./deploy/test, database: "{test}", port: {test_port}, name: test }} }}
  prod: {{ after: test, vars: {{ root: ./deploy/prod, database: "{prod}", port: {prod_port}, name: prod }} }}
steps:
  pull:
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.gz", into: app }}
    grants: {{ dirs: [app, dist] }}
  migrate:
    with: {{ dir: migrations, database: main }}
    grants: {{ dirs: [migrations], databases: {{ main: "{url}" }} }}
  switch:
    with: {{ link: current }}
    grants: {{ dirs: [app] }}
  restart:
    program: [supervisorctl, -c, "{control}", restart, "${{{{ vars.name }}}}"]
    trust: host
    with: {{ repeatable: true }}
  verify:
    with: {{ http: [{{ url: "http://127.0.0.1:${{{{ vars.port }}}}/", contains: "Release ${{{{ release }}}}" }}], tries: 8, interval: 250ms }}
"#
        )
    }

    fn start_supervisor(&mut self, inner: [u16; 2]) {
        let ops = self.shop.path("ops");
        let root = ops.display();
        let program = |name: &str, port: u16| {
            let current = self.shop.path(&format!("deploy/{name}/current"));
            format!(
                "[program:{name}]\ncommand=/usr/bin/python3 serve.py {port}\ndirectory={}\nautostart=false\nstartsecs=0\n\
                 stdout_logfile=NONE\nstderr_logfile=NONE\n",
                current.display()
            )
        };
        let configuration = format!(
            "[unix_http_server]\nfile={root}/control.sock\n[supervisord]\nnodaemon=true\nuser=root\nlogfile={root}/supervisord.log\n\
             pidfile={root}/supervisord.pid\nchildlogdir={root}\n[rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{root}/control.sock\n{}{}",
            program("test", inner[0]),
            program("prod", inner[1]),
        );
        fs::write(ops.join("supervisord.conf"), configuration).unwrap();
        self.servers.push(start("/usr/bin/supervisord", &["-c", &ops.join("supervisord.conf").display().to_string()]));
        wait_until("supervisor answers", || ops.join("control.sock").exists());
    }

    fn start_nginx(&mut self, inner: [u16; 2]) {
        let ops = self.shop.path("ops");
        let root = ops.display();
        let server = |index: usize| {
            format!(
                "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://127.0.0.1:{}; }} }}\n",
                self.ports[index], inner[index]
            )
        };
        let configuration = format!(
            "daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/nginx.log;\n\
             events {{ worker_connections 64; }}\nhttp {{ access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2;\n\
             fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;\n{}{} }}\n",
            server(0),
            server(1)
        );
        fs::write(ops.join("nginx.conf"), configuration).unwrap();
        let arguments =
            ["-c", &ops.join("nginx.conf").display().to_string(), "-e", &ops.join("nginx.log").display().to_string()];
        self.servers
            .push(start(if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }, &arguments));
        wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", self.ports[0])).is_ok());
    }

    /// Builds a release; its archive has a name of its own.
    fn pack(&self, label: &str) {
        self.shop.write("app/VERSION", label);
        let archive = self.shop.path(&format!("dist/shop-{label}.tar.gz"));
        let packed =
            Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(self.shop.path("app")).arg(".").status();
        assert!(packed.unwrap().success());
    }

    /// What users get: the status and the text.
    fn answer(&self, environment: usize) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[environment])).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        format!("{} {}", head.split(' ').nth(1).unwrap(), body.trim())
    }

    /// Asserts that this release is live and verified by `status`, and that the port answers with it.
    #[track_caller]
    fn assert_live(&self, environment: usize, label: &str) {
        let name = ["test", "prod"][environment];
        let status = self.shop.run(&["status", "--env", name, "--json"]).assert_exit(0).text;
        let status: Value = serde_json::from_str(status.lines().next().unwrap()).unwrap();
        let live = &status[0]["live"];
        assert_eq!(
            (live["release"]["label"].as_str(), live["verified"].as_bool(), self.answer(environment).as_str()),
            (Some(label), Some(true), format!("200 Release {label}").as_str()),
            "{status}"
        );
    }

    fn deploy(&self, label: &str) -> crate::migration_fixture::ProcessOutput {
        self.shop.run(&["--local", "--env", "test", "--release", label])
    }
}

impl Drop for Afternoon {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It ends the processes under it.
            if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(server.id()).unwrap_or_default()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = server.wait();
        }
    }
}

#[test]
fn what_status_says_is_what_the_port_answers() {
    let databases = [TestDatabase::new(TestDbEngine::Postgres), TestDatabase::new(TestDbEngine::Postgres)];
    let afternoon = Afternoon::new(&databases);
    afternoon.pack("r1");
    afternoon.deploy("r1").assert_exit(0);
    afternoon.assert_live(0, "r1");

    // A broken migration: users keep r1; mended, it goes on.
    afternoon.pack("r2");
    afternoon.shop.write_migration("0002_prices.sql", "ALTER TABLE ordr ADD price bigint;\n");
    afternoon.deploy("r2").assert_exit(1).assert_contains("0002_prices.sql:1");
    afternoon.assert_live(0, "r1");
    afternoon.shop.write_migration("0002_prices.sql", "ALTER TABLE orders ADD price bigint;\n");
    afternoon.deploy("r2").assert_exit(0).assert_contains("skip   pull");
    afternoon.assert_live(0, "r2");

    // A check that fails: the release before is live again, in its own process.
    afternoon.pack("r3-broken");
    afternoon.deploy("r3-broken").assert_exit(4).assert_contains("r2 is live again");
    afternoon.assert_live(0, "r2");

    // By hand, with a database that is ahead.
    afternoon.shop.run(&["rollback", "--local", "--env", "test"]).assert_exit(0);
    afternoon.assert_live(0, "r1");
    afternoon.deploy("r2").assert_exit(0);
    afternoon.assert_live(0, "r2");

    let promote = || afternoon.shop.run(&["promote", "--local", "--from", "test", "--to", "prod"]);
    afternoon.shop.write_migration("0003_untested.sql", "DROP TABLE orders;\n");
    promote().assert_exit(2).assert_contains("error[P0250]");
    fs::remove_file(afternoon.shop.path("migrations/0003_untested.sql")).unwrap();
    promote().assert_exit(0);
    afternoon.assert_live(1, "r2");
    afternoon.assert_live(0, "r2");
}
