//! Kills a runner at an exact call: strace's fault injection stops the process at each call that matters, and it is
//! then sent on or killed.
//!
//! strace counts `when=` for each thread on its own, and which thread of the runner makes a call is chance. So it injects
//! SIGSTOP at every call, and counting is done here, over all threads: the process is killed while it stands right behind
//! its n-th call, before anything else it would do. Behind each call is also before the next one: nothing is left out.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process, kill_process_group},
};

/// Calls that change something outside of the process.
const TRACED_CALLS: &str = "write,pwrite64,writev,pwritev,fsync,fdatasync,syncfs,ftruncate,rename,renameat,renameat2,symlink,\
                     symlinkat,mkdir,mkdirat,unlink,unlinkat,rmdir,connect";

/// One call, as strace shows it.
#[derive(Clone, Debug)]
pub struct TracedCall {
    /// Its place among all calls of the run, from 0.
    pub index: usize,
    pub name: String,
    /// Its place among the calls of its name, from 1.
    pub nth: usize,
    pub text: String,
}

impl std::fmt::Display for TracedCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} number {} (call {} of the run): {}", self.name, self.nth, self.index, self.text)
    }
}

/// A run under strace.
pub struct TracedRun {
    pub calls: Vec<TracedCall>,
    /// The call it was killed behind.
    pub killed_after: Option<TracedCall>,
    /// Of the runner, where it was not killed.
    pub status: ExitStatus,
}

/// Runs the runner until `is_last` says of a call that it is killed behind it, or to its end. `command` is strace with the runner's
/// environment, and without arguments. The text is what strace says of its own failure, whose first line ends both processes.
pub fn trace_once(
    mut command: Command,
    words: &[&str],
    is_last: impl Fn(&TracedCall) -> bool,
) -> Result<(Result<TracedRun>, String)> {
    let (trace, its_end) = io::pipe()?;
    let inject = format!("inject={TRACED_CALLS}:signal=SIGSTOP");
    command.args(["-f", "-qq", "-y", "-s", "96", "-o", "/proc/self/fd/0"]);
    command.args(["-e", &format!("trace={TRACED_CALLS}"), "-e", &inject]);
    // The runner's own output goes to a file, so that the pipe has what strace says.
    command.args(["/bin/sh", "-c", "exec \"$0\" \"$@\" 2> said.txt", env!("CARGO_BIN_EXE_runner")]).args(words);
    // The trace leaves by what would be the standard input, so that the runner keeps its output for itself.
    command.stdin(its_end).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            anyhow::anyhow!("strace is not installed: run `cargo xtask setup`")
        } else {
            error.into()
        }
    });
    // It holds the other end of the pipe: without this, the trace would never end.
    drop(command);
    let mut child = child?;
    let group = Pid::from_child(&child);
    let stderr = child.stderr.take().context("strace's stderr")?;
    let watch = thread::spawn(move || -> io::Result<String> {
        let (mut lines, mut said) = (BufReader::new(stderr), String::new());
        if lines.read_line(&mut said)? > 0 {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        lines.read_to_string(&mut said)?;
        Ok(said)
    });
    let run = follow(trace, is_last).and_then(|tracer| tracer.finish(child.wait()?));
    if run.is_err() {
        // Nothing is left running, whatever could not be read.
        let _ = kill_process_group(group, Signal::KILL);
        drop(child.wait());
    }
    let said = watch.join().map_err(|_| anyhow::anyhow!("the reader of strace's stderr panicked"))??;
    Ok((run, said))
}

/// Reads the trace to its end.
fn follow(trace: io::PipeReader, is_last: impl Fn(&TracedCall) -> bool) -> Result<StraceParser> {
    let mut tracer = StraceParser { calls: Vec::new(), killed_after: None, is_kill_sent: false, process: None };
    let mut lines = BufReader::new(trace);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        tracer.parse_line(&String::from_utf8_lossy(&line), &is_last)?;
        line.clear();
    }
    Ok(tracer)
}

struct StraceParser {
    calls: Vec<TracedCall>,
    killed_after: Option<TracedCall>,
    is_kill_sent: bool,
    process: Option<Pid>,
}

impl StraceParser {
    fn finish(self, status: ExitStatus) -> Result<TracedRun> {
        let Self { calls, killed_after, is_kill_sent, .. } = self;
        ensure!(!calls.is_empty(), "strace showed no call; it may not be allowed to trace ({status})");
        // The pipe has ended, so the runner, which held it too, is gone. strace's own status says less: it is not always
        // the signal.
        ensure!(
            killed_after.is_none() || is_kill_sent,
            "the runner was not stopped behind {killed_after:?}, and ended with {status}"
        );
        Ok(TracedRun { calls, killed_after, status })
    }

    /// Takes a line: `<thread> <name>(…`, `<thread> <... name resumed>…`, or `<thread> --- <signal> …`.
    fn parse_line(&mut self, line: &str, is_last: impl Fn(&TracedCall) -> bool) -> Result<()> {
        let (thread, what) = line.trim_end().split_once(' ').context("a line of strace's without a thread")?;
        let what = what.trim_start();
        if what.starts_with("--- SIGSTOP") {
            self.go_on(thread)?;
        } else if let Some(call) = self.parse_call(what) {
            if self.killed_after.is_none() && is_last(&call) {
                self.killed_after = Some(call.clone());
            }
            self.calls.push(call);
        }
        Ok(())
    }

    /// Sends the process of a stopped thread on, or kills the runner. A program that the runner has started is sent on in any case.
    fn go_on(&mut self, thread: &str) -> Result<()> {
        let runner = match self.process {
            Some(runner) => runner,
            None => *self.process.insert(process_of(thread)?),
        };
        if self.killed_after.is_some() && !self.is_kill_sent {
            kill_process(runner, Signal::KILL).context("SIGKILL to the runner")?;
            self.is_kill_sent = true;
        }
        // After the kill, threads of the runner are gone before their lines are read.
        match process_of(thread) {
            Ok(stopped) if stopped != runner || !self.is_kill_sent => {
                kill_process(stopped, Signal::CONT)
                    .or_else(|error| if error == Errno::SRCH { Ok(()) } else { Err(error) })?;
            }
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// A call that begins on the line; wake-ups between threads are none.
    fn parse_call(&self, what: &str) -> Option<TracedCall> {
        let (name, _) = what.split_once('(')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || what.contains("<anon_inode:") || what.contains("</memfd:") {
            return None;
        }
        let nth = self.calls.iter().filter(|call| call.name == name).count() + 1;
        Some(TracedCall { index: self.calls.len(), name: name.to_owned(), nth, text: what.to_owned() })
    }
}

/// The process that a thread belongs to.
fn process_of(thread: &str) -> Result<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:")).context("a thread without a process")?;
    Pid::from_raw(group.trim().parse()?).context("a process without a number")
}
