//! The guard of a program: the parent that outlives the runner by as long as the program needs to end.
//!
//! It gets a socket as its standard input, and its standard output and error are the program's. It starts the program after it has
//! read its job, and reports its end. While anything in its group may still get a signal, the program is not reaped, so that its number
//! is no other group's. When the socket closes, the runner has died: the program's group gets SIGTERM, and SIGKILL after
//! [`ORPHAN_GRACE`]. Deliberately absent: everything else that the runner does; the guard has no environment and no runtime.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

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
    Exited(io::Result<()>),
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
    thread::spawn(move || signals.send(GuardSignal::Exited(wait_unreaped(group))));
    if wait_for_end(&received, group)? == GroupEnd::Left && job.ends_group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    // From here on, the number of the group may get to others.
    let status = program.wait()?;
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

/// Waits until a program has ended, and leaves it unreaped.
fn wait_unreaped(program: Pid) -> io::Result<()> {
    loop {
        match waitid(WaitId::Pid(program), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What became of a group whose leader has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GroupEnd {
    /// The program ended by itself, and what it started may go on.
    Left,
    /// It was asked to end, and all of it has.
    Ended,
}

/// Waits until the program has ended; if it was asked to end, until its whole group has. The program is not reaped.
fn wait_for_end(signals: &Receiver<GuardSignal>, group: Pid) -> io::Result<GroupEnd> {
    let mut kill_at: Option<Instant> = None;
    let mut was_asked = false;
    loop {
        let signal = match kill_at {
            None => signals.recv().map_err(io::Error::other)?,
            Some(at) => match signals.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(signal) => signal,
                Err(RecvTimeoutError::Timeout) => GuardSignal::Kill,
                Err(closed @ RecvTimeoutError::Disconnected) => return Err(io::Error::other(closed)),
            },
        };
        match signal {
            GuardSignal::Exited(ended) => break ended?,
            GuardSignal::Terminate(grace) => {
                let _ = kill_process_group(group, Signal::TERM);
                let at = Instant::now() + grace;
                kill_at = Some(kill_at.map_or(at, |earlier| earlier.min(at)));
                was_asked = true;
            }
            GuardSignal::Kill => {
                let _ = kill_process_group(group, Signal::KILL);
                kill_at = None;
                was_asked = true;
            }
        }
    }
    if !was_asked {
        return Ok(GroupEnd::Left);
    }
    end_group(group, kill_at.unwrap_or_else(Instant::now));
    Ok(GroupEnd::Ended)
}

/// Waits until a group whose leader has ended has ended too, and kills it at a time.
fn end_group(group: Pid, kill_at: Instant) {
    while Instant::now() < kill_at && is_group_alive(group) {
        thread::sleep(GROUP_POLL_INTERVAL);
    }
    // Also what another user's processes hide.
    let _ = kill_process_group(group, Signal::KILL);
}

/// Whether a process of a group has not ended. One that has ended and was not reaped does not count: the leader is one.
fn is_group_alive(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let is_number = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = processes.flatten().filter(is_number);
    // Another one may end meanwhile.
    let mut stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    stats.any(|stat| is_alive_in(&stat, group))
}

/// Whether the content of a `/proc/PID/stat` is of a process in this group that has not ended. See proc_pid_stat(5).
fn is_alive_in(stat: &str, group: Pid) -> bool {
    // The name of the program may contain anything.
    let Some((_, after_name)) = stat.rsplit_once(") ") else { return false };
    let mut fields = after_name.split_ascii_whitespace();
    let (state, _parent, its_group) = (fields.next(), fields.next(), fields.next());
    let is_of_group = its_group.and_then(|id| id.parse().ok()) == Some(group.as_raw_nonzero().get());
    is_of_group && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a program that has ended is no other's until all of its group has ended.
    #[test]
    fn program_is_reaped_after_its_group_has_ended() {
        let mut command = Command::new("/bin/sh");
        let mut program = command.args(["-c", "sleep 600 & exit 7"]).process_group(0).spawn().unwrap();
        let group = Pid::from_child(&program);
        wait_unreaped(group).unwrap();
        assert!(is_group_alive(group), "the sleep goes on");
        let (signals, received) = mpsc::channel();
        for signal in [GuardSignal::Kill, GuardSignal::Exited(Ok(()))] {
            assert!(signals.send(signal).is_ok());
        }
        assert!(wait_for_end(&received, group).unwrap() == GroupEnd::Ended);
        let stat = fs::read_to_string(format!("/proc/{}/stat", program.id())).unwrap();
        assert!(stat.contains(") Z "), "not reaped yet: {stat}");
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_group_alive(group) {
            assert!(Instant::now() < deadline, "the sleep was not killed");
            thread::yield_now();
        }
        assert_eq!(program.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn processes_of_a_group_are_recognized() {
        let group = Pid::from_raw(70).unwrap();
        let alive = |stat| is_alive_in(stat, group);
        assert!(alive("71 (a) 70 (b) S 1 70 70 0 -1"));
        assert!(!alive("70 (sh) Z 1 70 70 0 -1") && !alive("72 (sh) S 70 71 70 0 -1") && !alive(""));
    }
}
