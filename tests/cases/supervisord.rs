//! Releases that start below a real supervisord, beside the one that serves: ready, never ready, killed, and under load.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    ConstantTraffic, NginxServer, RunnerOutput, SshHost, SupervisordServer, TestEnvironment, TrafficRate,
    doc_blocks::fenced_block, wait_until, write_ssh_config,
};

mod ports;

pub(super) use ports::SQUATTER;

const PAGE: &str = "docs/supervisord.md";

/// Serves its release at the socket or port that it is given. The file `behavior` of the release says what goes wrong.
pub(super) const SERVER: &str = r#"import http.server, os, socketserver, sys, time
here = os.path.dirname(os.path.abspath(__file__))
release = open(here + "/VERSION").read().strip()
behavior = open(here + "/behavior").read().strip()
began = time.time()
print("release", release, "begins", flush=True)
if behavior == "exits":
    print("the database is not to be found", flush=True)
    sys.exit(3)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        sick = behavior == "never" or behavior == "falls-ill" and time.time() - began > 0.5
        body = ("no connection to the database" if sick else release + " " + os.environ.get("DB_PASSWORD", "")[:3]).encode()
        self.send_response(503 if sick else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()
    def address_string(self):
        return "-"
    def log_message(self, *arguments):
        pass

class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

at = sys.argv[1]
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(at)), Handler) if at.isdigit() else UnixServer(at, Handler)
if behavior == "ends":
    import threading
    threading.Timer(0.6, lambda: (print("out of memory", flush=True), os._exit(9))).start()
server.serve_forever()
"#;

/// The plan of the page, with the folders and addresses of a test, a supervisord, and perhaps nginx as the page configures it.
pub(super) struct SupervisedSite {
    pub(super) environment: TestEnvironment,
    supervisord: SupervisordServer,
    pub(super) nginx: NginxServer,
}

fn world() -> SupervisedSite {
    let mut world = SupervisedSite::of_page(PAGE);
    world.environment.set_variable("DB_PASSWORD", "correct-horse-battery");
    world.pack("r1", "works");
    world
}
impl SupervisedSite {
    /// The plan of a page.
    pub(super) fn of_page(page: &str) -> Self {
        let environment = TestEnvironment::with_plan(&fenced_block(page, "version: 1"));
        let (supervisord, root) = (SupervisordServer::new(), environment.path("srv").display().to_string());
        let nginx = NginxServer::with_configuration(|port| {
            let lines = fenced_block(PAGE, "upstream shop_a");
            lines.replace("/srv/shop", &root).replace("127.0.0.1:8080", &format!("127.0.0.1:{port}"))
        });
        let conf = supervisord.path("conf.d").display().to_string();
        let socket = supervisord.path("supervisor.sock").display().to_string();
        for (from, to) in [
            ("/srv/shop", root.as_str()),
            ("/etc/supervisor/conf.d", &conf),
            ("/run/supervisor.sock", &socket),
            ("127.0.0.1:8080", &nginx.address()),
            // The default times are for real programs.
            ("/health\" }] }", "/health\" }], every: 50ms, within: 3s, stay: 300ms }"),
        ] {
            assert!(environment.read("deploy.yml").contains(from), "{from}");
            environment.write("deploy.yml", environment.read("deploy.yml").replace(from, to));
        }
        Self { environment, supervisord, nginx }
    }

    pub(super) fn pack(&self, release: &str, behavior: &str) {
        self.pack_server(SERVER, release, behavior);
    }

    pub(super) fn pack_server(&self, server: &str, release: &str, behavior: &str) {
        self.environment.write("app/serve.py", server);
        self.environment.write("app/VERSION", "@VERSION@\n");
        self.environment.write("app/behavior", behavior);
        self.environment.pack(release);
    }

    pub(super) fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.deploy(release, &[])
    }

    /// The block of a page with the hook that stops the old program.
    pub(super) fn hook_of_page(&self, page: &str) -> String {
        let path = |name: &str| self.supervisord_path(name).display().to_string();
        let hook = fenced_block(page, "stop: previous");
        hook.replace("/etc/supervisor/conf.d", &path("conf.d"))
            .replace("/run/supervisor.sock", &path("supervisor.sock"))
    }

    /// A path in supervisord's folder.
    pub(super) fn supervisord_path(&self, name: &str) -> PathBuf {
        self.supervisord.path(name)
    }

    /// What a visitor gets.
    pub(super) fn answer(&self) -> String {
        let mut connection = TcpStream::connect(self.nginx.address()).unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().to_owned()
    }

    /// The programs of supervisord, without the digests at their ends, and the files of their configuration.
    pub(super) fn running(&self) -> (Vec<String>, Vec<String>) {
        // What answers has started, but supervisord says so after a second only.
        wait_until("supervisord trusts the programs", || {
            !self.supervisord.programs().iter().any(|program| program.ends_with(" STARTING"))
        });
        let mut programs = self.supervisord.programs();
        for program in &mut programs {
            let (name, state) = program.split_once(' ').unwrap();
            *program = format!("{} {state}", name.rsplit_once('-').unwrap().0);
        }
        (programs, self.supervisord.configured())
    }

    /// Each program runs once, and nothing else of the application does.
    pub(super) fn assert_no_orphans(&self) {
        let script = format!("{}/", self.environment.path("srv").display());
        let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with("/usr/bin/python3\0") && line.contains(&script)
        });
        assert_eq!(processes.count(), self.supervisord.programs().len());
    }
}

pub(super) fn names(slots: &[&str]) -> (Vec<String>, Vec<String>) {
    let of = |before: &str, after: &str| slots.iter().map(|slot| format!("{before}{slot}{after}")).collect();
    (of("shop-default-", " RUNNING"), of("shop-default-", ".conf"))
}

#[test]
fn plan_of_the_page_starts_each_release_beside_the_one_that_serves() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.answer(), "r1 cor", "the program got its secret");
    assert_eq!(world.running(), names(&["a"]));
    let again = world.deploy("r1");
    assert!(again.decisions().iter().any(|decision| decision.starts_with("start skip")), "{:?}", again.decisions());
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.running()), ("r2 cor", names(&["a", "b"])));
    // The old program runs on, so the way back is one rename.
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!(world.answer(), "r1 cor");
    assert_eq!(world.environment.read("srv/slots/a.log").matches("begins").count(), 1, "it was not started again");
    world.pack("r3", "works");
    world.deploy("r3").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.running()), ("r3 cor", names(&["a", "b"])));
    world.assert_no_orphans();
    // The password is in files of its own only.
    let section = fs::read_to_string(world.supervisord.path("conf.d/shop-default-b.conf")).unwrap();
    assert!(!section.contains("correct-horse") && section.contains(".pawl/shop-default-b"), "{section}");
    let found = Command::new("grep").args(["-rl", "correct-horse-battery"]).arg(world.environment.path("")).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "");
}

#[test]
fn release_that_does_not_become_ready_leaves_nothing() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    for (release, behavior, told) in [
        (
            "r2",
            "never",
            vec!["it was not ready within 3s", "expected status 200, found 503 with `no connection to the database`"],
        ),
        ("r3", "exits", vec!["it ended: exit status 3", "the database is not to be found"]),
        ("r4", "falls-ill", vec!["it was ready for", "did not stay so for 800ms", "found 503"]),
        ("r5", "ends", vec!["it ended: exit status 9", "out of memory"]),
    ] {
        world.environment.edit("deploy.yml", "stay: 300ms", "stay: 800ms");
        world.pack(release, behavior);
        let failed = world.deploy(release);
        failed.assert_exit(1).assert_stderr_contains("error[P0301]");
        for told in told {
            failed.assert_stderr_contains(&told.replace("800ms", "0.8s"));
        }
        assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a"])), "{behavior}");
        assert!(!world.environment.exists("srv/slots/b/slot.json"));
        world.environment.edit("deploy.yml", "stay: 800ms", "stay: 300ms");
    }
    world.assert_no_orphans();
    world.pack("r6", "works");
    world.deploy("r6").assert_exit(0);
    assert_eq!(world.answer(), "r6 cor");
}

#[test]
fn what_can_be_known_is_found_in_the_rehearsal() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    let refused = |told: &str| {
        world.deploy("r2").assert_refused_beforehand().assert_stderr_contains(told);
        assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a"])));
    };
    // Something else has the socket of the slot.
    let socket = world.environment.path("srv/slots/b/sock");
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let serving = thread::spawn(move || {
        let (mut connection, _) = other.accept().unwrap();
        let mut request = [0; 1024];
        let _ = connection.read(&mut request);
        connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    });
    refused("something already listens at unix://b/health");
    serving.join().unwrap();
    // Somebody else's file.
    fs::write(world.supervisord.path("conf.d/shop-default-b.conf"), "").unwrap();
    world
        .deploy("r2")
        .assert_refused_beforehand()
        .assert_stderr_contains("`app/slots/b/slot.json` does not, so this step did not write it");
    fs::remove_file(world.supervisord.path("conf.d/shop-default-b.conf")).unwrap();
    // The release has no such program.
    world.environment.edit("deploy.yml", "\"/usr/bin/python3 {release-dir}/serve.py", "\"{release-dir}/bin/serve");
    refused("bin/serve does not exist");
    world.environment.edit("deploy.yml", "\"{release-dir}/bin/serve", "\"/usr/bin/python3 {release-dir}/serve.py");
    world.deploy("r2").assert_exit(0);
    assert_eq!(world.answer(), "r2 cor");
}

#[test]
fn missing_supervisord_is_found_in_the_rehearsal() {
    let world = world();
    let SupervisedSite { environment, supervisord, nginx: _nginx } = world;
    drop(supervisord);
    environment.deploy("r1", &[]).assert_refused_beforehand().assert_stderr_contains("supervisord does not answer");
    assert!(!environment.exists("srv/slots"));
}

#[test]
fn hook_of_the_page_stops_the_old_program() {
    let world = world();
    let plan = world.environment.read("deploy.yml") + &world.hook_of_page(PAGE).replace("drain: 10s", "drain: 100ms");
    world.environment.write("deploy.yml", plan);
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.running()), ("r2 cor", names(&["b"])));
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a"])));
    world.assert_no_orphans();
}

/// After the switch, and, with a step between the two, before it.
#[test]
fn undo_of_the_start_stops_the_program() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.environment.edit("deploy.yml", "contains: \"${{ release }}\" }] }", "contains: r1 }], tries: 1 }");
    world.pack("r2", "works");
    let failed = world.deploy("r2");
    failed.assert_exit(4);
    assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a"])), "{}", failed.stderr);
    assert!(!world.environment.exists("srv/slots/b/slot.json"));
    world.assert_no_orphans();
    let gate = "  gate:\n    program: [/bin/false]\n    trust: host\n    with: { repeatable: true }\n  switch:\n";
    world.environment.edit("deploy.yml", "  switch:\n", gate);
    world.pack("r3", "works");
    let failed = world.deploy("r3");
    failed.assert_exit(1).assert_stderr_contains("hint: `start` is undone");
    assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a"])), "{}", failed.stderr);
    world.assert_no_orphans();
}

/// Two programs of an application: with slots of the first one, the second is refused, and the first is undone.
#[test]
fn second_program_has_slots_of_its_own() {
    let world = world();
    let plan = world.environment.read("deploy.yml");
    let (from, until) = (plan.find("  start:\n").unwrap(), plan.find("  switch:\n").unwrap());
    let worker = plan[from..until].replacen("  start:\n", "  worker:\n", 1);
    let with_worker = |worker: &str| {
        world.environment.write("deploy.yml", format!("{}{worker}{}", &plan[..until], &plan[until..]));
    };
    with_worker(&worker);
    let failed = world.deploy("r1");
    failed.assert_exit(1).assert_stderr_contains("holds what step `start` has started, not `worker`");
    failed.assert_stderr_contains("give each step slots and a link of its own");
    assert_eq!(world.running(), names(&[]));
    let own = worker
        .replace(
            "      socket: sup\n",
            "      socket: sup\n      link: worker\n      slots: { worker-a: {}, worker-b: {} }\n",
        )
        .replace("        a: ", "        worker-a: ")
        .replace("        b: ", "        worker-b: ")
        .replace("/slots/a/", "/slots/worker-a/")
        .replace("/slots/b/", "/slots/worker-b/");
    with_worker(&own);
    world.deploy("r1").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.running()), ("r1 cor", names(&["a", "worker-a"])));
}

/// The step watches a link that nobody moves, so that it can't tell which program serves.
#[test]
fn program_that_may_serve_is_never_stopped() {
    let world = world();
    world.environment.edit("deploy.yml", "      socket: sup\n", "      socket: sup\n      link: moved-by-nobody\n");
    for release in ["r1", "r2"] {
        world.pack(release, "works");
        world.deploy(release).assert_exit(0);
    }
    let serving = (world.answer(), world.running());
    world.pack("r3", "works");
    let refused = world.deploy("r3");
    refused.assert_refused_beforehand().assert_stderr_contains("`app/moved-by-nobody` leads to no slot");
    refused.assert_stderr_contains("let `link` name the link that the step `switch` moves");
    assert_eq!((world.answer(), world.running()), serving);
    assert_eq!(serving, ("r2 cor".to_owned(), names(&["a", "b"])));
}

#[test]
fn changed_secret_starts_beside_the_old_one() {
    let mut world = world();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        // Only root can give a program to another user.
        for folder in [world.environment.path("").parent().unwrap().to_owned(), world.supervisord.path("")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        world.environment.edit("deploy.yml", "        secrets: [DB", "        user: nobody\n        secrets: [DB");
    }
    world.deploy("r1").assert_exit(0);
    world.environment.set_variable("DB_PASSWORD", "staple 'n' 100% \"; #\nmore");
    world.deploy("r1").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.running()), ("r1 sta", names(&["a", "b"])));
    let owner = fs::metadata(world.environment.path("srv/slots/b/sock")).unwrap().uid();
    assert!(owner != 0, "the program has a user of its own");
    let again = world.deploy("r1");
    assert!(again.decisions().iter().any(|decision| decision.starts_with("start skip")), "{:?}", again.decisions());
}

/// Moments at which the runner is killed, in milliseconds after its start: `(n * step) % range` of a fixed seed.
fn moments(count: u64, range: u64) -> impl Iterator<Item = Duration> {
    (1..=count).map(move |n| Duration::from_millis(50 + n * 7919 % range))
}

#[test]
fn killed_deployment_is_finished_by_the_next() {
    let world = world();
    let began = Instant::now();
    world.deploy("r1").assert_exit(0);
    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
    let mut live = "r1".to_owned();
    for (index, moment) in moments(6, took).enumerate() {
        let release = format!("r{}", index + 2);
        world.pack(&release, "works");
        let began = Instant::now();
        let mut killed = world.environment.start(&["--local", "--release", &release]);
        wait_until("the moment", || began.elapsed() >= moment || killed.try_wait().unwrap().is_some());
        let _ = killed.kill();
        killed.wait().unwrap();
        assert!([&live, &release].iter().any(|label| world.answer() == format!("{label} cor")));
        world.deploy(&release).assert_exit(0);
        assert_eq!(world.answer(), format!("{release} cor"), "killed after {moment:?}");
        assert_eq!(world.running(), names(&["a", "b"]), "killed after {moment:?}");
        world.assert_no_orphans();
        live = release;
    }
}

#[test]
fn no_request_is_lost_in_ten_switches() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    let rate = TrafficRate { clients: 1, pause: Duration::from_millis(1) };
    let mut traffic = ConstantTraffic::start(&world.nginx.address(), rate, "r1 cor");
    for switch in 0..10 {
        let release = ["r2", "r1"][switch % 2];
        traffic.move_to(&format!("{release} cor"), || world.deploy(release)).assert_exit(0);
    }
    traffic.stop().assert_complete(400);
}

#[test]
fn release_starts_on_a_host_by_its_agent() {
    let (host, supervisord) = (SshHost::new(), SupervisordServer::new());
    let environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}", dist: "./dist:ro" }}
environments:
  prod:
    ssh: {{ config: ./ssh_config }}
    hosts: {{ web: [{{ at: "{}", name: web-1, vars: {{ root: {} }} }}] }}
steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  start:
    on: web
    uses: supervisord
    trust: host
    with:
      socket: sup
      conf: conf
      program: {{ command: [/usr/bin/python3, "{{release-dir}}/serve.py", "{{slot-dir}}/sock"], env: {{ DB_PASSWORD: "100% ; #" }} }}
      ready: {{ http: [{{ url: "unix://{{slot}}/health" }}], every: 50ms, within: 3s, stay: 100ms }}
    grants:
      dirs: [app]
      renders: {{ conf: {} }}
      sockets: {{ sup: "unix:{}", a: "unix:{}", b: "unix:{}" }}
  switch: {{ on: web, with: {{ link: live, to: "${{{{ steps.start.to }}}}" }}, grants: {{ dirs: [app] }} }}
"#,
        host.address(),
        host.path("srv").display(),
        supervisord.path("conf.d").display(),
        supervisord.path("supervisor.sock").display(),
        host.path("srv/slots/a/sock").display(),
        host.path("srv/slots/b/sock").display(),
    ));
    write_ssh_config(&environment.path(""), &[&host]);
    fs::create_dir(host.path("srv")).unwrap();
    environment.write("app/serve.py", SERVER);
    environment.write("app/VERSION", "@VERSION@\n");
    for (release, behavior, slot, exit) in [("r1", "works", "a", 0), ("r2", "works", "b", 0), ("r3", "exits", "b", 1)] {
        environment.write("app/behavior", behavior);
        environment.pack(release);
        environment.deploy(release, &[]).assert_exit(exit);
        assert_eq!(fs::read_link(host.path("srv/live")).unwrap(), Path::new("slots").join(slot));
    }
    assert_eq!(supervisord.programs().len(), 1, "r3 took the place of r1");
    let mut program = UnixStream::connect(host.path("srv/slots/b/sock")).unwrap();
    program.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    program.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\nr2 100"), "{answer}");
}
