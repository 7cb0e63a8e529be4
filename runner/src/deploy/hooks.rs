//! Runs the hooks around the steps: in every attempt and under the lock. Only the `after` hooks do not run after a partial deployment.
//!
//! Invariant: a failing `before` hook ends the attempt before anything is changed; `after` and `on-failure` hooks never
//! change how an attempt ends.

use super::{AttemptError, PlannedStep, attempt::RunningAttempt, step::StepRunner};
use contract::diagnostic::{ExitKind, Notice};

/// Runs the hooks of an attempt.
pub(super) struct HookRunner<'r, 'a> {
    pub(super) attempt: &'r mut RunningAttempt<'a>,
}

impl HookRunner<'_, '_> {
    /// Runs the `before` hooks.
    pub(super) async fn run_before(&mut self) -> Result<(), AttemptError> {
        for hook in &self.attempt.prepared().hooks.before {
            self.run(hook).await?;
        }
        Ok(())
    }

    /// Runs the `after` or `on-failure` hooks, depending on how the attempt ends. Returns a warning for each failure.
    pub(super) async fn run_closing(&mut self, exit: ExitKind) -> Vec<Notice> {
        let hooks = &self.attempt.prepared().hooks;
        if exit == ExitKind::Success
            && let Some(option) = self.attempt.overrides().partial_option()
        {
            // The release may not be live, or not checked: the hooks would announce what is not so.
            let skipped = format!("the `after` hooks did not run, because `{option}` left out a part of the plan");
            return if hooks.after.is_empty() { Vec::new() } else { vec![Notice::note(skipped)] };
        }
        let (hooks, result) = match exit {
            ExitKind::Success => (&hooks.after, "deployed"),
            ExitKind::Failed => (&hooks.on_failure, "failed"),
            ExitKind::RolledBack => (&hooks.on_failure, "rolled-back"),
            ExitKind::InDoubt => (&hooks.on_failure, "in-doubt"),
            ExitKind::Refused | ExitKind::Locked | ExitKind::Journal | ExitKind::Bug | ExitKind::Interrupted => {
                return Vec::new();
            }
        };
        self.attempt.step_environment.set("PAWL_RESULT", result.to_owned());
        let failed_step = self.attempt.state().attempts.last().and_then(|attempt| attempt.failed_step.clone());
        if let Some(step_target) = failed_step.filter(|_| exit != ExitKind::Success) {
            let step = step_target.step.to_string();
            self.attempt.step_environment.set("PAWL_FAILED_STEP", step);
        }
        let mut warnings = Vec::new();
        for hook in hooks {
            if let Err(error) = self.run(hook).await {
                let why = error.short_text(self.attempt.journal.borrow().redactor());
                warnings.push(Notice::warning(format!("hook {}: {why}", hook.step_target)));
            }
            if self.attempt.journal.borrow().is_fenced() {
                break;
            }
        }
        warnings
    }

    async fn run(&mut self, hook: &PlannedStep) -> Result<(), AttemptError> {
        self.attempt.interrupt.check()?;
        let resolved = self.attempt.evaluate_input(hook, true).await?;
        StepRunner { attempt: self.attempt }.apply_with_retries(&resolved).await.map(drop)
    }
}
