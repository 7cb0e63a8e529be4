//! Decisions over generated histories: `schedule::decide` agrees with an oracle that was written on its own, from
//! docs/journal.md, "Decisions", at every prefix of at least 10,000 histories; and the fold is what the oracle says may be folded.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]
#![expect(clippy::wildcard_enum_match_arm, reason = "the oracle names the events that matter to it")]

#[path = "decisions/checkpoints.rs"]
mod checkpoints;
#[path = "decisions/history.rs"]
mod history;
#[path = "decisions/oracle.rs"]
mod oracle;
#[path = "decisions/undo.rs"]
mod undo;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use contract::{
    MachineId, RunId,
    hash::Blake3Hash,
    step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase},
};
use history::{GeneratedHistory, HistoryOp, arb_ops, findings, fingerprint, step_targets, upgraded_fingerprint};
use journal::{
    JournalState, JournalTrust, Snapshot, StepTarget,
    decision::{
        DecisionInput, HostOutcome, ModuleOrigin, NextAction, ProbeSupport, RerunSafety, StepOverrides, decide,
        is_made_elsewhere, unpassed_check_since, upstream_ran,
    },
    event::{Decision, DecisionReason, JournalEntry, ProbeInput},
    state::{RecordOrigin, StepRecord},
};
use oracle::{OracleInput, OracleRecord};
use proptest::{prelude::*, test_runner::TestCaseResult};

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Main property: the schedule matches the oracle, whatever the world, the module and the operator say.
    #[test]
    fn decisions_match_the_oracle_1(moves in arb_ops()) {
        compare_history(&moves)?;
    }

    /// Main property: the schedule matches the oracle, whatever the world, the module and the operator say.
    #[test]
    fn decisions_match_the_oracle_2(moves in arb_ops()) {
        compare_history(&moves)?;
    }
}

/// Compares the decisions about each step at each prefix of a history.
fn compare_history(moves: &[HistoryOp]) -> TestCaseResult {
    let places = step_targets();
    let history = GeneratedHistory::from_ops(moves, &places);
    let mut state = JournalState::default();
    // `decide` is pure: what it was asked about a step and is asked again needs no second look.
    let mut looked_at = BTreeMap::new();
    for (index, entry) in history.entries.iter().enumerate() {
        apply_entry(&mut state, entry, &history, index);
        let prefix = &history.entries[..=index];
        let run = state.attempts.last().expect("a history begins with a header").header.run.clone();
        for (number, (place, phase)) in places.iter().enumerate() {
            let upstream = places[..number].iter().map(|(above, _)| above).filter(|above| above.target == place.target);
            let ran = upstream_ran(&state, place, upstream.clone());
            let begun = oracle::last_started_attempt(prefix, place);
            prop_assert_eq!(ran, upstream.clone().any(|above| oracle::last_started_attempt(prefix, above) > begun));
            let past = oracle::read_record(prefix, &history.untrusted, place);
            compare_staleness(&state, prefix, &history.untrusted, &places, place)?;
            let record = state.records.get(place);
            let record = record.map(|record| (std::mem::discriminant(&record.status), record.intent.epoch));
            let question = (past, record, run.clone(), ran);
            if looked_at.get(place) != Some(&question) {
                compare_once(state.records.get(place), *phase, &past, &run, ran, (index + number) % TURNS)?;
                looked_at.insert(place, question);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A snapshot stands for what came before it, at every cut. The fold is a function of the state and the entry, so an equal
    /// state leads to an equal end; at one cut, that is shown too.
    #[test]
    fn snapshot_and_rest_are_folded_as_the_whole(moves in arb_ops(), cut in any::<prop::sample::Index>()) {
        let history = GeneratedHistory::from_ops(&moves, &step_targets());
        let cut = cut.index(history.entries.len());
        let (mut state, mut continued) = (JournalState::default(), None);
        for (index, entry) in history.entries.iter().enumerate() {
            apply_entry(&mut state, entry, &history, index);
            if let Some(continued) = &mut continued {
                apply_entry(continued, entry, &history, index);
            }
            let snapshot = Snapshot { state: state.clone(), index: history.hashes[index] };
            let mut read = Snapshot::decode(&snapshot.encode().expect("no newer format")).expect("it was just written");
            prop_assert_eq!(read.index, history.hashes[index]);
            read.state.trust = state.trust;
            prop_assert_eq!(&read.state, &state);
            if index == cut {
                continued = Some(read.state);
            }
        }
        prop_assert_eq!(continued.as_ref(), Some(&state));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The fold is a fold: the same twice, the same in two parts.
    #[test]
    fn folding_a_prefix_and_then_the_rest_is_folding_the_whole(moves in arb_ops(), cut in any::<prop::sample::Index>()) {
        let history = GeneratedHistory::from_ops(&moves, &step_targets());
        let fold_all = |mut state: JournalState, range: std::ops::Range<usize>| {
            for index in range {
                apply_entry(&mut state, &history.entries[index], &history, index);
            }
            state
        };
        let whole = fold_all(JournalState::default(), 0..history.entries.len());
        prop_assert_eq!(&whole, &fold_all(JournalState::default(), 0..history.entries.len()));
        let cut = cut.index(history.entries.len());
        prop_assert_eq!(&whole, &fold_all(fold_all(JournalState::default(), 0..cut), cut..history.entries.len()));
    }

    /// What the oracle says may not come next is refused, and so is every line out of its place; the state stays.
    #[test]
    fn illegal_event_is_rejected_and_leaves_the_state_unchanged(moves in arb_ops()) {
        let history = GeneratedHistory::from_ops(&moves, &step_targets());
        let mut state = JournalState::default();
        for (index, entry) in history.entries.iter().enumerate() {
            let hash = history.hashes[index];
            let before = state.clone();
            for (_, refused) in history.rejected.iter().filter(|(prefix, _)| *prefix == index) {
                prop_assert!(state.apply(refused, hash, refused.seq).is_err(), "{refused:?}");
            }
            prop_assert!(state.apply(entry, hash, entry.seq + 1).is_err(), "out of sequence");
            let unchained = JournalEntry { prev: Some(Blake3Hash::of(b"another line")), ..entry.clone() };
            prop_assert!(state.apply(&unchained, hash, entry.seq).is_err(), "out of the chain");
            let header_or_not = JournalEntry { seq: u64::from(entry.seq == 0), ..entry.clone() };
            prop_assert!(state.apply(&header_or_not, hash, header_or_not.seq).is_err(), "the header is the first line");
            prop_assert_eq!(&state, &before);
            apply_entry(&mut state, entry, &history, index);
        }
        for (_, refused) in history.rejected.iter().filter(|(prefix, _)| *prefix == history.entries.len()) {
            let before = state.clone();
            prop_assert!(state.apply(refused, history.hashes[0], refused.seq).is_err(), "{refused:?}");
            prop_assert_eq!(&state, &before);
        }
    }
}

fn apply_entry(state: &mut JournalState, entry: &JournalEntry, history: &GeneratedHistory, index: usize) {
    state.trust = if history.untrusted[index] { JournalTrust::Untrusted } else { JournalTrust::Authenticated };
    state.apply(entry, history.hashes[index], entry.seq).expect("the oracle says that it may follow");
}

/// What a history does not tell: four facts that are so or not, and five outcomes on a host.
const TURNS: usize = 16 * 5;

/// The questions on which both agreed, in any history. Both are pure: asked again, they agree again.
static AGREED: Mutex<BTreeSet<Blake3Hash>> = Mutex::new(BTreeSet::new());

/// Asks both about one step, unless they were asked the same before.
fn compare_once(
    recorded: Option<&StepRecord>,
    phase: StepPhase,
    past: &OracleRecord<'_>,
    run: &RunId,
    upstream_ran: bool,
    turn: usize,
) -> TestCaseResult {
    let question = format!("{recorded:?} {phase:?} {past:?} {run:?} {upstream_ran} {turn}");
    let question = Blake3Hash::of(question.as_bytes());
    if AGREED.lock().unwrap().contains(&question) {
        return Ok(());
    }
    compare_with_oracle(recorded, phase, past, run, upstream_ran, turn)?;
    AGREED.lock().unwrap().insert(question);
    Ok(())
}

/// Asks both about one step, with everything that a history does not tell.
fn compare_with_oracle(
    recorded: Option<&StepRecord>,
    phase: StepPhase,
    past: &OracleRecord<'_>,
    run: &RunId,
    upstream_ran: bool,
    first_turn: usize,
) -> TestCaseResult {
    let confirmed =
        recorded.cloned().map(|record| StepRecord { origin: RecordOrigin::Operator { epoch: 1 }, ..record });
    let same = past.fingerprint.cloned().unwrap_or_default();
    let (other, upgraded) = (fingerprint(9), upgraded_fingerprint(&same));
    let findings: Vec<_> = std::iter::once(None).chain(findings().map(Some)).collect();
    let check = step_targets().into_iter().find(|(_, phase)| *phase == StepPhase::Check).unwrap().0;
    // What a history does not tell takes turns, so that each comes with each of the rest.
    let mut turns = (0..TURNS).cycle().skip(first_turn);
    let host_outcomes = host_outcomes();
    let comparisons = [
        (&same, ModuleOrigin::Official),
        (&other, ModuleOrigin::Official),
        (&upgraded, ModuleOrigin::Official),
        (&upgraded, ModuleOrigin::External),
    ];
    for (now, module_origin) in comparisons {
        for orders in all_overrides() {
            for probing in [ProbeSupport::Available, ProbeSupport::ConfirmsSuccess, ProbeSupport::Missing] {
                for repeat in [RerunSafety::Safe, RerunSafety::Unsafe] {
                    for finding in &findings {
                        let finding = finding.as_ref();
                        let turn = turns.next().unwrap_or_default();
                        let (is_stale, is_elsewhere, always) = (turn & 1 != 0, turn & 2 != 0, turn & 4 != 0);
                        let (host, is_confirmed) = (host_outcomes[turn / 16].as_ref(), turn & 8 != 0);
                        let facts = DecisionInput {
                            host_outcome: host,
                            unpassed_check: is_stale.then_some(&check),
                            made_elsewhere: is_elsewhere,
                            always,
                            phase,
                            probe_support: probing,
                            rerun_safety: repeat,
                            module_origin,
                            record: if is_confirmed { confirmed.as_ref() } else { recorded },
                            fingerprint: now,
                            run,
                            upstream_ran,
                            overrides: orders,
                            finding,
                        };
                        let is_check = phase == StepPhase::Check;
                        let input = OracleInput {
                            record: *past,
                            is_stale,
                            is_elsewhere,
                            is_confirmed,
                            host,
                            always,
                            is_check,
                            probing,
                            repeat,
                            is_official: module_origin == ModuleOrigin::Official,
                            current: now,
                            run,
                            upstream_ran,
                            overrides: orders,
                            finding,
                        };
                        let verdict = decide(&facts);
                        prop_assert_eq!(
                            action_as_answer(&verdict, past, finding),
                            oracle::oracle_answer(&input),
                            "{:#?}",
                            input
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// Asks both whether what is on record of a step may no longer be so.
fn compare_staleness(
    state: &JournalState,
    prefix: &[JournalEntry],
    untrusted: &[bool],
    places: &[(StepTarget, StepPhase)],
    place: &StepTarget,
) -> TestCaseResult {
    let checks: Vec<_> =
        places.iter().filter(|(_, phase)| *phase == StepPhase::Check).map(|(check, _)| check).collect();
    for repeat in [RerunSafety::Safe, RerunSafety::Unsafe] {
        prop_assert_eq!(
            unpassed_check_since(state, place, repeat, checks.iter().copied()),
            oracle::unpassed_check(prefix, untrusted, place, repeat, &checks)
        );
    }
    if let Some(record) = state.records.get(place) {
        let here: MachineId = history::MACHINES[0].parse().unwrap();
        for is_local in [true, false] {
            let made_by = oracle::machine_of(prefix, place);
            let expected = made_by.map_or(!is_local, |machine| *machine != here);
            prop_assert_eq!(is_made_elsewhere(record, Some(&here), is_local), expected);
        }
    }
    Ok(())
}

/// What a host may have recorded: nothing, a success, a failure, what no host says, and an undo of its own.
fn host_outcomes() -> [Option<HostOutcome>; 5] {
    let failure = || StepFailure::new(FailureKind::Permanent, "no");
    let receipt = Receipt { notes: [("host".to_owned(), true.into())].into_iter().collect(), ..Receipt::default() };
    [
        None,
        Some(HostOutcome::Ended(StepOutcome::Succeeded { receipt })),
        Some(HostOutcome::Ended(StepOutcome::Failed { failure: failure() })),
        Some(HostOutcome::Ended(StepOutcome::Unknown { failure: failure() })),
        Some(HostOutcome::NotConfirmed),
    ]
}

fn all_overrides() -> impl Iterator<Item = StepOverrides> {
    let all = (0..32).map(|bits| StepOverrides {
        accept_drift: bits & 1 != 0,
        fresh: bits & 2 != 0,
        selected_by_name: bits & 4 != 0,
        journal_missing: bits & 8 != 0,
        upstream_selected: bits & 16 != 0,
    });
    // Of a step that is named, the steps before it change nothing.
    all.filter(|overrides| !(overrides.selected_by_name && overrides.upstream_selected))
}

/// A verdict in the words of the oracle.
fn action_as_answer(
    verdict: &NextAction,
    past: &OracleRecord<'_>,
    finding: Option<&ProbeFinding>,
) -> oracle::OracleAnswer {
    let whose = |receipt: &Receipt| match finding {
        _ if receipt.notes.contains_key("host") => oracle::HOST_RECEIPT,
        Some(ProbeFinding::Held { receipt: found }) if found == receipt => "found receipt",
        _ if past.receipt == Some(receipt) => "recorded receipt",
        _ => "nobody's receipt",
    };
    match verdict {
        NextAction::Probe(ProbeInput::Current) => ("probe", "current", "no receipt"),
        NextAction::Probe(ProbeInput::Recorded) => ("probe", "recorded", "no receipt"),
        NextAction::FinishUndo => ("finish undo", "", "no receipt"),
        NextAction::Decided(Decision::Skip { reason, receipt }) => ("skip", reason_code(reason), whose(receipt)),
        NextAction::Decided(Decision::Adopt { reason, receipt }) => ("adopt", reason_code(reason), whose(receipt)),
        NextAction::Decided(Decision::Run { reason }) => ("run", reason_code(reason), "no receipt"),
        NextAction::Decided(Decision::Stop { reason }) => ("stop", reason_code(reason), "no receipt"),
    }
}

fn reason_code(reason: &DecisionReason) -> &'static str {
    match reason {
        DecisionReason::NeverRan => "never-ran",
        DecisionReason::Reverted => "reverted",
        DecisionReason::FailedBefore => "failed-before",
        DecisionReason::Changed { .. } => "changed",
        DecisionReason::Held => "held",
        DecisionReason::Absent => "absent",
        DecisionReason::Drifted { .. } => "drifted",
        DecisionReason::DriftAccepted { .. } => "drift-accepted",
        DecisionReason::Unknown { .. } => "unknown",
        DecisionReason::Trusted => "trusted",
        DecisionReason::NoProbe => "no-probe",
        DecisionReason::Interrupted { .. } => "interrupted",
        DecisionReason::Unconfirmed { .. } => "unconfirmed",
        DecisionReason::Stale { .. } => "stale",
        DecisionReason::MadeElsewhere => "made-elsewhere",
        DecisionReason::HostRecord => "host-record",
        DecisionReason::NotConfirmed => "not-confirmed",
        DecisionReason::Always => "always",
        DecisionReason::InvalidInput { .. } => "invalid-input",
        DecisionReason::RehearsalFailed { .. } => "rehearsal-failed",
        DecisionReason::UpstreamRan => "upstream-ran",
        DecisionReason::CheckFailed { .. } => "check-failed",
        DecisionReason::Fresh => "fresh",
        DecisionReason::RequestedByOperator => "operator-word",
        DecisionReason::NotInRollback => "not-in-rollback",
        DecisionReason::NotSelected => "not-selected",
        DecisionReason::ProbeFailed { .. } => "probe-failed",
        DecisionReason::UndoUnfinished => "undo-unfinished",
    }
}
