//! The one gate: every name that a guest says is looked up in the step's grants here, and nowhere else.
//!
//! Invariants: what is not granted is denied; a denial names step, capability and value, and the line that would grant
//! it. Previews and probes get less than the plan grants: they read. Deliberately absent: doing anything.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cap_std::fs::Dir;
use url::Url;

use super::failure;
use contract::{StepId, step::Failure};
use fetch::net;
use hostio::{
    confined_path,
    dir_snapshot::{Folder, Folders, Unread},
};
use plan::{Access, ArgumentPattern, Confidential, EnvGrant, Grants, ModuleRef, SecretGrant, Step};

/// What a call is for, and so what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Say what it would do: reads only, and runs no program.
    Preview,
    /// See whether it holds: reads only, but may run a granted program to find out.
    Probe,
    /// Do it, or undo it: all that is granted.
    Act,
}

/// The grants of one call.
pub(super) struct Gate {
    step: StepId,
    purpose: Purpose,
    grants: Grants,
    writable: Vec<PathBuf>,
    dirs: BTreeMap<String, (Dir, Access)>,
    client: Arc<net::Client>,
    folders: Folders,
    /// How long the call may take.
    timeout: Duration,
}

/// Where content comes from.
#[derive(Debug)]
pub(super) enum Source<'a> {
    /// A file in a granted directory.
    File { dir: &'a Dir, path: String },
    /// An address.
    Web(Url),
}

impl Gate {
    /// Opens what is granted to a step, for one purpose.
    ///
    /// Writable directories are made when the step acts. One that is missing for a probe is not there to the step.
    pub(super) fn open(step: &Step, purpose: Purpose, folders: &Folders) -> Result<Self, Failure> {
        let mut dirs = BTreeMap::new();
        for (name, grant) in &step.grants.dirs {
            let access = if purpose == Purpose::Act { grant.access } else { Access::ReadOnly };
            let problem = |error: std::io::Error| {
                if confined_path::leads_out(&error) {
                    let why = "a link in a directory that a step may write to leads out of it";
                    return failure("denied", format!("directory `{name}` ({}): {why}", grant.path.display()))
                        .with_hint(format!(
                            "if that is meant, grant step `{}` the directory that it leads to: grants: {{ dirs: {{ {name}: \"<path>\" }} }}",
                            step.id
                        ));
                }
                failure("permanent", format!("directory `{name}` ({}) can't be opened: {error}", grant.path.display()))
                    .with_hint("make it, or correct its path in `grants`")
            };
            match confined_path::open(&grant.path, access, &step.writable) {
                Ok(dir) => {
                    dirs.insert(name.to_string(), (dir, access));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && grant.access == Access::ReadWrite => {}
                Err(error) => return Err(problem(error)),
            }
        }
        let writable = step.writable.clone();
        let client = Arc::new(net::Client::new(step.grants.http.clone(), step.grants.tcp.clone()));
        Ok(Self {
            step: step.id.clone(),
            purpose,
            grants: step.grants.clone(),
            writable,
            dirs,
            client,
            folders: folders.clone(),
            timeout: step.timeout,
        })
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn client(&self) -> &Arc<net::Client> {
        &self.client
    }

    /// The granted directories that are there, with the access that this call has.
    pub(super) fn dirs(&self) -> impl Iterator<Item = (&str, &Dir, Access)> {
        self.dirs.iter().map(|(name, (dir, access))| (name.as_str(), dir, *access))
    }

    /// Whether this call may write a file somewhere.
    pub(super) fn may_write_files(&self) -> bool {
        let programs = self.purpose != Purpose::Preview && !self.grants.programs.is_empty();
        programs || self.dirs.values().any(|(_, access)| *access == Access::ReadWrite)
    }

    /// A granted directory as it is read once.
    pub(super) fn folder(&self, name: &str) -> Result<Result<Arc<Folder>, Unread>, Failure> {
        let dir = self.dir(name)?;
        let path = self.host_path(name).map(PathBuf::as_path).unwrap_or(Path::new(""));
        Ok(self.folders.read(path, dir))
    }

    /// The same, if it was read already.
    pub(super) fn known_folder(&self, name: &str) -> Option<Arc<Folder>> {
        self.folders.known(self.host_path(name)?)
    }

    /// The host's path of a granted directory.
    pub(super) fn host_path(&self, name: &str) -> Option<&PathBuf> {
        self.grants.dirs.iter().find(|(granted, _)| granted.as_str() == name).map(|(_, grant)| &grant.path)
    }

    /// A granted directory, for reading.
    pub(super) fn dir(&self, name: &str) -> Result<&Dir, Failure> {
        if let Some((dir, _)) = self.dirs.get(name) {
            return Ok(dir);
        }
        match self.host_path(name) {
            Some(path) => Err(failure("not-found", format!("directory `{name}` ({}) is not there", path.display()))),
            None => Err(self.denied("directory", name, &format!("dirs: {{ {name}: \"<path>:ro\" }}"))),
        }
    }

    /// A granted directory, for writing.
    pub(super) fn writable(&self, name: &str) -> Result<&Dir, Failure> {
        let dir = self.dir(name)?;
        match self.dirs.get(name) {
            Some((_, Access::ReadWrite)) => Ok(dir),
            _ if self.purpose != Purpose::Act => Err(self.reads_only("write to a directory")),
            _ => Err(self.denied("writing to directory", name, &format!("dirs: {{ {name}: \"<path>\" }}"))),
        }
    }

    /// A place in a granted directory, `<dir>/<path>`.
    pub(super) fn place<'a>(&self, text: &'a str) -> Result<(&Dir, &'a str), Failure> {
        let (name, path) = text.trim_start_matches('/').split_once('/').unwrap_or((text.trim_start_matches('/'), "."));
        Ok((self.dir(name)?, path))
    }

    /// A source as modules write it: `file:<dir>/<path>` or a URL.
    pub(super) fn source(&self, text: &str) -> Result<Source<'_>, Failure> {
        if let Some(place) = text.strip_prefix("file:") {
            let (dir, path) = self.place(place)?;
            return Ok(Source::File { dir, path: path.to_owned() });
        }
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Source::Web(url)),
            Ok(_) | Err(_) => Err(failure("invalid-config", format!("{text:?} is no source"))
                .with_hint("a source is `file:<granted directory>/<path>` or an http(s) URL")),
        }
    }

    /// A granted database and whether it may be written to.
    pub(super) fn database(&self, name: &str) -> Result<(&Confidential, Access), Failure> {
        let granted = self.grants.databases.iter().find(|(granted, _)| granted.as_str() == name);
        let Some((_, grant)) = granted else {
            return Err(self.denied("database", name, &format!("databases: {{ {name}: \"sqlite:<path>\" }}")));
        };
        let access = if self.purpose == Purpose::Act { Access::ReadWrite } else { Access::ReadOnly };
        Ok((&grant.url, access))
    }

    /// The path of a granted database, where no link leads out of a directory that a step may write to.
    pub(super) fn file(&self, path: &Path) -> Result<PathBuf, Failure> {
        confined_path::resolve(path, &self.writable).map_err(|error| self.unopened(&path.display().to_string(), &error))
    }

    /// Whether an argument vector matches a grant, the program first.
    pub(super) fn program(&self, argv: &[&str]) -> Result<(), Failure> {
        if self.purpose == Purpose::Preview {
            return Err(self.reads_only("run a program"));
        }
        if self.grants.programs.iter().any(|grant| matches(&grant.arguments, argv)) {
            return Ok(());
        }
        let vector = serde_json::json!(argv);
        Err(self.denied("program", &vector.to_string(), &format!("programs: [{vector}]")))
    }

    /// The environment of a granted program: what the plan sets, and of `wanted` what it leaves open.
    pub(super) fn environment(&self, wanted: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, Failure> {
        let mut environment = Vec::new();
        for (name, value) in wanted {
            match self.grants.env.get(name) {
                Some(EnvGrant::Open) => environment.push((name.clone(), value.clone())),
                Some(EnvGrant::Set(_)) | None => {
                    return Err(self.denied("environment variable", name, &format!("env: {{ {name}: }}")));
                }
            }
        }
        for (name, grant) in &self.grants.env {
            if let EnvGrant::Set(value) = grant {
                environment.push((name.clone(), value.value.reveal().to_owned()));
            }
        }
        Ok(environment)
    }

    /// A granted secret.
    pub(super) fn secret(&self, name: &str) -> Result<&SecretGrant, Failure> {
        let granted = self.grants.secrets.get(name);
        granted.ok_or_else(|| self.denied("secret", name, &format!("secrets: [{name}]")))
    }

    /// What to say of a secret that is granted for use only.
    pub(super) fn not_revealed(&self, name: &str) -> Failure {
        self.denied("to see the value of secret", name, &format!("secrets: {{ {name}: reveal }}"))
    }

    /// The path of a granted unix socket.
    pub(super) fn socket(&self, name: &str) -> Result<&PathBuf, Failure> {
        let granted = self.grants.sockets.iter().find(|(granted, _)| granted.as_str() == name);
        let line = format!("sockets: {{ {name}: \"unix:<path>\" }}");
        granted.map(|(_, path)| path).ok_or_else(|| self.denied("socket", name, &line))
    }

    /// Whether a request of this method is one that this call may make.
    pub(super) fn method(&self, method: &str) -> Result<(), Failure> {
        if self.purpose != Purpose::Act && !matches!(method, "GET" | "HEAD") {
            return Err(self.reads_only(&format!("send {method} requests")));
        }
        Ok(())
    }

    fn denied(&self, capability: &str, value: &str, line: &str) -> Failure {
        let step = &self.step;
        failure("denied", format!("step `{step}` is not granted {capability} `{value}`"))
            .with_hint(format!("to grant it, add to step `{step}` in the plan: grants: {{ {line} }}"))
    }

    /// Why something in a granted directory can't be opened; `place` is `<dir>/<path>`.
    pub(super) fn unopened(&self, place: &str, error: &std::io::Error) -> Failure {
        if confined_path::leads_out(error) {
            let step = &self.step;
            let line = "grants: { dirs: { <name>: \"<path>:ro\" } }";
            let message = format!("step `{step}` is not granted what {place} leads to: it is outside of the directory");
            return failure("denied", message)
                .with_hint(format!("to grant it, add the folder that it is in to step `{step}` in the plan: {line}"));
        }
        let kind = if error.kind() == std::io::ErrorKind::NotFound { "not-found" } else { "permanent" };
        failure(kind, format!("can't open {place}: {error}"))
    }

    /// What the network's error is to this step: a denial names it and the line to add.
    pub(super) fn network(&self, error: net::NetError) -> Failure {
        let kind = error.kind();
        let mut failure = failure(kind.as_str(), error.to_string());
        failure.hint = error.hint();
        failure.retryable = error.retryable();
        if kind == net::Kind::Denied {
            let step = &self.step;
            failure.message = format!("step `{step}`: {}", failure.message);
            failure.hint = failure.hint.map(|line| format!("to grant it, add to step `{step}` in the plan: {line}"));
        }
        failure
    }

    fn reads_only(&self, what: &str) -> Failure {
        let step = &self.step;
        failure("denied", format!("step `{step}` may not {what} in a preview or a probe: they only look"))
    }
}

fn matches(pattern: &[ArgumentPattern], argv: &[&str]) -> bool {
    match (pattern, argv) {
        ([ArgumentPattern::AnyRest], _) => true,
        ([ArgumentPattern::Exact(text), pattern @ ..], [argument, argv @ ..]) => {
            text == argument && matches(pattern, argv)
        }
        ([ArgumentPattern::AnyOne, pattern @ ..], [_, argv @ ..]) => matches(pattern, argv),
        ([], []) => true,
        ([ArgumentPattern::AnyRest, ..] | [], _) | (_, []) => false,
    }
}

/// A module in words, for reports.
#[must_use]
pub fn name_of(uses: &ModuleRef) -> String {
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
            assert_eq!(matches(&pattern(granted), asked), expected, "{granted:?} {asked:?}");
        }
    }
}
