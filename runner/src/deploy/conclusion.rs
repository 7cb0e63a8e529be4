//! How an attempt ends: its exit, and what is said of it.

use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice, SourceExcerpt};
use journal::{JournalError, RecordStatus, Redactor, StepTarget};
use state::LockError;

use super::{
    AttemptError,
    attempt::RunningAttempt,
    error::{self, ResumeHint},
    rollback::RollbackResult,
};

/// How an attempt ends.
pub(super) struct AttemptConclusion {
    pub(super) exit: ExitKind,
    /// What stopped it.
    pub(super) error: Option<Diagnostic>,
    /// What failed without changing how it ends.
    pub(super) warnings: Vec<Notice>,
}

impl AttemptConclusion {
    /// Every selected step is done.
    pub(super) fn succeeded() -> Self {
        Self { exit: ExitKind::Success, error: None, warnings: Vec::new() }
    }

    /// An error ended it, and a rollback is over. Asked only then: a step that was undone will not be skipped.
    pub(super) fn failed(attempt: &RunningAttempt<'_>, error: &AttemptError, rollback: RollbackResult) -> Self {
        let mut diagnostic = diagnostic(attempt, error);
        match rollback {
            RollbackResult::NotRolledBack(None) => {}
            RollbackResult::NotRolledBack(Some(why)) => {
                diagnostic = diagnostic.with_cause(format!("not rolled back: {why}"));
            }
            RollbackResult::Done => {
                diagnostic.exit = ExitKind::RolledBack;
                let live = attempt.journal.state().head.live.as_ref();
                let live = live.map_or_else(String::new, |release| format!("{} is live again; ", release.label));
                diagnostic.hint = Some(format!("{live}{}", diagnostic.hint.unwrap_or_default()));
            }
            RollbackResult::Failed(undo_error) => {
                let why = diagnostic.message;
                diagnostic =
                    self::diagnostic(attempt, &undo_error).with_cause(format!("the rollback started because {why}"));
            }
        }
        Self { exit: diagnostic.exit, error: Some(diagnostic), warnings: Vec::new() }
    }

    /// The last line could not be written. What stopped the attempt before is worse.
    pub(super) fn end_not_recorded(&mut self, error: &JournalError) {
        if self.error.is_none() {
            let diagnostic = Diagnostic::from(error);
            self.exit = diagnostic.exit;
            self.error = Some(diagnostic);
        }
    }

    /// The end could not be told to the state, or the lock was lost.
    pub(super) fn lock_not_closed(&mut self, closed: &LockError) {
        match (closed, self.error.take()) {
            (_, None) => {
                let diagnostic = Diagnostic::from(closed);
                self.exit = diagnostic.exit;
                self.error = Some(diagnostic);
            }
            // That the lock is lost was said already.
            (LockError::Lost { .. }, Some(error)) if error.code == ErrorCode::LockLost => self.error = Some(error),
            (_, Some(error)) => self.error = Some(error.with_cause(format!("also: {closed}"))),
        }
    }
}

/// An error, with what an operator can do next, and without what the journal hides.
fn diagnostic(attempt: &RunningAttempt<'_>, error: &AttemptError) -> Diagnostic {
    let (prepared, state) = (attempt.prepared(), attempt.journal.state());
    let is_done = |step_target: &StepTarget| matches!(state.status(step_target), Some(RecordStatus::Succeeded(_)));
    let done = prepared
        .steps
        .iter()
        .filter(|planned| attempt.outputs.contains_key(&planned.step.id) && is_done(&planned.step_target));
    let done: Vec<_> = done.map(|planned| planned.step.id.to_string()).collect();
    let next = error
        .step_target()
        .and_then(|step_target| prepared.index(&step_target.step))
        .and_then(|at| prepared.steps.get(at + 1));
    let resume_hint = ResumeHint {
        resume_command: &attempt.request.resume_command,
        skipped_steps: &done,
        next_step: next.map(|planned| &planned.step.id),
    };
    let mut diagnostic = error.diagnostic(attempt.header.attempt, &resume_hint);
    if let AttemptError::Failed { step_target, failure, .. } | AttemptError::UndoFailed { step_target, failure } = error
    {
        let step = prepared.plan.all_steps().find(|step| step.id == step_target.step);
        diagnostic.location = step.and_then(|step| error::failure_location(failure, step)).map(Box::new);
    }
    redacted(diagnostic, attempt.journal.redactor())
}

/// A module may repeat what a program printed: what the journal hides, the error hides too.
fn redacted(diagnostic: Diagnostic, redactor: &Redactor) -> Diagnostic {
    Diagnostic {
        message: redactor.redact(&diagnostic.message),
        causes: diagnostic.causes.iter().map(|cause| redactor.redact(cause)).collect(),
        excerpt: diagnostic.excerpt.map(|excerpt| SourceExcerpt { label: redactor.redact(&excerpt.label), ..excerpt }),
        hint: diagnostic.hint.map(|hint| redactor.redact(&hint)),
        ..diagnostic
    }
}
