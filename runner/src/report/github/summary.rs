//! The page of the job: it collects the entries of this attempt, and writes the page at its end.
//!
//! Invariant: the page is Markdown of at most `max_bytes`. Deliberately absent: its content ([`super::page`]), and writing it
//! anywhere.

use std::path::PathBuf;

use super::{
    super::{CommandConclusion, DeploymentReporter},
    attempt_table::{AttemptTable, LiveBefore},
    next_steps::{FailedJob, RecordReach},
    page,
};
use contract::diagnostic::{Diagnostic, ExitKind};
use journal::event::{JournalEntry, OutputLine, StepTarget};

/// The most bytes that GitHub accepts as the summary of one step of a job.
pub const MAX_SUMMARY_BYTES: usize = 1024 * 1024;

/// The job, as the page and the hints need it.
#[derive(Clone, Debug, Default)]
pub struct JobContext {
    /// The page of the repository, such as `https://github.com/acme/shop`.
    pub repository_url: Option<String>,
    /// The id of the workflow run.
    pub run: Option<String>,
    /// The attempt of the workflow run.
    pub attempt: Option<u32>,
    /// The commit that the job runs for.
    pub commit: Option<String>,
    /// The user who started it.
    pub actor: Option<String>,
    /// The address of the environment.
    pub site: Option<String>,
    /// The repository's folder, by each name that a path may begin with.
    pub roots: Vec<PathBuf>,
    /// Which later runs find its record.
    pub reach: RecordReach,
    /// The command that resumes from a terminal, as hints name it.
    pub resume_command: String,
    /// Whether a step of the plan shows a release to users.
    pub shows_releases: bool,
    /// Whether the plan has migrations.
    pub has_migrations: bool,
    /// Whether the release has an archive.
    pub has_archive: bool,
    /// Whether the job has a key.
    pub has_key: bool,
}

impl JobContext {
    /// The job that failed at a step.
    #[must_use]
    pub fn failed_job(&self, step: Option<&StepTarget>) -> FailedJob<'_> {
        FailedJob {
            run: self.run.as_deref(),
            commit: self.commit.as_deref(),
            reach: self.reach.clone(),
            resume_command: &self.resume_command,
            step: step.map(super::super::step_label),
            has_migrations: self.has_migrations,
            has_archive: self.has_archive,
            has_key: self.has_key,
        }
    }
}

/// An attempt of the same run that ended before this one started.
#[derive(Debug)]
pub struct PreviousAttempt {
    /// Its number within the run.
    pub number: u32,
    /// The page of its workflow run.
    pub url: Option<String>,
    pub(super) table: AttemptTable,
}

impl PreviousAttempt {
    /// Folds the entries of an attempt.
    #[must_use]
    pub fn new(number: u32, url: Option<String>, before: LiveBefore, entries: &[JournalEntry]) -> Self {
        let mut table = AttemptTable::new(before);
        entries.iter().for_each(|entry| table.apply(entry));
        Self { number, url, table }
    }
}

/// What the page asks for at the end.
pub struct PageSources {
    /// The earlier attempts of this run, oldest first.
    pub previous_attempts: Box<dyn FnOnce() -> Vec<PreviousAttempt>>,
    /// The page of the newest journal.
    pub journal_url: Box<dyn Fn() -> Option<String>>,
    /// Writes the page.
    pub write: Box<dyn FnMut(&str)>,
}

/// Collects the entries of an attempt, and writes the page at its end.
pub struct JobSummaryReporter {
    context: JobContext,
    sources: Option<PageSources>,
    max_bytes: usize,
    table: AttemptTable,
}

impl JobSummaryReporter {
    /// A page of at most `max_bytes` bytes about an attempt that has not begun.
    #[must_use]
    pub fn new(before: LiveBefore, context: JobContext, sources: PageSources, max_bytes: usize) -> Self {
        Self { context, sources: Some(sources), max_bytes, table: AttemptTable::new(before) }
    }
}

impl DeploymentReporter for JobSummaryReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        self.table.apply(entry);
    }

    /// The journal has the lines, too.
    fn on_output(&mut self, _: &StepTarget, _: &[OutputLine]) {}

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        let Some(mut sources) = self.sources.take() else { return };
        let journal_url = (sources.journal_url)();
        let previous = (sources.previous_attempts)();
        let page = page::AttemptPage {
            context: &self.context,
            table: &self.table,
            previous: &previous,
            journal_url: journal_url.as_deref(),
            conclusion,
        };
        (sources.write)(&page.render(self.max_bytes));
    }
}

/// The page of a job that did not start an attempt.
#[must_use]
pub fn render_problems_page(exit: ExitKind, problems: &[Diagnostic], max_bytes: usize) -> String {
    page::render_problems(exit, problems, max_bytes)
}
