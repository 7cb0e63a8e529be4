//! State in a git repository: one ref, `refs/pawl/<app>/<environment>`, whose commit holds the record and the journals.
//!
//! Any git host works. The runner calls the system's git with argument vectors, because git knows the user's
//! credentials and proxies. It keeps its objects in a bare repository in the cache, so it changes neither the branches
//! nor the work tree of the plan's repository. Commits have no parents: the journals are the history.
//!
//! A swap is a push with `--force-with-lease=<ref>:<old>`, which the host decides under its own lock. Deliberately
//! absent: parsing git's messages. After a failed push, the caller reads the ref back to learn whether it arrived.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{io::AsyncWriteExt as _, process::Command, runtime::Runtime};

use super::{
    StateError,
    remote::{CALL_TIMEOUT, RECORD_FILE, RecordUpdate, RecordVersion, RemoteStorage, VersionedRecord},
};
use journal::clock;
use plan::RemoteState;

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
enum GitContext {
    /// The plan's folder, with the user's environment and configuration.
    PlanFolder,
    /// The directory that the arguments name.
    Anywhere,
    /// The runner's bare repository.
    CacheRepository,
}

/// How often a read restarts because the ref changed during it.
const MAX_READ_ATTEMPTS: usize = 10;

/// State in a git repository.
#[derive(Debug)]
pub struct GitStorage {
    /// The state's address as the plan spells it, for messages.
    location: String,
    url: String,
    reference: String,
    /// The bare repository in the cache.
    repository: PathBuf,
    configuration: Vec<(String, String)>,
    /// Whether to set an ssh command that never prompts, because the user set none.
    sets_ssh_command: bool,
    /// The last record that was read or written, with its commit and tree.
    last_commit: Option<(String, String, Vec<u8>)>,
    /// A ref name that only this process uses.
    scratch_ref: String,
    runtime: Runtime,
}

impl GitStorage {
    /// Opens `remote` as the plan in `state.folder` means it; `cache` is a folder for this state alone.
    pub(super) fn new(state: &RemoteState, remote: &str, resource: &str, cache: &Path) -> Result<Self, StateError> {
        let failed = |why: String| StateError::Remote { action: "reach", location: state.written.clone(), why };
        let runtime = super::runtime().map_err(|error| failed(error.to_string()))?;
        let mut git = Self {
            location: state.written.clone(),
            url: remote.to_owned(),
            reference: format!("refs/pawl/{resource}"),
            repository: cache.join("repository.git"),
            configuration: Vec::new(),
            sets_ssh_command: !state.settings.contains_key("GIT_SSH_COMMAND"),
            last_commit: None,
            scratch_ref: super::record::random_nonce().map_err(|error| failed(error.to_string()))?,
            runtime,
        };
        git.inherit_config(&state.folder)?;
        if !remote.contains([':', '/']) {
            let folder = state.folder.to_string_lossy();
            let url = git.run_git(
                &["-C", &folder, "remote", "get-url", remote],
                GitContext::PlanFolder,
                Vec::new(),
                "reach",
            )?;
            let url = git.successful_stdout(url, "reach")?;
            String::from_utf8_lossy(&url).trim_end().clone_into(&mut git.url);
            // A relative path in a repository's configuration is relative to that repository.
            if git.url.starts_with('.') {
                git.url = state.folder.join(&git.url).to_string_lossy().into_owned();
            }
        }
        if !git.repository.join("HEAD").exists() {
            git.init_repository(cache)?;
        }
        Ok(git)
    }

    /// Creates the bare repository under a temporary name and renames it, because another process may create it at the
    /// same time.
    fn init_repository(&self, cache: &Path) -> Result<(), StateError> {
        std::fs::create_dir_all(cache).map_err(|source| StateError::io("create", cache, source))?;
        let temporary = cache.join(format!("{}.tmp", self.scratch_ref));
        self.git_anywhere(&["init", "--quiet", "--bare", "--template=", &temporary.to_string_lossy()], "prepare")?;
        match std::fs::rename(&temporary, &self.repository) {
            Ok(()) => Ok(()),
            Err(_) if self.repository.join("HEAD").exists() => {
                std::fs::remove_dir_all(&temporary).map_err(|source| StateError::io("remove", &temporary, source))
            }
            Err(source) => Err(StateError::io("create", &self.repository, source)),
        }
    }

    /// Copies the remote configuration of the plan's repository. If the plan is not in a repository, it copies nothing.
    fn inherit_config(&mut self, folder: &Path) -> Result<(), StateError> {
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
    fn git_in_cache(&self, arguments: &[&str], input: Vec<u8>, action: &'static str) -> Result<Vec<u8>, StateError> {
        let output = self.run_git(arguments, GitContext::CacheRepository, input, action)?;
        self.successful_stdout(output, action)
    }

    /// Runs git in the given scope.
    fn git_anywhere(&self, arguments: &[&str], action: &'static str) -> Result<Vec<u8>, StateError> {
        let output = self.run_git(arguments, GitContext::Anywhere, Vec::new(), action)?;
        self.successful_stdout(output, action)
    }

    fn successful_stdout(&self, output: Output, action: &'static str) -> Result<Vec<u8>, StateError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
        let why = if lines.is_empty() { format!("git: {}", output.status) } else { lines.join("; ") };
        Err(self.remote_error(action, why))
    }

    fn remote_error(&self, action: &'static str, why: impl Into<String>) -> StateError {
        StateError::Remote { action, location: self.location.clone(), why: why.into() }
    }

    fn run_git(
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
        let own =
            [("core.hooksPath", "/dev/null"), ("core.fsync", "none"), ("gc.auto", "0"), ("push.gpgSign", "false")];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let configuration: Vec<_> = self.configuration.iter().cloned().chain(own).collect();
        command.env("GIT_CONFIG_COUNT", configuration.len().to_string());
        for (index, (name, value)) in configuration.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), name).env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
    }

    /// The commit that the remote ref points to.
    fn remote_commit(&self) -> Result<Option<String>, StateError> {
        let listed =
            self.git_in_cache(&["ls-remote", "--quiet", "--", &self.url, &self.reference], Vec::new(), "read")?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let ours = listed.lines().filter_map(|line| line.split_once('\t')).find(|(_, name)| *name == self.reference);
        Ok(ours.map(|(commit, _)| commit.to_owned()))
    }

    /// The tree and the record of a commit; `None` if the commit is not in the bare repository.
    fn read_commit(&self, commit: &str) -> Result<Option<(String, Vec<u8>)>, StateError> {
        let input = format!("{commit}\n{commit}:{RECORD_FILE}\n").into_bytes();
        let answer = self.git_in_cache(&["cat-file", "--batch"], input, "read")?;
        let mut rest = answer.as_slice();
        let Some(text) = next_object(&mut rest) else { return Ok(None) };
        let tree = text.split(|byte| *byte == b'\n').next().and_then(|line| line.strip_prefix(b"tree "));
        let record = next_object(&mut rest);
        match (tree, record) {
            (Some(tree), Some(record)) => Ok(Some((String::from_utf8_lossy(tree).into_owned(), record.to_vec()))),
            (None, _) | (_, None) => Err(StateError::InvalidManifest {
                location: self.location.clone(),
                why: format!("{} is a commit without {RECORD_FILE}", self.reference),
            }),
        }
    }
}

impl RemoteStorage for GitStorage {
    /// Git's own locking guarantees conditional writes, so there is nothing to probe.
    fn verify_conditional_writes(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    fn read_record(&mut self) -> Result<Option<VersionedRecord>, StateError> {
        for _ in 0..MAX_READ_ATTEMPTS {
            let Some(commit) = self.remote_commit()? else {
                self.last_commit = None;
                return Ok(None);
            };
            if let Some((last, _, record)) = &self.last_commit
                && *last == commit
            {
                return Ok(Some(VersionedRecord { version: RecordVersion(commit), bytes: record.clone() }));
            }
            let refspec = format!("+{0}:{0}", self.reference);
            let words = [
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-recurse-submodules",
                "--no-auto-maintenance",
            ];
            let fetched = self.git_in_cache(&[&words[..], &["--", &self.url, &refspec]].concat(), Vec::new(), "read");
            // Another process may have fetched at the same time, or the ref may have moved. Either way the next read
            // finds a commit.
            match (self.read_commit(&commit)?, fetched) {
                (Some((tree, record)), _) => {
                    self.last_commit = Some((commit.clone(), tree, record.clone()));
                    return Ok(Some(VersionedRecord { version: RecordVersion(commit), bytes: record }));
                }
                (None, Ok(_)) => {}
                (None, Err(error)) => {
                    if self.remote_commit()?.as_ref() == Some(&commit) {
                        return Err(error);
                    }
                }
            }
        }
        Err(self.remote_error("read", "the ref changed during every read"))
    }

    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError> {
        let base = match (change.expected, &self.last_commit) {
            (None, _) => None,
            (Some(RecordVersion(expected)), Some((last, tree, _))) if last == expected => Some(tree.clone()),
            (Some(RecordVersion(expected)), _) => self.read_commit(expected)?.map(|(tree, _)| tree),
        };
        let answer = self.git_in_cache(
            &["fast-import", "--quiet", "--done"],
            fast_import_stream(change, base.as_deref(), &self.scratch_ref),
            "write",
        )?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let mut lines = answer.lines();
        let commit = lines.next().unwrap_or_default().to_owned();
        let tree = lines.next().and_then(|line| line.split_whitespace().nth(2)).unwrap_or_default().to_owned();
        let expected = change.expected.map_or("", |RecordVersion(version)| version.as_str());
        let lease = format!("--force-with-lease={}:{expected}", self.reference);
        let refspec = format!("{commit}:{}", self.reference);
        let words = ["push", "--quiet", "--no-verify", "--no-recurse-submodules", &lease, "--", &self.url, &refspec];
        self.git_in_cache(&words, Vec::new(), "write")?;
        self.last_commit = Some((commit.clone(), tree, change.record.to_vec()));
        Ok(RecordVersion(commit))
    }

    fn read_file(&mut self, name: &str) -> Result<Vec<u8>, StateError> {
        let Some((commit, ..)) = &self.last_commit else {
            return Err(self.remote_error("read", "the record was not read before its files"));
        };
        self.git_in_cache(&["cat-file", "blob", &format!("{commit}:{name}")], Vec::new(), "read")
    }

    fn clean_local_cache(&mut self) {
        let Some((commit, ..)) = &self.last_commit else { return };
        // The ref keeps the objects that the next fetch builds on. Git decides when to collect the rest.
        let _ = self.git_in_cache(&["update-ref", &self.reference, commit], Vec::new(), "tidy");
        let _ = self.git_in_cache(
            &[
                "-c",
                "gc.auto=2000",
                "-c",
                "gc.autoDetach=false",
                "-c",
                "gc.pruneExpire=1.hour.ago",
                "gc",
                "--auto",
                "--quiet",
            ],
            Vec::new(),
            "tidy",
        );
    }
}

/// The next object in the output of `cat-file --batch`; `None` if it is missing.
fn next_object<'a>(answer: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = answer.iter().position(|byte| *byte == b'\n')?;
    let (head, rest) = answer.split_at(end);
    *answer = &rest[1..];
    let head = std::str::from_utf8(head).ok()?;
    let mut words = head.split(' ');
    let (_, kind, size) = (words.next()?, words.next()?, words.next());
    let size: usize = match (kind, size) {
        ("missing", _) | (_, None) => return None,
        (_, Some(size)) => size.parse().ok()?,
    };
    let content = answer.get(..size)?;
    *answer = answer.get(size + 1..)?;
    Some(content)
}

/// The input of `git fast-import` for one commit without a parent. The command prints its name and tree.
fn fast_import_stream(change: &RecordUpdate<'_>, base: Option<&str>, scratch: &str) -> Vec<u8> {
    fn data(stream: &mut Vec<u8>, bytes: &[u8]) {
        stream.extend_from_slice(format!("data {}\n", bytes.len()).as_bytes());
        stream.extend_from_slice(bytes);
        stream.push(b'\n');
    }
    let mut stream = Vec::new();
    let files = change.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let files: Vec<_> = files.chain([(RECORD_FILE, change.record)]).collect();
    for (index, (_, bytes)) in files.iter().enumerate() {
        stream.extend_from_slice(format!("blob\nmark :{}\n", index + 1).as_bytes());
        data(&mut stream, bytes);
    }
    let commit = files.len() + 1;
    let at = clock::now().as_second();
    // Git needs a ref during an import; the last command deletes it.
    let head = format!("commit refs/import/{scratch}\nmark :{commit}\ncommitter Pawl <pawl@localhost> {at} +0000\n");
    stream.extend_from_slice(head.as_bytes());
    data(&mut stream, change.message.as_bytes());
    if let Some(tree) = base {
        stream.extend_from_slice(format!("M 040000 {tree} \n").as_bytes());
    }
    for name in change.removed {
        stream.extend_from_slice(format!("D {name}\n").as_bytes());
    }
    for (index, (name, _)) in files.iter().enumerate() {
        stream.extend_from_slice(format!("M 100644 :{} {name}\n", index + 1).as_bytes());
    }
    let nothing = "0".repeat(40);
    let tail =
        format!("\nget-mark :{commit}\nls :{commit} \"\"\nreset refs/import/{scratch}\nfrom {nothing}\n\ndone\n");
    stream.extend_from_slice(tail.as_bytes());
    stream
}
