//! GitHub's side of a job: its environment, and the files for its outputs and its summary.
//!
//! A deployment does not depend on it: a failed write is a warning. Deliberately absent: the content of log and summary
//! (`report::github`).

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use super::source::env_variable;
use crate::report::github::{MAX_SUMMARY_BYTES, PreviousAttempt, StopTokenSource, WorkflowOutput};
use contract::{
    AttemptNumber,
    diagnostic::{ExitKind, Notice},
};
use journal::{event::JournalHeader, state::AttemptSummary};

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

/// The earlier attempts of the run of an attempt.
pub(super) fn previous_attempts(attempts: &[AttemptSummary], header: &JournalHeader) -> Vec<PreviousAttempt> {
    let is_of_run =
        |attempt: &&AttemptSummary| header.attempt != AttemptNumber::FIRST && attempt.header.run == header.run;
    let earlier = |attempt: &AttemptSummary| PreviousAttempt {
        number: attempt.header.attempt.0.get(),
        started_at: attempt.started_at,
        ended_at: attempt.last_entry_at,
        exit: attempt.exit,
        verified: attempt.verified,
        failed_step: attempt.failed_step.clone(),
    };
    attempts.iter().filter(is_of_run).map(earlier).collect()
}

/// The command that continues from a terminal, for cases in which a person must decide.
pub(super) fn local_command(again: &str) -> String {
    if again.split(' ').any(|word| word == "--local") { again.to_owned() } else { format!("{again} --local") }
}
