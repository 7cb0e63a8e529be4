//! `verify` with `sample` and `bake`: requests out of a real nginx's log, and at a pace, to a release beside the live one.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::supervisord::{SupervisedSite, names};
use crate::support::{NginxServer, RunnerOutput, TestEnvironment, doc_blocks::fenced_block};

const PAGE: &str = "docs/verify.md";

/// A shop. The file `behavior` of the release says what goes wrong.
const SERVER: &str = r#"import http.server, json, os, socketserver, sys, time
here = os.path.dirname(os.path.abspath(__file__))
release = open(here + "/VERSION").read().strip()
behavior = open(here + "/behavior").read().strip()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        path = self.path.split("?")[0]
        if behavior == "breaks-cart" and path == "/cart":
            return 500, "no such basket"
        if os.path.exists(here + "/ill") and path in ("/cart", "/health"):
            return 503, "no connection to the database"
        # So slow that what else this machine does hardly counts.
        if path == "/health":
            time.sleep(1.0 if behavior == "slow-health" else 0.2)
        if behavior == "slow-home" and path == "/":
            time.sleep(0.06)
        pages = {"/": "welcome", "/cart": "empty", "/health": "ok", "/version": release}
        if path == "/api":
            return 200, json.dumps({"release": release, "query": self.path})
        return (200, pages[path]) if path in pages else (404, "no such page")
    def do_HEAD(self):
        self.do_GET()
    def do_GET(self):
        status, text = self.answer()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())
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

UnixServer(sys.argv[1], Handler).serve_forever()
"#;

/// Sends a request; returns the status and the body.
fn visit(address: &str, method: &str, target: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).unwrap();
    let body = if method == "POST" { "content-length: 1\r\n\r\nx" } else { "\r\n" };
    write!(connection, "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{body}").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

/// The plan of the page, with short times.
fn world() -> SupervisedSite {
    let world = SupervisedSite::of_page(PAGE);
    let log = world.nginx.path("").display().to_string();
    for (from, to) in [
        ("/var/log/nginx:ro", format!("{log}:ro")),
        ("for: 20s", "for: 1s".into()),
        ("ratio: 2", "ratio: 2.5".into()),
        ("for: 60s", "for: 1s".into()),
    ] {
        world.environment.edit("deploy.yml", from, &to);
    }
    world
}

#[test]
fn plan_of_the_page_tries_each_release_with_real_requests() {
    let world = world();
    let address = world.nginx.address();
    let version = || visit(&address, "GET", "/version").1;
    let deploy = |release: &str, behavior: &str| {
        world.pack_server(SERVER, release, behavior);
        world.deploy(release)
    };
    let notes = |output: &RunnerOutput, step: &str| {
        let is_outcome = |event: &serde_json::Value| event["type"] == "outcome" && event["step"] == step;
        let mut events = output.json_lines().into_iter().map(|line| line["event"].clone());
        events.rfind(is_outcome).unwrap()["receipt"]["notes"].clone()
    };
    // Nothing is live yet: the new release is measured alone.
    let first = deploy("r1", "works");
    first.assert_exit(0);
    assert!(first.stdout.contains("no release is live yet, so there is nothing to compare with"), "{}", first.stdout);
    let tried = notes(&first, "try");
    assert!(tried["sampled"] == 0 && tried["baked"].as_u64() > Some(0) && tried["live_p99_ms"].is_null(), "{tried}");
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/cart"),
        ("HEAD", "/"),
        ("POST", "/order"),
        ("GET", "/api?a=b"),
        ("GET", "/missing"),
        ("GET", "/logout"),
    ] {
        visit(&address, method, target);
    }
    // What differs in each release is not compared.
    let second = deploy("r2", "works");
    second.assert_exit(0);
    let tried = notes(&second, "try");
    assert_eq!(
        (&tried["sampled"], &tried["differing"], &tried["errors"]),
        (&5.into(), &0.into(), &0.into()),
        "{tried}"
    );
    assert!(tried["baked"].as_u64() > Some(0) && tried["live_p99_ms"].is_number(), "{tried}");
    assert_eq!(version(), "r2");

    // What users would have seen is found before they do, and nothing is left of it.
    for (release, behavior, told) in [
        ("r3", "breaks-cart", "GET /cart: status 500 with `no such basket`, live status 200"),
        ("r4", "slow-health", "more than `ratio: 2.5` allows"),
    ] {
        let failed = deploy(release, behavior);
        failed.assert_exit(1).assert_stderr_contains(told).assert_stderr_contains("hint: `start` is undone");
        assert_eq!((version().as_str(), world.running()), ("r2", names(&["b"])));
    }
    // And what is found after the switch: back, and stopped.
    world.environment.edit("deploy.yml", "p99: 300ms", "p99: 50ms");
    let failed = deploy("r5", "slow-home");
    failed.assert_exit(4).assert_stderr_contains("allows").assert_stderr_contains("r2 is live again");
    assert_eq!((version().as_str(), world.running()), ("r2", names(&["b"])));
    world.assert_no_orphans();
    world.environment.edit("deploy.yml", "p99: 50ms", "p99: 300ms");
    // What is live falls ill: that does not hold up the release that repairs it.
    let live = world.environment.list("srv/releases").into_iter().find(|folder| folder.starts_with("r2-")).unwrap();
    world.environment.write(&format!("srv/releases/{live}/ill"), "");
    assert_eq!(visit(&address, "GET", "/cart").0, "503");
    let repaired = deploy("r6", "works");
    repaired.assert_exit(0);
    let tried = notes(&repaired, "try");
    assert!(tried["live_errors"].as_u64() > Some(0) && tried["live_p99_ms"].is_null(), "{tried}");
    assert_eq!(version(), "r6");
    // The old program still runs, so the way back is one rename, and the check after it.
    fs::remove_file(world.environment.path(format!("srv/releases/{live}/ill"))).unwrap();
    let back = world.environment.run(&["rollback", "--local", "--json"]);
    back.assert_exit(0);
    assert!(notes(&back, "verify")["baked"].as_u64() > Some(0), "{}", back.stdout);
    assert_eq!(version(), "r2");
}

/// Two servers: what the one has logged, the other is asked.
struct Pages {
    live: NginxServer,
    new: NginxServer,
    log: tempfile::TempDir,
}

fn pages() -> Pages {
    let log = tempfile::tempdir().unwrap();
    let (path, content) = (log.path().display().to_string(), log.path().join("www"));
    fs::create_dir(&content).unwrap();
    for name in ["a.txt", "b.txt"] {
        fs::write(content.join(name), "content\n").unwrap();
    }
    let live = NginxServer::with_configuration(|port| {
        let root = content.display();
        format!(
            "log_format json escape=json '{{\"request\":\"$request\",\"status\":\"$status\"}}';\n\
             server {{ listen 127.0.0.1:{port}; root {root}; access_log {path}/json.log json; access_log {path}/combined.log; }}"
        )
    });
    let new = NginxServer::new(&[("a.txt", b"content\n"), ("b.txt", b"more content\n")]);
    for target in ["/a.txt", "/b.txt?token=hunter2-correct", "/gone.txt"] {
        visit(&live.address(), "GET", target);
    }
    visit(&live.address(), "HEAD", "/b.txt");
    Pages { live, new, log }
}

impl Pages {
    fn verify(&self, with: &str) -> RunnerOutput {
        self.environment(with).run(&["--local", "--release", "r1"])
    }

    fn environment(&self, with: &str) -> TestEnvironment {
        let (live, new) = (format!("http://{}", self.live.address()), format!("http://{}", self.new.address()));
        let plan = format!(
            "version: 1\napp: shop\nsteps:\n  verify:\n    timeout: 1m\n    with: {{ {with} }}\n    grants: {{ dirs: {{ log: \"LOG:ro\" }}, http: [\"LIVE\", \"NEW\"] }}\n"
        );
        let plan =
            plan.replace("LIVE", &live).replace("NEW", &new).replace("LOG", &self.log.path().display().to_string());
        TestEnvironment::with_plan(&plan)
    }
}

#[test]
fn logs_of_both_forms_are_read() {
    let pages = pages();
    for log in ["combined", "json"] {
        let sample = |more: &str| pages.verify(&format!("sample: {{ file: log/{log}.log, against: \"NEW\"{more} }}"));
        // By the status in the log, all is well.
        sample("").assert_exit(0);
    }
    // Before the first release, the log has no requests yet, or only those that nobody could answer.
    let nobody = "127.0.0.1 - - [30/Nov/2026:20:00:00 +0000] \"GET / HTTP/1.1\" 502 157 \"-\" \"curl\"\n";
    for log in ["", nobody] {
        fs::write(pages.log.path().join("new.log"), log).unwrap();
        let first = pages.environment("sample: { file: log/new.log, against: \"NEW\" }").deploy("r1", &[]);
        let told = "no release is live yet, and log/new.log has no request to send again";
        assert!(first.assert_exit(0).stdout.contains(told), "{}", first.stdout);
    }
    fs::remove_file(pages.new.path("www/b.txt")).unwrap();
    let failed = pages.verify("sample: { file: log/json.log, against: \"NEW\" }");
    failed.assert_exit(1).assert_stderr_contains("2 of 4 requests out of log/json.log differ");
    failed.assert_stderr_contains("HEAD /b.txt: status 404, the log has 200; GET /b.txt: status 404");
    assert!(!failed.stderr.contains("hunter2"), "{}", failed.stderr);
    pages.verify("sample: { file: log/json.log, against: \"NEW\", differing: 2 }").assert_exit(0);
    pages.verify("sample: { file: log/json.log, against: \"NEW\", ignore: { paths: [/b] } }").assert_exit(0);
    pages
        .verify("sample: { file: log/www/a.txt, against: \"NEW\" }")
        .assert_exit(1)
        .assert_stderr_contains("`log/www/a.txt` has no GET or HEAD request to send again");
}

#[test]
fn errors_and_slow_answers_end_a_bake() {
    let pages = pages();
    pages.verify("bake: { for: 300ms, every: 50ms, url: \"NEW/a.txt\", p99: 5s }").assert_exit(0);
    let failed = pages.verify("bake: { for: 30s, url: \"NEW/gone.txt?token=hunter2-correct\" }");
    failed.assert_exit(1).assert_stderr_contains("/gone.txt failed within");
    failed.assert_stderr_contains("more than `errors: 0` allows; the last error: status 404");
    assert!(!failed.stderr.contains("token=hunter2"), "{}", failed.stderr);
    pages.verify("bake: { for: 300ms, every: 100ms, url: \"NEW/gone.txt\", errors: 3 }").assert_exit(0);
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    let pages = pages();
    for (with, told) in [
        ("sample: { file: logs/access.log, against: \"NEW\" }", "`logs`"),
        ("sample: { file: log/access.log, against: \"http://127.0.0.1:1\" }", "http://127.0.0.1:1"),
        ("sample: { file: log/access.log, against: \"NEW\", take: 0 }", "0 is too small"),
        ("sample: { file: log/access.log, against: \"NEW\", ignore: { json: [release] } }", "did you mean `/release`?"),
        ("sample: { against: \"NEW\" }", "`file` is missing"),
        ("bake: { for: 60s, url: \"NEW/\" }", "60s is not less than the step's timeout, which is"),
        ("bake: { for: 1s, url: \"NEW/\", ratio: 2 }", "`compare` is missing"),
        ("bake: { for: 1s, url: \"NEW/\", p99: fast }", "`fast`"),
        ("bake: { for: 1s }", "`url` is missing"),
    ] {
        pages.verify(with).assert_exit(2).assert_stderr_contains(told);
    }
}

#[test]
fn command_of_the_page_runs_it_alone() {
    let pages = pages();
    fs::write(pages.log.path().join("www/health"), "ok").unwrap();
    let command = fenced_block(PAGE, "runner step verify").replace("127.0.0.1:8080", &pages.live.address());
    let command =
        command.replace("/var/log/nginx", &pages.log.path().display().to_string()).replace("\"5s\"", "\"500ms\"");
    let command = command.replace("access.log", "combined.log").replace("runner step", "\"$0\" step");
    TestEnvironment::with_plan("").run_script(&command).assert_exit(0);
}
