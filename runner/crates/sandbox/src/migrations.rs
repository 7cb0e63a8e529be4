//! The capability `migrations`: resolves the module's names by its grants; [`migrate`] does the work.
//!
//! Deliberately absent: SQL.

use std::{path::Path, sync::Arc};

use super::{
    MigratesBehavior, ModuleRuntime,
    bindings::{HostError, migrations},
    failure,
    gate::{CallPurpose, CapabilityGate},
    host::HostState,
    parse_options,
};
use contract::{
    Secret,
    step::{FailureKind, MessageLevel, StepFailure, StepProgress},
};
use db::migrate::{
    self, DatabaseAddress, LintFinding, LintLevel, MigrationAdmin, MigrationDatabase, MigrationDirectory, MigrationJob,
    MigrationOptions,
};
use hostio::dir_snapshot::{DirSnapshot, DirSnapshotCache};
use plan::PlanStep;
use serde_json::Value;

async fn open_job(
    gate: &CapabilityGate,
    database: &str,
    dir: &str,
    options_json: &str,
) -> Result<MigrationJob, StepFailure> {
    let asked: Value = parse_options("migrations", options_json)?;
    open(gate, database, dir, MigrationOptions::from_config(&asked, gate.timeout())?).await
}

/// Opens the database and reads the directory, as granted.
async fn open(
    gate: &CapabilityGate,
    database: &str,
    dir: &str,
    options: MigrationOptions,
) -> Result<MigrationJob, StepFailure> {
    let (url, access) = gate.database_grant(database)?;
    // The directory as it was fingerprinted, if it was.
    let files = match gate.cached_dir_snapshot(dir) {
        Some(folder) => Ok(folder),
        None => DirSnapshot::read_top_level(&gate.dir_at(dir)?, &migrate::is_sql_file).map(Arc::new),
    };
    let address = address(gate, &url.value)?;
    MigrationJob::open(
        MigrationDatabase { name: database, address, access },
        MigrationDirectory { name: dir, files },
        options,
    )
    .await
}

fn address<'a>(gate: &CapabilityGate, url: &'a Secret) -> Result<DatabaseAddress<'a>, StepFailure> {
    match url.reveal().strip_prefix("sqlite:") {
        Some(path) => Ok(DatabaseAddress::File(gate.database_path(Path::new(path))?)),
        None => Ok(DatabaseAddress::Server(url)),
    }
}

/// Opens a step's migrations and their database, for the operator's commands.
///
/// # Errors
/// What can't be read or reached.
pub async fn open_migrations(
    step: &PlanStep,
    migrates: &MigratesBehavior,
    purpose: CallPurpose,
) -> Result<MigrationAdmin, StepFailure> {
    open_admin(step, migrates, purpose, &DirSnapshotCache::default()).await
}

async fn open_admin(
    step: &PlanStep,
    migrates: &MigratesBehavior,
    purpose: CallPurpose,
    dir_snapshots: &DirSnapshotCache,
) -> Result<MigrationAdmin, StepFailure> {
    let gate = CapabilityGate::open(step, purpose, dir_snapshots)?;
    let (database, dir) = (migrates.database(&step.with), migrates.dir(&step.with));
    let options = MigrationOptions::from_config(&step.with, step.timeout)?;
    let path = gate.host_path(dir).unwrap_or_default();
    Ok(MigrationAdmin::new(open(&gate, database, dir, options).await?, path))
}

impl ModuleRuntime {
    /// Lints the migrations that a step would apply: opens them read-only, as the step will find them.
    ///
    /// # Errors
    /// What can't be read or reached.
    pub async fn lint_migrations(
        &self,
        step: &PlanStep,
        migrates: &MigratesBehavior,
    ) -> Result<(Vec<LintFinding>, LintLevel), StepFailure> {
        open_admin(step, migrates, CallPurpose::Probe, &self.dir_snapshots).await?.lint().await
    }
}

impl migrations::Host for HostState {
    async fn status(&mut self, database: String, dir: String, options: String) -> Result<String, HostError> {
        let gate = Arc::clone(&self.gate);
        Ok(open_job(&gate, &database, &dir, &options).await?.status().await?.to_string())
    }

    async fn apply(&mut self, database: String, dir: String, options: String) -> Result<String, HostError> {
        self.gate.database_grant(&database)?;
        if self.gate.purpose() != CallPurpose::Mutate {
            return Err(
                failure(FailureKind::Denied, "a preview, a probe or a check can't migrate: it is read-only").into()
            );
        }
        let (gate, log, fence) = (Arc::clone(&self.gate), self.log.clone(), self.fence.clone());
        let job = open_job(&gate, &database, &dir, &options).await?;
        // The host's own messages do not count against the guest's limit.
        let log_message = |level: MessageLevel, message: String| {
            log.send(StepProgress::Log { level, message, fields: Default::default() })
        };
        let progress = |done, total| {
            log.send(StepProgress::Meter {
                task: "migrations".to_owned(),
                done,
                total: Some(total),
                unit: "files".to_owned(),
            });
        };
        Ok(job.apply(&fence, &log_message, &progress).await?.to_string())
    }
}
