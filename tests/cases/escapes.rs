//! Modules that reach for what they are not granted. Nothing happens, and the failure names the line that would grant it.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::support::{GuestFixture, GuestOutcome, HttpReply, HttpTestServer};

/// A folder with a granted directory `app` that may be written, `data` that may be read, and something outside of them.
fn guest_with_two_dirs(with: Value) -> GuestFixture {
    let fixture =
        GuestFixture::new(with, json!({ "dirs": { "app": "./app", "data": "./data:ro" }, "programs": [["/bin/pwd"]] }))
            .with_file("outside/secret.txt", "not yours")
            .with_file("app/own.txt", "own")
            .with_file("data/own.txt", "read me");
    for dir in ["app", "data"] {
        symlink("../outside/secret.txt", fixture.environment.path(dir).join("link")).unwrap();
        symlink(fixture.environment.path("outside"), fixture.environment.path(dir).join("absolute")).unwrap();
    }
    fixture
}

/// Fails unless it fails, and everything outside of `app` is as before, and `app` has at most one file more.
#[track_caller]
fn run_contained(with: Value) -> GuestOutcome {
    let fixture = guest_with_two_dirs(with);
    let before = fixture.environment.tree();
    let outcome = fixture.run();
    assert_eq!(outcome.result, "failed", "{outcome:#?}");
    let mut after = fixture.environment.tree();
    after.retain(|path, _| {
        // The lock file of the plan's modules is the runner's own.
        let is_planted = path.ends_with("app/planted") || path.ends_with("deploy.lock");
        !is_planted && !path.starts_with(fixture.environment.path(".pawl"))
    });
    assert!(before == after, "something changed: {outcome:#?}");
    outcome
}

#[test]
fn no_path_reaches_files_outside_a_grant() {
    let absolute = "app//etc/passwd";
    for what in ["read", "write"] {
        for path in [
            "app/../outside/secret.txt",
            absolute,
            "app/link",
            "app/absolute/secret.txt",
            "app/./../outside/secret.txt",
        ] {
            let outcome = run_contained(json!({ "do": what, "path": path }));
            outcome
                .assert_failure("denied", "not-permitted")
                .assert_hint("add to step `call` in the plan: grants: { dirs: { <name>:");
        }
    }
}

#[test]
fn link_made_by_a_module_cannot_escape() {
    for target in ["../outside/secret.txt", "../../../../../../etc/passwd", "/etc/passwd"] {
        run_contained(json!({ "do": "link", "path": "app/planted", "text": target, "to": "planted" }))
            .assert_failure("denied", "not-permitted");
    }
}

#[test]
fn sources_and_folders_stay_inside_their_grant() {
    for path in ["app/../outside/secret.txt", "app/link", "app/absolute/secret.txt"] {
        let outcome = run_contained(json!({ "do": "resolve", "url": format!("file:{path}") }));
        outcome.assert_denied("it is outside the directory", "grants: { dirs: { <name>: \"<path>:ro\" } }");
    }
    for path in ["app/..", "app/../outside", "app/absolute"] {
        let ended = run_contained(json!({ "do": "run", "program": "/bin/pwd", "path": path }));
        ended.assert_denied("it is outside the directory", "grants: { dirs: { <name>: \"<path>:ro\" } }");
    }
    let digest = format!("sha256:{}", "0".repeat(64));
    for to in ["../new", "/tmp/new", "absolute/new"] {
        let with = json!({ "do": "unpack", "url": "file:data/own.txt", "text": digest, "path": "app", "to": to });
        run_contained(with);
    }
    run_contained(json!({ "do": "resolve", "url": "file:other/x" }))
        .assert_denied("directory `other`", "dirs: { other: \"<path>:ro\" }");
}

#[test]
fn read_only_grant_cannot_be_changed() {
    for what in ["write", "delete", "times"] {
        run_contained(json!({ "do": what, "path": "data/own.txt" })).assert_failure("denied", "");
    }
    run_contained(json!({ "do": "write", "path": "data/new.txt" })).assert_failure("denied", "");
    run_contained(json!({ "do": "folder", "path": "data/new" })).assert_failure("denied", "");
    run_contained(json!({ "do": "plant", "path": "data/new", "text": "own.txt" })).assert_failure("denied", "");
    // By another name of the same file, in a directory that may be written.
    for what in ["hardlink", "rename"] {
        run_contained(json!({ "do": what, "path": "data/own.txt", "to": "app/planted" }))
            .assert_failure("denied", "not-permitted");
    }
    let digest = format!("sha256:{}", "0".repeat(64));
    let with = json!({ "do": "unpack", "url": "file:data/own.txt", "text": digest, "path": "data", "to": "new" });
    run_contained(with).assert_denied("write access to directory `data`", "dirs: { data: \"<path>\" }");
}

#[test]
fn link_in_a_writable_grant_does_not_lead_the_runner_outside() {
    let fixture = |grants: Value| {
        let with = json!({ "do": "query", "name": "main", "sql": "CREATE TABLE owned (x)" });
        let trial = GuestFixture::new(with, grants).with_file("outside/other.db", "").with_file("app/own.txt", "own");
        symlink("../outside/other.db", trial.environment.path("app/main.db")).unwrap();
        symlink("../outside", trial.environment.path("app/sub")).unwrap();
        trial
    };
    let untouched = |trial: &GuestFixture| {
        assert_eq!(trial.environment.list("outside"), ["other.db"]);
        assert_eq!(trial.environment.read("outside/other.db"), "");
    };
    for path in ["app/main.db", "app/sub/other.db", "app/sub/new.db"] {
        let grants = json!({ "dirs": { "app": "./app" }, "databases": { "main": format!("sqlite:./{path}") } });
        let trial = fixture(grants);
        trial.run().assert_failure("denied", "it is outside the directory");
        untouched(&trial);
    }
    let trial = fixture(json!({ "dirs": { "app": "./app", "sub": "./app/sub" } }));
    let refused = trial.environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(1).assert_stderr_contains("a link in a writable directory points outside it");
    untouched(&trial);
}

#[test]
fn ungranted_origins_and_methods_are_not_requested() {
    let server = HttpTestServer::new(|_, _| HttpReply::ok("secret"));
    let request = |method: &str, grants: Value| {
        GuestFixture::new(json!({ "do": "request", "method": method, "url": server.origin() }), grants).run()
    };
    let line = format!("grants: {{ http: [\"{}\"] }}", server.origin());
    request("GET", json!({})).assert_denied("is not granted", &line);
    let granted = json!({ "http": [{ "origin": server.origin(), "methods": ["GET"] }] });
    let line = format!("grants: {{ http: [{{ origin: \"{}\", methods: [GET, POST] }}] }}", server.origin());
    request("POST", granted).assert_denied("the method POST is not granted", &line);
    let connect = GuestFixture::new(json!({ "do": "connect", "url": server.address() }), json!({})).run();
    connect.assert_denied("is not granted", &format!("grants: {{ tcp: [\"{}\"] }}", server.address()));
    assert_eq!(server.requested_paths(), [""; 0]);
}

#[test]
fn redirect_to_an_ungranted_origin_is_denied() {
    let hidden = HttpTestServer::new(|_, _| HttpReply::ok("secret"));
    let target = hidden.origin();
    let open = HttpTestServer::new(move |_, _| HttpReply {
        status: 302,
        headers: vec![("location".to_owned(), format!("{target}/x"))],
        body: Vec::new(),
    });
    let digest = format!("sha256:{}", "0".repeat(64));
    for with in [
        json!({ "do": "request", "url": open.origin() }),
        json!({ "do": "unpack", "url": open.origin() + "/a.tar", "text": digest, "path": "app", "to": "new" }),
    ] {
        let grants = json!({ "http": [open.origin()], "dirs": { "app": "./app" } });
        let outcome = GuestFixture::new(with, grants).run();
        outcome.assert_denied("redirects there", &format!("grants: {{ http: [\"{}\"] }}", hidden.origin()));
    }
    assert_eq!(hidden.requested_paths(), [""; 0]);
}

#[test]
fn host_name_of_a_private_address_is_not_requested() {
    let server = HttpTestServer::new(|_, _| HttpReply::ok("secret"));
    let port = server.origin().rsplit(':').next().unwrap().to_owned();
    let hosts = [
        ("127.0.0.1", "loop.example"),
        ("169.254.169.254", "metadata.example"),
        ("10.0.0.1", "inner.example"),
        ("::1", "six.example"),
    ];
    for (address, name) in hosts {
        let origin = format!("http://{name}:{port}");
        let line = match name {
            "metadata.example" => format!("grants: {{ http: [\"http://169.254.169.254:{port}\"] }}"),
            _ => format!("grants: {{ http: [{{ origin: \"{origin}\", private: true }}] }}"),
        };
        let fixture = GuestFixture::new(json!({ "do": "request", "url": &origin }), json!({ "http": [&origin] }));
        let answer = fixture.environment.run_with_hosts(&hosts, &["--local", "--release", "r1", "--json"]);
        fixture.outcome_of(&answer).assert_denied(&format!("{name} resolves to {address}"), &line);
    }
    assert_eq!(server.requested_paths(), [""; 0]);
}

#[test]
fn programs_arguments_and_variables_must_match_the_grant() {
    let run = |with: Value| {
        let grants = json!({ "programs": [["/usr/bin/touch", "allowed"]], "dirs": { "app": "./app" } });
        let fixture = GuestFixture::new(with, grants);
        let outcome = fixture.run();
        assert_eq!(fixture.environment.list("app"), [""; 0], "nothing was run");
        outcome
    };
    run(json!({ "do": "run", "program": "/bin/sh", "args": ["-c", "touch x"], "path": "app/." }))
        .assert_denied("program", r#"programs: [["/bin/sh","-c","touch x"]]"#);
    for args in [json!(["other"]), json!(["allowed", "more"]), json!([])] {
        let vector = json!([vec![json!("/usr/bin/touch")], args.as_array().unwrap().clone()].concat());
        run(json!({ "do": "run", "program": "/usr/bin/touch", "args": args, "path": "app/." }))
            .assert_denied("program", &format!("programs: [{vector}]"));
    }
    run(
        json!({ "do": "run", "program": "/usr/bin/touch", "args": ["allowed"], "name": "LD_PRELOAD", "path": "app/." }),
    )
    .assert_denied("environment variable `LD_PRELOAD`", "env: { LD_PRELOAD: }");
}

#[test]
fn databases_must_match_the_grant() {
    let query = |name: &str, sql: &str| {
        let grants = json!({ "databases": { "main": "sqlite:./main.db" } });
        let fixture = GuestFixture::new(json!({ "do": "query", "name": name, "sql": sql }), grants);
        let outcome = fixture.run();
        assert!(!fixture.environment.exists("other.db"));
        outcome
    };
    query("other", "SELECT 1").assert_denied("database `other`", "databases: { other: \"sqlite:<path>\" }");
    for sql in ["ATTACH 'other.db' AS o", "VACUUM INTO 'other.db'"] {
        let ended = query("main", sql);
        ended.assert_failure("denied", "a step can access only the granted database file");
        ended.assert_failure("denied", "grants: { databases: { <name>: \"sqlite:<path>\" } }");
    }
    query("main", "SELECT load_extension('x')").assert_failure("denied", "it loads code");
    query("main", "PRAGMA hard_heap_limit = 0").assert_failure("denied", "the runner sets the memory limit");
    query("main", "BEGIN").assert_failure("denied", "the runner controls the transaction");
}

#[test]
fn secrets_must_match_the_grant() {
    let reveal = |grants: Value| {
        let mut fixture = GuestFixture::new(json!({ "do": "reveal", "name": "TOKEN" }), grants)
            .with_plan_field("secrets", json!({ "TOKEN": "env:TOKEN" }));
        fixture.environment.set_variable("TOKEN", "hunter2-correct-horse");
        fixture.run()
    };
    reveal(json!({})).assert_denied("secret `TOKEN`", "secrets: [TOKEN]");
    reveal(json!({ "secrets": ["TOKEN"] })).assert_denied("the value of secret `TOKEN`", "secrets: { TOKEN: reveal }");
    assert_eq!(reveal(json!({ "secrets": { "TOKEN": "reveal" } })).outputs["length"], 21);
}

#[test]
fn wasi_sockets_and_environment_are_empty() {
    let mut fixture = GuestFixture::new(json!({ "do": "network" }), json!({}));
    fixture.environment.set_variable("VISIBLE", "not to a step");
    assert_eq!(fixture.run().outputs["open"], json!([]));
    let mut trial = GuestFixture::new(json!({ "do": "surroundings" }), json!({}));
    trial.environment.set_variable("VISIBLE", "not to a step");
    assert_eq!(trial.run().outputs["seen"], json!([]));
}

#[test]
fn preview_writes_and_runs_nothing() {
    for (what, with) in [
        ("write", json!({ "path": "app/new.txt" })),
        ("delete", json!({ "path": "app/own.txt" })),
        ("run", json!({ "program": "/bin/pwd" })),
        ("transaction", json!({ "name": "main" })),
    ] {
        let mut with = with;
        with["do"] = json!("preview-act");
        with["text"] = json!(what);
        let databases = json!({ "main": "sqlite:./main.db" });
        let grants = json!({ "dirs": { "app": "./app" }, "programs": [["/bin/pwd"]], "databases": databases });
        let fixture = guest_with_two_dirs(with).with_step_field("grants", grants);
        rusqlite::Connection::open(fixture.environment.path("main.db"))
            .unwrap()
            .execute("CREATE TABLE kept (x)", ())
            .unwrap();
        let before = fixture.environment.tree();
        let preview = fixture.environment.run(&["plan", "--release", "r1"]);
        assert!(preview.stdout.contains("not known yet: "), "{what}: {}{}", preview.stdout, preview.stderr);
        assert!(before == fixture.environment.tree(), "{what} changed something");
    }
}
