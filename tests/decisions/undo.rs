//! What is undone after a failure: the rule agrees with an oracle over the raw events, at every prefix of a history, whichever steps are staged
//! and wherever the release is exposed.

use contract::RunId;
use journal::{
    JournalState, StepTarget,
    decision::{StepsToUndo, UndoCandidate, UndoSupport, staged_steps_to_undo, steps_to_undo},
    event::JournalEntry,
};
use proptest::{prelude::*, test_runner::TestCaseResult};

use super::{
    apply_entry,
    history::{GeneratedHistory, STEPS, TARGETS, arb_ops, step_targets},
    oracle::{self, OracleStatus},
};

/// What the modules of `pull`, `switch` and `verify` may be; the middle one exposes the release.
const SUPPORTS: [[UndoSupport; 3]; 3] = [
    [UndoSupport::Staged, UndoSupport::Possible, UndoSupport::Impossible],
    [UndoSupport::Staged, UndoSupport::Possible, UndoSupport::Staged],
    [UndoSupport::Staged, UndoSupport::Impossible, UndoSupport::Possible],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Main property: what is undone matches the oracle.
    #[test]
    fn undo_matches_the_oracle(moves in arb_ops()) {
        let places = step_targets();
        let history = GeneratedHistory::from_ops(&moves, &places);
        let mut state = JournalState::default();
        for (index, entry) in history.entries.iter().enumerate() {
            apply_entry(&mut state, entry, &history, index);
            let run = state.attempts.last().expect("a history begins with a header").header.run.clone();
            for supports in SUPPORTS {
                for exposing_targets in [&TARGETS[..], &TARGETS[..1]] {
                    compare(&state, &history.entries[..=index], &history.untrusted, &run, supports, exposing_targets)?;
                }
            }
        }
    }
}

/// One step on one target: its position in the plan, and whether it can be undone.
struct Place {
    step_target: StepTarget,
    step: usize,
    support: UndoSupport,
}

fn compare(
    state: &JournalState,
    prefix: &[JournalEntry],
    untrusted: &[bool],
    run: &RunId,
    supports: [UndoSupport; 3],
    exposing_targets: &[&str],
) -> TestCaseResult {
    let exposing = 1;
    let mut places = Vec::new();
    for (step, support) in supports.into_iter().enumerate() {
        for target in TARGETS.into_iter().filter(|target| step != exposing || exposing_targets.contains(target)) {
            let step_target = StepTarget { step: STEPS[step].0.parse().unwrap(), target: target.parse().unwrap() };
            places.push(Place { step_target, step, support });
        }
    }
    let candidates: Vec<_> = places
        .iter()
        .map(|Place { step_target, step, support }| UndoCandidate {
            step_target,
            support: *support,
            exposes: *step == exposing,
        })
        .collect();

    // The oracle: what a step did and nobody took back.
    let record = |place: &Place| oracle::read_record(prefix, untrusted, &place.step_target);
    let acts = |place: &Place| {
        let record = record(place);
        record.run == Some(run)
            && matches!(record.status, OracleStatus::Started | OracleStatus::Succeeded | OracleStatus::UndoUnfinished)
    };
    let is_ours = |place: &Place| acts(place) && !record(place).is_untrusted;
    let first = places.iter().position(|place| place.step == exposing && is_ours(place)).unwrap_or(places.len());
    let mut expected = StepsToUndo::default();
    for (position, place) in places.iter().enumerate().rev().filter(|(_, place)| is_ours(place)) {
        match (position >= first, place.support) {
            (true, UndoSupport::Possible | UndoSupport::Staged) => expected.exposed.push(place.step_target.clone()),
            (false, UndoSupport::Staged) => expected.staged.push(place.step_target.clone()),
            (_, UndoSupport::Impossible) | (false, UndoSupport::Possible) => {}
        }
    }
    prop_assert_eq!(steps_to_undo(state, run, &candidates), expected);

    let shows = |target: Option<&StepTarget>| {
        let mut shown = places.iter().filter(|place| place.step == exposing && acts(place));
        shown.any(|place| target.is_none_or(|target| target.target == place.step_target.target))
    };
    let mut unseen = Vec::new();
    for place in places.iter().rev().filter(|place| place.support == UndoSupport::Staged && is_ours(place)) {
        let has_own = place.step < exposing && exposing_targets.contains(&place.step_target.target.as_str());
        if !shows(has_own.then_some(&place.step_target)) {
            unseen.push(place.step_target.clone());
        }
    }
    prop_assert_eq!(staged_steps_to_undo(state, run, &candidates), unseen);
    Ok(())
}
