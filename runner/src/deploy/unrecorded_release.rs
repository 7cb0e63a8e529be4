//! A link that points to a release of which the history knows nothing: the state was deleted, or this is a fresh workspace.
//!
//! It is found by what every such folder looks like: a link beside `releases` that points to a release in it. Deliberately absent:
//! adopting it, which is a deployment that only adopts (`runner import`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::release_folders;
use contract::{Digest, text::truncate};
use journal::JournalState;
use plan::Plan;

/// How many digits of a digest people see.
const SHOWN_DIGITS: usize = 8;

/// A release that users see and the history does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnrecordedRelease {
    /// The link.
    pub link: PathBuf,
    /// The digest of what it leads to.
    pub digest: Digest,
}

impl UnrecordedRelease {
    /// Finds a link in a directory that the plan grants, if no release is on record as live.
    #[must_use]
    pub fn find(plan: &Plan, state: &JournalState) -> Option<Self> {
        if state.head.shown_releases().next().is_some() || state.records.values().any(|record| record.intent.exposes) {
            return None;
        }
        let here = plan.steps.iter().filter(|step| step.remote_host().is_none());
        let dirs = here.flat_map(|step| step.grants.dirs.values());
        dirs.into_iter().find_map(|grant| find_in(&grant.path))
    }

    /// What people are told: "/srv/shop/current points to release 33bcc941, which is not on record".
    #[must_use]
    pub fn description(&self) -> String {
        self.sentence("points")
    }

    /// The same of the time before a deployment: "/srv/shop/current pointed to …".
    #[must_use]
    pub fn earlier_description(&self) -> String {
        self.sentence("pointed")
    }

    fn sentence(&self, verb: &str) -> String {
        let digest = self.digest.hex();
        let shown: String = digest.chars().take(SHOWN_DIGITS).collect();
        format!(
            "{} {verb} to release {shown}, which is not on record here",
            truncate(&self.link.display().to_string(), 200)
        )
    }
}

fn find_in(folder: &Path) -> Option<UnrecordedRelease> {
    let releases = folder.join(release_folders::RELEASES).canonicalize().ok()?;
    let links = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_symlink());
    let mut found: Vec<_> = links
        .filter_map(|link| {
            let target = link.canonicalize().ok().filter(|target| target.parent() == Some(&releases))?;
            Some(UnrecordedRelease { link, digest: release_folders::digest_of(&target)? })
        })
        .collect();
    found.sort_by(|one, other| one.link.cmp(&other.link));
    found.into_iter().next()
}
