//! The preflight of migrations: checks that their databases are reachable, and reports unsafe statements.
//!
//! It checks only steps whose module declares `migrates`, and only if their files changed since the step succeeded, so
//! that a deployment with nothing to migrate connects to no database. Deliberately absent: the lint rules, which are in
//! the `db` crate.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    PlannedStep, PreparedPlan, in_order_of_the_plan, machine::MachineCheck, resources::resource_error, span_of,
};
use crate::deploy::error::failure_summary;
use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode, Notice, SourceLocation},
    step::{FailureKind, StepFailure},
};
use db::migrate::{LintFinding, LintLevel};
use journal::{JournalState, RecordStatus, event::INPUT_PREFIX};
use plan::{DirGrant, PlanStep};
use sandbox::MigratesBehavior;

/// The check of migrations before a deployment.
pub(super) struct MigrationPreflight<'a> {
    pub(super) prepared: &'a PreparedPlan,
    /// The journal state, if it was read.
    pub(super) state: Option<&'a JournalState>,
}

impl MigrationPreflight<'_> {
    /// Checks the migrations of all steps.
    pub(super) async fn check(&self, steps: &[PlannedStep]) -> Result<(), Vec<Diagnostic>> {
        let mut by_target: BTreeMap<&TargetName, Vec<&PlannedStep>> = BTreeMap::new();
        let left_behind = self.prepared.left_behind();
        let is_worked_on = |planned: &&PlannedStep| {
            self.prepared.takes_part(planned) && !left_behind.contains_key(&planned.host_name())
        };
        // What runs once for a group runs on the next host. A configuration that needs outputs of other steps can't be checked yet.
        let placed =
            steps.iter().filter_map(|planned| std::iter::once(planned).chain(&planned.stand_ins).find(is_worked_on));
        for planned in placed.filter(|planned| planned.step.pending.is_empty()) {
            by_target.entry(&planned.step_target.target).or_default().push(planned);
        }
        // A host answers one question after the other.
        let checks = by_target.into_values().map(async |steps| {
            let mut found = MigrationProblems::default();
            for planned in steps {
                found.extend(self.find_in_step(planned, &planned.step).await);
            }
            found
        });
        let mut found = MigrationProblems::default();
        futures_util::future::join_all(checks).await.into_iter().for_each(|of_target| found.extend(of_target));
        self.report(found)
    }

    /// Checks the migrations of one step, whose configuration is that of `step`.
    pub(super) async fn check_step(&self, planned: &PlannedStep, step: &PlanStep) -> Result<(), Vec<Diagnostic>> {
        self.report(self.find_in_step(planned, step).await)
    }

    /// Shows the notices, and returns the errors. What is the same on several hosts is said once.
    fn report(&self, found: MigrationProblems) -> Result<(), Vec<Diagnostic>> {
        let mut said = BTreeSet::new();
        for notice in found.notices.into_iter().filter(|notice| said.insert(notice.message.clone())) {
            self.prepared.show(notice);
        }
        if found.errors.is_empty() { Ok(()) } else { Err(in_order_of_the_plan(found.errors)) }
    }

    async fn find_in_step(&self, planned: &PlannedStep, step: &PlanStep) -> MigrationProblems {
        match &planned.description.behaviors.migrates {
            Some(migrates) if !self.has_succeeded_with_same_files(planned, step).await => {
                self.lint_step(planned, step, migrates).await
            }
            Some(_) | None => MigrationProblems::default(),
        }
    }

    /// Whether the step is done with the same input files. The step later gets the content that is hashed here.
    async fn has_succeeded_with_same_files(&self, planned: &PlannedStep, step: &PlanStep) -> bool {
        let executor = self.prepared.executor(planned);
        let inputs = executor.input_hashes(step, &planned.description, &step.with).await;
        let record = self.state.and_then(|state| state.records.get(&planned.step_target));
        let Some(record) = record.filter(|record| matches!(record.status, RecordStatus::Succeeded(_))) else {
            return false;
        };
        let recorded = &record.intent.fingerprint.0;
        inputs.is_ok_and(|inputs| {
            inputs.iter().all(|(name, input)| recorded.get(&format!("{INPUT_PREFIX}{name}")) == Some(&input.hash))
        })
    }

    async fn lint_step(
        &self,
        planned: &PlannedStep,
        step: &PlanStep,
        migrates: &MigratesBehavior,
    ) -> MigrationProblems {
        let (found, severity) = match self.prepared.executor(planned).lint_migrations(step, migrates).await {
            Ok(found) => found,
            Err(failure) if is_of_a_file(&failure) => {
                return MigrationProblems::of(self.file_problem(planned, step, migrates, failure));
            }
            // An earlier step may still create the directory, and the step itself reports the rest.
            Err(failure) if !is_unreachable(&failure) => return MigrationProblems::default(),
            Err(failure) => {
                let on_host = step.remote_host().map_or_else(String::new, |host| format!(" on {}", host.name));
                let message = format!("step `{}`{on_host}: {}", step.id, failure.message);
                return MigrationProblems::of(Some(resource_error(&self.prepared.plan, step, &message)));
            }
        };
        let is_here = |(grant, _): (&DirGrant, &str)| grant.is_relative || step.remote_host().is_none();
        let is_here = step.grants.dir_of(migrates.dir(&step.with)).is_some_and(is_here);
        let notice = |lint: &LintFinding| {
            let help = lint.help.as_ref().map_or_else(String::new, |help| format!(" {help}"));
            let message = format!("{}:{}: {} ({}){help}", lint.file, lint.line, lint.message, lint.rule);
            let location = SourceLocation { path: lint.path.clone(), line: Some(lint.line), column: None };
            let title = Some(lint.rule.clone());
            Notice { title, location: Some(location).filter(|_| is_here), ..Notice::warning(message) }
        };
        let notices = found.iter().map(notice).collect();
        if severity != LintLevel::Deny || found.is_empty() {
            return MigrationProblems { notices, errors: Vec::new() };
        }
        let message = format!("the migrations of step `{}` contain unsafe statements ({})", step.id, found.len());
        let hint =
            "rewrite them, allow one by the comment `-- pawl: allow <rule>` above it, or set `lint: warn`".to_owned();
        let (plan, span) = (&self.prepared.plan, step.span.clone());
        let mut diagnostic = plan.error_at(ErrorCode::UnsafeMigration, span, message, "`lint: deny`", Some(hint));
        diagnostic.causes =
            found.iter().map(|lint| format!("{}:{}: {} ({})", lint.file, lint.line, lint.message, lint.rule)).collect();
        MigrationProblems { notices, errors: vec![diagnostic] }
    }

    /// The error of an invalid file, such as one with the number of another; none if an earlier step may still change the files.
    fn file_problem(
        &self,
        planned: &PlannedStep,
        step: &PlanStep,
        migrates: &MigratesBehavior,
        failure: StepFailure,
    ) -> Option<Diagnostic> {
        let plan = &self.prepared.plan;
        MachineCheck::new(plan, planned).unchanging_path(migrates.dir(&step.with))?;
        let message = format!("step `{}` can't use its migrations", step.id);
        let (span, cause) = (span_of(step, migrates.dir_pointer()), failure_summary(&failure));
        Some(plan.error_at(ErrorCode::InputUnreadable, span, message, "these files", failure.hint).with_cause(cause))
    }
}

/// What was found in migrations.
#[derive(Default)]
struct MigrationProblems {
    notices: Vec<Notice>,
    errors: Vec<Diagnostic>,
}

impl MigrationProblems {
    fn of(error: Option<Diagnostic>) -> Self {
        Self { notices: Vec::new(), errors: error.into_iter().collect() }
    }

    fn extend(&mut self, other: Self) {
        self.notices.extend(other.notices);
        self.errors.extend(other.errors);
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
