//! The repository of `--remote`: the first commit has what `init` wrote, and `origin` is the remote.
//!
//! Invariant: where a repository is already, nothing is written, unless an earlier call of the same command began it. Deliberately absent: files
//! that `init` did not write, in the commit; a push, unless `--push` asks for it; and the repository on a forge, which [`super::forge`] creates
//! between the commit and the remote.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use super::PlannedFile;
use contract::diagnostic::{Diagnostic, ErrorCode};

/// The branch that the workflow of the templates deploys.
pub(super) const BRANCH: &str = "main";
/// The name of the remote.
pub(super) const REMOTE: &str = "origin";

/// What git said, where it could not do something.
type GitFailure = String;

/// What would lead git to the repository of a caller, such as a hook (`git rev-parse --local-env-vars`).
const CALLER_VARIABLES: [&str; 9] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
];

/// A repository that does not exist yet, or that an earlier call of the same command began.
#[derive(Debug)]
pub(super) struct NewRepository<'a> {
    dir: &'a Path,
    url: String,
    /// What is committed.
    paths: Vec<&'a str>,
    message: String,
}

impl<'a> NewRepository<'a> {
    /// Finds out, before anything is written, whether there can be one.
    ///
    /// # Errors
    /// P0239: the folder belongs to a repository; git is missing, or does not know who commits.
    pub(super) fn prepare(
        dir: &'a Path,
        url: &str,
        files: &'a [PlannedFile],
        message: String,
    ) -> Result<Self, Diagnostic> {
        let url = remote_address(url).map_err(|error| super::unusable(Path::new(url), &error))?;
        let paths = files.iter().map(|file| file.path.as_str()).collect();
        let repository = Self { dir, url, paths, message };
        let whole = dir.canonicalize().map_err(|error| super::unusable(dir, &error))?;
        let existing = whole.ancestors().find(|folder| folder.join(".git").symlink_metadata().is_ok());
        if let Some(existing) = existing
            && (existing != whole || !repository.is_begun())
        {
            let message = format!("{} is a git repository already", existing.display());
            let hint =
                "leave out `--remote`, commit what `init` writes, and name the remote: `git remote add origin URL`";
            return Err(Diagnostic::new(ErrorCode::InitRefused, message).with_hint(hint));
        }
        repository.git(&["var", "GIT_AUTHOR_IDENT"]).map_err(|failure| {
            Diagnostic::new(ErrorCode::InitRefused, "git can't make the first commit")
                .with_cause(failure)
                .with_hint("install git, and set who commits: `git config --global user.name NAME` and `git config --global user.email ADDRESS`")
        })?;
        Ok(repository)
    }

    /// Whether the repository of the folder has nothing but what `commit` and `connect` make, as far as a call came.
    fn is_begun(&self) -> bool {
        // Without it, git would answer for a repository further up.
        self.dir.join(".git/HEAD").is_file() && self.has_nothing_else().unwrap_or(false)
    }

    fn has_nothing_else(&self) -> Result<bool, GitFailure> {
        let own = [format!("refs/heads/{BRANCH}"), format!("refs/remotes/{REMOTE}/{BRANCH}")];
        let references = self.git(&["for-each-ref", "--format=%(refname)"])?;
        let remotes = self.git(&["remote"])?;
        let is_remote_own = match remotes.trim_end() {
            "" => true,
            REMOTE => self.remote_url()?.trim_end() == self.url,
            _ => false,
        };
        if self.git(&["symbolic-ref", "HEAD"])?.trim_end() != own[0]
            || !references.lines().all(|reference| own.iter().any(|known| known == reference))
            || !is_remote_own
        {
            return Ok(false);
        }
        let is_known = |paths: &str| paths.lines().all(|path| self.paths.contains(&path));
        if !is_known(&self.git(&["ls-files"])?) {
            return Ok(false);
        }
        if !self.has_commit() {
            return Ok(true);
        }
        let committed = self.git(&["ls-tree", "-r", "--name-only", "HEAD"])?;
        let messages = self.git(&["log", "--format=%s"])?;
        Ok(messages.trim_end() == self.message && is_known(&committed) && committed.lines().count() == self.paths.len())
    }

    fn has_commit(&self) -> bool {
        self.git(&["rev-parse", "--quiet", "--verify", "HEAD^{commit}"]).is_ok()
    }

    fn remote_url(&self) -> Result<String, GitFailure> {
        self.git(&["config", "--local", "--get", &format!("remote.{REMOTE}.url")])
    }

    /// The commit that an earlier call has made.
    pub(super) fn head(&self) -> Option<String> {
        // Without it, git would answer for a repository further up.
        let is_begun = self.dir.join(".git/HEAD").is_file();
        let head = is_begun.then(|| self.git(&["rev-parse", "--quiet", "--verify", "HEAD^{commit}"]).ok())??;
        Some(head.trim_end().to_owned())
    }

    /// Makes the repository and its commit, as far as they are missing.
    ///
    /// # Errors
    /// P0239: what git could not do. The files stay.
    pub(super) fn commit(&self) -> Result<(), Diagnostic> {
        self.change(&["init", "--quiet", "--initial-branch", BRANCH])?;
        if !self.has_commit() {
            self.change(&[&["add", "--force", "--"][..], &self.paths].concat())?;
            self.change(&["commit", "--quiet", "--message", &self.message])?;
        }
        Ok(())
    }

    /// Names the remote, and pushes if that is asked for.
    ///
    /// # Errors
    /// P0239: what git could not do. The files and the commit stay.
    pub(super) fn connect(&self, is_pushed: bool) -> Result<(), Diagnostic> {
        if self.remote_url().is_err() {
            self.change(&["remote", "add", "--", REMOTE, &self.url])?;
        }
        if is_pushed {
            self.change(&["push", "--quiet", "--set-upstream", REMOTE, BRANCH])?;
        }
        Ok(())
    }

    fn change(&self, command: &[&str]) -> Result<(), Diagnostic> {
        self.git(command).map(drop).map_err(|failure| {
            let what = format!("the files are written, but `git {}` failed", command[0]);
            let hint = "correct the cause, and repeat the same command: it goes on where it stopped; if the address is wrong, set the right \
                        one before: `git remote set-url origin URL`";
            Diagnostic::new(ErrorCode::InitRefused, what).with_cause(failure).with_hint(hint)
        })
    }

    /// What git prints in the folder, wherever the caller's git works.
    fn git(&self, arguments: &[&str]) -> Result<String, GitFailure> {
        let mut command = Command::new("git");
        command.arg("-C").arg(self.dir).args(arguments).stdin(Stdio::null());
        for variable in CALLER_VARIABLES {
            command.env_remove(variable);
        }
        // So that its words below are known.
        command.env("LC_ALL", "C");
        let output = command.output().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                "git is not installed".to_owned()
            } else {
                format!("git can't be run: {error}")
            }
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let is_cause = |line: &&str| ["fatal: ", "error: ", " ! ["].iter().any(|begin| line.starts_with(begin));
        let is_text = |line: &&str| !line.trim().is_empty() && !line.starts_with("hint: ");
        let line = said.lines().find(is_cause).or_else(|| said.lines().rev().find(is_text));
        Err(line.unwrap_or("git gave no reason").trim().to_owned())
    }
}

/// The address for git's configuration: git would read a relative path from the folder of the repository, and a caller means the current one.
fn remote_address(url: &str) -> io::Result<String> {
    // As git decides it (`url_is_local_not_ssh`): `host:path` and `scheme://` have a colon before the first slash.
    let is_path = url.split('/').next().is_some_and(|begin| !begin.contains(':'));
    if !is_path || url.is_empty() {
        return Ok(url.to_owned());
    }
    let path = std::path::absolute(url)?;
    // One that is not there yet stays as it is.
    let path = if Path::new(url).is_relative() { path.canonicalize().unwrap_or(path) } else { path };
    path.into_os_string().into_string().map_err(|_| io::Error::other("the path is not valid UTF-8"))
}
