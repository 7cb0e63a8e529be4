//! The capability `process`: granted argument vectors, no shell.
//!
//! Invariants: the environment contains only what the plan grants. At its call's deadline, a program is killed with its
//! whole process group. Deliberately absent: live output; a step logs what matters.

use std::{
    collections::{BTreeMap, VecDeque},
    os::unix::process::ExitStatusExt as _,
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use wasmtime::component::Resource;

use super::{
    bindings::{HostError, process},
    failure,
    host::HostState,
    secrets::SecretHandle,
};
use contract::step::{FailureKind, StepFailure};

/// The kept bytes of stdout and of stderr: half head, half tail.
const MAX_CAPTURED_BYTES: usize = 1 << 20;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct ProgramOptions {
    env: BTreeMap<String, String>,
    dir: Option<String>,
}

/// How long the pipes of an ended program are still read.
const PIPE_DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Kills a process group unless disarmed.
struct ProcessGroupGuard(Option<Pid>);

impl Drop for ProcessGroupGuard {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have just ended; then there is nothing to kill.
            let _ = kill_process_group(pid, Signal::KILL);
        }
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
        for (name, handle) in secrets {
            options.env.insert(name, self.secret_value(&handle)?.reveal().to_owned());
        }
        let mut argv = vec![command.program.as_str()];
        argv.extend(command.arguments.iter().map(String::as_str));
        self.gate.check_program(&argv)?;

        let mut program = Command::new(&command.program);
        program.args(&command.arguments).env_clear().envs(self.gate.program_environment(&options.env)?);
        if let Some(dir) = &options.dir {
            program.current_dir(self.working_dir(dir)?);
        }
        program.stdin(if command.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        program.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = program.spawn().map_err(|error| {
            let kind = if error.kind() == std::io::ErrorKind::NotFound {
                FailureKind::NotFound
            } else {
                FailureKind::Permanent
            };
            failure(kind, format!("can't start `{}`: {error}", command.program))
                .with_hint("name the program by its full path, or grant `env: { PATH: … }`: its environment is empty")
        })?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = ProcessGroupGuard(pid);

        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut output, mut error_output) = (CapturedOutput::default(), CapturedOutput::default());
        let status = {
            let feed = async {
                if let (Some(mut pipe), Some(bytes)) = (stdin, &command.stdin) {
                    // A program may close its stdin early.
                    let _ = pipe.write_all(bytes).await;
                }
            };
            let pipes = async { tokio::join!(feed, output.read(stdout), error_output.read(stderr)) };
            tokio::pin!(pipes);
            tokio::select! {
                _ = &mut pipes => child.wait().await,
                status = child.wait() => {
                    // A child that it left behind may hold the pipes: read them briefly, no longer.
                    let _ = tokio::time::timeout(PIPE_DRAIN_TIMEOUT, &mut pipes).await;
                    status
                }
            }
        };
        let status = status.map_err(|error| {
            failure(FailureKind::Permanent, format!("can't wait for `{}`: {error}", command.program))
        })?;
        group.0 = None;
        let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        Ok(process::Completion { status, stdout: output.into_bytes(), stderr: error_output.into_bytes() })
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

/// The kept part of a stream: all of it, or head and tail.
#[derive(Default)]
struct CapturedOutput {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    omitted_bytes: u64,
}

impl CapturedOutput {
    /// Reads to the end.
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            let head_bytes = (MAX_CAPTURED_BYTES / 2).saturating_sub(self.head.len()).min(read);
            self.head.extend_from_slice(&buffer[..head_bytes]);
            self.tail.extend(&buffer[head_bytes..read]);
            let excess = self.tail.len().saturating_sub(MAX_CAPTURED_BYTES / 2);
            self.tail.drain(..excess);
            self.omitted_bytes += excess as u64;
        }
    }

    /// Cuts between lines, because half a secret could not be redacted.
    fn into_bytes(mut self) -> Vec<u8> {
        if self.omitted_bytes > 0 {
            let is_end = |byte: &u8| *byte == b'\n';
            self.head.truncate(self.head.iter().rposition(is_end).map_or(0, |end| end + 1));
            self.tail.drain(..self.tail.iter().position(is_end).map_or(self.tail.len(), |end| end + 1));
            self.head.extend_from_slice(format!("[… over {} bytes …]\n", self.omitted_bytes).as_bytes());
        }
        self.head.extend(self.tail);
        self.head
    }
}
