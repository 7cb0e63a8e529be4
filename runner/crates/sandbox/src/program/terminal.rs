//! A pseudo-terminal for the output of a program, so that it writes each line at once, as to a person.
//!
//! Deliberately absent: input, and a controlling terminal; nobody is there to answer a program.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};
use tokio::net::unix::pipe;

/// The size that programs see, in rows and columns.
const ROWS: u16 = 40;
const COLUMNS: u16 = 120;

/// Opens a pseudo-terminal, and returns the runner's end and the program's. A read fails once the last process has closed the
/// program's end.
pub(super) fn open() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let path = ptsname(&ours, Vec::new())?;
    let theirs = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut modes = tcgetattr(&theirs)?;
    // Lines end as they do in a pipe.
    modes.output_modes.remove(OutputModes::OPOST);
    modes.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    tcsetwinsize(&theirs, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 })?;
    let flags = rustix::fs::fcntl_getfl(&ours)?;
    rustix::fs::fcntl_setfl(&ours, flags | OFlags::NONBLOCK)?;
    // It is not a pipe, but read and polled like one.
    Ok((pipe::Receiver::from_owned_fd_unchecked(ours)?, theirs))
}
