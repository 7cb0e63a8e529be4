//! The steps that are undone after a failure, by their records.

use crate::{JournalState, JournalTrust, RecordStatus, StepRecord, StepTarget};
use contract::RunId;

/// Whether a step can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoSupport {
    /// The module has a revert.
    Possible,
    /// The same, and it works beside what is live, so that no user sees its effect before the exposing step.
    Staged,
    /// The step cannot be undone, or is a check.
    Impossible,
}

/// A step on one of its targets, as far as an undo depends on it.
#[derive(Clone, Copy, Debug)]
pub struct UndoCandidate<'a> {
    /// The step.
    pub step_target: &'a StepTarget,
    /// Whether it can be undone.
    pub support: UndoSupport,
    /// Whether it exposes the release.
    pub exposes: bool,
}

/// What a rollback undoes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepsToUndo {
    /// From the first exposing step on, last first, so that the previous release is live again. Empty if the release was never exposed.
    pub exposed: Vec<StepTarget>,
    /// The staged steps before it, last first. They are undone after those.
    pub staged: Vec<StepTarget>,
}

/// The steps of this run that a rollback undoes: all that have an effect, from the first exposing one on, and the staged ones before it, as
/// far as they can be undone. `candidates` are in the order of the plan.
#[must_use]
pub fn steps_to_undo(state: &JournalState, run: &RunId, candidates: &[UndoCandidate<'_>]) -> StepsToUndo {
    let is_exposing = |candidate: &UndoCandidate<'_>| {
        effect_of_run(state, run, candidate.step_target)
            .is_some_and(|record| record.intent.exposes && record.trust == JournalTrust::Authenticated)
    };
    let exposing = candidates.iter().position(is_exposing).unwrap_or(candidates.len());
    let (before, exposed) = candidates.split_at(exposing);
    StepsToUndo {
        exposed: undoable(state, run, exposed, |support| support != UndoSupport::Impossible),
        staged: undoable(state, run, before, |support| support == UndoSupport::Staged),
    }
}

/// The staged steps of this run that are undone when nothing else is, last first: where the release is not exposed. That is so on a target
/// whose exposing step has no effect, or, if none follows there, where none has one anywhere.
#[must_use]
pub fn staged_steps_to_undo(state: &JournalState, run: &RunId, candidates: &[UndoCandidate<'_>]) -> Vec<StepTarget> {
    let has_effect = |candidate: &&UndoCandidate<'_>| effect_of_run(state, run, candidate.step_target).is_some();
    let mut unexposed = Vec::new();
    for (position, candidate) in candidates.iter().enumerate() {
        let is_there = |later: &&UndoCandidate<'_>| later.step_target.target == candidate.step_target.target;
        let mut there = candidates[position..].iter().filter(|later| later.exposes).filter(is_there).peekable();
        let is_exposed = match there.peek() {
            Some(_) => there.any(|exposing| has_effect(&exposing)),
            None => candidates.iter().filter(|other| other.exposes).any(|exposing| has_effect(&exposing)),
        };
        if !is_exposed {
            unexposed.push(*candidate);
        }
    }
    undoable(state, run, &unexposed, |support| support == UndoSupport::Staged)
}

/// Those that can be undone and have an effect, last first. An unauthenticated record undoes nothing.
fn undoable(
    state: &JournalState,
    run: &RunId,
    candidates: &[UndoCandidate<'_>],
    is_meant: impl Fn(UndoSupport) -> bool,
) -> Vec<StepTarget> {
    let is_authenticated = |step_target: &StepTarget| {
        effect_of_run(state, run, step_target).is_some_and(|record| record.trust == JournalTrust::Authenticated)
    };
    let meant = candidates.iter().rev().filter(|candidate| is_meant(candidate.support));
    meant.map(|candidate| candidate.step_target).filter(|step_target| is_authenticated(step_target)).cloned().collect()
}

/// The record of a step that may have an effect of this run.
fn effect_of_run<'s>(state: &'s JournalState, run: &RunId, step_target: &StepTarget) -> Option<&'s StepRecord> {
    let record = state.records.get(step_target).filter(|record| record.intent.run == *run)?;
    match record.status {
        RecordStatus::Succeeded(_) | RecordStatus::Intended | RecordStatus::Undoing(_) => Some(record),
        RecordStatus::Failed(_) | RecordStatus::Reverted => None,
    }
}
