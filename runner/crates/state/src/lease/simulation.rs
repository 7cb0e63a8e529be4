//! The protocol against a world that loses requests and replies, delays them, cuts machines off, stops processes, sets clocks,
//! and has operators. Time is simulated, so a seed is one history, and a failing seed can be run again.
//!
//! The store compares whole records: the same content is the same version, as with an `ETag`. So an old version that came
//! back would be met here.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SEEDS: u64 = 3_000;
const TTL: u64 = 2_000;
/// A call that is not answered within this time is given up; it may arrive all the same.
const CALL: u64 = 700;
/// For so long things go wrong; then they do not, and all must come to rest.
const TROUBLE: u64 = 60_000;
const HOUR: i64 = 3_600_000;

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few of them at a time")]
enum Call {
    Read,
    Swap { expected: Option<LockRecord>, new: LockRecord },
}

#[derive(Clone, Debug)]
enum Reply {
    Read(Option<LockRecord>),
    Swapped(bool),
}

enum Event {
    /// A node's turn, unless it has had another since.
    Turn {
        node: usize,
        number: u64,
    },
    Arrives {
        node: usize,
        number: u64,
        call: Call,
    },
    Answers {
        node: usize,
        number: u64,
        reply: Reply,
    },
    Stops {
        node: usize,
        until: u64,
    },
    CutOff {
        node: usize,
        until: u64,
    },
    SetsClock {
        node: usize,
        by: i64,
    },
    Operator,
}

#[expect(clippy::large_enum_variant, reason = "four of them")]
enum Doing {
    Idle,
    Taking(Taker),
    Holding { lease: Lease, known: LockRecord, effects: u32 },
}

/// What a node does with the lock by the write that it waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Renew,
    Effect,
    Release,
}

struct Node {
    doing: Doing,
    aim: Aim,
    /// Of its turns and calls: what is late is not for the present one.
    number: u64,
    waiting: Option<Call>,
    stopped_until: u64,
    cut_off_until: u64,
    /// Its monotonic clock, in thousandths of real time.
    rate: u64,
    wall: i64,
}

#[derive(Default, Debug)]
struct Seen {
    taken: u64,
    effects: u64,
    lost_replies: u64,
    ran_out: u64,
    robbed: u64,
    released: u64,
    forced: u64,
    expired: u64,
    steps: u64,
    given_up: u64,
}

struct World {
    now: u64,
    dice: Dice,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    record: Option<LockRecord>,
    epochs: BTreeMap<u64, String>,
    forced: BTreeSet<u64>,
    newest_effect: u64,
    nodes: Vec<Node>,
    seen: Seen,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let nodes = (0..4).map(|_| Node {
            doing: Doing::Idle,
            aim: Aim::Renew,
            number: 0,
            waiting: None,
            stopped_until: 0,
            cut_off_until: 0,
            rate: 985 + dice.below(31),
            wall: 0,
        });
        let nodes = nodes.collect();
        Self {
            now: 0,
            dice,
            queue: BTreeMap::new(),
            queued: 0,
            record: None,
            epochs: BTreeMap::new(),
            forced: BTreeSet::new(),
            newest_effect: 0,
            nodes,
            seen: Seen::default(),
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((time, self.queued), event);
    }

    fn clock(&self, node: usize) -> Moment {
        Duration::from_micros(self.now * self.nodes[node].rate)
    }

    fn calm(&self) -> bool {
        self.now > TROUBLE
    }

    fn run(&mut self) {
        // All at once: exactly one may win.
        for node in 0..self.nodes.len() {
            self.turn_in(node, 0);
        }
        for _ in 0..6 {
            let (at, node) = (self.dice.below(TROUBLE), self.dice.below(4) as usize);
            let long = TTL / 2 + self.dice.below(3 * TTL);
            let event = match self.dice.below(5) {
                0 | 1 => Event::Stops { node, until: at + long },
                2 => Event::CutOff { node, until: at + 5_000 },
                3 => Event::SetsClock { node, by: if self.dice.percent(50) { HOUR } else { -HOUR } },
                _ => Event::Operator,
            };
            self.at(at, event);
        }
        while let Some(((now, _), event)) = self.queue.pop_first() {
            assert!(now < TROUBLE * 3, "it does not come to rest");
            self.now = now;
            self.happens(event);
        }
        assert!(self.nodes.iter().all(|node| matches!(node.doing, Doing::Idle)));
        self.ends_free();
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Stops { node, until } => self.nodes[node].stopped_until = until,
            Event::CutOff { node, until } => self.nodes[node].cut_off_until = until,
            Event::SetsClock { node, by } => {
                self.nodes[node].wall += by;
                self.seen.steps += 1;
            }
            Event::Operator => {
                if let Some(record) = self.record.clone().filter(|record| record.holder.is_some()) {
                    self.forced.insert(record.epoch);
                    self.seen.forced += 1;
                    self.record = Some(record.tombstone(record.since));
                }
            }
            Event::Arrives { node, number, call } => self.arrives(node, number, call),
            Event::Answers { node, number, reply } => {
                let (stopped, cut_off) = (self.nodes[node].stopped_until, self.nodes[node].cut_off_until);
                if self.now < stopped {
                    self.at(stopped, Event::Answers { node, number, reply });
                } else if self.now >= cut_off && self.nodes[node].number == number {
                    self.answered(node, Some(reply));
                }
            }
            Event::Turn { node, number } => {
                let stopped = self.nodes[node].stopped_until;
                if self.now < stopped {
                    self.at(stopped, Event::Turn { node, number });
                } else if self.nodes[node].number == number {
                    // A turn in the midst of a call: it was not answered in time.
                    if self.nodes[node].waiting.is_some() { self.answered(node, None) } else { self.turn(node) }
                }
            }
        }
    }

    fn turn_in(&mut self, node: usize, pause: u64) {
        self.nodes[node].number += 1;
        let number = self.nodes[node].number;
        self.at(self.now + pause, Event::Turn { node, number });
    }

    fn call(&mut self, node: usize, call: Call) {
        self.turn_in(node, CALL);
        self.nodes[node].waiting = Some(call.clone());
        let number = self.nodes[node].number;
        let is_lost = !self.calm() && self.dice.percent(6) || self.now < self.nodes[node].cut_off_until;
        if !is_lost {
            let way = self.way();
            self.at(self.now + way, Event::Arrives { node, number, call });
        }
    }

    /// How long a message takes; some take very long.
    fn way(&mut self) -> u64 {
        if !self.calm() && self.dice.percent(3) { self.dice.below(8_000) } else { 1 + self.dice.below(60) }
    }

    fn arrives(&mut self, node: usize, number: u64, call: Call) {
        let reply = match call {
            Call::Read => Reply::Read(self.record.clone()),
            Call::Swap { expected, new } => {
                let is_swapped = self.record == expected;
                if is_swapped {
                    self.changes(new);
                }
                Reply::Swapped(is_swapped)
            }
        };
        if !self.calm() && self.dice.percent(8) {
            return;
        }
        let way = self.way();
        self.at(self.now + way, Event::Answers { node, number, reply });
    }

    /// The epoch only grows, and each has one nonce for ever.
    fn changes(&mut self, new: LockRecord) {
        let before = self.record.as_ref();
        assert!(before.is_none_or(|before| before.epoch <= new.epoch), "the epoch fell: {before:?} {new:?}");
        if !new.nonce.is_empty() {
            let nonce = self.epochs.entry(new.epoch).or_insert_with(|| new.nonce.clone());
            assert_eq!(*nonce, new.nonce, "two holders have epoch {}", new.epoch);
            let newest = self.epochs.keys().next_back();
            assert_eq!(newest, Some(&new.epoch), "an old holder came back");
            if before.is_some_and(|before| before.holder.is_some() && before.nonce != new.nonce) {
                self.seen.expired += 1;
            }
        }
        self.record = Some(new);
    }

    fn turn(&mut self, node: usize) {
        let now = self.clock(node);
        let end = self.calm();
        match &mut self.nodes[node].doing {
            Doing::Idle if end => {}
            Doing::Idle => {
                let holder = Holder { who: format!("node {node}"), url: None, purpose: None };
                let nonce = format!("{:016x}", self.dice.next());
                let wait =
                    if self.dice.percent(70) { Wait::For(Duration::from_millis(5 * TTL)) } else { Wait::Default };
                let wall = 1_700_000_000_000 + self.now.cast_signed() + self.nodes[node].wall;
                let since = Timestamp::from_millisecond(wall).unwrap();
                let taker = Taker::new(now, holder, nonce, Duration::from_millis(TTL), wait, since);
                self.nodes[node].doing = Doing::Taking(taker);
                self.call(node, Call::Read);
            }
            Doing::Taking(_) => self.call(node, Call::Read),
            Doing::Holding { lease, effects, .. } => {
                if lease.check(now).is_err() {
                    self.loses(node, &Lost::RanOut);
                    return;
                }
                let aim = if *effects == 0 || end {
                    Aim::Release
                } else if self.dice.percent(50) {
                    Aim::Effect
                } else {
                    Aim::Renew
                };
                self.writes(node, aim);
            }
        }
    }

    fn writes(&mut self, node: usize, aim: Aim) {
        let now = self.clock(node);
        let Doing::Holding { lease, known, .. } = &mut self.nodes[node].doing else { unreachable!() };
        let next = lease.next();
        let new =
            if aim == Aim::Release { LockRecord { counter: next.counter, ..next.tombstone(next.since) } } else { next };
        match lease.sends(now, new.clone()) {
            Ok(()) => {
                let expected = Some(known.clone());
                self.nodes[node].aim = aim;
                self.call(node, Call::Swap { expected, new });
            }
            Err(lost) => self.loses(node, &lost),
        }
    }

    fn loses(&mut self, node: usize, lost: &Lost) {
        match lost {
            Lost::RanOut => self.seen.ran_out += 1,
            Lost::Taken(_) => self.seen.robbed += 1,
            Lost::Released => self.seen.released += 1,
        }
        self.rests(node);
    }

    fn rests(&mut self, node: usize) {
        self.nodes[node].doing = Doing::Idle;
        let pause = self.dice.below(2 * TTL);
        self.turn_in(node, pause);
    }

    fn answered(&mut self, node: usize, reply: Option<Reply>) {
        let now = self.clock(node);
        let call = self.nodes[node].waiting.take().expect("only calls are answered");
        match std::mem::replace(&mut self.nodes[node].doing, Doing::Idle) {
            Doing::Idle => unreachable!("an idle node calls nobody"),
            Doing::Taking(mut taker) => {
                let next = match reply {
                    Some(Reply::Read(record)) => {
                        let record = record.unwrap_or_else(|| LockRecord::untaken("shop/test", Timestamp::UNIX_EPOCH));
                        Some((taker.saw(now, &record, 0), record))
                    }
                    Some(Reply::Swapped(true)) => {
                        let Call::Swap { new, .. } = call else { unreachable!() };
                        taker.confirmed().map(|lease| (Next::Taken(Box::new(lease)), new))
                    }
                    Some(Reply::Swapped(false)) | None => None,
                };
                match next {
                    Some((Next::Taken(lease), known)) => {
                        self.seen.taken += 1;
                        let effects = 1 + self.dice.below(6) as u32;
                        self.nodes[node].doing = Doing::Holding { lease: *lease, known, effects };
                        self.turn_in(node, 0);
                    }
                    Some((Next::GiveUp(_), _)) => {
                        self.seen.given_up += 1;
                        self.rests(node);
                    }
                    Some((Next::Write(record), before)) => {
                        taker.sends(now, &record);
                        self.nodes[node].doing = Doing::Taking(taker);
                        let expected = (before.epoch > 0).then_some(before);
                        self.call(node, Call::Swap { expected, new: record });
                    }
                    Some((Next::ReadAt(at), _)) => {
                        self.nodes[node].doing = Doing::Taking(taker);
                        let pause = at.saturating_sub(now).as_millis() as u64 + 1;
                        self.turn_in(node, pause);
                    }
                    None => {
                        self.nodes[node].doing = Doing::Taking(taker);
                        self.turn_in(node, 10);
                    }
                }
            }
            Doing::Holding { mut lease, mut known, effects } => {
                let outcome = match (reply, &call) {
                    (Some(Reply::Swapped(true)), Call::Swap { new, .. }) => {
                        known = new.clone();
                        lease.confirmed(now).map(|()| Some(Readback::Confirmed))
                    }
                    (Some(Reply::Read(record)), _) => {
                        let outcome = lease.read_back(now, record.as_ref()).map(Some);
                        known = record.unwrap_or(known);
                        if let Ok(Some(Readback::Confirmed)) = outcome {
                            self.seen.lost_replies += 1;
                        }
                        outcome
                    }
                    (Some(Reply::Swapped(_)) | None, _) => lease.check(now).map(|()| None),
                };
                self.nodes[node].doing = Doing::Holding { lease, known, effects };
                match outcome {
                    Ok(Some(Readback::Confirmed)) => self.confirmed(node),
                    Ok(Some(Readback::Unchanged)) => self.writes(node, self.nodes[node].aim),
                    Ok(None) => self.call(node, Call::Read),
                    Err(lost) => self.loses(node, &lost),
                }
            }
        }
    }

    fn confirmed(&mut self, node: usize) {
        match self.nodes[node].aim {
            Aim::Release => return self.rests(node),
            Aim::Effect => self.acts(node),
            Aim::Renew => {}
        }
        let pause = self.dice.below(TTL / 3);
        self.turn_in(node, pause);
    }

    /// What everything is for: an effect happens under a lock that is held, by the only one that believes to hold it.
    fn acts(&mut self, node: usize) {
        let Doing::Holding { lease, effects, .. } = &mut self.nodes[node].doing else { unreachable!() };
        *effects -= 1;
        let (epoch, nonce) = (lease.record().epoch, lease.record().nonce.clone());
        self.seen.effects += 1;
        if self.forced.contains(&epoch) {
            // An operator may come between answer and effect. That window stays, and docs/lock.md says so.
            return;
        }
        let held = self.record.as_ref().map(|record| record.nonce.as_str());
        assert_eq!(held, Some(nonce.as_str()), "an effect of epoch {epoch} without the lock");
        assert!(epoch >= self.newest_effect, "an effect of epoch {epoch} after one of {}", self.newest_effect);
        self.newest_effect = epoch;
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let clock = self.clock(other);
            let Node { doing, aim, stopped_until, .. } = &self.nodes[other];
            if let Doing::Holding { lease, .. } = doing
                && *aim != Aim::Release
                && self.now >= *stopped_until
                && !self.forced.contains(&lease.record().epoch)
            {
                let believes = lease.clone().check(clock).is_ok();
                assert!(!believes, "two believe: epochs {epoch} and {}", lease.record().epoch);
            }
        }
    }

    /// Whatever happened, somebody who waits for two leases gets it.
    fn ends_free(&mut self) {
        let holder = Holder { who: "last".to_owned(), url: None, purpose: None };
        let (ttl, began) = (Duration::from_millis(TTL), self.clock(0));
        let wait = Wait::For(2 * ttl);
        let mut taker = Taker::new(began, holder, "last".to_owned(), ttl, wait, Timestamp::UNIX_EPOCH);
        let mut now = began;
        loop {
            let record = self.record.clone().expect("the first race has a winner");
            match taker.saw(now, &record, 0) {
                Next::ReadAt(at) => now = at,
                Next::Write(_) => break,
                Next::Taken(_) | Next::GiveUp(_) => panic!("it is not free after two leases: {record:?}"),
            }
        }
    }
}

#[test]
fn no_history_lets_two_act() {
    let mut total = Seen::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if let Err(panic) = ran {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("seed {seed}: {text}");
        }
        let Seen { taken, effects, lost_replies, ran_out, robbed, released, forced, expired, steps, given_up } =
            world.seen;
        total.taken += taken;
        total.effects += effects;
        total.lost_replies += lost_replies;
        total.ran_out += ran_out;
        total.robbed += robbed;
        total.released += released;
        total.forced += forced;
        total.expired += expired;
        total.steps += steps;
        total.given_up += given_up;
    }
    // Everything that is to be survived did happen.
    let Seen { taken, effects, lost_replies, ran_out, robbed, released, forced, expired, steps, given_up } = total;
    for (what, times) in [
        ("taken", taken),
        ("effects", effects),
        ("lost replies", lost_replies),
        ("leases that ran out", ran_out),
        ("locks taken by another", robbed),
        ("locks found released", released),
        ("operators", forced),
        ("expired locks taken", expired),
        ("clock steps", steps),
        ("given up", given_up),
    ] {
        assert!(times > SEEDS / 20, "{what}: {times} in {SEEDS} histories");
    }
}
