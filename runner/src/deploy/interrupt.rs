//! Handles SIGINT and SIGTERM: programs get SIGTERM at once, the running call gets a grace period, then the attempt ends with its state
//! saved.

use std::time::Duration;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

use super::AttemptError;

/// How long a running call may continue after a signal: a program that it runs is killed 4 s after it. The process must release the
/// lock and exit within 7 s of it.
const GRACE_PERIOD: Duration = Duration::from_millis(4_500);

/// A request to stop this process, by SIGINT or SIGTERM.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// The time of the request; none if there was none yet.
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
            // Keeps the channel open. Further signals are ignored.
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

    /// Sleeps. Fails as soon as the process is asked to stop.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), AttemptError> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            _ = self.requested() => Err(AttemptError::Interrupted),
        }
    }

    /// The time of the request, once there is one.
    pub(super) fn request_time(&self) -> watch::Receiver<Option<Instant>> {
        self.requested_at.clone()
    }

    /// Returns when the grace period is over. It starts at the signal and is the same for all calls.
    pub(super) async fn grace_period_over(&self) {
        let asked_at = self.requested().await;
        tokio::time::sleep_until(asked_at + GRACE_PERIOD).await;
    }

    /// Waits until this process is asked to stop, and returns the time of the request.
    pub async fn requested(&self) -> Instant {
        let mut asked = self.requested_at.clone();
        match asked.wait_for(Option::is_some).await.map(|asked| *asked) {
            Ok(Some(at)) => at,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}
