//! State in a git repository: refs below `refs/pawl-state/<app>/<environment>/` (docs/adr/0012).
//!
//! - `lock` is a commit without a parent, with `lock.json`: a renewal pushes nothing else.
//! - `data` is a commit whose parent is the data before, with `state.json` and the files: so a push is a thin pack.
//! - `archive/<first>-<last>` is a commit without a parent for each archive.
//!
//! Any git host works. The runner calls the system's git with argument vectors, because git knows the user's
//! credentials and proxies. It keeps its objects in a shallow bare repository in the cache, so it changes neither the
//! branches nor the work tree of the plan's repository, and the cache does not grow with history.
//!
//! A swap is a `push --atomic` with `--force-with-lease=<ref>:<old>` for each ref, which the host decides under its own
//! lock. Data are never pushed without the lock, so a holder that lost it can't write. Deliberately absent: parsing
//! git's messages, but for one. After a failed push, the caller reads the refs back to learn whether it arrived.

mod command;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use self::command::GitContext;
use super::{
    StateError,
    git_import::ImportStream,
    manifest::{self, LockFile, MANIFEST_VERSION, RemoteArchive, StateManifest},
    record::LockRecord,
    remote::{RECORD_FILE, RecordUpdate, RecordVersion, RemoteRecord, RemoteStorage},
};
use contract::hash::Blake3Hash;
use journal::clock;
use plan::RemoteState;

/// How often a read restarts because the refs changed during it.
const MAX_READ_ATTEMPTS: u32 = 20;

/// How often a fetch is tried before its failure is reported.
const MAX_FETCH_ATTEMPTS: u32 = 3;

/// How often refs that do not belong together are read again, since the host may be moving them right now.
const MAX_PAIRING_ATTEMPTS: u32 = 6;

/// The pause before a read restarts; the next ones are longer.
const READ_RETRY_DELAY: Duration = Duration::from_millis(30);

/// One of 256 folders of objects, which tells how many there are.
const SAMPLED_OBJECTS: &str = "17";

/// More than this means some 3,000 objects, those of 120 deployments.
const MAX_SAMPLED_OBJECTS: usize = 12;

/// A pack has three files.
const MAX_PACK_FILES: usize = 3 * 50;

/// The bare repository is cleaned when its list of shallow commits is longer than this.
const MAX_SHALLOW_BYTES: u64 = 8 * 1024;

/// The file with the lock record, in the commit of the lock.
const LOCK_FILE: &str = "lock.json";

/// The file with the archive, in the commit of an archive.
const ARCHIVE_FILE: &str = "archive.tar.zst";

/// How long a process waits for the others. A fetch is a few commits.
const MAX_FETCH_LOCK_WAIT: Duration = Duration::from_secs(5);

/// The file in the bare repository that a process locks while it changes the shallow file.
const FETCH_LOCK_FILE: &str = "pawl-fetch.lock";

/// The words of a fetch that changes nothing but the refs that it names.
const FETCH: [&str; 7] = [
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--no-auto-maintenance",
    "--depth=1",
];

/// The names of the refs of one state.
#[derive(Debug)]
struct StateRefs {
    lock: String,
    data: String,
    /// The only ref of runners before manifest version 2. It then holds a manifest that they refuse.
    old: String,
    archives: String,
}

impl StateRefs {
    fn new(resource: &str) -> Self {
        let root = format!("refs/pawl-state/{resource}");
        Self {
            lock: format!("{root}/lock"),
            data: format!("{root}/data"),
            old: format!("refs/pawl/{resource}"),
            archives: format!("{root}/archive"),
        }
    }

    fn archive(&self, archive: &RemoteArchive) -> String {
        format!("{}/{:06}-{:06}", self.archives, archive.first, archive.last)
    }
}

/// State in a git repository.
#[derive(Debug)]
pub struct GitStorage {
    /// The state's address as the plan spells it, for messages.
    location: String,
    url: String,
    refs: StateRefs,
    resource: String,
    /// The bare repository in the cache.
    repository: PathBuf,
    configuration: Vec<(String, String)>,
    /// Whether to set an ssh command that never prompts, because the user set none.
    sets_ssh_command: bool,
    /// Environment variables with secrets of the plan, which git does not get.
    withheld_variables: Vec<String>,
    /// The last state that was read or written.
    last_read: Option<RemoteRecord>,
    /// The revision of its manifest.
    last_revision: String,
    /// A name that only this process uses.
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
            refs: StateRefs::new(resource),
            resource: resource.to_owned(),
            repository: cache.join("repository.git"),
            configuration: Vec::new(),
            sets_ssh_command: !state.settings.contains_key("GIT_SSH_COMMAND"),
            withheld_variables: state.withheld_variables.clone(),
            last_read: None,
            last_revision: String::new(),
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
            if !url.status.success()
                && let Some(known) = git.remotes_in(&folder)?
            {
                let (location, remote) = (state.written.clone(), remote.to_owned());
                return Err(StateError::UnknownRemote { location, remote, known, excerpt: state.excerpt.clone() });
            }
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

    /// The names of the remotes of a folder's repository; none if it is in no repository.
    fn remotes_in(&self, folder: &str) -> Result<Option<Vec<String>>, StateError> {
        let listed = self.run_git(&["-C", folder, "remote"], GitContext::PlanFolder, Vec::new(), "reach")?;
        let names = String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect();
        Ok(listed.status.success().then_some(names))
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

    /// The file in which git lists the commits whose parents are not here.
    fn shallow_file(&self) -> PathBuf {
        self.repository.join("shallow")
    }

    /// Whether the bare repository has so many objects that git should collect those that no ref needs.
    fn has_many_objects(&self) -> bool {
        let count =
            |folder: &str| std::fs::read_dir(self.repository.join("objects").join(folder)).map_or(0, Iterator::count);
        count(SAMPLED_OBJECTS) > MAX_SAMPLED_OBJECTS || count("pack") > MAX_PACK_FILES
    }

    /// The commits that the remote's refs point to.
    fn remote_refs(&self) -> Result<RecordVersion, StateError> {
        let StateRefs { lock, data, old, .. } = &self.refs;
        let words = ["ls-remote", "--quiet", "--", &self.url, lock, data, old];
        let listed = self.git_in_cache(&words, Vec::new(), "read")?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let commit_of = |reference: &String| {
            let mut refs = listed.lines().filter_map(|line| line.split_once('\t'));
            refs.find(|(_, name)| name == reference).map(|(commit, _)| commit.to_owned())
        };
        Ok(RecordVersion { data: commit_of(data), lock: commit_of(lock), old: commit_of(old) })
    }

    /// Waits for the other processes of this machine that change the shallow file: git gives up at once if one of them has it.
    /// The lock ends with the returned file. Without it (a full disk, or a process that was stopped) git itself says what is wrong.
    fn lock_shallow_file(&self) -> Option<File> {
        let file = File::create(self.repository.join(FETCH_LOCK_FILE)).ok()?;
        let began = Instant::now();
        while began.elapsed() < MAX_FETCH_LOCK_WAIT {
            match file.try_lock() {
                Ok(()) => return Some(file),
                Err(TryLockError::WouldBlock) => thread::sleep(READ_RETRY_DELAY),
                Err(TryLockError::Error(_)) => return None,
            }
        }
        None
    }

    /// Fetches the commits of refs that are not here. A ref may move meanwhile: the caller looks which commits are here.
    fn fetch(&self, version: &RecordVersion, missing: &[&String]) -> Result<(), StateError> {
        let is_new = version.lock.is_some() || version.data.is_some();
        let StateRefs { lock, data, old, .. } = &self.refs;
        let named = [(lock, &version.lock), (data, &version.data), (old, &version.old)];
        let refspecs: Vec<_> = named
            .into_iter()
            .filter(|(name, _)| !is_new || *name != old)
            .filter(|(_, commit)| commit.as_ref().is_some_and(|commit| missing.contains(&commit)))
            .map(|(name, _)| format!("+{name}:{name}"))
            .collect();
        let refspecs = refspecs.iter().map(String::as_str);
        let words: Vec<&str> = FETCH.into_iter().chain(["--", &self.url]).chain(refspecs).collect();
        let _lock = self.lock_shallow_file();
        self.git_in_cache(&words, Vec::new(), "read").map(drop)
    }

    /// Reads objects of the bare repository; `None` for each that is not there.
    fn objects(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let input = names.iter().flat_map(|name| [name.as_bytes(), b"\n"]).flatten().copied().collect();
        let answer = self.git_in_cache(&["cat-file", "--batch"], input, "read")?;
        let mut rest = answer.as_slice();
        Ok(names.iter().map(|_| next_object(&mut rest).map(<[u8]>::to_vec)).collect())
    }

    /// Reads the state of these commits; `Err` has those that are not here, or not all of them.
    fn read_commits<'v>(&self, version: &'v RecordVersion) -> Result<Result<GitRead, Vec<&'v String>>, StateError> {
        let is_new = version.lock.is_some() || version.data.is_some();
        let old = version.old.as_ref().filter(|_| !is_new).map(|commit| (commit, RECORD_FILE));
        let lock = version.lock.as_ref().map(|commit| (commit, LOCK_FILE));
        let data = version.data.as_ref().map(|commit| (commit, RECORD_FILE));
        let wanted: Vec<_> = [lock, data, old].into_iter().flatten().collect();
        let names: Vec<_> =
            wanted.iter().flat_map(|(commit, file)| [(*commit).clone(), format!("{commit}:{file}")]).collect();
        let objects = if names.is_empty() { Vec::new() } else { self.objects(&names)? };
        let missing = wanted.iter().zip(objects.chunks(2)).filter(|(_, found)| found.contains(&None));
        let missing: Vec<_> = missing.map(|((commit, _), _)| *commit).collect();
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
        let mut files = objects.into_iter().skip(1).step_by(2);
        let mut next = |wanted: Option<(&String, &str)>| wanted.and_then(|_| files.next().flatten());
        let (lock, data, old) = (next(lock), next(data), next(old));
        let parse = |bytes: Option<Vec<u8>>| {
            bytes.map(|bytes| manifest::parse(&bytes, &self.resource, &self.location)).transpose()
        };
        let lock = lock.map(|bytes| manifest::parse_lock_file(&bytes, &self.resource, &self.location)).transpose()?;
        let (data, old) = (parse(data)?, parse(old)?);
        let never_held = || LockRecord::never_held(&self.resource, clock::now());
        let read = match (lock, data, old) {
            (None, None, None) => GitRead::unpaired(never_held(), StateManifest::empty(&self.resource)),
            // A ref of version 2 without the others is what is left of a state whose data were removed.
            (None, None, Some(old)) => GitRead::unpaired(old.lock.unwrap_or_else(never_held), old.manifest),
            (None, Some(data), _) => GitRead::unpaired(never_held(), data.manifest),
            (Some(file), None, _) => GitRead::unpaired(file.lock, StateManifest::empty(&self.resource)),
            (Some(file), Some(data), _) => {
                let is_paired = data.revision.as_ref() == Some(&file.revision);
                GitRead { lock: file.lock, manifest: data.manifest, revision: file.revision, is_paired }
            }
        };
        Ok(Ok(read))
    }

    /// Creates the commits of a write in the bare repository. Returns those of the lock, the data, the old ref and the
    /// archives.
    fn create_commits(&self, change: &RecordUpdate<'_>, revision: &str) -> Result<Vec<String>, StateError> {
        let version = &change.expected.version;
        let mut stream = ImportStream::new(&self.scratch_ref, change.message, clock::now().as_second());
        let file = LockFile { version: MANIFEST_VERSION, revision: revision.to_owned(), lock: change.lock.clone() };
        stream.commit(None, &[], &[(LOCK_FILE, &manifest::json_line(&file))]);
        if let Some(manifest) = change.manifest {
            let record = manifest::encode(manifest, None, Some(revision));
            let files = change.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
            let files: Vec<_> = files.chain([(RECORD_FILE, record.as_slice())]).collect();
            match (&version.data, &version.old) {
                (Some(parent), _) => stream.commit(Some(parent), change.removed, &files),
                (None, Some(old)) => {
                    // The files of version 1 stay; the commit of its record is not what the new data follow.
                    let tree = self.git_in_cache(&["rev-parse", &format!("{old}^{{tree}}")], Vec::new(), "write")?;
                    stream.commit_on_tree(String::from_utf8_lossy(&tree).trim(), change.removed, &files);
                }
                (None, None) => stream.commit(None, &[], &files),
            }
            if version.data.is_none() {
                let lock = LockRecord { holder: None, nonce: String::new(), ttl_ms: None, ..change.lock.clone() };
                let tombstone = manifest::encode(&StateManifest::empty(&self.resource), Some(&lock), None);
                stream.commit(None, &[], &[(RECORD_FILE, &tombstone)]);
            }
        }
        for (_, bytes) in change.archives {
            stream.commit(None, &[], &[(ARCHIVE_FILE, bytes)]);
        }
        let answer = self.git_in_cache(&["fast-import", "--quiet", "--done"], stream.finish(), "write")?;
        Ok(String::from_utf8_lossy(&answer).lines().map(ToOwned::to_owned).collect())
    }

    fn push(&self, refspecs: &[String], leases: &[String]) -> Result<(), StateError> {
        let words = ["push", "--quiet", "--atomic", "--no-verify", "--no-recurse-submodules"];
        let leases = leases.iter().map(String::as_str);
        let refspecs = refspecs.iter().map(String::as_str);
        let words: Vec<&str> = words.into_iter().chain(leases).chain(["--", &self.url]).chain(refspecs).collect();
        let output = self.run_git(&words, GitContext::CacheRepository, Vec::new(), "write")?;
        if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("does not support --atomic") {
            let why = "it does not support `git push --atomic`".to_owned();
            return Err(StateError::NoConditionalWrites { location: self.location.clone(), why });
        }
        self.successful_stdout(output, "write").map(drop)
    }
}

/// The state in two commits.
struct GitRead {
    lock: LockRecord,
    manifest: StateManifest,
    revision: String,
    is_paired: bool,
}

impl GitRead {
    fn unpaired(lock: LockRecord, manifest: StateManifest) -> Self {
        Self { lock, manifest, revision: String::new(), is_paired: false }
    }
}

impl RemoteStorage for GitStorage {
    /// Git's own locking guarantees conditional writes, so there is nothing to probe.
    fn verify_conditional_writes(&mut self) -> Result<(), StateError> {
        Ok(())
    }

    fn read_record(&mut self) -> Result<RemoteRecord, StateError> {
        let (mut failures, mut unpaired, mut incomplete) = (0, 0, None);
        for attempt in 0..MAX_READ_ATTEMPTS {
            thread::sleep(READ_RETRY_DELAY * attempt.min(4));
            let version = self.remote_refs()?;
            if let Some(last) = &self.last_read
                && last.version == version
            {
                return Ok(last.clone());
            }
            let read = match self.read_commits(&version)? {
                Ok(read) => read,
                Err(missing) => {
                    let fetched = self.fetch(&version, &missing);
                    match (self.read_commits(&version)?, fetched) {
                        (Ok(read), _) => read,
                        (Err(missing), Ok(())) => {
                            incomplete = missing.first().map(|commit| (*commit).clone());
                            continue;
                        }
                        (Err(_), Err(error)) => {
                            failures += 1;
                            if failures == MAX_FETCH_ATTEMPTS || attempt + 1 == MAX_READ_ATTEMPTS {
                                return Err(error);
                            }
                            continue;
                        }
                    }
                }
            };
            // A host that crashed between the two refs leaves them so. Nobody was told that such a write arrived.
            let should_pair = version.lock.is_some() && version.data.is_some();
            if should_pair && !read.is_paired && unpaired < MAX_PAIRING_ATTEMPTS {
                unpaired += 1;
                continue;
            }
            let GitRead { lock, manifest, revision, is_paired } = read;
            let record = RemoteRecord { version, lock, manifest, needs_manifest: !is_paired };
            self.last_revision = revision;
            self.last_read = Some(record.clone());
            // Each fetch adds a line; a machine that only reads must not collect them for ever.
            if std::fs::metadata(self.shallow_file()).is_ok_and(|file| file.len() > MAX_SHALLOW_BYTES) {
                self.clean_local_cache();
            }
            return Ok(record);
        }
        Err(match incomplete {
            Some(commit) => StateError::InvalidManifest {
                location: self.location.clone(),
                why: format!("commit {commit} has neither {LOCK_FILE} nor {RECORD_FILE}"),
            },
            None => self.remote_error("read", "the refs changed during every read"),
        })
    }

    fn compare_and_swap(&mut self, change: &RecordUpdate<'_>) -> Result<RecordVersion, StateError> {
        let expected = &change.expected.version;
        let revision = match change.manifest {
            None => self.last_revision.clone(),
            Some(_) => super::record::random_nonce().map_err(|error| self.remote_error("write", error.to_string()))?,
        };
        let commits = self.create_commits(change, &revision)?;
        let mut created = commits.iter();
        let mut next = || created.next().cloned().ok_or_else(|| self.remote_error("write", "git made no commit"));
        let mut written = RecordVersion { lock: Some(next()?), ..expected.clone() };
        let mut moved = vec![(&self.refs.lock, &expected.lock, written.lock.clone())];
        if change.manifest.is_some() {
            written.data = Some(next()?);
            moved.push((&self.refs.data, &expected.data, written.data.clone()));
            if expected.data.is_none() {
                written.old = Some(next()?);
                moved.push((&self.refs.old, &expected.old, written.old.clone()));
            }
        }
        let mut refspecs = Vec::new();
        let mut leases = Vec::new();
        for (name, before, commit) in moved {
            leases.push(format!("--force-with-lease={name}:{}", before.as_deref().unwrap_or_default()));
            refspecs.push(format!("{}:{name}", commit.unwrap_or_default()));
        }
        for (archive, _) in change.archives {
            // Who was interrupted may have left one that no manifest names.
            refspecs.push(format!("+{}:{}", next()?, self.refs.archive(archive)));
        }
        self.push(&refspecs, &leases)?;
        self.last_read = Some(RemoteRecord {
            version: written.clone(),
            lock: change.lock.clone(),
            manifest: change.manifest.unwrap_or(&change.expected.manifest).clone(),
            needs_manifest: change.manifest.is_none() && change.expected.needs_manifest,
        });
        self.last_revision = revision;
        Ok(written)
    }

    fn read_files(&mut self, record: &RemoteRecord, names: &[String]) -> Result<Vec<Vec<u8>>, StateError> {
        let Some(commit) = record.version.data.as_ref().or(record.version.old.as_ref()) else {
            return Err(self.remote_error("read", "there are no files"));
        };
        let objects: Vec<_> = names.iter().map(|name| format!("{commit}:{name}")).collect();
        let contents = if objects.is_empty() { Vec::new() } else { self.objects(&objects)? };
        let missing = |name: &String| StateError::RemoteFileMissing {
            action: "read",
            location: self.location.clone(),
            name: name.clone(),
        };
        names.iter().zip(contents).map(|(name, content)| content.ok_or_else(|| missing(name))).collect()
    }

    fn read_archive(&mut self, archive: &RemoteArchive) -> Result<Vec<u8>, StateError> {
        let reference = self.refs.archive(archive);
        let temporary = format!("refs/import/{}/archive", self.scratch_ref);
        let words: Vec<&str> = FETCH.to_vec();
        let refspec = format!("+{reference}:{temporary}");
        let lock = self.lock_shallow_file();
        self.git_in_cache(&[&words[..], &["--", &self.url, &refspec]].concat(), Vec::new(), "read")?;
        drop(lock);
        let content =
            self.git_in_cache(&["cat-file", "blob", &format!("{temporary}:{ARCHIVE_FILE}")], Vec::new(), "read");
        let _ = self.git_in_cache(&["update-ref", "-d", &temporary], Vec::new(), "tidy");
        content
    }

    /// A commit has the files of its version, so they keep their names, and git sends differences.
    fn stored_name(&self, name: &str, _: &Blake3Hash) -> String {
        name.to_owned()
    }

    fn clean_local_cache(&mut self) {
        let Some(RemoteRecord { version: RecordVersion { data, lock, .. }, .. }) = &self.last_read else { return };
        // The refs keep the objects that the next fetch builds on. Git decides when to collect the rest.
        let updates = [(&self.refs.data, data), (&self.refs.lock, lock)];
        let updates: String = updates
            .into_iter()
            .filter_map(|(name, commit)| Some(format!("update {name} {}\n", commit.as_ref()?)))
            .collect();
        let _ = self.git_in_cache(&["update-ref", "--stdin"], updates.into_bytes(), "tidy");
        if let Some(data) = data {
            // What came before is not needed here, and would make this repository grow with history.
            let _lock = self.lock_shallow_file();
            let _ = hostio::atomic_file::replace_file(&self.shallow_file(), format!("{data}\n").as_bytes());
        }
        if self.has_many_objects() {
            // Younger ones may be those of another process of this machine. Who misses one all the same reads again.
            let _ = self.git_in_cache(&["gc", "--quiet", "--prune=1.minute.ago"], Vec::new(), "tidy");
        }
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
