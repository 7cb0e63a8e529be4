//! What pruning looks at on a host, and what becomes of it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use contract::{Digest, Label};

/// A folder with the content of a release, and what pruning does with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFolder {
    pub path: PathBuf,
    /// The newest label of the release, if a deployment of it is on record.
    pub label: Option<Label>,
    pub fate: ReleaseFate,
}

/// What pruning does with a folder, and why, in words that follow the label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseFate {
    Kept(String),
    Removed(String),
}

/// Whether old releases are removed, or only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PruneMode {
    Examine,
    Remove,
}

/// What the records say of releases: which ones must stay, and the labels of the others. It is the same for all hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRetention {
    /// How many verified releases stay.
    pub keep: usize,
    /// Why a release stays.
    pub kept: BTreeMap<Digest, String>,
    /// The newest labels of verified releases.
    pub verified: BTreeMap<Digest, Label>,
    /// The newest labels of deployed releases.
    pub attempted: BTreeMap<Digest, Label>,
}

impl ReleaseRetention {
    /// What pruning does with a release; `use_there` is what it is used for on the host, if anything.
    #[must_use]
    pub fn fate(&self, digest: &Digest, use_there: Option<String>) -> ReleaseFate {
        let is_verified = self.verified.contains_key(digest);
        match (self.kept.get(digest), use_there) {
            (Some(why), _) => ReleaseFate::Kept(why.clone()),
            (None, Some(why)) => ReleaseFate::Kept(why),
            (None, None) if is_verified => {
                ReleaseFate::Removed(format!("was verified, and is not among the last {} verified releases", self.keep))
            }
            (None, None) if self.attempted.contains_key(digest) => {
                ReleaseFate::Removed("was never verified".to_owned())
            }
            (None, None) => ReleaseFate::Removed("is not in a recent deployment".to_owned()),
        }
    }
}
