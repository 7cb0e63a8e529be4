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
mod world;

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
