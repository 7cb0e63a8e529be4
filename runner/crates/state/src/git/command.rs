//! Calls of the system's git: with which environment and configuration, in which repository, and for how long.
//!
//! Deliberately absent: which calls make a storage.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::GitStorage;
use crate::{ID_TOKEN_VARIABLE, JOB_SECRET_VARIABLES, StateError, remote::CALL_TIMEOUT};

/// Configuration of the plan's repository that a git call inherits to reach a remote. A CI job has its token there.
const INHERITED_CONFIG_KEYS: &str = r"^(http|credential|url|ssh|protocol|core\.(sshcommand|gitproxy))\b";

/// Environment variables with which git finds a repository. They are removed, because the runner uses its own
/// repository.
const REPOSITORY_VARIABLES: [&str; 9] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
];

/// The directory that a git command runs in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GitContext {
    /// The plan's folder, with the user's environment and configuration.
    PlanFolder,
    /// The directory that the arguments name.
    Anywhere,
    /// The runner's bare repository.
    CacheRepository,
}

impl GitStorage {
    /// Copies the remote configuration of the plan's repository. If the plan is not in a repository, it copies nothing.
    pub(super) fn inherit_config(&mut self, folder: &Path) -> Result<(), StateError> {
        let folder = folder.to_string_lossy();
        let arguments =
            ["-C", &folder, "config", "--null", "--show-scope", "--includes", "--get-regexp", INHERITED_CONFIG_KEYS];
        let output = self.run_git(&arguments, GitContext::PlanFolder, Vec::new(), "reach")?;
        if !output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut fields = text.split_terminator('\0');
        while let (Some(scope), Some(entry)) = (fields.next(), fields.next()) {
            // Configuration of the user or the machine applies to the bare repository anyway.
            if matches!(scope, "local" | "worktree" | "command")
                && let Some((name, value)) = entry.split_once('\n')
            {
                if name == "core.sshcommand" {
                    self.sets_ssh_command = false;
                }
                self.configuration.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(())
    }

    /// Runs git in the bare repository.
    pub(super) fn git_in_cache(
        &self,
        arguments: &[&str],
        input: Vec<u8>,
        action: &'static str,
    ) -> Result<Vec<u8>, StateError> {
        let output = self.run_git(arguments, GitContext::CacheRepository, input, action)?;
        self.successful_stdout(output, action)
    }

    /// Runs git in the given scope.
    pub(super) fn git_anywhere(&self, arguments: &[&str], action: &'static str) -> Result<Vec<u8>, StateError> {
        let output = self.run_git(arguments, GitContext::Anywhere, Vec::new(), action)?;
        self.successful_stdout(output, action)
    }

    pub(super) fn successful_stdout(&self, output: Output, action: &'static str) -> Result<Vec<u8>, StateError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
        let why = if lines.is_empty() { format!("git: {}", output.status) } else { lines.join("; ") };
        Err(self.remote_error(action, why))
    }

    pub(super) fn remote_error(&self, action: &'static str, why: impl Into<String>) -> StateError {
        StateError::Remote { action, location: self.location.clone(), why: why.into() }
    }

    pub(super) fn run_git(
        &self,
        arguments: &[&str],
        context: GitContext,
        input: Vec<u8>,
        action: &'static str,
    ) -> Result<Output, StateError> {
        let mut command = Command::new("git");
        for name in REPOSITORY_VARIABLES {
            command.env_remove(name);
        }
        // While git runs, every program of the same user can read its environment.
        let secrets = self.withheld_variables.iter().map(String::as_str);
        for name in secrets.chain(JOB_SECRET_VARIABLES).chain([ID_TOKEN_VARIABLE]) {
            command.env_remove(name);
        }
        if context == GitContext::CacheRepository {
            command.arg("--git-dir").arg(&self.repository);
        }
        if context != GitContext::PlanFolder {
            self.apply_config(&mut command);
        }
        if self.sets_ssh_command {
            command.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");
        }
        command.env("GIT_TERMINAL_PROMPT", "0").args(arguments);
        // Git gets its own process group, so that a signal to the runner does not interrupt the write that releases the
        // lock.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = self.runtime.block_on(async {
            let mut child = command.spawn()?;
            let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            let stdin = child.stdin.take();
            let work = async {
                if let Some(mut stdin) = stdin {
                    // A git that does not read its input exits early and reports why.
                    let _ = stdin.write_all(&input).await;
                }
                child.wait_with_output().await
            };
            match tokio::time::timeout(CALL_TIMEOUT, work).await {
                Ok(output) => output.map(Some),
                Err(_) => {
                    group.map(|group| kill_process_group(group, Signal::KILL));
                    Ok(None)
                }
            }
        });
        match ended {
            Ok(Some(output)) => Ok(output),
            Ok(None) => Err(self.remote_error(action, format!("git timed out after {} s", CALL_TIMEOUT.as_secs()))),
            Err(error) => Err(self.remote_error(action, format!("can't run git: {error}"))),
        }
    }

    /// Passes configuration through the environment, because arguments with a token would be visible to other users.
    fn apply_config(&self, command: &mut Command) {
        command.env_remove("GIT_CONFIG").env_remove("GIT_CONFIG_PARAMETERS");
        let own = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsync", "none"),
            // What is fetched appears at once: another process of this machine may read at the same time.
            ("fetch.unpackLimit", "1"),
            ("gc.auto", "0"),
            ("push.gpgSign", "false"),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let configuration: Vec<_> = self.configuration.iter().cloned().chain(own).collect();
        command.env("GIT_CONFIG_COUNT", configuration.len().to_string());
        for (index, (name, value)) in configuration.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), name).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
    }
}
