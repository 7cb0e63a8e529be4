//! SIGINT and SIGTERM: the running call gets a short grace, then the attempt ends with its state saved.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::Halt;

/// A call that runs when the signal comes may go on for so long: release and exit must be done within 7 s of it.
const GRACE: Duration = Duration::from_secs(4);

/// Whether this process was asked to stop.
#[derive(Clone, Debug)]
pub struct Interrupt {
    asked: watch::Receiver<bool>,
}

impl Interrupt {
    /// Listens for SIGINT and SIGTERM from now on. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn listen() -> std::io::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            ask.send_replace(true);
            // Keeps the channel open: nobody waits for a second signal.
            std::future::pending::<()>().await;
        });
        Ok(Self { asked })
    }

    pub(super) fn check(&self) -> Result<(), Halt> {
        if *self.asked.borrow() { Err(Halt::Interrupted) } else { Ok(()) }
    }

    /// Waits, unless asked to stop.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), Halt> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.asked() => Err(Halt::Interrupted),
        }
    }

    /// Returns when the grace of a running call is over.
    pub(super) async fn grace_over(&self) {
        self.asked().await;
        tokio::time::sleep(GRACE).await;
    }

    async fn asked(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
