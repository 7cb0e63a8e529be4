//! The head of an environment: the live release and the verified ones.
//!
//! Deliberately absent: which events change it ([`super::state`]).

use serde::{Deserialize, Serialize};

use super::event::Release;

/// How many verified releases a state keeps, the newest ones.
pub const MAX_VERIFIED_RELEASES: usize = 100;

/// When the live release changed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LiveSince {
    /// The time of the record.
    pub at: jiff::Timestamp,
    /// The operator of the attempt.
    pub by: String,
}

/// The live and the verified releases of an environment. "Live" and "verified" are separate facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EnvironmentHead {
    /// The release that users see: that of the last exposing step that was not undone.
    pub live: Option<Release>,
    /// Since when, and by whom; also of the moment when nothing was live any more.
    pub live_since: Option<LiveSince>,
    /// The releases that were live with every check passed, oldest first, each once; the newest [`MAX_VERIFIED_RELEASES`].
    pub verified: Vec<Release>,
    /// The verified releases that an operator rolled back from, and that were not deployed again since.
    pub withdrawn: Vec<Release>,
}

impl EnvironmentHead {
    /// The target of a rollback: the last verified release before the live one, without withdrawn ones.
    #[must_use]
    pub fn rollback_target(&self) -> Option<&Release> {
        let is_live = |release: &Release| self.live.as_ref().is_some_and(|live| live.is_same(release));
        let is_withdrawn = |release: &Release| self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
        let until = self.verified.iter().position(is_live).unwrap_or(self.verified.len());
        self.verified[..until].iter().rev().find(|release| !is_withdrawn(release))
    }

    /// Records that a release was live with every check passed.
    pub(super) fn record_verified(&mut self, release: Release, is_rollback: bool) {
        let position = self.verified.iter().position(|verified| verified.is_same(&release));
        match position {
            Some(position) if is_rollback => {
                for later in &self.verified[position + 1..] {
                    if !self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(later)) {
                        self.withdrawn.push(later.clone());
                    }
                }
            }
            Some(_) | None => {
                self.withdrawn.retain(|withdrawn| !withdrawn.is_same(&release));
                self.verified.retain(|verified| !verified.is_same(&release));
                self.verified.push(release);
                let surplus = self.verified.len().saturating_sub(MAX_VERIFIED_RELEASES);
                for dropped in self.verified.drain(..surplus) {
                    self.withdrawn.retain(|withdrawn| !withdrawn.is_same(&dropped));
                }
            }
        }
    }

    /// Whether a release was verified in this environment.
    #[must_use]
    pub fn is_verified(&self, release: &Release) -> bool {
        self.verified.iter().any(|verified| verified.is_same(release))
    }
}
