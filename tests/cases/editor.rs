//! An editor with `runner schema`: the real yaml-language-server completes keys and marks errors.

use std::{
    io::BufReader,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use lsp_server::{Message, Notification, Request, Response};
use serde_json::{Value, json};

use crate::support::TestEnvironment;

const PLAN_URI: &str = "file:///plans/deploy.yml";

/// A running language server, asked as an editor does.
struct LanguageServer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    settings: Value,
    requests: i32,
    version: i32,
}

impl LanguageServer {
    /// Starts the server for plans with this schema.
    fn start(schema: &Path) -> Self {
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        let program = target.join("tools/yaml/node_modules/yaml-language-server/bin/yaml-language-server");
        assert!(program.is_file(), "yaml-language-server is missing: run `cargo xtask setup`");
        let mut node = Command::new("node");
        node.arg(program).arg("--stdio").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = node.spawn().unwrap_or_else(|error| panic!("node: {error}; run `cargo xtask setup`"));
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let settings = json!({
            "schemas": { format!("file://{}", schema.display()): ["deploy.yml"] },
            "validate": true,
            "completion": true,
            "schemaStore": { "enable": false },
        });
        let mut server = Self { process, input, output, settings, requests: 0, version: 1 };
        server.call("initialize", json!({ "processId": null, "rootUri": null, "capabilities": {} }));
        server.notify("initialized", json!({}));
        let settings = json!({ "settings": { "yaml": server.settings } });
        server.notify("workspace/didChangeConfiguration", settings);
        server
    }

    fn notify(&mut self, method: &str, params: Value) {
        Message::Notification(Notification::new(method.to_owned(), params)).write(&mut self.input).unwrap();
    }

    /// The next message that is no question of the server; questions are answered.
    fn receive(&mut self) -> Message {
        loop {
            let message = Message::read(&mut self.output).unwrap().expect("the server ended");
            let Message::Request(request) = message else { return message };
            let items = request.params["items"].as_array().cloned().unwrap_or_default();
            let setting = |item: &Value| if item["section"] == "yaml" { self.settings.clone() } else { Value::Null };
            let answer: Vec<_> = items.iter().map(setting).collect();
            Message::Response(Response::new_ok(request.id, answer)).write(&mut self.input).unwrap();
        }
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.requests += 1;
        let id = self.requests.into();
        Message::Request(Request::new(id, method.to_owned(), params)).write(&mut self.input).unwrap();
        loop {
            if let Message::Response(response) = self.receive() {
                return response.response_result.unwrap_or_else(|error| panic!("{method}: {error:?}"));
            }
        }
    }

    /// Opens a plan; its errors, each with its line from 1.
    fn open(&mut self, text: &str) -> Vec<(u64, String)> {
        let document = json!({ "uri": PLAN_URI, "languageId": "yaml", "version": 1, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }));
        self.errors()
    }

    fn change(&mut self, text: &str) -> Vec<(u64, String)> {
        // The server keeps what it has parsed of a version.
        self.version += 1;
        let document = json!({ "uri": PLAN_URI, "version": self.version });
        let change = json!({ "textDocument": document, "contentChanges": [{ "text": text }] });
        self.notify("textDocument/didChange", change);
        self.errors()
    }

    fn errors(&mut self) -> Vec<(u64, String)> {
        loop {
            let Message::Notification(notification) = self.receive() else { continue };
            if notification.method == "textDocument/publishDiagnostics" {
                let errors = notification.params["diagnostics"].as_array().unwrap().iter();
                let line = |error: &Value| error["range"]["start"]["line"].as_u64().unwrap() + 1;
                return errors.map(|error| (line(error), error["message"].as_str().unwrap().to_owned())).collect();
            }
        }
    }

    /// What the server offers at the place of `|` in a plan.
    fn completions(&mut self, text: &str) -> Vec<String> {
        let (before, after) = text.split_once('|').unwrap();
        self.change(&format!("{before}{after}"));
        let line = before.matches('\n').count();
        let character = before.rsplit('\n').next().unwrap().len();
        let position = json!({ "line": line, "character": character });
        let found =
            self.call("textDocument/completion", json!({ "textDocument": { "uri": PLAN_URI }, "position": position }));
        found["items"].as_array().unwrap().iter().map(|item| item["label"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for LanguageServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const GOOD: &str = r#"version: 1
app: shop
dirs: { app: ./deploy, dist: "./dist:ro" }
steps:
  pull:
    with: { from: "file:dist/x.tar.gz", into: app }
    grants: { dirs: [app, "dist:ro"] }
  restart: { program: [systemctl, restart, 8080], trust: host, with: { repeatable: true } }
  check:
    uses: verify
    with: { tries: "${{ vars.tries }}", http: [{ url: "http://localhost/", status: 200 }] }
  other: { uses: ./other.wasm, with: { anything: goes } }
"#;

#[test]
fn language_server_completes_and_marks_plans() {
    let environment = TestEnvironment::with_plan(GOOD);
    let printed = environment.run(&["schema"]);
    printed.assert_exit(0);
    environment.write("deploy.schema.json", &printed.stdout);
    let mut server = LanguageServer::start(&environment.path("deploy.schema.json"));
    assert_eq!(server.open(GOOD), []);

    let bad = GOOD
        .replace("version: 1", "version: 2")
        .replace("into: app", "inot: app")
        .replace("trust: host", "trust: hots")
        .replace("status: 200", "status: ok")
        .replace("repeatable: true", "repeatable: maybe");
    let errors = server.change(&bad);
    let mut lines: Vec<_> = errors.iter().map(|(line, _)| *line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 6, 8, 8, 11], "{errors:?}");
    assert!(errors.iter().any(|(_, message)| message.contains("inot is not allowed")), "{errors:?}");

    let offered = |server: &mut LanguageServer, place: &str, text: &str, expected: &[&str]| {
        let found = server.completions(&GOOD.replace(place, text));
        for key in expected {
            assert!(found.iter().any(|label| label == key), "{key} is not offered at {text:?}: {found:?}");
        }
    };
    offered(&mut server, "steps:\n", "|\nsteps:\n", &["environments", "hooks", "http", "state"]);
    offered(&mut server, "  restart:", "    |\n  restart:", &["timeout", "retry", "needs"]);
    let place = "    with: { from: \"file:dist/x.tar.gz\", into: app }";
    offered(&mut server, place, "    with:\n      |", &["into", "digest", "shared"]);
    let (start, end) = (GOOD.find("    with: { tries").unwrap(), GOOD.find("  other:").unwrap());
    offered(&mut server, &GOOD[start..end], "    with:\n      |\n", &["http", "tries", "files", "sql"]);
    let place = "    grants: { dirs: [app, \"dist:ro\"] }";
    offered(&mut server, place, "    grants:\n      |", &["databases", "http", "programs"]);
}
