//! Dials hosts: only some at once, and again a moment later where a server takes no more connections now.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{AgentConnection, HostSurvey, agent_binary::AgentBinaries, ssh, survey};
use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{PlanHost, SshOptions};

use crate::agent::wire::AgentPlace;

/// How often a host is dialed whose server hangs up at once.
const MAX_TRIES: u32 = 5;
/// How long to wait then; each further wait is twice as long, and a random part longer.
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// Dials the hosts of a deployment.
pub struct Dialer {
    options: SshOptions,
    binaries: AgentBinaries,
    permits: Semaphore,
}

impl Dialer {
    /// A dialer that calls ssh with these options. What it finds out about the runner's binary is kept in `cache_dir`.
    #[must_use]
    pub fn new(options: SshOptions, cache_dir: Option<PathBuf>) -> Self {
        let permits = Semaphore::new(options.dials);
        Self { options, binaries: AgentBinaries::new(cache_dir), permits }
    }

    /// Connects to a host, and starts its agent.
    ///
    /// # Errors
    /// The host can't be reached, or can't run the agent.
    pub async fn dial(&self, host: &PlanHost, tell_upload: &dyn Fn(usize)) -> Result<AgentConnection, Diagnostic> {
        self.try_again(async || ssh::reach(host, &self.options, &self.binaries, tell_upload).await).await
    }

    /// Asks a host what it has, and changes nothing there. `place` is where its agent keeps the records of an environment.
    ///
    /// # Errors
    /// The host can't be reached, or can't run the agent.
    pub async fn survey(&self, host: &PlanHost, place: &AgentPlace) -> Result<HostSurvey, Diagnostic> {
        self.try_again(async || survey::ask(host, &self.options, &self.binaries, place).await).await
    }

    async fn try_again<T>(&self, dial: impl AsyncFn() -> Result<T, Diagnostic>) -> Result<T, Diagnostic> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let permit = self.permits.acquire().await;
            let dialed = dial().await;
            drop(permit);
            match dialed {
                Err(diagnostic) if is_hung_up(&diagnostic) && tries < MAX_TRIES => {
                    tokio::time::sleep(pause + pause.mul_f64(random_fraction())).await;
                    pause *= 2;
                    tries += 1;
                }
                dialed => return dialed,
            }
        }
    }
}

/// Whether the server hung up, and may let another connection in a moment later.
fn is_hung_up(diagnostic: &Diagnostic) -> bool {
    diagnostic.code == ErrorCode::HostUnreachable && diagnostic.causes.iter().any(|cause| ssh::is_hung_up(cause))
}

/// From 0 to 1.
fn random_fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
