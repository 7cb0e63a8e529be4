//! What a user is told when something is wrong: code, what, why, where, and the next command.
//!
//! Every room has its own error enum; each turns into a [`Diagnostic`], and only `cli` renders it and exits. The kind of
//! an error decides the exit code (DESIGN §9). Deliberately absent: any output, and any decision taken from error text.

use std::{fmt, ops::Range, sync::Arc};

/// The exit codes of `runner`, DESIGN §9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// Deployed, or nothing to do.
    Success,
    /// A step failed; held there.
    Failed,
    /// A bad plan, bad usage, or refused by policy.
    Refused,
    /// An operator must say.
    InDoubt,
    /// Rolled back to the last verified release.
    RolledBack,
    /// Another deployment holds the lock.
    Locked,
    /// The journal can't be trusted.
    Journal,
    /// Our bug.
    Bug,
    /// Interrupted; the state is saved.
    Interrupted,
}

impl ExitKind {
    /// The process exit status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Refused => 2,
            Self::InDoubt => 3,
            Self::RolledBack => 4,
            Self::Locked => 5,
            Self::Journal => 65,
            Self::Bug => 70,
            Self::Interrupted => 130,
        }
    }
}

/// An error code such as `P0301`; each has a page in docs/errors/.
///
/// Ranges: 01 plan, 02 usage and preflight, 03 steps, 04 in doubt, 05 lock and artifacts, 06 journal and state, 07 our bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub &'static str);

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A place in a text that the user wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceExcerpt {
    /// The file, as the user named it.
    pub path: String,
    /// The whole text of the file.
    pub text: Arc<str>,
    /// The byte range to mark.
    pub span: Range<usize>,
    /// What is said beside the mark.
    pub label: String,
}

/// One error, ready to be rendered.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// The code.
    pub code: ErrorCode,
    /// What went wrong, one line.
    pub message: String,
    /// Why, from the outer cause to the inner one.
    pub causes: Vec<String>,
    /// Where in the user's text.
    pub excerpt: Option<SourceExcerpt>,
    /// Where in a file that is not at hand, such as a migration; for editors and CIs.
    pub location: Option<Box<SourceLocation>>,
    /// The next command, or what to change.
    pub hint: Option<String>,
    /// How the process ends.
    pub exit: ExitKind,
}

impl Diagnostic {
    /// An error with nothing but its message.
    pub fn new(code: ErrorCode, exit: ExitKind, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), excerpt: None, location: None, hint: None, exit }
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Something that the user should know, although it is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: NoticeSeverity,
    /// What is to be said, one line.
    pub message: String,
    /// A few words to stand above the message, where there is room for a heading.
    pub title: Option<String>,
    /// Where in the user's files.
    pub location: Option<SourceLocation>,
}

/// A place in a file, for editors and CIs that show things there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file, absolute.
    pub path: std::path::PathBuf,
    /// From 1; none where it is about the whole file.
    pub line: Option<u64>,
    /// From 1, if it is known.
    pub column: Option<u64>,
}

/// How much a [`Notice`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeSeverity {
    /// Good to know.
    Note,
    /// Something is not as it should be.
    Warning,
}

impl Notice {
    /// Good to know.
    pub fn note(message: impl Into<String>) -> Self {
        Self { severity: NoticeSeverity::Note, message: message.into(), title: None, location: None }
    }

    /// Something is not as it should be, and the runner goes on.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: NoticeSeverity::Warning, message: message.into(), title: None, location: None }
    }
}
