//! Recognizes a process by its number, the time of its start, and the boot of the machine.

use std::{fs, io};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// The field of `/proc/PID/stat` with the time of the start, from 1. See proc_pid_stat(5).
const START_TIME_FIELD: usize = 22;

/// One process of this machine, as others recognize it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProcessIdentity {
    pid: u32,
    /// In clock ticks since the boot.
    start_time: u64,
    boot: String,
}

impl ProcessIdentity {
    /// The process that has this number now.
    ///
    /// # Errors
    /// It has ended.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)?, boot: boot_id() })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this very process has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.boot == boot_id() && start_time(self.pid).is_ok_and(|start_time| start_time == self.start_time)
    }

    /// Sends a signal to this very process, if it has not ended. Returns whether it was sent.
    #[must_use]
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        // The number can't get to another process while it is open.
        let opened = pidfd_open(pid, PidfdFlags::empty());
        opened.is_ok_and(|process| self.is_running() && pidfd_send_signal(process, signal).is_ok())
    }
}

/// The boot of this machine; empty where the kernel does not name it.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// The time at which a process started. A process that has ended and was not waited for is not found.
fn start_time(pid: u32) -> io::Result<u64> {
    let ended = |error: io::Error| match error.raw_os_error() {
        // It ended between the opening of the file and the read.
        Some(number) if number == Errno::SRCH.raw_os_error() => io::ErrorKind::NotFound.into(),
        Some(_) | None => error,
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(ended)?;
    let unknown = || io::Error::other(format!("/proc/{pid}/stat does not show when the process started"));
    // The name of the program, the second field, may contain anything.
    let (_, after_name) = stat.rsplit_once(") ").ok_or_else(unknown)?;
    if after_name.starts_with(['Z', 'X']) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let field = after_name.split_ascii_whitespace().nth(START_TIME_FIELD - 3).ok_or_else(unknown)?;
    field.parse().map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn process_is_recognized_by_its_start_and_boot() {
        let mut child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let process = ProcessIdentity::of(child.id()).unwrap();
        assert!(process.is_running());
        let others = [
            ProcessIdentity { start_time: process.start_time + 1, ..process.clone() },
            ProcessIdentity { boot: "another".to_owned(), ..process.clone() },
        ];
        for other in others {
            assert!(!other.is_running() && !other.signal(Signal::KILL), "{other:?}");
        }
        assert!(child.try_wait().unwrap().is_none() && process.signal(Signal::KILL));
        child.wait().unwrap();
        assert!(!process.is_running() && !process.signal(Signal::KILL));
    }
}
