//! What the reader of a GitHub workflow sees: the log, annotations, and the page of the job.
//!
//! ```text
//!   Entry ──► story ──► log (groups) ──┐
//!   Diagnostic, Notice ──► annotation ─┴─► Workflow ──► one stream, line by line
//!   Entry, Conclusion ──► summary (Markdown)
//! ```
//!
//! Invariant: [`Workflow`] is the only way to the stream, so that lines stay in order, and what foreign text says is never
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

pub use log::Log;
pub use summary::{Earlier, SUMMARY_LIMIT, Summary, of_problems};

use self::{
    annotation::{Annotation, Annotations},
    stream::Stream,
};
use super::Color;
use contract::render;
use contract::{
    Secret,
    diagnostic::{Diagnostic, Notice},
};

/// A word that nobody can guess; none if there is no randomness.
pub type Token = Box<dyn FnMut() -> Option<String> + Send>;

/// The job's log. Clones write to the same.
#[derive(Clone)]
pub struct Workflow(Arc<Mutex<Inner>>);

struct Inner {
    stream: Stream,
    annotations: Annotations,
}

impl Workflow {
    /// Writes to `out`. `here` is the folder that relative paths are meant from, `roots` the repository's folder under all its
    /// names.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, token: Token, here: PathBuf, roots: Vec<PathBuf>) -> Self {
        let inner = Inner { stream: Stream::new(out, token), annotations: Annotations::new(here, roots) };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Has GitHub hide secrets from now on.
    pub fn mask<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        let mut inner = self.inner();
        for mask in mask::masks(secrets) {
            inner.stream.command(&mask);
        }
    }

    /// Tells of an error, in the log and at its place.
    pub fn error(&self, error: &Diagnostic, color: Color) {
        let mut inner = self.inner();
        inner.stream.own(&render::render(error, color));
        inner.annotate(Annotation::of(error));
    }

    /// Shows a notice at its place, if it has one.
    pub fn annotate(&self, notice: &Notice) {
        if let Some(annotation) = Annotation::of_notice(notice) {
            self.inner().annotate(annotation);
        }
    }

    /// Tells of a notice in the log.
    pub fn notice(&self, notice: &Notice, color: Color) {
        self.inner().stream.own(&render::notice(notice, color));
    }

    /// Writes what was held back. Called once, last.
    pub fn close(&self) {
        let mut inner = self.inner();
        for line in inner.annotations.rest() {
            inner.stream.command(&line);
        }
        inner.stream.rest();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked wrote half a line at the worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to the stream.
    fn stream<T>(&self, write: impl FnOnce(&mut Stream) -> T) -> T {
        write(&mut self.inner().stream)
    }
}

impl Inner {
    fn annotate(&mut self, annotation: Annotation) {
        if let Some(line) = self.annotations.add(annotation) {
            self.stream.command(&line);
        }
    }
}
