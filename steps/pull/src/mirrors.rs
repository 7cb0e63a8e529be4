//! The sources of one release: the first one that has it counts.
//!
//! Every mirror must have the same content, by the digest. One that has another content is passed over like one that does not answer, but
//! never silently: the log says which mirror failed and why, and the failure of all of them says it of each.

use serde::Deserialize;

use pawl_step::{Failure, FailureKind, log};

/// One source, or several with the same content.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum SourceMirrors {
    /// The only source.
    One(String),
    /// Several, in the order in which they are tried.
    Several(Vec<String>),
}

impl SourceMirrors {
    /// Returns the sources in their order.
    pub(crate) fn sources(&self) -> &[String] {
        match self {
            Self::One(source) => core::slice::from_ref(source),
            Self::Several(sources) => sources,
        }
    }

    /// Returns the sources for people.
    pub(crate) fn display(&self) -> String {
        self.sources().join(" or ")
    }

    /// Returns the granted directories that sources are in.
    pub(crate) fn dirs(&self) -> Vec<&str> {
        self.sources().iter().filter_map(|source| source_dir(source)).collect()
    }

    /// Tries each source until one succeeds. Returns it too.
    pub(crate) fn first<T>(&self, mut attempt: impl FnMut(&str) -> Result<T, Failure>) -> Result<(&str, T), Failure> {
        let mut failed: Vec<(&str, Failure)> = Vec::new();
        let mut sources = self.sources().iter().map(String::as_str).peekable();
        while let Some(source) = sources.next() {
            match attempt(source) {
                Ok(found) => return Ok((source, found)),
                Err(failure) => {
                    if let Some(next) = sources.peek() {
                        log::warn(format!("mirror `{source}` failed, trying `{next}`: {}", failure.message));
                    }
                    failed.push((source, failure));
                }
            }
        }
        Err(failure_of_all(failed))
    }
}

/// Returns the grant of a `file:` source.
pub(crate) fn source_dir(from: &str) -> Option<&str> {
    let path = from.strip_prefix("file:")?;
    path.trim_start_matches('/').split('/').next()
}

/// Returns the failure of the only source, or one that says what each of several failed with.
fn failure_of_all(failed: Vec<(&str, Failure)>) -> Failure {
    let said: Vec<String> = failed.iter().map(|(source, failure)| format!("`{source}`: {}", failure.message)).collect();
    let retryable = failed.iter().any(|(_, failure)| failure.retryable);
    let is_bad = failed.iter().any(|(_, failure)| failure.kind == FailureKind::BadContent);
    let Some((_, last)) = failed.into_iter().last() else {
        return Failure::invalid_config("`from` has no source");
    };
    if said.len() == 1 {
        return last;
    }
    Failure {
        kind: if is_bad { FailureKind::BadContent } else { last.kind.clone() },
        message: format!("none of the {} mirrors has the release: {}", said.len(), said.join("; ")),
        retryable,
        ..last
    }
}
