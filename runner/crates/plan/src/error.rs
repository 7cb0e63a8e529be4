//! The errors of a plan, each with its position.
//!
//! Deliberately absent: rendering, and any value of a secret.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use contract::{
    diagnostic::{Diagnostic, SourceExcerpt},
    error_code::ErrorCode,
};

use super::{InventoryText, Plan, PlanSource, server_url};

/// The most errors that are shown at once.
const MAX_SHOWN_ERRORS: usize = 20;
/// The most errors that are collected, so that a malicious text is not slow.
const MAX_KEPT_ERRORS: usize = 200;

/// One error in a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// Its code.
    pub code: ErrorCode,
    /// What is wrong, in one line.
    pub message: String,
    /// What led to it, outermost first.
    pub causes: Vec<String>,
    /// The inventory that it is in; none: the plan.
    pub inventory: Option<Arc<InventoryText>>,
    /// The byte range in the text of the plan or the inventory.
    pub span: Option<Range<usize>>,
    /// The label next to the mark.
    pub label: String,
    /// The change to make.
    pub hint: Option<String>,
}

impl PlanError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (causes, inventory, span, label) = (Vec::new(), None, None, String::new());
        Self { code, message: message.into(), causes, inventory, span, label, hint: None }
    }

    /// The error of an inventory that can't be read.
    pub(super) fn of_inventory(diagnostic: &Diagnostic) -> Self {
        let Diagnostic { code, message, causes, hint, .. } = diagnostic.clone();
        Self { causes, hint, ..Self::new(code, message) }
    }

    pub(super) fn at(mut self, span: &Range<usize>, label: impl Into<String>) -> Self {
        self.span = Some(span.clone());
        self.label = label.into();
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Converts the error into the form that users see.
    #[must_use]
    pub fn diagnostic(&self, source: &PlanSource) -> Diagnostic {
        let mut diagnostic =
            source.error_at(self.code, self.span.clone(), &self.message, &self.label, self.hint.clone());
        if let (Some(inventory), Some(excerpt)) = (&self.inventory, &mut diagnostic.excerpt) {
            excerpt.path.clone_from(&inventory.name);
            excerpt.text = without_passwords(&inventory.text);
        }
        diagnostic.causes.clone_from(&self.causes);
        diagnostic
    }
}

/// The errors that one parse found, sorted by position, at most 20.
#[derive(Clone, Debug)]
pub struct PlanErrors {
    /// The text that the errors point into.
    pub source: PlanSource,
    /// The errors.
    pub errors: Vec<PlanError>,
    /// The plan without the steps that have an error, so that the others can be checked further; none if too little of it could be
    /// read. It must not be deployed.
    pub readable_part: Option<Box<Plan>>,
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a valid plan", self.source.path.display())?;
        self.errors.iter().try_for_each(|error| write!(f, "; {error}"))
    }
}

// Not derived, since `thiserror` takes a field called `source` for a cause.
impl std::error::Error for PlanErrors {}

impl PlanErrors {
    /// Converts the errors into the form that users see.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        self.errors.iter().map(|error| error.diagnostic(&self.source)).collect()
    }
}

impl PlanSource {
    /// The lock file of the plan, beside it: `deploy.lock` for `deploy.yml`, `shop.pawl.lock` for `shop.pawl.yml`.
    #[must_use]
    pub fn lockfile_path(&self) -> PathBuf {
        self.path.with_extension("lock")
    }

    pub(super) fn error_at(
        &self,
        code: ErrorCode,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(code, message);
        diagnostic.excerpt = span.map(|span| SourceExcerpt {
            path: self.path.display().to_string(),
            text: without_passwords(&self.text),
            span,
            label: label.into(),
        });
        diagnostic.hint = hint;
        diagnostic
    }
}

/// A text for an excerpt.
fn without_passwords(text: &Arc<str>) -> Arc<str> {
    server_url::blank_out_passwords(text).map_or_else(|| Arc::clone(text), Into::into)
}

/// Collects the errors of one parse.
#[derive(Default)]
pub(super) struct PlanErrorCollector {
    errors: Vec<PlanError>,
    /// How often a value was missing because of an error that is collected already.
    repeated: usize,
}

impl PlanErrorCollector {
    /// Adds an error, once: an alias can lead to the same position twice.
    pub(super) fn push(&mut self, error: PlanError) {
        if self.is_full() || self.errors.contains(&error) {
            self.repeated += 1;
        } else {
            self.errors.push(error);
        }
    }

    /// Notes that a value is missing whose error was reported elsewhere, so that its step counts as wrong too.
    pub(super) fn note_repeated(&mut self) {
        self.repeated += 1;
    }

    /// Adds the errors in the text of an inventory.
    pub(super) fn extend_from_inventory(&mut self, found: Self, inventory: &Arc<InventoryText>) {
        self.repeated += found.repeated;
        for error in found.errors {
            self.push(PlanError { inventory: Some(Arc::clone(inventory)), ..error });
        }
    }

    /// Whether further errors are dropped.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= MAX_KEPT_ERRORS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The number of errors so far. It grows with each value that is missing because of one.
    pub(super) fn count(&self) -> usize {
        self.errors.len() + self.repeated
    }

    /// The errors, to be reported where what they are about is used.
    pub(super) fn into_list(self) -> Vec<PlanError> {
        self.errors
    }

    pub(super) fn into_errors(mut self, source: PlanSource, readable_part: Option<Plan>) -> PlanErrors {
        // Those of an inventory come after those of the plan.
        self.errors.sort_by_key(|error| {
            (
                error.inventory.as_ref().map(|inventory| inventory.name.clone()),
                error.span.as_ref().map(|span| span.start),
            )
        });
        self.errors.truncate(MAX_SHOWN_ERRORS);
        PlanErrors { source, errors: self.errors, readable_part: readable_part.map(Box::new) }
    }
}

/// The candidate that was most likely meant: the same one in other letters, or the nearest one by edit distance, if it is near.
pub fn closest_match<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const MAX_COMPARED: usize = 64;
    // A third of the letters may be wrong; in a word of one letter none, or every word would be near.
    let letters = text.chars().count();
    let near = (letters / 3).max(usize::from(letters > 1));
    if letters > MAX_COMPARED {
        return None;
    }
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(same) = candidates.iter().copied().find(|candidate| candidate.eq_ignore_ascii_case(text)) {
        return Some(same);
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Lists names in backticks; of a long list, the rest is only counted.
pub fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 16;
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}
