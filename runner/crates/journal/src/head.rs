//! The head of an environment: the live release and the verified ones.
//!
//! Deliberately absent: which events change it ([`super::state`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::event::Release;
use contract::TargetName;

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

/// Why a live release that was verified once does not count as verified now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LiveDoubt {
    /// Something that users see was changed since, and no attempt has ended verified after it.
    NotChecked,
    /// An undo switched back to it. Not every step was repeated for it, or a check failed.
    SwitchedBack {
        /// What was not repeated, or which check failed; none if that is not known.
        why: Option<String>,
    },
}

/// The live and the verified releases of an environment. "Live" and "verified" are separate facts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EnvironmentHead {
    /// The release that users see: that of the last exposing step that was not undone. None while targets show different ones.
    pub live: Option<Release>,
    /// The release that each target shows; none on a target that showed one and shows none now. A snapshot of a runner before
    /// journal format 1.6 has none of them: then the release is that of `local`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub live_on: BTreeMap<TargetName, Option<Release>>,
    /// Since when, and by whom; also of the moment when nothing was live any more.
    pub live_since: Option<LiveSince>,
    /// The releases that were live with every check passed, oldest first, each once; the newest [`MAX_VERIFIED_RELEASES`].
    pub verified: Vec<Release>,
    /// The verified releases that an operator rolled back from, and that were not deployed again since.
    pub withdrawn: Vec<Release>,
    /// Why the live release does not count as verified now, even if it was verified once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_doubt: Option<LiveDoubt>,
}

impl EnvironmentHead {
    /// The release that a target shows.
    #[must_use]
    pub fn live_on(&self, target: &TargetName) -> Option<&Release> {
        if self.live_on.is_empty() && *target == TargetName::local() {
            return self.live.as_ref();
        }
        self.live_on.get(target)?.as_ref()
    }

    /// Whether the targets show different releases.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.live.is_none() && self.live_on.values().any(Option::is_some)
    }

    /// The release that all of these targets show, as far as they show any; none if they show different ones.
    #[must_use]
    pub fn agreed_on(&self, targets: &BTreeSet<TargetName>) -> Option<&Release> {
        let mut shown = targets.iter().filter_map(|target| self.live_on(target));
        let first = shown.next()?;
        shown.all(|release| release.is_same(first)).then_some(first)
    }

    /// All releases that users may see.
    pub fn shown_releases(&self) -> impl Iterator<Item = &Release> {
        self.live.iter().chain(self.live_on.values().flatten())
    }

    /// Records what a target shows now.
    pub(super) fn set_live_on(&mut self, target: &TargetName, release: Option<Release>) {
        self.name_local_target();
        self.live_on.insert(target.clone(), release);
        self.live = self.agreed_release();
    }

    /// Takes over the targets that a plan exposes releases on: what others showed is forgotten, and a new one shows nothing yet.
    pub(super) fn set_targets(&mut self, targets: &BTreeSet<&TargetName>) {
        self.name_local_target();
        self.live_on.retain(|target, _| targets.contains(target));
        for target in targets {
            self.live_on.entry((*target).clone()).or_default();
        }
        self.live = self.agreed_release();
    }

    /// What an older runner recorded was shown by the runner's machine.
    fn name_local_target(&mut self) {
        if self.live_on.is_empty()
            && let Some(release) = &self.live
        {
            self.live_on.insert(TargetName::local(), Some(release.clone()));
        }
    }

    /// The release that all targets show.
    fn agreed_release(&self) -> Option<Release> {
        let mut shown = self.live_on.values();
        let first = shown.next()?.as_ref()?;
        let is_same = |release: &Option<Release>| release.as_ref().is_some_and(|release| release.is_same(first));
        shown.all(is_same).then(|| first.clone())
    }

    /// The target of a rollback: the last verified release before the live one, without withdrawn ones.
    #[must_use]
    pub fn rollback_target(&self) -> Option<&Release> {
        self.rollback_target_from(self.live.as_ref())
    }

    /// The same for targets that show a release; none if they show different ones.
    #[must_use]
    pub fn rollback_target_from(&self, live: Option<&Release>) -> Option<&Release> {
        let is_live = |release: &Release| live.is_some_and(|live| live.is_same(release));
        let is_withdrawn = |release: &Release| self.withdrawn.iter().any(|withdrawn| withdrawn.is_same(release));
        let until = self.verified.iter().position(is_live).unwrap_or(self.verified.len());
        self.verified[..until].iter().rev().find(|release| !is_withdrawn(release))
    }

    /// The targets that show a release which was verified before this one, each with that release.
    pub fn showing_earlier_than<'h>(
        &'h self,
        release: &Release,
    ) -> impl Iterator<Item = (&'h TargetName, &'h Release)> {
        let until = self.verified.iter().position(|verified| verified.is_same(release)).unwrap_or(0);
        let earlier = &self.verified[..until];
        let shown = self.live_on.iter().filter_map(|(target, shown)| Some((target, shown.as_ref()?)));
        shown.filter(move |(_, shown)| earlier.iter().any(|verified| verified.is_same(shown)))
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

    /// Whether the live release was verified, and nothing has cast doubt on it since.
    #[must_use]
    pub fn is_live_verified(&self) -> bool {
        self.live_doubt.is_none() && self.live.as_ref().is_some_and(|live| self.is_verified(live))
    }

    /// Whether a release was verified in this environment.
    #[must_use]
    pub fn is_verified(&self, release: &Release) -> bool {
        self.verified.iter().any(|verified| verified.is_same(release))
    }
}
