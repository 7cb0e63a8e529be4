//! A step that a host undoes by itself unless a new connection confirms it.
//!
//! The agent that made the call puts a file into the host's state folder, and the agent of the new connection removes it. Invariant: of
//! confirming and undoing, exactly one happens, since one process alone can remove the file; until then, the journal has an intent without an
//! outcome, so that the next attempt asks the step's probe if the agent is killed. Deliberately absent: how long to wait, which the plan
//! says.

use std::{
    cell::Cell,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::wire::{self, CallId, ToCoordinator};
use crate::deploy::Interrupt;
use contract::hash::Blake3Hash;

/// The beginning of the names of the files.
const PREFIX: &str = "unconfirmed-";
/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long it may take to tell a coordinator that may be gone.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call that has succeeded, and is undone unless a new connection confirms it.
pub(super) struct AwaitingConfirmation<'a> {
    pub(super) call: CallId,
    pub(super) frames: &'a mpsc::Sender<Vec<u8>>,
    pub(super) interrupt: &'a Interrupt,
    /// From now on, the end of the connection ends nothing.
    pub(super) has_begun: &'a Cell<bool>,
}

impl AwaitingConfirmation<'_> {
    /// Tells the coordinator, and waits. A newer agent is no confirmation: its coordinator does not know of this call's success.
    pub(super) async fn is_confirmed(&self, confirmable: &Confirmable, within: Duration) -> bool {
        self.has_begun.set(true);
        if confirmable.announce().is_err() {
            return false;
        }
        let (frames, message) = (self.frames, ToCoordinator::AwaitsConfirmation { call: self.call });
        let telling = async {
            let _ = frames.send_timeout(wire::message_frame(&message), TELL_TIMEOUT).await;
            let _ = self.interrupt.requested().await;
        };
        confirmable.wait(within, telling).await
    }
}

/// What can be confirmed, until it is dropped.
pub(super) struct Confirmable {
    prepared: PathBuf,
    open: PathBuf,
}

impl Confirmable {
    /// Makes sure that it can be announced: before the call, since a full disk must not be found after it.
    pub(super) fn prepare(folder: &Path, key: &str, epoch: u64) -> io::Result<Self> {
        let open = path(folder, key, epoch);
        let prepared = open.with_extension("prepared");
        fs::File::create(&prepared)?;
        Ok(Self { prepared, open })
    }

    /// From now on, it can be confirmed.
    pub(super) fn announce(&self) -> io::Result<()> {
        fs::rename(&self.prepared, &self.open)
    }

    /// Waits until it is confirmed, the time is over, or `given_up` ends. Returns whether it was confirmed.
    pub(super) async fn wait(&self, within: Duration, given_up: impl Future<Output = ()>) -> bool {
        let deadline = Instant::now() + within;
        let confirmed = async {
            while !matches!(self.open.try_exists(), Ok(false)) {
                sleep(POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            () = confirmed => true,
            () = sleep_until(deadline) => !self.withdraw(),
            () = given_up => !self.withdraw(),
        }
    }

    /// Makes sure that nobody confirms it any more. False if somebody did before.
    fn withdraw(&self) -> bool {
        !matches!(fs::remove_file(&self.open), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Drop for Confirmable {
    fn drop(&mut self) {
        for path in [&self.prepared, &self.open] {
            let _ = fs::remove_file(path);
        }
    }
}

/// Confirms the call with this key and epoch. It is waited for as long as `may_come`. Returns whether it is confirmed.
pub(super) async fn confirm(folder: &Path, key: &str, epoch: u64, may_come: impl Fn() -> bool) -> bool {
    let path = path(folder, key, epoch);
    loop {
        // Asked first: what ends in between has announced before.
        let is_last = !may_come();
        if fs::remove_file(&path).is_ok() {
            return true;
        }
        if is_last {
            return false;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Removes what killed agents left. The caller holds the lock of the folder.
pub(super) fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn path(folder: &Path, key: &str, epoch: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{epoch}-{}", Blake3Hash::of(key.as_bytes()).hex_prefix(16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_is_either_confirmed_or_withdrawn() {
        let folder = tempfile::tempdir().unwrap();
        let (never, path) = (Duration::from_secs(600), folder.path());
        let call = Confirmable::prepare(path, "key", 3).unwrap();
        assert!(!confirm(path, "key", 3, || false).await, "it has not succeeded yet");
        call.announce().unwrap();
        assert!(!confirm(path, "key", 2, || false).await, "another attempt");
        assert!(!confirm(path, "other", 3, || false).await, "another call");
        let (waited, confirmed) =
            tokio::join!(call.wait(never, std::future::pending()), confirm(path, "key", 3, || true));
        assert!(waited && confirmed);
        // Confirmed just before it is given up.
        assert!(call.wait(never, std::future::ready(())).await);
        let call = Confirmable::prepare(path, "key", 3).unwrap();
        call.announce().unwrap();
        assert!(!call.wait(never, std::future::ready(())).await, "given up");
        assert!(!confirm(path, "key", 3, || false).await);
        drop(call);
        let call = Confirmable::prepare(path, "key", 4).unwrap();
        call.announce().unwrap();
        assert!(!call.wait(Duration::ZERO, std::future::pending()).await, "too late");
        std::mem::forget(call);
        fs::write(path.join("unconfirmed-9-x"), "").unwrap();
        remove_leftovers(path).unwrap();
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    }
}
