//! Asks the agents of other hosts about their releases, for `runner prune`.
//!
//! Invariant: an agent removes something only in a session of a command that holds the environment's lock. Deliberately absent: what is
//! removed, which [`prune`](super::prune) decides on each host.

use std::{collections::BTreeSet, path::PathBuf, rc::Rc, sync::Arc};

use contract::{AttemptNumber, TargetName, diagnostic::Diagnostic};
use journal::{JournalState, event::Release};
use plan::Plan;
use sandbox::NoticeHandler;
use wire::{PruneMode, ReleaseFolder, ReleaseRetention};

use super::{ReleaseDirs, attempt::new_run_id, resolve::lineage};
use crate::{
    agent::wire::BeginSession,
    remote::{DecomposedArchives, Dialer, FileHashes, RemoteExecutor, ThirdPartyModules},
};

/// The other hosts that a plan installs releases on.
pub struct ReleaseHosts<'p> {
    plan: &'p Plan,
    hosts: Vec<(TargetName, RemoteExecutor, &'p BTreeSet<PathBuf>)>,
}

/// What an agent answered about the releases of its host.
pub struct HostReleases {
    pub host: TargetName,
    pub answer: Result<Vec<ReleaseFolder>, Diagnostic>,
}

impl<'p> ReleaseHosts<'p> {
    /// The hosts of a plan; they are not connected to yet.
    #[must_use]
    pub fn new(plan: &'p Plan, dirs: &'p ReleaseDirs, cache_dir: Option<PathBuf>, notify: &NoticeHandler) -> Self {
        let (dialer, hashes) = (Rc::new(Dialer::new(plan.ssh.clone(), cache_dir)), Arc::new(FileHashes::default()));
        // No step is called there.
        let (descriptions, modules) = (Rc::default(), Rc::new(ThirdPartyModules::new()));
        let archives = Rc::new(DecomposedArchives::new(None));
        let executor = |host| {
            let (descriptions, modules) = (Rc::clone(&descriptions), Rc::clone(&modules));
            let (dialer, hashes, archives) = (Rc::clone(&dialer), Arc::clone(&hashes), Rc::clone(&archives));
            RemoteExecutor::new(host, descriptions, modules, Arc::clone(notify), dialer, hashes, archives)
        };
        let hosts = dirs.on_hosts.iter();
        let hosts = hosts.map(|(name, (host, dirs))| (name.clone(), executor(Arc::clone(host)), dirs)).collect();
        Self { plan, hosts }
    }

    /// Looks at the releases of each host. All hosts are asked at once.
    pub async fn examine(&self, retention: &ReleaseRetention) -> Vec<HostReleases> {
        let asked = self.hosts.iter().map(async |(name, remote, dirs)| {
            let answer = remote.prune(dirs, retention, PruneMode::Examine).await;
            HostReleases { host: name.clone(), answer }
        });
        futures_util::future::join_all(asked).await
    }

    /// Removes the old releases of each host. All hosts are asked at once. The epoch is that of the lock's holder.
    pub async fn prune(
        &self,
        retention: &ReleaseRetention,
        state: &JournalState,
        epoch: u64,
        by: &str,
    ) -> Vec<HostReleases> {
        let asked = self.hosts.iter().map(async |(name, remote, dirs)| {
            let begun = remote.begin(self.session(name, state, epoch, by)).await;
            let answer = match begun {
                Ok(()) => remote.prune(dirs, retention, PruneMode::Remove).await,
                Err(problem) => Err(problem),
            };
            HostReleases { host: name.clone(), answer }
        });
        futures_util::future::join_all(asked).await
    }

    /// The session of a command that deploys nothing: that of the last attempt, or of one that never was.
    fn session(&self, target: &TargetName, state: &JournalState, epoch: u64, by: &str) -> BeginSession {
        let Plan { app, environment, .. } = self.plan;
        let last = state.attempts.last().map(|last| &last.header);
        let release = match last {
            Some(last) => last.release.clone(),
            None => Release { label: "none".parse().expect("it is a label"), digest: None },
        };
        BeginSession {
            app: app.clone(),
            environment: environment.clone(),
            target: target.clone(),
            run: last.map_or_else(|| new_run_id(epoch, &release), |last| last.run.clone()),
            attempt: last.map_or(AttemptNumber::FIRST, |last| last.attempt),
            release,
            epoch,
            lineage: lineage(app, environment, state),
            by: by.to_owned(),
            secrets: [].into(),
        }
    }
}
