//! Parses the text of a plan into a validated [`Plan`]. Pure: no clock, no environment, no files.
//!
//! A text passes through `yaml` (tree with positions) → `document` (top level) → `step` and `grants`, which read mappings
//! through `fields` and substitute through `scope` → `needs_graph` (the order of steps). `expanded` writes a plan without short forms. Every module adds its errors to
//! `PlanErrorCollector` and continues, so that one parse finds many errors.
//!
//! Invariant: in a [`Plan`], names are valid, `needs` has no cycle, references resolve, and every lookup that is known before
//! the run is substituted. Deliberately absent: whether a directory exists, what a module needs and its phase (the preflight
//! in `deploy` compares that), and the outputs of steps.

use std::{collections::BTreeMap, fmt, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use contract::{
    AppName, AttemptNumber, EnvironmentName, GrantName, Label, RunId, Secret, StepId,
    diagnostic::{Diagnostic, ErrorCode},
};

mod address;
mod document;
mod environments;
mod error;
mod expanded;
mod expression;
mod fields;
mod forgotten_dollar;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod grants;
mod hooks;
mod implied_grants;
pub mod lockfile;
mod needs_graph;
mod paths;
mod registry;
mod release_path;
mod scalar;
mod schema;
mod scope;
mod secrets;
mod server_url;
mod state_location;
mod step;
#[cfg(test)]
mod tests;
mod type_hint;
mod written_grants;
mod yaml;

pub use document::{HistoryLocation, environments, locate_history};
pub use error::{PlanError, PlanErrors, closest_match, quoted_list};
pub use expression::{DeferredLookup, PendingValue};
pub use paths::normalize;
pub use registry::RegistryRef;
pub use schema::{ModuleSchema, schema};
pub use server_url::{ServerEndpoint, ServerEngine, ServerTlsMode, ServerUrl};
pub use type_hint::flow_scalar;
pub use written_grants::{WrittenGrantForm, WrittenGrants};

/// The environment and release that a plan is parsed for.
pub struct PlanRequest<'a> {
    /// The requested environment; optional if the plan has only one.
    pub environment: Option<&'a str>,
    /// The release to deploy.
    pub release: &'a Label,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// The search path of granted programs if the plan sets none.
pub const DEFAULT_PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A plan, parsed and validated for one environment and one release.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The text of the plan, which the spans of steps refer to.
    pub source: PlanSource,
    /// The application.
    pub app: AppName,
    /// The chosen environment.
    pub environment: EnvironmentName,
    /// `after:` of that environment: the environment in which a release must be verified first.
    pub after: Option<EnvironmentName>,
    /// The location of that environment's journals and lock, if it is known here.
    pub after_state: Option<StateLocation>,
    /// The web address of the environment, for links.
    pub url: Option<String>,
    /// The location of journals and lock.
    pub state: StateLocation,
    /// The users who may change that environment; empty for everybody.
    pub allow: Vec<AllowedOperator>,
    /// The steps that `runner setup` runs before the others.
    pub setup: Vec<PlanStep>,
    /// The steps in the order in which they run: topological, and otherwise as written.
    pub steps: Vec<PlanStep>,
    /// The steps that run around them.
    pub hooks: PlanHooks,
    /// The number of verified releases to keep after a successful deployment; none for all.
    pub keep: Option<usize>,
    /// The reaction to a failure after the point of no return.
    pub on_failure: OnFailure,
    /// All secrets of the plan that have a value, by name, for the redactor. With them are the passwords in database URLs.
    pub secrets: BTreeMap<String, Secret>,
    /// The secrets that the environment declares, and the environment variables that contain them.
    pub secret_variables: BTreeMap<String, String>,
}

/// The text of a plan and its location.
#[derive(Clone, Debug)]
pub struct PlanSource {
    /// The path, as the user gave it.
    pub path: PathBuf,
    /// The absolute folder against which relative paths resolve.
    pub folder: PathBuf,
    /// The text.
    pub text: Arc<str>,
}

/// The location of journals and lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateLocation {
    /// An absolute folder; by default `dir:.pawl`.
    Dir(PathBuf),
    /// A location that several machines share.
    Remote(RemoteState),
}

/// The configuration of a state that several machines share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteState {
    /// The location as written, for messages: `git:origin`, `s3://bucket/prefix`.
    pub written: String,
    /// The repository or bucket.
    pub location: RemoteLocation,
    /// The plan's absolute folder, where git resolves the name of a remote.
    pub folder: PathBuf,
    /// A local folder for journals that were downloaded, or not uploaded yet; for this user and plan only.
    pub cache: PathBuf,
    /// The lease of the lock.
    pub ttl: Duration,
    /// The environment variables that configure access to it.
    pub settings: BTreeMap<String, Secret>,
    /// The environment variables of the plan's secrets. Programs that reach the state do not get them: while one runs, every program of
    /// the same user can read its environment.
    pub withheld_variables: Vec<String>,
}

/// A storage that several machines share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteLocation {
    /// A git repository: the name of a remote, a URL, or a path.
    Git(String),
    /// A bucket of an S3-compatible object store, and the prefix of names in it.
    S3 { bucket: String, prefix: String },
}

/// `on-failure:`, the reaction to a failure after the point of no return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Leave everything as it is.
    #[default]
    Hold,
    /// Undo all steps back to the one that exposed the release.
    Rollback,
}

/// A user who may change an environment, as in `allow:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOperator {
    /// `github:LOGIN`.
    GitHub(String),
    /// `github-team:ORGANIZATION/TEAM`, the members of a team.
    GitHubTeam { organization: String, team: String },
    /// `user:NAME`, a user of the operating system.
    User(String),
}

impl fmt::Display for AllowedOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GitHub(login) => write!(f, "github:{login}"),
            Self::GitHubTeam { organization, team } => write!(f, "github-team:{organization}/{team}"),
            Self::User(name) => write!(f, "user:{name}"),
        }
    }
}

/// Steps around a deployment: run in each attempt, never skipped.
#[derive(Clone, Debug, Default)]
pub struct PlanHooks {
    /// They run before the first step; a failure ends the attempt before anything changes.
    pub before: Vec<PlanStep>,
    /// They run after all steps have succeeded; a failure is reported, and changes nothing.
    pub after: Vec<PlanStep>,
    /// They run after a step has failed, and after the rollback if the plan asks for one.
    pub on_failure: Vec<PlanStep>,
}

impl PlanHooks {
    /// All steps of all hooks.
    pub fn iter(&self) -> impl Iterator<Item = &PlanStep> {
        self.before.iter().chain(&self.after).chain(&self.on_failure)
    }
}

/// A step of the plan.
#[derive(Clone, Debug)]
pub struct PlanStep {
    /// The step's name.
    pub id: StepId,
    /// The module that it uses.
    pub uses: ModuleRef,
    /// The plan's absolute folder, where `./program` is looked up.
    pub plan_dir: PathBuf,
    /// The configuration, a JSON object. Values listed in `pending` are still as written: see [`PlanStep::config`].
    pub with: Value,
    /// The values of `with` with lookups of `steps` or `run`, by JSON pointer. Their types are not known yet.
    pub pending: BTreeMap<String, PendingValue>,
    /// The resources that it may use.
    pub grants: StepGrants,
    /// The directories that any step of the plan may write to. A path below one must be opened without following a link out of
    /// it, since a step may have put that link there.
    pub writable_dirs: Vec<PathBuf>,
    /// The steps it depends on directly.
    pub needs: Vec<StepId>,
    /// The longest time that one call may take.
    pub timeout: Duration,
    /// How often a retryable failure is retried.
    pub retry: u32,
    /// Whether the plan allows this step the host's power.
    pub trust: StepTrust,
    /// `irreversible: true`: its effect cannot be undone, so a rollback that would leave it in place does not begin.
    pub irreversible: bool,
    /// `always: true`: it runs in each attempt, so it must be safe to run again.
    pub always: bool,
    /// `after-undo:`, whether it runs again for the release that an undo of the exposing step switched back to; if left out, its
    /// module decides.
    pub after_undo: Option<bool>,
    /// Where its effects are.
    pub effects: EffectPlace,
    /// The byte range of the step's name in the source, for errors.
    pub span: Range<usize>,
    /// The byte ranges of the granted directories, for errors.
    pub dir_spans: BTreeMap<GrantName, Range<usize>>,
    /// The byte ranges of `with` and its values, by JSON pointer (`` for `with` itself), for errors.
    pub with_spans: BTreeMap<String, Range<usize>>,
    /// The byte ranges of the keys in `with`, by JSON pointer to their values, for errors.
    pub with_key_spans: BTreeMap<String, Range<usize>>,
    /// How its `grants:` are written, for hints.
    pub written_grants: WrittenGrants,
}

impl Plan {
    /// Parses and validates a plan for one environment and one release.
    ///
    /// # Errors
    /// The errors of the plan, at most 20.
    pub fn parse(source: PlanSource, request: &PlanRequest<'_>) -> Result<Self, PlanErrors> {
        document::parse(source, request)
    }

    /// The steps, followed by those of the hooks.
    pub fn all_steps(&self) -> impl Iterator<Item = &PlanStep> {
        self.steps.iter().chain(self.hooks.iter())
    }

    /// The plan with the setup steps before the others.
    #[must_use]
    pub fn for_setup(mut self) -> Self {
        self.steps.splice(0..0, self.setup.iter().cloned());
        self
    }

    /// Creates an error that points into the plan and is found after parsing: an unknown module, a missing grant.
    #[must_use]
    pub fn error_at(
        &self,
        code: ErrorCode,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
        hint: Option<String>,
    ) -> Diagnostic {
        self.source.error_at(code, Some(span), message, label, hint)
    }
}

impl PlanStep {
    /// The value of `with`, with the lookups of earlier steps' outputs and of the run substituted.
    ///
    /// A value that consists of one lookup keeps the type of the output.
    ///
    /// # Errors
    /// [`ErrorCode::UndefinedLookup`] if a step has no such output; [`ErrorCode::WrongType`] if a list or a mapping would become a
    /// part of a string.
    pub fn config(
        &self,
        outputs: &BTreeMap<StepId, Map<String, Value>>,
        run: &RunId,
        attempt: AttemptNumber,
    ) -> Result<Value, PlanError> {
        let mut config = self.with.clone();
        for (pointer, pending) in &self.pending {
            let value = config.pointer_mut(pointer).expect("`pending` is keyed by pointers into `with`");
            *value = pending.resolve(outputs, run, attempt)?;
        }
        Ok(config)
    }
}

/// The module that a step uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleRef {
    /// A module that is built into the binary: `uses: pull`.
    Official(String),
    /// A component in a file, by absolute path: `uses: ./steps/x.wasm`.
    File(PathBuf),
    /// A module in a registry: `uses: oci://registry.example.com/steps/warm@sha256:…`.
    Registry(RegistryRef),
}

/// Whether the sandbox confines a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepTrust {
    /// The step reaches only its grants.
    #[default]
    Sandbox,
    /// `trust: host`: through a grant, the step can do whatever the host can.
    Host,
}

/// `effects:`, where the effects of a step are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EffectPlace {
    /// On the machine that the step runs on.
    #[default]
    Here,
    /// On another one, so that a new machine finds them as this one does.
    Elsewhere,
}

/// The resources that a step may use. Everything else is denied.
#[derive(Clone, Debug, Default)]
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
    /// The absolute paths of unix sockets, reached over HTTP as `unix://<name>/`.
    pub sockets: BTreeMap<GrantName, PathBuf>,
    /// The secrets that it may use, by their names in the plan.
    pub secrets: BTreeMap<String, SecretGrant>,
}

/// Where the plan grants something.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirGrant {
    /// The absolute path.
    pub path: PathBuf,
    /// The access: read, or read and write.
    pub access: DirAccess,
    /// Where the plan grants it.
    pub source: GrantSource,
}

/// How a directory may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirAccess {
    /// `path:ro`.
    ReadOnly,
    /// `path`, or `path:rw`.
    ReadWrite,
}

/// A granted HTTP origin.
#[derive(Clone, Debug)]
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
    /// The headers that the host adds.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkScope {
    /// Public addresses; a private one only if the grant names it: an IP literal or `localhost`.
    #[default]
    Public,
    /// `private: true`: also private addresses (never link-local ones).
    Private,
}

/// A granted database.
#[derive(Clone, Debug)]
pub struct DatabaseGrant {
    /// The URL; `sqlite:<absolute path>` is resolved against the plan's folder. A server's URL is valid.
    pub url: ConfidentialText,
}

/// A granted argument vector, the program first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramGrant {
    /// One pattern per argument.
    pub arguments: Vec<ArgumentPattern>,
    /// Where the plan grants it.
    pub source: GrantSource,
}

/// A pattern that matches arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug)]
pub enum EnvGrant {
    /// The host sets the variable.
    Set(ConfidentialText),
    /// The step may set the variable: `NAME:` without a value.
    SetByStep,
}

/// A granted secret.
#[derive(Clone, Debug)]
pub struct SecretGrant {
    /// The value.
    pub value: Secret,
    /// Whether the step may only use it, or also see it.
    pub access: SecretAccess,
}

/// What a step may do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretAccess {
    /// Use it by handle, in headers and in the environments of programs.
    Use,
    /// See its value as well.
    Reveal,
}

/// A string that may contain secrets.
#[derive(Clone, Debug)]
pub struct ConfidentialText {
    /// The string with its lookups of secrets as written, for fingerprints and reports.
    pub written: String,
    /// The string with the secrets substituted.
    pub value: Secret,
}
