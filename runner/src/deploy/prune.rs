//! Removes old release folders, except those of the live, the recent verified and the last deployed release.
//!
//! Invariants: it removes only folders whose content is known ([`release_folders`]), only in directories that a step with
//! `installs-releases` may write to, and never the target of a link next to `releases`. It first renames a folder to
//! `.tmp-…`, the name of an unfinished pull. It needs the lock. Deliberately absent: removing journals, which would break
//! the hash chain; and a record of what was removed, since a deployment pulls a missing release again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{attempt::RunningAttempt, release_folders};
use contract::{EnvironmentName, Label, diagnostic::Notice};
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

/// A folder with the content of a release, and what pruning does with it.
pub struct ReleaseFolder {
    pub path: PathBuf,
    /// The newest label of the release, if a deployment of it is on record.
    pub label: Option<Label>,
    pub fate: ReleaseFate,
}

/// What pruning does with a folder, and why, in words that follow the label.
pub enum ReleaseFate {
    Kept(String),
    Removed(String),
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

/// The directories of this machine that the steps of a plan install releases into.
pub fn release_dirs<'p>(steps: impl IntoIterator<Item = (&'p PlanStep, &'p ModuleDescription)>) -> BTreeSet<&'p Path> {
    let here = steps.into_iter().filter(|(step, _)| step.remote_host().is_none());
    here.filter_map(|(step, description)| release_dir(step, description)).collect()
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

/// All folders of releases, each with what pruning does with it: it removes what neither this environment nor its siblings need.
///
/// # Errors
/// [`PruneError`] when the state of a sibling or a directory can't be read.
pub fn examine_releases(
    release_dirs: &BTreeSet<&Path>,
    state: &JournalState,
    siblings: &[SiblingEnvironment],
    keep: usize,
) -> Result<Vec<ReleaseFolder>, PruneError> {
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
    let mut folders = Vec::new();
    for dir in release_dirs {
        let error = |source| PruneError::Io { path: (*dir).to_owned(), source };
        let linked = link_targets(dir).map_err(error)?;
        for (path, digest) in release_folders::list(dir).map_err(error)? {
            let is_linked = linked.contains(&path.canonicalize().map_err(error)?);
            let of_digest = |release: &&Release| release.digest.as_ref() == Some(&digest);
            let attempted = state.attempts.iter().rev().map(|attempt| &attempt.header.release).find(of_digest);
            let verified = state.head.verified.iter().rev().find(of_digest);
            let fate = match (kept.get(&digest), is_linked, verified, attempted) {
                (Some(why), ..) => ReleaseFate::Kept(why.clone()),
                (None, true, ..) => ReleaseFate::Kept("is what a link points to".to_owned()),
                (None, false, Some(_), _) => {
                    ReleaseFate::Removed(format!("was verified, and is not among the last {keep} verified releases"))
                }
                (None, false, None, Some(_)) => ReleaseFate::Removed("was never verified".to_owned()),
                (None, false, None, None) => ReleaseFate::Removed("is in no recent deployment on record".to_owned()),
            };
            let label = attempted.or(verified).map(|release| release.label.clone());
            folders.push(ReleaseFolder { path, label, fate });
        }
    }
    Ok(folders)
}

/// Removes the releases that nobody needs ([`examine_releases`]). Returns the removed folders. If the state of a sibling can't be read,
/// it removes nothing.
///
/// # Errors
/// [`PruneError`]; the releases removed before the error stay removed.
pub fn prune(
    release_dirs: &BTreeSet<&Path>,
    state: &JournalState,
    siblings: &[SiblingEnvironment],
    keep: usize,
) -> Result<Vec<PathBuf>, PruneError> {
    let mut removed = Vec::new();
    for ReleaseFolder { path, fate, .. } in examine_releases(release_dirs, state, siblings, keep)? {
        match fate {
            ReleaseFate::Kept(_) => {}
            ReleaseFate::Removed(_) => {
                // `<directory>/releases/<name>`
                let dir = || path.ancestors().nth(2).unwrap_or(&path).to_owned();
                remove_release(&path).map_err(|source| PruneError::Io { path: dir(), source })?;
                removed.push(path);
            }
        }
    }
    Ok(removed)
}

/// Removes old releases after a verified deployment, if the plan sets `keep` and the lock is still held. A failure does
/// not change how the attempt ends.
pub(super) async fn prune_after(attempt: &RunningAttempt<'_>) -> Option<Notice> {
    let prepared = attempt.prepared();
    let keep = prepared.plan.keep?;
    let failed = match attempt.confirm_lock().await {
        Ok(()) => {
            let dirs = release_dirs(prepared.steps.iter().map(|planned| (&planned.step, &planned.description)));
            prune(&dirs, &attempt.state(), &attempt.request.siblings, keep).err()?.to_string()
        }
        Err(error) => format!("can't remove old releases: {}", error.short_text(attempt.journal.borrow().redactor())),
    };
    Some(Notice::warning(format!("{failed}; the deployment itself succeeded")))
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
