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

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use contract::{
    AppName, AttemptNumber, EnvironmentName, GrantName, HostGroup, Label, RunId, Secret, StepId, TargetName,
    diagnostic::{Diagnostic, ErrorCode, SourceExcerpt},
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
mod granted;
mod grants;
mod hooks;
mod hosts;
mod implied_grants;
mod inventory;
mod limit;
pub mod lockfile;
mod needs_graph;
mod oci_ref;
mod paths;
mod registry;
mod release_path;
mod rollout;
mod scalar;
mod schema;
mod scope;
mod secrets;
mod server_url;
mod ssh_options;
mod state_location;
mod step;
mod syntax_hint;
#[cfg(test)]
mod tests;
mod type_hint;
mod wire;
mod written_grants;
mod yaml;

pub use document::{EnvironmentHosts, HistoryLocation, environments, locate_history, locate_hosts};
pub use error::{PlanError, PlanErrors, closest_match, quoted_list};
pub use expression::{DeferredLookup, PendingValue};
pub use granted::{
    ArgumentPattern, ConfidentialText, DatabaseGrant, DirAccess, DirGrant, EnvGrant, GrantSource, HttpGrant,
    NetworkScope, ProgramGrant, RenderGrant, SecretAccess, SecretGrant, StepGrants, split_dir_path,
};
pub use hosts::{HostAddress, PlanHost};
pub use inventory::{InventoryReader, InventorySource, InventoryText, no_inventory};
pub use oci_ref::{OCI_SCHEME, OciRef};
pub use paths::normalize;
pub use registry::RegistryRef;
pub use rollout::Rollout;
pub use schema::{ModuleSchema, schema};
pub use server_url::{ServerEndpoint, ServerEngine, ServerTlsMode, ServerUrl};
pub use ssh_options::SshOptions;
pub use state_location::s3_settings;
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
    /// Reads the inventories of the environment.
    pub inventory: &'a InventoryReader<'a>,
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
    /// How ssh is called for the environment's hosts.
    pub ssh: SshOptions,
    /// The hosts of each group of the environment, in the order of the plan.
    pub host_groups: BTreeMap<HostGroup, Vec<Arc<PlanHost>>>,
    /// How a group of hosts gets a release; none: all at the same time, and a failure on one stops all.
    pub rollout: Option<Rollout>,
    /// The location of journals and lock.
    pub state: StateLocation,
    /// The users who may change that environment; empty for everybody.
    pub allow: Vec<AllowedOperator>,
    /// `dirs` at the top of the plan: the path of each as written, such as `./app:ro`.
    pub shared_dirs: BTreeMap<GrantName, String>,
    /// The steps that `runner setup` runs before the others.
    pub setup: Vec<PlanStep>,
    /// The steps in the order in which they run: topological, and otherwise as written. A step that runs on several hosts is there
    /// once for each, one after the other.
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
    /// Where the plan names it, if a plan does.
    pub excerpt: Option<Box<SourceExcerpt>>,
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

/// `confirm:` of a step on another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// How long the host waits for it.
    pub within: Duration,
    /// The byte range of the value in the source, for errors.
    #[serde(skip)]
    pub span: Range<usize>,
}

/// A step of the plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanStep {
    /// The step's name.
    pub id: StepId,
    /// The target of its records: `local`, the name of its host, or of the group that it runs once for.
    pub target: TargetName,
    /// The host that it runs on; none for the runner's machine.
    #[serde(skip)]
    pub host: Option<Arc<PlanHost>>,
    /// The same step for the other hosts of the group that it runs once for: each can take the place of the one before.
    #[serde(skip)]
    pub stand_ins: Vec<PlanStep>,
    /// The module that it uses.
    pub uses: ModuleRef,
    /// The plan's absolute folder, where `./program` is looked up.
    pub plan_dir: PathBuf,
    /// The configuration, a JSON object. Values listed in `pending` are still as written: see [`PlanStep::config`].
    pub with: Value,
    /// The values of `with` with lookups of `steps` or `run`, by JSON pointer. Their types are not known yet.
    #[serde(skip)]
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
    /// `confirm:`: another host undoes the step unless a new connection confirms it in time.
    pub confirm: Option<Confirmation>,
    /// The byte range of the step's name in the source, for errors.
    #[serde(skip)]
    pub span: Range<usize>,
    /// The byte range of what names its module: the value of `uses`, or else the step's name.
    #[serde(skip)]
    pub uses_span: Range<usize>,
    /// The byte ranges of the granted directories, for errors.
    #[serde(skip)]
    pub dir_spans: BTreeMap<GrantName, Range<usize>>,
    /// The byte ranges of `with` and its values, by JSON pointer (`` for `with` itself), for errors.
    #[serde(skip)]
    pub with_spans: BTreeMap<String, Range<usize>>,
    /// The byte ranges of the keys in `with`, by JSON pointer to their values, for errors.
    #[serde(skip)]
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

    /// What an agent knows of a plan: the steps of its host, each with the places where they are in the text unknown.
    ///
    /// # Panics
    /// Never: the names are valid.
    #[must_use]
    pub fn of_host(steps: Vec<PlanStep>) -> Self {
        let source = PlanSource { path: PathBuf::new(), folder: PathBuf::from("/"), text: Arc::from("") };
        Self {
            source,
            app: "host".parse().expect("`host` is a name"),
            environment: "host".parse().expect("`host` is a name"),
            after: None,
            after_state: None,
            url: None,
            ssh: SshOptions::default(),
            host_groups: BTreeMap::new(),
            rollout: None,
            state: StateLocation::Dir(PathBuf::from("/")),
            allow: Vec::new(),
            setup: Vec::new(),
            steps,
            hooks: PlanHooks::default(),
            keep: None,
            on_failure: OnFailure::Hold,
            secrets: BTreeMap::new(),
            secret_variables: BTreeMap::new(),
            shared_dirs: BTreeMap::new(),
        }
    }

    /// The steps, followed by those of the hooks.
    pub fn all_steps(&self) -> impl Iterator<Item = &PlanStep> {
        self.steps.iter().chain(self.hooks.iter())
    }

    /// Whether a step, or one of the setup, runs on hosts. The long form of such a plan would lose the hosts.
    #[must_use]
    pub fn runs_on_hosts(&self) -> bool {
        self.setup.iter().chain(self.all_steps()).any(|step| step.host.is_some())
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
    /// The host that it runs on, if that is not the runner's machine.
    #[must_use]
    pub fn remote_host(&self) -> Option<&Arc<PlanHost>> {
        self.host.as_ref().filter(|host| host.is_remote())
    }

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

    /// The configuration with what is known so far: a value with a lookup of an output that is not known is null.
    #[must_use]
    pub fn known_config(
        &self,
        outputs: &BTreeMap<StepId, Map<String, Value>>,
        run: &RunId,
        attempt: AttemptNumber,
    ) -> Value {
        let mut config = self.with.clone();
        for (pointer, pending) in &self.pending {
            let value = config.pointer_mut(pointer).expect("`pending` is keyed by pointers into `with`");
            *value = pending.resolve(outputs, run, attempt).unwrap_or(Value::Null);
        }
        config
    }
}

/// The module that a step uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleRef {
    /// A module that is built into the binary: `uses: pull`.
    Official(String),
    /// A component in a file, by absolute path: `uses: ./steps/x.wasm`.
    File(PathBuf),
    /// A module in a registry: `uses: oci://registry.example.com/steps/warm@sha256:…`.
    Registry(#[serde(with = "wire::reference")] RegistryRef),
}

/// Whether the sandbox confines a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepTrust {
    /// The step reaches only its grants.
    #[default]
    Sandbox,
    /// `trust: host`: through a grant, the step can do whatever the runner's user can.
    Host,
}

/// `effects:`, where the effects of a step are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectPlace {
    /// On the machine that the step runs on.
    #[default]
    Here,
    /// On another one, so that a new machine finds them as this one does.
    Elsewhere,
}
