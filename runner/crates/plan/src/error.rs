//! The errors of a plan, each with its position.
//!
//! A [`Problem`] is the kind of an error and owns its code and page; a [`PlanError`] is one occurrence with its position in
//! the text. Deliberately absent: rendering, and any value of a secret.

use std::{fmt, ops::Range};

use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind, SourceExcerpt};

use super::{PlanSource, server_url};

/// The most errors that are shown at once.
const MAX_SHOWN_ERRORS: usize = 20;
/// The most errors that are collected, so that a malicious text is not slow.
const MAX_KEPT_ERRORS: usize = 200;

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The kinds of errors in a plan. Each has a page in docs/errors/.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Problem {
            $($(#[$doc])* $name,)*
        }

        impl Problem {
            /// All of them, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code.
            #[must_use]
            pub fn code(self) -> ErrorCode {
                match self {
                    $(Self::$name => ErrorCode($code),)*
                }
            }
        }
    };
}

problems! {
    /// The text is not YAML, or uses a part of YAML that plans do not have.
    NotYaml = "P0101",
    /// The plan is empty.
    Empty = "P0102",
    /// The plan has too many bytes, values or levels.
    TooLarge = "P0103",
    /// A key is unknown at its level.
    UnknownKey = "P0104",
    /// A value has the wrong type, such as a list instead of a string.
    WrongType = "P0105",
    /// A required key is missing.
    MissingKey = "P0106",
    /// A name or label contains forbidden characters.
    BadName = "P0107",
    /// A lookup names something that does not exist.
    UndefinedLookup = "P0108",
    /// The text in `${{ }}` is not a lookup.
    BadExpression = "P0109",
    /// The lookup exists, but is not allowed here.
    LookupNotAllowed = "P0110",
    /// `needs` has a cycle.
    NeedsCycle = "P0111",
    /// `needs` names an unknown step.
    UnknownStep = "P0112",
    /// The environment does not exist, or none of several was chosen.
    UnknownEnvironment = "P0113",
    /// The environment variable of a secret is empty or not set.
    MissingSecret = "P0114",
    /// A grant does not name a resource that can be granted.
    BadGrant = "P0115",
    /// A planned feature is missing in this version.
    NotSupported = "P0116",
    /// One mapping contains a key twice.
    DuplicateKey = "P0117",
    /// A value has the right type, but is invalid.
    BadValue = "P0118",
    /// `uses` names an unknown module. Raised when modules are loaded.
    UnknownModule = "P0120",
    /// `with` does not match the module's schema. Raised in the preflight.
    BadConfig = "P0121",
    /// A module needs a grant that the step does not have. Raised in the preflight.
    MissingGrant = "P0122",
    /// A prepare step comes after a commit step. Raised in the preflight.
    PrepareAfterCommit = "P0123",
    /// A grant gives a step the host's power without `trust: host`.
    NeedsTrust = "P0124",
}

/// One error in a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// Its kind.
    pub kind: Problem,
    /// What is wrong, in one line.
    pub message: String,
    /// The byte range in the plan's text.
    pub span: Option<Range<usize>>,
    /// The label next to the mark.
    pub label: String,
    /// The change to make.
    pub hint: Option<String>,
}

impl PlanError {
    pub(super) fn new(problem: Problem, message: impl Into<String>) -> Self {
        Self { kind: problem, message: message.into(), span: None, label: String::new(), hint: None }
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
        source.error_at(self.kind.code(), self.span.clone(), &self.message, &self.label, self.hint.clone())
    }
}

/// The errors that one parse found, sorted by position, at most 20.
#[derive(Clone, Debug)]
pub struct PlanErrors {
    /// The text that the errors point into.
    pub source: PlanSource,
    /// The errors.
    pub errors: Vec<PlanError>,
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
    pub(super) fn error_at(
        &self,
        code: ErrorCode,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(code, ExitKind::Refused, message);
        diagnostic.excerpt = span.map(|span| SourceExcerpt {
            path: self.path.display().to_string(),
            text: server_url::blank_out_passwords(&self.text).map_or_else(|| self.text.clone(), Into::into),
            span,
            label: label.into(),
        });
        diagnostic.hint = hint;
        diagnostic
    }
}

/// Collects the errors of one parse.
#[derive(Default)]
pub(super) struct PlanErrorCollector(Vec<PlanError>);

impl PlanErrorCollector {
    /// Adds an error, once: an alias can lead to the same position twice.
    pub(super) fn push(&mut self, error: PlanError) {
        if !self.is_full() && !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    /// Whether further errors are dropped.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_KEPT_ERRORS
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of errors so far.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_errors(mut self, source: PlanSource) -> PlanErrors {
        self.0.sort_by_key(|error| error.span.as_ref().map(|span| span.start));
        self.0.truncate(MAX_SHOWN_ERRORS);
        PlanErrors { source, errors: self.0 }
    }
}

/// The candidate that was most likely meant: the nearest one by edit distance, if it is near.
pub(super) fn closest_match<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const MAX_COMPARED: usize = 64;
    // A third of the letters may be wrong; in a word of one letter none, or every word would be near.
    let letters = text.chars().count();
    let near = (letters / 3).max(usize::from(letters > 1));
    if letters > MAX_COMPARED {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Lists names in backticks; of a long list, the rest is only counted.
pub(super) fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}
