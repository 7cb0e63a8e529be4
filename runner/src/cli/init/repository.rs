//! The repository of `--remote`: the first commit has what `init` wrote, and `origin` is the remote.
//!
//! Invariant: where a repository is already, nothing is written. Deliberately absent: files that `init` did not write, in the commit; a
//! repository at a forge; and a push, unless `--push` asks for it.

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

/// A repository that does not exist yet.
#[derive(Debug)]
pub(super) struct NewRepository<'a> {
    dir: &'a Path,
    url: &'a str,
}

impl<'a> NewRepository<'a> {
    /// Finds out, before anything is written, whether there can be one.
    ///
    /// # Errors
    /// P0239: the folder belongs to a repository; git is missing, or does not know who commits.
    pub(super) fn prepare(dir: &'a Path, url: &'a str) -> Result<Self, Diagnostic> {
        let repository = Self { dir, url };
        let whole = dir.canonicalize().map_err(|error| super::unusable(dir, &error))?;
        if let Some(existing) = whole.ancestors().find(|folder| folder.join(".git").symlink_metadata().is_ok()) {
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

    /// Makes it, and pushes if that is asked for.
    ///
    /// # Errors
    /// P0239: what git could not do. The files stay.
    pub(super) fn create(&self, files: &[PlannedFile], message: &str, is_pushed: bool) -> Result<(), Diagnostic> {
        let mut add = vec!["add", "--force", "--"];
        add.extend(files.iter().map(|file| file.path.as_str()));
        let push = ["push", "--quiet", "--set-upstream", REMOTE, BRANCH];
        let commands: [&[&str]; 5] = [
            &["init", "--quiet", "--initial-branch", BRANCH],
            &add,
            &["commit", "--quiet", "--message", message],
            &["remote", "add", "--", REMOTE, self.url],
            &push,
        ];
        let count = if is_pushed { commands.len() } else { commands.len() - 1 };
        for command in &commands[..count] {
            self.git(command).map_err(|failure| {
                let what = format!("the files are written, but `git {}` failed", command[0]);
                let hint = "correct the cause, and run the rest by hand, starting with the command that failed: `git init -b main`, \
                            `git add`, `git commit`, `git remote add origin URL`, `git push -u origin main`";
                Diagnostic::new(ErrorCode::InitRefused, what).with_cause(failure).with_hint(hint)
            })?;
        }
        Ok(())
    }

    /// Runs git in the folder, wherever the caller's git works.
    fn git(&self, arguments: &[&str]) -> Result<(), GitFailure> {
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
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let is_cause = |line: &&str| ["fatal: ", "error: ", " ! ["].iter().any(|begin| line.starts_with(begin));
        let is_text = |line: &&str| !line.trim().is_empty() && !line.starts_with("hint: ");
        let line = said.lines().find(is_cause).or_else(|| said.lines().rev().find(is_text));
        Err(line.unwrap_or("git gave no reason").trim().to_owned())
    }
}
