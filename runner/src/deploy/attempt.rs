//! One attempt: lock, journal, the steps, and how it ends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::{
    AttemptError, DeployOverrides, Interrupt, MissingJournalPolicy, PreparedPlan,
    error::{self, ResumeHint},
    hooks::StepEnvironment,
    rollback::RollbackResult,
};
use contract::{
    AttemptNumber as Number, RunId, StepId,
    diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice, SourceExcerpt},
    hash::Blake3Hash,
};
use journal::{
    Journal, JournalState, LoadedJournals, RecordStatus, Redactor, StepTarget,
    decision::Selection,
    event::{FORMAT, JournalHeader, MAGIC, MISSING_JOURNAL, Release},
    file::{EntryObserver, JournalNote},
    state::AttemptSummary,
};
use sandbox;
use state::{DeploymentLock, LockError, LockRequest, LockWait, StateStore};

/// What is left to write to the state's place at the end may take so long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The same from a signal on: everything must be over within 7 s of it.
const CLOSE_TIMEOUT_AFTER_SIGNAL: Duration = Duration::from_secs(6);

/// What is to be deployed, where, and on whose order.
pub struct DeploymentRequest<'a> {
    pub prepared: &'a PreparedPlan,
    pub store: &'a StateStore,
    pub overrides: DeployOverrides,
    /// `user@host`.
    pub operator: String,
    /// The commit, if it is known.
    pub commit: Option<String>,
    /// The page of the CI job, if it is one.
    pub url: Option<String>,
    /// How long to wait for another deployment.
    pub wait: LockWait,
    /// The command that continues this deployment, for hints.
    pub resume_command: String,
    /// The states of the plan's other environments, if old releases are to be removed.
    pub sibling_stores: Vec<StateStore>,
    /// The deployments that this one is a part of, the outermost first: `APP/ENVIRONMENT ADDRESS` each.
    pub parent_deployments: Vec<String>,
}

/// How an attempt ended.
#[derive(Debug)]
pub struct AttemptResult {
    pub exit: ExitKind,
    pub header: JournalHeader,
    pub took: Duration,
    /// What stopped it.
    pub error: Option<Diagnostic>,
    /// What failed without changing how it ended.
    pub warnings: Vec<Notice>,
}

/// An attempt that is under way.
pub(super) struct RunningAttempt<'a> {
    pub(super) prepared: &'a PreparedPlan,
    pub(super) overrides: &'a DeployOverrides,
    pub(super) interrupt: Interrupt,
    pub(super) header: JournalHeader,
    pub(super) lock: &'a DeploymentLock,
    pub(super) journal: Journal,
    /// What the steps so far returned.
    pub(super) outputs: BTreeMap<StepId, Map<String, Value>>,
    /// What programs that steps start find in their environment.
    pub(super) step_environment: StepEnvironment,
}

impl DeploymentRequest<'_> {
    /// Deploys: takes the lock, begins an attempt, works through the plan.
    ///
    /// # Errors
    /// What keeps an attempt from beginning. Once it has begun, every end is an [`AttemptResult`].
    pub async fn run(
        mut self,
        interrupt: Interrupt,
        observe: impl FnOnce(&JournalState, &JournalHeader) -> EntryObserver,
    ) -> Result<AttemptResult, Vec<Diagnostic>> {
        let single = |diagnostic: Diagnostic| vec![diagnostic];
        let started = Instant::now();
        self.check_named_steps()?;
        let mut lock = tokio::select! {
            lock = self.store.acquire_lock(self.lock_claim()) => lock.map_err(|error| single((&error).into()))?,
            _ = interrupt.requested() => {
                let message = "interrupted while waiting for the lock; nothing was started";
                return Err(single(Diagnostic::new(ErrorCode::Interrupted, message).with_hint(format!("run `{}` again", self.resume_command))));
            }
        };
        let paths = self.store.journal_paths().map_err(|error| single((&error).into()))?;
        let loaded = LoadedJournals::read(&paths, |_| {}).map_err(|error| single((&error).into()))?;
        if self.overrides.expected_epoch.is_some_and(|seen| seen != loaded.state.epoch()) {
            let message = "another deployment ran after this one was planned; nothing was started";
            let hint = format!("check `runner history`, then run `{}` again", self.resume_command);
            return Err(single(Diagnostic::new(ErrorCode::StaleDecision, message).with_hint(hint)));
        }
        self.overrides.journal_missing = self.is_journal_missing(&loaded.state).map_err(single)?;
        self.prepared.check_resources()?;
        self.prepared.check_migrations(Some(&loaded.state)).await?;

        let epoch = lock.next_epoch(loaded.state.epoch()).map_err(|error| single((&error).into()))?;
        let (commit, url) = (self.commit.clone(), self.url.clone());
        let header = JournalHeader { commit, url, ..next_header(self.prepared, &loaded.state, epoch, &self.operator) };
        let path = self.store.journal_path(epoch);
        let redactor = Redactor::new(self.prepared.plan.secrets.values());
        let torn = loaded.torn_files.iter().rfind(|(torn, _)| paths.last() == Some(torn)).cloned();
        let observer = observe(&loaded.state, &header);
        let journal = Journal::create(&path, header.clone(), loaded, redactor, observer);
        let mut journal = journal.map_err(|error| single((&error).into()))?;
        self.record_start(&mut journal, &lock.resource(), &lock.holder(), torn)
            .map_err(|error| single((&error).into()))?;

        let surroundings = StepEnvironment::new(self.store, &lock.token(), &header, &self.parent_deployments);
        let mut attempt = RunningAttempt {
            step_environment: surroundings,
            prepared: self.prepared,
            overrides: &self.overrides,
            interrupt,
            header: header.clone(),
            lock: &lock,
            journal,
            outputs: BTreeMap::new(),
        };
        let result = match attempt.publish_journal(&path).await {
            Ok(()) => attempt.run_hooks_and_steps().await,
            Err(halt) => Err(halt),
        };
        let (exit, error, warnings) = self.finish(&mut attempt, result).await;
        let close_timeout = if attempt.interrupt.is_requested() {
            (attempt.interrupt.requested().await + CLOSE_TIMEOUT_AFTER_SIGNAL)
                .saturating_duration_since(tokio::time::Instant::now())
        } else {
            CLOSE_TIMEOUT
        };
        drop(attempt);
        // Nothing of ours may still work when the lock goes.
        sandbox::wait_for_blocking_tasks().await;
        let (exit, error) = with_close_error(exit, error, lock.close(close_timeout).await);
        Ok(AttemptResult { exit, header, took: started.elapsed(), error, warnings })
    }

    /// Whether earlier attempts of this CI run may have begun what is not on record here.
    fn is_journal_missing(&self, state: &JournalState) -> Result<bool, Diagnostic> {
        let is_missing = self.store.checkpoints().is_some_and(|checkpoints| checkpoints.status().is_missing);
        let of_this_run = |attempt: &&AttemptSummary| attempt.header.url.is_some() && attempt.header.url == self.url;
        let is_here = state.attempts.iter().any(|attempt| of_this_run(&attempt));
        // It stays missing, though what was done since is on record.
        let was_missing = state.attempts.iter().filter(of_this_run).any(|attempt| attempt.journal_missing);
        match self.overrides.missing_journal {
            MissingJournalPolicy::Probe => Ok(is_missing && !is_here || was_missing),
            MissingJournalPolicy::Fail if is_missing && !is_here => {
                let message = "the journal of earlier attempts is missing from the artifacts of this run";
                Err(Diagnostic::new(ErrorCode::PreviousJournalMissing, message)
                    .with_cause("`missing_journal: fail` refuses to deploy without it")
                    .with_hint("use \"Re-run failed jobs\", which keeps it, or set `missing_journal: probe`"))
            }
            MissingJournalPolicy::Fail | MissingJournalPolicy::Restart => Ok(false),
        }
    }

    fn lock_claim(&self) -> LockRequest {
        let release = &self.prepared.release;
        let digest = release.digest.as_ref().map_or_else(String::new, |digest| format!(" {digest}"));
        let purpose = Some(format!("{}{digest}", release.label));
        LockRequest { by: self.operator.clone(), url: self.url.clone(), purpose, wait: self.wait }
    }

    /// A typing error must not run nothing and end well.
    fn check_named_steps(&self) -> Result<(), Vec<Diagnostic>> {
        let named = self.overrides.selection.option();
        let accepted = self.overrides.accept_drift.iter().map(|step| ("accept-drift", step));
        let unknown = |(option, step): (&str, &StepId)| {
            if self.prepared.index(step).is_some() {
                return None;
            }
            let known: Vec<_> = self.prepared.steps.iter().map(|ready| format!("`{}`", ready.step.id)).collect();
            let message = format!("`--{option} {step}` names an unknown step");
            let hint = format!("choose one of {}", known.join(", "));
            Some(Diagnostic::new(ErrorCode::UnknownStep, message).with_hint(hint))
        };
        let problems: Vec<_> = named.into_iter().chain(accepted).filter_map(unknown).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The records before the first step: plan, lock, and what the operator ordered.
    fn record_start(
        &self,
        journal: &mut Journal,
        resource: &str,
        holder: &str,
        torn: Option<(std::path::PathBuf, usize)>,
    ) -> Result<(), journal::JournalError> {
        let plan = &self.prepared.plan;
        let digest = Blake3Hash::of(plan.source.text.as_bytes());
        let path = plan.source.path.display().to_string();
        journal.record_note(JournalNote::Plan { digest, path, steps: self.prepared.step_records() })?;
        journal.record_note(JournalNote::Lock { resource: resource.to_owned(), holder: holder.to_owned() })?;
        if let Some((path, bytes)) = torn {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            journal.record_note(JournalNote::Torn { file, bytes: bytes as u64 })?;
        }
        if self.overrides.journal_missing {
            journal.record_note(JournalNote::Override { option: MISSING_JOURNAL.to_owned(), step: None })?;
        }
        if self.overrides.fresh {
            journal.record_note(JournalNote::Override { option: "fresh".to_owned(), step: None })?;
        }
        if let Some(order) = self.overrides.command {
            journal.record_note(JournalNote::Override { option: order.to_owned(), step: None })?;
        }
        if let Some((option, step)) = self.overrides.selection.option() {
            journal.record_note(JournalNote::Override { option: option.to_owned(), step: Some(step.clone()) })?;
        }
        for step in &self.overrides.accept_drift {
            journal
                .record_note(JournalNote::Override { option: "accept-drift".to_owned(), step: Some(step.clone()) })?;
        }
        Ok(())
    }

    /// The last record, after a rollback if one is due.
    async fn finish(
        &self,
        attempt: &mut RunningAttempt<'_>,
        result: Result<(), AttemptError>,
    ) -> (ExitKind, Option<Diagnostic>, Vec<Notice>) {
        let (exit, error) = match result {
            Ok(()) => (ExitKind::Success, None),
            Err(halt) => {
                // A hook that fails before the first step is no reason to undo what an earlier attempt did.
                let is_of_step = match &halt {
                    AttemptError::Failed { step_target, .. } => self.prepared.index(&step_target.step).is_some(),
                    AttemptError::Plan(_) => true,
                    AttemptError::InDoubt { .. }
                    | AttemptError::UndoFailed { .. }
                    | AttemptError::Irreversible { .. }
                    | AttemptError::Journal(_)
                    | AttemptError::Lock(_)
                    | AttemptError::Interrupted => false,
                };
                let rollback = if is_of_step && !attempt.interrupt.is_requested() {
                    Some(attempt.roll_back().await)
                } else {
                    None
                };
                // Said only now: a step that was undone will not be skipped.
                let mut diagnostic = self.diagnostic_for(attempt, &halt);
                match rollback {
                    Some(Ok(RollbackResult::Done)) => {
                        diagnostic.exit = ExitKind::RolledBack;
                        let live = attempt.journal.state().head.live.as_ref();
                        let live =
                            live.map_or_else(String::new, |release| format!("{} is live again; ", release.label));
                        let hint = diagnostic.hint.take().unwrap_or_default();
                        diagnostic.hint = Some(format!("{live}{hint}"));
                    }
                    None | Some(Ok(RollbackResult::NotRolledBack(None))) => {}
                    Some(Ok(RollbackResult::NotRolledBack(Some(why)))) => {
                        diagnostic = diagnostic.with_cause(format!("not rolled back: {why}"));
                    }
                    Some(Err(undo_error)) => {
                        let why = diagnostic.message;
                        diagnostic = self
                            .diagnostic_for(attempt, &undo_error)
                            .with_cause(format!("the rollback started because {why}"));
                    }
                }
                (diagnostic.exit, Some(diagnostic))
            }
        };
        let mut warnings = attempt.run_closing_hooks(exit).await;
        let verified = exit == ExitKind::Success && self.overrides.selection == Selection::All;
        match attempt.journal.record_end(exit, verified) {
            Ok(()) => {
                if verified {
                    warnings.extend(attempt.prune_releases(&self.sibling_stores).await);
                }
                (exit, error, warnings)
            }
            Err(journal) if error.is_none() => {
                let diagnostic = Diagnostic::from(&journal);
                (diagnostic.exit, Some(diagnostic), warnings)
            }
            Err(_) => (exit, error, warnings),
        }
    }

    fn diagnostic_for(&self, attempt: &RunningAttempt<'_>, error: &AttemptError) -> Diagnostic {
        let state = attempt.journal.state();
        let is_done = |step_target: &StepTarget| matches!(state.status(step_target), Some(RecordStatus::Succeeded(_)));
        let done = self
            .prepared
            .steps
            .iter()
            .filter(|ready| attempt.outputs.contains_key(&ready.step.id) && is_done(&ready.step_target));
        let done: Vec<_> = done.map(|ready| ready.step.id.to_string()).collect();
        let failed_step = match error {
            AttemptError::Failed { step_target, .. }
            | AttemptError::InDoubt { step_target, .. }
            | AttemptError::UndoFailed { step_target, .. }
            | AttemptError::Irreversible { step_target, .. } => Some(step_target),
            AttemptError::Plan(_) | AttemptError::Journal(_) | AttemptError::Lock(_) | AttemptError::Interrupted => {
                None
            }
        };
        let next = failed_step
            .and_then(|step_target| self.prepared.index(&step_target.step))
            .and_then(|at| self.prepared.steps.get(at + 1));
        let resume_hint = ResumeHint {
            resume_command: &self.resume_command,
            skipped_steps: &done,
            next_step: next.map(|ready| &ready.step.id),
        };
        let mut diagnostic = error.diagnostic(attempt.header.attempt, &resume_hint);
        if let AttemptError::Failed { step_target, failure, .. } | AttemptError::UndoFailed { step_target, failure } =
            error
        {
            let step = self.prepared.plan.all_steps().find(|step| step.id == step_target.step);
            diagnostic.location = step.and_then(|step| error::failure_location(failure, step)).map(Box::new);
        }
        redact_diagnostic(diagnostic, attempt.journal.redactor())
    }
}

impl RunningAttempt<'_> {
    /// Tells the state's place of this attempt. One that nobody else knows of would be a fork, if this machine were lost and
    /// another went on.
    async fn publish_journal(&self, journal: &std::path::Path) -> Result<(), AttemptError> {
        tokio::select! {
            biased;
            published = self.lock.sync_journal(journal) => Ok(published?),
            () = self.interrupt.grace_period_over() => Err(AttemptError::Interrupted),
        }
    }
}

/// How it ends, where the end could not be told to the state's place, or the lock was lost.
fn with_close_error(
    exit: ExitKind,
    error: Option<Diagnostic>,
    closed: Result<(), LockError>,
) -> (ExitKind, Option<Diagnostic>) {
    match (closed, error) {
        (Ok(()), error) => (exit, error),
        (Err(closed), None) => {
            let diagnostic = Diagnostic::from(&closed);
            (diagnostic.exit, Some(diagnostic))
        }
        // That the lock is lost was said already, or is said now, beside what is worse.
        (Err(LockError::Lost { .. }), Some(error)) if error.code == ErrorCode::LockLost => (exit, Some(error)),
        (Err(closed), Some(error)) => (exit, Some(error.with_cause(format!("also: {closed}")))),
    }
}

/// A module may repeat what a program printed: what the journal hides, the error hides too.
fn redact_diagnostic(diagnostic: Diagnostic, redactor: &Redactor) -> Diagnostic {
    Diagnostic {
        message: redactor.redact(&diagnostic.message),
        causes: diagnostic.causes.iter().map(|cause| redactor.redact(cause)).collect(),
        excerpt: diagnostic.excerpt.map(|excerpt| SourceExcerpt { label: redactor.redact(&excerpt.label), ..excerpt }),
        hint: diagnostic.hint.map(|hint| redactor.redact(&hint)),
        ..diagnostic
    }
}

/// The same release and the newest run unfinished: its next attempt. Otherwise a new run.
pub(super) fn next_header(prepared: &PreparedPlan, state: &JournalState, epoch: u64, by: &str) -> JournalHeader {
    let (run, attempt) = match state.attempts.last() {
        Some(last) if last.header.release.is_same(&prepared.release) && !is_finished(last.exit, last.verified) => {
            (last.header.run.clone(), last.header.attempt.next())
        }
        Some(_) | None => (new_run_id(epoch, &prepared.release), Number::FIRST),
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
    }
}

/// Whether nothing is left to do of a run whose last attempt ended so.
fn is_finished(exit: Option<ExitKind>, verified: bool) -> bool {
    verified || exit == Some(ExitKind::RolledBack)
}

/// Short, unique within (app, environment), and telling: the epoch at which the run began, and its release.
fn new_run_id(epoch: u64, release: &Release) -> RunId {
    let content = release.digest.as_ref().map_or_else(|| release.label.to_string(), ToString::to_string);
    let run = format!("{epoch}-{}", Blake3Hash::of(content.as_bytes()).hex_prefix(6));
    run.parse().expect("digits, a dash and hex digits are a run id")
}
