//! The conclusion of an attempt: its exit kind, its error and its warnings.

use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice, SourceExcerpt};
use journal::{JournalError, RecordStatus, Redactor, StepRecord, StepTarget};
use sandbox::ProbeStrength;
use state::LockError;

use super::{
    AttemptError, PlannedStep,
    attempt::RunningAttempt,
    error::{self, NextAttempt, ResumeHint},
    next_attempt,
    rollback::{self, RollbackResult},
};

/// The exit kind, error and warnings of an attempt.
pub(super) struct AttemptConclusion {
    pub(super) exit: ExitKind,
    /// The error that stopped it.
    pub(super) error: Option<Diagnostic>,
    /// The failures that do not change how it ends.
    pub(super) warnings: Vec<Notice>,
}

impl AttemptConclusion {
    /// The conclusion after every selected step is done.
    pub(super) fn succeeded() -> Self {
        Self { exit: ExitKind::Success, error: None, warnings: Vec::new() }
    }

    /// The conclusion after an error. Call it after the rollback, because the hint lists the steps that the next
    /// attempt will skip, and undone steps are not among them.
    pub(super) async fn failed(attempt: &RunningAttempt<'_>, error: &AttemptError, rollback: RollbackResult) -> Self {
        let exit = match &rollback {
            RollbackResult::Done(_) => ExitKind::RolledBack,
            RollbackResult::NotRolledBack(_) | RollbackResult::StagedUndone { .. } | RollbackResult::Failed(_) => {
                ExitKind::Failed
            }
        };
        let next = next_attempt::foresee(attempt, exit, &error.failed_steps()).await;
        let mut warnings = Vec::new();
        let mut diagnostic = diagnostic(attempt, error, &next);
        if !matches!(error, AttemptError::HostsLeftBehind(_)) {
            let redactor = attempt.journal.borrow().redactor().clone();
            let causes = attempt.why_stopped(error).into_iter().map(|cause| redactor.redact(&cause));
            diagnostic = causes.fold(diagnostic, Diagnostic::with_cause);
        }
        let not_rolled_back = |diagnostic: Diagnostic, why: Option<String>| match why {
            Some(why) => diagnostic.with_cause(format!("not rolled back: {why}")),
            None => diagnostic,
        };
        match rollback {
            RollbackResult::NotRolledBack(why) => diagnostic = not_rolled_back(diagnostic, why),
            RollbackResult::StagedUndone { steps, not_rolled_back: why } => {
                diagnostic = not_rolled_back(diagnostic, why);
                let hint = diagnostic.hint.unwrap_or_default();
                diagnostic.hint = Some(format!("{}; {hint}", rollback::describe_staged(&steps)));
            }
            RollbackResult::Done(switch_back) => {
                diagnostic.exit = exit;
                let hint = diagnostic.hint.unwrap_or_default();
                diagnostic.hint = Some(format!("{}; {hint}", switch_back.summary(attempt.journal.borrow().redactor())));
                let stays = |what: &String| Notice::note(format!("not undone: {what}"));
                warnings.extend(switch_back.remaining.iter().map(stays));
            }
            RollbackResult::Failed(undo_error) => {
                let (why, causes) = (diagnostic.message, diagnostic.causes);
                diagnostic = self::diagnostic(attempt, &undo_error, &next)
                    .with_cause(format!("the rollback started because {why}"));
                diagnostic.causes.extend(causes);
            }
        }
        Self { exit: diagnostic.exit, error: Some(diagnostic), warnings }
    }

    /// Adds that the last entry could not be written. An earlier error takes precedence.
    pub(super) fn end_not_recorded(&mut self, error: &JournalError) {
        if self.error.is_none() {
            let diagnostic = Diagnostic::from(error);
            self.exit = diagnostic.exit;
            self.error = Some(diagnostic);
        }
    }

    /// Adds that the lock was lost, or that the rest of the journal could not be uploaded.
    pub(super) fn lock_not_closed(&mut self, closed: &LockError) {
        match (closed, self.error.take()) {
            (_, None) => {
                let diagnostic = Diagnostic::from(closed);
                self.exit = diagnostic.exit;
                self.error = Some(diagnostic);
            }
            // The error already says that the lock was lost.
            (LockError::Lost { .. }, Some(error)) if error.code == ErrorCode::LockLost => self.error = Some(error),
            (_, Some(error)) => self.error = Some(error.with_cause(format!("also: {closed}"))),
        }
    }
}

/// The diagnostic of an error: with the operator's next command, and without secrets.
fn diagnostic(attempt: &RunningAttempt<'_>, error: &AttemptError, next: &NextAttempt) -> Diagnostic {
    let (prepared, state) = (attempt.prepared(), attempt.state());
    let resume_hint = ResumeHint {
        resume_command: &attempt.request.resume_command,
        resolve_command: attempt.request.resolve_command.as_deref(),
        has_checkpoints: attempt.request.store.checkpoints().is_some(),
        next,
    };
    let mut diagnostic = error.diagnostic(attempt.header.attempt, &resume_hint);
    if matches!(error, AttemptError::Interrupted)
        && let Some(step_target) = step_left_in_doubt(attempt)
    {
        diagnostic = diagnostic.with_cause(format!(
            "step {step_target} was cut off, and has no probe that can tell what it did: the next attempt stops there"
        ));
        let resolve = resume_hint.resolve("check what it did; if it finished, run", &step_target, "done");
        if !resolve.is_empty() {
            let (again, step) = (resume_hint.resume_command, &step_target.step);
            diagnostic.hint = Some(format!(
                "{resolve}, then run `{again}` again; if it did not finish, run `{again} --accept-drift {step}`"
            ));
        }
    }
    let record = error.step_target().and_then(|step_target| state.records.get(step_target));
    if diagnostic.code == ErrorCode::RecordUnconfirmed && record.is_some_and(StepRecord::is_masked) {
        diagnostic = diagnostic.with_cause("an older runner wrote this record, with `***` in place of a secret");
    }
    if let AttemptError::Failed { step_target, failure, .. } | AttemptError::UndoFailed { step_target, failure } =
        error.gravest()
    {
        let step = prepared.plan.all_steps().find(|step| step.id == step_target.step);
        diagnostic.location = step.and_then(|step| error::failure_location(failure, step)).map(Box::new);
    }
    redacted(diagnostic, attempt.journal.borrow().redactor())
}

/// The step that was begun and has no outcome, if it may not run again and its probe can't tell how it ended.
fn step_left_in_doubt(attempt: &RunningAttempt<'_>) -> Option<StepTarget> {
    let state = attempt.state();
    let is_in_doubt = |planned: &&PlannedStep| {
        let (description, config) = (&planned.description, &planned.step.with);
        matches!(state.status(&planned.step_target), Some(RecordStatus::Intended))
            && !description.is_repeatable(config)
            && description.probe_strength(config) != ProbeStrength::Full
    };
    attempt.prepared().steps.iter().find(is_in_doubt).map(|planned| planned.step_target.clone())
}

/// Removes secrets from a diagnostic, because a module's message may repeat what a program printed.
pub(super) fn redacted(diagnostic: Diagnostic, redactor: &Redactor) -> Diagnostic {
    Diagnostic {
        message: redactor.redact(&diagnostic.message),
        causes: diagnostic.causes.iter().map(|cause| redactor.redact(cause)).collect(),
        excerpt: diagnostic.excerpt.map(|excerpt| SourceExcerpt { label: redactor.redact(&excerpt.label), ..excerpt }),
        hint: diagnostic.hint.map(|hint| redactor.redact(&hint)),
        ..diagnostic
    }
}
