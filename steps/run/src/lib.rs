//! Runs one granted program, for tasks without a module of their own.
//!
//! Invariant: the program's exit status decides, never its output. The effect of a step with neither `creates` nor
//! `probe` is never reported as held.
//!
//! Deliberately absent: a shell, pipes, conditions, and outputs for later steps; write a module for those.

mod output;

use pawl_step::process::Command;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, Failure, Finding, Input, ModuleDescription, Phase, ProbeSupport,
    Receipt, RerunSafety, Step, fs, log, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use output::{check_exit_status, command_line, finding_from_status, log_lines};

/// The `run` module.
#[derive(Debug)]
pub struct RunStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The path of the program.
    pub program: String,
    /// The arguments of the program.
    #[serde(default)]
    pub args: Vec<String>,
    /// The environment variables of the program.
    #[serde(default)]
    pub env: Map<String, Value>,
    /// The standard input of the program.
    pub stdin: Option<String>,
    /// The working directory of the program.
    pub dir: Option<String>,
    /// A path that exists after the program has run.
    pub creates: Option<String>,
    /// A program that determines whether the effect holds.
    pub probe: Option<Vec<String>>,
    /// Whether the program may run again, which only the runner reads.
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
            behaves: &[],
        }
    }

    fn preview(input: &Input<RunConfig>) -> Result<Vec<Change>, Failure> {
        let config = &input.config;
        if is_created(config)? {
            return Ok(Vec::new());
        }
        let detail = config.creates.as_ref().map_or(String::new(), |path| format!("creates {path}"));
        Ok(vec![Change::new(ChangeAction::Run, command_line(&config.program, &config.args), detail)])
    }

    fn apply(input: &Input<RunConfig>) -> Result<Receipt, Failure> {
        let config = &input.config;
        let started = time::monotonic();
        if is_created(config)? {
            let path = config.creates.as_deref().unwrap_or_default();
            log::info(format!("`{path}` already exists, so the program does not run"));
            return Ok(Receipt::new().output("status", 0).note("ran", false));
        }
        let completion = build_command(config, &config.program, &config.args).run()?;
        log_lines("stdout", &completion.stdout);
        log_lines("stderr", &completion.stderr);
        check_exit_status(&command_line(&config.program, &config.args), completion.status, &completion.stderr)?;
        if let Some(path) = &config.creates
            && !fs::exists(path)?
        {
            return Err(Failure::permanent(format!("`{}` succeeded but did not create `{path}`", config.program))
                .hint("correct `creates` or the program's arguments"));
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
                "the step has neither `creates` nor `probe`, so its effect cannot be checked".to_owned(),
            ));
        };
        let completion = build_command(config, program, arguments).run()?;
        Ok(finding_from_status(&command_line(program, arguments), completion.status, &completion.stderr))
    }

    fn revert(input: &Input<RunConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!("the step cannot undo the effect of `{}`", input.config.program))
            .hint("undo it by hand, or with another program"))
    }
}

fn is_created(config: &RunConfig) -> Result<bool, Failure> {
    match (&config.creates, &config.probe) {
        (Some(_), Some(_)) => {
            Err(Failure::invalid_config("`creates` and `probe` cannot be used together").hint("remove one of them"))
        }
        (Some(path), None) => fs::exists(path),
        (None, _) => Ok(false),
    }
}

fn build_command(config: &RunConfig, program: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(program).args(arguments);
    // The schema accepts only strings here.
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
            [Change::new(ChangeAction::Run, "/usr/bin/warm --all 'a b'", "creates app/cache")]
        );
        std::fs::write(app.join("cache"), "").unwrap();
        assert_eq!(RunStep::probe(&input).unwrap(), Finding::Held(Receipt::new().output("status", 0)));
        assert_eq!(RunStep::preview(&input).unwrap(), []);
        // A native test has no host that could run the program.
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
