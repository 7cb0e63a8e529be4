//! `runner prune`: removes the content of old releases that no rollback needs.

use std::{collections::BTreeSet, io::Write, path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::{
    attempts, guards,
    output::CommandOutput,
    source::{self, PlanSourceArgs},
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::{
    deploy::{
        self, HostReleases, Interrupt, PruneError, ReleaseDirs, ReleaseHosts, SiblingEnvironment, release_retention,
    },
    report::{self, OutputFormat, json as lines},
};
use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice},
};
use journal::JournalState;
use sandbox::NoticeHandler;
use state::{LockRequest, LockWait, StateStore};
use wire::{ReleaseFate, ReleaseFolder};

const NOT_REMOVED_HINT: &str =
    "fix the cause and run it again; the live release and the releases to keep were not touched";

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

/// Removes releases and lists them; as JSON, `{removed: [path], hosts: [{name, removed: [path]}]}`, the former those of this machine.
/// With `--dry-run`, lists what it would remove and keep, each with the reason; as JSON,
/// `{releases: [{path, release, remove, reason, host}]}`, those of this machine without a host. A host that can't be reached is a warning.
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
    let dirs = ReleaseDirs::new(described.steps.iter().map(|(step, description)| (*step, description)));
    let keep = args.keep.map(|keep| keep as usize).or(plan.keep).unwrap_or(deploy::DEFAULT_KEPT_RELEASES);
    let hosts = ReleaseHosts::new(&plan, &dirs, xdg_dirs::cache_dirs().cache_dir, &screen.stderr_notifier());
    let needs = ReleaseNeeds { dirs: &dirs.here, hosts, siblings, keep };
    let found = if args.dry_run {
        let state = attempts::load_state(&store).map_err(one)?;
        needs.examine(&state).await.map_err(|error| one(prune_diagnostic(&error)))?
    } else {
        match needs.prune(&store, args.wait.wait()).await.map_err(one)? {
            Some(removed) => removed,
            None => return Ok(ExitKind::Interrupted),
        }
    };
    let (found, failed) = found.without_unreachable_hosts(&screen.stderr_notifier());
    let answer = match args.dry_run {
        true => found.list_of_fates(screen.format()),
        false => found.list_of_removed(screen.format()),
    };
    report::write_answer(out, &answer).map_err(one)?;
    if failed.is_empty() { Ok(ExitKind::Success) } else { Err(failed) }
}

/// What decides which releases are kept.
struct ReleaseNeeds<'p> {
    dirs: &'p BTreeSet<PathBuf>,
    hosts: ReleaseHosts<'p>,
    siblings: Vec<SiblingEnvironment>,
    keep: usize,
}

/// The releases of this machine and of other hosts that were looked at or removed.
struct FoundReleases {
    here: Vec<ReleaseFolder>,
    on_hosts: Vec<HostReleases>,
}

impl ReleaseNeeds<'_> {
    /// Removes releases under the lock. Returns the removed ones; none if it was interrupted while waiting for the lock.
    async fn prune(&self, store: &StateStore, wait: LockWait) -> Result<Option<FoundReleases>, Diagnostic> {
        let interrupt = Interrupt::listen().ok();
        let by = source::user_at_host();
        let claim = LockRequest { wait, url: source::job_url(), ..LockRequest::new(&by) };
        let lock = match &interrupt {
            Some(interrupt) => tokio::select! {
                lock = store.acquire_lock(claim) => lock,
                _ = interrupt.requested() => return Ok(None),
            },
            None => store.acquire_lock(claim).await,
        };
        let mut lock = lock.map_err(|error| Diagnostic::from(&error))?;
        let state = attempts::load_state(store)?;
        let epoch = lock.next_epoch(state.epoch()).map_err(|error| Diagnostic::from(&error))?;
        lock.ensure_held().await.map_err(|error| Diagnostic::from(&error))?;
        let removed = match release_retention(&state, &self.siblings, self.keep) {
            Ok(retention) => match deploy::prune(self.dirs, &retention) {
                Ok(here) => {
                    Ok(FoundReleases { here, on_hosts: self.hosts.prune(&retention, &state, epoch, &by).await })
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        lock.close(Duration::from_secs(5)).await.map_err(|error| Diagnostic::from(&error))?;
        removed.map(Some).map_err(|error| prune_diagnostic(&error))
    }

    /// What would be removed and kept.
    async fn examine(&self, state: &JournalState) -> Result<FoundReleases, PruneError> {
        let retention = release_retention(state, &self.siblings, self.keep)?;
        let here = deploy::examine_releases(self.dirs, &retention)?;
        Ok(FoundReleases { here, on_hosts: self.hosts.examine(&retention).await })
    }
}

impl FoundReleases {
    /// Warns of each host that can't be asked, and leaves it out, with those that failed to remove something, whose errors it returns.
    fn without_unreachable_hosts(self, notify: &NoticeHandler) -> (Self, Vec<Diagnostic>) {
        let (answered, unanswered): (Vec<_>, Vec<_>) = self.on_hosts.into_iter().partition(|host| host.answer.is_ok());
        let problems = unanswered.into_iter().filter_map(|host| host.answer.err());
        let (failed, unreachable): (Vec<_>, Vec<_>) =
            problems.partition(|problem| problem.code == ErrorCode::PruneFailed);
        for problem in unreachable {
            notify(Notice::warning(deploy::host_failure(&problem)));
        }
        let failed = failed.into_iter().map(|problem| problem.with_hint(NOT_REMOVED_HINT)).collect();
        (Self { on_hosts: answered, ..self }, failed)
    }

    /// All folders, each with its host; none is this machine.
    fn all(&self) -> impl Iterator<Item = (Option<&TargetName>, &ReleaseFolder)> {
        let elsewhere = self
            .on_hosts
            .iter()
            .flat_map(|HostReleases { host, answer }| answer.iter().flatten().map(move |folder| (Some(host), folder)));
        self.here.iter().map(|folder| (None, folder)).chain(elsewhere)
    }

    /// A line for each release.
    fn list_of_fates(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Json => {
                let releases: Vec<Value> = self.all().map(|(host, folder)| folder_json(host, folder)).collect();
                lines::line(&json!({ "releases": releases })) + "\n"
            }
            OutputFormat::Text if self.all().next().is_none() => "no release is here\n".to_owned(),
            OutputFormat::Text => self.all().map(|(host, folder)| folder_line(host, folder)).collect(),
        }
    }

    fn list_of_removed(&self, format: OutputFormat) -> String {
        let paths = |folders: &[ReleaseFolder]| folders.iter().map(|folder| folder.path.clone()).collect::<Vec<_>>();
        match format {
            OutputFormat::Json => {
                let mut answer = json!({ "removed": paths(&self.here) });
                let host = |HostReleases { host, answer }: &HostReleases| json!({ "name": host, "removed": answer.as_deref().map(paths).unwrap_or_default() });
                if !self.on_hosts.is_empty() {
                    answer["hosts"] = self.on_hosts.iter().map(host).collect();
                }
                lines::line(&answer) + "\n"
            }
            OutputFormat::Text if self.all().next().is_none() => "nothing to remove\n".to_owned(),
            OutputFormat::Text => {
                self.all().map(|(host, folder)| format!("removed {}\n", path_on(host, folder))).collect()
            }
        }
    }
}

fn folder_json(host: Option<&TargetName>, folder: &ReleaseFolder) -> Value {
    let ReleaseFolder { path, label, fate } = folder;
    let (remove, reason) = match fate {
        ReleaseFate::Kept(why) => (false, why),
        ReleaseFate::Removed(why) => (true, why),
    };
    let mut json = json!({ "path": path, "release": label, "remove": remove, "reason": reason });
    if let Some(host) = host {
        json["host"] = json!(host);
    }
    json
}

fn folder_line(host: Option<&TargetName>, folder: &ReleaseFolder) -> String {
    let label = folder.label.as_ref().map_or("it", |label| label.as_str());
    let path = path_on(host, folder);
    match &folder.fate {
        ReleaseFate::Kept(why) => format!("keep    {path}: {label} {why}\n"),
        ReleaseFate::Removed(why) => format!("remove  {path}: {label} {why}\n"),
    }
}

fn path_on(host: Option<&TargetName>, folder: &ReleaseFolder) -> String {
    let path = folder.path.display();
    host.map_or_else(|| path.to_string(), |host| format!("{path} on {host}"))
}

fn prune_diagnostic(error: &PruneError) -> Diagnostic {
    let hint = if error.is_before_first_removal() {
        "fix the cause and run it again; no release was removed"
    } else {
        NOT_REMOVED_HINT
    };
    Diagnostic::new(ErrorCode::PruneFailed, error.to_string()).with_hint(hint)
}
