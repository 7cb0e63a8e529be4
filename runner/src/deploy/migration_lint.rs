//! The preflight of migrations: their databases answer, and what is unsafe in what would run is said before anything runs.
//!
//! Only steps of the official module are looked at, and only where files changed since they succeeded: a deployment with nothing to do
//! asks no database. Deliberately absent: rules, which are the sandbox's.

use super::{PlannedStep, PreparedPlan};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, Notice, SourceLocation},
    step::StepFailure,
};
use db::migrate::LintLevel;
use journal::{JournalState, RecordStatus};

impl PreparedPlan {
    /// Looks at the migrations of all steps.
    ///
    /// # Errors
    /// A database that does not answer; unsafe statements, where the plan denies them.
    pub async fn check_migrations(&self, state: Option<&JournalState>) -> Result<(), Vec<Diagnostic>> {
        let mut problems = Vec::new();
        for ready in &self.steps {
            let is_migrate = ready.step.uses.is_official("migrate");
            // What waits for outputs of other steps can't be known yet.
            if is_migrate && ready.step.pending.is_empty() && !self.has_succeeded_with_same_files(ready, state) {
                problems.extend(self.lint_step(ready).await);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Whether the step succeeded with these very files. They are read here, and then are what the step gets.
    fn has_succeeded_with_same_files(&self, planned: &PlannedStep, state: Option<&JournalState>) -> bool {
        let inputs = self.runtime.input_hashes(&planned.step, &planned.description, &planned.step.with);
        let Some(record) = state.and_then(|state| state.records.get(&planned.step_target)) else { return false };
        if !matches!(state.and_then(|state| state.status(&planned.step_target)), Some(RecordStatus::Succeeded(_))) {
            return false;
        }
        let recorded = &record.intent.fingerprint.0;
        inputs
            .is_ok_and(|inputs| inputs.iter().all(|(name, hash)| recorded.get(&format!("input:{name}")) == Some(hash)))
    }

    async fn lint_step(&self, planned: &PlannedStep) -> Vec<Diagnostic> {
        let step = &planned.step;
        let looked = async { self.runtime.migrations(step).await?.lint().await };
        let (found, severity) = match looked.await {
            Ok(found) => found,
            // A directory that a step before this one makes, and what is wrong with a file: the step says so in its turn.
            Err(failure) if !is_unreachable(&failure) => return Vec::new(),
            Err(failure) => {
                let message = format!("step `{}`: {}", step.id, failure.message);
                return vec![self.resource_error(step, &message)];
            }
        };
        for lint in &found {
            let help = lint.help.as_ref().map_or_else(String::new, |help| format!(" {help}"));
            let message = format!("{}:{}: {} ({}){help}", lint.file, lint.line, lint.message, lint.rule);
            let spot = SourceLocation { path: lint.path.clone(), line: Some(lint.line), column: None };
            let title = Some(lint.rule.clone());
            (self.notify)(Notice { title, location: Some(spot), ..Notice::warning(message) });
        }
        if severity != LintLevel::Deny || found.is_empty() {
            return Vec::new();
        }
        let message = format!("the migrations of step `{}` contain unsafe statements ({})", step.id, found.len());
        let hint =
            "rewrite them, allow one by the comment `-- pawl: allow <rule>` above it, or set `lint: warn`".to_owned();
        let mut diagnostic =
            self.plan.error_at(ErrorCode::UnsafeMigration, step.span.clone(), message, "`lint: deny`", Some(hint));
        diagnostic.causes =
            found.iter().map(|lint| format!("{}:{}: {} ({})", lint.file, lint.line, lint.message, lint.rule)).collect();
        vec![diagnostic]
    }
}

fn is_unreachable(failure: &StepFailure) -> bool {
    failure.stated_code() == Some(ErrorCode::DatabaseUnreachable)
}
