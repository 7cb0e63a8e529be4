//! Modules that never return, in a loop of their own or in a host call: ended at their deadline, transactions rolled back.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{GuestFixture, GuestOutcome, sha256, wait_until};

/// The time that each of them gets.
const DEADLINE: Duration = Duration::from_millis(200);

/// How much later it ends at the most, on a machine that has time for it. `cargo xtask bench deadlines` asks for it by setting
/// this variable; other runs only see that the call ends.
const MEASURE_OVERRUN: &str = "PAWL_MEASURE_OVERRUN";
const MAX_OVERRUN: Duration = Duration::from_millis(50);

/// A query without end.
const ENDLESS_QUERY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// A replacement that takes for ever, inside a single instruction of SQLite, where no interrupt is seen.
const SLOW_REPLACE_QUERY: &str = "SELECT length(replace(hex(zeroblob(2000000)), hex(zeroblob(1000000)) || '1', ''))";

/// A server that accepts, sends a few bytes of an answer or none, and then nothing.
struct SilentServer(TcpListener);

impl SilentServer {
    fn new(beginning: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let clone = listener.try_clone().unwrap();
        // It ends with the process, and keeps what it accepted until then.
        std::thread::spawn(move || {
            let mut kept: Vec<TcpStream> = Vec::new();
            for mut stream in clone.incoming().flatten() {
                // Who answers before being asked breaks the exchange off.
                if !beginning.is_empty() && stream.read(&mut [0; 4096]).is_ok() {
                    let _ = stream.write_all(beginning);
                }
                kept.push(stream);
            }
        });
        Self(listener)
    }

    fn origin(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

/// Fails unless the step ends by its timeout. Where it is measured, the best of a few tries must end soon after the deadline: an overrun
/// of the sandbox's own is in all of them.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn assert_stopped(with: Value, grants: Value) -> GuestFixture {
    let mut overruns = Vec::new();
    let name = with.to_string();
    for _ in 0..5 {
        let fixture = GuestFixture::new(with.clone(), grants.clone()).with_step_field("timeout", json!("200ms"));
        std::fs::create_dir_all(fixture.environment.path("app")).unwrap();
        fixture.environment.write("app/archive.tar", "no archive");
        let outcome = fixture.run_alone();
        outcome.assert_failure("time-out", "the runner stopped it after its timeout of 200ms");
        assert_eq!(outcome.result, "unknown", "{name}");
        assert!(outcome.hint.contains("`timeout:`"), "{outcome:?}");
        let overrun = outcome.took.saturating_sub(DEADLINE);
        if overrun <= MAX_OVERRUN || std::env::var_os(MEASURE_OVERRUN).is_none() {
            return fixture;
        }
        overruns.push(overrun);
    }
    panic!("{name} outlasts its deadline by {overruns:?}");
}

#[test]
fn loop_and_sleep_stop_at_their_deadline() {
    assert_stopped(json!({ "do": "loop" }), json!({}));
    assert_stopped(json!({ "do": "sleep" }), json!({}));
}

#[test]
fn unresponsive_server_does_not_delay_the_deadline() {
    let silent = SilentServer::new(b"");
    let grants = json!({ "http": [silent.origin()] });
    assert_stopped(json!({ "do": "request", "url": silent.origin() }), grants.clone());
    assert_stopped(json!({ "do": "resolve", "url": silent.origin() + "/a.tar" }), grants);
}

#[test]
fn stalled_download_leaves_no_files() {
    let stalled = SilentServer::new(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nhalf");
    let digest = format!("sha256:{}", sha256(b"whatever"));
    let with =
        json!({ "do": "unpack", "url": stalled.origin() + "/a.tar", "text": digest, "path": "app", "to": "new" });
    let fixture = assert_stopped(with, json!({ "http": [stalled.origin()], "dirs": { "app": "./app" } }));
    assert_eq!(fixture.environment.list("app"), ["archive.tar"]);
}

#[test]
fn sleeping_program_is_killed() {
    let with = json!({ "do": "run", "program": "/bin/sh", "args": ["-c", "echo $$ > pid; sleep 600 & wait"], "path": "app/." });
    let fixture = assert_stopped(with, json!({ "programs": [["/bin/sh", "**"]], "dirs": { "app": "./app" } }));
    let group = fixture.environment.read("app/pid").trim().to_owned();
    wait_until("nothing of the program is left", || processes_in_group(&group).is_empty());
}

/// The processes of a group that have not ended.
fn processes_in_group(group: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    let is_alive = |stat: &String| {
        // State, parent and group come after the name, which may hold anything.
        let words: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        words.get(2) == Some(&group) && !matches!(words[0], "Z" | "X")
    };
    stats.filter(is_alive).collect()
}

#[test]
fn named_pipe_instead_of_a_file_is_rejected() {
    let pipe = |with: Value| {
        let fixture = GuestFixture::new(with, json!({ "dirs": { "app": "./app" } })).with_file("app/x", "");
        let made = std::process::Command::new("mkfifo").arg(fixture.environment.path("app/a.tar")).status().unwrap();
        assert!(made.success());
        fixture.run()
    };
    let digest = format!("sha256:{}", sha256(b"whatever"));
    let unpack = json!({ "do": "unpack", "url": "file:app/a.tar", "text": digest, "path": "app", "to": "new" });
    pipe(unpack).assert_failure("permanent", "it is not a regular file");
    pipe(json!({ "do": "resolve", "url": "file:app/a.tar" })).assert_failure("permanent", "it is not a regular file");
}

#[test]
fn endless_query_is_interrupted() {
    let grants = json!({ "databases": { "main": "sqlite:./main.db" } });
    assert_stopped(json!({ "do": "query", "name": "main", "sql": ENDLESS_QUERY }), grants.clone());
    assert_stopped(json!({ "do": "query", "name": "main", "sql": SLOW_REPLACE_QUERY }), grants);
}

/// How a step ended that left a transaction open.
fn outcome_with_open_transaction(end: &str, sql: &str, timeout: &str) -> GuestOutcome {
    let with = json!({ "do": "transaction", "name": "main", "end": end, "sql": sql });
    let grants = json!({ "databases": { "main": "sqlite:./main.db" } });
    let fixture = GuestFixture::new(with, grants).with_step_field("timeout", json!(timeout));
    let outcome = fixture.run();
    let other = rusqlite::Connection::open(fixture.environment.path("main.db")).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let count: i64 = other.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap();
    assert_eq!(count, 0, "rolled back after {end}");
    other.execute("INSERT INTO t VALUES (2)", ()).expect("the database is free again");
    outcome
}

#[test]
fn open_transaction_is_rolled_back_however_the_step_ends() {
    outcome_with_open_transaction("trap", "", "5s").assert_failure("trap", "the module crashed");
    let panicked = outcome_with_open_transaction("panic", "", "5s");
    panicked.assert_failure("trap", "it panicked");
    assert!(panicked.log.iter().any(|line| line.contains("with an open transaction")), "{panicked:?}");
    outcome_with_open_transaction("loop", "", "200ms").assert_failure("time-out", "200ms");
    outcome_with_open_transaction("sleep", "", "200ms").assert_failure("time-out", "200ms");
    outcome_with_open_transaction("query", ENDLESS_QUERY, "200ms").assert_failure("time-out", "200ms");
    outcome_with_open_transaction("query", SLOW_REPLACE_QUERY, "200ms").assert_failure("time-out", "200ms");
    outcome_with_open_transaction("fail", "", "5s").assert_failure("permanent", "left open");
    assert_eq!(outcome_with_open_transaction("drop", "", "5s").result, "succeeded");
    assert_eq!(outcome_with_open_transaction("forget", "", "5s").result, "succeeded");
}
