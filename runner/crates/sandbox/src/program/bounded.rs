//! Runs a program for what it prints, for a limited time: under a guard, or by itself.
//!
//! Invariant: when it has run, nothing of its process group is left; with a guard, also if this process has died. Deliberately absent:
//! records, since no later process looks for it.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

use super::{ProgramExit, ProgramPipes, ProgramStart, RunningProgram};

/// How long its pipes are still read once it has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// How often a program without a guard is looked at. Tokio's own wait reaps it at once.
const END_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A program whose output is wanted.
pub struct BoundedProgram {
    /// A path, or a name to look up on the `PATH` of its environment.
    pub program: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub working_dir: PathBuf,
}

impl BoundedProgram {
    /// Runs it to its end, and ends what it leaves behind. Of what it prints to each stream, `max_bytes` from the beginning are kept.
    ///
    /// # Errors
    /// It can't be started, or does not end in time.
    pub async fn run(self, limit: Duration, max_bytes: u64) -> Result<Output, String> {
        let Self { program, arguments, environment, working_dir } = self;
        let start = ProgramStart {
            program,
            arguments,
            environment,
            stdin: None,
            working_dir: Some(working_dir),
            terminal: false,
            records: None,
            ends_group: true,
        };
        let (mut running, pipes) = RunningProgram::start(start).await.map_err(|error| error.to_string())?;
        let ProgramPipes::Pipes(out, error) = pipes else { return Err("it got a terminal".to_owned()) };
        let wait = async || {
            // As wait(2) encodes it.
            let status = |exit: ProgramExit| exit.signal.unwrap_or_else(|| exit.status.unwrap_or_default() << 8);
            running.wait().await.map(|exit| ExitStatus::from_raw(status(exit)))
        };
        output_until_end((Some(out), Some(error)), wait, (limit, max_bytes)).await
    }
}

/// Runs a program without a guard to its end, and ends what it leaves behind. Of what it prints to each stream, `max_bytes` from the
/// beginning are kept.
///
/// # Errors
/// It can't be started, or does not end in time.
pub async fn run_bounded(mut command: Command, limit: Duration, max_bytes: u64) -> Result<Output, String> {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let pipes = (child.stdout.take(), child.stderr.take());
    let ended = output_until_end(pipes, async || wait_and_end_group(&mut child).await, (limit, max_bytes)).await;
    end_group_of(&child);
    ended
}

/// Waits until a program has ended, ends its group, and only then reaps it: after that, its number may be another group's.
async fn wait_and_end_group(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = id_of(child) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(pid), options)?.is_none() {
            tokio::time::sleep(END_POLL_INTERVAL).await;
        }
        end_group_of(child);
    }
    child.wait().await
}

/// Kills what is left of the group of a program that was not reaped.
fn end_group_of(child: &Child) {
    if let Some(group) = id_of(child) {
        // Nobody may be left in it.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// The number of a program, unless it was reaped.
fn id_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
}

/// What a program prints until it has ended, by `wait`, which ends its group.
async fn output_until_end(
    (out, error): (Option<impl AsyncRead + Unpin>, Option<impl AsyncRead + Unpin>),
    mut wait: impl AsyncFnMut() -> io::Result<ExitStatus>,
    (limit, max_bytes): (Duration, u64),
) -> Result<Output, String> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = {
        let reading =
            async { tokio::join!(read_start(out, &mut stdout, max_bytes), read_start(error, &mut stderr, max_bytes)) };
        tokio::pin!(reading);
        tokio::time::timeout(limit, async {
            tokio::select! {
                status = wait() => {
                    // What it left behind may hold the pipes.
                    let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut reading).await;
                    status
                }
                _ = &mut reading => wait().await,
            }
        })
        .await
    };
    match ended {
        Ok(Ok(status)) => Ok(Output { status, stdout, stderr }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("it did not end within {} s", limit.as_secs())),
    }
}

async fn read_start(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, max_bytes: u64) {
    if let Some(pipe) = pipe {
        // What can't be read is not there.
        let _ = pipe.take(max_bytes).read_to_end(into).await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[tokio::test]
    async fn program_that_does_not_end_in_time_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let ended = run_bounded(shell(&script), Duration::from_secs(1), 100).await;
        assert_eq!(ended.unwrap_err(), "it did not end within 1 s");
        let pid = std::fs::read_to_string(pid).unwrap();
        let is_gone =
            || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).map_or(true, |stat| stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !is_gone() {
            assert!(std::time::Instant::now() < deadline, "process {pid} goes on");
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn the_beginning_of_a_long_output_is_kept() {
        let ended = run_bounded(shell("echo abcdef; echo 12 >&2"), Duration::from_secs(60), 4).await.unwrap();
        assert_eq!((&*ended.stdout, &*ended.stderr, ended.status.success()), (&b"abcd"[..], &b"12\n"[..], true));
    }
}
