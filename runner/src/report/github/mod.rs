//! Reports for a job on GitHub: the log, annotations, and the page of the job.
//!
//! ```text
//!   JournalEntry ──► formatter ──► log (groups) ──┐
//!   Diagnostic, Notice ──► annotation ────────────┴─► WorkflowOutput ──► one stream, line by line
//!   JournalEntry, CommandConclusion ──► summary (Markdown)
//! ```
//!
//! Invariant: [`WorkflowOutput`] is the only way to the stream, so that lines stay in order, and GitHub never executes a command
//! in foreign text: it is escaped as everywhere ([`contract::text`]), and stands between `::stop-commands::` and its end.
//! Deliberately absent: files, environment, randomness; the caller supplies them.

use std::{
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

mod annotation;
mod attempt_table;
mod bounded_page;
mod command;
mod host_table;
mod log;
mod markdown;
mod mask;
mod next_steps;
mod page;
mod page_table;
mod stream;
mod summary;
#[cfg(test)]
mod tests;

pub use attempt_table::LiveBefore;
pub use log::GroupedLogReporter;
pub use next_steps::{FailedJob, RecordReach, next_steps, translate_hint};
pub use summary::{
    JobContext, JobSummaryReporter, MAX_SUMMARY_BYTES, PageSources, PreviousAttempt, render_problems_page,
};

use self::{
    annotation::{AnnotationLimiter, WorkflowAnnotation},
    stream::CommandStream,
};
use super::ColorMode;
use contract::render;
use contract::{
    Secret,
    diagnostic::{Diagnostic, Notice},
};

/// Returns a token that nobody can guess, or none without randomness.
pub type StopTokenSource = Box<dyn FnMut() -> Option<String> + Send>;

/// The log of the job. Clones write to the same stream.
#[derive(Clone)]
pub struct WorkflowOutput(Arc<Mutex<WorkflowOutputState>>);

struct WorkflowOutputState {
    stream: CommandStream,
    annotations: AnnotationLimiter,
}

impl WorkflowOutput {
    /// Writes to `out`.
    ///
    /// `working_dir` resolves relative paths; `roots` are all paths of the repository's folder.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, token: StopTokenSource, working_dir: PathBuf, roots: Vec<PathBuf>) -> Self {
        let inner = WorkflowOutputState {
            stream: CommandStream::new(out, token),
            annotations: AnnotationLimiter::new(working_dir, roots),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Makes GitHub mask secrets from now on.
    pub fn mask<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        let mut inner = self.lock();
        for mask in mask::mask_commands(secrets) {
            inner.stream.command(&mask);
        }
    }

    /// Annotates an error at its location. GitHub shows the annotation in the log, too, so the log has the error's own form only if
    /// it says more: an excerpt, a longer text, or an annotation that is held back.
    pub fn error(&self, error: &Diagnostic, color: ColorMode) {
        let mut inner = self.lock();
        let annotation = WorkflowAnnotation::of_error(error);
        let is_told = error.excerpt.is_none() && annotation.is_complete();
        if !inner.annotate(annotation) || !is_told {
            inner.stream.write_own(&render::render_diagnostic(error, color));
        }
    }

    /// Annotates a notice at its location, if it has one.
    pub fn annotate(&self, notice: &Notice) {
        if let Some(annotation) = WorkflowAnnotation::of_notice(notice) {
            // The log has the notice in any case.
            let _ = self.lock().annotate(annotation);
        }
    }

    /// Writes a notice to the log.
    pub fn notice(&self, notice: &Notice, color: ColorMode) {
        self.lock().stream.write_own(&render::render_notice(notice, color));
    }

    /// Writes the annotations that were held back. Called once, as the last call.
    pub fn close(&self) {
        let mut inner = self.lock();
        for line in inner.annotations.take_held_back() {
            inner.stream.command(&line);
        }
        inner.stream.close_all();
    }

    fn lock(&self) -> MutexGuard<'_, WorkflowOutputState> {
        // A panic leaves at worst half a line.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to the stream.
    fn with_stream<T>(&self, write: impl FnOnce(&mut CommandStream) -> T) -> T {
        write(&mut self.lock().stream)
    }
}

impl WorkflowOutputState {
    /// Writes an annotation, unless it is held back. Returns whether it was written.
    fn annotate(&mut self, annotation: WorkflowAnnotation) -> bool {
        let line = self.annotations.add(annotation);
        line.iter().for_each(|line| self.stream.command(line));
        line.is_some()
    }
}
