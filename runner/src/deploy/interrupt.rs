//! SIGINT and SIGTERM: the running call gets a short grace, then the attempt ends with its state saved.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

use super::AttemptError;

/// A call that runs when the signal comes may go on for so long: release and exit must be done within 7 s of it.
const GRACE_PERIOD: Duration = Duration::from_secs(3);

/// Whether this process was asked to stop.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// When, if it was.
    requested_at: watch::Receiver<Option<Instant>>,
}

impl Interrupt {
    /// Listens for SIGINT and SIGTERM from now on. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn listen() -> std::io::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (ask, asked) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            ask.send_replace(Some(Instant::now()));
            // Keeps the channel open: nobody waits for a second signal.
            std::future::pending::<()>().await;
        });
        Ok(Self { requested_at: asked })
    }

    pub(super) fn check(&self) -> Result<(), AttemptError> {
        if self.is_requested() { Err(AttemptError::Interrupted) } else { Ok(()) }
    }

    /// Whether this process was asked to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested_at.borrow().is_some()
    }

    /// Waits, unless asked to stop.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), AttemptError> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.requested() => Err(AttemptError::Interrupted),
        }
    }

    /// Returns when the grace of running calls is over: one for all of them, from the signal on.
    pub(super) async fn grace_period_over(&self) {
        let asked_at = self.requested().await;
        tokio::time::sleep_until(asked_at + GRACE_PERIOD).await;
    }

    /// Returns when this process is asked to stop, with the moment.
    pub async fn requested(&self) -> Instant {
        let mut asked = self.requested_at.clone();
        match asked.wait_for(Option::is_some).await.map(|asked| *asked) {
            Ok(Some(at)) => at,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}
