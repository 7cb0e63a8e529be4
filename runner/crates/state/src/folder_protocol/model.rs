//! The lock of a folder, explored exhaustively: every interleaving of processes that take it, deploy, are suspended, killed and forced
//! out. Being suspended is to do nothing for a while, so each interleaving contains it.
//!
//! The processes take their steps from the product's [`FolderTaker`] and [`may_still_write`], and their records from
//! [`LockRecord`]; the file system is simulated. [`FolderProtocol`] names what a protocol leaves out, to show that the model finds out.

// long: one state machine, read as a whole.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is left out of a protocol is named; the rest is the product's"
)]

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::*;
use crate::{
    model_checker::{Exploration, Model, explore, wants_wide_bounds},
    record::LockHolder,
};

/// The protocol, or one that lacks a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FolderProtocol {
    /// The product's.
    Current,
    /// The operator seals the newest journal after the release; the taker does nothing (the protocol of 0.1.0).
    SealByOperator,
    /// The taker does not seal.
    NoSeal,
    /// The taker leaves the staging directories of former holders alone.
    NoFence,
    /// The staging directories are listed after the last look at the record.
    LateList,
    /// The holder does not look at the record between an intent and its effect.
    NoCheck,
}

struct FolderModel {
    protocol: FolderProtocol,
    processes: usize,
    steps: u8,
    forced_releases: u8,
    kills: u8,
}

/// The number of a file without its name, as an inode.
type FileId = usize;

#[derive(Clone, PartialEq, Eq, Hash)]
struct FolderLine {
    writer: usize,
    content: FolderLineContent,
    /// Whether the lock was held when it was written.
    was_held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FolderLineContent {
    /// The epoch and the number of lines of the journal that it continues.
    Started(Option<(u64, usize)>),
    Intent(u8),
    Outcome(u8),
    Ended,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct RecordFile {
    content: Option<LockRecord>,
    locked_by: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Staging {
    sealed: Option<FileId>,
    journal: Option<FileId>,
}

/// What a process does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ProcessPhase {
    Take,
    Load,
    CheckBeforeEpoch,
    WriteEpoch,
    StageJournal,
    PlaceJournal,
    Intend(u8),
    Check(u8),
    Act(u8),
    RecordOutcome(u8),
    CheckBeforeEnd,
    End,
    WriteTombstone,
    RemoveStaging,
    Unlock,
    Gone,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Process {
    phase: ProcessPhase,
    taker: FolderTaker,
    tries: u8,
    /// The record file that it has locked.
    locked: Option<FileId>,
    record: Option<LockRecord>,
    /// The journal that its own continues, and how many lines that has.
    continues: Option<(u64, usize)>,
    journal: Option<FileId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OperatorPhase {
    Read,
    Replace,
    /// Only in [`FolderProtocol::SealByOperator`].
    Copy,
    Place(u64, FileId),
    Gone,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Operator {
    phase: OperatorPhase,
    seen: Option<LockRecord>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FolderWorld {
    /// The last one has the name.
    records: Vec<RecordFile>,
    /// By process and try. A directory that another holder has moved away is not among them.
    staging: BTreeMap<String, Staging>,
    files: Vec<Vec<FolderLine>>,
    journals: BTreeMap<u64, FileId>,
    processes: Vec<Process>,
    operators: Vec<Operator>,
    kills_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FolderAction {
    Process(usize, ProcessPhase),
    Kill(usize),
    Operator(usize, OperatorPhase),
}

fn staging_name(process: usize, tries: u8) -> String {
    format!("{process}-{tries}")
}

impl FolderWorld {
    fn current_record(&self) -> FileId {
        self.records.len() - 1
    }

    fn holds_lock(&self, process: usize) -> bool {
        self.processes[process].locked == Some(self.current_record())
    }

    fn own_staging(&self, process: usize) -> String {
        staging_name(process, self.processes[process].tries)
    }

    fn append(&mut self, process: usize, content: FolderLineContent) {
        let was_held = self.holds_lock(process);
        let file = self.processes[process].journal.expect("it has created its journal");
        self.files[file].push(FolderLine { writer: process, content, was_held });
    }

    fn newest_journal(&self) -> Option<(u64, usize)> {
        self.journals.last_key_value().map(|(epoch, file)| (*epoch, self.files[*file].len()))
    }

    fn copy_file(&mut self, file: FileId) -> FileId {
        self.files.push(self.files[file].clone());
        self.files.len() - 1
    }

    /// What a process does and sees in one step.
    fn take_step(&mut self, process: usize, step: &TakeStep, protocol: FolderProtocol) -> TakeEvent {
        let own = self.own_staging(process);
        match step {
            TakeStep::Lock => {
                self.staging.remove(&own);
                if let Some(former) = self.processes[process].locked.take() {
                    self.records[former].locked_by = None;
                }
                let record = self.current_record();
                self.records[record].locked_by = Some(process);
                let last = self.records[record].content.clone();
                let is_writer_alive = may_still_write(last.as_ref());
                let process = &mut self.processes[process];
                (process.locked, process.record) = (Some(record), last);
                process.tries += 1;
                TakeEvent::Locked { is_writer_alive }
            }
            TakeStep::CreateStaging => {
                self.staging.insert(own, Staging::default());
                TakeEvent::Done
            }
            TakeStep::ListStaging => {
                let others = self.staging.keys().filter(|name| **name != own);
                TakeEvent::Staging(others.cloned().collect())
            }
            TakeStep::CheckRecord if self.holds_lock(process) => TakeEvent::Done,
            TakeStep::CheckRecord => TakeEvent::Lost,
            TakeStep::Fence(_) if !self.staging.contains_key(&own) => TakeEvent::Lost,
            TakeStep::Fence(name) => {
                match protocol {
                    FolderProtocol::NoFence => {}
                    FolderProtocol::LateList => self.staging.retain(|name, _| *name == own),
                    _ => drop(self.staging.remove(name)),
                }
                TakeEvent::Done
            }
            TakeStep::ListJournals => TakeEvent::Journals(self.journals.keys().copied().collect()),
            TakeStep::CopyJournal(epoch) => {
                let copied = self.journals.get(epoch).copied();
                let Some(file) = copied.filter(|_| self.staging.contains_key(&own)) else { return TakeEvent::Lost };
                let copy = self.copy_file(file);
                self.staging.entry(own).or_default().sealed = Some(copy);
                TakeEvent::Done
            }
            TakeStep::PlaceJournal(epoch) => match self.staging.get_mut(&own).and_then(|own| own.sealed.take()) {
                Some(copy) => {
                    self.journals.insert(*epoch, copy);
                    TakeEvent::Done
                }
                None => TakeEvent::Lost,
            },
            TakeStep::Taken => unreachable!("there is nothing to do"),
        }
    }

    /// Whether the process can do its next step, or only wait for the lock.
    fn can_act(&self, process: usize) -> bool {
        let Process { phase, taker, .. } = &self.processes[process];
        match (phase, taker.step()) {
            (ProcessPhase::Gone, _) => false,
            (ProcessPhase::Take, TakeStep::Lock) => {
                let holder = self.records[self.current_record()].locked_by;
                holder.is_none_or(|holder| holder == process)
            }
            _ => true,
        }
    }

    fn advance(&mut self, process: usize, model: &FolderModel) -> Result<(), String> {
        let phase = self.processes[process].phase;
        let held_or = |world: &Self, next| if world.holds_lock(process) { next } else { ProcessPhase::WriteTombstone };
        let next = match phase {
            ProcessPhase::Take => {
                let step = self.processes[process].taker.step().clone();
                let event = self.take_step(process, &step, model.protocol);
                let taker = &mut self.processes[process].taker;
                taker.on(event);
                skip_steps(taker, model.protocol);
                if *taker.step() == TakeStep::Taken { ProcessPhase::Load } else { ProcessPhase::Take }
            }
            ProcessPhase::Load => {
                self.processes[process].continues = self.newest_journal();
                ProcessPhase::CheckBeforeEpoch
            }
            ProcessPhase::CheckBeforeEpoch => held_or(self, ProcessPhase::WriteEpoch),
            ProcessPhase::WriteEpoch => {
                let current = &mut self.processes[process];
                let newest = current.continues.map_or(0, |(epoch, _)| epoch);
                let last = current.record.take().unwrap_or_else(free_record);
                let holder = LockHolder { who: process.to_string(), url: None, purpose: None };
                let nonce = staging_name(process, current.tries);
                let record = last.acquired_by(holder, nonce, None, newest, Timestamp::UNIX_EPOCH);
                let locked = current.locked.expect("it has locked a record");
                current.record = Some(record.clone());
                self.records[locked].content = Some(record);
                ProcessPhase::StageJournal
            }
            ProcessPhase::StageJournal => self.stage_journal(process, model.protocol)?,
            ProcessPhase::PlaceJournal => {
                let own = self.own_staging(process);
                match self.staging.get_mut(&own).and_then(|own| own.journal.take()) {
                    Some(file) => {
                        self.files[file][0].was_held = self.holds_lock(process);
                        self.place_new_journal(process, file)?;
                        if model.steps > 0 { ProcessPhase::Intend(0) } else { ProcessPhase::CheckBeforeEnd }
                    }
                    None => self.give_up_fenced(process)?,
                }
            }
            ProcessPhase::Intend(step) => {
                self.append(process, FolderLineContent::Intent(step));
                if model.protocol == FolderProtocol::NoCheck {
                    ProcessPhase::Act(step)
                } else {
                    ProcessPhase::Check(step)
                }
            }
            ProcessPhase::Check(step) => held_or(self, ProcessPhase::Act(step)),
            ProcessPhase::Act(step) => {
                self.check_effect(process, step)?;
                ProcessPhase::RecordOutcome(step)
            }
            ProcessPhase::RecordOutcome(step) => {
                self.append(process, FolderLineContent::Outcome(step));
                if step + 1 < model.steps { ProcessPhase::Intend(step + 1) } else { ProcessPhase::CheckBeforeEnd }
            }
            ProcessPhase::CheckBeforeEnd => held_or(self, ProcessPhase::End),
            ProcessPhase::End => {
                self.append(process, FolderLineContent::Ended);
                ProcessPhase::WriteTombstone
            }
            ProcessPhase::WriteTombstone => {
                let Process { record, locked, .. } = &self.processes[process];
                if let (Some(record), Some(locked)) = (record, *locked) {
                    let nonce = format!("end-{}", self.own_staging(process));
                    let tombstone = record.tombstone(nonce, ReleasedBy::Holder, Timestamp::UNIX_EPOCH);
                    self.records[locked].content = Some(tombstone);
                }
                ProcessPhase::RemoveStaging
            }
            ProcessPhase::RemoveStaging => {
                self.staging.remove(&self.own_staging(process));
                ProcessPhase::Unlock
            }
            ProcessPhase::Unlock => {
                self.unlock(process);
                ProcessPhase::Gone
            }
            ProcessPhase::Gone => unreachable!("it does nothing more"),
        };
        self.processes[process].phase = next;
        Ok(())
    }

    /// Writes the first line where nobody reads it yet. The protocol of 0.1.0 creates the journal under its name.
    fn stage_journal(&mut self, process: usize, protocol: FolderProtocol) -> Result<ProcessPhase, String> {
        let own = self.own_staging(process);
        let content = FolderLineContent::Started(self.processes[process].continues);
        let was_held = protocol == FolderProtocol::SealByOperator && self.holds_lock(process);
        let line = FolderLine { writer: process, content, was_held };
        let file = self.files.len();
        if protocol == FolderProtocol::SealByOperator {
            self.files.push(vec![line]);
            return Ok(match self.place_new_journal(process, file) {
                Ok(()) => ProcessPhase::Intend(0),
                Err(_) => ProcessPhase::WriteTombstone,
            });
        }
        let Some(staging) = self.staging.get_mut(&own) else { return self.give_up_fenced(process) };
        staging.journal = Some(file);
        self.files.push(vec![line]);
        Ok(ProcessPhase::PlaceJournal)
    }

    /// Only a former holder finds that its staging directory is gone.
    fn give_up_fenced(&self, process: usize) -> Result<ProcessPhase, String> {
        if self.holds_lock(process) {
            return Err(format!("the holder is fenced: process {process}"));
        }
        Ok(ProcessPhase::WriteTombstone)
    }

    fn place_new_journal(&mut self, process: usize, file: FileId) -> Result<(), String> {
        let epoch = self.processes[process].record.as_ref().map_or(0, |record| record.epoch);
        if self.journals.contains_key(&epoch) {
            return Err(format!("process {process} finds a journal of its epoch {epoch}"));
        }
        self.journals.insert(epoch, file);
        self.processes[process].journal = Some(file);
        Ok(())
    }

    /// A reader of the folder must find the intent of an effect.
    fn check_effect(&self, process: usize, step: u8) -> Result<(), String> {
        let epoch = self.processes[process].record.as_ref().map_or(0, |record| record.epoch);
        let lines = self.journals.get(&epoch).map_or(&[][..], |file| &self.files[*file]);
        let is_intent = |line: &FolderLine| line.writer == process && line.content == FolderLineContent::Intent(step);
        if lines.iter().any(is_intent) {
            return Ok(());
        }
        Err(format!("an effect without a record: process {process}, epoch {epoch}, step {step}"))
    }

    fn unlock(&mut self, process: usize) {
        if let Some(locked) = self.processes[process].locked.take() {
            self.records[locked].locked_by = None;
        }
    }

    fn advance_operator(&mut self, index: usize, protocol: FolderProtocol) {
        let record = self.current_record();
        let seen = self.operators[index].seen.take();
        let (next, seen) = match self.operators[index].phase {
            OperatorPhase::Read => {
                let content = self.records[record].content.clone().unwrap_or_else(free_record);
                (OperatorPhase::Replace, Some(content))
            }
            OperatorPhase::Replace => {
                let nonce = format!("operator-{index}");
                let tombstone = seen.map(|seen| seen.tombstone(nonce, ReleasedBy::Operator, Timestamp::UNIX_EPOCH));
                self.records.push(RecordFile { content: tombstone, locked_by: None });
                (
                    if protocol == FolderProtocol::SealByOperator { OperatorPhase::Copy } else { OperatorPhase::Gone },
                    None,
                )
            }
            OperatorPhase::Copy => match self.journals.last_key_value().map(|(epoch, file)| (*epoch, *file)) {
                Some((epoch, file)) => (OperatorPhase::Place(epoch, self.copy_file(file)), None),
                None => (OperatorPhase::Gone, None),
            },
            OperatorPhase::Place(epoch, copy) => {
                self.journals.insert(epoch, copy);
                (OperatorPhase::Gone, None)
            }
            OperatorPhase::Gone => unreachable!("it does nothing more"),
        };
        self.operators[index] = Operator { phase: next, seen };
    }

    /// Each journal continues the one before it: otherwise every command ends with exit code 65.
    fn check_chain(&self) -> Result<(), String> {
        let mut before: Option<(u64, usize)> = None;
        for (epoch, file) in &self.journals {
            let lines = &self.files[*file];
            let continues = match lines.first().map(|line| line.content) {
                Some(FolderLineContent::Started(continues)) => continues,
                first => return Err(format!("the journal of epoch {epoch} begins with {first:?}")),
            };
            if continues != before {
                return Err(format!("the journal of epoch {epoch} continues {continues:?}, which is {before:?}"));
            }
            if lines.iter().any(|line| line.writer != lines[0].writer) {
                return Err(format!("two processes wrote the journal of epoch {epoch}"));
            }
            before = Some((*epoch, lines.len()));
        }
        Ok(())
    }

    /// What a holder wrote is found by every reader.
    fn check_records(&self) -> Result<(), String> {
        for (process, Process { journal, record, .. }) in self.processes.iter().enumerate() {
            let (Some(file), Some(record)) = (journal, record) else { continue };
            let named = self.journals.get(&record.epoch).map_or(&[][..], |file| &self.files[*file]);
            for (index, line) in self.files[*file].iter().enumerate().filter(|(_, line)| line.was_held) {
                if named.get(index) != Some(line) {
                    let what = line.content;
                    return Err(format!("a record is lost: process {process}, epoch {}, {what:?}", record.epoch));
                }
            }
        }
        Ok(())
    }

    /// If nobody holds the lock, a new process gets it and creates a journal.
    fn check_not_stuck(&self, model: &FolderModel) -> Result<(), String> {
        if self.records[self.current_record()].locked_by.is_some() {
            return Ok(());
        }
        let mut world = self.clone();
        world.processes.push(new_process());
        let process = world.processes.len() - 1;
        for _ in 0..40 {
            if matches!(world.processes[process].phase, ProcessPhase::Intend(_) | ProcessPhase::CheckBeforeEnd) {
                return world.check_chain();
            }
            if !world.can_act(process) {
                break;
            }
            world.advance(process, model)?;
        }
        Err(format!("stuck: a new process does {:?}", world.processes[process].phase))
    }
}

/// Goes past the steps that a protocol does not have.
fn skip_steps(taker: &mut FolderTaker, protocol: FolderProtocol) {
    loop {
        let event = match (protocol, taker.step()) {
            (FolderProtocol::SealByOperator, TakeStep::CreateStaging) => TakeEvent::Done,
            (FolderProtocol::SealByOperator, TakeStep::ListStaging) => TakeEvent::Staging(Vec::new()),
            (FolderProtocol::SealByOperator | FolderProtocol::NoSeal, TakeStep::ListJournals) => {
                TakeEvent::Journals(Vec::new())
            }
            _ => return,
        };
        taker.on(event);
    }
}

fn free_record() -> LockRecord {
    LockRecord::never_held("shop/test", Timestamp::UNIX_EPOCH)
}

fn new_process() -> Process {
    Process {
        phase: ProcessPhase::Take,
        taker: FolderTaker::new(),
        tries: 0,
        locked: None,
        record: None,
        continues: None,
        journal: None,
    }
}

impl Model for FolderModel {
    type State = FolderWorld;
    type Action = FolderAction;

    fn initial_state(&self) -> FolderWorld {
        let operator = Operator { phase: OperatorPhase::Read, seen: None };
        FolderWorld {
            records: vec![RecordFile { content: None, locked_by: None }],
            staging: BTreeMap::new(),
            files: Vec::new(),
            journals: BTreeMap::new(),
            processes: (0..self.processes).map(|_| new_process()).collect(),
            operators: vec![operator; self.forced_releases.into()],
            kills_left: self.kills,
        }
    }

    fn actions(&self, world: &FolderWorld, actions: &mut Vec<FolderAction>) {
        for (index, process) in world.processes.iter().enumerate() {
            // One process is like the other, so they begin in order.
            let is_next = index == 0 || world.processes[index - 1].tries > 0;
            if is_next && world.can_act(index) {
                actions.push(FolderAction::Process(index, process.phase));
            }
            if world.kills_left > 0 && process.locked.is_some() {
                actions.push(FolderAction::Kill(index));
            }
        }
        for (index, operator) in world.operators.iter().enumerate() {
            let is_locked = world.records[world.current_record()].locked_by.is_some();
            // One operator is like the other, so they come in order.
            let is_next = index == 0 || world.operators[index - 1].phase != OperatorPhase::Read;
            match operator.phase {
                OperatorPhase::Gone => {}
                OperatorPhase::Read if !is_locked || !is_next => {}
                phase => actions.push(FolderAction::Operator(index, phase)),
            }
        }
    }

    fn next_state(&self, world: &FolderWorld, action: &FolderAction) -> Result<FolderWorld, String> {
        let mut world = world.clone();
        match action {
            FolderAction::Process(process, _) => world.advance(*process, self)?,
            FolderAction::Kill(process) => {
                world.unlock(*process);
                world.processes[*process].phase = ProcessPhase::Gone;
                world.kills_left -= 1;
            }
            FolderAction::Operator(index, _) => world.advance_operator(*index, self.protocol),
        }
        Ok(world)
    }

    fn check(&self, world: &FolderWorld) -> Result<(), String> {
        world.check_chain()?;
        world.check_records()?;
        world.check_not_stuck(self)
    }
}

fn explored(
    protocol: FolderProtocol,
    processes: usize,
    steps: u8,
    forced_releases: u8,
    kills: u8,
) -> Exploration<FolderAction> {
    explore(&FolderModel { protocol, processes, steps, forced_releases, kills })
}

/// Processes, steps of each, forced releases, kills; and the least number of states.
const BOUNDS: [((usize, u8, u8, u8), usize); 3] =
    [((2, 2, 1, 1), 14_000), ((3, 1, 1, 1), 110_000), ((3, 0, 2, 0), 100_000)];
const WIDE_BOUNDS: [((usize, u8, u8, u8), usize); 2] = [((3, 1, 2, 0), 1_100_000), ((3, 2, 1, 1), 100_000)];

#[test]
fn current_protocol_keeps_every_record() {
    let wide = if wants_wide_bounds() { &WIDE_BOUNDS[..] } else { &[] };
    for ((processes, steps, forced_releases, kills), min_states) in BOUNDS.iter().chain(wide).copied() {
        let found = explored(FolderProtocol::Current, processes, steps, forced_releases, kills);
        assert!(found.counter_example.is_none(), "{:#?}", found.counter_example);
        assert!(found.states >= min_states, "{} states", found.states);
        assert!(found.transitions > found.states && found.depth > 10, "{} {}", found.transitions, found.depth);
    }
}

/// Each protocol lacks one part, and breaks one property.
#[test]
fn protocols_without_a_part_lose_records() {
    for (protocol, expected) in [
        (FolderProtocol::SealByOperator, "a record is lost"),
        (FolderProtocol::NoSeal, "continues"),
        (FolderProtocol::NoFence, "a record is lost"),
        (FolderProtocol::LateList, "the holder is fenced"),
        (FolderProtocol::NoCheck, "an effect without a record"),
    ] {
        let found = explored(protocol, 3, 1, 2, 0);
        let example =
            found.counter_example.unwrap_or_else(|| panic!("{protocol:?}: nothing in {} states", found.states));
        assert!(example.broken.contains(expected), "{protocol:?}: {example:#?}");
        assert!(example.actions.len() > 3, "{protocol:?}: {example:#?}");
    }
}
