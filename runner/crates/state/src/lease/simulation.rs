//! Simulates the protocol with lost and late messages, disconnected machines, suspended processes, clock jumps and
//! operators. Time is simulated: a seed determines the history, so a failing seed can be replayed.
//!
//! The store compares whole records, so equal content has an equal version, as with an `ETag`. A repeated old version
//! would show up here.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SEEDS: u64 = 3_000;
const TTL_MS: u64 = 2_000;
/// How long a caller waits for a reply. The call may still arrive after that.
const CALL_TIMEOUT_MS: u64 = 700;
/// How long faults are injected. After that, the system must settle.
const FAULTY_PERIOD_MS: u64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// Splitmix64.
struct SimulationRng(u64);

impl SimulationRng {
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
enum SimulatedCall {
    Read,
    Swap { expected: Option<LockRecord>, new: LockRecord },
}

#[derive(Clone, Debug)]
enum SimulatedReply {
    Read(Option<LockRecord>),
    Swapped(bool),
}

enum SimulationEvent {
    /// A node's turn, unless the node has had another since.
    Turn {
        node: usize,
        number: u64,
    },
    CallArrives {
        node: usize,
        number: u64,
        call: SimulatedCall,
    },
    ReplyArrives {
        node: usize,
        number: u64,
        reply: SimulatedReply,
    },
    NodePauses {
        node: usize,
        until: u64,
    },
    NodeDisconnects {
        node: usize,
        until: u64,
    },
    ClockJumps {
        node: usize,
        by: i64,
    },
    OperatorReleases,
}

#[expect(clippy::large_enum_variant, reason = "four of them")]
enum SimulatedNodeState {
    Idle,
    Acquiring(LockAcquirer),
    Holding { lease: Lease, known: LockRecord, effects: u32 },
}

/// What the pending write of a node does with the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SimulatedWriteKind {
    Renew,
    Effect,
    Release,
}

struct SimulatedNode {
    state: SimulatedNodeState,
    write_kind: SimulatedWriteKind,
    /// The number of its turns and calls, to recognize late replies.
    turn_number: u64,
    pending_call: Option<SimulatedCall>,
    stopped_until: u64,
    cut_off_until: u64,
    /// Its monotonic clock, in thousandths of real time.
    clock_rate: u64,
    wall_clock_offset: i64,
}

#[derive(Default, Debug)]
struct SimulationCounts {
    taken: u64,
    effects: u64,
    lost_replies: u64,
    lease_expired: u64,
    taken_over: u64,
    released: u64,
    forced: u64,
    expired_taken: u64,
    clock_jumps: u64,
    given_up: u64,
}

struct LockSimulation {
    now: u64,
    rng: SimulationRng,
    queue: BTreeMap<(u64, u64), SimulationEvent>,
    queued: u64,
    record: Option<LockRecord>,
    epochs: BTreeMap<u64, String>,
    /// The nonce, epoch and counter of each record that was written.
    written: BTreeSet<(String, u64, u64)>,
    forced: BTreeSet<u64>,
    newest_effect: u64,
    nodes: Vec<SimulatedNode>,
    counts: SimulationCounts,
}

impl LockSimulation {
    fn new(seed: u64) -> Self {
        let mut dice = SimulationRng(seed);
        let nodes = (0..4).map(|_| SimulatedNode {
            state: SimulatedNodeState::Idle,
            write_kind: SimulatedWriteKind::Renew,
            turn_number: 0,
            pending_call: None,
            stopped_until: 0,
            cut_off_until: 0,
            clock_rate: 985 + dice.below(31),
            wall_clock_offset: 0,
        });
        let nodes = nodes.collect();
        Self {
            now: 0,
            rng: dice,
            queue: BTreeMap::new(),
            queued: 0,
            record: None,
            epochs: BTreeMap::new(),
            written: BTreeSet::new(),
            forced: BTreeSet::new(),
            newest_effect: 0,
            nodes,
            counts: SimulationCounts::default(),
        }
    }

    fn schedule(&mut self, time: u64, event: SimulationEvent) {
        self.queued += 1;
        self.queue.insert((time, self.queued), event);
    }

    fn clock(&self, node: usize) -> MonotonicTime {
        Duration::from_micros(self.now * self.nodes[node].clock_rate)
    }

    fn faults_are_over(&self) -> bool {
        self.now > FAULTY_PERIOD_MS
    }

    fn run(&mut self) {
        // All nodes start at once: exactly one may win.
        for node in 0..self.nodes.len() {
            self.schedule_turn(node, 0);
        }
        for _ in 0..6 {
            let (at, node) = (self.rng.below(FAULTY_PERIOD_MS), self.rng.below(4) as usize);
            let long = TTL_MS / 2 + self.rng.below(3 * TTL_MS);
            let event = match self.rng.below(5) {
                0 | 1 => SimulationEvent::NodePauses { node, until: at + long },
                2 => SimulationEvent::NodeDisconnects { node, until: at + 5_000 },
                3 => SimulationEvent::ClockJumps { node, by: if self.rng.percent(50) { HOUR_MS } else { -HOUR_MS } },
                _ => SimulationEvent::OperatorReleases,
            };
            self.schedule(at, event);
        }
        while let Some(((now, _), event)) = self.queue.pop_first() {
            assert!(now < FAULTY_PERIOD_MS * 3, "it does not come to rest");
            self.now = now;
            self.handle_event(event);
        }
        assert!(self.nodes.iter().all(|node| matches!(node.state, SimulatedNodeState::Idle)));
        self.assert_lock_becomes_free();
    }

    fn handle_event(&mut self, event: SimulationEvent) {
        match event {
            SimulationEvent::NodePauses { node, until } => self.nodes[node].stopped_until = until,
            SimulationEvent::NodeDisconnects { node, until } => self.nodes[node].cut_off_until = until,
            SimulationEvent::ClockJumps { node, by } => {
                self.nodes[node].wall_clock_offset += by;
                self.counts.clock_jumps += 1;
            }
            SimulationEvent::OperatorReleases => {
                if let Some(record) = self.record.clone().filter(|record| record.holder.is_some()) {
                    self.forced.insert(record.epoch);
                    self.counts.forced += 1;
                    let nonce = format!("{:016x}", self.rng.next());
                    self.replace_record(record.tombstone(nonce, ReleasedBy::Operator, record.since));
                }
            }
            SimulationEvent::CallArrives { node, number, call } => self.handle_call(node, number, call),
            SimulationEvent::ReplyArrives { node, number, reply } => {
                let (stopped, cut_off) = (self.nodes[node].stopped_until, self.nodes[node].cut_off_until);
                if self.now < stopped {
                    self.schedule(stopped, SimulationEvent::ReplyArrives { node, number, reply });
                } else if self.now >= cut_off && self.nodes[node].turn_number == number {
                    self.handle_reply(node, Some(reply));
                }
            }
            SimulationEvent::Turn { node, number } => {
                let stopped = self.nodes[node].stopped_until;
                if self.now < stopped {
                    self.schedule(stopped, SimulationEvent::Turn { node, number });
                } else if self.nodes[node].turn_number == number {
                    // A turn during a call: the reply did not come in time.
                    if self.nodes[node].pending_call.is_some() {
                        self.handle_reply(node, None)
                    } else {
                        self.take_turn(node)
                    }
                }
            }
        }
    }

    fn schedule_turn(&mut self, node: usize, pause: u64) {
        self.nodes[node].turn_number += 1;
        let number = self.nodes[node].turn_number;
        self.schedule(self.now + pause, SimulationEvent::Turn { node, number });
    }

    fn send_call(&mut self, node: usize, call: SimulatedCall) {
        self.schedule_turn(node, CALL_TIMEOUT_MS);
        self.nodes[node].pending_call = Some(call.clone());
        let number = self.nodes[node].turn_number;
        let is_lost = !self.faults_are_over() && self.rng.percent(6) || self.now < self.nodes[node].cut_off_until;
        if !is_lost {
            let way = self.message_delay();
            self.schedule(self.now + way, SimulationEvent::CallArrives { node, number, call });
        }
    }

    /// How long a message takes; a few take very long.
    fn message_delay(&mut self) -> u64 {
        if !self.faults_are_over() && self.rng.percent(3) { self.rng.below(8_000) } else { 1 + self.rng.below(60) }
    }

    fn handle_call(&mut self, node: usize, number: u64, call: SimulatedCall) {
        let reply = match call {
            SimulatedCall::Read => SimulatedReply::Read(self.record.clone()),
            SimulatedCall::Swap { expected, new } => {
                let is_swapped = self.record == expected;
                if is_swapped {
                    self.replace_record(new);
                }
                SimulatedReply::Swapped(is_swapped)
            }
        };
        if !self.faults_are_over() && self.rng.percent(8) {
            return;
        }
        let way = self.message_delay();
        self.schedule(self.now + way, SimulationEvent::ReplyArrives { node, number, reply });
    }

    /// Checks that the epoch only grows, that each epoch has one holder forever, and that no two records are alike.
    fn replace_record(&mut self, new: LockRecord) {
        let before = self.record.as_ref();
        assert!(before.is_none_or(|before| before.epoch <= new.epoch), "the epoch fell: {before:?} {new:?}");
        assert!(self.written.insert((new.nonce.clone(), new.epoch, new.counter)), "two records are alike: {new:?}");
        if new.holder.is_some() {
            let nonce = self.epochs.entry(new.epoch).or_insert_with(|| new.nonce.clone());
            assert_eq!(*nonce, new.nonce, "two holders have epoch {}", new.epoch);
            let newest = self.epochs.keys().next_back();
            assert_eq!(newest, Some(&new.epoch), "an old holder came back");
            if before.is_some_and(|before| before.holder.is_some() && before.nonce != new.nonce) {
                self.counts.expired_taken += 1;
            }
        }
        self.record = Some(new);
    }

    fn take_turn(&mut self, node: usize) {
        let now = self.clock(node);
        let end = self.faults_are_over();
        match &mut self.nodes[node].state {
            SimulatedNodeState::Idle if end => {}
            SimulatedNodeState::Idle => {
                let holder = LockHolder { who: format!("node {node}"), url: None, purpose: None };
                let (holding, release) = (format!("{:016x}", self.rng.next()), format!("{:016x}", self.rng.next()));
                let wait = if self.rng.percent(70) {
                    LockWait::For(Duration::from_millis(5 * TTL_MS))
                } else {
                    LockWait::Default
                };
                let wall = 1_700_000_000_000 + self.now.cast_signed() + self.nodes[node].wall_clock_offset;
                let since = Timestamp::from_millisecond(wall).unwrap();
                let nonces = HoldingNonces { holding, release };
                let taker = LockAcquirer::new(now, holder, nonces, Duration::from_millis(TTL_MS), wait, since);
                self.nodes[node].state = SimulatedNodeState::Acquiring(taker);
                self.send_call(node, SimulatedCall::Read);
            }
            SimulatedNodeState::Acquiring(_) => self.send_call(node, SimulatedCall::Read),
            SimulatedNodeState::Holding { lease, effects, .. } => {
                if lease.check(now).is_err() {
                    self.handle_loss(node, &LockLossReason::Expired);
                    return;
                }
                let aim = if *effects == 0 || end {
                    SimulatedWriteKind::Release
                } else if self.rng.percent(50) {
                    SimulatedWriteKind::Effect
                } else {
                    SimulatedWriteKind::Renew
                };
                self.send_write(node, aim);
            }
        }
    }

    fn send_write(&mut self, node: usize, aim: SimulatedWriteKind) {
        let now = self.clock(node);
        let SimulatedNodeState::Holding { lease, known, .. } = &mut self.nodes[node].state else { unreachable!() };
        let new = if aim == SimulatedWriteKind::Release {
            lease.released_record(lease.record().since)
        } else {
            lease.next_record()
        };
        match lease.on_write_sent(now, new.clone()) {
            Ok(()) => {
                let expected = Some(known.clone());
                self.nodes[node].write_kind = aim;
                self.send_call(node, SimulatedCall::Swap { expected, new });
            }
            Err(lost) => self.handle_loss(node, &lost),
        }
    }

    fn handle_loss(&mut self, node: usize, lost: &LockLossReason) {
        match lost {
            LockLossReason::Expired => self.counts.lease_expired += 1,
            LockLossReason::Taken(_) => self.counts.taken_over += 1,
            LockLossReason::Released => self.counts.released += 1,
        }
        self.go_idle(node);
    }

    fn go_idle(&mut self, node: usize) {
        self.nodes[node].state = SimulatedNodeState::Idle;
        let pause = self.rng.below(2 * TTL_MS);
        self.schedule_turn(node, pause);
    }

    fn handle_reply(&mut self, node: usize, reply: Option<SimulatedReply>) {
        let now = self.clock(node);
        let call = self.nodes[node].pending_call.take().expect("only calls are answered");
        match std::mem::replace(&mut self.nodes[node].state, SimulatedNodeState::Idle) {
            SimulatedNodeState::Idle => unreachable!("an idle node calls nobody"),
            SimulatedNodeState::Acquiring(mut taker) => {
                let next = match reply {
                    Some(SimulatedReply::Read(record)) => {
                        let record =
                            record.unwrap_or_else(|| LockRecord::never_held("shop/test", Timestamp::UNIX_EPOCH));
                        Some((taker.on_read(now, &record, 0), record))
                    }
                    Some(SimulatedReply::Swapped(true)) => {
                        let SimulatedCall::Swap { new, .. } = call else { unreachable!() };
                        taker.on_write_confirmed().map(|lease| (AcquireAction::Acquired(Box::new(lease)), new))
                    }
                    Some(SimulatedReply::Swapped(false)) | None => None,
                };
                match next {
                    Some((AcquireAction::Acquired(lease), known)) => {
                        self.counts.taken += 1;
                        let effects = 1 + self.rng.below(6) as u32;
                        self.nodes[node].state = SimulatedNodeState::Holding { lease: *lease, known, effects };
                        self.schedule_turn(node, 0);
                    }
                    Some((AcquireAction::GiveUp(_), _)) => {
                        self.counts.given_up += 1;
                        self.go_idle(node);
                    }
                    Some((AcquireAction::Write(record), before)) => {
                        taker.on_write_sent(now, &record);
                        self.nodes[node].state = SimulatedNodeState::Acquiring(taker);
                        let expected = (before.epoch > 0).then_some(before);
                        self.send_call(node, SimulatedCall::Swap { expected, new: record });
                    }
                    Some((AcquireAction::ReadAt(at), _)) => {
                        self.nodes[node].state = SimulatedNodeState::Acquiring(taker);
                        let pause = at.saturating_sub(now).as_millis() as u64 + 1;
                        self.schedule_turn(node, pause);
                    }
                    None => {
                        self.nodes[node].state = SimulatedNodeState::Acquiring(taker);
                        self.schedule_turn(node, 10);
                    }
                }
            }
            SimulatedNodeState::Holding { mut lease, mut known, effects } => {
                let outcome = match (reply, &call) {
                    (Some(SimulatedReply::Swapped(true)), SimulatedCall::Swap { new, .. }) => {
                        known = new.clone();
                        lease.on_write_confirmed(now).map(|()| Some(ReadBackResult::Confirmed))
                    }
                    (Some(SimulatedReply::Read(record)), _) => {
                        let outcome = lease.on_read_back(now, record.as_ref()).map(Some);
                        known = record.unwrap_or(known);
                        if let Ok(Some(ReadBackResult::Confirmed)) = outcome {
                            self.counts.lost_replies += 1;
                        }
                        outcome
                    }
                    (Some(SimulatedReply::Swapped(_)) | None, _) => lease.check(now).map(|()| None),
                };
                self.nodes[node].state = SimulatedNodeState::Holding { lease, known, effects };
                match outcome {
                    Ok(Some(ReadBackResult::Confirmed)) => self.handle_confirmed(node),
                    Ok(Some(ReadBackResult::Unchanged)) => self.send_write(node, self.nodes[node].write_kind),
                    Ok(None) => self.send_call(node, SimulatedCall::Read),
                    Err(lost) => self.handle_loss(node, &lost),
                }
            }
        }
    }

    fn handle_confirmed(&mut self, node: usize) {
        match self.nodes[node].write_kind {
            SimulatedWriteKind::Release => {
                let SimulatedNodeState::Holding { lease, .. } = &self.nodes[node].state else { unreachable!() };
                let tombstone = &lease.record().nonce;
                let has_arrived = self.written.iter().any(|(nonce, ..)| nonce == tombstone);
                assert!(has_arrived, "an operator's release confirmed the holder's: {:?}", self.record);
                return self.go_idle(node);
            }
            SimulatedWriteKind::Effect => self.perform_effect(node),
            SimulatedWriteKind::Renew => {}
        }
        let pause = self.rng.below(TTL_MS / 3);
        self.schedule_turn(node, pause);
    }

    /// Checks the main property: an effect happens under a held lock, by the only node that believes to hold it.
    fn perform_effect(&mut self, node: usize) {
        let SimulatedNodeState::Holding { lease, effects, .. } = &mut self.nodes[node].state else { unreachable!() };
        *effects -= 1;
        let (epoch, nonce) = (lease.record().epoch, lease.record().nonce.clone());
        self.counts.effects += 1;
        if self.forced.contains(&epoch) {
            // An operator may release the lock between the reply and the effect. docs/lock.md describes that window.
            return;
        }
        let held = self.record.as_ref().map(|record| record.nonce.as_str());
        assert_eq!(held, Some(nonce.as_str()), "an effect of epoch {epoch} without the lock");
        assert!(epoch >= self.newest_effect, "an effect of epoch {epoch} after one of {}", self.newest_effect);
        self.newest_effect = epoch;
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let clock = self.clock(other);
            let SimulatedNode { state: doing, write_kind: aim, stopped_until, .. } = &self.nodes[other];
            if let SimulatedNodeState::Holding { lease, .. } = doing
                && *aim != SimulatedWriteKind::Release
                && self.now >= *stopped_until
                && !self.forced.contains(&lease.record().epoch)
            {
                let believes = lease.clone().check(clock).is_ok();
                assert!(!believes, "two believe: epochs {epoch} and {}", lease.record().epoch);
            }
        }
    }

    /// Checks that whoever waits for two leases gets the lock, whatever happened.
    fn assert_lock_becomes_free(&mut self) {
        let holder = LockHolder { who: "last".to_owned(), url: None, purpose: None };
        let (ttl, began) = (Duration::from_millis(TTL_MS), self.clock(0));
        let wait = LockWait::For(2 * ttl);
        let nonces = HoldingNonces { holding: "last".to_owned(), release: "end".to_owned() };
        let mut taker = LockAcquirer::new(began, holder, nonces, ttl, wait, Timestamp::UNIX_EPOCH);
        let mut now = began;
        loop {
            let record = self.record.clone().expect("the first race has a winner");
            match taker.on_read(now, &record, 0) {
                AcquireAction::ReadAt(at) => now = at,
                AcquireAction::Write(_) => break,
                AcquireAction::Acquired(_) | AcquireAction::GiveUp(_) => {
                    panic!("it is not free after two leases: {record:?}")
                }
            }
        }
    }
}

#[test]
fn no_history_lets_two_holders_act() {
    let mut total = SimulationCounts::default();
    for seed in 0..SEEDS {
        let mut world = LockSimulation::new(seed);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        if let Err(panic) = ran {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("seed {seed}: {text}");
        }
        let SimulationCounts {
            taken,
            effects,
            lost_replies,
            lease_expired: ran_out,
            taken_over: robbed,
            released,
            forced,
            expired_taken: expired,
            clock_jumps: steps,
            given_up,
        } = world.counts;
        total.taken += taken;
        total.effects += effects;
        total.lost_replies += lost_replies;
        total.lease_expired += ran_out;
        total.taken_over += robbed;
        total.released += released;
        total.forced += forced;
        total.expired_taken += expired;
        total.clock_jumps += steps;
        total.given_up += given_up;
    }
    // The histories have covered every kind of fault.
    let SimulationCounts {
        taken,
        effects,
        lost_replies,
        lease_expired: ran_out,
        taken_over: robbed,
        released,
        forced,
        expired_taken: expired,
        clock_jumps: steps,
        given_up,
    } = total;
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
