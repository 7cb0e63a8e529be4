//! The guard of a program: the parent that outlives the runner by as long as the program needs to end.
//!
//! It gets a socket as its standard input, and its standard output and error are the program's. It starts the program after it has
//! read its job, and reports its end. When the socket closes, the runner has died: the program's group gets SIGTERM, and SIGKILL after
//! [`ORPHAN_GRACE`]. Deliberately absent: everything else that the runner does; the guard has no environment and no runtime.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpgid};

use super::protocol::{GuardEvent, GuardJob, KILL, ORPHAN_GRACE, STOP_GRACE, TERMINATE};

/// The argument that makes the runner a guard.
pub const GUARD_ARGUMENT: &str = "program-guard";

/// How often a group is looked at that has lost its leader and must end.
const GROUP_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What the guard waits for.
enum GuardSignal {
    /// The runner asks to end the program.
    Terminate(Duration),
    /// The runner asks to kill the program, or its time is over.
    Kill,
    Exited(io::Result<ExitStatus>),
}

/// Runs this process as a guard.
#[must_use]
pub fn run_program_guard() -> ExitCode {
    match guard_program() {
        Ok(()) => ExitCode::SUCCESS,
        // The runner sees the closed socket.
        Err(_) => ExitCode::FAILURE,
    }
}

fn guard_program() -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut commands = BufReader::new(socket.try_clone()?);
    let mut job = String::new();
    if commands.read_line(&mut job)? == 0 {
        return Ok(());
    }
    let job: GuardJob = serde_json::from_str(&job)?;
    let mut input = vec![0; job.stdin_bytes.unwrap_or(0)];
    commands.read_exact(&mut input)?;
    let mut program = match start(&job) {
        Ok(program) => program,
        Err(error) => {
            let failed = GuardEvent::Failed { os_error: error.raw_os_error(), message: error.to_string() };
            return send(&mut socket, &failed);
        }
    };
    let group = Pid::from_child(&program);
    // The runner may be gone by now; then the commands end, and the program with them.
    let _ = send(&mut socket, &GuardEvent::Started { pid: group.as_raw_nonzero().get() });
    if let Some(mut pipe) = program.stdin.take() {
        // A program may close its standard input early.
        thread::spawn(move || drop(pipe.write_all(&input)));
    }
    let (signals, received) = mpsc::channel();
    thread::spawn({
        let signals = signals.clone();
        move || forward_commands(commands, &signals)
    });
    thread::spawn(move || signals.send(GuardSignal::Exited(program.wait())));
    let status = wait_for_end(&received, group)?;
    send(&mut socket, &GuardEvent::Exited { status: status.code(), signal: status.signal() })
}

fn start(job: &GuardJob) -> io::Result<Child> {
    let mut command = Command::new(&job.program);
    command.args(&job.arguments).env_clear().envs(job.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(if job.stdin_bytes.is_some() { Stdio::piped() } else { Stdio::null() });
    command.process_group(0).spawn()
}

fn send(socket: &mut UnixStream, event: &GuardEvent) -> io::Result<()> {
    socket.write_all(format!("{}\n", serde_json::to_string(event)?).as_bytes())
}

/// Passes on what the runner asks for, and that it has died.
fn forward_commands(commands: BufReader<UnixStream>, signals: &Sender<GuardSignal>) {
    for command in commands.bytes().map_while(Result::ok) {
        let signal = match command {
            TERMINATE => GuardSignal::Terminate(STOP_GRACE),
            KILL => GuardSignal::Kill,
            _ => continue,
        };
        // The guard ends with its program.
        let _ = signals.send(signal);
    }
    let _ = signals.send(GuardSignal::Terminate(ORPHAN_GRACE));
}

/// Waits until the program has ended; if it was asked to end, until its whole group has.
fn wait_for_end(signals: &Receiver<GuardSignal>, group: Pid) -> io::Result<ExitStatus> {
    let mut kill_at: Option<Instant> = None;
    let mut was_asked = false;
    let status = loop {
        let signal = match kill_at {
            None => signals.recv().map_err(io::Error::other)?,
            Some(at) => match signals.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(signal) => signal,
                Err(RecvTimeoutError::Timeout) => GuardSignal::Kill,
                Err(closed @ RecvTimeoutError::Disconnected) => return Err(io::Error::other(closed)),
            },
        };
        // What has ended meanwhile can't be signalled.
        match signal {
            GuardSignal::Exited(status) => break status?,
            GuardSignal::Terminate(grace) => {
                adopt_orphans();
                let _ = kill_process_group(group, Signal::TERM);
                let at = Instant::now() + grace;
                kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
                was_asked = true;
            }
            GuardSignal::Kill => {
                adopt_orphans();
                let _ = kill_process_group(group, Signal::KILL);
                kill_at = None;
                was_asked = true;
            }
        }
    };
    if was_asked {
        end_group(group, kill_at.unwrap_or_else(Instant::now));
    }
    Ok(status)
}

/// Makes this process the parent of the program's processes whose own parent ends. Otherwise the first process of the machine, or of the
/// container, gets them; some of those never ask how a child ended, and the group would seem to run until then.
fn adopt_orphans() {
    // Without it, the end only takes longer.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Waits until a group without its leader has ended, and kills it at a time.
fn end_group(group: Pid, kill_at: Instant) {
    loop {
        while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
        if test_kill_process_group(group).is_err() {
            return;
        }
        if Instant::now() >= kill_at {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
        thread::sleep(GROUP_POLL_INTERVAL);
    }
}
