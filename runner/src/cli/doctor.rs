//! `runner doctor`: checks whether this machine and this plan are ready for a deployment. Nothing is deployed, but writable
//! directories are created, as a deployment would.
//!
//! It goes on after an error, and lists all errors at the end: only what depends on a missing answer is left unchecked.

use std::{fmt::Write as _, io::Write, time::Duration};

use serde_json::{Value, json};

use super::{
    attempts,
    output::CommandOutput,
    source::{self, PlanSourceArgs, ReleaseArgs, UnreadPlan},
    xdg_dirs,
};
use crate::{
    deploy::{PreflightOptions, PreflightScope, RequestedRelease, UnresolvedPlan},
    report::{self, CommandConclusion, OutputFormat, json},
};
use contract::{
    Label,
    diagnostic::{Diagnostic, ExitKind},
};
use plan::Plan;
use sandbox;
use state::{LockRequest, StateStore};

/// How long the release of the lock may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    #[command(flatten)]
    release: ReleaseArgs,
}

/// Runs all checks, in the order of a deployment.
///
/// # Errors
/// All errors.
pub(super) async fn run(
    args: &DoctorArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let mut examination = Examination { args, screen, findings: Vec::new(), problems: Vec::new() };
    let modules: Vec<_> = sandbox::official_module_names().collect();
    examination.passed("runner", format!("{} with modules {}", env!("CARGO_PKG_VERSION"), modules.join(", ")));
    let (plan, label) = examination.check_plan().await;
    let store = match &plan {
        Some(plan) => Some(StateStore::new(&plan.state, &plan.app, &plan.environment)),
        // The state can often be located although a step is wrong. If not, the plan's errors say why.
        None => args.plan.store().ok(),
    };
    match plan {
        Some(plan) => examination.check_steps(plan, label).await,
        None => examination.not_checked(&["release", "resources"], "the plan has errors"),
    }
    match store {
        Some(store) => examination.check_state(&store).await,
        None => examination.not_checked(&["journals", "lock"], "the plan has errors"),
    }
    report::write_answer(out, &examination.answer()).map_err(|error| vec![error])?;
    if examination.problems.is_empty() { Ok(ExitKind::Success) } else { Err(examination.problems) }
}

/// What `doctor` found so far.
struct Examination<'a> {
    args: &'a DoctorArgs,
    screen: &'a CommandOutput,
    /// The checks, in order.
    findings: Vec<(&'static str, CheckResult)>,
    /// All errors, in order.
    problems: Vec<Diagnostic>,
}

/// The result of one check.
enum CheckResult {
    /// Nothing is wrong.
    Passed(String),
    /// The errors come at the end.
    Failed { problem_count: usize },
    /// Something that it depends on is missing.
    NotChecked { reason: &'static str },
}

impl Examination<'_> {
    /// Parses the plan, and determines the label of the release. Of a plan with errors, it checks the steps that can be read.
    async fn check_plan(&mut self) -> (Option<Plan>, Option<Label>) {
        let DoctorArgs { plan: source_args, release } = self.args;
        let label = release.label(source_args);
        // Most errors of a plan do not depend on the label.
        let label_of_plan = label.clone().unwrap_or_else(|_| source::placeholder_label());
        let plan = match source_args.read_for(&label_of_plan) {
            Ok(plan) => {
                self.passed("plan", format!("{} is valid for {}", plan.source.path.display(), plan.environment));
                self.screen.mask(plan.secrets.values());
                Some(plan)
            }
            Err(UnreadPlan { problems, readable_part }) => {
                self.failed("plan", problems);
                let options = xdg_dirs::preflight_options(self.screen.stderr_notifier());
                let more = match readable_part {
                    Some(part) => UnresolvedPlan::problems_of_part(*part, label_of_plan, options).await,
                    None => Vec::new(),
                };
                match more.is_empty() {
                    true => self.not_checked(&["steps"], "the plan has errors"),
                    false => self.failed("steps", more),
                }
                None
            }
        };
        (plan, label.map_err(|missing| self.problems.push(missing)).ok())
    }

    /// Loads the modules, and checks what a deployment checks before its first step.
    async fn check_steps(&mut self, plan: Plan, label: Option<Label>) {
        // Files and programs may be named after the release.
        let scope = if label.is_some() { PreflightScope::Machine } else { PreflightScope::Plan };
        let options = PreflightOptions { scope, ..xdg_dirs::preflight_options(self.screen.stderr_notifier()) };
        let label_of_steps = label.clone().unwrap_or_else(source::placeholder_label);
        let loaded = match UnresolvedPlan::load(plan, label_of_steps, options).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.failed("steps", vec![error]);
                self.not_checked(&["release", "resources"], "the modules can't be loaded");
                return;
            }
        };
        let steps = loaded.loadable_steps();
        let problems = loaded.all_problems();
        if problems.is_empty() {
            self.passed("steps", format!("{} loaded, with all required grants", steps.steps.len()));
        } else {
            self.failed("steps", problems.clone());
        }
        // Sources and directories may be named after the release.
        let Some(label) = label else {
            self.not_checked(&["release", "resources"], "the release is unknown");
            return;
        };
        let release = loaded.resolve_release(RequestedRelease { label, digest: None }).await;
        match release {
            // It is an error of the plan, and was reported as one.
            Err(error) if problems.iter().any(|problem| marked_range(problem) == marked_range(&error)) => {
                self.not_checked(&["release"], "its source has an error");
            }
            release => {
                self.record("release", release.map_err(|error| vec![error]), |release| {
                    let digest = release.digest.as_ref().map_or_else(|| "no digest".to_owned(), ToString::to_string);
                    format!("{} is {digest}", release.label)
                });
            }
        }
        let resources = steps.check_resources().await.err().into_iter().flatten();
        let migrations = steps.check_migrations(None).await.err().into_iter().flatten();
        let problems: Vec<_> = resources.chain(migrations).collect();
        if problems.is_empty() {
            self.passed("resources", "directories are writable and have free space".to_owned());
        } else {
            self.failed("resources", problems);
        }
    }

    /// Reads the journals, and takes the lock for a moment.
    async fn check_state(&mut self, store: &StateStore) {
        let state = attempts::load_state(store).map_err(|error| vec![error]);
        self.record("journals", state, |state| format!("{} attempts on record, all sound", state.attempts.len()));
        let lock = match store.acquire_lock(LockRequest::new(&source::user_at_host())).await {
            Ok(lock) => lock.close(CLOSE_TIMEOUT).await,
            Err(error) => Err(error),
        };
        self.record("lock", lock.map_err(|error| vec![(&error).into()]), |()| "free".to_owned());
    }

    fn record<T>(
        &mut self,
        check: &'static str,
        result: Result<T, Vec<Diagnostic>>,
        describe: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.passed(check, describe(&value));
                Some(value)
            }
            Err(problems) => {
                self.failed(check, problems);
                None
            }
        }
    }

    fn passed(&mut self, check: &'static str, finding: String) {
        self.findings.push((check, CheckResult::Passed(finding)));
    }

    fn failed(&mut self, check: &'static str, problems: Vec<Diagnostic>) {
        self.findings.push((check, CheckResult::Failed { problem_count: problems.len() }));
        self.problems.extend(problems);
    }

    fn not_checked(&mut self, checks: &[&'static str], reason: &'static str) {
        self.findings.extend(checks.iter().map(|check| (*check, CheckResult::NotChecked { reason })));
    }

    /// The findings as text, or as one JSON object; the text of the errors follows on standard error.
    fn answer(&self) -> String {
        match self.screen.format() {
            OutputFormat::Json => {
                let finding = |(check, result): &(&str, CheckResult)| ((*check).to_owned(), result.json());
                let mut object: serde_json::Map<_, _> = self.findings.iter().map(finding).collect();
                if !self.problems.is_empty() {
                    let problem =
                        |error: &Diagnostic| json::result(&CommandConclusion { exit: error.exit, error: Some(error) });
                    object.insert("problems".to_owned(), self.problems.iter().map(problem).collect());
                }
                json::line(&object) + "\n"
            }
            OutputFormat::Text => self.findings.iter().fold(String::new(), |mut text, (check, result)| {
                let (mark, finding) = result.text();
                let _ = writeln!(text, "  {mark}  {check:<10} {finding}");
                text
            }),
        }
    }
}

/// The range of the plan that an error marks.
fn marked_range(problem: &Diagnostic) -> Option<&std::ops::Range<usize>> {
    problem.excerpt.as_ref().map(|excerpt| &excerpt.span)
}

impl CheckResult {
    fn text(&self) -> (&'static str, String) {
        match self {
            Self::Passed(finding) => ("ok", finding.clone()),
            Self::Failed { problem_count: 1 } => ("NO", "1 error".to_owned()),
            Self::Failed { problem_count } => ("NO", format!("{problem_count} errors")),
            Self::NotChecked { reason } => ("--", format!("not checked: {reason}")),
        }
    }

    /// The finding; null for a check that failed or was not done.
    fn json(&self) -> Value {
        match self {
            Self::Passed(finding) => json!(finding),
            Self::Failed { .. } | Self::NotChecked { .. } => Value::Null,
        }
    }
}
