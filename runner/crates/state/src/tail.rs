//! What becomes of the end of a local journal that a remote state does not have, as a pure rule: [`tail_decision`].
//!
//! A holder writes its journal locally first, and uploads it in the background. If it is killed, cut off or loses its lock, the last
//! lines stay on its machine. They are uploaded later, unless a later attempt ran without them: then the history has gone on, and
//! they can't be part of it. The rule never refuses, so nobody has to move files by hand.
//!
//! The tail says which steps may have acted, since an intent precedes each effect. A commit step acts only once its intent is
//! uploaded, so an intent in the tail has no effect, unless the tail also says how the step ended. Invariant: a step that acted is in the remote
//! state as begun, or in the tail's [`TailDecision::Quarantine`]. Deliberately absent: files. A caller with
//! [`TailDecision::Quarantine`] first notes the steps durably, and cuts the journal then.

use std::collections::{BTreeMap, BTreeSet};

use contract::step::{FailureKind, StepOutcome, StepPhase};
use journal::{JournalEvent, StepTarget, event::Decision, line};

/// A journal of this machine, and what the remote state knows of it.
#[derive(Clone, Copy, Debug)]
pub struct LocalJournal<'a> {
    /// The epoch of its attempt.
    pub epoch: u64,
    /// Its content. What follows the last newline is ignored.
    pub content: &'a [u8],
    /// How many bytes at its beginning the remote state has; 0 if it does not have the journal.
    pub acknowledged: usize,
    /// The newest epoch that the remote state has a journal of.
    pub newest_epoch: u64,
}

/// What to do with the tail of a local journal: the lines that the remote state does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailDecision {
    /// There is no tail, or no later attempt ran without it: the next holder of the lock uploads it.
    Keep,
    /// Cut it off: nothing in it had an effect that the remote state does not know of.
    Cut,
    /// Cut it off, and count these steps as begun: the next attempt probes them.
    Quarantine { begun: BTreeSet<StepTarget> },
}

/// Decides about the tail of a local journal whose beginning is the same as the remote's.
#[must_use]
pub fn tail_decision(journal: &LocalJournal<'_>) -> TailDecision {
    let end = journal.content.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    if end <= journal.acknowledged || journal.epoch >= journal.newest_epoch {
        return TailDecision::Keep;
    }
    let (known, tail) = journal.content[..end].split_at(journal.acknowledged);
    let mut steps = TailSteps::default();
    lines(known).for_each(|line| steps.note_plan(line));
    lines(tail).for_each(|line| steps.note(line));
    let begun = steps.begun();
    if begun.is_empty() { TailDecision::Cut } else { TailDecision::Quarantine { begun } }
}

/// The content of a journal's line; `None` if this runner can't read it.
type TailEvent = Option<JournalEvent>;

fn lines(content: &[u8]) -> impl Iterator<Item = TailEvent> {
    let lines = content.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    lines.map(|line| line::decode(line).ok().map(|(entry, _)| entry.event))
}

/// What a tail says about its steps.
#[derive(Default)]
struct TailSteps {
    phases: BTreeMap<StepTarget, StepPhase>,
    /// Steps with an intent that nothing has followed yet.
    intended: BTreeSet<StepTarget>,
    /// Steps that acted.
    acted: BTreeSet<StepTarget>,
    is_unreadable: bool,
}

impl TailSteps {
    fn note_plan(&mut self, event: TailEvent) {
        if let Some(JournalEvent::Plan { steps, .. }) = event {
            self.phases.extend(steps.into_iter().map(|step| (step.step_target, step.phase)));
        }
    }

    fn note(&mut self, event: TailEvent) {
        match event {
            Some(JournalEvent::Intent { step_target, .. } | JournalEvent::UndoIntent { step_target }) => {
                self.intended.insert(step_target);
            }
            Some(JournalEvent::Outcome { step_target, outcome, .. }) => self.end(step_target, was_begun(&outcome)),
            Some(JournalEvent::UndoOutcome { step_target, .. }) => self.end(step_target, true),
            // The intent was that of an adoption: the step did not act.
            Some(JournalEvent::Decision { step_target, decision: Decision::Adopt { .. } }) => {
                self.end(step_target, false)
            }
            // What an even earlier attempt lost is still to be told.
            Some(JournalEvent::RecordLost { step_target }) => drop(self.acted.insert(step_target)),
            Some(event @ JournalEvent::Plan { .. }) => self.note_plan(Some(event)),
            Some(
                JournalEvent::Started(_)
                | JournalEvent::Lock { .. }
                | JournalEvent::Torn { .. }
                | JournalEvent::SwitchedBack { .. }
                | JournalEvent::Decision { .. }
                | JournalEvent::Progress { .. }
                | JournalEvent::Output { .. }
                | JournalEvent::Probe { .. }
                | JournalEvent::Override { .. }
                | JournalEvent::HostLeftBehind { .. }
                | JournalEvent::Resolved { .. }
                | JournalEvent::Ended { .. },
            ) => {}
            Some(JournalEvent::Unrecognized) | None => self.is_unreadable = true,
        }
    }

    /// An outcome of a step whose intent the remote state has tells nothing new: the step is begun there.
    fn end(&mut self, step_target: StepTarget, acted: bool) {
        if self.intended.remove(&step_target) && acted {
            self.acted.insert(step_target);
        }
    }

    fn begun(mut self) -> BTreeSet<StepTarget> {
        for step_target in self.intended {
            match self.phases.get(&step_target) {
                // Its intent was not uploaded, so it did not act; a check changes nothing.
                Some(StepPhase::Commit | StepPhase::Check) => {}
                // A hook has no phase in the plan's record.
                Some(StepPhase::Prepare) | None => drop(self.acted.insert(step_target)),
            }
        }
        self.acted.retain(|step_target| self.phases.get(step_target) != Some(&StepPhase::Check));
        if self.is_unreadable {
            self.acted.extend(self.phases.into_keys());
        }
        self.acted
    }
}

/// Whether a step with this outcome may have had an effect.
fn was_begun(outcome: &StepOutcome) -> bool {
    match outcome {
        StepOutcome::Failed { failure } => failure.kind != FailureKind::NotBegun,
        StepOutcome::Succeeded { .. } | StepOutcome::Unknown { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{
        diagnostic::ExitKind,
        hash::Blake3Hash,
        step::{Receipt, StepFailure},
    };
    use jiff::Timestamp;
    use journal::event::{DecisionReason, Fingerprint, JournalEntry, PlanStepRecord};
    use serde_json::Value;

    fn step_target(step: &str) -> StepTarget {
        StepTarget { step: step.parse().unwrap(), target: "local".parse().unwrap() }
    }

    fn plan() -> JournalEvent {
        let phases = [("pull", StepPhase::Prepare), ("switch", StepPhase::Commit), ("verify", StepPhase::Check)];
        let steps = phases.map(|(step, phase)| PlanStepRecord {
            step_target: step_target(step),
            uses: String::new(),
            phase,
            exposes: false,
        });
        JournalEvent::Plan { digest: Blake3Hash::of(b""), path: String::new(), steps: steps.to_vec() }
    }

    fn intent(step: &str) -> JournalEvent {
        JournalEvent::Intent {
            step_target: step_target(step),
            key: String::new(),
            fingerprint: Fingerprint::default(),
            input: Value::Null,
            exposes: false,
            release: None,
        }
    }

    fn outcome(step: &str, outcome: StepOutcome) -> JournalEvent {
        JournalEvent::Outcome { step_target: step_target(step), took_ms: 1, outcome }
    }

    fn done(step: &str) -> JournalEvent {
        outcome(step, StepOutcome::Succeeded { receipt: Receipt::default() })
    }

    fn failed(step: &str, kind: FailureKind) -> JournalEvent {
        outcome(step, StepOutcome::Failed { failure: StepFailure::new(kind, "why") })
    }

    fn adopted(step: &str) -> JournalEvent {
        let decision = Decision::Adopt { reason: DecisionReason::NeverRan, receipt: Receipt::default() };
        JournalEvent::Decision { step_target: step_target(step), decision }
    }

    fn encoded(events: &[JournalEvent]) -> Vec<u8> {
        let entries = events.iter().map(|event| JournalEntry {
            seq: 0,
            prev: None,
            at: Timestamp::UNIX_EPOCH,
            event: event.clone(),
        });
        entries.flat_map(|entry| line::encode(&entry).bytes).collect()
    }

    /// The decision about `tail`, after a plan and `known` that the remote state has; a later attempt ran without the tail.
    #[track_caller]
    fn check(known: &[JournalEvent], tail: &[JournalEvent], expected: &[&str]) {
        let known = encoded(&[&[plan()], known].concat());
        let content = [known.clone(), encoded(tail)].concat();
        let journal = LocalJournal { epoch: 1, content: &content, acknowledged: known.len(), newest_epoch: 2 };
        let begun: BTreeSet<_> = expected.iter().map(|step| step_target(step)).collect();
        let expected = if begun.is_empty() { TailDecision::Cut } else { TailDecision::Quarantine { begun } };
        assert_eq!(tail_decision(&journal), expected);
    }

    #[test]
    fn tail_that_nobody_went_on_without_is_kept() {
        let content = encoded(&[plan(), intent("pull")]);
        let keeps = |acknowledged, newest_epoch| {
            tail_decision(&LocalJournal { epoch: 2, content: &content, acknowledged, newest_epoch })
                == TailDecision::Keep
        };
        assert!(keeps(0, 0) && keeps(0, 1) && keeps(0, 2), "no later attempt");
        assert!(keeps(content.len(), 3), "no tail");
        assert!(!keeps(0, 3));
        let torn = LocalJournal { epoch: 1, content: b"half a line", acknowledged: 0, newest_epoch: 2 };
        assert_eq!(tail_decision(&torn), TailDecision::Keep, "a torn line is no line");
    }

    #[test]
    fn tail_without_an_effect_is_cut() {
        check(&[], &[JournalEvent::Ended { exit: ExitKind::Locked, verified: false }], &[]);
        // Without its acknowledgement, a commit step does not act.
        check(&[], &[intent("switch")], &[]);
        check(&[], &[intent("switch"), failed("switch", FailureKind::NotBegun)], &[]);
        check(&[], &[JournalEvent::UndoIntent { step_target: step_target("switch") }], &[]);
        check(&[], &[intent("verify"), done("verify")], &[]);
        check(&[], &[intent("pull"), adopted("pull")], &[]);
        check(&[], &[intent("pull"), failed("pull", FailureKind::NotBegun)], &[]);
        // The remote state has the intent, so the step counts as begun there.
        check(&[intent("switch")], &[done("switch")], &[]);
        check(&[intent("pull")], &[done("pull"), intent("switch")], &[]);
    }

    #[test]
    fn steps_that_may_have_acted_count_as_begun() {
        check(&[], &[intent("pull")], &["pull"]);
        check(&[], &[intent("pull"), done("pull"), intent("switch")], &["pull"]);
        check(&[], &[intent("pull"), failed("pull", FailureKind::Transient)], &["pull"]);
        check(&[], &[intent("pull"), failed("pull", FailureKind::NotBegun), intent("pull")], &["pull"]);
        // A remote state that was restored from an older copy does not know that it acknowledged the intent.
        check(&[], &[intent("switch"), done("switch")], &["switch"]);
        check(&[], &[intent("hook")], &["hook"]);
    }

    #[test]
    fn unreadable_line_makes_all_steps_begun() {
        check(&[], &[JournalEvent::Unrecognized], &["pull", "switch", "verify"]);
        let known = encoded(&[plan()]);
        let content = [known.as_slice(), b"no line\n"].concat();
        let journal = LocalJournal { epoch: 1, content: &content, acknowledged: known.len(), newest_epoch: 2 };
        assert!(matches!(tail_decision(&journal), TailDecision::Quarantine { begun } if begun.len() == 3));
    }
}
