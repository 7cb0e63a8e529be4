//! Generated histories: attempts of several runs that work on three steps (one of each phase) on two targets, and stop
//! anywhere. Legal by construction: a move that may not come next is kept apart, as something the fold must refuse.

use contract::{
    AttemptNumber,
    diagnostic::ExitKind,
    hash::Blake3Hash,
    step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase},
};
use journal::{
    FindingSummary, JournalEvent, StepTarget,
    event::{
        Decision, DecisionReason, FIRST_EXACT_FORMAT, FORMAT, Fingerprint, JournalEntry, JournalFormat, JournalHeader,
        MAGIC, ProbeInput, Release,
    },
    line,
};
use proptest::prelude::*;

use super::oracle;

/// The steps, upstream first.
pub(crate) const STEPS: [(&str, StepPhase); 3] =
    [("pull", StepPhase::Prepare), ("switch", StepPhase::Commit), ("verify", StepPhase::Check)];

/// Where they run.
pub(crate) const TARGETS: [&str; 2] = ["local", "deploy@10.0.0.7"];

/// On which machines the attempts run.
pub(crate) const MACHINES: [&str; 2] = ["a1", "b2"];

/// One generated move. What it becomes hangs on what came before.
#[derive(Clone, Debug)]
pub(crate) enum HistoryOp {
    /// The attempt before simply stops, as by a kill.
    StartAttempt {
        new_run: bool,
        release: u8,
        /// Its journal is one that anybody could have written.
        untrusted: bool,
        /// Its runner masked secrets in inputs and receipts, as all attempts before it did.
        masks: bool,
        /// The index of its machine.
        machine: usize,
    },
    RecordIntent {
        target: usize,
        fingerprint: u8,
    },
    RecordOutcome {
        target: usize,
        choice: u8,
    },
    RecordProbe {
        target: usize,
        choice: u8,
    },
    RecordDecision {
        target: usize,
        choice: u8,
    },
    RecordUndoIntent {
        target: usize,
    },
    RecordUndoOutcome {
        target: usize,
        succeeded: bool,
    },
    EndAttempt,
}

/// Moves in the proportion in which they make long histories.
pub(crate) fn arb_ops() -> impl Strategy<Value = Vec<HistoryOp>> {
    let target = || 0..STEPS.len() * TARGETS.len();
    let one = prop_oneof![
        3 => (any::<bool>(), 0..3u8, prop::bool::weighted(0.3), any::<bool>(), 0..MACHINES.len()).prop_map(
            |(new_run, release, untrusted, masks, machine)| HistoryOp::StartAttempt { new_run, release, untrusted, masks, machine }
        ),
        8 => (target(), 0..2u8).prop_map(|(target, fingerprint)| HistoryOp::RecordIntent { target, fingerprint }),
        9 => (target(), 0..6u8).prop_map(|(target, choice)| HistoryOp::RecordOutcome { target, choice }),
        2 => (target(), 0..5u8).prop_map(|(target, choice)| HistoryOp::RecordProbe { target, choice }),
        5 => (target(), 0..6u8).prop_map(|(target, choice)| HistoryOp::RecordDecision { target, choice }),
        3 => target().prop_map(|target| HistoryOp::RecordUndoIntent { target }),
        4 => (target(), any::<bool>()).prop_map(|(target, succeeded)| HistoryOp::RecordUndoOutcome { target, succeeded }),
        1 => Just(HistoryOp::EndAttempt),
    ];
    // Few places are busy in one history, so that their events meet.
    (prop::collection::vec(one, 1..48), 1..=STEPS.len() * TARGETS.len()).prop_map(|(mut moves, busy)| {
        for one in &mut moves {
            match one {
                HistoryOp::RecordIntent { target: place, .. }
                | HistoryOp::RecordOutcome { target: place, .. }
                | HistoryOp::RecordProbe { target: place, .. }
                | HistoryOp::RecordDecision { target: place, .. }
                | HistoryOp::RecordUndoIntent { target: place }
                | HistoryOp::RecordUndoOutcome { target: place, .. } => *place %= busy,
                HistoryOp::StartAttempt { .. } | HistoryOp::EndAttempt => {}
            }
        }
        moves
    })
}

/// Every (step, target), in the order of the plan.
pub(crate) fn step_targets() -> Vec<(StepTarget, StepPhase)> {
    let on = |target: &str, step: &str| StepTarget { step: step.parse().unwrap(), target: target.parse().unwrap() };
    TARGETS.iter().flat_map(|target| STEPS.iter().map(move |(step, phase)| (on(target, step), *phase))).collect()
}

/// A history, and what may not come after which of its prefixes.
#[derive(Debug, Default)]
pub(crate) struct GeneratedHistory {
    pub(crate) entries: Vec<JournalEntry>,
    /// The hash of the line of each entry.
    pub(crate) hashes: Vec<Blake3Hash>,
    /// Of each entry, whether it stands in a journal that anybody could have written.
    pub(crate) untrusted: Vec<bool>,
    /// (length of the prefix, an entry that must not follow it).
    pub(crate) rejected: Vec<(usize, JournalEntry)>,
}

impl GeneratedHistory {
    /// Plays the moves.
    pub(crate) fn from_ops(moves: &[HistoryOp], places: &[(StepTarget, StepPhase)]) -> Self {
        let mut history = Self::default();
        let mut untrusted = false;
        let masks = matches!(moves.first(), Some(HistoryOp::StartAttempt { masks: true, .. }));
        history.push(JournalEvent::Started(header(None, true, 0, masks, 0)), untrusted);
        for one in moves {
            if let HistoryOp::StartAttempt { untrusted: new, .. } = one {
                untrusted = *new;
            }
            let event = history.event_of(one, places);
            history.push(event, untrusted);
        }
        history
    }

    fn push(&mut self, event: JournalEvent, hearsay: bool) {
        let seq = match (&event, self.entries.last()) {
            (JournalEvent::Started(_), _) | (_, None) => 0,
            (_, Some(last)) => last.seq + 1,
        };
        let at = jiff::Timestamp::from_second(1_767_225_600 + self.entries.len() as i64).unwrap();
        let entry = JournalEntry { seq, prev: self.hashes.last().copied(), at, event };
        if oracle::may_follow(&self.entries, &entry.event) {
            self.hashes.push(line::encode(&entry).hash);
            self.entries.push(entry);
            self.untrusted.push(hearsay);
        } else {
            self.rejected.push((self.entries.len(), entry));
        }
    }

    fn event_of(&self, one: &HistoryOp, places: &[(StepTarget, StepPhase)]) -> JournalEvent {
        let place = |index: &usize| places[*index].0.clone();
        let number = self.entries.len() as u64;
        let is_masked = number.is_multiple_of(3) && self.last_header().is_some_and(is_masking);
        let recorded = |from: &str| if is_masked { receipt("***-live", number) } else { receipt(from, number) };
        match one {
            HistoryOp::StartAttempt { new_run, release, masks, machine, .. } => {
                JournalEvent::Started(header(self.last_header(), *new_run, *release, *masks, *machine))
            }
            HistoryOp::RecordIntent { target: index, fingerprint: changed } => JournalEvent::Intent {
                step_target: place(index),
                key: format!("key-{number}"),
                fingerprint: fingerprint(*changed),
                input: serde_json::json!({ "number": number, "config": { "link": if is_masked { "***" } else { "live" } } }),
                exposes: STEPS[index % STEPS.len()].1 == StepPhase::Commit,
                release: None,
            },
            HistoryOp::RecordOutcome { target: index, choice: how } => JournalEvent::Outcome {
                step_target: place(index),
                took_ms: number,
                outcome: match how {
                    0..=3 => StepOutcome::Succeeded { receipt: recorded("recorded") },
                    4 => StepOutcome::Failed { failure: failure() },
                    _ => StepOutcome::Unknown { failure: failure() },
                },
            },
            HistoryOp::RecordProbe { target: index, choice: how } => JournalEvent::Probe {
                step_target: place(index),
                probed_input: if how % 2 == 0 { ProbeInput::Current } else { ProbeInput::Recorded },
                took_ms: number,
                finding: findings()[usize::from(*how)].clone(),
            },
            HistoryOp::RecordDecision { target: index, choice: how } => JournalEvent::Decision {
                step_target: place(index),
                decision: match how {
                    0 => Decision::Skip { reason: DecisionReason::Held, receipt: receipt("skipped", number) },
                    1 => Decision::Run { reason: DecisionReason::Absent },
                    2 => Decision::Stop { reason: DecisionReason::Drifted { why: "edited by hand".to_owned() } },
                    _ => Decision::Adopt {
                        reason: DecisionReason::Interrupted { finding: Some(FindingSummary::Held) },
                        receipt: recorded("recorded"),
                    },
                },
            },
            HistoryOp::RecordUndoIntent { target: index } => JournalEvent::UndoIntent { step_target: place(index) },
            HistoryOp::RecordUndoOutcome { target: index, succeeded: well } => {
                JournalEvent::UndoOutcome { step_target: place(index), failure: (!well).then(failure) }
            }
            HistoryOp::EndAttempt => JournalEvent::Ended { exit: ExitKind::Failed, verified: false },
        }
    }

    fn last_header(&self) -> Option<&JournalHeader> {
        self.entries.iter().rev().find_map(|entry| match &entry.event {
            JournalEvent::Started(header) => Some(header),
            _ => None,
        })
    }
}

/// Whether the attempt's runner masked secrets in inputs and receipts.
fn is_masking(header: &JournalHeader) -> bool {
    header.format < FIRST_EXACT_FORMAT
}

fn header(before: Option<&JournalHeader>, new_run: bool, release: u8, masks: bool, machine: usize) -> JournalHeader {
    // Nobody goes back to an older runner.
    let masks = masks && before.is_none_or(is_masking);
    let epoch = before.map_or(1, |header| header.epoch + 1);
    let (run, attempt, release) = match before.filter(|_| !new_run) {
        Some(header) => (header.run.clone(), header.attempt.next(), header.release.clone()),
        None => {
            let release = Release { label: format!("r{release}").parse().unwrap(), digest: None };
            (format!("run-{epoch}").parse().unwrap(), AttemptNumber::FIRST, release)
        }
    };
    JournalHeader {
        magic: MAGIC.to_owned(),
        format: if masks { JournalFormat { major: 1, minor: 2 } } else { FORMAT },
        app: "shop".parse().unwrap(),
        environment: "prod".parse().unwrap(),
        run,
        attempt,
        epoch,
        release,
        runner: "0.1.0".to_owned(),
        by: "ada@build-7".to_owned(),
        commit: None,
        url: None,
        machine: if masks { None } else { Some(MACHINES[machine].parse().unwrap()) },
    }
}

/// What a step depends on; different numbers differ in one component.
pub(crate) fn fingerprint(number: u8) -> Fingerprint {
    Fingerprint(
        [("config", Blake3Hash::of(&[number])), ("module", Blake3Hash::of(b"module"))]
            .map(|(k, v)| (k.to_owned(), v))
            .into(),
    )
}

/// What a newer runner computes for the same step: its module is another one, and a file is an input that was none before.
pub(crate) fn upgraded_fingerprint(before: &Fingerprint) -> Fingerprint {
    let mut components = before.0.clone();
    components.insert("module".to_owned(), Blake3Hash::of(b"newer module"));
    components.insert("input:script.sh".to_owned(), Blake3Hash::of(b"script"));
    Fingerprint(components)
}

/// A receipt that tells where it comes from.
pub(crate) fn receipt(from: &str, number: u64) -> Receipt {
    let outputs = serde_json::json!({ "from": from, "number": number });
    Receipt { outputs: outputs.as_object().unwrap().clone(), notes: serde_json::Map::default() }
}

/// Every kind of finding.
pub(crate) fn findings() -> [ProbeFinding; 5] {
    [
        ProbeFinding::Held { receipt: receipt("found", 0) },
        ProbeFinding::Absent,
        ProbeFinding::Drifted { why: "edited by hand".to_owned() },
        ProbeFinding::Unknown { why: "no answer".to_owned() },
        ProbeFinding::Failed { failure: failure() },
    ]
}

fn failure() -> StepFailure {
    let (kind, message) = (FailureKind::Transient, "no route to host".to_owned());
    StepFailure { kind, message, hint: None, retryable: true, details: serde_json::Map::default() }
}
