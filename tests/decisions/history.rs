//! Generated histories: attempts of several runs that work on three steps (one of each phase) on two targets, and stop
//! anywhere. Legal by construction: a move that may not come next is kept apart, as something the fold must refuse.

use contract::{
    Attempt,
    diagnostic::Exit,
    hash::Hash,
    step::{Failure, Finding, Outcome, Phase, Receipt},
};
use journal::{
    Event, Place,
    event::{Decision, Entry, FORMAT, Fingerprint, Header, MAGIC, Question, Reason, Release},
    line,
};
use proptest::prelude::*;

use super::oracle;

/// The steps, upstream first.
pub(crate) const STEPS: [(&str, Phase); 3] =
    [("pull", Phase::Prepare), ("switch", Phase::Commit), ("verify", Phase::Check)];

/// Where they run.
pub(crate) const TARGETS: [&str; 2] = ["local", "deploy@10.0.0.7"];

/// One generated move. What it becomes hangs on what came before.
#[derive(Clone, Debug)]
pub(crate) enum Move {
    /// The attempt before simply stops, as by a kill.
    Begin {
        new_run: bool,
        release: u8,
        /// Its journal is one that anybody could have written.
        hearsay: bool,
    },
    Intend {
        place: usize,
        fingerprint: u8,
    },
    Settle {
        place: usize,
        how: u8,
    },
    Probe {
        place: usize,
        how: u8,
    },
    Decide {
        place: usize,
        how: u8,
    },
    Undo {
        place: usize,
    },
    SettleUndo {
        place: usize,
        well: bool,
    },
    End,
}

/// Moves in the proportion in which they make long histories.
pub(crate) fn moves() -> impl Strategy<Value = Vec<Move>> {
    let place = || 0..STEPS.len() * TARGETS.len();
    let one = prop_oneof![
        3 => (any::<bool>(), 0..3u8, prop::bool::weighted(0.3))
            .prop_map(|(new_run, release, hearsay)| Move::Begin { new_run, release, hearsay }),
        8 => (place(), 0..2u8).prop_map(|(place, fingerprint)| Move::Intend { place, fingerprint }),
        9 => (place(), 0..6u8).prop_map(|(place, how)| Move::Settle { place, how }),
        2 => (place(), 0..5u8).prop_map(|(place, how)| Move::Probe { place, how }),
        5 => (place(), 0..6u8).prop_map(|(place, how)| Move::Decide { place, how }),
        3 => place().prop_map(|place| Move::Undo { place }),
        4 => (place(), any::<bool>()).prop_map(|(place, well)| Move::SettleUndo { place, well }),
        1 => Just(Move::End),
    ];
    // Few places are busy in one history, so that their events meet.
    (prop::collection::vec(one, 1..48), 1..=STEPS.len() * TARGETS.len()).prop_map(|(mut moves, busy)| {
        for one in &mut moves {
            match one {
                Move::Intend { place, .. }
                | Move::Settle { place, .. }
                | Move::Probe { place, .. }
                | Move::Decide { place, .. }
                | Move::Undo { place }
                | Move::SettleUndo { place, .. } => *place %= busy,
                Move::Begin { .. } | Move::End => {}
            }
        }
        moves
    })
}

/// Every (step, target), in the order of the plan.
pub(crate) fn places() -> Vec<(Place, Phase)> {
    let on = |target: &str, step: &str| Place { step: step.parse().unwrap(), target: target.parse().unwrap() };
    TARGETS.iter().flat_map(|target| STEPS.iter().map(move |(step, phase)| (on(target, step), *phase))).collect()
}

/// A history, and what may not come after which of its prefixes.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) entries: Vec<Entry>,
    /// The hash of the line of each entry.
    pub(crate) hashes: Vec<Hash>,
    /// Of each entry, whether it stands in a journal that anybody could have written.
    pub(crate) hearsay: Vec<bool>,
    /// (length of the prefix, an entry that must not follow it).
    pub(crate) illegal: Vec<(usize, Entry)>,
}

impl History {
    /// Plays the moves.
    pub(crate) fn of(moves: &[Move], places: &[(Place, Phase)]) -> Self {
        let mut history = Self::default();
        let mut hearsay = false;
        history.push(Event::Started(header(None, true, 0)), hearsay);
        for one in moves {
            if let Move::Begin { hearsay: new, .. } = one {
                hearsay = *new;
            }
            let event = history.event(one, places);
            history.push(event, hearsay);
        }
        history
    }

    fn push(&mut self, event: Event, hearsay: bool) {
        let seq = match (&event, self.entries.last()) {
            (Event::Started(_), _) | (_, None) => 0,
            (_, Some(last)) => last.seq + 1,
        };
        let at = jiff::Timestamp::from_second(1_767_225_600 + self.entries.len() as i64).unwrap();
        let entry = Entry { seq, prev: self.hashes.last().copied(), at, event };
        if oracle::may_follow(&self.entries, &entry.event) {
            self.hashes.push(line::encode(&entry).hash);
            self.entries.push(entry);
            self.hearsay.push(hearsay);
        } else {
            self.illegal.push((self.entries.len(), entry));
        }
    }

    fn event(&self, one: &Move, places: &[(Place, Phase)]) -> Event {
        let place = |index: &usize| places[*index].0.clone();
        let number = self.entries.len() as u64;
        match one {
            Move::Begin { new_run, release, .. } => Event::Started(header(self.last_header(), *new_run, *release)),
            Move::Intend { place: index, fingerprint: changed } => Event::Intent {
                place: place(index),
                key: format!("key-{number}"),
                fingerprint: fingerprint(*changed),
                input: serde_json::json!({ "number": number }),
                exposes: STEPS[index % STEPS.len()].1 == Phase::Commit,
            },
            Move::Settle { place: index, how } => Event::Outcome {
                place: place(index),
                took_ms: number,
                result: match how {
                    0..=3 => Outcome::Succeeded { receipt: receipt("recorded", number) },
                    4 => Outcome::Failed { failure: failure() },
                    _ => Outcome::Unknown { failure: failure() },
                },
            },
            Move::Probe { place: index, how } => Event::Probe {
                place: place(index),
                question: if how % 2 == 0 { Question::Current } else { Question::Recorded },
                took_ms: number,
                finding: findings()[usize::from(*how)].clone(),
            },
            Move::Decide { place: index, how } => Event::Decision {
                place: place(index),
                decision: match how {
                    0 => Decision::Skip { reason: Reason::Held, receipt: receipt("skipped", number) },
                    1 => Decision::Run { reason: Reason::Absent },
                    2 => Decision::Stop { reason: Reason::Drifted { why: "edited by hand".to_owned() } },
                    _ => Decision::Adopt {
                        reason: Reason::Interrupted { finding: Some("held".to_owned()) },
                        receipt: receipt("recorded", number),
                    },
                },
            },
            Move::Undo { place: index } => Event::UndoIntent { place: place(index) },
            Move::SettleUndo { place: index, well } => {
                Event::UndoOutcome { place: place(index), failure: (!well).then(failure) }
            }
            Move::End => Event::Ended { exit: Exit::Failed, verified: false },
        }
    }

    fn last_header(&self) -> Option<&Header> {
        self.entries.iter().rev().find_map(|entry| match &entry.event {
            Event::Started(header) => Some(header),
            _ => None,
        })
    }
}

fn header(before: Option<&Header>, new_run: bool, release: u8) -> Header {
    let epoch = before.map_or(1, |header| header.epoch + 1);
    let (run, attempt, release) = match before.filter(|_| !new_run) {
        Some(header) => (header.run.clone(), header.attempt.next(), header.release.clone()),
        None => {
            let release = Release { label: format!("r{release}").parse().unwrap(), digest: None };
            (format!("run-{epoch}").parse().unwrap(), Attempt::FIRST, release)
        }
    };
    Header {
        magic: MAGIC.to_owned(),
        format: FORMAT,
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
    }
}

/// What a step depends on; different numbers differ in one component.
pub(crate) fn fingerprint(number: u8) -> Fingerprint {
    Fingerprint(
        [("config", Hash::of(&[number])), ("module", Hash::of(b"module"))].map(|(k, v)| (k.to_owned(), v)).into(),
    )
}

/// A receipt that tells where it comes from.
pub(crate) fn receipt(from: &str, number: u64) -> Receipt {
    let outputs = serde_json::json!({ "from": from, "number": number });
    Receipt { outputs: outputs.as_object().unwrap().clone(), notes: serde_json::Map::default() }
}

/// Every kind of finding.
pub(crate) fn findings() -> [Finding; 5] {
    [
        Finding::Held { receipt: receipt("found", 0) },
        Finding::Absent,
        Finding::Drifted { why: "edited by hand".to_owned() },
        Finding::Unknown { why: "no answer".to_owned() },
        Finding::Failed { failure: failure() },
    ]
}

fn failure() -> Failure {
    let (kind, message) = ("transient".to_owned(), "no route to host".to_owned());
    Failure { kind, message, hint: None, retryable: true, details: serde_json::Map::default() }
}
