//! The start of a release in one slot, and the way back.
//!
//! The order, for a kill at any point: the record "starting" before anything exists in the engine, so that the next call finds what to
//! remove; "ready" when nothing more can fail.

use serde_json::Value;

use super::engine::{ProgramInfo, SlotEngine, SlotLaunch, SlotProgramState, SlotStarter};
use super::{ChosenSlot, ReadyConfig, Slot, SlotRecord, SlotState, SlotValues};
use crate::fs;
use crate::{Failure, Receipt, log};

/// How many lines of the program's output a message has; the log has more.
const MESSAGE_LINES: usize = 3;

/// The start of an input's release in a slot.
pub(super) struct SlotStart<'s, C, E> {
    starter: &'s SlotStarter<'s, C, E>,
    chosen: ChosenSlot,
    ready: &'s ReadyConfig,
    values: SlotValues,
    /// The record that is written for it.
    record: SlotRecord,
    /// The place of its log.
    log: String,
}

/// The slot to start the release in: one where that was begun and that has no traffic, or where it does not run; else a free one.
pub(super) fn slot_to_start<C, E: SlotEngine>(starter: &SlotStarter<'_, C, E>) -> Result<ChosenSlot, Failure> {
    for chosen in starter.set.slots_of_release(starter.input) {
        let is_begun = chosen.record.as_ref().is_some_and(|record| record.state == SlotState::Starting);
        let may_serve = chosen.is_linked || (starter.set.may_serve(&chosen.slot) && !is_begun);
        if !may_serve || !SlotStart::new(starter, chosen.clone())?.is_alive()? {
            return Ok(chosen);
        }
    }
    starter.free_slot()
}

impl<'s, C, E: SlotEngine> SlotStart<'s, C, E> {
    pub(super) fn new(starter: &'s SlotStarter<'s, C, E>, chosen: ChosenSlot) -> Result<Self, Failure> {
        let ready = starter.ready.ok_or_else(|| Failure::invalid_config("`ready` is missing"))?;
        let record = SlotRecord::starting(starter.input, None);
        let record = SlotRecord { engine_id: Some(starter.engine.name(&chosen.slot, &record)), ..record };
        let values = starter.set.values(starter.input, &chosen.slot)?;
        let log = format!("{}/{}.log", starter.set.folder(), chosen.slot.name);
        Ok(Self { starter, chosen, ready, values, record, log })
    }

    pub(super) fn name(&self) -> String {
        self.starter.engine.name(self.slot(), &self.record)
    }

    fn slot(&self) -> &Slot {
        &self.chosen.slot
    }

    fn launch(&self) -> SlotLaunch<'_> {
        SlotLaunch {
            set: &self.starter.set,
            slot: self.slot(),
            found: self.chosen.record.as_ref(),
            record: &self.record,
            values: &self.values,
            log: &self.log,
        }
    }

    /// Checks what can be known before anything is changed.
    pub(super) fn rehearse(&self) -> Result<(), Failure> {
        self.starter.engine.rehearse(&self.launch())?;
        self.refuse_taken_address()
    }

    /// Whether the slot is recorded as ready, with what would be started.
    pub(super) fn is_recorded(&self) -> Result<bool, Failure> {
        let is_ready = self.chosen.record.as_ref().is_some_and(|record| record.state == SlotState::Ready);
        Ok(is_ready && self.is_written()?)
    }

    /// Whether the program of this slot is the one that would be started, and runs.
    pub(super) fn is_running(&self) -> Result<bool, Failure> {
        Ok(self.is_alive()? && self.is_written()?)
    }

    fn is_written(&self) -> Result<bool, Failure> {
        self.starter.engine.is_written(&self.launch())
    }

    /// Whether the program of this slot runs.
    fn is_alive(&self) -> Result<bool, Failure> {
        Ok(self.info()?.is_some_and(|info| info.state == SlotProgramState::Running))
    }

    /// Why the program does not answer as it should; nothing if it does.
    pub(super) fn not_ready(&self) -> Result<Option<String>, Failure> {
        self.ready.check(&self.values)
    }

    /// Starts the program, and waits until it is ready.
    pub(super) fn start(&self) -> Result<(), Failure> {
        self.starter.engine.rehearse(&self.launch())?;
        if let Some(old) = &self.chosen.record {
            self.starter.remove(self.slot(), old)?;
        }
        self.refuse_taken_address()?;
        self.finish(self.begin(), &self.record.key)
    }

    /// Checks the program of this slot, which runs already; waits for it if it was being started. If an earlier run has started it, that stays
    /// so on record: an undo of this run does not stop it.
    pub(super) fn adopt(&self) -> Result<Receipt, Failure> {
        let found = self.chosen.record.as_ref().filter(|found| found.state == SlotState::Ready);
        let Some(found) = found else {
            self.finish(Ok(()), &self.record.key)?;
            return self.receipt();
        };
        if self.not_ready()?.is_some() {
            self.finish(Ok(()), &found.key)?;
        } else {
            self.starter.set.write(self.starter.input, self.slot(), &self.ready_record(&found.key))?;
        }
        Ok(self.receipt()?.note("ran", false))
    }

    /// Waits until the launched program is ready. If that fails, it removes the program, unless that has the traffic.
    fn finish(&self, begun: Result<(), Failure>, key: &str) -> Result<(), Failure> {
        let Err(failure) = begun.and_then(|()| self.await_ready()) else {
            return self.starter.set.write(self.starter.input, self.slot(), &self.ready_record(key));
        };
        let failure = self.with_output(failure);
        if self.chosen.is_linked {
            return Err(failure);
        }
        match self.starter.remove(self.slot(), &self.record) {
            Ok(()) => Err(failure),
            Err(left) => Err(Failure {
                message: format!("{}; and it could not be removed again: {}", failure.message, left.message),
                ..failure
            }),
        }
    }

    fn ready_record(&self, key: &str) -> SlotRecord {
        SlotRecord { key: key.to_owned(), state: SlotState::Ready, ..self.record.clone() }
    }

    pub(super) fn receipt(&self) -> Result<Receipt, Failure> {
        let url = self.ready.url(&self.values)?.map_or(Value::Null, Value::from);
        Ok(Receipt::new()
            .output("slot", self.slot().name.as_str())
            .output("to", self.slot().path())
            .output("url", url)
            .note("program", self.name()))
    }

    fn begin(&self) -> Result<(), Failure> {
        let SlotStarter { input, set, engine, .. } = self.starter;
        set.write(input, self.slot(), &self.record)?;
        self.clear_leftovers()?;
        engine.write(&self.launch())?;
        set.refuse_late(input)?;
        engine.start(&self.launch())
    }

    /// Removes the log and the sockets of the program that was in the slot before.
    fn clear_leftovers(&self) -> Result<(), Failure> {
        fs::remove(&self.log)?;
        self.starter.set.clear_sockets(self.slot())
    }

    fn await_ready(&self) -> Result<(), Failure> {
        let mut first = None;
        let ending = |info: &ProgramInfo| self.starter.engine.ending(self.slot(), &self.record, info);
        self.ready.wait(&self.values, || watch(&mut first, self.info()?, ending))
    }

    fn info(&self) -> Result<Option<ProgramInfo>, Failure> {
        self.starter.engine.info(self.slot(), &self.record)
    }

    /// Refuses an address that something else answers at.
    fn refuse_taken_address(&self) -> Result<(), Failure> {
        if let Some(old) = &self.chosen.record
            && let Some(info) = self.starter.engine.info(self.slot(), old)?
            && info.state == SlotProgramState::Running
        {
            return Ok(());
        }
        let Some(address) = self.ready.answering(&self.values)? else { return Ok(()) };
        Err(Failure::conflict(format!(
            "the port or socket is taken: something already listens at {address}, and no program of slot {} runs",
            self.slot().name
        ))
        .hint("`ss -ltnp` and `ss -lxp` show which program listens; stop it, or give the slot another port"))
    }

    /// Adds the end of the program's output to a failure.
    fn with_output(&self, failure: Failure) -> Failure {
        let shown = self.starter.tail;
        let lines = match self.starter.engine.tail(&self.launch(), shown) {
            Ok(lines) => lines,
            Err(cause) => {
                log::warn(format!("the output of {} can't be read: {}", self.name(), cause.message));
                return failure;
            }
        };
        for line in &lines {
            log::warn(format!("{}: {line}", self.name()));
        }
        let said = match lines.len() {
            0 if shown == 0 => return failure,
            0 => "it wrote nothing".to_owned(),
            count => lines[count.saturating_sub(MESSAGE_LINES)..].join("\n"),
        };
        let message = format!("{} in slot {}: {}: {said}", self.name(), self.slot().name, failure.message);
        let lines: Vec<Value> = lines.into_iter().map(Value::from).collect();
        Failure { message, ..failure }.detail("output", lines)
    }
}

/// Ends the wait when the program has ended. `first` is the process that was seen first: another one means that the engine has started it
/// again.
fn watch(
    first: &mut Option<i64>,
    info: Option<ProgramInfo>,
    ending: impl FnOnce(&ProgramInfo) -> String,
) -> Result<(), Failure> {
    let Some(info) = info else {
        return Err(Failure::conflict("somebody has removed it"));
    };
    match (info.state, *first) {
        (SlotProgramState::Ended, _) => Err(Failure::permanent(ending(&info))),
        (SlotProgramState::Running, Some(first)) if info.process != first => Err(Failure::permanent(ending(&info))),
        (SlotProgramState::Running, None) if info.process != 0 => {
            *first = Some(info.process);
            Ok(())
        }
        (SlotProgramState::Running, _) | (SlotProgramState::Stopped, None) => Ok(()),
        (SlotProgramState::Stopped | SlotProgramState::Stopping, _) => {
            Err(Failure::conflict("somebody has stopped it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state: SlotProgramState, process: i64) -> Option<ProgramInfo> {
        Some(ProgramInfo { state, process, error: String::new() })
    }

    /// What a sequence of looks at the program says in the end.
    fn watched(looks: &[Option<ProgramInfo>]) -> Result<(), String> {
        let mut first = None;
        let look = |look: &Option<ProgramInfo>| watch(&mut first, look.clone(), |_| "it ended".to_owned());
        looks.iter().try_for_each(look).map_err(|failure| failure.message)
    }

    #[test]
    fn end_of_the_program_is_noticed() {
        use SlotProgramState::{Ended, Running, Stopped};
        assert_eq!(watched(&[info(Stopped, 0), info(Running, 7), info(Running, 7)]), Ok(()));
        assert_eq!(watched(&[info(Running, 7), info(Ended, 0)]), Err("it ended".to_owned()));
        assert_eq!(watched(&[info(Running, 7), info(Running, 8)]), Err("it ended".to_owned()));
        assert_eq!(watched(&[info(Running, 7), info(Stopped, 0)]), Err("somebody has stopped it".to_owned()));
        assert_eq!(watched(&[None]), Err("somebody has removed it".to_owned()));
    }
}
