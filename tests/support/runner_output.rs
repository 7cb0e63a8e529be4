//! What the runner answered, and what a case may ask of that.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::Value;

use super::normalize::normalize;

/// What the runner answered.
pub struct RunnerOutput {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    root: PathBuf,
}

impl RunnerOutput {
    /// `root` is left out of snapshots.
    pub(super) fn new(output: Output, root: &Path) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            root: root.to_owned(),
        }
    }

    /// Fails with all that was said, unless this is the exit code.
    #[track_caller]
    pub fn assert_exit(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless these are the decisions of a run with `--json`, each as `pull skip held`.
    #[track_caller]
    pub fn assert_decisions(&self, expected: &[&str]) -> &Self {
        assert_eq!(self.decisions(), expected, "--- stderr\n{}", self.stderr);
        self
    }

    /// Fails unless a rehearsal has refused, before any commit step began; with `--json`.
    #[track_caller]
    pub fn assert_refused_beforehand(&self) -> &Self {
        self.assert_exit(1).assert_stderr_contains("error[P0324]");
        let events: Vec<Value> = self.json_lines().iter().map(|line| line["event"].clone()).collect();
        let plan = events.iter().find(|event| event["type"] == "plan").unwrap();
        let steps = plan["steps"].as_array().unwrap();
        let is_commit =
            |intent: &&Value| steps.iter().any(|step| step["step"] == intent["step"] && step["phase"] == "commit");
        let begun: Vec<&Value> = events.iter().filter(|event| event["type"] == "intent").filter(is_commit).collect();
        assert!(begun.is_empty(), "{begun:?}");
        self
    }

    /// Fails unless this text is in what was said to people.
    #[track_caller]
    pub fn assert_stderr_contains(&self, text: &str) -> &Self {
        let stderr = self.stderr_snapshot();
        assert!(stderr.contains(text), "{text:?} is not in\n{stderr}");
        self
    }

    /// The decisions of a run with `--json`, in order.
    pub fn decisions(&self) -> Vec<String> {
        self.decisions_as(&["/step", "/decision/action", "/decision/reason/because"])
    }

    /// The decisions of a run with `--json`, in order, each as `switch web-1 run`.
    pub fn decisions_on_targets(&self) -> Vec<String> {
        self.decisions_as(&["/step", "/target", "/decision/action"])
    }

    fn decisions_as(&self, pointers: &[&str]) -> Vec<String> {
        let decided = |line: &Value| {
            let event = line.get("event").filter(|event| event["type"] == "decision")?;
            let text = |pointer: &&str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
            Some(pointers.iter().map(text).collect::<Vec<_>>().join(" "))
        };
        self.json_lines().iter().filter_map(decided).collect()
    }

    /// The types of all events, in order.
    pub fn event_types(&self) -> Vec<String> {
        let kind = |line: &Value| line["event"]["type"].as_str().map(str::to_owned);
        self.json_lines().iter().filter_map(kind).collect()
    }

    /// The last line of a run with `--json`.
    pub fn result_line(&self) -> Value {
        self.json_lines().pop().unwrap()
    }

    /// Standard output as one JSON value a line.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// Standard error for a snapshot: without paths, times, hashes and names of this machine.
    pub fn stderr_snapshot(&self) -> String {
        normalize(&self.stderr, &self.root)
    }

    /// Standard output for a snapshot.
    pub fn stdout_snapshot(&self) -> String {
        normalize(&self.stdout, &self.root)
    }
}
