//! The only gate: looks up every name from a guest in the step's grants.
//!
//! Invariants: whatever is not granted is denied. A denial names the step, the capability and the value, and the line
//! that would grant it. Previews and probes are read-only. Deliberately absent: the operations themselves.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use cap_std::fs::Dir;
use url::Url;

use super::{failure, files::FilePlace, scratch_dir::ScratchDir};
use contract::{
    GrantName, StepId,
    step::{FailureKind, StepFailure},
};
use db::migrate::is_sql_file;
use fetch::{
    net,
    oci::{OciError, OciRepository},
};
use hostio::{
    confined_path,
    dir_snapshot::{DirSnapshot, DirSnapshotCache, PathReadError},
};
use plan::{
    ArgumentPattern, ConfidentialText, DEFAULT_PROGRAM_PATH, DirAccess, DirGrant, EnvGrant, ModuleRef, OCI_SCHEME,
    OciRef, PlanStep, SecretGrant, StepGrants,
};

/// The purpose of a call, which restricts its access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallPurpose {
    /// Preview: reads only, and runs no program.
    Preview,
    /// Probe: reads only, but may run a granted program to find out.
    Probe,
    /// Rehearsal: the same, and renders files that are gone afterwards.
    Rehearse,
    /// Apply of a step that only checks: every request and program that is granted, but directories and databases read-only.
    Check,
    /// Apply or revert: everything that is granted.
    Mutate,
}

/// The grants of one call.
pub(super) struct CapabilityGate {
    step: StepId,
    purpose: CallPurpose,
    grants: StepGrants,
    writable_dirs: Vec<PathBuf>,
    plan_dir: PathBuf,
    dirs: BTreeMap<String, (Dir, DirAccess)>,
    missing_dirs: Vec<String>,
    client: Arc<net::NetClient>,
    dir_snapshots: DirSnapshotCache,
    /// What a rehearsal has rendered; removed with the gate.
    copies: OnceLock<ScratchDir>,
    /// The timeout of the call.
    timeout: Duration,
}

/// A source of content.
#[derive(Debug)]
pub(super) enum ContentSource<'a> {
    /// A file in a granted directory.
    File { dir: &'a Dir, path: String },
    /// A URL.
    Url(Url),
    /// An artifact or an image in a registry.
    Oci(OciRef),
}

/// The environment of a granted program, with the default `PATH` and `HOME` if it has none.
#[must_use]
pub fn with_default_variables(mut environment: Vec<(String, String)>) -> Vec<(String, String)> {
    let home = || Some(std::env::home_dir()?.to_str()?.to_owned());
    for (name, default) in [("PATH", Some(DEFAULT_PROGRAM_PATH.to_owned())), ("HOME", home())] {
        if let Some(default) = default.filter(|_| environment.iter().all(|(set, _)| set != name)) {
            environment.push((name.to_owned(), default));
        }
    }
    environment
}

/// Whether a directory that is missing comes to be when the plan is carried out.
fn is_created(step: &PlanStep, grant: &DirGrant, purpose: CallPurpose) -> bool {
    let is_below_writable = || step.writable_dirs.iter().any(|writable| grant.path.starts_with(writable));
    grant.access == DirAccess::ReadWrite || purpose != CallPurpose::Mutate && is_below_writable()
}

impl CapabilityGate {
    /// Opens a step's grants for one purpose.
    ///
    /// Apply creates missing writable directories. For a probe, a missing one that a step of the plan creates is as good as an empty one.
    pub(super) fn open(step: &PlanStep, purpose: CallPurpose, folders: &DirSnapshotCache) -> Result<Self, StepFailure> {
        let (mut dirs, mut missing_dirs) = (BTreeMap::new(), Vec::new());
        for (name, grant) in &step.grants.dirs {
            let access = if purpose == CallPurpose::Mutate { grant.access } else { DirAccess::ReadOnly };
            let problem = |error: std::io::Error| {
                if confined_path::is_escape_error(&error) {
                    let why = "a link in a writable directory points outside it";
                    return failure(FailureKind::Denied, format!("directory `{name}` ({}): {why}", grant.path.display()))
                        .with_hint(format!(
                            "if that is intended, grant step `{}` the directory that the link points to: grants: {{ dirs: {{ {name}: \"<path>\" }} }}",
                            step.id
                        ));
                }
                failure(
                    FailureKind::Permanent,
                    format!("directory `{name}` ({}) can't be opened: {error}", grant.path.display()),
                )
                .with_hint("create it, or correct its path in `grants`")
            };
            match confined_path::open_dir(&grant.path, access, &step.writable_dirs) {
                Ok(dir) => {
                    dirs.insert(name.to_string(), (dir, access));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_created(step, grant, purpose) => {
                    missing_dirs.push(name.to_string());
                }
                Err(error) => return Err(problem(error)),
            }
        }
        let writable = step.writable_dirs.clone();
        let client = Arc::new(net::NetClient::new(step.grants.http.clone(), step.grants.tcp.clone()));
        Ok(Self {
            step: step.id.clone(),
            purpose,
            grants: step.grants.clone(),
            writable_dirs: writable,
            plan_dir: step.plan_dir.clone(),
            dirs,
            missing_dirs,
            client,
            dir_snapshots: folders.clone(),
            copies: OnceLock::new(),
            timeout: step.timeout,
        })
    }

    pub(super) fn step(&self) -> &StepId {
        &self.step
    }

    pub(super) fn purpose(&self) -> CallPurpose {
        self.purpose
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn client(&self) -> &Arc<net::NetClient> {
        &self.client
    }

    /// The existing granted directories, with the access of this call.
    pub(super) fn dirs(&self) -> impl Iterator<Item = (&str, &Dir, DirAccess)> {
        self.dirs.iter().map(|(name, (dir, access))| (name.as_str(), dir, *access))
    }

    /// The granted directories that do not exist yet, and that a step of the plan creates.
    pub(super) fn missing_dirs(&self) -> &[String] {
        &self.missing_dirs
    }

    /// Whether this call may write files.
    pub(super) fn may_write_files(&self) -> bool {
        let programs = self.purpose != CallPurpose::Preview && !self.grants.programs.is_empty();
        let renders = self.purpose == CallPurpose::Mutate && !self.grants.renders.is_empty();
        programs || renders || self.dirs.values().any(|(_, access)| *access == DirAccess::ReadWrite)
    }

    /// The snapshot of a directory of migrations, read once: a granted one, or one below it.
    pub(super) fn dir_snapshot(&self, text: &str) -> Result<Result<Arc<DirSnapshot>, PathReadError>, StepFailure> {
        let dir = self.dir_at(text)?;
        Ok(self.dir_snapshots.snapshot(&self.host_path(text).unwrap_or_default(), &dir, is_sql_file))
    }

    /// The snapshot of such a directory, if it was read.
    pub(super) fn cached_dir_snapshot(&self, text: &str) -> Option<Arc<DirSnapshot>> {
        self.dir_snapshots.cached(&self.host_path(text)?)
    }

    /// Opens a directory for reading: `<granted directory>`, or `<granted directory>/<path below it>`.
    pub(super) fn dir_at(&self, text: &str) -> Result<Dir, StepFailure> {
        let (dir, path) = self.split_dir_path(text)?;
        dir.open_dir(path).map_err(|error| self.open_failure(text, &error))
    }

    /// The host path of such a directory, if it is granted.
    pub(super) fn host_path(&self, text: &str) -> Option<PathBuf> {
        self.grants.host_path(text)
    }

    /// The host path of a granted directory.
    pub(super) fn granted_dir_path(&self, name: &str) -> Option<&PathBuf> {
        self.grants.dirs.iter().find(|(granted, _)| granted.as_str() == name).map(|(_, grant)| &grant.path)
    }

    /// Opens a granted directory for reading.
    pub(super) fn dir(&self, name: &str) -> Result<&Dir, StepFailure> {
        if let Some((dir, _)) = self.dirs.get(name) {
            return Ok(dir);
        }
        match self.granted_dir_path(name) {
            Some(path) => {
                Err(failure(FailureKind::NotFound, format!("directory `{name}` ({}) does not exist", path.display())))
            }
            None => {
                let granted = if name.parse::<GrantName>().is_ok() { name } else { "<name>" };
                Err(self.denied_failure("directory", name, &format!("dirs: {{ {granted}: \"<path>:ro\" }}")))
            }
        }
    }

    /// Opens a granted directory for writing.
    pub(super) fn writable_dir(&self, name: &str) -> Result<&Dir, StepFailure> {
        let dir = self.dir(name)?;
        match self.dirs.get(name) {
            Some((_, DirAccess::ReadWrite)) => Ok(dir),
            _ if self.purpose != CallPurpose::Mutate => Err(self.read_only_failure("write to a directory")),
            _ => {
                Err(self.denied_failure("write access to directory", name, &format!("dirs: {{ {name}: \"<path>\" }}")))
            }
        }
    }

    /// Resolves `<dir>/<path>` in a granted directory.
    pub(super) fn split_dir_path<'a>(&self, text: &'a str) -> Result<(&Dir, &'a str), StepFailure> {
        let (name, path) = plan::split_dir_path(text);
        Ok((self.dir(name)?, if path.is_empty() { "." } else { path }))
    }

    /// Parses a module's source: `file:<dir>/<path>`, a URL, or `oci://…`.
    pub(super) fn parse_source(&self, text: &str) -> Result<ContentSource<'_>, StepFailure> {
        if let Some(path) = text.strip_prefix("file:") {
            let (dir, path) = self.split_dir_path(path)?;
            return Ok(ContentSource::File { dir, path: path.to_owned() });
        }
        if let Some(reference) = text.strip_prefix(OCI_SCHEME) {
            let reference = OciRef::parse(reference).map_err(|why| {
                let shown = contract::text::escape_line(text);
                failure(FailureKind::InvalidConfig, format!("`{shown}` is not an artifact: {why}"))
                    .with_hint("write `oci://registry.example.com/shop:TAG`, or a digest as `@sha256:…`")
            })?;
            return Ok(ContentSource::Oci(reference));
        }
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(ContentSource::Url(url)),
            Ok(_) | Err(_) => Err(failure(
                FailureKind::InvalidConfig,
                format!("`{}` is not a source", contract::text::escape_line(text)),
            )
            .with_hint("write `file:<granted directory>/<path>`, an http(s) URL, or `oci://REGISTRY/NAME:TAG`")),
        }
    }

    /// A granted database and whether it may be written to.
    pub(super) fn database_grant(&self, name: &str) -> Result<(&ConfidentialText, DirAccess), StepFailure> {
        let granted = self.grants.databases.iter().find(|(granted, _)| granted.as_str() == name);
        let Some((_, grant)) = granted else {
            return Err(self.denied_failure("database", name, &format!("databases: {{ {name}: \"sqlite:<path>\" }}")));
        };
        let access = if self.purpose == CallPurpose::Mutate { DirAccess::ReadWrite } else { DirAccess::ReadOnly };
        Ok((&grant.url, access))
    }

    /// The path of a granted database, where no link leads out of a writable directory.
    pub(super) fn database_path(&self, path: &Path) -> Result<PathBuf, StepFailure> {
        confined_path::resolve_path(path, &self.writable_dirs)
            .map_err(|error| self.open_failure(&path.display().to_string(), &error))
    }

    /// Checks an argument vector, including the program, against the grants.
    pub(super) fn check_program(&self, argv: &[&str]) -> Result<(), StepFailure> {
        if self.purpose == CallPurpose::Preview {
            return Err(self.read_only_failure("run a program"));
        }
        if self.grants.programs.iter().any(|grant| argv_matches(&grant.arguments, argv)) {
            return Ok(());
        }
        let vector = serde_json::json!(argv);
        Err(self.denied_failure("program", &vector.to_string(), &format!("programs: [{vector}]")))
    }

    /// The path by which a granted program is started: `./program` lies in the plan's folder.
    pub(super) fn program_path(&self, program: &str) -> String {
        super::program_inputs::resolve_in_plan(&self.plan_dir, program)
    }

    /// The environment of a granted program: the plan's values, those in `requested` that the plan leaves open, and the default `PATH`
    /// and `HOME` if neither sets them.
    pub(super) fn program_environment(
        &self,
        requested: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, String)>, StepFailure> {
        let mut environment = Vec::new();
        for (name, value) in requested {
            match self.grants.env.get(name) {
                Some(EnvGrant::SetByStep) => environment.push((name.clone(), value.clone())),
                Some(EnvGrant::Set(_)) | None => {
                    return Err(self.denied_failure("environment variable", name, &format!("env: {{ {name}: }}")));
                }
            }
        }
        for (name, grant) in &self.grants.env {
            if let EnvGrant::Set(value) = grant {
                environment.push((name.clone(), value.value.reveal().to_owned()));
            }
        }
        Ok(with_default_variables(environment))
    }

    /// Whether the `PATH` that the plan sets for programs has no secret in it.
    pub(super) fn is_path_public(&self) -> bool {
        match self.grants.env.get("PATH") {
            Some(EnvGrant::Set(path)) => path.written == path.value.reveal(),
            Some(EnvGrant::SetByStep) | None => true,
        }
    }

    /// A granted secret.
    pub(super) fn secret_grant(&self, name: &str) -> Result<&SecretGrant, StepFailure> {
        let granted = self.grants.secrets.get(name);
        granted.ok_or_else(|| self.denied_failure("secret", name, &format!("secrets: [{name}]")))
    }

    /// The denial for a secret that the step may use but not see.
    pub(super) fn reveal_denied_failure(&self, name: &str) -> StepFailure {
        self.denied_failure("the value of secret", name, &format!("secrets: {{ {name}: reveal }}"))
    }

    /// The path of a granted unix socket, where no link leads out of a writable directory.
    pub(super) fn socket_path(&self, name: &str) -> Result<PathBuf, StepFailure> {
        let granted = self.grants.sockets.iter().find(|(granted, _)| granted.as_str() == name);
        let Some((_, path)) = granted else {
            let line = format!("sockets: {{ {name}: \"unix:<path>\" }}");
            return Err(self.denied_failure("socket", name, &line));
        };
        confined_path::resolve_path(path, &self.writable_dirs)
            .map_err(|error| self.open_failure(&format!("unix:{}", path.display()), &error))
    }

    /// A place in a directory of `dirs` or `renders`.
    pub(super) fn place(&self, text: &str) -> Result<FilePlace, StepFailure> {
        let (name, path) = plan::split_dir_path(text);
        if self.render_grant(name).is_some() {
            return self.render_place(text);
        }
        let root = self.dir(name)?.try_clone().map_err(|error| self.open_failure(name, &error))?;
        let host_path = self.granted_dir_path(name).cloned().unwrap_or_default();
        self.place_below(root, &host_path, path, text)
    }

    /// A place in a directory of `dirs` that this call may write to.
    pub(super) fn writable_place(&self, text: &str) -> Result<FilePlace, StepFailure> {
        let name = plan::split_dir_path(text).0;
        if self.render_grant(name).is_none() {
            self.writable_dir(name)?;
        }
        self.place(text)
    }

    /// A place in a directory of `renders`. The directory is created if this call may write.
    pub(super) fn render_place(&self, text: &str) -> Result<FilePlace, StepFailure> {
        let (name, path) = plan::split_dir_path(text);
        let Some(granted) = self.render_grant(name) else {
            let line = format!("renders: {{ {name}: \"<path>\" }}");
            return Err(self.denied_failure("rendering into", name, &line));
        };
        if let Some(copy) = self.rendered_copy(text) {
            return Ok(copy);
        }
        let writes = self.purpose == CallPurpose::Mutate;
        let access = if writes { DirAccess::ReadWrite } else { DirAccess::ReadOnly };
        let root = match confined_path::open_dir(granted, access, &self.writable_dirs) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => confined_path::open_empty_dir(),
            opened => opened,
        };
        let root = root.map_err(|error| self.open_failure(&granted.display().to_string(), &error))?;
        self.place_below(root, granted, path, text)
    }

    /// The place of a copy that a rehearsal renders.
    pub(super) fn rehearsed_place(&self, text: &str) -> Result<FilePlace, StepFailure> {
        let (name, path) = plan::split_dir_path(text);
        self.render_place(text)?;
        let failed = |error: std::io::Error| failure(FailureKind::Permanent, format!("can't keep a copy: {error}"));
        let folder = match self.copies.get() {
            Some(folder) => folder,
            None => {
                let made = ScratchDir::new().map_err(failed)?;
                self.copies.get_or_init(|| made)
            }
        };
        let host_path = folder.path().join(name);
        let root = confined_path::open_dir(&host_path, DirAccess::ReadWrite, &[]).map_err(failed)?;
        self.place_below(root, &host_path, path, text)
    }

    /// The copy that a rehearsal has rendered for a place, if there is one.
    fn rendered_copy(&self, text: &str) -> Option<FilePlace> {
        let (name, path) = plan::split_dir_path(text);
        let host_path = self.copies.get()?.path().join(name);
        let root = confined_path::open_dir(&host_path, DirAccess::ReadOnly, &[]).ok()?;
        let place = self.place_below(root, &host_path, path, text).ok()?;
        place.root.symlink_metadata(&place.path).is_ok().then_some(place)
    }

    fn place_below(&self, root: Dir, host_path: &Path, path: &str, text: &str) -> Result<FilePlace, StepFailure> {
        let names: Vec<_> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        if names.contains(&"..") || path.contains('\0') {
            let message = format!("`{}` is not a path inside a granted directory", contract::text::escape_line(text));
            return Err(failure(FailureKind::InvalidConfig, message)
                .with_hint("write `<granted directory>/<path>` without `..`"));
        }
        let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
        let host_path = if names.is_empty() { host_path.to_owned() } else { host_path.join(&path) };
        Ok(FilePlace { root, path, host_path })
    }

    fn render_grant(&self, name: &str) -> Option<&PathBuf> {
        self.grants.renders.iter().find(|(granted, _)| granted.as_str() == name).map(|(_, grant)| &grant.path)
    }

    /// Checks that this call may change files.
    pub(super) fn check_writes(&self, what: &str) -> Result<(), StepFailure> {
        if self.purpose == CallPurpose::Mutate { Ok(()) } else { Err(self.read_only_failure(what)) }
    }

    /// Checks that this call may use the request method. On a socket, whose grant is as strong as that of a program, a probe may use any.
    pub(super) fn check_method(&self, method: &str, is_socket: bool) -> Result<(), StepFailure> {
        let is_reading = match self.purpose {
            CallPurpose::Preview => true,
            CallPurpose::Probe | CallPurpose::Rehearse => !is_socket,
            CallPurpose::Check | CallPurpose::Mutate => false,
        };
        if is_reading && !matches!(method, "GET" | "HEAD") {
            return Err(self.read_only_failure(&format!("send {method} requests")));
        }
        Ok(())
    }

    fn denied_failure(&self, capability: &str, value: &str, line: &str) -> StepFailure {
        let step = &self.step;
        failure(FailureKind::Denied, format!("step `{step}` is not granted {capability} `{value}`"))
            .with_hint(format!("to grant it, add to step `{step}` in the plan: grants: {{ {line} }}"))
    }

    /// The failure of opening `path`, a `<dir>/<path>` in a granted directory.
    pub(super) fn open_failure(&self, path: &str, error: &std::io::Error) -> StepFailure {
        if confined_path::is_escape_error(error) {
            let step = &self.step;
            let line = "grants: { dirs: { <name>: \"<path>:ro\" } }";
            let message = format!("step `{step}` is not granted the target of {path}: it is outside the directory");
            return failure(FailureKind::Denied, message)
                .with_hint(format!("to grant it, add its folder to step `{step}` in the plan: {line}"));
        }
        let kind =
            if error.kind() == std::io::ErrorKind::NotFound { FailureKind::NotFound } else { FailureKind::Permanent };
        failure(kind, format!("can't open {path}: {error}"))
    }

    /// The repository of a registry, with what this step is granted.
    pub(super) fn repository(&self, reference: OciRef) -> OciRepository {
        OciRepository::new(&self.grants.http, reference)
    }

    /// Converts an error of a registry.
    pub(super) fn registry_failure(&self, error: OciError) -> StepFailure {
        if let OciError::Net(error) = error {
            return self.network_failure(error);
        }
        let mut failure = failure(error.kind(), error.to_string());
        failure.hint = error.hint();
        failure.retryable = error.is_retryable();
        failure
    }

    /// Converts a network error: a denial names the step and the line to add.
    pub(super) fn network_failure(&self, error: net::NetError) -> StepFailure {
        let kind = error.kind();
        let mut failure = failure(kind.clone(), error.to_string());
        failure.hint = error.hint();
        failure.retryable = error.is_retryable();
        if kind == FailureKind::Denied {
            let step = &self.step;
            failure.message = format!("step `{step}`: {}", failure.message);
            failure.hint = failure.hint.map(|line| format!("to grant it, add to step `{step}` in the plan: {line}"));
        }
        failure
    }

    pub(super) fn read_only_failure(&self, what: &str) -> StepFailure {
        let step = &self.step;
        failure(
            FailureKind::Denied,
            format!("step `{step}` can't {what} in a preview, a probe, a rehearsal or a check: it is read-only"),
        )
    }
}

/// Whether a granted argument vector may match one of which some arguments are not known yet (`None`).
#[must_use]
pub fn argv_may_match(pattern: &[ArgumentPattern], argv: &[Option<&str>]) -> bool {
    match (pattern, argv) {
        ([ArgumentPattern::AnyRest], _) => true,
        ([ArgumentPattern::Exact(text), pattern @ ..], [argument, argv @ ..]) => {
            argument.is_none_or(|argument| text == argument) && argv_may_match(pattern, argv)
        }
        ([ArgumentPattern::AnyOne, pattern @ ..], [_, argv @ ..]) => argv_may_match(pattern, argv),
        ([], []) => true,
        ([ArgumentPattern::AnyRest, ..] | [], _) | (_, []) => false,
    }
}

fn argv_matches(pattern: &[ArgumentPattern], argv: &[&str]) -> bool {
    let known: Vec<_> = argv.iter().map(|argument| Some(*argument)).collect();
    argv_may_match(pattern, &known)
}

/// A module's name, for reports.
#[must_use]
pub fn module_display_name(uses: &ModuleRef) -> String {
    match uses {
        ModuleRef::Official(name) => name.clone(),
        ModuleRef::File(path) => path.display().to_string(),
        ModuleRef::Registry(reference) => reference.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(words: &[&str]) -> Vec<ArgumentPattern> {
        let one = |word: &&str| match *word {
            "*" => ArgumentPattern::AnyOne,
            "**" => ArgumentPattern::AnyRest,
            text => ArgumentPattern::Exact(text.to_owned()),
        };
        words.iter().map(one).collect()
    }

    #[test]
    fn argument_vectors_match_as_a_whole() {
        for (granted, asked, expected) in [
            (&["/bin/ls"][..], &["/bin/ls"][..], true),
            (&["/bin/ls"], &["/bin/ls", "-l"], false),
            (&["/bin/ls"], &["ls"], false),
            (&["/bin/ls"], &[], false),
            (&["ctl", "restart", "*"], &["ctl", "restart", "shop"], true),
            (&["ctl", "restart", "*"], &["ctl", "restart"], false),
            (&["ctl", "restart", "*"], &["ctl", "restart", "shop", "db"], false),
            (&["make", "**"], &["make"], true),
            (&["make", "**"], &["make", "-j", "2"], true),
            (&["make", "**"], &["cmake", "-j", "2"], false),
        ] {
            assert_eq!(argv_matches(&pattern(granted), asked), expected, "{granted:?} {asked:?}");
        }
        for (granted, asked, expected) in [
            (&["ctl", "restart", "shop"][..], &[Some("ctl"), None, Some("shop")][..], true),
            (&["ctl", "restart", "shop"], &[Some("ctl"), None, Some("db")], false),
            (&["ctl", "restart"], &[Some("ctl"), None, None], false),
        ] {
            assert_eq!(argv_may_match(&pattern(granted), asked), expected, "{granted:?} {asked:?}");
        }
    }
}
