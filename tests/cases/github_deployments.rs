//! GitHub's list of deployments, as a small server in this process hears of it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::TestEnvironment;

const TOKEN: &str = "ghs_0123456789abcdef";
const DEPLOYMENTS_PATH: &str = "/repos/acme/shop/deployments";

/// What was asked: method and path, the token, the body.
#[derive(Clone, Debug)]
struct DeploymentsRequest {
    request_line: String,
    token: String,
    body: Value,
}

/// Answers until the test ends; the thread ends with the process.
struct FakeDeploymentsApi {
    origin: String,
    requests: Arc<Mutex<Vec<DeploymentsRequest>>>,
}

impl FakeDeploymentsApi {
    /// None: no answer at all, and the connection stays.
    fn new(reply: impl Fn(&DeploymentsRequest) -> Option<(u16, Value)> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(one) = read_request(&stream) else { continue };
                let answer = reply(&one);
                log.lock().unwrap().push(one);
                match answer {
                    Some((status, body)) => {
                        let body = body.to_string();
                        let head =
                            format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close");
                        let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    }
                    None => kept.push(stream),
                }
            }
        });
        Self { origin, requests: asked }
    }

    /// One that does as GitHub does.
    fn accepting() -> Self {
        Self::new(|asked| {
            Some((
                201,
                if asked.request_line == format!("POST {DEPLOYMENTS_PATH}") { json!({"id": 42}) } else { json!({}) },
            ))
        })
    }

    fn requests(&self) -> Vec<DeploymentsRequest> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(stream: &TcpStream) -> Option<DeploymentsRequest> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut token, mut length) = (String::new(), String::new(), 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 {
            return None;
        }
        match header.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => value.clone_into(&mut token),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some(_) => {}
            None if header.trim().is_empty() => break,
            None => line = header.trim().trim_end_matches(" HTTP/1.1").to_owned(),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    Some(DeploymentsRequest { request_line: line, token, body })
}

fn github_job(api: &str) -> TestEnvironment {
    let mut environment = TestEnvironment::new();
    environment.pack("r1");
    environment.edit(
        "deploy.yml",
        "vars: { root: ./deploy/test }",
        "url: \"https://${{ release }}.example.com\", vars: { root: ./deploy/test }",
    );
    for (name, value) in [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_API_URL", api),
        ("GITHUB_REPOSITORY", "acme/shop"),
        ("GITHUB_RUN_ID", "7"),
        ("GITHUB_SERVER_URL", "https://github.example.com"),
        ("GITHUB_SHA", "0123456789012345678901234567890123456789"),
        ("PAWL_DEPLOYMENTS", "true"),
        ("PAWL_TOKEN", TOKEN),
    ] {
        environment.set_variable(name, value);
    }
    environment
}

#[test]
fn deployment_is_listed_at_its_start_and_its_end() {
    let api = FakeDeploymentsApi::accepting();
    let mut environment = github_job(&api.origin);
    environment.set_variable("GITHUB_OUTPUT", environment.home("outputs").to_str().unwrap());
    environment.run(&["deploy", "--release", "r1"]).assert_exit(0);
    let asked = api.requests();
    let lines: Vec<_> = asked.iter().map(|one| one.request_line.as_str()).collect();
    let (list, states) = (format!("POST {DEPLOYMENTS_PATH}"), format!("POST {DEPLOYMENTS_PATH}/42/statuses"));
    assert_eq!(lines, [&list, &states, &states]);
    assert!(asked.iter().all(|one| one.token.ends_with(TOKEN)));
    assert_eq!(
        asked[0].body,
        json!({
            "ref": "0123456789012345678901234567890123456789",
            "environment": "test",
            "description": "shop r1",
            "auto_merge": false,
            "required_contexts": [],
            "transient_environment": false,
            "production_environment": false,
        })
    );
    let state = |state: &str, words: &str| {
        json!({
            "state": state,
            "description": words,
            "log_url": "https://github.example.com/acme/shop/actions/runs/7",
            "environment_url": "https://r1.example.com",
        })
    };
    assert_eq!(asked[1].body, state("in_progress", "r1 is being deployed"));
    assert_eq!(asked[2].body, state("success", "r1 is deployed"));
    let outputs = std::fs::read_to_string(environment.home("outputs")).unwrap();
    assert!(outputs.contains("\nhttps://r1.example.com\n"), "{outputs}");

    // Without being asked for, nothing is told.
    environment.set_variable("PAWL_DEPLOYMENTS", "");
    environment.run(&["deploy", "--release", "r1"]).assert_exit(0);
    assert_eq!(api.requests().len(), 3);
}

#[test]
fn failure_is_listed_with_its_message() {
    let api = FakeDeploymentsApi::accepting();
    let environment = github_job(&api.origin);
    environment.write("migrations/0003_orders.sql", "INSERT INTO ordr (id) VALUES (1);\n");
    environment.run(&["deploy", "--release", "r1"]).assert_exit(1);
    let last = api.requests().pop().unwrap();
    assert_eq!(last.body["state"], "failure");
    assert_eq!(last.body["description"], "r1: failed; step `migrate` failed on attempt 1");
    // One that does not begin touched nothing, and is not the newest of its environment.
    let listed = api.requests().len();
    environment.run(&["deploy", "--release", "r1", "--only", "nothing"]).assert_exit(2);
    assert_eq!(api.requests().len(), listed);
}

#[test]
fn rejection_by_github_is_a_warning() {
    let api = FakeDeploymentsApi::new(|_| {
        Some((403, json!({"message": "Resource not accessible\n::error::by integration"})))
    });
    let mut environment = github_job(&api.origin);
    let deployed = environment.run(&["deploy", "--release", "r1"]);
    deployed.assert_exit(0);
    assert!(deployed.stdout.contains("warning: could not update the GitHub deployment"), "{}", deployed.stdout);
    assert!(deployed.stdout.contains("403"), "{}", deployed.stdout);
    assert!(deployed.stdout.contains("Resource not accessible\\n::error::by integration"), "{}", deployed.stdout);
    let is_shown = |line: &str| line.contains(TOKEN) && !line.starts_with("::add-mask::");
    assert!(!deployed.stdout.lines().any(is_shown), "{}", deployed.stdout);
    for (name, value) in [("GITHUB_REPOSITORY", "acme"), ("PAWL_TOKEN", "")] {
        environment.set_variable(name, value);
        let deployed = environment.run(&["deploy", "--release", "r1"]);
        deployed.assert_exit(0);
        assert!(
            deployed.stdout.contains(&format!("could not update the GitHub deployment: {name} is not")),
            "{}",
            deployed.stdout
        );
    }
    // Where nobody listens.
    let environment = github_job("http://127.0.0.1:1");
    let deployed = environment.run(&["deploy", "--release", "r1"]);
    deployed.assert_exit(0);
    assert!(deployed.stdout.contains("warning: could not update the GitHub deployment"), "{}", deployed.stdout);
}

#[test]
fn unresponsive_github_only_delays_the_end() {
    let api = FakeDeploymentsApi::new(|_| None);
    let environment = github_job(&api.origin);
    let began = Instant::now();
    let deployed = environment.run(&["deploy", "--release", "r1"]);
    deployed.assert_exit(0);
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
    let words = ["did not answer in time", "timed out"];
    assert!(words.iter().any(|words| deployed.stdout.contains(words)), "{}", deployed.stdout);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
}

/// The answers are those of "Get team membership for a user": a member, an invitation, somebody else.
#[test]
fn members_of_a_team_may_deploy() {
    let api = FakeDeploymentsApi::new(|request| {
        let reply = match request.request_line.rsplit('/').next() {
            Some("ada") => (200, json!({ "state": "active", "role": "member" })),
            Some("ben") => (200, json!({ "state": "pending", "role": "member" })),
            Some("dan") => (403, json!({ "message": "Resource not accessible by personal access token" })),
            Some(_) | None => (404, json!({ "message": "Not Found" })),
        };
        Some(reply)
    });
    let mut environment = TestEnvironment::new();
    environment.pack("r1");
    let vars = "vars: { root: ./deploy/test }";
    let allow = format!("allow: [\"github:root\", \"github-team:acme/ops\"], {vars}");
    environment.edit("deploy.yml", vars, &allow);
    environment.set_variable("CI", "true");
    environment.set_variable("GITHUB_API_URL", &api.origin);
    environment.set_variable("GITHUB_ACTOR", "ada");
    let refused = |environment: &TestEnvironment, why: &str| {
        let output = environment.run(&["deploy", "--release", "r1"]);
        output.assert_exit(2).assert_stderr_contains("error[P0218]").assert_stderr_contains(why);
        assert!(!environment.exists("deploy") && !environment.exists(".pawl"), "something happened");
    };
    refused(&environment, "PAWL_TEAM_TOKEN is not set");
    environment.set_variable("PAWL_TEAM_TOKEN", TOKEN);
    for (login, why) in [
        ("ben", "ben is not allowed to change environment `test`"),
        ("eve", "`allow` lists `github:root`, `github-team:acme/ops`"),
        ("dan", "can't ask GitHub who is in acme/ops: 403"),
    ] {
        environment.set_variable("GITHUB_ACTOR", login);
        refused(&environment, why);
    }
    environment.set_variable("GITHUB_ACTOR", "ada");
    environment.run(&["deploy", "--release", "r1"]).assert_exit(0);
    let requests = api.requests();
    assert!(requests.iter().all(|request| request.token == format!("Bearer {TOKEN}")), "{requests:?}");
    assert_eq!(requests.last().unwrap().request_line, "GET /orgs/acme/teams/ops/memberships/ada");
}
