//! An editor with `runner schema`: the real yaml-language-server completes keys and marks errors, with the settings of docs/plan.md.

use std::{
    fs,
    io::BufReader,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use lsp_server::{Message, Notification, Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::migrating::{GUIDES, PLAN};
use crate::support::{TestEnvironment, doc_blocks::fenced_block};

/// The page that says how an editor finds the schema.
const PAGE: &str = "docs/plan.md";

/// A running language server, asked as an editor does.
struct LanguageServer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    settings: Value,
    /// The folder that the editor has open.
    folder: String,
    /// The file that is edited.
    file: String,
    requests: i32,
    version: i32,
}

impl LanguageServer {
    /// Starts the server for a folder, with the settings that the editor has below `yaml`.
    fn start(folder: &Path, settings: Value) -> Self {
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        let program = target.join("tools/yaml/node_modules/yaml-language-server/bin/yaml-language-server");
        assert!(program.is_file(), "yaml-language-server is missing: run `cargo xtask setup`");
        let mut node = Command::new("node");
        node.arg(program).arg("--stdio").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = node.spawn().unwrap_or_else(|error| panic!("node: {error}; run `cargo xtask setup`"));
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let folder = format!("file://{}", folder.display());
        let workspace = json!({ "processId": null, "rootUri": folder, "capabilities": {}, "workspaceFolders": [{ "uri": folder, "name": "shop" }] });
        let mut server =
            Self { process, input, output, settings, folder, file: String::new(), requests: 0, version: 1 };
        server.call("initialize", workspace);
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

    fn uri(&self) -> String {
        format!("{}/{}", self.folder, self.file)
    }

    /// Opens a file; its errors, each with its line from 1.
    fn open(&mut self, file: &str, text: &str) -> Vec<(u64, String)> {
        file.clone_into(&mut self.file);
        let document = json!({ "uri": self.uri(), "languageId": "yaml", "version": 1, "text": text });
        self.notify("textDocument/didOpen", json!({ "textDocument": document }));
        self.errors()
    }

    fn change(&mut self, text: &str) -> Vec<(u64, String)> {
        // The server keeps what it has parsed of a version.
        self.version += 1;
        let document = json!({ "uri": self.uri(), "version": self.version });
        let change = json!({ "textDocument": document, "contentChanges": [{ "text": text }] });
        self.notify("textDocument/didChange", change);
        self.errors()
    }

    fn errors(&mut self) -> Vec<(u64, String)> {
        loop {
            let Message::Notification(notification) = self.receive() else { continue };
            let params = &notification.params;
            if notification.method == "textDocument/publishDiagnostics" && params["uri"] == self.uri() {
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
        let document = json!({ "uri": self.uri() });
        let found = self.call("textDocument/completion", json!({ "textDocument": document, "position": position }));
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

/// A folder with the schema that the page says to save. The server's patterns find nothing below a folder whose name begins with a dot,
/// as that of a test's environment does.
fn folder_with_schema() -> TempDir {
    let printed = TestEnvironment::new().run(&["schema"]);
    printed.assert_exit(0);
    let folder = tempfile::Builder::new().prefix("editor-").tempdir().unwrap();
    fs::write(folder.path().join("pawl.schema.json"), &printed.stdout).unwrap();
    folder
}

/// What the extension hands over by itself, but for the schemas that it would download.
fn default_settings() -> Value {
    json!({ "validate": true, "completion": true, "schemaStore": { "enable": false } })
}

/// The settings with those that the page has for `.vscode/settings.json`.
fn settings_of_the_page() -> Value {
    let shown: Value = serde_json::from_str(&fenced_block(PAGE, "\"yaml.")).unwrap();
    let mut settings = default_settings();
    for (name, value) in shown.as_object().unwrap() {
        settings[name.strip_prefix("yaml.").unwrap()] = value.clone();
    }
    settings
}

#[test]
fn settings_of_the_page_are_for_every_name_of_a_plan() {
    let folder = folder_with_schema();
    let mut server = LanguageServer::start(folder.path(), settings_of_the_page());
    for (name, lines) in
        [("deploy.yml", vec![1]), ("pawl.yml", vec![1]), ("shop.pawl.yml", vec![1]), ("compose.yml", vec![])]
    {
        // A schema that is not found is an error too.
        assert_eq!(server.open(name, GOOD), [], "{name}");
        let errors = server.change(&GOOD.replace("version: 1", "version: 2"));
        assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), lines, "{name}: {errors:?}");
    }
}

#[test]
fn comment_of_the_page_names_the_schema() {
    let folder = folder_with_schema();
    let comment = fenced_block(PAGE, "# yaml-language-server:");
    let bad = GOOD.replace("version: 1", "version: 2");
    let mut server = LanguageServer::start(folder.path(), default_settings());
    server.open("deploy.yml", GOOD);
    assert_eq!(server.change(&bad), []);
    let errors = server.change(&format!("{comment}{bad}"));
    assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2], "{errors:?}");
}

/// Each names the schema by the comment that `init` writes, and the schema is beside it.
#[test]
fn templates_have_no_errors_in_an_editor() {
    let environment = TestEnvironment::new();
    for template in ["compose", "container", "django", "java", "node", "php", "python", "rails", "static"] {
        let folder = tempfile::Builder::new().prefix("editor-").tempdir().unwrap();
        let dir = folder.path().display().to_string();
        environment.run(&["init", "--template", template, &dir]).assert_exit(0);
        let plan = fs::read_to_string(folder.path().join("deploy.yml")).unwrap();
        let mut server = LanguageServer::start(folder.path(), default_settings());
        assert_eq!(server.open("deploy.yml", &plan), [], "{template}");
        let errors = server.change(&plan.replace("version: 1", "version: 2"));
        assert_eq!(errors.len(), 1, "{template}: {errors:?}");
    }
}

#[test]
fn plans_of_the_migration_guides_have_no_errors_in_an_editor() {
    let folder = folder_with_schema();
    let mut server = LanguageServer::start(folder.path(), settings_of_the_page());
    assert_eq!(server.open("pawl.yml", GOOD), []);
    for page in GUIDES {
        assert_eq!(server.change(&fenced_block(page, PLAN)), [], "{page}");
    }
}

#[test]
fn language_server_completes_and_marks_plans() {
    let folder = folder_with_schema();
    let mut server = LanguageServer::start(folder.path(), settings_of_the_page());
    assert_eq!(server.open("deploy.yml", GOOD), []);

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
