//! The runner's side of a running program: start, stop, and wait for its end.
//!
//! Invariant: a [`RunningProgram`] that is dropped before its end is killed with its whole group.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf, pipe},
    },
    process::{ChildStderr, ChildStdout, Command},
};

use super::{
    GUARD_ARGUMENT, ProcessIdentity,
    protocol::{GuardEvent, GuardJob, KILL, TERMINATE},
    records::ProgramRecords,
    terminal,
};
use contract::StepId;

/// This binary, also after an update has removed its file.
const RUNNER_BINARY: &str = "/proc/self/exe";

/// A program to start.
pub(crate) struct ProgramStart {
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) stdin: Option<Vec<u8>>,
    pub(crate) working_dir: Option<PathBuf>,
    /// Whether its output goes to a pseudo-terminal.
    pub(crate) terminal: bool,
    /// The file that says so while it runs, and the step that starts it.
    pub(crate) records: Option<(Arc<Path>, StepId)>,
    /// Whether what it leaves behind in its process group is killed when it ends.
    pub(crate) ends_group: bool,
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{message}")]
    Program { os_error: Option<i32>, message: String },
    #[error("the runner can't start its guard: {0}")]
    Guard(#[source] io::Error),
    #[error("the runner can't record it: {0}")]
    Record(#[source] io::Error),
    /// It may have started.
    #[error("its guard ended: {0}")]
    Lost(#[source] io::Error),
}

/// The streams of a program.
pub(crate) enum ProgramPipes {
    /// Standard output and standard error.
    Pipes(ChildStdout, ChildStderr),
    /// Both are one terminal.
    Terminal(pipe::Receiver),
}

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProgramExit {
    /// Its own exit status.
    pub(crate) status: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
}

/// A program that was started.
pub(crate) struct RunningProgram {
    commands: OwnedWriteHalf,
    events: BufReader<OwnedReadHalf>,
    /// The beginning of the guard's next line.
    event: Vec<u8>,
    /// The program, which leads its process group, until it ends.
    leader: Option<ProcessIdentity>,
    /// Removed with the last program.
    _records: Option<ProgramRecords>,
}

impl RunningProgram {
    /// Starts a program under a guard, which is on record before.
    pub(crate) async fn start(start: ProgramStart) -> Result<(Self, ProgramPipes), StartError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(StartError::Guard)?;
        // With its own path, `ps` shows its own name.
        let binary = std::fs::read_link(RUNNER_BINARY).ok().filter(|path| path.exists());
        let mut command = Command::new(binary.unwrap_or_else(|| PathBuf::from(RUNNER_BINARY)));
        command.arg(GUARD_ARGUMENT).env_clear().process_group(0).stdin(Stdio::from(OwnedFd::from(theirs)));
        if let Some(dir) = &start.working_dir {
            command.current_dir(dir);
        }
        let terminal = start.terminal.then(terminal::open).transpose().map_err(StartError::Guard)?;
        let reader = match terminal {
            Some((reader, terminal)) => {
                let error = terminal.try_clone().map_err(StartError::Guard)?;
                command.stdout(Stdio::from(terminal)).stderr(Stdio::from(error));
                Some(reader)
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
        };
        let mut guard = command.spawn().map_err(StartError::Guard)?;
        // It holds the program's ends of the streams.
        drop(command);
        let mut records = start.records.as_ref().map(|(path, step)| ProgramRecords::new(path, step));
        if let (Some(records), Some(pid)) = (&mut records, guard.id()) {
            records.add_guard(pid).map_err(StartError::Record)?;
        }
        let pipes = match (reader, guard.stdout.take(), guard.stderr.take()) {
            (Some(reader), _, _) => ProgramPipes::Terminal(reader),
            (None, Some(stdout), Some(stderr)) => ProgramPipes::Pipes(stdout, stderr),
            (None, _, _) => return Err(StartError::Guard(io::Error::other("it has no output"))),
        };
        ours.set_nonblocking(true).map_err(StartError::Guard)?;
        let (events, commands) = UnixStream::from_std(ours).map_err(StartError::Guard)?.into_split();
        let mut running =
            Self { commands, events: BufReader::new(events), event: Vec::new(), leader: None, _records: records };
        running.send_job(&start).await.map_err(StartError::Lost)?;
        match running.next_event().await.map_err(StartError::Lost)? {
            GuardEvent::Started { pid } => {
                // One that has ended is left to the guard.
                running.leader = ProcessIdentity::of(pid.unsigned_abs()).ok();
                if let Some(records) = &mut running._records {
                    records.add_program(pid.unsigned_abs()).map_err(StartError::Lost)?;
                }
                Ok((running, pipes))
            }
            GuardEvent::Failed { os_error, message } => Err(StartError::Program { os_error, message }),
            GuardEvent::Exited { .. } => Err(StartError::Lost(io::Error::other("it reports an end without a start"))),
        }
    }

    async fn send_job(&mut self, start: &ProgramStart) -> io::Result<()> {
        let job = GuardJob {
            program: start.program.clone(),
            arguments: start.arguments.clone(),
            environment: start.environment.clone(),
            stdin_bytes: start.stdin.as_ref().map(Vec::len),
            ends_group: start.ends_group,
        };
        let mut message = serde_json::to_vec(&job)?;
        message.push(b'\n');
        message.extend(start.stdin.iter().flatten());
        self.commands.write_all(&message).await
    }

    async fn next_event(&mut self) -> io::Result<GuardEvent> {
        self.events.read_until(b'\n', &mut self.event).await?;
        match std::mem::take(&mut self.event) {
            ended if ended.is_empty() => Err(io::Error::other("the guard of the program has ended")),
            line => Ok(serde_json::from_slice(&line)?),
        }
    }

    /// Asks the program's whole group to end, by SIGTERM; the guard kills it if it takes longer than 4 s.
    pub(crate) fn terminate(&self) {
        // Without a guard, `wait` has reported it.
        let _ = self.commands.try_write(&[TERMINATE]);
    }

    /// Waits for the end of the program. Can be cancelled and called again.
    pub(crate) async fn wait(&mut self) -> io::Result<ProgramExit> {
        match self.next_event().await? {
            GuardEvent::Exited { status, signal } => {
                self.leader = None;
                Ok(ProgramExit { status, signal })
            }
            GuardEvent::Started { .. } | GuardEvent::Failed { .. } => Err(io::Error::other("it is started twice")),
        }
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // A guard that has not told of its program yet gets it too.
        let _ = self.commands.try_write(&[KILL]);
        // At once, and also without a guard. Once the leader has ended, only the guard knows whether the group is still its own.
        let leader = self.leader.take().filter(ProcessIdentity::is_running);
        if let Some(group) = leader.and_then(|leader| Pid::from_raw(leader.pid().cast_signed())) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
