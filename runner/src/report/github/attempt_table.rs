//! The steps of one attempt, folded from its entries for the page: what became of each, and what users see now.
//!
//! Deliberately absent: wording of the page, and Markdown.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::super::messages;
use contract::{
    StepId, TargetName,
    step::{ProbeFinding, StepFailure, StepOutcome, StepPhase},
    text::millis_between,
};
use journal::{
    AttemptStatuses, StepStatus,
    event::{Decision, JournalEntry, JournalEvent, JournalHeader, Release, StepTarget},
};

/// The most lines of a program that the page shows.
const MAX_OUTPUT_LINES: usize = 20;

/// What was live before an attempt.
#[derive(Clone, Debug, Default)]
pub struct LiveBefore {
    /// The live release.
    pub release: Option<Release>,
    /// What each step that shows a release replaced, by the records of earlier attempts.
    pub replaced: BTreeMap<StepTarget, Option<Release>>,
}

/// One attempt, as the page shows it.
#[derive(Debug, Default)]
pub(super) struct AttemptTable {
    pub(super) header: Option<JournalHeader>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) last_entry_at: Option<Timestamp>,
    pub(super) verified: bool,
    pub(super) rows: Vec<StepRow>,
    pub(super) live_before: LiveBefore,
    pub(super) visibility: ReleaseVisibility,
    /// What users see of it by each step and target that shows it.
    exposures: BTreeMap<StepTarget, ReleaseVisibility>,
    /// The release that a rollback switched back to, and why it is not verified.
    pub(super) switched_back: Option<(Release, Option<String>)>,
    /// The hosts that the attempt goes on without.
    left_behind: BTreeSet<TargetName>,
    /// Since when users have seen it, or saw it.
    shown_at: Option<Timestamp>,
    statuses: AttemptStatuses,
}

/// A step of the plan, or a hook.
#[derive(Debug)]
pub(super) struct StepRow {
    pub(super) step_target: StepTarget,
    /// None for a hook.
    pub(super) phase: Option<StepPhase>,
    /// Why it ran, was skipped, adopted or stopped; foreign.
    pub(super) reason: String,
    /// Its notes; foreign.
    pub(super) notes: String,
    /// The failure that it ended with.
    pub(super) failure: Option<StepFailure>,
    pub(super) took_ms: Option<u64>,
    /// Whether it found something to do.
    pub(super) acted: bool,
    /// The migrations that it applied; foreign.
    pub(super) applied: Vec<String>,
    /// How it went when a rollback repeated it for the release that it switched back to.
    pub(super) repeated: Option<RepeatedStep>,
    /// The last lines of its programs; foreign.
    pub(super) output: Vec<String>,
    exposes: bool,
}

/// A step that a rollback repeats.
#[derive(Debug)]
pub(super) struct RepeatedStep {
    /// The release that it is repeated for.
    pub(super) release: Release,
    /// Whether it succeeded; none before its end.
    pub(super) succeeded: Option<bool>,
}

/// What users see of the release, by the entries of one attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum ReleaseVisibility {
    /// No step that shows it has begun.
    #[default]
    Untouched,
    /// A step has shown it.
    Shown,
    /// A step has shown it on some of its hosts.
    ShownOn { hosts: usize, of: usize },
    /// A step that shows or hides it has no known outcome.
    Unknown,
    /// It was shown, and is hidden again.
    Hidden { restored: Option<Release>, shown_ms: Option<u64> },
}

impl AttemptTable {
    /// The table of an attempt that has not begun.
    pub(super) fn new(live_before: LiveBefore) -> Self {
        Self { live_before, ..Self::default() }
    }

    /// The status of a step.
    pub(super) fn status(&self, step_target: &StepTarget) -> StepStatus {
        self.statuses.status(step_target)
    }

    /// The step that the attempt ended at, if it did not reach the end.
    pub(super) fn failed_step(&self) -> Option<&StepTarget> {
        self.statuses.failed_step()
    }

    /// The row of the step that it ended at.
    pub(super) fn failed_row(&self) -> Option<&StepRow> {
        self.rows.iter().find(|row| Some(&row.step_target) == self.failed_step())
    }

    /// Its row, if the attempt has reached it or plans it.
    pub(super) fn row(&self, step_target: &StepTarget) -> Option<&StepRow> {
        self.rows.iter().find(|row| row.step_target == *step_target)
    }

    /// The position of a step in the plan, from 1, and the number of its steps.
    pub(super) fn position(&self, step_target: &StepTarget) -> Option<(usize, usize)> {
        let rows = self.rows.iter().filter(|row| row.phase.is_some());
        let mut steps: Vec<_> = rows.map(|row| &row.step_target.step).collect();
        steps.dedup();
        Some((steps.iter().position(|step| **step == step_target.step)? + 1, steps.len()))
    }

    /// The first step that did not hold from an earlier attempt.
    pub(super) fn first_step_that_acted(&self) -> Option<&StepTarget> {
        let is_kept = |row: &&StepRow| {
            matches!(self.status(&row.step_target), StepStatus::Skipped | StepStatus::Adopted | StepStatus::NotReached)
        };
        self.rows.iter().filter(|row| row.phase.is_some()).find(|row| !is_kept(row)).map(|row| &row.step_target)
    }

    /// Folds the next entry.
    pub(super) fn apply(&mut self, entry: &JournalEntry) {
        self.started_at.get_or_insert(entry.at);
        self.last_entry_at = Some(entry.at);
        let before = entry.event.step_target().map(|step_target| self.status(step_target));
        self.statuses.apply(&entry.event);
        match &entry.event {
            JournalEvent::Started(header) => self.header = Some(header.clone()),
            JournalEvent::Plan { steps, .. } => {
                let rows = steps.iter().map(|step| StepRow::new(step.step_target.clone(), Some(step.phase)));
                self.rows = rows.collect();
            }
            JournalEvent::Decision { step_target, decision: decision @ Decision::Skip { .. } }
                if before != Some(StepStatus::Adopted) =>
            {
                self.row_mut(step_target).reason = messages::decision_reason(decision);
                // What it showed in an earlier attempt counts among those of other hosts.
                if self.is_exposing(step_target) && self.targets_of(&step_target.step) > 1 {
                    self.set_visibility(step_target, ReleaseVisibility::Shown);
                }
            }
            // An adopted step is skipped right after. The row keeps the adoption.
            JournalEvent::Decision { decision: Decision::Skip { .. }, .. } if before == Some(StepStatus::Adopted) => {}
            JournalEvent::Decision { step_target, decision } => {
                let row = self.row_mut(step_target);
                row.reason = messages::decision_reason(decision);
                if matches!(decision, Decision::Adopt { .. }) && row.exposes {
                    self.show(step_target, entry.at);
                }
            }
            JournalEvent::Probe { step_target, took_ms, finding, .. } => {
                let row = self.row_mut(step_target);
                row.took_ms = Some(*took_ms);
                if let ProbeFinding::Held { receipt } = finding {
                    row.notes = messages::notes(&receipt.notes);
                }
            }
            // It is repeated for the release that a rollback switched back to. The row keeps what it did for this one.
            JournalEvent::Intent { step_target, release: Some(release), .. } => {
                let release = release.clone();
                self.row_mut(step_target).repeated = Some(RepeatedStep { release, succeeded: None });
            }
            JournalEvent::Intent { step_target, exposes, .. } => {
                let row = self.row_mut(step_target);
                row.notes.clear();
                row.exposes = *exposes;
                if *exposes {
                    self.set_visibility(step_target, ReleaseVisibility::Unknown);
                }
            }
            JournalEvent::Output { step_target, output } => {
                let row = self.row_mut(step_target);
                row.output.extend(output.lines.iter().map(|line| line.text.clone()));
                let surplus = row.output.len().saturating_sub(MAX_OUTPUT_LINES);
                row.output.drain(..surplus);
            }
            JournalEvent::Outcome { step_target, took_ms, outcome } => {
                let row = self.row_mut(step_target);
                if let Some(repeated) = &mut row.repeated {
                    repeated.succeeded = Some(matches!(outcome, StepOutcome::Succeeded { .. }));
                    return;
                }
                row.took_ms = Some(*took_ms);
                if let StepOutcome::Succeeded { receipt } = outcome {
                    row.acted = receipt.acted();
                    row.applied = messages::applied_migrations(receipt);
                }
                match outcome {
                    StepOutcome::Succeeded { receipt } if !receipt.acted() => {
                        row.notes = messages::nothing_to_do(&receipt.notes);
                    }
                    StepOutcome::Succeeded { receipt } => row.notes = messages::notes(&receipt.notes),
                    StepOutcome::Failed { failure } | StepOutcome::Unknown { failure } => {
                        row.failure = Some(failure.clone());
                    }
                }
                if row.exposes {
                    match outcome {
                        StepOutcome::Succeeded { .. } => self.show(step_target, entry.at),
                        StepOutcome::Failed { .. } => self.set_visibility(step_target, ReleaseVisibility::Untouched),
                        StepOutcome::Unknown { .. } => self.set_visibility(step_target, ReleaseVisibility::Unknown),
                    }
                }
            }
            JournalEvent::UndoIntent { step_target } => {
                if self.is_exposing(step_target) {
                    self.set_visibility(step_target, ReleaseVisibility::Unknown);
                }
            }
            JournalEvent::UndoOutcome { step_target, failure } => {
                let is_exposing = self.is_exposing(step_target);
                self.row_mut(step_target).failure = failure.clone();
                // A host that is left behind is undone alone: the others show the release, or will.
                let is_shown_elsewhere =
                    self.left_behind.contains(&step_target.target) && self.is_shown_elsewhere(step_target);
                if is_shown_elsewhere {
                    self.visibility = ReleaseVisibility::Shown;
                } else if is_exposing && failure.is_none() {
                    let shown_ms = self.shown_at.map(|since| millis_between(since, entry.at));
                    let restored = self.replaced_by(step_target);
                    self.set_visibility(step_target, ReleaseVisibility::Hidden { restored, shown_ms });
                }
            }
            JournalEvent::SwitchedBack { release, doubt } => {
                self.switched_back = Some((release.clone(), doubt.clone()))
            }
            JournalEvent::HostLeftBehind { target, .. } => {
                self.left_behind.insert(target.clone());
            }
            JournalEvent::Ended { verified, .. } => self.verified = *verified,
            JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::Resolved { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Unrecognized => {}
        }
    }

    fn show(&mut self, step_target: &StepTarget, at: Timestamp) {
        self.shown_at.get_or_insert(at);
        self.set_visibility(step_target, ReleaseVisibility::Shown);
    }

    /// Sets what users see of the release by a step on a target, and with that what they see by all.
    fn set_visibility(&mut self, step_target: &StepTarget, visibility: ReleaseVisibility) {
        self.exposures.insert(step_target.clone(), visibility);
        let is_any = |meant: &ReleaseVisibility| self.exposures.values().any(|one| one == meant);
        let hidden = |one: &&ReleaseVisibility| matches!(one, ReleaseVisibility::Hidden { .. });
        let shown = self.exposures.iter().filter(|(_, one)| **one == ReleaseVisibility::Shown);
        let hosts: BTreeSet<&TargetName> = shown.map(|(step_target, _)| &step_target.target).collect();
        let of = self.exposures.keys().map(|step_target| self.targets_of(&step_target.step)).max().unwrap_or(0);
        self.visibility = if is_any(&ReleaseVisibility::Unknown) {
            ReleaseVisibility::Unknown
        } else if !hosts.is_empty() && hosts.len() < of {
            ReleaseVisibility::ShownOn { hosts: hosts.len(), of }
        } else if !hosts.is_empty() {
            ReleaseVisibility::Shown
        } else {
            self.exposures.values().rfind(hidden).cloned().unwrap_or_default()
        };
    }

    /// On how many targets the plan runs a step.
    fn targets_of(&self, step: &StepId) -> usize {
        self.rows.iter().filter(|row| row.phase.is_some() && row.step_target.step == *step).count()
    }

    /// Whether another target shows the release by this attempt or an earlier one.
    fn is_shown_elsewhere(&self, step_target: &StepTarget) -> bool {
        let shows = |row: &&StepRow| {
            row.step_target != *step_target
                && self.is_exposing(&row.step_target)
                && matches!(self.status(&row.step_target), StepStatus::Ran | StepStatus::Skipped | StepStatus::Adopted)
        };
        self.rows.iter().any(|row| shows(&row))
    }

    fn is_exposing(&self, step_target: &StepTarget) -> bool {
        self.row(step_target).is_some_and(|row| row.exposes) || self.live_before.replaced.contains_key(step_target)
    }

    /// The release that was live before a step showed this one.
    fn replaced_by(&self, step_target: &StepTarget) -> Option<Release> {
        let header = self.header.as_ref();
        let is_this = |release: &Release| header.is_some_and(|header| header.release.is_same(release));
        let replaced = self.live_before.release.clone().filter(|live| !is_this(live));
        replaced.or_else(|| self.live_before.replaced.get(step_target).cloned().flatten())
    }

    fn row_mut(&mut self, step_target: &StepTarget) -> &mut StepRow {
        let at = self.rows.iter().position(|row| row.step_target == *step_target).unwrap_or_else(|| {
            // A hook is not a step of the plan.
            self.rows.push(StepRow::new(step_target.clone(), None));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

impl StepRow {
    fn new(step_target: StepTarget, phase: Option<StepPhase>) -> Self {
        Self {
            step_target,
            phase,
            reason: String::new(),
            notes: String::new(),
            failure: None,
            took_ms: None,
            acted: true,
            applied: Vec::new(),
            repeated: None,
            output: Vec::new(),
            exposes: false,
        }
    }
}
