//! The start of a release in one slot, and the way back.
//!
//! The order, for a kill at any point: the record "starting" before anything exists in supervisord, so that the next call finds what to
//! remove; "ready" when nothing more can fail.

use pawl_step::fs::{self, FileType};
use pawl_step::slots::{ChosenSlot, ReadyConfig, SlotRecord, SlotSet, SlotState, SlotValues};
use pawl_step::{Failure, Input, Receipt, files, log};
use serde_json::Value;

use crate::program::{self, ProgramConfig, SlotDefinition, SlotProgram};
use crate::supervisor::{ProgramInfo, Supervisor};
use crate::{SupervisedState, SupervisordConfig, remove};

/// How many lines of the program's output a message has; the log has more.
const MESSAGE_LINES: usize = 3;

/// The start of this input's release in a slot.
#[derive(Debug)]
pub(crate) struct SlotStart<'i> {
    input: &'i Input<SupervisordConfig>,
    set: &'i SlotSet,
    chosen: ChosenSlot,
    config: &'i ProgramConfig,
    ready: &'i ReadyConfig,
    values: SlotValues,
    program: SlotProgram,
    /// The record that is written for it.
    record: SlotRecord,
    /// The place of its log.
    log: String,
}

/// The slot to start the release in: one where that was begun and that has no traffic, or that has it and does not run; else a free one.
pub(crate) fn slot_to_start(input: &Input<SupervisordConfig>, set: &SlotSet) -> Result<ChosenSlot, Failure> {
    for chosen in set.slots_of_release(input) {
        if !chosen.is_linked || !SlotStart::new(input, set, chosen.clone())?.is_alive()? {
            return Ok(chosen);
        }
    }
    set.free(input)
}

impl<'i> SlotStart<'i> {
    pub(crate) fn new(
        input: &'i Input<SupervisordConfig>,
        set: &'i SlotSet,
        chosen: ChosenSlot,
    ) -> Result<Self, Failure> {
        let (Some(config), Some(ready)) = (&input.config.program, &input.config.ready) else {
            return Err(Failure::invalid_config("`program` and `ready` are missing"));
        };
        let program = SlotProgram::new(input, &input.config.conf, &chosen.slot);
        let record = SlotRecord::starting(input, None);
        let record = SlotRecord { engine_id: Some(program.name(&record)), ..record };
        let values = set.values(input, &chosen.slot)?;
        let log = format!("{}/{}.log", set.folder(), chosen.slot.name);
        Ok(Self { input, set, chosen, config, ready, values, program, record, log })
    }

    pub(crate) fn name(&self) -> String {
        self.program.name(&self.record)
    }

    /// Checks what can be known before anything is changed.
    pub(crate) fn rehearse(&self) -> Result<(), Failure> {
        self.definition()?;
        self.refuse_unknown_configuration()?;
        self.refuse_missing_program()?;
        self.refuse_taken_address()
    }

    /// Whether the slot is recorded as ready, with what would be started.
    pub(crate) fn is_recorded(&self) -> Result<bool, Failure> {
        let is_ready = self.chosen.record.as_ref().is_some_and(|record| record.state == SlotState::Ready);
        Ok(is_ready && self.is_written()?)
    }

    /// Whether the program of this slot is the one that would be started, and runs.
    pub(crate) fn is_running(&self) -> Result<bool, Failure> {
        Ok(self.is_alive()? && self.is_written()?)
    }

    /// Whether the configuration in the slot is the one that would be written, with its secrets: they are in no hash of the input.
    fn is_written(&self) -> Result<bool, Failure> {
        self.program.is_written(self.set, &self.definition()?)
    }

    /// Whether the program of this slot runs.
    fn is_alive(&self) -> Result<bool, Failure> {
        Ok(self.info()?.is_some_and(|info| info.state == SupervisedState::Running))
    }

    /// Why the program does not answer as it should; nothing if it does.
    pub(crate) fn not_ready(&self) -> Result<Option<String>, Failure> {
        self.ready.check(&self.values)
    }

    /// Starts the program, and waits until it is ready.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let definition = self.definition()?;
        self.refuse_unknown_configuration()?;
        self.refuse_missing_program()?;
        if let Some(old) = &self.chosen.record {
            remove(self.input, self.set, &self.chosen.slot, old)?;
        }
        self.refuse_taken_address()?;
        self.finish(self.launch(&definition), &self.record.key)
    }

    /// Checks the program of this slot, which runs already; waits for it if it was being started. If an earlier run has started it, that stays
    /// so on record: an undo of this run does not stop it.
    pub(crate) fn adopt(&self) -> Result<Receipt, Failure> {
        let found = self.chosen.record.as_ref().filter(|found| found.state == SlotState::Ready);
        let Some(found) = found else {
            self.finish(Ok(()), &self.record.key)?;
            return self.receipt();
        };
        if self.not_ready()?.is_some() {
            self.finish(Ok(()), &found.key)?;
        } else {
            self.set.write(self.input, &self.chosen.slot, &self.ready_record(&found.key))?;
        }
        Ok(self.receipt()?.note("ran", false))
    }

    /// Waits until the launched program is ready. If that fails, it removes the program, unless that has the traffic.
    fn finish(&self, launched: Result<(), Failure>, key: &str) -> Result<(), Failure> {
        let slot = &self.chosen.slot;
        let Err(failure) = launched.and_then(|()| self.await_ready()) else {
            return self.set.write(self.input, slot, &self.ready_record(key));
        };
        let failure = self.with_output(failure);
        if self.chosen.is_linked {
            return Err(failure);
        }
        match remove(self.input, self.set, slot, &self.record) {
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

    pub(crate) fn receipt(&self) -> Result<Receipt, Failure> {
        let slot = &self.chosen.slot;
        let url = self.ready.url(&self.values)?.map_or(Value::Null, Value::from);
        Ok(Receipt::new()
            .output("slot", slot.name.as_str())
            .output("to", slot.path())
            .output("url", url)
            .note("program", self.name()))
    }

    fn launch(&self, definition: &SlotDefinition) -> Result<(), Failure> {
        let slot = &self.chosen.slot;
        self.set.write(self.input, slot, &self.record)?;
        self.clear_leftovers()?;
        if let Some(user) = &self.config.user {
            let ownership = files::Ownership { owner: Some(user.clone()), ..files::Ownership::default() };
            files::set(&self.set.place(slot), &ownership, false)?;
        }
        self.program.write(self.set, definition)?;
        self.set.refuse_late(self.input)?;
        let supervisor = self.supervisor();
        supervisor.reread()?;
        supervisor.add(&self.name(), &files::path(&self.program.conf_place())?)
    }

    /// Removes the log and the sockets of the program that was in the slot before.
    fn clear_leftovers(&self) -> Result<(), Failure> {
        fs::remove(&self.log)?;
        let place = self.set.place(&self.chosen.slot);
        for entry in fs::list(&place)? {
            if entry.file_type == FileType::Other {
                fs::remove(&format!("{place}/{}", entry.name))?;
            }
        }
        Ok(())
    }

    fn await_ready(&self) -> Result<(), Failure> {
        let mut first = None;
        let supervisor = self.supervisor();
        self.ready.wait(&self.values, || watch(&mut first, self.info()?, |info| supervisor.ending(&self.name(), info)))
    }

    fn info(&self) -> Result<Option<ProgramInfo>, Failure> {
        self.supervisor().info(&self.name())
    }

    fn supervisor(&self) -> Supervisor<'i> {
        self.input.config.supervisor()
    }

    fn definition(&self) -> Result<SlotDefinition, Failure> {
        let log = files::path(&self.log)?;
        self.program.definition(self.config, &self.values, &self.record, &log, self.input.config.stop_timeout)
    }

    /// Refuses a file that no record tells of.
    fn refuse_unknown_configuration(&self) -> Result<(), Failure> {
        let place = self.program.conf_place();
        if self.chosen.record.is_some() || !files::exists(&place)? {
            return Ok(());
        }
        let path = files::path(&place)?;
        let slot = self.set.place(&self.chosen.slot);
        Err(Failure::conflict(format!("{path} exists, but `{slot}/slot.json` does not, so this step did not write it"))
            .hint("if nothing needs the file, remove it"))
    }

    /// Refuses a program that is not in the release. Whether another file exists is for supervisord to tell.
    fn refuse_missing_program(&self) -> Result<(), Failure> {
        let command = program::command(self.config, &self.values)?;
        let (Some(program), Ok(release)) = (command.first(), self.values.fill("{release-dir}")) else { return Ok(()) };
        let dir = files::path(self.set.dir())?;
        let Some(path) = program.strip_prefix(&format!("{dir}/")).filter(|_| program.starts_with(&release)) else {
            return Ok(());
        };
        if fs::metadata_of_link(&format!("{}/{path}", self.set.dir()))?.is_some() {
            return Ok(());
        }
        Err(Failure::not_found(format!("the program {program} does not exist"))
            .hint("correct `command`, or the step that puts it into the release"))
    }

    /// Refuses an address that something else answers at.
    fn refuse_taken_address(&self) -> Result<(), Failure> {
        if let Some(old) = &self.chosen.record
            && let Some(info) = self.supervisor().info(&self.program.name(old))?
            && info.state == SupervisedState::Running
        {
            return Ok(());
        }
        let Some(address) = self.ready.answering(&self.values)? else { return Ok(()) };
        Err(Failure::conflict(format!(
            "something answers at {address} already, and nothing of slot {} runs: its port or socket is taken",
            self.chosen.slot.name
        ))
        .hint("`ss -ltnp` and `ss -lxp` show which program listens; stop it, or give the slot another port"))
    }

    /// Adds the end of the program's output to a failure.
    fn with_output(&self, failure: Failure) -> Failure {
        let shown = self.input.config.tail;
        let lines = match self.supervisor().tail(&self.name(), shown) {
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
        let message = format!("{} in slot {}: {}: {said}", self.name(), self.chosen.slot.name, failure.message);
        let lines: Vec<Value> = lines.into_iter().map(Value::from).collect();
        Failure { message, ..failure }.detail("output", lines)
    }
}

/// Ends the wait when the program has ended. `first` is the process that was seen first: another one means that supervisord has started it
/// again.
fn watch(
    first: &mut Option<i64>,
    info: Option<ProgramInfo>,
    ending: impl FnOnce(&ProgramInfo) -> String,
) -> Result<(), Failure> {
    let Some(info) = info else {
        return Err(Failure::conflict("somebody has removed it from supervisord"));
    };
    match (info.state, *first) {
        (SupervisedState::Ended, _) => Err(Failure::permanent(ending(&info))),
        (SupervisedState::Running, Some(first)) if info.pid != first => Err(Failure::permanent(ending(&info))),
        (SupervisedState::Running, None) if info.pid != 0 => {
            *first = Some(info.pid);
            Ok(())
        }
        (SupervisedState::Running, _) | (SupervisedState::Stopped, None) => Ok(()),
        (SupervisedState::Stopped | SupervisedState::Stopping, _) => Err(Failure::conflict("somebody has stopped it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state: SupervisedState, pid: i64) -> Option<ProgramInfo> {
        Some(ProgramInfo { state, pid, error: String::new() })
    }

    /// What a sequence of looks at the program says in the end.
    fn watched(looks: &[Option<ProgramInfo>]) -> Result<(), String> {
        let mut first = None;
        let look = |look: &Option<ProgramInfo>| watch(&mut first, look.clone(), |_| "it ended".to_owned());
        looks.iter().try_for_each(look).map_err(|failure| failure.message)
    }

    #[test]
    fn end_of_the_program_is_noticed() {
        use SupervisedState::{Ended, Running, Stopped};
        assert_eq!(watched(&[info(Stopped, 0), info(Running, 7), info(Running, 7)]), Ok(()));
        assert_eq!(watched(&[info(Running, 7), info(Ended, 0)]), Err("it ended".to_owned()));
        assert_eq!(watched(&[info(Running, 7), info(Running, 8)]), Err("it ended".to_owned()));
        assert_eq!(watched(&[info(Running, 7), info(Stopped, 0)]), Err("somebody has stopped it".to_owned()));
        assert_eq!(watched(&[None]), Err("somebody has removed it from supervisord".to_owned()));
    }
}
