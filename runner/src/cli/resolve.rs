//! `runner resolve STEP`: records how a step ended that the runner can't finish.

use std::{io::Write, mem::ManuallyDrop};

use serde_json::{Map, Value, json};

use super::{
    attempts, ci, guards, output::CommandOutput, source, source::PlanSourceArgs, wait::LockWaitArgs, xdg_dirs,
};
use crate::{
    deploy::{
        PreflightOptions, PreflightScope, PreparedPlan, RequestedRelease, ResolutionRequest, StatedOutcome,
        StepResolution, resolve_step,
    },
    report::{self, OutputFormat, json, messages},
};
use contract::{
    StepId, TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use journal::{StepTarget, event::Resolution};
use state::StateStore;

/// Arguments of `resolve`.
#[derive(Debug, clap::Args)]
pub(super) struct ResolveArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    /// The step
    step: StepId,
    /// The target that it ran on
    #[arg(long, value_name = "TARGET", default_value = "local")]
    target: TargetName,
    /// How it ended: its effect is there, its effect is gone, or it had none
    #[arg(long = "as", value_name = "OUTCOME")]
    outcome: OutcomeArg,
    /// The reason; `runner history` and `runner logs` show it
    #[arg(long, value_name = "REASON")]
    message: String,
    /// With `--as done`: an output of the step that later steps need; repeat it for several
    #[arg(long = "output", value_name = "NAME=VALUE", value_parser = parse_output)]
    outputs: Vec<(String, Value)>,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// What the operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OutcomeArg {
    /// Its effect is there, and stays
    Done,
    /// Its effect is gone
    Undone,
    /// It had no effect, so it counts as not begun
    NotBegun,
}

/// An output of a step. A value that is not JSON is a string.
fn parse_output(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()))))
}

/// Records how a step ended. As JSON `{step, target, as, epoch, outputs}`.
///
/// # Errors
/// P0230 and P0231 when the step's record does not allow it; otherwise as a deployment that does not begin.
pub(super) async fn run(
    args: &ResolveArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    guards::require_local_flag(args.local, "resolve")?;
    let message = args.message.trim();
    if message.is_empty() {
        let error = Diagnostic::new(ErrorCode::NotResolvable, "`--message` is empty");
        return Err(one(error.with_hint("give a reason; `runner history` shows it")));
    }
    let outcome = stated_outcome(args).map_err(one)?;
    ci::download_journals(&args.plan, args.wait.wait()).await.map_err(one)?;
    let store = args.plan.store()?;
    let state = attempts::load_state(&store).map_err(one)?;
    let step_target = StepTarget { step: args.step.clone(), target: args.target.clone() };
    // Without a record, the error needs no release; the newest one is as good as any.
    let release = state.records.get(&step_target).map(|record| &record.intent.release);
    let Some(release) = release.or_else(|| state.attempts.last().map(|last| &last.header.release)).cloned() else {
        return Err(one(attempts::no_attempts_error(&store)));
    };
    let plan = args.plan.plan_for(&release.label)?;
    screen.mask(plan.secrets.values().chain(ci::job_secrets().values()));
    guards::check_allowed_user(&plan).await.map_err(one)?;
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    let tell = screen.stderr_notifier();
    let store = ci::with_checkpoints(store, &plan.source.path, &plan.app, &plan.environment, &*tell).map_err(one)?;
    guards::check_nesting(&store).map_err(one)?;
    let requested = RequestedRelease { label: release.label, digest: release.digest };
    // No step runs.
    let options = PreflightOptions { scope: PreflightScope::Plan, ..xdg_dirs::preflight_options(screen.notifier()) };
    let prepared = PreparedPlan::new(plan, requested, options).await?;
    let prepared = ManuallyDrop::new(prepared);
    let request = ResolutionRequest {
        store: &store,
        prepared: &prepared,
        step_target,
        outcome,
        message: message.to_owned(),
        operator: source::user_at_host(),
        url: source::job_url(),
        machine: xdg_dirs::machine_id(&screen.notifier()),
        wait: args.wait.wait(),
    };
    let resolved = resolve_step(request).await.map_err(one)?;
    report::write_answer(out, &answer(&resolved, screen.format())).map_err(one)?;
    Ok(ExitKind::Success)
}

fn stated_outcome(args: &ResolveArgs) -> Result<StatedOutcome, Diagnostic> {
    let outputs: Map<String, Value> = args.outputs.iter().cloned().collect();
    match args.outcome {
        OutcomeArg::Done => Ok(StatedOutcome::Done { outputs: (!outputs.is_empty()).then_some(outputs) }),
        OutcomeArg::Undone | OutcomeArg::NotBegun if !outputs.is_empty() => {
            let error = Diagnostic::new(ErrorCode::NotResolvable, "`--output` needs `--as done`");
            Err(error.with_hint("only a step that is done has outputs: leave `--output` out"))
        }
        OutcomeArg::Undone => Ok(StatedOutcome::Undone),
        OutcomeArg::NotBegun => Ok(StatedOutcome::NotBegun),
    }
}

fn answer(resolved: &StepResolution, format: OutputFormat) -> String {
    let StepResolution { step_target, resolution, epoch } = resolved;
    let outputs = match resolution {
        Resolution::Done { receipt } => Some(&receipt.outputs),
        Resolution::Undone | Resolution::NotBegun | Resolution::Confirmed => None,
    };
    let next = match resolution {
        Resolution::Done { .. } | Resolution::Confirmed => "the next deployment takes it as done",
        Resolution::Undone | Resolution::NotBegun => "the next deployment runs it again",
    };
    let word = messages::resolution(resolution);
    match format {
        OutputFormat::Text => format!("step {step_target} is recorded as {word}, epoch {epoch}; {next}\n"),
        OutputFormat::Json => {
            let StepTarget { step, target } = step_target;
            json::line(&json!({ "step": step, "target": target, "as": word, "epoch": epoch, "outputs": outputs }))
                + "\n"
        }
    }
}
