//! `runner prune`: removes the content of old releases that no rollback needs.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    attempts, guards,
    output::CommandOutput,
    source::{self, PlanSourceArgs},
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::{
    deploy::{self, Interrupt, PruneError, ReleaseFate, ReleaseFolder, SiblingEnvironment},
    report::{self, OutputFormat, json as lines},
};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice};
use journal::JournalState;
use state::{LockRequest, LockWait, StateStore};

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
    /// Say what would be removed and what is kept, and why; change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Removes releases and lists them; as JSON, `{removed: [path]}`. With `--dry-run`, lists what it would remove and keep, each with the
/// reason; as JSON, `{releases: [{path, release, remove, reason}]}`.
///
/// # Errors
/// P0223 when one cannot be removed; P05xx when the environment is being deployed.
pub(super) async fn run(
    args: &PruneArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    if !args.dry_run {
        guards::require_local_flag(args.local, "prune")?;
    }
    // The folders of releases do not depend on the release.
    let plan = args.plan.plan_for(&source::placeholder_label())?;
    let siblings = args.plan.other_environments(&plan.environment)?;
    screen.mask(plan.secrets.values());
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    if !args.dry_run {
        guards::check_allowed_user(&plan).await.map_err(one)?;
        guards::check_nesting(&store).map_err(one)?;
    }
    let described =
        deploy::describe_steps(&plan, xdg_dirs::preflight_options(screen.stderr_notifier())).await.map_err(one)?;
    // Where a module can't be loaded, nothing it installed is removed.
    for problem in &described.problems {
        screen.stderr_notifier()(Notice::warning(problem.message.clone()));
    }
    let dirs = deploy::release_dirs(described.steps.iter().map(|(step, description)| (*step, description)));
    let keep = args.keep.map(|keep| keep as usize).or(plan.keep).unwrap_or(deploy::DEFAULT_KEPT_RELEASES);
    let needs = ReleaseNeeds { dirs, siblings, keep };
    let answer = if args.dry_run {
        let state = attempts::load_state(&store).map_err(one)?;
        needs.describe(&state, screen.format()).map_err(|error| one(prune_diagnostic(&error)))?
    } else {
        match needs.prune(&store, args.wait.wait()).await.map_err(one)? {
            Some(removed) => list_of_removed(&removed, screen.format()),
            None => return Ok(ExitKind::Interrupted),
        }
    };
    report::write_answer(out, &answer).map_err(one)?;
    Ok(ExitKind::Success)
}

/// What decides which releases are kept.
struct ReleaseNeeds<'p> {
    dirs: BTreeSet<&'p Path>,
    siblings: Vec<SiblingEnvironment>,
    keep: usize,
}

impl ReleaseNeeds<'_> {
    /// Removes releases under the lock. Returns the removed folders; none if it was interrupted while waiting for the lock.
    async fn prune(&self, store: &StateStore, wait: LockWait) -> Result<Option<Vec<PathBuf>>, Diagnostic> {
        let interrupt = Interrupt::listen().ok();
        let claim = LockRequest { wait, url: source::job_url(), ..LockRequest::new(&source::user_at_host()) };
        let lock = match &interrupt {
            Some(interrupt) => tokio::select! {
                lock = store.acquire_lock(claim) => lock,
                _ = interrupt.requested() => return Ok(None),
            },
            None => store.acquire_lock(claim).await,
        };
        let mut lock = lock.map_err(|error| Diagnostic::from(&error))?;
        let state = attempts::load_state(store)?;
        lock.next_epoch(state.epoch()).map_err(|error| Diagnostic::from(&error))?;
        lock.ensure_held().await.map_err(|error| Diagnostic::from(&error))?;
        let removed = deploy::prune(&self.dirs, &state, &self.siblings, self.keep);
        lock.close(Duration::from_secs(5)).await.map_err(|error| Diagnostic::from(&error))?;
        removed.map(Some).map_err(|error| prune_diagnostic(&error))
    }

    /// What would be removed and kept, a line for each release.
    fn describe(&self, state: &JournalState, format: OutputFormat) -> Result<String, PruneError> {
        let folders = deploy::examine_releases(&self.dirs, state, &self.siblings, self.keep)?;
        Ok(match format {
            OutputFormat::Json => {
                let releases: Vec<Value> = folders.iter().map(folder_json).collect();
                lines::line(&json!({ "releases": releases })) + "\n"
            }
            OutputFormat::Text if folders.is_empty() => "no release is here\n".to_owned(),
            OutputFormat::Text => folders.iter().map(folder_line).collect(),
        })
    }
}

fn folder_json(folder: &ReleaseFolder) -> Value {
    let ReleaseFolder { path, label, fate } = folder;
    let (remove, reason) = match fate {
        ReleaseFate::Kept(why) => (false, why),
        ReleaseFate::Removed(why) => (true, why),
    };
    json!({ "path": path, "release": label, "remove": remove, "reason": reason })
}

fn folder_line(folder: &ReleaseFolder) -> String {
    let ReleaseFolder { path, label, fate } = folder;
    let label = label.as_ref().map_or("it", |label| label.as_str());
    match fate {
        ReleaseFate::Kept(why) => format!("keep    {}: {label} {why}\n", path.display()),
        ReleaseFate::Removed(why) => format!("remove  {}: {label} {why}\n", path.display()),
    }
}

fn list_of_removed(removed: &[PathBuf], format: OutputFormat) -> String {
    match format {
        OutputFormat::Json => lines::line(&json!({ "removed": removed })) + "\n",
        OutputFormat::Text if removed.is_empty() => "nothing to remove\n".to_owned(),
        OutputFormat::Text => removed.iter().map(|path| format!("removed {}\n", path.display())).collect(),
    }
}

fn prune_diagnostic(error: &PruneError) -> Diagnostic {
    let hint = if error.is_before_first_removal() {
        "fix the cause and run it again; no release was removed"
    } else {
        "fix the cause and run it again; the live release and the releases to keep were not touched"
    };
    Diagnostic::new(ErrorCode::PruneFailed, error.to_string()).with_hint(hint)
}
