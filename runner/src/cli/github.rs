//! GitHub's side of a job: its environment, and the files for its outputs and its summary.
//!
//! A deployment does not depend on it: a failed write is a warning. Deliberately absent: the content of log and summary
//! (`report::github`).

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::{ci, source::env_variable};
use crate::{
    deploy::PreparedPlan,
    report::github::{
        self as github_report, JobContext, LiveBefore, MAX_SUMMARY_BYTES, PreviousAttempt, StopTokenSource,
        WorkflowOutput,
    },
};
use contract::{
    AttemptNumber,
    diagnostic::{Diagnostic, ExitKind, Notice},
    step::{StepFailure, StepOutcome},
};
use journal::{
    AttemptStatuses, JournalState,
    event::{JournalEntry, JournalEvent, JournalHeader, StepTarget},
};
use plan::ModuleRef;
use state::{AttemptChoice, StateStore};

/// The most earlier attempts that the page reads.
const MAX_PREVIOUS_ATTEMPTS: usize = 3;
/// GitHub's limit for the outputs of a job, in bytes.
const MAX_OUTPUT_BYTES: usize = 1_000_000;

/// Whether this process is part of a job on GitHub or a compatible CI.
pub(super) fn is_job() -> bool {
    env_variable("GITHUB_ACTIONS").as_deref() == Some("true")
}

/// Whether the job was run again with debug logging.
pub(super) fn is_debug() -> bool {
    is_job() && env_variable("RUNNER_DEBUG").as_deref() == Some("1")
}

/// The log of this job.
pub(super) fn workflow_output(out: Box<dyn std::io::Write + Send>) -> WorkflowOutput {
    let here = std::path::absolute(".").unwrap_or_default();
    let token: StopTokenSource = Box::new(random_token);
    WorkflowOutput::new(out, token, here.clone(), repository_roots(here))
}

/// The repository's folder, by each name that a path may begin with; without one, the current folder.
fn repository_roots(here: PathBuf) -> Vec<PathBuf> {
    let workspace = env_variable("GITHUB_WORKSPACE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(workspace) = workspace else { return vec![here] };
    let real = fs::canonicalize(&workspace).ok();
    std::iter::once(workspace).chain(real).collect()
}

/// A random word that nobody can guess.
fn random_token() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The summary file of this step of the job, and its remaining space.
pub(super) struct JobSummaryFile {
    path: PathBuf,
    remaining_bytes: usize,
}

impl JobSummaryFile {
    /// The summary file of this job; none outside of a job.
    pub(super) fn of_job() -> Option<Self> {
        let path = is_job().then(|| env_variable("GITHUB_STEP_SUMMARY"))?.filter(|path| !path.is_empty())?;
        let path = PathBuf::from(path);
        let used = fs::metadata(&path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
        Some(Self { path, remaining_bytes: MAX_SUMMARY_BYTES.saturating_sub(used) })
    }

    pub(super) fn remaining_bytes(&self) -> usize {
        self.remaining_bytes
    }

    /// Appends text. Returns a warning if that fails.
    pub(super) fn append(&self, text: &str) -> Option<Notice> {
        let why = append(&self.path, text).err()?;
        Some(Notice::warning(format!("could not write the job summary: {why}")))
    }
}

/// Sets outputs of this step for later steps and jobs. Outside of a job, it does nothing.
pub(super) fn set_job_outputs(outputs: &[(&str, &str)]) -> Option<Notice> {
    let path = is_job().then(|| env_variable("GITHUB_OUTPUT"))?.filter(|path| !path.is_empty())?;
    let path = Path::new(&path);
    let used = fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
    let warning = |why: &str| Some(Notice::warning(format!("could not write the job outputs: {why}")));
    let mut text = String::new();
    for (name, value) in outputs {
        let Some(end) = random_token() else { return warning("the system has no random numbers for their delimiters") };
        text.push_str(&format!("{name}<<pawl-{end}\n{value}\npawl-{end}\n"));
    }
    if used.saturating_add(text.len()) > MAX_OUTPUT_BYTES {
        return warning("they would exceed GitHub's limit of 1 MB");
    }
    append(path, &text).err().and_then(|error| warning(&error.to_string()))
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

/// The result of a deployment as an output: `success`, `failed`, `rolled-back`, …
pub(super) fn result_output(exit: ExitKind) -> String {
    let name = serde_json::to_value(exit).expect("an exit is a word");
    name.as_str().expect("an exit is a word").to_owned()
}

/// The earlier attempts of the run of an attempt, as far as their journals are here; the newest ones.
pub(super) fn previous_attempts(
    store: &StateStore,
    before: &JournalState,
    header: &JournalHeader,
) -> Box<dyn FnOnce() -> Vec<PreviousAttempt>> {
    let is_of_run = |earlier: &&JournalHeader| header.attempt != AttemptNumber::FIRST && earlier.run == header.run;
    let headers = before.attempts.iter().map(|attempt| &attempt.header).filter(is_of_run);
    let headers: Vec<_> = headers.map(|earlier| (earlier.epoch, earlier.attempt, earlier.url.clone())).collect();
    let store = store.clone();
    Box::new(move || {
        let newest = headers.len().saturating_sub(MAX_PREVIOUS_ATTEMPTS);
        let read = |(epoch, attempt, url): &(u64, AttemptNumber, Option<String>)| {
            // The page does without one that can't be read.
            let recorded = store.recorded_attempt(AttemptChoice::Epoch(*epoch)).ok().flatten()?;
            Some(PreviousAttempt::new(attempt.0.get(), url.clone(), live_before(&recorded.before), &recorded.entries))
        };
        headers[newest..].iter().filter_map(read).collect()
    })
}

/// What was live before an attempt.
pub(super) fn live_before(before: &JournalState) -> LiveBefore {
    let exposing = before.records.iter().filter(|(_, record)| record.intent.exposes);
    LiveBefore {
        release: before.head.live.clone(),
        replaced: exposing.map(|(step, record)| (step.clone(), record.live_before.clone())).collect(),
    }
}

/// The page of the newest journal in the artifacts.
pub(super) fn journal_url(store: &StateStore) -> Box<dyn Fn() -> Option<String>> {
    let checkpoints = store.checkpoints().cloned();
    Box::new(move || {
        let id = checkpoints.as_ref()?.status().newest_id?;
        Some(format!("{}/actions/runs/{}/artifacts/{id}", repository_url()?, nonempty("GITHUB_RUN_ID")?))
    })
}

/// The job, as its page and its hints need it.
pub(super) fn job_context(prepared: &PreparedPlan, store: &StateStore, resume_command: &str) -> JobContext {
    let uses_migrations = |uses: &ModuleRef| matches!(uses, ModuleRef::Official(name) if name == "migrate");
    JobContext {
        repository_url: repository_url(),
        run: nonempty("GITHUB_RUN_ID"),
        attempt: nonempty("GITHUB_RUN_ATTEMPT").and_then(|attempt| attempt.parse().ok()),
        commit: nonempty("GITHUB_SHA"),
        actor: nonempty("GITHUB_TRIGGERING_ACTOR").or_else(|| nonempty("GITHUB_ACTOR")),
        site: prepared.plan.url.clone(),
        roots: repository_roots(std::path::absolute(".").unwrap_or_default()),
        reach: ci::record_reach(store),
        resume_command: resume_command.to_owned(),
        shows_releases: prepared.steps.iter().any(|planned| planned.description.exposes),
        has_archive: prepared.release.digest.is_some(),
        has_key: ci::has_key(),
        has_migrations: prepared.steps.iter().any(|planned| uses_migrations(&planned.step.uses)),
    }
}

/// The failures of an attempt, for the hint at its end.
#[derive(Debug, Default)]
pub(super) struct FailureObserver {
    statuses: AttemptStatuses,
    failures: BTreeMap<StepTarget, StepFailure>,
}

impl FailureObserver {
    pub(super) fn on_event(&mut self, entry: &JournalEntry) {
        self.statuses.apply(&entry.event);
        if let JournalEvent::Outcome {
            step_target,
            outcome: StepOutcome::Failed { failure } | StepOutcome::Unknown { failure },
            ..
        } = &entry.event
        {
            self.failures.insert(step_target.clone(), failure.clone());
        }
    }

    /// The error, with a hint in words of GitHub.
    pub(super) fn adapted(&self, error: &Diagnostic, context: &JobContext) -> Diagnostic {
        let step = self.statuses.failed_step();
        let failure = step.and_then(|step| self.failures.get(step));
        let steps = github_report::next_steps(error, failure, &context.failed_job(step));
        Diagnostic { hint: (!steps.is_empty()).then(|| steps.join("; ")), ..error.clone() }
    }
}

fn repository_url() -> Option<String> {
    Some(format!("{}/{}", nonempty("GITHUB_SERVER_URL")?, nonempty("GITHUB_REPOSITORY")?))
}

fn nonempty(name: &str) -> Option<String> {
    env_variable(name).filter(|value| !value.trim().is_empty())
}
