//! The steps and files that a release was verified with in one environment, which a promotion must find unchanged.
//!
//! The release's own content is in its digest. This is about the steps and their modules, and what steps read beside the release:
//! migrations, configuration, programs of the repository. Deliberately absent: configuration in the plan and files in directories that
//! a step may write to, since they may differ by environment; and modules of the runner itself, which an upgrade changes.

use std::{collections::BTreeMap, path::Path, process::Command};

use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    hash::InputHash,
};
use journal::{
    StepTarget,
    event::{Fingerprint, INPUT_PREFIX, JournalEvent, PlanStepRecord, ROLLBACK, Release},
    state::AttemptSummary,
};
use plan::{DirAccess, ModuleRef, Plan, PlanStep};
use serde_json::Value;
use state::{AttemptChoice, StateStore};

use crate::deploy::{self, PlannedStep, PreparedPlan};

/// The component of a fingerprint that is about the module.
const MODULE: &str = "module";

/// The most changed files that are named for one input.
const MAX_NAMED_FILES: usize = 5;

/// The newest deployment that verified a release: its steps, and the inputs of each.
pub(super) struct VerifiedDeployment {
    environment: String,
    /// The plan of that environment, if everything that it looks up is known here.
    plan: Option<Plan>,
    release: Release,
    commit: Option<String>,
    /// Its steps; none if they are not on record.
    steps: Option<Vec<PlanStepRecord>>,
    fingerprints: BTreeMap<StepTarget, Fingerprint>,
}

impl VerifiedDeployment {
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
            steps: None,
            fingerprints: BTreeMap::new(),
        };
        let Some(verified) = verified else { return Ok(found) };
        let recorded = |attempt: &AttemptSummary| {
            let attempt = store.recorded_attempt(AttemptChoice::Epoch(attempt.header.epoch));
            attempt.map_err(|error| Diagnostic::from(&error))
        };
        let Some(attempt) = recorded(verified)? else { return Ok(found) };
        let before =
            attempt.before.records.into_iter().map(|(step_target, record)| (step_target, record.intent.fingerprint));
        found.fingerprints.extend(before);
        for entry in attempt.entries {
            if let JournalEvent::Plan { steps, .. } = entry.event {
                found.steps = Some(steps);
            } else if let JournalEvent::Intent { step_target, fingerprint, .. } = entry.event {
                found.fingerprints.insert(step_target, fingerprint);
            }
        }
        // What a later rollback ran was verified with its own files.
        let newest = attempts.iter().find(is_of).filter(|newest| newest.header.epoch != verified.header.epoch);
        for entry in newest.map(recorded).transpose()?.flatten().into_iter().flat_map(|attempt| attempt.entries) {
            if let JournalEvent::Intent { step_target, fingerprint, .. } = entry.event {
                found.fingerprints.insert(step_target, fingerprint);
            }
        }
        Ok(found)
    }

    /// Compares it with the plan and the files here.
    ///
    /// # Errors
    /// P0250 when a step or a file is another one now.
    pub(super) async fn check(&self, prepared: &PreparedPlan) -> Result<(), Diagnostic> {
        let changed_steps = self.changed_steps(prepared);
        let changed_files = self.changed_inputs(prepared).await;
        let what = match (changed_steps.is_empty(), changed_files.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => "files",
            (false, true) => "steps",
            (false, false) => "steps and files",
        };
        let Self { environment, release, commit, .. } = self;
        let message = format!("{} was verified in `{environment}` with different {what}", release.label);
        let checkout = match commit {
            Some(commit) => format!("check out commit {commit}"),
            None => format!("restore the {what}"),
        };
        let hint =
            format!("{checkout}; or deploy to `{environment}` with these {what}, and promote after its checks pass");
        let mut diagnostic = Diagnostic::new(ErrorCode::UnverifiedInputs, message).with_hint(hint);
        diagnostic.causes = changed_steps.into_iter().chain(changed_files).collect();
        Err(diagnostic)
    }

    /// How the steps of the plan differ from those of the verified deployment.
    fn changed_steps(&self, prepared: &PreparedPlan) -> Vec<String> {
        let Some(verified) = &self.steps else { return Vec::new() };
        let mut changed = Vec::new();
        for (planned, now) in prepared.steps.iter().zip(prepared.step_records()) {
            let id = &planned.step.id;
            match verified.iter().find(|record| record.step_target.step == *id) {
                None => changed.push(format!("step `{id}`: the verified deployment did not have it")),
                Some(record) if record.uses != now.uses => {
                    changed.push(format!("step `{id}`: it used `{}`, and uses `{}` now", record.uses, now.uses));
                }
                Some(_) if self.is_other_module(planned) => {
                    changed.push(format!("step `{id}`: the content of `{}` differs", now.uses));
                }
                Some(_) => {}
            }
        }
        let plan = &prepared.plan;
        let is_in_plan = |record: &PlanStepRecord| {
            plan.setup.iter().chain(&plan.steps).any(|step| step.id == record.step_target.step)
        };
        let missing = verified.iter().filter(|record| !is_in_plan(record));
        changed.extend(missing.map(|record| format!("step `{}`: the plan no longer has it", record.step_target.step)));
        changed
    }

    /// Whether a module that does not come with the runner has other content than the verified one.
    fn is_other_module(&self, planned: &PlannedStep) -> bool {
        let is_external = match planned.step.uses {
            ModuleRef::Official(_) => false,
            ModuleRef::File(_) | ModuleRef::Registry(_) => true,
        };
        let verified = self.fingerprints.get(&planned.step_target).and_then(|fingerprint| fingerprint.0.get(MODULE));
        is_external && verified.is_some_and(|verified| *verified != planned.module_hash())
    }

    /// The inputs of steps that are others now.
    async fn changed_inputs(&self, prepared: &PreparedPlan) -> Vec<String> {
        let mut changed = Vec::new();
        // What other hosts have is not needed, and they are not dialed.
        for planned in prepared.steps.iter().filter(|planned| prepared.takes_part(planned)) {
            let Some(verified) = self.fingerprints.get(&planned.step_target) else { continue };
            // A file that can't be read is reported by the step that reads it.
            let inputs = known_inputs(prepared, planned).await;
            let names: Vec<_> =
                inputs.keys().filter(|name| !self.is_of_one_environment(planned, name)).cloned().collect();
            let now = deploy::input_fingerprint(inputs);
            for name in names {
                let component = format!("{INPUT_PREFIX}{name}");
                if verified.0.get(&component).is_some_and(|verified| now.0.get(&component) != Some(verified)) {
                    let files = match verified.changed_files(&now, &name) {
                        files if files.is_empty() => self.files_changed_in_git(&planned.step, &name),
                        files => files,
                    };
                    changed.push(format!("step `{}`: {}", planned.step.id, describe(&name, &files)));
                }
            }
        }
        changed
    }

    /// Whether a file has its own place in each environment, such as its configuration. Migrations must be the same wherever they are.
    fn is_of_one_environment(&self, planned: &PlannedStep, name: &str) -> bool {
        let steps = || self.plan.iter().flat_map(|plan| &plan.steps);
        let source = steps().find(|step| step.id == planned.step.id);
        planned.description.behaviors.migrates.is_none()
            && source.is_some_and(|step| step.grants.host_path(name) != planned.step.grants.host_path(name))
    }

    /// The files of an input that git knows to be others than in the verified commit.
    fn files_changed_in_git(&self, step: &PlanStep, name: &str) -> Vec<String> {
        let verified = self.commit.as_deref().zip(step.grants.host_path(name));
        verified.map(|(commit, path)| changed_files(&path, commit)).unwrap_or_default()
    }
}

/// An input that changed, and which files of it did, as far as that is known.
fn describe(name: &str, files: &[String]) -> String {
    if files.is_empty() {
        return format!("`{name}` differs");
    }
    let (named, more) = files.split_at(files.len().min(MAX_NAMED_FILES));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("`{name}` differs: {}{more}", named.join(", "))
}

/// Whether git takes a text for a commit, and for no option.
fn is_commit_hash(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The hashes of a step's files that the plan alone names. What an earlier step's output names comes out of the release.
async fn known_inputs(prepared: &PreparedPlan, planned: &PlannedStep) -> BTreeMap<String, InputHash> {
    let step = &planned.step;
    let mut config = step.with.clone();
    for pointer in step.pending.keys() {
        if let Some(value) = config.pointer_mut(pointer) {
            *value = Value::Null;
        }
    }
    let mut inputs =
        prepared.executor(planned).input_hashes(step, &planned.description, &config).await.unwrap_or_default();
    inputs.retain(|name, _| step.grants.dir_of(name).is_none_or(|(grant, _)| grant.access == DirAccess::ReadOnly));
    inputs
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
