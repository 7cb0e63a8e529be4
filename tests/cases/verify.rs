//! `run_verify`: HTTP, TCP, files and SQL; what fails is named with what was expected and what was found.

use crate::support::{HttpReply, HttpTestServer, RunnerOutput, TestEnvironment, free_port};

/// Verifies with this `with`, against a server and a database with one row.
fn run_verify(server: &HttpTestServer, with: &str) -> RunnerOutput {
    let origin = server.origin();
    let with = with.replace("ORIGIN", &origin).replace("ADDRESS", &server.address());
    let plan = format!(
        "version: 1\napp: shop\nsteps:\n  verify:\n    uses: verify\n    with: {{ tries: 1, {with} }}\n    grants:\n      dirs: {{ app: ./app:ro }}\n      databases: {{ main: \"sqlite:./shop.db\" }}\n      http: [\"{origin}\"]\n      tcp: [\"{}\"]\n",
        server.address(),
    );
    let environment = TestEnvironment::with_plan(&plan);
    let database = rusqlite::Connection::open(environment.path("shop.db")).unwrap();
    database.execute_batch("CREATE TABLE product (name TEXT); INSERT INTO product VALUES ('pawl')").unwrap();
    drop(database);
    environment.run(&["--local", "--release", "r1"])
}

/// A service that is up, but has no page.
fn healthy_service() -> HttpTestServer {
    HttpTestServer::new(|path, _| match path {
        "/health" => HttpReply::ok(r#"{"status":"up","db":{"ready":true},"orders":3}"#),
        "/old" => {
            HttpReply { status: 302, headers: vec![("location".to_owned(), "/health".to_owned())], body: Vec::new() }
        }
        _ => HttpReply { status: 404, headers: Vec::new(), body: b"nothing here".to_vec() },
    })
}

#[test]
fn passing_checks_succeed() {
    let server = healthy_service();
    for with in [
        r#"http: [{ url: "ORIGIN/health" }]"#,
        r#"http: [{ url: "ORIGIN/nothing", status: 404, contains: nothing }]"#,
        r#"http: [{ url: "ORIGIN/health", contains: ready, json: { /status: up, /db/ready: true, /orders: 3 } }]"#,
        r#"http: [{ url: "ORIGIN/old", contains: ready }]"#,
        r#"http: [{ url: "ORIGIN/old", status: 302 }]"#,
        r#"tcp: ["ADDRESS"]"#,
        r#"files: [{ path: VERSION, equals: "@VERSION@" }, { path: index.html, contains: Shop }, { path: no, exists: false }]"#,
        r#"sql: [{ database: main, query: "SELECT count(*) FROM product", equals: 1 }]"#,
        r#"sql: [{ database: main, query: "SELECT name FROM product", equals: pawl }]"#,
    ] {
        run_verify(&server, with).assert_exit(0);
    }
}

#[test]
fn failed_check_is_reported_with_expected_and_found() {
    let server = healthy_service();
    for (with, says) in [
        (r#"http: [{ url: "ORIGIN/no" }]"#, "expected status 200, found status 404 with `nothing here`"),
        (
            r#"http: [{ url: "ORIGIN/health", json: { /status: down, /gone: 1 } }]"#,
            r#"expected status 200, 1 at `/gone`, "down" at `/status`, found nothing at `/gone`, "up" at `/status`"#,
        ),
        (
            r#"http: [{ url: "ORIGIN/health", contains: ready-made }]"#,
            "expected status 200, a body that contains `ready-made`, found",
        ),
        (r#"files: [{ path: VERSION, equals: r1 }]"#, "expected the content `r1`, found `@VERSION@`"),
        (r#"files: [{ path: gone }]"#, "expected a file or folder, found"),
        (r#"files: [{ path: VERSION, exists: false }]"#, "expected no such file, found"),
        (r#"sql: [{ database: main, query: "SELECT count(*) FROM product", equals: 2 }]"#, "expected 2, found 1"),
    ] {
        let answer = run_verify(&server, with);
        answer.assert_exit(1);
        assert!(answer.stderr.contains(says), "{says:?} is not in\n{}", answer.stderr);
    }
}

/// A check that writes would change what it checks.
#[test]
fn check_cannot_write_to_a_database() {
    let server = healthy_service();
    for query in ["DELETE FROM product RETURNING 1", "INSERT INTO product VALUES ('more') RETURNING 1"] {
        let answer = run_verify(&server, &format!(r#"sql: [{{ database: main, query: "{query}", equals: 1 }}]"#));
        answer.assert_exit(1);
        assert!(answer.stderr.contains("readonly"), "{}", answer.stderr);
    }
}

#[test]
fn only_failed_checks_are_reported() {
    let server = healthy_service();
    let with = r#"files: [{ path: VERSION }, { path: gone }], tcp: ["ADDRESS"]"#;
    let answer = run_verify(&server, with);
    answer.assert_exit(1);
    assert!(
        answer.stderr.contains(
            "1 of 3 checks failed after 1 round: file app/gone: expected a file or folder, found no such file"
        ),
        "{}",
        answer.stderr
    );
}

#[test]
fn closed_port_fails_verification() {
    let server = healthy_service();
    let free = format!("127.0.0.1:{}", free_port());
    let plan = format!(
        "version: 1\napp: shop\nsteps:\n  verify:\n    uses: verify\n    with: {{ tries: 1, tcp: [\"{free}\"] }}\n    grants: {{ tcp: [\"{free}\"] }}\n"
    );
    let environment = TestEnvironment::with_plan(&plan);
    environment.run(&["--local", "--release", "r1"]).assert_exit(1).assert_stderr_contains("connection");
    drop(server);
}

#[test]
fn slow_service_is_retried() {
    let server = HttpTestServer::new(|_, before| if before < 2 { HttpReply::status(503) } else { HttpReply::ok("up") });
    let with = r#"http: [{ url: "ORIGIN/health" }], interval: 10ms"#;
    let patient = with.replace("interval", "consecutive: 2, interval");
    run_verify(&server, with).assert_exit(1);
    let plan = patient.replace("ORIGIN", &server.origin());
    let plan = format!(
        "version: 1\napp: shop\nsteps:\n  verify:\n    uses: verify\n    with: {{ tries: 5, {plan} }}\n    grants: {{ http: [\"{}\"] }}\n",
        server.origin(),
    );
    let environment = TestEnvironment::with_plan(&plan);
    environment.run(&["--local", "--release", "r1"]).assert_exit(0);
    assert_eq!(server.requested_paths().len(), 4, "one try, one more that fails, two in a row that succeed");
}

#[test]
fn flapping_service_fails_consecutive_rounds() {
    let server =
        HttpTestServer::new(|_, before| if before % 2 == 0 { HttpReply::ok("up") } else { HttpReply::status(503) });
    let origin = server.origin();
    let plan = format!(
        "version: 1\napp: shop\nsteps:\n  verify:\n    uses: verify\n    with: {{ tries: 4, interval: 10ms, consecutive: 2, http: [{{ url: \"{origin}/\" }}] }}\n    grants: {{ http: [\"{origin}\"] }}\n"
    );
    let environment = TestEnvironment::with_plan(&plan);
    environment.run(&["--local", "--release", "r1"]).assert_exit(1);
    assert_eq!(server.requested_paths().len(), 4);
}
