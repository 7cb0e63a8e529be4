//! What runs around the steps: hooks, in each attempt, never skipped, under the lock.
//!
//! Invariant: `before` ends the attempt if it fails, while nothing is touched; `after` and `on-failure` change nothing about how
//! an attempt ends. Programs that steps and hooks start are told whose deployment they are part of, so that a `runner` among
//! them neither waits for our lock nor takes part without it. Deliberately absent: what that runner does with it (`cli::permission`).

use std::borrow::Cow;

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, prune};
use contract::{
    Secret,
    diagnostic::{ExitKind, Notice},
};
use journal::event::JournalHeader;
use plan::{ConfidentialText, EnvGrant, PlanStep};
use state::{LockToken, StateStore};

/// Variables for the programs that a deployment starts, beside those that the plan grants.
pub(super) struct StepEnvironment(Vec<(&'static str, String)>);

impl StepEnvironment {
    pub(super) fn new(store: &StateStore, token: &LockToken, header: &JournalHeader, within: &[String]) -> Self {
        let ours = format!("{} {}", token.resource, store.address());
        let within: Vec<_> = within.iter().cloned().chain([ours]).collect();
        Self(vec![
            ("PAWL_WITHIN", within.join("\n")),
            ("PAWL_LOCK", token.to_string()),
            ("PAWL_STATE", store.address()),
            ("PAWL_APP", header.app.to_string()),
            ("PAWL_ENVIRONMENT", header.environment.to_string()),
            ("PAWL_RELEASE", header.release.label.to_string()),
            ("PAWL_RUN", header.run.to_string()),
        ])
    }

    fn set(&mut self, name: &'static str, value: String) {
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value));
    }

    /// A step with them, if it can start programs. The fingerprint is not of this one.
    pub(super) fn apply_to<'s>(&self, step: &'s PlanStep) -> Cow<'s, PlanStep> {
        if step.grants.programs.is_empty() {
            return Cow::Borrowed(step);
        }
        let mut step = step.clone();
        for (name, value) in &self.0 {
            let confidential = ConfidentialText { written: value.clone(), value: Secret::new(value.clone()) };
            step.grants.env.insert((*name).to_owned(), EnvGrant::Set(confidential));
        }
        Cow::Owned(step)
    }
}

impl RunningAttempt<'_> {
    /// Everything from the first hook to the last step.
    pub(super) async fn run_hooks_and_steps(&mut self) -> Result<(), AttemptError> {
        let prepared = self.prepared;
        for hook in &prepared.hooks.before {
            self.run_hook(hook).await?;
        }
        self.run_steps().await
    }

    /// What runs at the end, whichever end it is. Returns what went wrong there.
    pub(super) async fn run_closing_hooks(&mut self, exit: ExitKind) -> Vec<Notice> {
        let prepared = self.prepared;
        let (hooks, result) = match exit {
            ExitKind::Success => (&prepared.hooks.after, "deployed"),
            ExitKind::Failed => (&prepared.hooks.on_failure, "failed"),
            ExitKind::RolledBack => (&prepared.hooks.on_failure, "rolled-back"),
            ExitKind::InDoubt => (&prepared.hooks.on_failure, "in-doubt"),
            ExitKind::Refused | ExitKind::Locked | ExitKind::Journal | ExitKind::Bug | ExitKind::Interrupted => {
                return Vec::new();
            }
        };
        self.step_environment.set("PAWL_RESULT", result.to_owned());
        let failed_step = self.journal.state().attempts.last().and_then(|attempt| attempt.failed_step.as_ref());
        if let Some(step_target) = failed_step.filter(|_| exit != ExitKind::Success) {
            let step = step_target.step.to_string();
            self.step_environment.set("PAWL_FAILED_STEP", step);
        }
        let mut warnings = Vec::new();
        for hook in hooks {
            if let Err(halt) = self.run_hook(hook).await {
                warnings.push(Notice::warning(format!("hook {}: {}", hook.step_target, self.hook_error_text(&halt))));
            }
        }
        warnings
    }

    /// Removes old releases once this one is verified, if the plan says how many stay, and while the lock is ours. That it could not
    /// changes nothing. `neighbours` are the states of the plan's other environments, which may share a folder.
    pub(super) async fn prune_releases(&self, neighbours: &[StateStore]) -> Option<Notice> {
        let keep = self.prepared.plan.keep?;
        let failed = match self.confirm_lock().await {
            Ok(()) => prune::prune(&self.prepared.plan, self.journal.state(), neighbours, keep).err()?.to_string(),
            Err(halt) => format!("can't remove old releases: {}", self.hook_error_text(&halt)),
        };
        Some(Notice::warning(format!("{failed}; the deployment itself succeeded")))
    }

    async fn run_hook(&mut self, hook: &PlannedStep) -> Result<(), AttemptError> {
        self.interrupt.check()?;
        let resolved = self.view().evaluate_input(hook, true)?;
        self.apply_with_retries(&resolved).await.map(drop)
    }

    fn hook_error_text(&self, error: &AttemptError) -> String {
        let redactor = self.journal.redactor();
        match error {
            AttemptError::Failed { failure, .. } => redactor.redact(&failure.message),
            AttemptError::Interrupted => "interrupted before it ran".to_owned(),
            AttemptError::Plan(diagnostic) => redactor.redact(&diagnostic.message),
            AttemptError::Lock(error) => error.to_string(),
            AttemptError::Journal(error) => error.to_string(),
            AttemptError::InDoubt { .. } | AttemptError::UndoFailed { .. } | AttemptError::Irreversible { .. } => {
                "it did not finish".to_owned()
            }
        }
    }
}
