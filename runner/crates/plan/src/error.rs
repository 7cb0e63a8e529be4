//! What can be wrong with a plan, and where.
//!
//! A [`Problem`] is the kind of an error and owns its code and page; a [`PlanError`] is one occurrence with its place in
//! the text. Deliberately absent: rendering, and any value of a secret.

use std::{fmt, ops::Range};

use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind, SourceExcerpt};

use super::{PlanSource, server_url};

/// More errors than this are not shown at once.
const MAX_SHOWN_ERRORS: usize = 20;
/// More errors than this are not even kept: a text made to be wrong must not be slow.
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
    /// There is nothing in it.
    Empty = "P0102",
    /// Too many bytes, values or levels.
    TooLarge = "P0103",
    /// A key that means nothing here.
    UnknownKey = "P0104",
    /// A list where a text is needed, and the like.
    WrongType = "P0105",
    /// A required key is absent.
    MissingKey = "P0106",
    /// A name or label with forbidden characters.
    BadName = "P0107",
    /// A look-up of something that does not exist.
    UndefinedLookup = "P0108",
    /// What stands in `${{ }}` is not a look-up.
    BadExpression = "P0109",
    /// A look-up of something that exists, but not here.
    LookupNotAllowed = "P0110",
    /// Steps that need each other.
    NeedsCycle = "P0111",
    /// `needs` names no step.
    UnknownStep = "P0112",
    /// The environment does not exist, or none was chosen of several.
    UnknownEnvironment = "P0113",
    /// The variable that holds a secret is not set.
    MissingSecret = "P0114",
    /// A grant that names nothing which can be granted.
    BadGrant = "P0115",
    /// Meant to come, not there yet.
    NotSupported = "P0116",
    /// A key twice in one mapping.
    DuplicateKey = "P0117",
    /// The right type, but not a value that is understood.
    BadValue = "P0118",
    /// `uses` names no module. Raised when modules are loaded.
    UnknownModule = "P0120",
    /// `with` does not match the module's schema. Raised in the preflight.
    BadConfig = "P0121",
    /// A module needs a grant that the step does not have. Raised in the preflight.
    MissingGrant = "P0122",
    /// A prepare step after a commit step. Raised in the preflight.
    PrepareAfterCommit = "P0123",
    /// A grant as strong as the host without `trust: host`.
    NeedsTrust = "P0124",
}

/// One error in a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// Its kind.
    pub kind: Problem,
    /// What is wrong, one line.
    pub message: String,
    /// The byte range in the plan's text.
    pub span: Option<Range<usize>>,
    /// What is said beside the mark.
    pub label: String,
    /// What to change.
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

    /// The error as users see it.
    #[must_use]
    pub fn diagnostic(&self, source: &PlanSource) -> Diagnostic {
        source.error_at(self.kind.code(), self.span.clone(), &self.message, &self.label, self.hint.clone())
    }
}

/// All errors that one parse found, by position, at most 20.
#[derive(Clone, Debug)]
pub struct PlanErrors {
    /// The text they point into.
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

/// Written out, since `thiserror` takes a field called `source` for a cause.
impl std::error::Error for PlanErrors {}

impl PlanErrors {
    /// The errors as users see them.
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

/// Where a parse puts what it finds.
#[derive(Default)]
pub(super) struct PlanErrorCollector(Vec<PlanError>);

impl PlanErrorCollector {
    /// Notes an error. An alias can lead to the same place twice; it is said once.
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

    /// How many were found so far.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn into_errors(mut self, source: PlanSource) -> PlanErrors {
        self.0.sort_by_key(|error| error.span.as_ref().map(|span| span.start));
        self.0.truncate(MAX_SHOWN_ERRORS);
        PlanErrors { source, errors: self.0 }
    }
}

/// The candidate that was most likely meant: the nearest by edit distance, if it is near.
pub(super) fn closest_match<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const MAX_COMPARED: usize = 64;
    // A third of the letters may be wrong; in a word of one letter none, or everything would be near.
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

/// Names in backticks, `a`, `b` and so on; the tail of a long list is counted.
pub(super) fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}
