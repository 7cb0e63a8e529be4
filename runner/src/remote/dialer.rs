//! Dials hosts: only some at once, and again a moment later where a server takes no more connections now.
//!
//! Hosts that the same server hangs up on are dialed again one after the other: each waits until the one before has logged in. A host is
//! given up when its server hung up [`MAX_TRIES`] times and let nobody in meanwhile. Deliberately absent: what a hang-up looks like, which
//! [`dial_error`](super::dial_error) knows.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Mutex, Semaphore};

use super::{
    AgentConnection, HostSurvey,
    agent_binary::AgentBinaries,
    dial_error::{DialError, HangUp},
    ssh, survey,
};
use contract::diagnostic::Diagnostic;
use plan::{PlanHost, SshOptions};

use crate::agent::wire::AgentPlace;

/// How often a host is dialed whose server hangs up at once and lets nobody in.
const MAX_TRIES: u32 = 5;
/// How long to wait then; each further wait is twice as long, and a random part longer.
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// Dials the hosts of a deployment.
pub struct Dialer {
    options: SshOptions,
    binaries: AgentBinaries,
    permits: Semaphore,
    /// How many logins each server let in.
    logins: RefCell<BTreeMap<BusyServer, u64>>,
    /// For each server that has hung up, the turn of those hosts that it hung up on.
    turns: RefCell<BTreeMap<BusyServer, Arc<Mutex<()>>>>,
}

/// A server that hung up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum BusyServer {
    /// That of an address.
    Host(String),
    /// One on the way: ssh does not say which.
    JumpHost,
}

impl BusyServer {
    /// The one that hung up on a host.
    fn of(host: &PlanHost, hang_up: HangUp) -> Self {
        match hang_up {
            HangUp::OfHost => Self::Host(host.address.to_string()),
            HangUp::OnTheWay => Self::JumpHost,
        }
    }
}

impl Dialer {
    /// A dialer that calls ssh with these options. What it finds out about the runner's binary is kept in `cache_dir`.
    #[must_use]
    pub fn new(options: SshOptions, cache_dir: Option<PathBuf>) -> Self {
        let permits = Semaphore::new(options.dials);
        let (logins, turns) = (RefCell::default(), RefCell::default());
        Self { options, binaries: AgentBinaries::new(cache_dir), permits, logins, turns }
    }

    /// Connects to a host, and starts its agent.
    ///
    /// # Errors
    /// The host can't be reached, or can't run the agent.
    pub async fn dial(&self, host: &PlanHost, tell_upload: &dyn Fn(usize)) -> Result<AgentConnection, Diagnostic> {
        let reach = async |tell_login: &dyn Fn()| {
            ssh::reach(host, &self.options, &self.binaries, tell_login, tell_upload).await
        };
        self.try_again(host, reach).await
    }

    /// Asks a host what it has, and changes nothing there. `place` is where its agent keeps the records of an environment.
    ///
    /// # Errors
    /// The host can't be reached, or can't run the agent.
    pub async fn survey(&self, host: &PlanHost, place: &AgentPlace) -> Result<HostSurvey, Diagnostic> {
        let ask =
            async |tell_login: &dyn Fn()| survey::ask(host, &self.options, &self.binaries, place, tell_login).await;
        self.try_again(host, ask).await
    }

    /// Dials until a server does not hang up, or has too often. `dial` tells when it has logged in.
    async fn try_again<T>(
        &self,
        host: &PlanHost,
        dial: impl AsyncFn(&dyn Fn()) -> Result<T, DialError>,
    ) -> Result<T, Diagnostic> {
        let (mut pause, mut tries, mut known_logins) = (FIRST_PAUSE, 0, BTreeMap::new());
        let mut queue: Option<Arc<Mutex<()>>> = None;
        loop {
            let turn = match &queue {
                Some(queue) => Some(Arc::clone(queue).lock_owned().await),
                None => None,
            };
            let permit = self.permits.acquire().await;
            // The next one of its queue need not wait until the agent runs.
            let turn = Cell::new(turn);
            let tell_login = || {
                for server in [BusyServer::Host(host.address.to_string()), BusyServer::JumpHost] {
                    *self.logins.borrow_mut().entry(server).or_default() += 1;
                }
                drop(turn.take());
            };
            let dialed = dial(&tell_login).await;
            drop((permit, turn.take()));
            let (diagnostic, hang_up) = match dialed {
                Ok(reached) => return Ok(reached),
                Err(DialError { diagnostic, hang_up: None }) => return Err(diagnostic),
                Err(DialError { diagnostic, hang_up: Some(hang_up) }) => (diagnostic, hang_up),
            };
            let server = BusyServer::of(host, hang_up);
            let logins = self.logins.borrow().get(&server).copied().unwrap_or_default();
            // It lets others in, one after the other.
            if known_logins.insert(server.clone(), logins).is_some_and(|known| known != logins) {
                (pause, tries) = (FIRST_PAUSE, 0);
            }
            tries += 1;
            if tries == MAX_TRIES {
                return Err(diagnostic);
            }
            queue = Some(self.queue_of(server));
            tokio::time::sleep(pause + pause.mul_f64(random_fraction())).await;
            pause *= 2;
        }
    }

    /// The queue of the hosts that the same server hung up on.
    fn queue_of(&self, server: BusyServer) -> Arc<Mutex<()>> {
        Arc::clone(self.turns.borrow_mut().entry(server).or_default())
    }
}

/// From 0 to 1.
fn random_fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}
