//! Runs a program under a guard for what it prints, for a limited time.
//!
//! Invariant: when it has run, or this process has died, nothing of its process group is left. Deliberately absent: records, since no
//! later process looks for it.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Output},
    time::Duration,
};

use rustix::process::{Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{ProgramPipes, ProgramStart, RunningProgram};

/// How long its pipes are still read once it has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

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
        };
        let (mut running, pipes) = RunningProgram::start(start).await.map_err(|error| error.to_string())?;
        let group = running.group();
        let (out, error) = match pipes {
            ProgramPipes::Pipes(out, error) => (out, error),
            ProgramPipes::Terminal(_) => return Err("it got a terminal".to_owned()),
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = {
            let reading = async {
                tokio::join!(read_start(out, &mut stdout, max_bytes), read_start(error, &mut stderr, max_bytes))
            };
            tokio::pin!(reading);
            tokio::time::timeout(limit, async {
                tokio::select! {
                    exit = running.wait() => {
                        // What it left behind may hold the pipes.
                        let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut reading).await;
                        exit
                    }
                    _ = &mut reading => running.wait().await,
                }
            })
            .await
        };
        if let Some(group) = group {
            // Nobody may be left in it.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let exit = match ended {
            Ok(exit) => exit.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("it did not end within {} s", limit.as_secs())),
        };
        // As wait(2) has it.
        let status = exit.signal.unwrap_or_else(|| exit.status.unwrap_or_default() << 8);
        Ok(Output { status: ExitStatus::from_raw(status), stdout, stderr })
    }
}

async fn read_start(pipe: impl AsyncRead + Unpin, into: &mut Vec<u8>, max_bytes: u64) {
    // What can't be read is not there.
    let _ = pipe.take(max_bytes).read_to_end(into).await;
}
