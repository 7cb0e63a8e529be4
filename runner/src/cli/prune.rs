//! `runner prune`: removes the content of old releases that no rollback needs.

use std::{io::Write, time::Duration};

use serde_json::json;

use super::{
    attempts, guards,
    output::CommandOutput,
    source::{self, PlanSourceArgs},
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::{
    deploy::{self, Interrupt},
    report::{self, OutputFormat, json as lines},
};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice};
use state::{LockRequest, StateStore};

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    /// How many verified releases to keep besides the live one; by default the plan's `keep`, or 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Removes releases and lists them; as JSON, `{removed: [path]}`.
///
/// # Errors
/// P0223 when one cannot be removed; P05xx when the environment is being deployed.
pub(super) async fn run(
    args: &PruneArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    guards::require_local_flag(args.local, "prune")?;
    // The folders of releases do not depend on the release.
    let plan = args.plan.plan_for(&source::placeholder_label())?;
    let siblings = args.plan.other_environments(&plan.environment)?;
    screen.mask(plan.secrets.values());
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    guards::check_allowed_user(&plan).await.map_err(one)?;
    guards::check_nesting(&store).map_err(one)?;
    let described =
        deploy::describe_steps(&plan, xdg_dirs::preflight_options(screen.stderr_notifier())).await.map_err(one)?;
    // Where a module can't be loaded, nothing it installed is removed.
    for problem in &described.problems {
        screen.stderr_notifier()(Notice::warning(problem.message.clone()));
    }
    let dirs = deploy::release_dirs(described.steps.iter().map(|(step, description)| (*step, description)));
    let interrupt = Interrupt::listen().ok();
    let claim =
        LockRequest { wait: args.wait.wait(), url: source::job_url(), ..LockRequest::new(&source::user_at_host()) };
    let lock = match &interrupt {
        Some(interrupt) => tokio::select! {
            lock = store.acquire_lock(claim) => lock,
            _ = interrupt.requested() => return Ok(ExitKind::Interrupted),
        },
        None => store.acquire_lock(claim).await,
    };
    let mut lock = lock.map_err(|error| one((&error).into()))?;
    let state = attempts::load_state(&store).map_err(one)?;
    let keep = args.keep.map(|keep| keep as usize).or(plan.keep).unwrap_or(deploy::DEFAULT_KEPT_RELEASES);
    lock.next_epoch(state.epoch()).map_err(|error| one((&error).into()))?;
    lock.ensure_held().await.map_err(|error| one((&error).into()))?;
    let removed = deploy::prune(&dirs, &state, &siblings, keep);
    lock.close(Duration::from_secs(5)).await.map_err(|error| one((&error).into()))?;
    let removed = removed.map_err(|error| {
        let diagnostic = Diagnostic::new(ErrorCode::PruneFailed, error.to_string());
        let hint = if error.is_before_first_removal() {
            "fix the cause and run it again; no release was removed"
        } else {
            "fix the cause and run it again; the live release and the releases to keep were not touched"
        };
        one(diagnostic.with_hint(hint))
    })?;
    let answer = match screen.format() {
        OutputFormat::Json => lines::line(&json!({ "removed": removed })) + "\n",
        OutputFormat::Text if removed.is_empty() => "nothing to remove\n".to_owned(),
        OutputFormat::Text => removed.iter().map(|path| format!("removed {}\n", path.display())).collect(),
    };
    report::write_answer(out, &answer).map_err(one)?;
    Ok(ExitKind::Success)
}
