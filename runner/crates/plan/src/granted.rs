//! The resources that a plan grants to a step.
//!
//! Invariant: a value that may contain a secret is a [`ConfidentialText`], which also has the form that people may see. Deliberately absent:
//! how they are read ([`super::grants`]), and enforcement, which is the sandbox's task.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::wire;
use contract::{GrantName, Secret};

/// The resources that a step may use. Everything else is denied.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StepGrants {
    /// The directories, which the step sees as `/<name>`.
    pub dirs: BTreeMap<GrantName, DirGrant>,
    /// The HTTP origins.
    pub http: Vec<HttpGrant>,
    /// The TCP addresses, `host:port`.
    pub tcp: Vec<String>,
    /// The databases.
    pub databases: BTreeMap<GrantName, DatabaseGrant>,
    /// The argument vectors of programs.
    pub programs: Vec<ProgramGrant>,
    /// The environment variables of those programs.
    pub env: BTreeMap<String, EnvGrant>,
    /// The absolute paths of unix sockets: `unix://<name>/` over HTTP, or as they are.
    pub sockets: BTreeMap<GrantName, PathBuf>,
    /// The directories in which the host renders templates for the step. The step itself can't read or write there.
    pub renders: BTreeMap<GrantName, RenderGrant>,
    /// The secrets that it may use, by their names in the plan.
    pub secrets: BTreeMap<String, SecretGrant>,
}

/// A directory in which the host renders templates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderGrant {
    /// Its absolute path.
    pub path: PathBuf,
    /// Whether the plan writes it relative to its folder.
    pub is_relative: bool,
}

/// Where the plan grants something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantSource {
    /// In the `grants` of the step.
    Step,
    /// In `dirs` or `http` at the top level, by this name.
    Shared(GrantName),
    /// In the step's `with`, at this JSON pointer: a program or URL that is known before the run is its own grant.
    Config(String),
}

impl GrantSource {
    /// Whether the grant follows from the step's `with`.
    #[must_use]
    pub fn is_implied(&self) -> bool {
        matches!(self, Self::Config(_))
    }
}

impl StepGrants {
    /// The values that may contain secrets.
    pub fn confidential_texts(&self) -> impl Iterator<Item = &Secret> {
        let headers = self.http.iter().flat_map(|grant| grant.headers.iter().map(|(_, text)| &text.value));
        let databases = self.databases.values().map(|grant| &grant.url.value);
        let variables = self.env.values().filter_map(|grant| match grant {
            EnvGrant::Set(text) => Some(&text.value),
            EnvGrant::SetByStep => None,
        });
        headers.chain(databases).chain(variables).chain(self.secrets.values().map(|grant| &grant.value))
    }

    /// The granted directory that a text names ([`split_dir_path`]), and the path below it; none if it is not granted.
    #[must_use]
    pub fn dir_of<'t>(&self, text: &'t str) -> Option<(&DirGrant, &'t str)> {
        let (name, path) = split_dir_path(text);
        let (_, grant) = self.dirs.iter().find(|(granted, _)| granted.as_str() == name)?;
        Some((grant, path))
    }

    /// The host path that a text names; none if its directory is not granted. It may lead out of the directory by `..` or a link:
    /// who opens it checks that.
    #[must_use]
    pub fn host_path(&self, text: &str) -> Option<PathBuf> {
        let (grant, path) = self.dir_of(text)?;
        Some(if path.is_empty() { grant.path.clone() } else { grant.path.join(path) })
    }
}

/// Splits `<granted directory>/<path>` into the name and the path below the directory, empty for the directory itself. A step sees a
/// directory as `/<name>`, so slashes before the name mean nothing, and neither do more than one after it.
#[must_use]
pub fn split_dir_path(text: &str) -> (&str, &str) {
    let (name, path) = text.trim_start_matches('/').split_once('/').unwrap_or((text.trim_start_matches('/'), ""));
    (name, path.trim_start_matches('/'))
}

/// A granted directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirGrant {
    /// The absolute path.
    pub path: PathBuf,
    /// The access: read, or read and write.
    pub access: DirAccess,
    /// Whether the plan writes it relative to its folder: then it is on the runner's machine, also for a step on another host.
    pub is_relative: bool,
    /// Where the plan grants it.
    pub source: GrantSource,
}

/// How a directory may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirAccess {
    /// `path:ro`.
    ReadOnly,
    /// `path`, or `path:rw`.
    ReadWrite,
}

/// A granted HTTP origin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HttpGrant {
    /// `http` or `https`.
    pub scheme: String,
    /// A lower-case DNS name or an IP literal (an IPv6 one without brackets).
    pub host: String,
    /// The port, the scheme's default filled in.
    pub port: u16,
    /// The methods in upper case; `None` for all.
    pub methods: Option<Vec<String>>,
    /// Whether a name may resolve to a private address.
    pub network: NetworkScope,
    /// The headers that the runner adds.
    pub headers: Vec<(String, ConfidentialText)>,
    /// Where the plan grants it.
    pub source: GrantSource,
}

impl HttpGrant {
    /// The origin with its port, as a plan writes it.
    #[must_use]
    pub fn origin(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{}://{host}:{}", self.scheme, self.port)
    }
}

/// Which addresses a granted name may resolve to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkScope {
    /// Public addresses; a private one only if the grant names it: an IP literal or `localhost`.
    #[default]
    Public,
    /// `private: true`: also private addresses (never link-local ones).
    Private,
}

/// A granted database.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatabaseGrant {
    /// The URL; `sqlite:<absolute path>` is resolved against the plan's folder. A server's URL is valid.
    pub url: ConfidentialText,
}

/// A granted argument vector, the program first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramGrant {
    /// One pattern per argument.
    pub arguments: Vec<ArgumentPattern>,
    /// Where the plan grants it.
    pub source: GrantSource,
}

/// A pattern that matches arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArgumentPattern {
    /// Exactly this text.
    Exact(String),
    /// `*`: any single argument.
    AnyOne,
    /// `**`, at the end: any further arguments.
    AnyRest,
}

impl ArgumentPattern {
    /// The text that it matches, or the pattern as a plan writes it.
    #[must_use]
    pub fn written(&self) -> &str {
        match self {
            Self::Exact(text) => text,
            Self::AnyOne => "*",
            Self::AnyRest => "**",
        }
    }
}

/// An environment variable of granted programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum EnvGrant {
    /// The host sets the variable.
    Set(ConfidentialText),
    /// The step may set the variable: `NAME:` without a value.
    SetByStep,
}

/// A granted secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretGrant {
    /// The value.
    #[serde(with = "wire::secret")]
    pub value: Secret,
    /// Whether the step may only use it, or also see it.
    pub access: SecretAccess,
}

/// What a step may do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretAccess {
    /// Use it by handle, in headers and in the environments of programs.
    Use,
    /// See its value as well.
    Reveal,
}

/// A string that may contain secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfidentialText {
    /// The string with its lookups of secrets as written, for fingerprints and reports.
    pub written: String,
    /// The string with the secrets substituted.
    #[serde(with = "wire::secret")]
    pub value: Secret,
}
