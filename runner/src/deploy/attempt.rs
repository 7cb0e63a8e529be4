//! The running attempt: its journal, and what its steps have returned so far.

use std::{
    cell::{Ref, RefCell},
    collections::BTreeMap,
    path::Path,
    time::Duration,
};

use super::{
    AttemptError, DeployOverrides, DeploymentRequest, Interrupt, PlannedStep, PreparedPlan, UnrecordedRelease,
    call::JournaledCall,
    environment::StepEnvironment,
    left_behind::HostLeftBehind,
    outputs::StepOutputs,
    request::EarlierJournals,
    resolve::{AttemptView, ResolvedStep, input_hashes, lineage},
};
use contract::{AttemptNumber, RunId, StepId, TargetName, diagnostic::ExitKind, hash::Blake3Hash};
use journal::{
    Journal, JournalError, JournalState,
    decision::Selection,
    event::{FORMAT, JournalHeader, MAGIC, MISSING_JOURNAL, Release},
    file::{EntryObserver, JournalNote},
};
use state::{DeploymentLock, HistoryError, LockError};

/// The longest time to upload the rest of the journal at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The same, counted from a signal: the process must end within 7 s of it.
const CLOSE_TIMEOUT_AFTER_SIGNAL: Duration = Duration::from_secs(6);

/// An attempt that has begun and not ended.
pub(super) struct RunningAttempt<'a> {
    pub(super) request: &'a DeploymentRequest<'a>,
    pub(super) interrupt: Interrupt,
    pub(super) header: JournalHeader,
    /// Steps run on several targets at once, and each writes to it. No borrow of it lasts across an await.
    pub(super) journal: RefCell<Journal>,
    /// The outputs of the steps so far.
    pub(super) outputs: StepOutputs,
    /// The environment variables for programs that steps start.
    pub(super) step_environment: StepEnvironment,
    /// The release that was live before, if the history does not know it.
    pub(super) unrecorded: Option<UnrecordedRelease>,
    /// The hosts that it goes on without.
    pub(super) left_behind: RefCell<BTreeMap<TargetName, HostLeftBehind>>,
    lock: &'a DeploymentLock,
}

impl<'a> RunningAttempt<'a> {
    /// Creates the journal, and writes its entries up to the first step.
    pub(super) fn begin(
        request: &'a DeploymentRequest<'a>,
        lock: &'a DeploymentLock,
        epoch: u64,
        earlier: EarlierJournals,
        interrupt: Interrupt,
        observe: impl FnOnce(&JournalState, &JournalHeader) -> EntryObserver,
    ) -> Result<Self, HistoryError> {
        let EarlierJournals { loaded, torn_tail } = earlier;
        let (commit, url, machine) = (request.commit.clone(), request.url.clone(), request.machine.clone());
        let header = JournalHeader {
            commit,
            url,
            machine,
            ..next_header(request.prepared, &loaded.state, epoch, &request.operator)
        };
        let redactor = request.prepared.redactor.clone();
        let observer = observe(&loaded.state, &header);
        let path = request.store.journal_path(epoch);
        let lost = request.store.lost_records().map_err(HistoryError::from)?;
        let planned = request.prepared.step_records().into_iter().map(|step| step.step_target);
        let lost = lost.among(planned.chain(loaded.state.records.keys().cloned()).collect());
        if request.store.has_later_journal(epoch).map_err(HistoryError::from)? {
            return Err(JournalError::Fenced { path }.into());
        }
        let mut journal = Journal::create_staged(lock.staging(), &path, header.clone(), loaded, redactor, observer)?;
        let torn = torn_tail.map(|(path, bytes)| {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            JournalNote::Torn { file, bytes: bytes as u64 }
        });
        let started =
            start_notes(request.prepared, lock).into_iter().chain(torn).chain(override_notes(&request.overrides));
        started.into_iter().try_for_each(|note| journal.record_note(note))?;
        journal.record_lost(&lost)?;
        request.store.forget_lost_records().map_err(HistoryError::from)?;
        let step_environment = StepEnvironment::new(request.store, &lock.token(), &header, &request.parent_deployments);
        let (journal, outputs, unrecorded) = (RefCell::new(journal), StepOutputs::default(), None);
        let left_behind = RefCell::default();
        Ok(Self { request, interrupt, header, journal, outputs, step_environment, unrecorded, left_behind, lock })
    }

    pub(super) fn prepared(&self) -> &'a PreparedPlan {
        self.request.prepared
    }

    pub(super) fn overrides(&self) -> &'a DeployOverrides {
        &self.request.overrides
    }

    /// What the journals say up to now.
    pub(super) fn state(&self) -> Ref<'_, JournalState> {
        Ref::map(self.journal.borrow(), Journal::state)
    }

    /// Reads the data of this attempt that a step depends on.
    pub(super) fn with_view<T>(&self, read: impl FnOnce(&AttemptView<'_>) -> T) -> T {
        read(&AttemptView {
            prepared: self.prepared(),
            overrides: self.overrides(),
            header: &self.header,
            state: &self.state(),
            outputs: &self.outputs,
            is_local_state: self.request.is_local_state(),
        })
    }

    /// Resolves a step.
    ///
    /// # Errors
    /// Its configuration or an input can't be read.
    pub(super) async fn evaluate_input<'r>(
        &self,
        planned: &'r PlannedStep,
        selected_by_name: bool,
    ) -> Result<ResolvedStep<'r>, AttemptError> {
        let config = self.with_view(|view| view.resolve_config(planned))?;
        let inputs = tokio::select! {
            biased;
            inputs = input_hashes(self.prepared(), planned, &config) => inputs?,
            () = self.interrupt.grace_period_over() => return Err(AttemptError::Interrupted),
        };
        self.with_view(|view| view.resolve(planned, config, inputs, selected_by_name))
    }

    /// Prepares a call of a step's module.
    pub(super) fn call<'c>(&'c self, planned: &'c PlannedStep) -> JournaledCall<'c> {
        let executor = self.request.prepared.executor(planned);
        JournaledCall { journal: &self.journal, interrupt: &self.interrupt, executor, planned }
    }

    /// Uploads the journal, so that other machines know of this attempt. If this machine were lost before that, another
    /// machine would continue from an older journal, and the history would fork.
    pub(super) async fn publish_journal(&self) -> Result<(), AttemptError> {
        let journal = self.journal.borrow().path().to_owned();
        let published = tokio::select! {
            biased;
            published = self.lock.sync_journal(&journal) => published,
            () = self.interrupt.grace_period_over() => return Err(AttemptError::Interrupted),
        };
        self.fence_if_lost(published)
    }

    /// Begins a session of this attempt on each other host that steps run on, and leaves those behind where none can begin.
    pub(super) async fn begin_host_sessions(&self) -> Result<(), AttemptError> {
        let lineage = lineage(&self.header.app, &self.header.environment, &self.state());
        let begun = tokio::select! {
            biased;
            begun = self.prepared().begin_host_sessions(&self.header, &lineage) => begun,
            () = self.interrupt.grace_period_over() => return Err(AttemptError::Interrupted),
        };
        self.leave_behind_without_session(begun)
    }

    /// Confirms that this attempt holds the lock; gives up when the grace period after a signal is over.
    pub(super) async fn confirm_lock(&self) -> Result<(), AttemptError> {
        let confirmed = tokio::select! {
            biased;
            confirmed = self.lock.ensure_held() => confirmed,
            () = self.interrupt.grace_period_over() => return Err(AttemptError::Interrupted),
        };
        self.fence_if_lost(confirmed)
    }

    /// Confirms it without asking a remote: for effects that no user sees.
    pub(super) fn confirm_lock_locally(&self) -> Result<(), AttemptError> {
        self.fence_if_lost(self.lock.check_locally())
    }

    /// Confirms it before the last entry: a remote that can't be asked is no reason to leave that out.
    ///
    /// # Errors
    /// The lock is lost.
    pub(super) async fn confirm_lock_at_end(&self) -> Result<(), AttemptError> {
        let within = self.close_timeout().await;
        match tokio::time::timeout(within, self.lock.check()).await {
            Ok(answer @ Err(LockError::Lost { .. })) => self.fence_if_lost(answer),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The error that ends the attempt: that the lock is lost, if it is. Who lost it has no say in what went wrong, runs no hook and undoes
    /// nothing.
    pub(super) async fn lost_lock_or(&self, error: AttemptError) -> AttemptError {
        if matches!(error, AttemptError::Lock(_) | AttemptError::Interrupted) {
            return error;
        }
        self.confirm_lock_at_end().await.err().unwrap_or(error)
    }

    /// The staging directory of the lock's holder: see [`DeploymentLock::staging`].
    pub(super) fn staging(&self) -> Option<&'a Path> {
        self.lock.staging()
    }

    /// Ends the journal if the lock is lost: the next holder may have read it already.
    fn fence_if_lost(&self, answer: Result<(), LockError>) -> Result<(), AttemptError> {
        if let Err(LockError::Lost { .. }) = &answer {
            self.journal.borrow_mut().fence();
        }
        Ok(answer?)
    }

    /// Whether the release is live and verified after an attempt that ends with `exit`.
    pub(super) fn is_verified(&self, exit: ExitKind) -> bool {
        exit == ExitKind::Success && self.overrides().selection == Selection::All && self.overrides().limit.is_none()
    }

    /// The time that is left for closing the lock.
    pub(super) async fn close_timeout(&self) -> Duration {
        if !self.interrupt.is_requested() {
            return CLOSE_TIMEOUT;
        }
        let until = self.interrupt.requested().await + CLOSE_TIMEOUT_AFTER_SIGNAL;
        until.saturating_duration_since(tokio::time::Instant::now())
    }
}

fn start_notes(prepared: &PreparedPlan, lock: &DeploymentLock) -> [JournalNote; 2] {
    let digest = Blake3Hash::of(prepared.plan.source.text.as_bytes());
    let path = prepared.plan.source.path.display().to_string();
    [
        JournalNote::Plan { digest, path, steps: prepared.step_records() },
        JournalNote::Lock { resource: lock.resource(), holder: lock.holder() },
    ]
}

fn override_notes(overrides: &DeployOverrides) -> Vec<JournalNote> {
    let note = |option: &str, step: Option<&StepId>| JournalNote::Override {
        option: option.to_owned(),
        step: step.cloned(),
        hosts: None,
    };
    let limit = |written: &String| JournalNote::Override {
        option: "limit".to_owned(),
        step: None,
        hosts: Some(written.clone()),
    };
    let mut notes = Vec::new();
    notes.extend(overrides.journal_missing.then(|| note(MISSING_JOURNAL, None)));
    notes.extend(overrides.fresh.then(|| note("fresh", None)));
    notes.extend(overrides.command.map(|command| note(command, None)));
    notes.extend(overrides.selection.option().map(|(option, step)| note(option, Some(step))));
    notes.extend(overrides.limit.iter().map(limit));
    notes.extend(overrides.rerun.iter().map(|step| note("rerun", Some(step))));
    notes.extend(overrides.accept_drift.iter().map(|step| note("accept-drift", Some(step))));
    notes
}

/// The header of the next attempt. It continues the newest run if that run deploys the same release and is unfinished;
/// otherwise it starts a new run.
pub(super) fn next_header(prepared: &PreparedPlan, state: &JournalState, epoch: u64, by: &str) -> JournalHeader {
    let (run, attempt) = match state.attempts.last() {
        Some(last) if last.header.release.is_same(&prepared.release) && !is_finished(last.exit, last.verified) => {
            (last.header.run.clone(), last.header.attempt.next())
        }
        Some(_) | None => (new_run_id(epoch, &prepared.release), AttemptNumber::FIRST),
    };
    JournalHeader {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        app: prepared.plan.app.clone(),
        environment: prepared.plan.environment.clone(),
        run,
        attempt,
        epoch,
        release: prepared.release.clone(),
        runner: env!("CARGO_PKG_VERSION").to_owned(),
        by: by.to_owned(),
        commit: None,
        url: None,
        machine: None,
    }
}

/// Whether a run is finished, given how its last attempt ended.
fn is_finished(exit: Option<ExitKind>, verified: bool) -> bool {
    verified || exit == Some(ExitKind::RolledBack)
}

/// A short id, unique within (app, environment): the epoch at which the run began, and a hash of its release.
pub(super) fn new_run_id(epoch: u64, release: &Release) -> RunId {
    let content = release.digest.as_ref().map_or_else(|| release.label.to_string(), ToString::to_string);
    let run = format!("{epoch}-{}", Blake3Hash::of(content.as_bytes()).hex_prefix(6));
    run.parse().expect("digits, a dash and hex digits are a run id")
}
