//! The capability `process`: granted argument vectors, no shell.
//!
//! Invariants: the environment contains only what the plan grants. A program that must end, at the deadline of its call or because the
//! attempt is interrupted, gets SIGTERM, and SIGKILL after 4 s; so does its whole process group. One that ends with an exit status of
//! its own is completed; otherwise the call is stopped, since nobody knows what the program did. Deliberately absent: the processes
//! (see [`program`](super::program)), and secrets in the output, which the attempt removes.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::Notify,
};
use wasmtime::component::Resource;

use super::{
    bindings::{HostError, process},
    channel::CallChannel,
    failure,
    host::HostState,
    program::{CapturedOutput, ProgramExit, ProgramPipes, ProgramStart, RunningProgram, StartError, find_program},
    secrets::SecretHandle,
};
use contract::step::{FailureKind, StepFailure};
use journal::{OutputChunk, OutputStream, clock};
use plan::DEFAULT_PROGRAM_PATH;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ProgramOptions {
    env: BTreeMap<String, String>,
    dir: Option<String>,
    /// Whether the host logs the program's lines as they come.
    log: bool,
    /// Whether the program's output is a terminal.
    tty: bool,
}

/// How long the pipes of an ended program are still read.
const PIPE_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a call may take to end after its programs were asked to.
const STOP_TIMEOUT: Duration = Duration::from_millis(4_500);

/// The bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;

/// The program was ended by the runner's signal, so its effect is unknown.
#[derive(Debug, thiserror::Error)]
#[error("the runner was asked to stop, and ended `{program}`")]
pub(super) struct ProgramStopped {
    program: String,
}

/// Nobody knows whether the program ran, or how it ended.
#[derive(Debug, thiserror::Error)]
#[error("the runner lost `{program}`: {reason}")]
pub(super) struct ProgramLost {
    program: String,
    reason: String,
}

impl ProgramLost {
    fn trap(program: &str, reason: impl std::fmt::Display) -> HostError {
        let lost = Self { program: program.to_owned(), reason: reason.to_string() };
        HostError::Trap(wasmtime::Error::new(lost))
    }
}

/// Ends the programs of a call. Clones belong to the same call.
#[derive(Clone, Debug, Default)]
pub(super) struct ProgramSupervisor(Arc<SupervisorState>);

#[derive(Debug, Default)]
struct SupervisorState {
    is_running: AtomicBool,
    stop: AtomicBool,
    stopped: Notify,
}

impl ProgramSupervisor {
    /// Waits for `work`, and ends its programs as soon as `requested` resolves.
    pub(super) async fn until_stopped<T>(
        &self,
        work: impl Future<Output = T>,
        requested: impl Future<Output = ()>,
    ) -> T {
        tokio::pin!(work);
        tokio::select! {
            answer = &mut work => return answer,
            () = requested => self.stop(),
        }
        work.await
    }

    /// Ends the running program, and waits for what the module makes of it; none if no program runs, or if it takes too long.
    pub(super) async fn stop_and_wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        if !self.0.is_running.load(Ordering::Relaxed) {
            return None;
        }
        self.stop();
        tokio::time::timeout(STOP_TIMEOUT, work).await.ok()
    }

    fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.stopped.notify_waiters();
    }

    /// Returns when the programs must end.
    async fn wait_for_stop(&self) {
        let stopped = self.0.stopped.notified();
        if !self.0.stop.load(Ordering::Relaxed) {
            stopped.await;
        }
    }

    /// Says that a program runs, until the result is dropped.
    fn enter(&self) -> RunningMark {
        self.0.is_running.store(true, Ordering::Relaxed);
        RunningMark(Arc::clone(&self.0))
    }

    /// Waits for a program, and ends it if it must. Returns whether it was asked to end.
    async fn supervise(&self, program: &mut RunningProgram) -> (std::io::Result<ProgramExit>, bool) {
        let ended = tokio::select! {
            exit = program.wait() => Some(exit),
            () = self.wait_for_stop() => None,
        };
        match ended {
            Some(exit) => (exit, false),
            None => {
                program.terminate();
                (program.wait().await, true)
            }
        }
    }
}

/// A program runs.
struct RunningMark(Arc<SupervisorState>);

impl Drop for RunningMark {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Relaxed);
    }
}

impl process::Host for HostState {
    async fn run(&mut self, command: process::Command) -> Result<process::Completion, HostError> {
        self.run_with(command, Vec::new()).await
    }

    async fn run_with(
        &mut self,
        command: process::Command,
        secrets: Vec<(String, Resource<SecretHandle>)>,
    ) -> Result<process::Completion, HostError> {
        let mut options: ProgramOptions = super::parse_options("a program", &command.options)?;
        let is_path_public = self.gate.is_path_public() && secrets.iter().all(|(name, _)| name != "PATH");
        for (name, handle) in secrets {
            options.env.insert(name, self.secret_value(&handle)?.reveal().to_owned());
        }
        let mut argv = vec![command.program.as_str()];
        argv.extend(command.arguments.iter().map(String::as_str));
        self.gate.check_program(&argv)?;

        let (name, path) = (command.program.clone(), self.gate.program_path(&command.program));
        let start = ProgramStart {
            environment: self.gate.program_environment(&options.env)?,
            working_dir: options.dir.as_deref().map(|dir| self.working_dir(dir)).transpose()?,
            program: path.clone(),
            arguments: command.arguments,
            stdin: command.stdin,
            terminal: options.tty,
            records: self.channel.program_records().map(|path| (Arc::clone(path), self.gate.step().clone())),
            ends_group: false,
        };
        let search_path = start.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        let _running = self.programs.enter();
        let started = RunningProgram::start(start).await;
        let search_path = search_path.as_deref().unwrap_or(DEFAULT_PROGRAM_PATH);
        let (mut program, pipes) = started.map_err(|error| {
            // The step sees the error, and may not see a secret in the `PATH`.
            start_error(&name, &path, if is_path_public { search_path } else { "" }, &error)
        })?;
        let mut output = OutputReader { channel: options.log.then_some(&self.channel), ..OutputReader::default() };
        let (exit, was_asked) = {
            let reading = output.read(pipes);
            tokio::pin!(reading);
            let supervised = self.programs.supervise(&mut program);
            tokio::pin!(supervised);
            tokio::select! {
                () = &mut reading => supervised.await,
                exit = &mut supervised => {
                    // A child that it left behind may hold the pipes: read them briefly, no longer.
                    let _ = tokio::time::timeout(PIPE_DRAIN_TIMEOUT, &mut reading).await;
                    exit
                }
            }
        };
        let exit = exit.map_err(|error| ProgramLost::trap(&name, error))?;
        if was_asked && exit.signal.is_some() {
            return Err(HostError::Trap(wasmtime::Error::new(ProgramStopped { program: name })));
        }
        let status = exit.status.or_else(|| exit.signal.map(|signal| 128 + signal)).unwrap_or(-1);
        let (stdout, stderr) = (output.stdout.into_bytes(), output.stderr.into_bytes());
        Ok(process::Completion { status, stdout, stderr })
    }
}

/// The error of a program that did not start, or may not have.
fn start_error(program: &str, path: &str, search_path: &str, error: &StartError) -> HostError {
    let failure = |kind, why: &dyn std::fmt::Display| failure(kind, format!("can't start `{program}`: {why}"));
    match error {
        StartError::Program { os_error, .. } => {
            let errno = os_error.map(Errno::from_raw_os_error);
            let kind = if errno == Some(Errno::NOENT) { FailureKind::NotFound } else { FailureKind::Permanent };
            if let Err(fault) = find_program(path, search_path) {
                return failure(kind, &fault).with_hint(fault.hint(path)).into();
            }
            match errno {
                // The file is there, so the system misses what it needs to load it.
                Some(Errno::NOENT) => failure(kind, &"its dynamic linker is missing")
                    .with_hint("install a build for this system; `file` shows what it was built for"),
                Some(Errno::NOEXEC) => failure(kind, &"it is neither an executable for this system nor a script")
                    .with_hint("begin a script with a line such as `#!/bin/sh`"),
                Some(_) | None => failure(kind, &error),
            }
            .into()
        }
        StartError::Guard(_) | StartError::Record(_) => failure(FailureKind::Permanent, &error).into(),
        StartError::Lost(_) => ProgramLost::trap(program, error),
    }
}

impl HostState {
    /// The host path of `<dir>/<path>`, which must stay inside the directory.
    fn working_dir(&self, dir_path: &str) -> Result<std::path::PathBuf, StepFailure> {
        let (dir, path) = self.gate.split_dir_path(dir_path)?;
        let inside = dir.canonicalize(path).map_err(|error| self.gate.open_failure(dir_path, &error))?;
        Ok(hostio::confined_path::fd_path(dir).join(inside))
    }
}

/// Reads the streams of a program: for the module, and for the log if there is a channel.
#[derive(Default)]
struct OutputReader<'a> {
    channel: Option<&'a CallChannel>,
    stdout: CapturedOutput,
    stderr: CapturedOutput,
}

impl OutputReader<'_> {
    /// Reads to the end.
    async fn read(&mut self, pipes: ProgramPipes) {
        let Self { channel, stdout, stderr } = self;
        match pipes {
            ProgramPipes::Pipes(out, error) => {
                tokio::join!(
                    read_pipe(out, OutputStream::Stdout, stdout, *channel),
                    read_pipe(error, OutputStream::Stderr, stderr, *channel)
                );
            }
            ProgramPipes::Terminal(terminal) => read_pipe(terminal, OutputStream::Terminal, stdout, *channel).await,
        }
    }
}

async fn read_pipe(
    mut pipe: impl AsyncRead + Unpin,
    stream: OutputStream,
    captured: &mut CapturedOutput,
    channel: Option<&CallChannel>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        captured.push(&buffer[..read]);
        if let Some(channel) = channel {
            channel.send_output(OutputChunk { at: clock::now(), stream, bytes: buffer[..read].to_vec() }).await;
        }
    }
}
