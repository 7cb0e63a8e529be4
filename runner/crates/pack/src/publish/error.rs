//! Why something can't be published, with the next thing to do.

use std::io;

use contract::{
    Digest,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    text::escape_line,
};

/// Why something can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The target or the file is none.
    #[error("{0}")]
    Invalid(String),
    /// A pipe brought nothing, or a part.
    #[error("{0}: the program before the pipe has failed")]
    BrokenPipe(&'static str),
    /// The file is not what its checksum says.
    #[error("the file has the digest {found}, but {checksum_file} says {expected}")]
    WrongChecksum { checksum_file: String, expected: Digest, found: Digest },
    #[error("can't {action}: {source}")]
    Io { action: String, source: io::Error },
    /// Nobody answers, or the connection broke.
    #[error("{peer} can't be reached, or ended the connection: {why}")]
    Unreachable { peer: String, why: String },
    #[error("{peer} refuses the credentials (status {status})")]
    Denied { peer: String, status: u16, has_credentials: bool },
    #[error("{peer} answered with status {status} to {what}{}", said(.body))]
    Status { peer: String, status: u16, what: String, body: String },
    #[error("{peer} has no room (status {status})")]
    ServerFull { peer: String, status: u16 },
    /// What is there afterwards is not what was sent.
    #[error("{location} is damaged after the upload: {why}")]
    Damaged { location: String, why: String },
    /// Another content has this name.
    #[error("{location} is {found}; this one is {ours}")]
    Differs { location: String, found: String, ours: Digest },
    /// Credentials that exist can't be used.
    #[error("{0}")]
    Credentials(String),
    #[error("{peer} sent what no such server sends: {why}")]
    Protocol { peer: String, why: String },
}

fn said(body: &str) -> String {
    let line = body.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let text: String = line.trim().chars().take(200).collect();
    if text.is_empty() { String::new() } else { format!(": {}", escape_line(&text)) }
}

/// Where the credentials of a target come from.
fn credentials_hint(target: &str) -> &'static str {
    match target.split_once("://").map(|(scheme, _)| scheme) {
        Some("oci") => {
            "`docker login`; or `--authorization NAME`, a variable with `Basic USER:PASSWORD` or `Bearer TOKEN`"
        }
        Some("s3") => "the variables `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or a role of this machine",
        Some(_) | None => "`--authorization NAME`, a variable with `Basic USER:PASSWORD` or `Bearer TOKEN`",
    }
}

impl PublishError {
    /// For `map_err`: an error of this machine's files.
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            Self::Invalid(_)
            | Self::BrokenPipe(_)
            | Self::WrongChecksum { .. }
            | Self::Io { .. }
            | Self::Denied { .. }
            | Self::ServerFull { .. }
            | Self::Damaged { .. }
            | Self::Differs { .. }
            | Self::Credentials(_)
            | Self::Protocol { .. } => false,
        }
    }

    fn hint(&self, target: &str) -> String {
        match self {
            Self::Invalid(_) => {
                "write FILE and then a folder, https://…, s3://BUCKET/KEY, oci://REGISTRY/NAME:TAG or pypi+https://…"
                    .to_owned()
            }
            Self::BrokenPipe(_) => "correct what that program reports, then run both again".to_owned(),
            Self::WrongChecksum { .. } => "pack it again, or fetch it again from where it was packed".to_owned(),
            Self::Io { .. } => "free some space, or check the path and its permissions; then publish again".to_owned(),
            Self::Unreachable { .. } | Self::Status { .. } => {
                "when the server works, publish again with the same command; a registry or a bucket is not sent again what it has"
                    .to_owned()
            }
            Self::Denied { has_credentials: false, .. } => format!("give credentials: {}", credentials_hint(target)),
            Self::Denied { .. } => "check the credentials, and that this user may write there".to_owned(),
            Self::ServerFull { .. } => "free some space on the server, then publish again".to_owned(),
            Self::Damaged { .. } => "publish under another name, and find out what changed it".to_owned(),
            Self::Differs { .. } => "give this content a version of its own, and publish that".to_owned(),
            Self::Credentials(_) => format!("give other credentials: {}", credentials_hint(target)),
            Self::Protocol { .. } => "check that the address is that of such a server".to_owned(),
        }
    }

    /// The error as users see it, for a target.
    #[must_use]
    pub fn diagnostic(&self, target: &str) -> Diagnostic {
        let (code, message) = match self {
            Self::Differs { .. } => (
                ErrorCode::PublishedDiffers,
                format!("can't publish to {}: another content has this name", escape_line(target)),
            ),
            Self::Invalid(_)
            | Self::BrokenPipe(_)
            | Self::WrongChecksum { .. }
            | Self::Io { .. }
            | Self::Unreachable { .. }
            | Self::Denied { .. }
            | Self::Status { .. }
            | Self::ServerFull { .. }
            | Self::Damaged { .. }
            | Self::Credentials(_)
            | Self::Protocol { .. } => (ErrorCode::PublishFailed, format!("can't publish to {}", escape_line(target))),
        };
        let diagnostic = Diagnostic::new(code, message).with_cause(self).with_hint(self.hint(target));
        match self {
            Self::Invalid(_) | Self::BrokenPipe(_) | Self::WrongChecksum { .. } => {
                diagnostic.with_exit(ExitKind::Refused)
            }
            Self::Io { .. }
            | Self::Unreachable { .. }
            | Self::Denied { .. }
            | Self::Status { .. }
            | Self::ServerFull { .. }
            | Self::Damaged { .. }
            | Self::Differs { .. }
            | Self::Credentials(_)
            | Self::Protocol { .. } => diagnostic,
        }
    }
}
