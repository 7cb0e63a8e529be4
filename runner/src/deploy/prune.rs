//! Removes old release folders, except those of the live, the recent verified and the last deployed release.
//!
//! Invariants: it removes only folders `releases/<digest>`, only in directories that a step with `installs-releases`
//! may write to, and never the target of a link next to `releases`. It first renames a folder to `.tmp-…`, the name of
//! an unfinished pull. It needs the lock. Deliberately absent: removing journals, which would break the hash chain; and
//! a record of what was removed, since a deployment pulls a missing release again.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::attempt::RunningAttempt;
use contract::{Digest, EnvironmentName, diagnostic::Notice};
use journal::{JournalState, event::Release};
use plan::{DirAccess, PlanStep};
use sandbox::ModuleDescription;
use state::StateStore;

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
}

impl PruneError {
    /// Whether nothing was removed.
    #[must_use]
    pub fn is_before_first_removal(&self) -> bool {
        match self {
            Self::UnknownNeeds { .. } => true,
            Self::Io { .. } => false,
        }
    }
}

/// The releases to keep: the live one, the last `keep` verified ones (withdrawn ones come last), the targets of
/// `runner rollback` and of an automatic rollback, and the release of the last attempt.
fn retained_releases(state: &JournalState, keep: usize) -> Vec<Release> {
    let head = &state.head;
    let is_withdrawn = |release: &&Release| head.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
    let (withdrawn, good): (Vec<&Release>, Vec<&Release>) = head.verified.iter().rev().partition(is_withdrawn);
    let verified = good.into_iter().chain(withdrawn).take(keep);
    let exposing = state.records.values().filter(|record| record.intent.exposes);
    let back = exposing.filter_map(|record| record.live_before.as_ref());
    let last = state.attempts.last().map(|attempt| &attempt.header.release);
    verified.chain(&head.live).chain(head.rollback_target()).chain(back).chain(last).cloned().collect()
}

/// The directories that the steps of a plan install releases into.
pub fn release_dirs<'p>(steps: impl IntoIterator<Item = (&'p PlanStep, &'p ModuleDescription)>) -> BTreeSet<&'p Path> {
    steps.into_iter().filter_map(|(step, description)| release_dir(step, description)).collect()
}

/// The directory that a step installs releases into. It must be a writable grant of the step itself.
fn release_dir<'p>(step: &'p PlanStep, description: &ModuleDescription) -> Option<&'p Path> {
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

/// Removes the releases that neither this environment nor its siblings need. Returns the removed folders. If the state of
/// a sibling can't be read, it removes nothing.
///
/// # Errors
/// [`PruneError`]; the releases removed before the error stay removed.
pub fn prune(
    release_dirs: &BTreeSet<&Path>,
    state: &JournalState,
    siblings: &[SiblingEnvironment],
    keep: usize,
) -> Result<Vec<PathBuf>, PruneError> {
    let mut needed = retained_releases(state, keep);
    for SiblingEnvironment { name, store } in siblings {
        let unknown = |reason: String| PruneError::UnknownNeeds { environment: name.clone(), reason };
        let store = store.as_ref().map_err(|reason| unknown(reason.clone()))?;
        let state = store.load(|_| {}).map_err(|error| unknown(error.to_string()))?.state;
        // `keep` applies to this environment only, so all of the other environment's verified releases stay.
        needed.extend(retained_releases(&state, usize::MAX));
    }
    let kept: BTreeSet<String> = needed.iter().filter_map(|release| release.digest.as_ref()).map(Digest::hex).collect();
    let mut removed = Vec::new();
    for dir in release_dirs {
        let error = |source| PruneError::Io { path: (*dir).to_owned(), source };
        removed.extend(prune_folder(dir, &kept).map_err(error)?);
    }
    Ok(removed)
}

/// Removes old releases after a verified deployment, if the plan sets `keep` and the lock is still held. A failure does
/// not change how the attempt ends.
pub(super) async fn prune_after(attempt: &mut RunningAttempt<'_>) -> Option<Notice> {
    let prepared = attempt.prepared();
    let keep = prepared.plan.keep?;
    let failed = match attempt.confirm_lock().await {
        Ok(()) => {
            let dirs = release_dirs(prepared.steps.iter().map(|planned| (&planned.step, &planned.description)));
            prune(&dirs, attempt.journal.state(), &attempt.request.siblings, keep).err()?.to_string()
        }
        Err(error) => format!("can't remove old releases: {}", error.short_text(attempt.journal.redactor())),
    };
    Some(Notice::warning(format!("{failed}; the deployment itself succeeded")))
}

fn prune_folder(folder: &Path, kept: &BTreeSet<String>) -> io::Result<Vec<PathBuf>> {
    let releases = folder.join("releases");
    let entries = match fs::read_dir(&releases) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let linked = link_targets(folder)?;
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_release =
            name.to_str().is_some_and(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let is_kept = name.to_str().is_some_and(|name| kept.contains(name));
        if !is_release || is_kept || !entry.file_type()?.is_dir() || linked.contains(&entry.path().canonicalize()?) {
            continue;
        }
        let renamed = releases.join(format!(".tmp-pruned-{}", name.to_string_lossy()));
        fs::rename(entry.path(), &renamed)?;
        fs::remove_dir_all(&renamed)?;
        removed.push(entry.path());
    }
    Ok(removed)
}

/// The targets of the links next to `releases`.
fn link_targets(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut targets = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink()
            && let Ok(target) = entry.path().canonicalize()
        {
            targets.insert(target);
        }
    }
    Ok(targets)
}
