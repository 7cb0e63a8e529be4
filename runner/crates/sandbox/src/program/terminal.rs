//! A pseudo-terminal for the output of a program, so that it writes each line at once, as to a person.
//!
//! Deliberately absent: input, and a controlling terminal; nobody is there to answer a program.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};
use tokio::io::unix::AsyncFd;

/// The size that programs see, in rows and columns.
const ROWS: u16 = 40;
const COLUMNS: u16 = 120;

/// The runner's end of a pseudo-terminal.
pub(crate) struct TerminalReader(AsyncFd<OwnedFd>);

/// Opens a pseudo-terminal, and returns the runner's end and the program's.
pub(super) fn open() -> io::Result<(TerminalReader, OwnedFd)> {
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
    Ok((TerminalReader(AsyncFd::register(ours)?), theirs))
}

impl TerminalReader {
    /// Reads what the program has written; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|terminal| Ok(rustix::io::read(terminal.get_ref().as_fd(), &mut *buffer)?));
            match read {
                // The last process with the program's end has closed it.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return Ok(0),
                Ok(read) => return read,
                Err(_would_block) => {}
            }
        }
    }
}
