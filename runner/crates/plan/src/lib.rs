//! Text → [`Plan`]: schema, expressions, validation. Pure: no clock, no environment, no file is read here.
//!
//! The way of a text: `yaml` (tree with positions) → `document` (top level) → `step` and `grants`, which read mappings
//! through `fields` and substitute through `scope` → `order` (the graph of `needs`). Every room pushes what is wrong
//! into `PlanErrorCollector` and goes on, so that one parse finds many errors.
//!
//! A plan that exists is well formed: names parse, `needs` has no cycle, references hold, every look-up that can
//! be known before the run is substituted. What is deliberately absent: whether a directory exists, what a module
//! needs and its phase (`drive` compares that in the preflight), and the values of later steps' outputs.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use contract::{
    AppName, AttemptNumber, EnvironmentName, GrantName, Label, RunId, Secret, StepId,
    diagnostic::{Diagnostic, ErrorCode},
};

mod address;
mod document;
mod error;
mod expression;
mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod grants;
mod hooks;
pub mod lockfile;
mod needs_graph;
mod paths;
mod registry;
mod scalar;
mod schema;
mod scope;
mod server_url;
mod state_location;
mod step;
#[cfg(test)]
mod tests;
mod yaml;

pub use document::{HistoryLocation, environments, locate_history};
pub use error::{PlanError, PlanErrors, Problem};
pub use expression::{DeferredLookup, PendingValue};
pub use registry::RegistryRef;
pub use schema::schema;
pub use server_url::{ServerEndpoint, ServerEngine, ServerTlsMode, ServerUrl};

/// What a plan is parsed for.
pub struct PlanRequest<'a> {
    /// The environment asked for; may be left out when the plan has only one.
    pub environment: Option<&'a str>,
    /// The release to deploy.
    pub release: &'a Label,
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

/// `deploy.yml`, parsed and validated for one environment and one release.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where its text came from; positions in steps refer to it.
    pub source: PlanSource,
    /// The application.
    pub app: AppName,
    /// The environment chosen.
    pub environment: EnvironmentName,
    /// `after:` of that environment: where a release must have been verified before.
    pub after: Option<EnvironmentName>,
    /// Where what is deployed can be seen, for links.
    pub url: Option<String>,
    /// Where journals, head and lock live.
    pub state: StateLocation,
    /// Who may change that environment; empty: everybody.
    pub allow: Vec<AllowedOperator>,
    /// What `runner setup` runs before the steps.
    pub setup: Vec<PlanStep>,
    /// The steps in the order in which they run: a stable topological order of the order written.
    pub steps: Vec<PlanStep>,
    /// What runs around them.
    pub hooks: PlanHooks,
    /// How many verified releases stay when a deployment has succeeded; none: all.
    pub keep: Option<usize>,
    /// What happens when a step fails after the point of no return.
    pub on_failure: OnFailure,
    /// Every secret that the plan names, by name: what the redactor must know.
    pub secrets: BTreeMap<String, Secret>,
}

/// The text of a plan and where it lies.
#[derive(Clone, Debug)]
pub struct PlanSource {
    /// As the user named it.
    pub path: PathBuf,
    /// The absolute folder against which relative paths resolve.
    pub folder: PathBuf,
    /// The text.
    pub text: Arc<str>,
}

/// Where journals and lock live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateLocation {
    /// A folder, absolute. `dir:.pawl` by default.
    Dir(PathBuf),
    /// A place that several machines reach.
    Remote(RemoteState),
}

/// State in a place that several machines reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteState {
    /// As written, for messages: `git:origin`, `s3://bucket/prefix`.
    pub written: String,
    /// Where.
    pub location: RemoteLocation,
    /// The plan's folder, absolute: where git finds the remote that is meant.
    pub folder: PathBuf,
    /// A folder of this machine for what was read from there, and is not yet there; this user's, and of this plan alone.
    pub cache: PathBuf,
    /// How long a holder of the lock may be silent.
    pub ttl: Duration,
    /// Variables of the environment that say how to get there.
    pub settings: BTreeMap<String, Secret>,
}

/// A place that several machines reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteLocation {
    /// A git repository: the name of a remote, a URL, or a path.
    Git(String),
    /// A bucket of an object store that speaks S3, and what the names in it begin with.
    S3 { bucket: String, prefix: String },
}

/// `on-failure:`, the reaction to a failure after the point of no return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Stay as it is.
    #[default]
    Hold,
    /// Undo back to the step that exposed the release.
    Rollback,
}

/// Who may change an environment, as `allow:` names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOperator {
    /// `github:LOGIN`.
    GitHub(String),
    /// `user:NAME`, a user of the operating system.
    User(String),
}

/// Steps around a deployment: run in each attempt, never skipped.
#[derive(Clone, Debug, Default)]
pub struct PlanHooks {
    /// Before the first step; a failure ends the attempt, with nothing touched.
    pub before: Vec<PlanStep>,
    /// Once all steps have succeeded; a failure is said, and changes nothing.
    pub after: Vec<PlanStep>,
    /// Once a step has failed, and was rolled back if the plan says so.
    pub on_failure: Vec<PlanStep>,
}

impl PlanHooks {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &PlanStep> {
        self.before.iter().chain(&self.after).chain(&self.on_failure)
    }
}

/// A named node of the plan.
#[derive(Clone, Debug)]
pub struct PlanStep {
    /// Its name.
    pub id: StepId,
    /// The module it uses.
    pub uses: ModuleRef,
    /// The configuration, a JSON object. Values listed in `pending` still stand as written: see [`PlanStep::config`].
    pub with: Value,
    /// The values of `with` that hold look-ups of `steps` or `run`, by JSON pointer. Their type is not known yet.
    pub pending: BTreeMap<String, PendingValue>,
    /// What it may reach.
    pub grants: StepGrants,
    /// The directories that any step of the plan may write to: whoever opens something below one must not follow a link out of
    /// it, which a step may have put there.
    pub writable_dirs: Vec<PathBuf>,
    /// The steps it depends on directly.
    pub needs: Vec<StepId>,
    /// Longest time one call may take.
    pub timeout: Duration,
    /// How many times more a retryable failure is tried.
    pub retry: u32,
    /// Whether the plan says that this step is as strong as the host.
    pub trust: StepTrust,
    /// `irreversible: true`: what it did can't be taken back, so a rollback that would pass over it stops.
    pub irreversible: bool,
    /// Byte range of the step's name in the source, for errors.
    pub span: Range<usize>,
    /// Byte ranges of `with` and what is in it, by JSON pointer (`` for `with` itself), for errors.
    pub with_spans: BTreeMap<String, Range<usize>>,
}

impl Plan {
    /// Parses and validates a plan for one environment and one release.
    ///
    /// # Errors
    /// Everything that is wrong with it, as far as it can be found at once (at most 20 errors).
    pub fn parse(source: PlanSource, request: &PlanRequest<'_>) -> Result<Self, PlanErrors> {
        document::parse(source, request)
    }

    /// The steps, and those of the hooks.
    pub fn all_steps(&self) -> impl Iterator<Item = &PlanStep> {
        self.steps.iter().chain(self.hooks.iter())
    }

    /// The plan with what `runner setup` runs first.
    #[must_use]
    pub fn for_setup(mut self) -> Self {
        self.steps.splice(0..0, self.setup.iter().cloned());
        self
    }

    /// An error found later than parsing that points into the plan: an unknown module, a missing grant.
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
    /// `with`, with the look-ups of earlier steps' outputs and of the run substituted.
    ///
    /// A value that is one look-up and nothing else keeps the type of the output.
    ///
    /// # Errors
    /// [`Problem::UndefinedLookup`] when a step has no such output, [`Problem::WrongType`] when a list or a mapping would
    /// have to be put inside a text.
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

/// The module a step uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleRef {
    /// One that the binary carries: `uses: pull`.
    Official(String),
    /// A component in a file, absolute: `uses: ./steps/x.wasm`.
    File(PathBuf),
    /// One in a registry: `uses: oci://registry.example.com/steps/warm@sha256:…`.
    Registry(RegistryRef),
}

/// Whether a step is held to its sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepTrust {
    /// It reaches what is granted, and no more.
    #[default]
    Sandbox,
    /// `trust: host`: it is granted something through which it can do whatever the host can.
    Host,
}

/// What a step may reach. Everything else is denied.
#[derive(Clone, Debug, Default)]
pub struct StepGrants {
    /// Directories, seen by the step as `/<name>`.
    pub dirs: BTreeMap<GrantName, DirGrant>,
    /// HTTP origins.
    pub http: Vec<HttpGrant>,
    /// TCP addresses, `host:port`.
    pub tcp: Vec<String>,
    /// Databases.
    pub databases: BTreeMap<GrantName, DatabaseGrant>,
    /// Argument vectors of programs.
    pub programs: Vec<ProgramGrant>,
    /// The environment of those programs.
    pub env: BTreeMap<String, EnvGrant>,
    /// Unix sockets, asked over HTTP as `unix://<name>/`: their absolute paths.
    pub sockets: BTreeMap<GrantName, PathBuf>,
    /// Secrets that it may use, by the plan's name.
    pub secrets: BTreeMap<String, SecretGrant>,
}

/// A granted directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirGrant {
    /// Its absolute path.
    pub path: PathBuf,
    /// Read, or read and write.
    pub access: DirAccess,
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
    /// Upper-case methods; `None` for all.
    pub methods: Option<Vec<String>>,
    /// Whether a name may resolve to a private address.
    pub network: NetworkScope,
    /// Headers that the host adds.
    pub headers: Vec<(String, ConfidentialText)>,
}

/// Which addresses a granted name may resolve to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkScope {
    /// Public ones; a private one only if the grant names it: an IP literal or `localhost`.
    #[default]
    Public,
    /// `private: true`: private ones too (never link-local ones).
    Private,
}

/// A granted database.
#[derive(Clone, Debug)]
pub struct DatabaseGrant {
    /// Its URL; `sqlite:<absolute path>` is resolved against the plan's folder. A server's is well formed.
    pub url: ConfidentialText,
}

/// A granted argument vector, the program first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramGrant {
    /// One pattern an argument.
    pub arguments: Vec<ArgumentPattern>,
}

/// What an argument may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentPattern {
    /// This text.
    Exact(String),
    /// `*`: any one argument.
    AnyOne,
    /// `**`, at the end: any further arguments.
    AnyRest,
}

/// An environment variable of granted programs.
#[derive(Clone, Debug)]
pub enum EnvGrant {
    /// The host sets it.
    Set(ConfidentialText),
    /// The step may set it: `NAME:` without a value.
    SetByStep,
}

/// A granted secret.
#[derive(Clone, Debug)]
pub struct SecretGrant {
    /// Its value.
    pub value: Secret,
    /// Use it, or see it.
    pub access: SecretAccess,
}

/// What a step may do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretAccess {
    /// Put it where the host takes handles: headers, environments of programs.
    Use,
    /// See its value too.
    Reveal,
}

/// A text in which secrets may have been substituted.
#[derive(Clone, Debug)]
pub struct ConfidentialText {
    /// The text with its look-ups of secrets left as written: what fingerprints and reports see.
    pub written: String,
    /// The text with them substituted.
    pub value: Secret,
}
