//! What the reader of a GitHub workflow sees: the log, annotations, and the page of the job.
//!
//! ```text
//!   Entry ──► story ──► log (groups) ──┐
//!   Diagnostic, Notice ──► annotation ─┴─► Workflow ──► one stream, line by line
//!   Entry, Conclusion ──► summary (Markdown)
//! ```
//!
//! Invariant: [`WorkflowOutput`] is the only way to the stream, so that lines stay in order, and what foreign text says is never
//! obeyed: it is escaped as everywhere ([`super::text`]), and stands between `::stop-commands::` and its end as well.
//! Deliberately absent: files, environment, randomness; the caller gives what is needed of them.

use std::{
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

mod annotation;
mod command;
mod gantt;
mod log;
mod markdown;
mod mask;
mod stream;
mod summary;
#[cfg(test)]
mod tests;

pub use log::GroupedLogReporter;
pub use summary::{JobSummaryReporter, MAX_SUMMARY_BYTES, PreviousAttempt, render_problems_page};

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

/// A word that nobody can guess; none if there is no randomness.
pub type StopTokenSource = Box<dyn FnMut() -> Option<String> + Send>;

/// The job's log. Clones write to the same.
#[derive(Clone)]
pub struct WorkflowOutput(Arc<Mutex<WorkflowOutputState>>);

struct WorkflowOutputState {
    stream: CommandStream,
    annotations: AnnotationLimiter,
}

impl WorkflowOutput {
    /// Writes to `out`. `here` is the folder that relative paths are meant from, `roots` the repository's folder under all its
    /// names.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, token: StopTokenSource, here: PathBuf, roots: Vec<PathBuf>) -> Self {
        let inner = WorkflowOutputState {
            stream: CommandStream::new(out, token),
            annotations: AnnotationLimiter::new(here, roots),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Has GitHub hide secrets from now on.
    pub fn mask<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        let mut inner = self.lock();
        for mask in mask::mask_commands(secrets) {
            inner.stream.command(&mask);
        }
    }

    /// Tells of an error, in the log and at its place.
    pub fn error(&self, error: &Diagnostic, color: ColorMode) {
        let mut inner = self.lock();
        inner.stream.write_own(&render::render_diagnostic(error, color));
        inner.annotate(WorkflowAnnotation::of_error(error));
    }

    /// Shows a notice at its place, if it has one.
    pub fn annotate(&self, notice: &Notice) {
        if let Some(annotation) = WorkflowAnnotation::of_notice(notice) {
            self.lock().annotate(annotation);
        }
    }

    /// Tells of a notice in the log.
    pub fn notice(&self, notice: &Notice, color: ColorMode) {
        self.lock().stream.write_own(&render::render_notice(notice, color));
    }

    /// Writes what was held back. Called once, last.
    pub fn close(&self) {
        let mut inner = self.lock();
        for line in inner.annotations.take_held_back() {
            inner.stream.command(&line);
        }
        inner.stream.close_all();
    }

    fn lock(&self) -> MutexGuard<'_, WorkflowOutputState> {
        // Whoever panicked wrote half a line at the worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to the stream.
    fn with_stream<T>(&self, write: impl FnOnce(&mut CommandStream) -> T) -> T {
        write(&mut self.lock().stream)
    }
}

impl WorkflowOutputState {
    fn annotate(&mut self, annotation: WorkflowAnnotation) {
        if let Some(line) = self.annotations.add(annotation) {
            self.stream.command(&line);
        }
    }
}
