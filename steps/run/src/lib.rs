//! Runs one granted program, for tasks without a module of their own.
//!
//! Invariant: the program's exit status decides, never its output. The effect of a step without `marker`, `creates` and
//! `probe` is never reported as held.
//!
//! Deliberately absent: a shell, pipes, conditions, and outputs for later steps; write a module for those.

mod marker;
mod output;

use pawl_step::process::Command;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleBehavior,
    ModuleDescription, ProbeSupport, Receipt, RerunSafety, Step, fs, log, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use marker::ProgramState;
use output::{ProbeCodes, check_exit_status, command_line, finding_from_status};

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
    /// Whether the program's output goes to a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Files and directories that the program depends on; the runner hashes them.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// The file that records a success of the program.
    pub marker: Option<String>,
    /// A path that exists after the program has run.
    pub creates: Option<String>,
    /// A program that determines whether the effect holds.
    pub probe: Option<Vec<String>>,
    /// Whether the probe is asked before the program runs.
    #[serde(default, rename = "probe-first")]
    pub probe_first: bool,
    /// What the exit statuses of the probe mean.
    #[serde(default, rename = "probe-codes")]
    pub probe_codes: ProbeCodes,
    /// The phase, which only the runner reads.
    #[serde(default, rename = "phase")]
    pub _phase: Value,
    /// Whether the program may run again, which only the runner reads.
    #[serde(default, rename = "repeatable")]
    pub _repeatable: bool,
    /// The versions of other programs that it needs, which only the runner checks.
    #[serde(default, rename = "requires")]
    pub _requires: Value,
    /// The step that installs the program, which only the runner reads.
    #[serde(default, rename = "installed-by")]
    pub _installed_by: Option<String>,
}

impl Step for RunStep {
    type Config = RunConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed { capability: Capability::Programs, config: None, reason: "is run" },
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: Some("/marker"),
                    reason: "stores the marker that the program has finished",
                },
            ],
            phase_config: Some("/phase"),
            repeatable: RerunSafety::Config("/repeatable"),
            probes: ProbeSupport::Config(&["/marker", "/creates", "/probe"]),
            outputs: Some(&["status"]),
            behaves: &[ModuleBehavior::RepeatsAfterUndo],
            ..ModuleDescription::new(
                "run",
                env!("CARGO_PKG_VERSION"),
                "runs one granted program",
                include_str!("../config.schema.json"),
            )
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
            return Ok(Receipt::new().output("status", 0).note("ran", false).note("found", path));
        }
        if config.probe_first
            && let Finding::Held(receipt) = Self::probe(input)?
        {
            log::info("the probe says that the effect holds, so the program does not run");
            return Ok(receipt.note("ran", false));
        }
        if let Some(path) = &config.marker {
            marker::write(path, input, ProgramState::Started)?;
        }
        let ran = run_program(config);
        match (&config.marker, &ran) {
            (Some(path), Ok(())) => marker::write(path, input, ProgramState::Finished)?,
            (Some(path), Err(_)) => marker::remove(path)?,
            (None, _) => {}
        }
        ran?;
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
        check_config(config)?;
        if let Some(path) = &config.marker {
            return marker::probe(path, input);
        }
        if config.creates.is_some() {
            return Ok(if is_created(config)? {
                Finding::Held(Receipt::new().output("status", 0))
            } else {
                Finding::Absent
            });
        }
        let Some([program, arguments @ ..]) = config.probe.as_deref() else {
            return Ok(Finding::Unknown(
                "the step has no `marker`, `creates` or `probe`, so its effect cannot be checked".to_owned(),
            ));
        };
        let completion = build_command(config, program, arguments).run()?;
        Ok(finding_from_status(&command_line(program, arguments), &completion, &config.probe_codes))
    }

    fn revert(input: &Input<RunConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!("the step cannot undo the effect of `{}`", input.config.program))
            .hint("undo it by hand, or with another program"))
    }
}

/// Runs the program to its end. The host logs its lines.
fn run_program(config: &RunConfig) -> Result<(), Failure> {
    let command = build_command(config, &config.program, &config.args).logged();
    let completion = if config.tty { command.terminal() } else { command }.run()?;
    check_exit_status(&command_line(&config.program, &config.args), &completion)
}

/// Refuses settings that contradict each other.
fn check_config(config: &RunConfig) -> Result<(), Failure> {
    let evidence = [config.marker.is_some(), config.creates.is_some(), config.probe.is_some()];
    if evidence.into_iter().filter(|is_set| *is_set).count() > 1 {
        return Err(Failure::invalid_config("only one of `marker`, `creates` and `probe` can be used")
            .hint("keep one and remove the others; prefer `marker`"));
    }
    let Some(marker) = &config.marker else { return Ok(()) };
    // A step sees a directory as `/<name>`, so slashes before the name mean nothing.
    let below = |path: &str| path.trim_start_matches('/').trim_end_matches('/').to_owned();
    let contains_marker = |input: &&String| {
        below(marker).strip_prefix(&below(input)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match config.inputs.iter().find(contains_marker) {
        None => Ok(()),
        Some(input) => Err(Failure::invalid_config(format!("the marker `{marker}` lies in the input `{input}`"))
            .hint("put it elsewhere: the step would change its own input, and run each time")),
    }
}

/// Whether the path of `creates` exists, which is only the case if the step has one.
fn is_created(config: &RunConfig) -> Result<bool, Failure> {
    check_config(config)?;
    match &config.creates {
        Some(path) => fs::exists(path),
        None => Ok(false),
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
    fn marker_tells_of_its_release_and_inputs_only() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        let config = json!({ "program": "/usr/bin/warm", "marker": "app/.pawl/warm" });
        let ours = input(config.clone());
        let path = ours.config.marker.clone().unwrap();
        assert_eq!(RunStep::probe(&ours).unwrap(), Finding::Absent);
        marker::write(&path, &ours, ProgramState::Started).unwrap();
        assert!(matches!(RunStep::probe(&ours).unwrap(), Finding::Unknown(_)));
        marker::write(&path, &ours, ProgramState::Finished).unwrap();
        assert_eq!(RunStep::probe(&ours).unwrap(), Finding::Held(Receipt::new().output("status", 0)));
        // The key says whose marker it is, no more: another run finds it too.
        let later = Input { key: "another".to_owned(), run: "2".to_owned(), ..input(config.clone()) };
        assert!(matches!(RunStep::probe(&later).unwrap(), Finding::Held(_)));
        let edited = Input { input_hash: "another".to_owned(), ..input(config.clone()) };
        assert_eq!(RunStep::probe(&edited).unwrap(), Finding::Absent);
        let mut other = input(config);
        other.release.label = "r2".to_owned();
        other.release.digest = None;
        assert_eq!(RunStep::probe(&other).unwrap(), Finding::Absent);
        fs::write_atomic(&path, b"touched by hand").unwrap();
        assert!(matches!(RunStep::probe(&ours).unwrap(), Finding::Unknown(_)));
        marker::remove(&path).unwrap();
        assert_eq!(RunStep::probe(&ours).unwrap(), Finding::Absent);
    }

    #[test]
    fn probe_is_unknown_without_creates_or_probe() {
        let plain = input(json!({ "program": "/usr/bin/warm" }));
        assert!(matches!(RunStep::probe(&plain).unwrap(), Finding::Unknown(_)));
        assert!(RunStep::revert(&plain, &Receipt::new()).is_err());
        let both = input(json!({ "program": "p", "creates": "app/x", "probe": ["q"] }));
        assert_eq!(RunStep::apply(&both).unwrap_err().kind, FailureKind::InvalidConfig);
        let own = input(json!({ "program": "p", "marker": "app/x/y", "inputs": ["app/x"] }));
        assert_eq!(RunStep::apply(&own).unwrap_err().kind, FailureKind::InvalidConfig);
        let denied = input(json!({ "program": "p", "creates": "other/x" }));
        let _sandbox = TestSandbox::new();
        assert_eq!(RunStep::probe(&denied).unwrap_err().kind, FailureKind::Denied);
    }
}
