//! Decisions over generated histories: `schedule::decide` agrees with an oracle that was written on its own, from
//! DESIGN §6, at every prefix of at least 10,000 histories; and the fold is what the oracle says may be folded.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

#[path = "decisions/history.rs"]
mod history;
#[path = "decisions/oracle.rs"]
mod oracle;

use std::collections::BTreeMap;

use contract::{
    RunId,
    step::{Finding, Phase, Receipt},
};
use history::{History, findings, fingerprint, moves, places};
use journal::{
    Place, State, Trust,
    decision::{Facts, Orders, Probing, Repeat, Verdict, decide, upstream_ran},
    event::{Decision, Entry, Question, Reason},
};
use oracle::{Asked, Past};
use proptest::{prelude::*, test_runner::TestCaseResult};

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Main property: the schedule matches the oracle, whatever the world, the module and the operator say.
    #[test]
    fn decisions_match_the_oracle(moves in moves()) {
        let places = places();
        let history = History::of(&moves, &places);
        let mut state = State::default();
        // `decide` is pure: what it was asked about a step and is asked again needs no second look.
        let mut looked_at = BTreeMap::new();
        for (index, entry) in history.entries.iter().enumerate() {
            fold(&mut state, entry, &history, index);
            let prefix = &history.entries[..=index];
            let run = state.attempts.last().expect("a history begins with a header").header.run.clone();
            for (number, (place, phase)) in places.iter().enumerate() {
                let upstream = places[..number].iter().map(|(above, _)| above).filter(|above| above.target == place.target);
                let ran = upstream_ran(&state, place, upstream.clone());
                let begun = oracle::begun_in(prefix, place);
                prop_assert_eq!(ran, upstream.clone().any(|above| oracle::begun_in(prefix, above) > begun));
                let past = oracle::past(prefix, &history.hearsay, place);
                let record = state.records.get(place);
                let record = record.map(|record| (std::mem::discriminant(&record.status), record.intent.epoch));
                let question = (past, record, run.clone(), ran);
                if looked_at.get(place) != Some(&question) {
                    compare(&state, place, *phase, &past, &run, ran)?;
                    looked_at.insert(place, question);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The fold is a fold: the same twice, the same in two parts.
    #[test]
    fn folding_a_prefix_and_then_the_rest_is_folding_the_whole(moves in moves(), cut in any::<prop::sample::Index>()) {
        let history = History::of(&moves, &places());
        let fold_all = |mut state: State, range: std::ops::Range<usize>| {
            for index in range {
                fold(&mut state, &history.entries[index], &history, index);
            }
            state
        };
        let whole = fold_all(State::default(), 0..history.entries.len());
        prop_assert_eq!(&whole, &fold_all(State::default(), 0..history.entries.len()));
        let cut = cut.index(history.entries.len());
        prop_assert_eq!(&whole, &fold_all(fold_all(State::default(), 0..cut), cut..history.entries.len()));
    }

    /// What the oracle says may not come next is refused, and so is every line out of its place; the state stays.
    #[test]
    fn what_may_not_follow_is_refused_and_leaves_the_state_as_it_was(moves in moves()) {
        let history = History::of(&moves, &places());
        let mut state = State::default();
        for (index, entry) in history.entries.iter().enumerate() {
            let hash = history.hashes[index];
            let before = state.clone();
            for (_, refused) in history.illegal.iter().filter(|(prefix, _)| *prefix == index) {
                prop_assert!(state.apply(refused, hash, refused.seq).is_err(), "{refused:?}");
            }
            prop_assert!(state.apply(entry, hash, entry.seq + 1).is_err(), "out of sequence");
            let unchained = Entry { prev: Some(contract::hash::Hash::of(b"another line")), ..entry.clone() };
            prop_assert!(state.apply(&unchained, hash, entry.seq).is_err(), "out of the chain");
            let header_or_not = Entry { seq: u64::from(entry.seq == 0), ..entry.clone() };
            prop_assert!(state.apply(&header_or_not, hash, header_or_not.seq).is_err(), "the header is the first line");
            prop_assert_eq!(&state, &before);
            fold(&mut state, entry, &history, index);
        }
        for (_, refused) in history.illegal.iter().filter(|(prefix, _)| *prefix == history.entries.len()) {
            let before = state.clone();
            prop_assert!(state.apply(refused, history.hashes[0], refused.seq).is_err(), "{refused:?}");
            prop_assert_eq!(&state, &before);
        }
    }
}

fn fold(state: &mut State, entry: &Entry, history: &History, index: usize) {
    state.trust = if history.hearsay[index] { Trust::Suggested } else { Trust::Believed };
    state.apply(entry, history.hashes[index], entry.seq).expect("the oracle says that it may follow");
}

/// Asks both about one step, with everything that a history does not tell.
fn compare(
    state: &State,
    place: &Place,
    phase: Phase,
    past: &Past<'_>,
    run: &RunId,
    upstream_ran: bool,
) -> TestCaseResult {
    let record = state.records.get(place);
    let same = past.fingerprint.cloned().unwrap_or_default();
    let other = fingerprint(9);
    let findings: Vec<_> = std::iter::once(None).chain(findings().map(Some)).collect();
    for now in [&same, &other] {
        for orders in all_orders() {
            for probing in [Probing::Available, Probing::Missing] {
                for repeat in [Repeat::Safe, Repeat::Unsafe] {
                    for finding in &findings {
                        let finding = finding.as_ref();
                        let facts = Facts {
                            phase,
                            probing,
                            repeat,
                            record,
                            fingerprint: now,
                            run,
                            upstream_ran,
                            orders,
                            finding,
                        };
                        let is_check = phase == Phase::Check;
                        let asked =
                            Asked { past: *past, is_check, probing, repeat, now, run, upstream_ran, orders, finding };
                        let verdict = decide(&facts);
                        prop_assert_eq!(words(&verdict, past, finding), oracle::answer(&asked), "{:#?}", asked);
                    }
                }
            }
        }
    }
    Ok(())
}

fn all_orders() -> impl Iterator<Item = Orders> {
    (0..16).map(|bits| Orders {
        accept_drift: bits & 1 != 0,
        fresh: bits & 2 != 0,
        named: bits & 4 != 0,
        unrecorded: bits & 8 != 0,
    })
}

/// A verdict in the words of the oracle.
fn words(verdict: &Verdict, past: &Past<'_>, finding: Option<&Finding>) -> oracle::Answer {
    let whose = |receipt: &Receipt| match finding {
        Some(Finding::Held { receipt: found }) if found == receipt => "found receipt",
        _ if past.receipt == Some(receipt) => "recorded receipt",
        _ => "nobody's receipt",
    };
    match verdict {
        Verdict::Probe(Question::Current) => ("probe", "current", "no receipt"),
        Verdict::Probe(Question::Recorded) => ("probe", "recorded", "no receipt"),
        Verdict::FinishUndo => ("finish undo", "", "no receipt"),
        Verdict::Decided(Decision::Skip { reason, receipt }) => ("skip", because(reason), whose(receipt)),
        Verdict::Decided(Decision::Adopt { reason, receipt }) => ("adopt", because(reason), whose(receipt)),
        Verdict::Decided(Decision::Run { reason }) => ("run", because(reason), "no receipt"),
        Verdict::Decided(Decision::Stop { reason }) => ("stop", because(reason), "no receipt"),
    }
}

fn because(reason: &Reason) -> &'static str {
    match reason {
        Reason::NeverRan => "never-ran",
        Reason::Reverted => "reverted",
        Reason::FailedBefore => "failed-before",
        Reason::Changed { .. } => "changed",
        Reason::Held => "held",
        Reason::Absent => "absent",
        Reason::Drifted { .. } => "drifted",
        Reason::DriftAccepted { .. } => "drift-accepted",
        Reason::Unknown { .. } => "unknown",
        Reason::Trusted => "trusted",
        Reason::NoProbe => "no-probe",
        Reason::Interrupted { .. } => "interrupted",
        Reason::Unconfirmed { .. } => "unconfirmed",
        Reason::UpstreamRan => "upstream-ran",
        Reason::CheckFailed { .. } => "check-failed",
        Reason::Fresh => "fresh",
        Reason::OperatorWord => "operator-word",
        Reason::NotSelected => "not-selected",
        Reason::ProbeFailed { .. } => "probe-failed",
        Reason::UndoUnfinished => "undo-unfinished",
    }
}
