//! Removes old release folders on each host, except those of the live, the recent verified and the last deployed release.
//!
//! Invariants: it removes only folders whose content is known ([`release_folders`]), only in directories that a step with
//! `installs-releases` may write to, never the target of a link next to `releases`, and never a release that a slot there holds ([`held_releases`]).
//! It first renames a folder to `.tmp-…`, the name of an unfinished pull. It needs the lock. Deliberately absent: removing journals, which would break
//! the hash chain; how an agent is asked; and a record of what was removed, since a deployment pulls a missing release again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{attempt::RunningAttempt, release_folders, slot_records::held_releases};
use contract::{
    EnvironmentName, TargetName,
    diagnostic::{Diagnostic, ErrorCode, Notice},
};
use journal::{JournalState, event::Release};
use plan::{DirAccess, PlanHost, PlanStep};
use sandbox::ModuleDescription;
use state::StateStore;
use wire::{ReleaseFate, ReleaseFolder, ReleaseRetention};

/// The default number of verified releases to keep.
pub const DEFAULT_KEPT_RELEASES: usize = 5;

/// Another environment of the plan. Its releases may lie in the same directories, so they must be known before anything is
/// removed.
pub struct SiblingEnvironment {
    pub name: EnvironmentName,
    /// Its state, or the reason why it can't be located.
    pub store: Result<StateStore, String>,
}

/// An error while removing releases.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The releases that another environment needs are not known. Nothing was removed.
    #[error(
        "old releases are kept: can't read the state of environment `{environment}`, which may need them: {reason}"
    )]
    UnknownNeeds { environment: EnvironmentName, reason: String },
    /// A directory could not be read, or a release not be removed.
    #[error("can't remove old releases in {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A slot's record can't be read, so that it is not known which release runs there. Nothing was removed.
    #[error("old releases are kept: {} can't be read, so it is not known which release the slot holds: {reason}", path.display())]
    UnknownSlot { path: PathBuf, reason: String },
}

impl PruneError {
    /// Whether nothing was removed.
    #[must_use]
    pub fn is_before_first_removal(&self) -> bool {
        match self {
            Self::UnknownNeeds { .. } | Self::UnknownSlot { .. } => true,
            Self::Io { .. } => false,
        }
    }
}

/// Which releases must stay, by the records of this environment and of its siblings.
///
/// # Errors
/// [`PruneError::UnknownNeeds`] when the state of a sibling can't be read.
pub fn release_retention(
    state: &JournalState,
    siblings: &[SiblingEnvironment],
    keep: usize,
) -> Result<ReleaseRetention, PruneError> {
    let mut kept = BTreeMap::new();
    let mut add = |release: &Release, why: String| {
        if let Some(digest) = &release.digest {
            kept.entry(digest.clone()).or_insert(why);
        }
    };
    retained_releases(state, keep).into_iter().for_each(|(release, why)| add(release, why));
    for SiblingEnvironment { name, store } in siblings {
        let unknown = |reason: String| PruneError::UnknownNeeds { environment: name.clone(), reason };
        let store = store.as_ref().map_err(|reason| unknown(reason.clone()))?;
        let state = store.load(|_| {}).map_err(|error| unknown(error.to_string()))?.state;
        // `keep` applies to this environment only, so all of the other environment's verified releases stay.
        let needed = retained_releases(&state, usize::MAX);
        needed.into_iter().for_each(|(release, _)| add(release, format!("may be needed by environment `{name}`")));
    }
    // Of several labels of one digest, the last one stays.
    let label = |release: &Release| Some((release.digest.clone()?, release.label.clone()));
    let verified = state.head.verified.iter().filter_map(label).collect();
    let attempted = state.attempts.iter().filter_map(|attempt| label(&attempt.header.release)).collect();
    Ok(ReleaseRetention { keep, kept, verified, attempted })
}

/// The releases to keep, each with the reason: the live one, the targets of `runner rollback` and of an automatic rollback, the last
/// `keep` verified ones (withdrawn ones come last), and the release of the last attempt.
fn retained_releases(state: &JournalState, keep: usize) -> Vec<(&Release, String)> {
    let head = &state.head;
    let is_withdrawn = |release: &&Release| head.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
    let (withdrawn, good): (Vec<&Release>, Vec<&Release>) = head.verified.iter().rev().partition(is_withdrawn);
    let verified = good.into_iter().chain(withdrawn).take(keep);
    let exposing = state.records.values().filter(|record| record.intent.exposes);
    let back = exposing.filter_map(|record| record.live_before.as_ref());
    let last = state.attempts.last().map(|attempt| &attempt.header.release);
    let among = format!("is among the last {keep} verified releases");
    let because = |why: &str| {
        let why = why.to_owned();
        move |release| (release, why.clone())
    };
    (head.shown_releases().map(because("is live")))
        .chain(head.rollback_target().map(because("is what `runner rollback` goes back to")))
        .chain(verified.map(because(&among)))
        .chain(back.map(because("is what an undo of the switch goes back to")))
        .chain(last.map(because("is the release of the last attempt")))
        .collect()
}

/// The directories that the steps of a plan install releases into.
#[derive(Default)]
pub struct ReleaseDirs {
    /// Those of this machine.
    pub here: BTreeSet<PathBuf>,
    /// Those of other hosts.
    pub on_hosts: BTreeMap<TargetName, (Arc<PlanHost>, BTreeSet<PathBuf>)>,
}

impl ReleaseDirs {
    /// Those of steps with the descriptions of their modules.
    pub fn new<'p>(steps: impl IntoIterator<Item = (&'p PlanStep, &'p ModuleDescription)>) -> Self {
        let mut found = Self::default();
        for (step, description) in steps {
            let Some(dir) = release_dir(step, description) else { continue };
            let dirs = match step.remote_host() {
                None => &mut found.here,
                Some(host) => {
                    &mut found
                        .on_hosts
                        .entry(host.name.clone())
                        .or_insert_with(|| (Arc::clone(host), BTreeSet::new()))
                        .1
                }
            };
            dirs.insert(dir.to_owned());
        }
        found
    }
}

/// The directory that a step installs releases into. It must be a writable grant of the step itself.
pub(crate) fn release_dir<'p>(step: &'p PlanStep, description: &ModuleDescription) -> Option<&'p Path> {
    let installs = description.behaviors.installs_releases.as_ref()?;
    let into = installs.into_dir(&step.with);
    let mut writable =
        step.grants.dirs.iter().filter(|(name, grant)| {
            grant.access == DirAccess::ReadWrite && into.is_none_or(|into| into == name.as_str())
        });
    // If the module does not name the directory and several are writable, none is pruned.
    match (writable.next(), writable.next()) {
        (Some((_, grant)), None) => Some(&grant.path),
        _ => None,
    }
}

/// All folders of releases on this machine, each with what pruning does with it: it removes what neither this environment nor its
/// siblings need.
///
/// # Errors
/// [`PruneError::Io`] when a directory can't be read; [`PruneError::UnknownSlot`].
pub fn examine_releases(
    release_dirs: &BTreeSet<PathBuf>,
    retention: &ReleaseRetention,
) -> Result<Vec<ReleaseFolder>, PruneError> {
    let mut folders = Vec::new();
    for dir in release_dirs {
        let error = |source| PruneError::Io { path: dir.clone(), source };
        let linked = link_targets(dir).map_err(error)?;
        let held = held_releases(dir)?;
        for (path, digest) in release_folders::list(dir).map_err(error)? {
            let is_linked = linked.contains(&path.canonicalize().map_err(error)?);
            let use_there = match held.get(&digest) {
                Some(slot) => Some(format!("is in slot {slot}")),
                None => is_linked.then(|| "is what a link points to".to_owned()),
            };
            let label = retention.attempted.get(&digest).or_else(|| retention.verified.get(&digest)).cloned();
            folders.push(ReleaseFolder { path, label, fate: retention.fate(&digest, use_there) });
        }
    }
    Ok(folders)
}

/// Removes the releases of this machine that nobody needs ([`examine_releases`]). Returns the removed folders.
///
/// # Errors
/// [`PruneError::UnknownSlot`]; [`PruneError::Io`]: the releases removed before the error stay removed.
pub fn prune(release_dirs: &BTreeSet<PathBuf>, retention: &ReleaseRetention) -> Result<Vec<ReleaseFolder>, PruneError> {
    let mut removed = Vec::new();
    for folder in examine_releases(release_dirs, retention)? {
        let path = &folder.path;
        match folder.fate {
            ReleaseFate::Kept(_) => {}
            ReleaseFate::Removed(_) => {
                // `<directory>/releases/<name>`
                let dir = || path.ancestors().nth(2).unwrap_or(path).to_owned();
                remove_release(path).map_err(|source| PruneError::Io { path: dir(), source })?;
                removed.push(folder);
            }
        }
    }
    Ok(removed)
}

/// Removes old releases on all hosts after a verified deployment, if the plan sets `keep` and the lock is still held. A failure does
/// not change how the attempt ends.
pub(super) async fn prune_after(attempt: &RunningAttempt<'_>) -> Vec<Notice> {
    let prepared = attempt.prepared();
    let Some(keep) = prepared.plan.keep else { return Vec::new() };
    let retention = match attempt.confirm_lock().await {
        Ok(()) => {
            release_retention(&attempt.state(), &attempt.request.siblings, keep).map_err(|error| error.to_string())
        }
        Err(error) => {
            Err(format!("can't remove old releases: {}", error.short_text(attempt.journal.borrow().redactor())))
        }
    };
    let failed = match retention {
        Ok(retention) => {
            let dirs = ReleaseDirs::new(prepared.steps.iter().map(|planned| (&planned.step, &planned.description)));
            let here = prune(&dirs.here, &retention).err().map(|error| error.to_string());
            let elsewhere = prepared.prune_hosts(&dirs, &retention).await;
            here.into_iter().chain(elsewhere.into_iter().map(|problem| host_failure(&problem))).collect()
        }
        Err(failed) => vec![failed],
    };
    failed.into_iter().map(|failed| Notice::warning(format!("{failed}; the deployment itself succeeded"))).collect()
}

/// Why the releases of another host were not removed, or not all of them.
#[must_use]
pub fn host_failure(problem: &Diagnostic) -> String {
    if problem.code == ErrorCode::PruneFailed {
        return problem.message.clone();
    }
    format!("{}; its old releases stay", problem.message)
}

/// Renames a folder to the name of an unfinished pull, and removes it.
fn remove_release(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let renamed = folder.with_file_name(format!(".tmp-pruned-{name}"));
    fs::rename(folder, &renamed)?;
    fs::remove_dir_all(&renamed)
}

/// The targets of the links in a directory, next to `releases`.
fn link_targets(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut targets = BTreeSet::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(targets),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink()
            && let Ok(target) = entry.path().canonicalize()
        {
            targets.insert(target);
        }
    }
    Ok(targets)
}
