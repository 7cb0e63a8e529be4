//! Runs one granted program, for what no module of its own exists.
//!
//! Invariant: the program's own exit status decides; nothing is guessed from its output. What has neither `creates` nor
//! `probe` is never said to hold.
//!
//! Deliberately absent: a shell, pipes, conditions, and outputs for later steps: those are what modules are for.

mod output;

use pawl_step::process::Command;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, Failure, Finding, Input, ModuleDescription, Phase, ProbeSupport,
    Receipt, RerunSafety, Step, fs, log, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use output::{check_exit_status, command_line, finding_from_status, log_lines};

/// The module.
#[derive(Debug)]
pub struct RunStep;

/// The step's `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The program.
    pub program: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub env: Map<String, Value>,
    /// Its standard input.
    pub stdin: Option<String>,
    /// Where it runs.
    pub dir: Option<String>,
    /// What is there once it has run.
    pub creates: Option<String>,
    /// What tells whether the effect holds.
    pub probe: Option<Vec<String>>,
    /// Whether it may run again; the runner reads it.
    #[serde(default, rename = "repeatable")]
    pub _repeatable: bool,
}

impl Step for RunStep {
    type Config = RunConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            name: "run",
            version: env!("CARGO_PKG_VERSION"),
            summary: "runs one granted program",
            config: include_str!("../config.schema.json"),
            needs: vec![CapabilityNeed { capability: Capability::Programs, config: None, reason: "is run" }],
            phase: Phase::Commit,
            exposes: false,
            repeatable: RerunSafety::Config("/repeatable"),
            probes: ProbeSupport::Config(&["/creates", "/probe"]),
            reverts: false,
        }
    }

    fn preview(input: &Input<RunConfig>) -> Result<Vec<Change>, Failure> {
        let config = &input.config;
        if is_created(config)? {
            return Ok(Vec::new());
        }
        let detail = config.creates.as_ref().map_or(String::new(), |path| format!("makes {path}"));
        Ok(vec![Change::new(ChangeAction::Run, command_line(&config.program, &config.args), detail)])
    }

    fn apply(input: &Input<RunConfig>) -> Result<Receipt, Failure> {
        let config = &input.config;
        let started = time::monotonic();
        if is_created(config)? {
            let path = config.creates.as_deref().unwrap_or_default();
            log::info(format!("`{path}` is there already, so the program is not run"));
            return Ok(Receipt::new().output("status", 0).note("ran", false));
        }
        let completion = build_command(config, &config.program, &config.args).run()?;
        log_lines("stdout", &completion.stdout);
        log_lines("stderr", &completion.stderr);
        check_exit_status(&command_line(&config.program, &config.args), completion.status, &completion.stderr)?;
        if let Some(path) = &config.creates
            && !fs::exists(path)?
        {
            return Err(Failure::permanent(format!(
                "`{}` ended well, but `{path}`, which it should make, is not there",
                config.program
            ))
            .hint("correct `creates`, or the program's arguments"));
        }
        Ok(Receipt::new().output("status", 0).note("ran", true).note("took_ms", time::elapsed_ms(started)))
    }

    fn probe(input: &Input<RunConfig>) -> Result<Finding, Failure> {
        let config = &input.config;
        if config.creates.is_some() {
            return Ok(if is_created(config)? {
                Finding::Held(Receipt::new().output("status", 0))
            } else {
                Finding::Absent
            });
        }
        let Some([program, arguments @ ..]) = config.probe.as_deref() else {
            return Ok(Finding::Unknown(
                "it has neither `creates` nor `probe`, so nobody can tell whether it has run".to_owned(),
            ));
        };
        let completion = build_command(config, program, arguments).run()?;
        Ok(finding_from_status(&command_line(program, arguments), completion.status, &completion.stderr))
    }

    fn revert(input: &Input<RunConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!("what `{}` did cannot be undone", input.config.program))
            .hint("undo it by hand, or with a program of its own"))
    }
}

fn is_created(config: &RunConfig) -> Result<bool, Failure> {
    match (&config.creates, &config.probe) {
        (Some(_), Some(_)) => {
            Err(Failure::invalid_config("`creates` and `probe` are two answers to one question")
                .hint("keep one of them"))
        }
        (Some(path), None) => fs::exists(path),
        (None, _) => Ok(false),
    }
}

fn build_command(config: &RunConfig, program: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(program).args(arguments);
    // The schema lets no other value in than a text.
    for (name, value) in &config.env {
        command = command.env(name, value.as_str().unwrap_or_default());
    }
    if let Some(dir) = &config.dir {
        command = command.dir(dir);
    }
    match &config.stdin {
        Some(text) => command.stdin(text.as_str()),
        None => command,
    }
}

pawl_step::export!(RunStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::{self, TestSandbox, assert_described};
    use pawl_step::{DirectoryAccess, FailureKind};
    use serde_json::json;

    fn input(config: Value) -> Input<RunConfig> {
        testing::input("warm", RunConfig::deserialize(config).unwrap())
    }

    #[test]
    fn run_description_is_valid() {
        assert_described::<RunStep>();
        let description = RunStep::describe().to_json();
        assert_eq!(
            (&description["repeatable"], &description["repeatable-config"]),
            (&json!(false), &json!("/repeatable"))
        );
    }

    #[test]
    fn existing_creates_path_holds_and_skips_the_program() {
        let sandbox = TestSandbox::new();
        let app = sandbox.grant("app", DirectoryAccess::Read);
        let input = input(json!({ "program": "/usr/bin/warm", "args": ["--all", "a b"], "creates": "app/cache" }));
        assert_eq!(RunStep::probe(&input).unwrap(), Finding::Absent);
        assert_eq!(
            RunStep::preview(&input).unwrap(),
            [Change::new(ChangeAction::Run, "/usr/bin/warm --all 'a b'", "makes app/cache")]
        );
        std::fs::write(app.join("cache"), "").unwrap();
        assert_eq!(RunStep::probe(&input).unwrap(), Finding::Held(Receipt::new().output("status", 0)));
        assert_eq!(RunStep::preview(&input).unwrap(), []);
        // There is no host here that could run it.
        assert_eq!(RunStep::apply(&input).unwrap().notes["ran"], false);
    }

    #[test]
    fn probe_is_unknown_without_creates_or_probe() {
        let plain = input(json!({ "program": "/usr/bin/warm" }));
        assert!(matches!(RunStep::probe(&plain).unwrap(), Finding::Unknown(_)));
        assert!(RunStep::revert(&plain, &Receipt::new()).is_err());
        let both = input(json!({ "program": "p", "creates": "app/x", "probe": ["q"] }));
        assert_eq!(RunStep::apply(&both).unwrap_err().kind, FailureKind::InvalidConfig);
        let denied = input(json!({ "program": "p", "creates": "other/x" }));
        let _sandbox = TestSandbox::new();
        assert_eq!(RunStep::probe(&denied).unwrap_err().kind, FailureKind::Denied);
    }
}
