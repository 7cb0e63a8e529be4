//! Why a repository can't be created on a forge, with the next thing to do.

use super::address::{ForgeAddress, ForgeKind};
use contract::{
    diagnostic::{Diagnostic, ErrorCode},
    text::escape_line,
};

/// How far the command came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitProgress {
    NothingWritten,
    /// The files are there, in the first commit.
    Committed,
}

/// Why a repository can't be created or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForgeError {
    #[error("{why}")]
    Setup { why: String },
    /// Nobody answers, or the connection broke.
    #[error("the forge can't be reached, or ended the connection: {why}")]
    Unreachable { why: String },
    #[error("the forge does not accept the token (status 401){}", after_colon(.said))]
    Unauthorized { said: String },
    /// `missing` is what the token lacks, if the forge says so.
    #[error("{}", forbidden(.said, .missing.as_deref()))]
    Forbidden { said: String, missing: Option<String> },
    #[error("the forge has no {what} called {owner}, or does not show it to {login}")]
    NoOwner { what: &'static str, owner: String, login: String },
    /// The name is taken by what the token may not see.
    #[error("the name is taken by a repository that the token can't see{}", after_colon(.said))]
    NameTaken { said: String },
    #[error("the forge limits the number of calls{}", pause(.seconds.as_deref()))]
    TooManyCalls { seconds: Option<String> },
    #[error("the forge answered with status {status}{}", after_colon(.said))]
    Status { status: u16, said: String },
    #[error("the answer is not one of this forge's API: {why}")]
    Strange { why: String },
    #[error("its newest commit is {}", escape_line(.head))]
    HasCommits { head: String },
    #[error("it is {}, and `--public` was not given", escape_line(.visibility))]
    NotPrivate { visibility: String },
}

fn after_colon(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {}", escape_line(said)) }
}

fn forbidden(said: &str, missing: Option<&str>) -> String {
    match missing {
        Some(missing) => format!("the token lacks {}", escape_line(missing)),
        None => format!("the forge does not allow it{}", after_colon(said)),
    }
}

fn pause(seconds: Option<&str>) -> String {
    seconds.map(|seconds| format!(", and asks to wait {} s", escape_line(seconds))).unwrap_or_default()
}

impl ForgeError {
    fn hint(&self, address: &ForgeAddress, variable: &str) -> String {
        let rights = match address.kind {
            ForgeKind::Github => "the scope `repo`, or for a fine-grained one `Administration: write`",
            ForgeKind::Gitlab => "the scope `api`",
        };
        let again = "and repeat the same command: it goes on where it stopped";
        match self {
            Self::Setup { .. } => {
                format!("check {variable}, and that the system has ca-certificates; or set SSL_CERT_FILE")
            }
            Self::Unreachable { .. } => format!("check the address and the network, {again}"),
            Self::Unauthorized { .. } => format!("put a valid token with {rights} into {variable}, {again}"),
            Self::Forbidden { .. } => {
                format!(
                    "use a token in {variable} with {rights}, of a user who may create repositories for {}, {again}",
                    address.owner
                )
            }
            Self::NoOwner { .. } => {
                "correct the owner in the address, or use the token of one of its members".to_owned()
            }
            Self::NameTaken { .. } => "choose another name in the address, or use a token that can see it".to_owned(),
            Self::TooManyCalls { .. } => format!("wait, {again}"),
            Self::Status { status, .. } if *status >= 500 => {
                format!("wait until {} works again, {again}", address.host)
            }
            Self::Status { .. } | Self::Strange { .. } => {
                format!(
                    "check that {} is {}, or create the repository by hand, and leave out `--create`, `--public` and `--forge`",
                    address.host,
                    address.kind.name()
                )
            }
            Self::HasCommits { .. } => {
                "choose another name in the address; or clone that repository, and run `runner init` there".to_owned()
            }
            Self::NotPrivate { .. } => {
                "make it private, or choose another name; if everybody may see the files, add `--public`".to_owned()
            }
        }
    }

    /// The error as users see it.
    pub(super) fn diagnostic(&self, address: &ForgeAddress, variable: &str, progress: InitProgress) -> Diagnostic {
        let written = match progress {
            InitProgress::NothingWritten => "",
            InitProgress::Committed => "the files are written, but ",
        };
        let (code, message) = match self {
            Self::HasCommits { .. } => (ErrorCode::RepositoryUnusable, format!("{written}{address} is not empty")),
            Self::NotPrivate { .. } => (ErrorCode::RepositoryUnusable, format!("{written}{address} is not private")),
            Self::Setup { .. }
            | Self::Unreachable { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::NoOwner { .. }
            | Self::NameTaken { .. }
            | Self::TooManyCalls { .. }
            | Self::Status { .. }
            | Self::Strange { .. } => (ErrorCode::ForgeRefused, format!("{written}{address} can't be created")),
        };
        Diagnostic::new(code, message).with_cause(self).with_hint(self.hint(address, variable))
    }
}
