//! The preflight of migrations: checks that their databases are reachable, and reports unsafe statements.
//!
//! It checks only steps whose module declares `migrates`, and only if their files changed since the step succeeded, so
//! that a deployment with nothing to migrate connects to no database. Deliberately absent: the lint rules, which are in
//! the `db` crate.

use super::{PlannedStep, machine::MachineCheck, resources::resource_error, span_of};
use crate::deploy::{Executor as _, error::failure_summary, executor::LocalExecutor};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, Notice, SourceLocation},
    step::{FailureKind, StepFailure},
};
use db::migrate::LintLevel;
use journal::{JournalState, RecordStatus};
use plan::{Plan, PlanStep};
use sandbox::{MigratesBehavior, NoticeHandler};

/// The check of migrations before a deployment.
pub(super) struct MigrationPreflight<'a> {
    pub(super) plan: &'a Plan,
    pub(super) local: &'a LocalExecutor,
    pub(super) notify: &'a NoticeHandler,
    /// The journal state, if it was read.
    pub(super) state: Option<&'a JournalState>,
}

impl MigrationPreflight<'_> {
    /// Checks the migrations of all steps.
    pub(super) async fn check(&self, steps: &[PlannedStep]) -> Result<(), Vec<Diagnostic>> {
        let mut problems = Vec::new();
        // A configuration that needs outputs of other steps can't be checked yet.
        let is_known = |planned: &&PlannedStep| planned.step.pending.is_empty() && planned.step.remote_host().is_none();
        for planned in steps.iter().filter(is_known) {
            problems.extend(self.check_step(planned, &planned.step).await);
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Checks the migrations of one step, whose configuration is that of `step`.
    pub(super) async fn check_step(&self, planned: &PlannedStep, step: &PlanStep) -> Vec<Diagnostic> {
        match &planned.description.behaviors.migrates {
            Some(migrates) if !self.has_succeeded_with_same_files(planned, step).await => {
                self.lint_step(planned, step, migrates).await
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Whether the step is done with the same input files. The step later gets the content that is hashed here.
    async fn has_succeeded_with_same_files(&self, planned: &PlannedStep, step: &PlanStep) -> bool {
        let inputs = self.local.input_hashes(step, &planned.description, &step.with).await;
        let record = self.state.and_then(|state| state.records.get(&planned.step_target));
        let Some(record) = record.filter(|record| matches!(record.status, RecordStatus::Succeeded(_))) else {
            return false;
        };
        let recorded = &record.intent.fingerprint.0;
        inputs
            .is_ok_and(|inputs| inputs.iter().all(|(name, hash)| recorded.get(&format!("input:{name}")) == Some(hash)))
    }

    async fn lint_step(&self, planned: &PlannedStep, step: &PlanStep, migrates: &MigratesBehavior) -> Vec<Diagnostic> {
        let linted = async { self.local.runtime().migrations(step, migrates).await?.lint().await };
        let (found, severity) = match linted.await {
            Ok(found) => found,
            Err(failure) if is_of_a_file(&failure) => {
                return self.file_problem(planned, step, migrates, failure).into_iter().collect();
            }
            // An earlier step may still create the directory, and the step itself reports the rest.
            Err(failure) if !is_unreachable(&failure) => return Vec::new(),
            Err(failure) => {
                let message = format!("step `{}`: {}", step.id, failure.message);
                return vec![resource_error(self.plan, step, &message)];
            }
        };
        for lint in &found {
            let help = lint.help.as_ref().map_or_else(String::new, |help| format!(" {help}"));
            let message = format!("{}:{}: {} ({}){help}", lint.file, lint.line, lint.message, lint.rule);
            let location = SourceLocation { path: lint.path.clone(), line: Some(lint.line), column: None };
            let title = Some(lint.rule.clone());
            (self.notify)(Notice { title, location: Some(location), ..Notice::warning(message) });
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

    /// The error of an invalid file, such as one with the number of another; none if an earlier step may still change the files.
    fn file_problem(
        &self,
        planned: &PlannedStep,
        step: &PlanStep,
        migrates: &MigratesBehavior,
        failure: StepFailure,
    ) -> Option<Diagnostic> {
        MachineCheck::new(self.plan, planned).unchanging_path(migrates.dir(&step.with))?;
        let message = format!("step `{}` can't use its migrations", step.id);
        let (span, cause) = (span_of(step, migrates.dir_pointer()), failure_summary(&failure));
        Some(
            self.plan
                .error_at(ErrorCode::InputUnreadable, span, message, "these files", failure.hint)
                .with_cause(cause),
        )
    }
}

/// Whether a file of the directory is invalid.
fn is_of_a_file(failure: &StepFailure) -> bool {
    matches!(failure.kind, FailureKind::InvalidConfig | FailureKind::BadContent | FailureKind::Limit)
        && failure.details.contains_key("file")
}

fn is_unreachable(failure: &StepFailure) -> bool {
    failure.stated_code() == Some(ErrorCode::DatabaseUnreachable)
}
