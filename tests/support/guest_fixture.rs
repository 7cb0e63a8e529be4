//! One step that uses the misbehaving module: its plan, its run, and how it ended.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use super::{RunnerOutput, TestEnvironment, guest::misbehave_component};

/// A folder with the misbehaving module and a plan of one step, `call`.
pub struct GuestFixture {
    pub environment: TestEnvironment,
    plan: Value,
}

/// How the step ended, as the journal has it.
#[derive(Debug)]
pub struct GuestOutcome {
    /// `succeeded`, `failed` or `unknown`.
    pub result: String,
    pub kind: String,
    pub message: String,
    pub hint: String,
    pub outputs: Value,
    pub took: Duration,
    /// The texts of its log.
    pub log: Vec<String>,
}

impl GuestFixture {
    /// The step does what `with` says, with `grants`.
    pub fn new(with: Value, grants: Value) -> Self {
        Self::with_module(misbehave_component(), with, grants)
    }

    /// The same with another module.
    pub fn with_module(module: &Path, with: Value, grants: Value) -> Self {
        let environment = TestEnvironment::with_plan("");
        for folder in ["app", "migrations"] {
            fs::remove_dir_all(environment.path(folder)).unwrap();
        }
        fs::copy(module, environment.path("module.wasm")).unwrap();
        let step =
            json!({ "uses": "./module.wasm", "with": with, "grants": grants, "timeout": "10s", "trust": "host" });
        let fixture = Self { environment, plan: json!({ "version": 1, "app": "shop", "steps": { "call": step } }) };
        fixture.write_plan();
        fixture
    }

    /// Sets a member of the plan's step.
    pub fn with_step_field(mut self, key: &str, value: Value) -> Self {
        self.plan["steps"]["call"][key] = value;
        self.write_plan();
        self
    }

    /// Sets a member of the plan.
    pub fn with_plan_field(mut self, key: &str, value: Value) -> Self {
        self.plan[key] = value;
        self.write_plan();
        self
    }

    /// Writes a file.
    pub fn with_file(self, path: &str, content: &str) -> Self {
        self.environment.write(path, content);
        self
    }

    fn write_plan(&self) {
        // JSON is YAML.
        self.environment.write("deploy.yml", format!("{:#}", self.plan));
    }

    /// Runs it.
    pub fn run(&self) -> GuestOutcome {
        self.outcome_of(&self.environment.deploy("r1", &[]))
    }

    /// Runs it while no other case runs.
    pub fn run_alone(&self) -> GuestOutcome {
        self.outcome_of(&self.environment.run_alone(&["--local", "--release", "r1", "--json"]))
    }

    /// How a run with `--json` ended. Whatever the module did, the runner has ended in order, and has a good journal.
    #[track_caller]
    pub fn outcome_of(&self, answer: &RunnerOutput) -> GuestOutcome {
        let events: Vec<Value> = answer.json_lines().into_iter().map(|line| line["event"].clone()).collect();
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).cloned().collect::<Vec<_>>();
        let outcomes = of("outcome");
        let [outcome] = outcomes.as_slice() else {
            panic!("{} outcomes\n{}\n{}", outcomes.len(), answer.stdout, answer.stderr)
        };
        let result = text(&outcome["result"]);
        answer.assert_exit(if result == "succeeded" { 0 } else { 1 });
        let status = self.environment.run(&["status", "--json"]);
        status.assert_exit(0);
        let failure = &outcome["failure"];
        let is_log = |event: &Value| event["progress"] == "log";
        let log = of("progress").into_iter().filter(is_log).map(|event| text(&event["message"]));
        GuestOutcome {
            result,
            kind: text(&failure["kind"]),
            message: text(&failure["message"]),
            hint: text(&failure["hint"]),
            outputs: outcome["receipt"]["outputs"].clone(),
            took: Duration::from_millis(outcome["took-ms"].as_u64().unwrap()),
            log: log.collect(),
        }
    }
}

impl GuestOutcome {
    /// Fails unless it failed so, with these words in its message.
    #[track_caller]
    pub fn assert_failure(&self, kind: &str, message: &str) -> &Self {
        assert!(self.kind == kind && self.message.contains(message), "{kind}, {message}: {self:#?}");
        self
    }

    /// Fails unless its hint says so.
    #[track_caller]
    pub fn assert_hint(&self, what: &str) -> &Self {
        assert!(self.hint.contains(what), "{what}: {self:#?}");
        self
    }

    /// Fails unless it was denied and told this line to add to the plan.
    #[track_caller]
    pub fn assert_denied(&self, what: &str, line: &str) -> &Self {
        self.assert_failure("denied", what);
        assert!(self.message.contains("`call`") && self.hint.contains(line), "{line}: {self:#?}");
        self
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
