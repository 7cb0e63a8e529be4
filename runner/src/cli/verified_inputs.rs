//! The files that a release was verified with in one environment, which a promotion must find unchanged.
//!
//! The release's own content is in its digest. This is about what steps read beside it: migrations, configuration, programs of the
//! repository. Deliberately absent: files in directories that a step may write to, since they belong to the environment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    hash::Blake3Hash,
};
use journal::{
    StepTarget,
    event::{Fingerprint, JournalEvent, ROLLBACK, Release},
    state::AttemptSummary,
};
use plan::{DirAccess, Plan, PlanStep};
use serde_json::Value;
use state::{AttemptChoice, StateStore};

use crate::deploy::{PlannedStep, PreparedPlan};

/// What comes before the name of an input in a fingerprint.
const INPUT_PREFIX: &str = "input:";

/// The most changed files that are named for one input.
const MAX_NAMED_FILES: usize = 5;

/// The inputs of each step in the newest deployment that verified a release.
pub(super) struct VerifiedInputs {
    environment: String,
    /// The plan of that environment, if everything that it looks up is known here.
    plan: Option<Plan>,
    release: Release,
    commit: Option<String>,
    fingerprints: BTreeMap<StepTarget, Fingerprint>,
}

impl VerifiedInputs {
    /// Reads them from the journals of an environment.
    ///
    /// # Errors
    /// P06xx when a journal cannot be read.
    pub(super) fn read(
        store: &StateStore,
        environment: &str,
        plan: Option<Plan>,
        release: &Release,
    ) -> Result<Self, Diagnostic> {
        let attempts = store.newest_attempts(usize::MAX).map_err(|error| Diagnostic::from(&error))?;
        let is_of = |attempt: &&AttemptSummary| attempt.verified && attempt.header.release.is_same(release);
        // A rollback does not migrate, so it says nothing about the migrations.
        let deployed = attempts.iter().find(|attempt| is_of(attempt) && attempt.command.as_deref() != Some(ROLLBACK));
        let verified = deployed.or_else(|| attempts.iter().find(is_of));
        let mut found = Self {
            environment: environment.to_owned(),
            plan,
            release: release.clone(),
            commit: verified.and_then(|attempt| attempt.header.commit.clone()).filter(|commit| is_commit_hash(commit)),
            fingerprints: BTreeMap::new(),
        };
        let Some(verified) = verified else { return Ok(found) };
        let attempt = store.recorded_attempt(AttemptChoice::Epoch(verified.header.epoch));
        let Some(attempt) = attempt.map_err(|error| Diagnostic::from(&error))? else { return Ok(found) };
        let before =
            attempt.before.records.into_iter().map(|(step_target, record)| (step_target, record.intent.fingerprint));
        found.fingerprints.extend(before);
        for entry in attempt.entries {
            if let JournalEvent::Intent { step_target, fingerprint, .. } = entry.event {
                found.fingerprints.insert(step_target, fingerprint);
            }
        }
        Ok(found)
    }

    /// Compares them with the files here.
    ///
    /// # Errors
    /// P0250 when a file is another one now.
    pub(super) async fn check(&self, prepared: &PreparedPlan) -> Result<(), Diagnostic> {
        let mut changed = Vec::new();
        for planned in &prepared.steps {
            let Some(verified) = self.fingerprints.get(&planned.step_target) else { continue };
            // A file that can't be read is reported by the step that reads it.
            for (name, hash) in known_inputs(prepared, planned).await {
                if self.is_of_one_environment(planned, &name) {
                    continue;
                }
                if verified.0.get(&format!("{INPUT_PREFIX}{name}")).is_some_and(|verified| *verified != hash) {
                    changed.push(format!("step `{}`: {}", planned.step.id, self.describe(&planned.step, &name)));
                }
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let Self { environment, release, commit, .. } = self;
        let message = format!("{} was verified in `{environment}` with different files", release.label);
        let checkout = match commit {
            Some(commit) => format!("check out commit {commit}"),
            None => "restore the files".to_owned(),
        };
        let hint =
            format!("{checkout}; or deploy to `{environment}` with these files, and promote after its checks pass");
        let mut diagnostic = Diagnostic::new(ErrorCode::UnverifiedInputs, message).with_hint(hint);
        diagnostic.causes = changed;
        Err(diagnostic)
    }

    /// Whether a file has its own place in each environment, such as its configuration. Migrations must be the same wherever they are.
    fn is_of_one_environment(&self, planned: &PlannedStep, name: &str) -> bool {
        let steps = || self.plan.iter().flat_map(|plan| &plan.steps);
        let source = steps().find(|step| step.id == planned.step.id);
        planned.description.behaviors.migrates.is_none()
            && source.is_some_and(|step| host_path(step, name) != host_path(&planned.step, name))
    }

    /// An input, and the files of it that git knows to be others than in the verified commit.
    fn describe(&self, step: &PlanStep, name: &str) -> String {
        let files =
            self.commit.as_deref().zip(host_path(step, name)).map(|(commit, path)| changed_files(&path, commit));
        match files.unwrap_or_default() {
            files if files.is_empty() => format!("`{name}` differs"),
            files if files.len() > MAX_NAMED_FILES => {
                format!(
                    "`{name}` differs: {} and {} more",
                    files[..MAX_NAMED_FILES].join(", "),
                    files.len() - MAX_NAMED_FILES
                )
            }
            files => format!("`{name}` differs: {}", files.join(", ")),
        }
    }
}

/// Whether git takes a text for a commit, and for no option.
fn is_commit_hash(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The hashes of a step's files that the plan alone names. What an earlier step's output names comes out of the release.
async fn known_inputs(prepared: &PreparedPlan, planned: &PlannedStep) -> BTreeMap<String, Blake3Hash> {
    let step = &planned.step;
    let mut config = step.with.clone();
    for pointer in step.pending.keys() {
        if let Some(value) = config.pointer_mut(pointer) {
            *value = Value::Null;
        }
    }
    let mut inputs =
        prepared.executor(planned).input_hashes(step, &planned.description, &config).await.unwrap_or_default();
    inputs.retain(|name, _| granted_dir(step, name).is_none_or(|(_, access)| access == DirAccess::ReadOnly));
    inputs
}

/// The granted directory that an input is in, and its access.
fn granted_dir<'s>(step: &'s PlanStep, name: &str) -> Option<(&'s Path, DirAccess)> {
    let dir = name.split_once('/').map_or(name, |(dir, _)| dir);
    let granted = step.grants.dirs.iter().find(|(granted, _)| granted.as_str() == dir);
    granted.map(|(_, grant)| (grant.path.as_path(), grant.access))
}

fn host_path(step: &PlanStep, name: &str) -> Option<PathBuf> {
    let (folder, _) = granted_dir(step, name)?;
    Some(name.split_once('/').map_or_else(|| folder.to_owned(), |(_, path)| folder.join(path)))
}

/// The files at a path that differ from a commit, or are not in git. Empty if git can't tell.
fn changed_files(path: &Path, commit: &str) -> Vec<String> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).arg("--").arg(path).output().ok();
        let text = output.filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut files = git(&["diff", "--name-only", "--relative", commit]);
    files.extend(git(&["ls-files", "--others", "--exclude-standard"]));
    files
}
