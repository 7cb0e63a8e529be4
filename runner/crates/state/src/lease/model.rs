//! The lock of a remote state with its journals, explored exhaustively: machines that deploy, are killed, lose messages, are cut off or
//! suspended for longer than their lease, and are forced out. Being suspended is to do nothing while time passes.
//!
//! The machines use the product's [`LockAcquirer`], [`Lease`], [`LockRecord`] and [`tail_decision`]; the remote is simulated, and
//! compares whole contents, as an `ETag` does. A write whose answer did not come may still arrive. [`RemoteProtocol`] names the faults of
//! 0.1.0, to show that the model finds them.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is left out of a protocol is named; the rest is the product's"
)]
// long: one state machine, read as a whole.

use std::collections::{BTreeMap, BTreeSet};

use contract::step::{FailureKind, StepFailure, StepOutcome, StepPhase};
use journal::{
    JournalEvent, StepTarget,
    event::{Fingerprint, JournalEntry, PlanStepRecord},
    line,
};

use super::*;
use crate::{
    model_checker::{Exploration, Model, counted, explore, wants_wide_bounds},
    tail::{LocalJournal, TailDecision, tail_decision},
};

const TTL: Duration = Duration::from_secs(2);

/// The protocol, or one with a fault of 0.1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RemoteProtocol {
    /// The product's.
    Current,
    /// A holder's tombstone and an operator's are alike.
    AlikeTombstones,
    /// A holder that lost its lock goes on appending, and a machine refuses journals that have diverged.
    NoFence,
    /// A holder that lost its lock stops appending, but a machine refuses journals that have diverged.
    NoTailRule,
}

struct RemoteModel {
    protocol: RemoteProtocol,
    machines: usize,
    attempts: u8,
    seconds: u8,
    forced_releases: u8,
    kills: u8,
    lost_messages: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ModelStep {
    Prepare,
    Commit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RemoteLine {
    /// The machine, and the epoch and number of lines of the journal that it continues.
    Started(usize, Option<(u64, usize)>),
    Intent(ModelStep),
    Outcome(ModelStep),
    NotBegun(ModelStep),
    Ended,
}

type Journals = BTreeMap<u64, Vec<RemoteLine>>;

/// What the remote has: it is replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Manifest {
    lock: LockRecord,
    journals: Journals,
}

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    Publish,
    Confirm,
    Release,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Swap {
    expected: Manifest,
    new: Manifest,
}

/// A call that waits for its answer.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Call {
    Read,
    Write(Box<Swap>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum MachinePhase {
    Idle,
    Acquiring(Box<LockAcquirer>, Call),
    Holding(Box<Holding>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Holding {
    lease: Lease,
    /// The manifest as it was last read or written.
    known: Manifest,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    Start,
    Call(Purpose, bool),
    Prepare,
    IntendCommit,
    Commit,
    End,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Machine {
    phase: MachinePhase,
    attempts_left: u8,
    journals: Journals,
    /// Steps that count as begun, by epoch.
    begun: BTreeSet<(u64, StepTarget)>,
    /// A write whose answer the machine does not wait for any more.
    late: Option<Box<Swap>>,
    tries: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct RemoteWorld {
    now: u8,
    remote: Manifest,
    machines: Vec<Machine>,
    /// What the remote has acknowledged to a machine that still lived.
    acknowledged: Journals,
    /// The prepare steps that acted, by machine and epoch.
    prepared: BTreeSet<(usize, u64)>,
    forced_releases_left: u8,
    kills_left: u8,
    losses_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Arrives,
    /// The call arrives; its answer does not.
    Lost,
    /// The call may arrive later.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RemoteAction {
    Second,
    Begin(usize),
    ModelStep(usize, Next),
    Call(usize, Answer),
    LateWriteArrives(usize),
    Kill(usize),
    ForceRelease,
}

fn step_target(step: ModelStep) -> StepTarget {
    let name = match step {
        ModelStep::Prepare => "pull",
        ModelStep::Commit => "switch",
    };
    StepTarget { step: name.parse().expect("a name"), target: "local".parse().expect("a name") }
}

/// The line as the product writes it, for [`tail_decision`].
fn encoded(line: RemoteLine) -> Vec<u8> {
    let outcome = |step, outcome| JournalEvent::Outcome { step_target: step_target(step), took_ms: 0, outcome };
    let event = match line {
        RemoteLine::Started(..) => {
            let phases = [(ModelStep::Prepare, StepPhase::Prepare), (ModelStep::Commit, StepPhase::Commit)];
            let steps = phases.map(|(step, phase)| {
                let step_target = step_target(step);
                PlanStepRecord { step_target, uses: String::new(), phase, exposes: false }
            });
            JournalEvent::Plan {
                digest: contract::hash::Blake3Hash::of(b""),
                path: String::new(),
                steps: steps.to_vec(),
            }
        }
        RemoteLine::Intent(step) => JournalEvent::Intent {
            step_target: step_target(step),
            key: String::new(),
            fingerprint: Fingerprint::default(),
            input: serde_json::Value::Null,
            exposes: false,
            release: None,
        },
        RemoteLine::Outcome(step) => {
            outcome(step, StepOutcome::Succeeded { receipt: contract::step::Receipt::default() })
        }
        RemoteLine::NotBegun(step) => {
            outcome(step, StepOutcome::Failed { failure: StepFailure::new(FailureKind::NotBegun, "no lock") })
        }
        RemoteLine::Ended => JournalEvent::Ended { exit: contract::diagnostic::ExitKind::Success, verified: true },
    };
    line::encode(&JournalEntry { seq: 0, prev: None, at: Timestamp::UNIX_EPOCH, event }).bytes
}

fn newest(journals: &Journals) -> Option<(u64, usize)> {
    journals.last_key_value().map(|(epoch, lines)| (*epoch, lines.len()))
}

/// Each journal continues the one before it: otherwise every command ends with exit code 65.
fn check_chain(journals: &Journals) -> Result<(), String> {
    let mut before = None;
    let mut writers = BTreeMap::new();
    for (epoch, lines) in journals {
        let Some(RemoteLine::Started(writer, continues)) = lines.first() else {
            return Err(format!("the journal of epoch {epoch} has no header"));
        };
        if *continues != before {
            return Err(format!("the journal of epoch {epoch} continues {continues:?}, which is {before:?}"));
        }
        writers.insert(*epoch, *writer);
        before = Some((*epoch, lines.len()));
    }
    Ok(())
}

impl Machine {
    fn is_dead_or_done(&self) -> bool {
        matches!(self.phase, MachinePhase::Idle) && self.attempts_left == 0
    }

    /// Brings the remote's journals here. The protocol of 0.1.0 refuses what has diverged.
    fn pull(&mut self, remote: &Journals, protocol: RemoteProtocol) -> Result<(), String> {
        let newest_epoch = newest(remote).map_or(0, |(epoch, _)| epoch);
        let is_old = matches!(protocol, RemoteProtocol::NoFence | RemoteProtocol::NoTailRule);
        let epochs: Vec<_> = self.journals.keys().copied().collect();
        for epoch in epochs {
            let (local, kept) = (&self.journals[&epoch], remote.get(&epoch));
            let known = kept.map_or(0, Vec::len);
            let is_same = kept.is_none_or(|kept| {
                let shorter = kept.len().min(local.len());
                kept[..shorter] == local[..shorter]
            });
            if !is_same {
                return Err(format!("stuck: the journal of epoch {epoch} has diverged"));
            }
            if local.len() <= known {
                continue;
            }
            if is_old && epoch < newest_epoch {
                return Err(format!("stuck: the journal of epoch {epoch} is longer here, and a later attempt ran"));
            }
            let lines: Vec<_> = local.iter().map(|line| encoded(*line)).collect();
            let acknowledged = lines[..known].iter().map(Vec::len).sum();
            let content = lines.concat();
            match tail_decision(&LocalJournal { epoch, content: &content, acknowledged, newest_epoch }) {
                TailDecision::Keep => continue,
                TailDecision::Cut => {}
                TailDecision::Quarantine { begun } => {
                    self.begun.extend(begun.into_iter().map(|step_target| (epoch, step_target)));
                }
            }
            self.journals.remove(&epoch);
        }
        for (epoch, lines) in remote {
            let local = self.journals.entry(*epoch).or_default();
            if local.len() < lines.len() {
                lines.clone_into(local);
            }
        }
        check_chain(&self.journals)
    }

    /// Adds a line to the journal of the attempt.
    fn append(&mut self, epoch: u64, line: RemoteLine) {
        self.journals.entry(epoch).or_default().push(line);
    }
}

impl RemoteWorld {
    fn clock(&self) -> MonotonicTime {
        Duration::from_secs(self.now.into())
    }

    /// The remote's part of a write.
    fn swap(&mut self, swap: &Swap) -> Result<bool, String> {
        if self.remote != swap.expected {
            return Ok(false);
        }
        self.remote = swap.new.clone();
        check_chain(&self.remote.journals)?;
        Ok(true)
    }

    fn begin(&mut self, machine: usize) {
        let now = self.clock();
        let state = &mut self.machines[machine];
        state.attempts_left -= 1;
        state.tries += 1;
        let holder = LockHolder { who: machine.to_string(), url: None, purpose: None };
        let name = format!("{machine}-{}", state.tries);
        let nonces = HoldingNonces { release: format!("end-{name}"), holding: name };
        let wait = LockWait::For(Duration::from_secs(100));
        let acquirer = LockAcquirer::new(now, holder, nonces, TTL, wait, Timestamp::UNIX_EPOCH);
        state.phase = MachinePhase::Acquiring(Box::new(acquirer), Call::Read);
    }

    /// The newest epoch that a machine knows without asking.
    fn local_epoch(&self, machine: usize) -> u64 {
        newest(&self.machines[machine].journals).map_or(0, |(epoch, _)| epoch)
    }

    fn call(&mut self, machine: usize, answer: Answer, protocol: RemoteProtocol) -> Result<(), String> {
        match std::mem::replace(&mut self.machines[machine].phase, MachinePhase::Idle) {
            MachinePhase::Idle => unreachable!("it calls nobody"),
            MachinePhase::Acquiring(acquirer, call) => self.call_acquiring(machine, *acquirer, call, answer, protocol),
            MachinePhase::Holding(holding) => self.call_holding(machine, *holding, answer, protocol),
        }
    }

    fn call_acquiring(
        &mut self,
        machine: usize,
        mut acquirer: LockAcquirer,
        call: Call,
        answer: Answer,
        protocol: RemoteProtocol,
    ) -> Result<(), String> {
        let now = self.clock();
        let again = |acquirer| MachinePhase::Acquiring(Box::new(acquirer), Call::Read);
        let next = match (call, answer) {
            (Call::Read, Answer::Arrives) => {
                let newest = self.local_epoch(machine).max(newest(&self.remote.journals).map_or(0, |(epoch, _)| epoch));
                match acquirer.on_read(now, &self.remote.lock.clone(), newest) {
                    AcquireAction::Write(lock) => {
                        acquirer.on_write_sent(now, &lock);
                        let expected = self.remote.clone();
                        let new = Manifest { lock, ..expected.clone() };
                        MachinePhase::Acquiring(Box::new(acquirer), Call::Write(Box::new(Swap { expected, new })))
                    }
                    AcquireAction::ReadAt(_) => again(acquirer),
                    AcquireAction::Acquired(lease) => self.acquired(machine, *lease, self.remote.clone(), protocol)?,
                    AcquireAction::GiveUp(_) => MachinePhase::Idle,
                }
            }
            (Call::Read, Answer::Lost | Answer::Late) => again(acquirer),
            (Call::Write(swap), Answer::Arrives) => {
                let is_swapped = self.swap(&swap)?;
                match acquirer.on_write_confirmed().filter(|_| is_swapped) {
                    Some(lease) => self.acquired(machine, lease, swap.new, protocol)?,
                    None => again(acquirer),
                }
            }
            (Call::Write(swap), Answer::Lost) => {
                self.swap(&swap)?;
                again(acquirer)
            }
            (Call::Write(swap), Answer::Late) => {
                self.machines[machine].late = Some(swap);
                again(acquirer)
            }
        };
        self.machines[machine].phase = next;
        Ok(())
    }

    fn acquired(
        &mut self,
        machine: usize,
        lease: Lease,
        known: Manifest,
        protocol: RemoteProtocol,
    ) -> Result<MachinePhase, String> {
        self.machines[machine].pull(&known.journals, protocol)?;
        Ok(MachinePhase::Holding(Box::new(Holding { lease, known, next: Next::Start })))
    }

    /// The manifest that a holder writes: everything that its machine has, and the lock.
    fn manifest_to_write(&self, machine: usize, lock: LockRecord, known: &Manifest) -> Manifest {
        let mut journals = known.journals.clone();
        for (epoch, lines) in &self.machines[machine].journals {
            let kept = journals.entry(*epoch).or_default();
            if kept.len() < lines.len() {
                lines.clone_into(kept);
            }
        }
        Manifest { lock, journals }
    }

    fn call_holding(
        &mut self,
        machine: usize,
        mut holding: Holding,
        answer: Answer,
        protocol: RemoteProtocol,
    ) -> Result<(), String> {
        let now = self.clock();
        let Next::Call(purpose, is_reading) = holding.next else { unreachable!("it calls nobody") };
        let confirmed = if is_reading {
            match answer {
                Answer::Arrives => {
                    let read = holding.lease.on_read_back(now, Some(&self.remote.lock));
                    holding.known = self.remote.clone();
                    read.map(|result| result == ReadBackResult::Confirmed)
                }
                Answer::Lost | Answer::Late => holding.lease.check(now).map(|()| false),
            }
            .map(|is_confirmed| (is_confirmed, answer == Answer::Arrives))
        } else {
            let mut lock = match purpose {
                Purpose::Release => holding.lease.released_record(Timestamp::UNIX_EPOCH),
                Purpose::Publish | Purpose::Confirm => holding.lease.next_record(),
            };
            if protocol == RemoteProtocol::AlikeTombstones && purpose == Purpose::Release {
                lock.nonce = "released".to_owned();
            }
            match holding.lease.on_write_sent(now, lock.clone()) {
                Err(lost) => Err(lost),
                Ok(()) => {
                    let new = self.manifest_to_write(machine, lock, &holding.known);
                    let swap = Box::new(Swap { expected: holding.known.clone(), new });
                    match answer {
                        Answer::Arrives if self.swap(&swap)? => {
                            holding.known = swap.new;
                            holding.lease.on_write_confirmed(now).map(|()| (true, false))
                        }
                        Answer::Arrives => Ok((false, false)),
                        Answer::Lost => self.swap(&swap).map(|_| Ok((false, false)))?,
                        Answer::Late => {
                            self.machines[machine].late = Some(swap);
                            Ok((false, false))
                        }
                    }
                }
            }
        };
        match confirmed {
            Err(_) => self.lose(machine, &holding, purpose, protocol),
            Ok((true, _)) => self.confirmed(machine, holding, purpose),
            // A rejected or unanswered write is read back; what was read is written upon.
            Ok((false, was_read)) => {
                holding.next = Next::Call(purpose, !was_read);
                self.machines[machine].phase = MachinePhase::Holding(Box::new(holding));
            }
        }
        Ok(())
    }

    /// The remote has what the machine had when it wrote.
    fn confirmed(&mut self, machine: usize, mut holding: Holding, purpose: Purpose) {
        for (epoch, lines) in &self.machines[machine].journals {
            let known = self.acknowledged.entry(*epoch).or_default();
            if known.len() < lines.len() {
                lines.clone_into(known);
            }
        }
        holding.next = match purpose {
            Purpose::Publish => Next::Prepare,
            Purpose::Confirm => Next::Commit,
            Purpose::Release => {
                self.machines[machine].phase = MachinePhase::Idle;
                return;
            }
        };
        self.machines[machine].phase = MachinePhase::Holding(Box::new(holding));
    }

    /// A holder learns that it has lost the lock. That of 0.1.0 writes how the attempt ended.
    fn lose(&mut self, machine: usize, holding: &Holding, purpose: Purpose, protocol: RemoteProtocol) {
        let state = &mut self.machines[machine];
        if protocol == RemoteProtocol::NoFence && purpose != Purpose::Release {
            let epoch = holding.lease.record().epoch;
            if purpose == Purpose::Confirm {
                state.append(epoch, RemoteLine::NotBegun(ModelStep::Commit));
            }
            state.append(epoch, RemoteLine::Ended);
        }
        state.phase = MachinePhase::Idle;
    }

    fn step(&mut self, machine: usize, next: Next) -> Result<(), String> {
        let now = self.clock();
        let state = &mut self.machines[machine];
        let MachinePhase::Holding(holding) = &mut state.phase else { unreachable!("it holds the lock") };
        let epoch = holding.lease.record().epoch;
        let continues = newest(&state.journals);
        let (then, lines): (_, &[RemoteLine]) = match next {
            Next::Start => (Next::Call(Purpose::Publish, false), &[RemoteLine::Started(machine, continues)]),
            // Without asking the remote.
            Next::Prepare => {
                (Next::IntendCommit, &[RemoteLine::Intent(ModelStep::Prepare), RemoteLine::Outcome(ModelStep::Prepare)])
            }
            Next::IntendCommit => (Next::Call(Purpose::Confirm, false), &[RemoteLine::Intent(ModelStep::Commit)]),
            Next::Commit => (Next::End, &[RemoteLine::Outcome(ModelStep::Commit)]),
            Next::End => (Next::Call(Purpose::Release, false), &[RemoteLine::Ended]),
            Next::Call(..) => unreachable!("it waits for an answer"),
        };
        holding.next = then;
        lines.iter().for_each(|line| state.append(epoch, *line));
        if next == Next::Prepare {
            self.prepared.insert((machine, epoch));
        }
        let MachinePhase::Holding(holding) = &mut self.machines[machine].phase else {
            unreachable!("it holds the lock")
        };
        if next == Next::Commit && holding.lease.check(now).is_ok() {
            let recorded = self.remote.journals.get(&epoch).map_or(&[][..], Vec::as_slice);
            if !recorded.contains(&RemoteLine::Intent(ModelStep::Commit)) {
                return Err(format!("an effect without a record: machine {machine}, epoch {epoch}"));
            }
        }
        Ok(())
    }

    fn force_release(&mut self, protocol: RemoteProtocol) {
        let lock = &self.remote.lock;
        let nonce = if protocol == RemoteProtocol::AlikeTombstones { "released" } else { "operator" };
        self.remote.lock = lock.tombstone(nonce.to_owned(), ReleasedBy::Operator, Timestamp::UNIX_EPOCH);
        self.forced_releases_left -= 1;
    }

    /// What the remote acknowledged is there.
    fn check_acknowledged(&self) -> Result<(), String> {
        for (epoch, lines) in &self.acknowledged {
            if !self.remote.journals.get(epoch).is_some_and(|kept| kept.starts_with(lines)) {
                return Err(format!("an acknowledged record of epoch {epoch} is lost"));
            }
        }
        Ok(())
    }

    /// Each machine can go on, and knows of every step that acted.
    fn check_machines(&self, protocol: RemoteProtocol) -> Result<(), String> {
        for (index, machine) in self.machines.iter().enumerate() {
            // A holder has pulled, and its journal is ahead of the remote's.
            if matches!(machine.phase, MachinePhase::Holding(_)) {
                continue;
            }
            let mut next = machine.clone();
            next.pull(&self.remote.journals, protocol).map_err(|why| format!("machine {index}: {why}"))?;
            let target = step_target(ModelStep::Prepare);
            for (_, epoch) in self.prepared.iter().filter(|(of, _)| *of == index) {
                let is_recorded = next
                    .journals
                    .get(epoch)
                    .is_some_and(|lines| lines.contains(&RemoteLine::Intent(ModelStep::Prepare)));
                if !is_recorded && !next.begun.contains(&(*epoch, target.clone())) {
                    return Err(format!("an effect without a record: machine {index}, epoch {epoch}, prepare"));
                }
            }
        }
        Ok(())
    }

    /// Who waits for two leases gets the lock.
    fn check_lock_becomes_free(&self) -> Result<(), String> {
        let holder = LockHolder { who: "last".to_owned(), url: None, purpose: None };
        let nonces = HoldingNonces { holding: "last".to_owned(), release: "end".to_owned() };
        let mut now = self.clock();
        let mut acquirer = LockAcquirer::new(now, holder, nonces, TTL, LockWait::For(2 * TTL), Timestamp::UNIX_EPOCH);
        loop {
            match acquirer.on_read(now, &self.remote.lock, 0) {
                AcquireAction::ReadAt(at) => now = at,
                AcquireAction::Write(_) => return Ok(()),
                AcquireAction::Acquired(_) | AcquireAction::GiveUp(_) => {
                    return Err("stuck: the lock is held".to_owned());
                }
            }
        }
    }
}

impl Model for RemoteModel {
    type State = RemoteWorld;
    type Action = RemoteAction;

    fn initial_state(&self) -> RemoteWorld {
        let machine = Machine {
            phase: MachinePhase::Idle,
            attempts_left: self.attempts,
            journals: BTreeMap::new(),
            begun: BTreeSet::new(),
            late: None,
            tries: 0,
        };
        let lock = LockRecord::never_held("shop/test", Timestamp::UNIX_EPOCH);
        RemoteWorld {
            now: 0,
            remote: Manifest { lock, journals: BTreeMap::new() },
            machines: vec![machine; self.machines],
            acknowledged: BTreeMap::new(),
            prepared: BTreeSet::new(),
            forced_releases_left: self.forced_releases,
            kills_left: self.kills,
            losses_left: self.lost_messages,
        }
    }

    fn actions(&self, world: &RemoteWorld, actions: &mut Vec<RemoteAction>) {
        let is_active = world.machines.iter().any(|machine| !machine.is_dead_or_done());
        if world.now < self.seconds && is_active {
            actions.push(RemoteAction::Second);
        }
        for (index, machine) in world.machines.iter().enumerate() {
            let is_call = match &machine.phase {
                MachinePhase::Idle if machine.attempts_left > 0 => {
                    // One machine is like the other, so they begin in order.
                    if index == 0 || world.machines[index - 1].tries > 0 {
                        actions.push(RemoteAction::Begin(index));
                    }
                    false
                }
                MachinePhase::Idle => false,
                MachinePhase::Acquiring(..) => true,
                MachinePhase::Holding(holding) => match holding.next {
                    Next::Call(..) => true,
                    next => {
                        actions.push(RemoteAction::ModelStep(index, next));
                        false
                    }
                },
            };
            if is_call {
                actions.push(RemoteAction::Call(index, Answer::Arrives));
                let is_read = match &machine.phase {
                    MachinePhase::Acquiring(_, Call::Read) => true,
                    MachinePhase::Acquiring(..) | MachinePhase::Idle => false,
                    MachinePhase::Holding(holding) => matches!(holding.next, Next::Call(_, true)),
                };
                if world.losses_left > 0 && !is_read {
                    actions.push(RemoteAction::Call(index, Answer::Lost));
                    actions.push(RemoteAction::Call(index, Answer::Late));
                }
            }
            if machine.late.is_some() {
                actions.push(RemoteAction::LateWriteArrives(index));
            }
            if world.kills_left > 0 && !matches!(machine.phase, MachinePhase::Idle) {
                actions.push(RemoteAction::Kill(index));
            }
        }
        if world.forced_releases_left > 0 && world.remote.lock.holder.is_some() {
            actions.push(RemoteAction::ForceRelease);
        }
    }

    fn next_state(&self, world: &RemoteWorld, action: &RemoteAction) -> Result<RemoteWorld, String> {
        let mut world = world.clone();
        match *action {
            RemoteAction::Second => world.now += 1,
            RemoteAction::Begin(machine) => world.begin(machine),
            RemoteAction::ModelStep(machine, next) => world.step(machine, next)?,
            RemoteAction::Call(machine, answer) => {
                if answer != Answer::Arrives {
                    world.losses_left -= 1;
                }
                world.call(machine, answer, self.protocol)?;
            }
            RemoteAction::LateWriteArrives(machine) => {
                if let Some(swap) = world.machines[machine].late.take() {
                    world.swap(&swap)?;
                }
            }
            RemoteAction::Kill(machine) => {
                world.machines[machine].phase = MachinePhase::Idle;
                world.kills_left -= 1;
            }
            RemoteAction::ForceRelease => world.force_release(self.protocol),
        }
        Ok(world)
    }

    fn check(&self, world: &RemoteWorld) -> Result<(), String> {
        world.check_acknowledged()?;
        world.check_machines(self.protocol)?;
        world.check_lock_becomes_free()
    }
}

fn explored(
    protocol: RemoteProtocol,
    [machines, attempts, seconds, forced_releases, kills, lost_messages]: [u8; 6],
) -> Exploration<RemoteAction> {
    let machines = machines.into();
    explore(&RemoteModel { protocol, machines, attempts, seconds, forced_releases, kills, lost_messages })
}

/// Machines, attempts of each, seconds, forced releases, kills, lost or late messages.
const BOUNDS: [[u8; 6]; 4] = [[2, 1, 3, 0, 1, 1], [2, 1, 3, 1, 1, 0], [2, 1, 0, 1, 0, 1], [2, 2, 0, 1, 0, 0]];
const WIDE_BOUNDS: [[u8; 6]; 3] = [[2, 1, 3, 1, 0, 1], [2, 2, 3, 1, 0, 0], [3, 1, 3, 0, 0, 0]];

#[test]
fn current_protocol_keeps_every_record() {
    let wide = if wants_wide_bounds() { &WIDE_BOUNDS[..] } else { &[] };
    for bounds in BOUNDS.iter().chain(wide).copied() {
        let [machines, attempts, seconds, forced_releases, kills, losses] = bounds;
        let text = [
            format!("{} of {}", counted(machines, "machine"), counted(attempts, "attempt")),
            counted(seconds, "second"),
            counted(forced_releases, "forced release"),
            counted(kills, "kill"),
            counted(losses, "lost or late message"),
        ];
        explored(RemoteProtocol::Current, bounds).assert_documented("remote", &text.join(", "));
    }
}

#[test]
fn faults_of_0_1_0_are_found() {
    for (protocol, expected) in [
        (RemoteProtocol::AlikeTombstones, "an acknowledged record"),
        (RemoteProtocol::NoFence, "stuck"),
        (RemoteProtocol::NoTailRule, "stuck"),
    ] {
        let found = explored(protocol, [2, 1, 3, 1, 1, 1]);
        let example =
            found.counter_example.unwrap_or_else(|| panic!("{protocol:?}: nothing in {} states", found.states));
        assert!(example.broken.contains(expected), "{protocol:?}: {example:#?}");
        assert!(example.actions.len() > 3, "{protocol:?}: {example:#?}");
    }
}
