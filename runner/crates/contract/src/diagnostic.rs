//! Errors as users see them: code, message, causes, source excerpt, and the next command.
//!
//! Every crate has its own error enums; each converts into a [`Diagnostic`], and only `cli` renders it and exits. The kind of
//! an error decides the exit code (README.md, Exit codes). Deliberately absent: any output, and any decision taken from error text.

use std::{fmt, ops::Range, sync::Arc};

pub use crate::error_code::ErrorCode;

/// The exit codes of `runner` (README.md, Exit codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// Deployed, or nothing to do.
    Success,
    /// A step failed, and the deployment holds there.
    Failed,
    /// The plan or the command is invalid, or a policy refuses it.
    Refused,
    /// An operator must decide.
    InDoubt,
    /// Rolled back to the last verified release.
    RolledBack,
    /// Another deployment holds the lock.
    Locked,
    /// The journal cannot be trusted.
    Journal,
    /// The runner has a bug.
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

/// A marked range in a text that the user wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceExcerpt {
    /// The file's path, as the user gave it.
    pub path: String,
    /// The whole text of the file.
    pub text: Arc<str>,
    /// The byte range to mark.
    pub span: Range<usize>,
    /// The label next to the mark.
    pub label: String,
}

/// One error, ready to be rendered.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// The code.
    pub code: ErrorCode,
    /// What went wrong, in one line.
    pub message: String,
    /// Why, from the outer cause to the inner one.
    pub causes: Vec<String>,
    /// The marked range in the user's text.
    pub excerpt: Option<SourceExcerpt>,
    /// A location in a file whose text is not loaded, such as a migration; for editors and CIs.
    pub location: Option<Box<SourceLocation>>,
    /// The next command, or the change to make.
    pub hint: Option<String>,
    /// The exit code of the process.
    pub exit: ExitKind,
}

impl Diagnostic {
    /// Creates an error with only a message, and the exit of its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            excerpt: None,
            location: None,
            hint: None,
            exit: code.exit(),
        }
    }

    /// Sets an exit that is not the one of the code.
    #[must_use]
    pub fn with_exit(mut self, exit: ExitKind) -> Self {
        self.exit = exit;
        self
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

/// A note or a warning that is not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: NoticeSeverity,
    /// The message, in one line.
    pub message: String,
    /// A heading of a few words, for outputs that have one.
    pub title: Option<String>,
    /// The location in the user's files.
    pub location: Option<SourceLocation>,
}

/// A location in a file, for editors and CIs that show messages there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file, absolute.
    pub path: std::path::PathBuf,
    /// The line, from 1; none for the whole file.
    pub line: Option<u64>,
    /// The column, from 1, if it is known.
    pub column: Option<u64>,
}

/// How much a [`Notice`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeSeverity {
    /// Information that needs no action.
    Note,
    /// A problem that does not stop the runner.
    Warning,
}

impl Notice {
    /// Information that needs no action.
    pub fn note(message: impl Into<String>) -> Self {
        Self { severity: NoticeSeverity::Note, message: message.into(), title: None, location: None }
    }

    /// A problem that does not stop the runner.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: NoticeSeverity::Warning, message: message.into(), title: None, location: None }
    }
}
