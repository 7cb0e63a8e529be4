//! The programs that run for an attempt, in a file beside its journal, so that the next attempt starts none beside them.
//!
//! Invariant: a guard is on record before
//! its program starts. The file is there only while a program runs, or after its runner was killed. Deliberately absent: other
//! machines; a program there can't be seen from here.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::{process_identity::ProcessIdentity, protocol::ORPHAN_GRACE};
use contract::StepId;

/// How often a process is looked at that must end.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a process may take to end after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// One process, as a line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ProcessRecord {
    step: String,
    role: ProcessRole,
    #[serde(flatten)]
    process: ProcessIdentity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ProcessRole {
    Runner,
    /// It ends the program once its runner has died.
    Guard,
    /// The leader of the program's process group.
    Program,
}

/// The record of a program that this process has started. Dropping it removes the file.
pub(super) struct ProgramRecords {
    path: PathBuf,
    step: String,
}

impl ProgramRecords {
    pub(super) fn new(path: &Path, step: &StepId) -> Self {
        Self { path: path.to_owned(), step: step.to_string() }
    }

    pub(super) fn add_guard(&mut self, pid: u32) -> io::Result<()> {
        self.add(ProcessRole::Runner, std::process::id())?;
        self.add(ProcessRole::Guard, pid)
    }

    pub(super) fn add_program(&mut self, pid: u32) -> io::Result<()> {
        match self.add(ProcessRole::Program, pid) {
            // It has already ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            added => added,
        }
    }

    fn add(&self, role: ProcessRole, pid: u32) -> io::Result<()> {
        let record = ProcessRecord { step: self.step.clone(), role, process: ProcessIdentity::of(pid)? };
        let line = serde_json::to_string(&record)? + "\n";
        OpenOptions::new().append(true).create(true).open(&self.path)?.write_all(line.as_bytes())
    }
}

impl Drop for ProgramRecords {
    fn drop(&mut self) {
        // What stays is recognized as ended.
        let _ = fs::remove_file(&self.path);
    }
}

/// A program of an earlier attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftoverProgram {
    /// The step that started it.
    pub step: String,
    /// Its process.
    pub pid: u32,
}

/// Ends the programs that an earlier attempt left running. If its runner was killed, their guards do it; otherwise this does it: the
/// runner has lost its lock, or guards were killed too. `notify` gets the first program that is waited for. Returns one that could not be ended.
///
/// # Errors
/// When the records can't be read.
pub async fn end_leftover_programs(
    records: &Path,
    notify: impl FnOnce(&LeftoverProgram),
) -> io::Result<Option<LeftoverProgram>> {
    let text = match fs::read_to_string(records) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A line that was cut off belongs to a process that had not started a program.
    let recorded = text.lines().filter_map(|line| serde_json::from_str::<ProcessRecord>(line).ok());
    let (runners, mut processes): (Vec<_>, Vec<_>) =
        recorded.filter(ProcessRecord::is_running).partition(|process| process.role == ProcessRole::Runner);
    let mut notify = Some(notify);
    let mut give_up_at = Instant::now() + ORPHAN_GRACE + KILL_TIMEOUT;
    let mut kill_at = None;
    while let Some(process) =
        processes.iter().find(|process| process.role == ProcessRole::Program).or(processes.first())
    {
        let leftover = LeftoverProgram { step: process.step.clone(), pid: process.process.pid() };
        if let Some(notify) = notify.take() {
            notify(&leftover);
        }
        if Instant::now() >= give_up_at {
            return Ok(Some(leftover));
        }
        let has_guard = processes.iter().any(|process| process.role == ProcessRole::Guard);
        let is_guarded = has_guard && !runners.iter().any(ProcessRecord::is_running);
        match kill_at {
            None if !is_guarded => {
                signal_groups(&processes, Signal::TERM);
                kill_at = Some(Instant::now() + ORPHAN_GRACE);
                give_up_at = Instant::now() + ORPHAN_GRACE + KILL_TIMEOUT;
            }
            Some(at) if Instant::now() >= at => signal_groups(&processes, Signal::KILL),
            None | Some(_) => {}
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        processes.retain(ProcessRecord::is_running);
    }
    match fs::remove_file(records) {
        // A runner that lost its lock, and still lives, removes it once its program has ended.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(None),
    }
}

fn signal_groups(processes: &[ProcessRecord], signal: Signal) {
    let programs = processes.iter().filter(|process| process.role == ProcessRole::Program);
    for group in programs.filter_map(|process| Pid::from_raw(i32::try_from(process.process.pid()).ok()?)) {
        // It may have just ended.
        let _ = kill_process_group(group, signal);
    }
}

impl ProcessRecord {
    /// Whether this very process has not ended.
    fn is_running(&self) -> bool {
        self.process.is_running()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use super::*;

    #[test]
    fn process_is_on_record_while_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("programs");
        let mut records = ProgramRecords::new(&path, &"build".parse().unwrap());
        let mut child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        records.add_guard(child.id()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let record: ProcessRecord = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(record.role, ProcessRole::Guard);
        assert!(record.is_running());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!record.is_running());
        drop(records);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn program_without_a_guard_is_ended_with_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("programs");
        let mut command = Command::new("/bin/sh");
        let mut child = command.args(["-c", "sleep 600 & wait"]).process_group(0).spawn().unwrap();
        let pid = child.id();
        let mut records = ProgramRecords::new(&path, &"build".parse().unwrap());
        records.add_program(pid).unwrap();
        // The runner that started it was killed.
        std::mem::forget(records);
        let waited = std::thread::spawn(move || child.wait());
        let mut noticed = None;
        let left = end_leftover_programs(&path, |program| noticed = Some(program.clone())).await.unwrap();
        assert_eq!((left, noticed), (None, Some(LeftoverProgram { step: "build".to_owned(), pid })));
        assert!(!path.exists());
        waited.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn nothing_is_done_without_records_or_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("programs");
        assert_eq!(end_leftover_programs(&path, |_| unreachable!()).await.unwrap(), None);
        fs::write(
            &path,
            "{\"step\":\"build\",\"role\":\"program\",\"pid\":4294967,\"start-time\":1,\"boot\":\"x\"}\n{\"st",
        )
        .unwrap();
        assert_eq!(end_leftover_programs(&path, |_| unreachable!()).await.unwrap(), None);
        assert!(!path.exists());
    }
}
