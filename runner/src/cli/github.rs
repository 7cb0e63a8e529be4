//! GitHub's side of a job: which one this is, and the files in which a step leaves outputs and its page.
//!
//! Everything here is told beside a deployment: what can't be written is a warning. Deliberately absent: what is shown, and
//! how (`report::github`).

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

/// GitHub takes so many bytes of outputs of a job.
const MAX_OUTPUT_BYTES: usize = 1_000_000;

/// Whether this process is part of a job on GitHub, or of one that says so.
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

/// The folder of the repository under the names that a path may begin with; outside of one, the folder that we are in.
fn repository_roots(here: PathBuf) -> Vec<PathBuf> {
    let workspace = env_variable("GITHUB_WORKSPACE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(workspace) = workspace else { return vec![here] };
    let real = fs::canonicalize(&workspace).ok();
    std::iter::once(workspace).chain(real).collect()
}

/// A word that nobody can guess.
fn random_token() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The page of this step of the job: where it is, and how much may still be written to it.
pub(super) struct JobSummaryFile {
    path: PathBuf,
    remaining_bytes: usize,
}

impl JobSummaryFile {
    /// None outside of a job.
    pub(super) fn of_job() -> Option<Self> {
        let path = is_job().then(|| env_variable("GITHUB_STEP_SUMMARY"))?.filter(|path| !path.is_empty())?;
        let path = PathBuf::from(path);
        let used = fs::metadata(&path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
        Some(Self { path, remaining_bytes: MAX_SUMMARY_BYTES.saturating_sub(used) })
    }

    pub(super) fn remaining_bytes(&self) -> usize {
        self.remaining_bytes
    }

    /// Adds to it.
    pub(super) fn append(&self, text: &str) -> Option<Notice> {
        let why = append(&self.path, text).err()?;
        Some(Notice::warning(format!("the summary of the job can't be written: {why}")))
    }
}

/// Sets outputs of this step of the job, for the steps and jobs after it. Outside of a job nothing is set.
pub(super) fn set_job_outputs(outputs: &[(&str, &str)]) -> Option<Notice> {
    let path = is_job().then(|| env_variable("GITHUB_OUTPUT"))?.filter(|path| !path.is_empty())?;
    let path = Path::new(&path);
    let used = fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).unwrap_or(usize::MAX));
    let warning = |why: &str| Some(Notice::warning(format!("the outputs of the job can't be written: {why}")));
    let mut text = String::new();
    for (name, value) in outputs {
        let Some(end) = random_token() else { return warning("there is no randomness to mark their ends with") };
        text.push_str(&format!("{name}<<pawl-{end}\n{value}\npawl-{end}\n"));
    }
    if used.saturating_add(text.len()) > MAX_OUTPUT_BYTES {
        return warning("they would be more than GitHub takes, 1 MB");
    }
    append(path, &text).err().and_then(|error| warning(&error.to_string()))
}

fn append(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

/// How a deployment ended, as an output: `success`, `failed`, `rolled-back`, …
pub(super) fn result_output(exit: ExitKind) -> String {
    let name = serde_json::to_value(exit).expect("an exit is a word");
    name.as_str().expect("an exit is a word").to_owned()
}

/// The attempts of the same run, before the one that begins.
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

/// The command that goes on from a terminal, where the word of a person is needed.
pub(super) fn local_command(again: &str) -> String {
    if again.split(' ').any(|word| word == "--local") { again.to_owned() } else { format!("{again} --local") }
}
