//! Runs a program for what it prints, for a limited time.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

/// How long its pipes are still read once it has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs a program to its end, and ends what it leaves behind. Of what it prints to each stream, `max_bytes` from the beginning are kept.
///
/// # Errors
/// It can't be started, or does not end in time.
pub(crate) async fn run_bounded(mut command: Command, limit: Duration, max_bytes: u64) -> Result<Output, String> {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut printed, mut errors) = (Vec::new(), Vec::new());
    let ended = {
        let reading = async {
            tokio::join!(read_start(stdout, &mut printed, max_bytes), read_start(stderr, &mut errors, max_bytes))
        };
        tokio::pin!(reading);
        tokio::time::timeout(limit, async {
            tokio::select! {
                status = child.wait() => {
                    // What it left behind may hold the pipes.
                    let _ = tokio::time::timeout(DRAIN_TIMEOUT, &mut reading).await;
                    status
                }
                _ = &mut reading => child.wait().await,
            }
        })
        .await
    };
    if let Some(group) = group {
        // Nobody may be left in it.
        let _ = kill_process_group(group, Signal::KILL);
    }
    match ended {
        Ok(Ok(status)) => Ok(Output { status, stdout: printed, stderr: errors }),
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
