//! Removes what no deployment to this host has used for a month: agents of other builds, and files that were sent.
//!
//! Invariants: nothing that a running agent was offered or laid out is removed, since each holds the store's lock from then on, and only who has it
//! alone removes something; nothing is removed that a laid-out folder still has, and what is left of a folder is not taken for the whole. A
//! run of it takes about a second at most: what is left is the next one's. Deliberately absent: compiled modules, whose cache has a largest
//! size, and journals.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use journal::clock;
use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, utimensat};

/// What was not used for this long is removed.
const MAX_UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a run of it may take.
const MAX_TIME: Duration = Duration::from_secs(1);
/// What names of agents begin with, complete ones and those whose upload was cut.
const AGENT_PREFIX: &str = "agent-";
/// What the file with an agent's digest has before the name of the agent.
pub(super) const DIGEST_PREFIX: &str = "digest-of-";

/// Notes that something is used now.
///
/// # Errors
/// It is missing, or belongs to somebody else.
pub(super) fn mark_as_used(path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

/// Notes that this agent is used now.
pub(super) fn mark_agent_as_used() {
    // If it can't, the agent is sent again after a month.
    let _ = mark_as_used(Path::new("/proc/self/exe"));
}

/// Whether a file is an agent that was sent.
pub(super) fn is_agent(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(AGENT_PREFIX))
}

/// Whether a file has the digest of an agent.
fn is_digest(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DIGEST_PREFIX))
}

/// The lock of a store of sent files. It is shared by those who use the store.
pub(super) struct StoreLock(fs::File);

impl StoreLock {
    /// Takes the lock of a store whose folder exists. Waits while somebody cleans up.
    pub(super) fn share(store: &Path) -> io::Result<Self> {
        let file = fs::File::options().create(true).truncate(false).write(true).open(store.join("lock"))?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(Self(file))
    }

    /// Whether nobody else uses the store. Until it is dropped, others wait.
    fn is_alone(&self) -> bool {
        flock(&self.0, FlockOperation::NonBlockingLockExclusive).is_ok()
    }
}

/// Removes what is old. Whatever can't be removed stays.
pub(super) fn clean_up(store: &Path, lock: Option<&StoreLock>) {
    let run = CleanUpRun::begin();
    if let Ok(own) = fs::read_link("/proc/self/exe") {
        run.remove_other_agents(&own);
    }
    // Who got no files here leaves those of others alone.
    if lock.is_some_and(StoreLock::is_alone) {
        run.remove_unused(&store.join("dirs"), |_, _| true);
        run.remove_unused(&store.join("seeds"), |_, _| true);
        run.remove_unused(&store.join("files"), |_, metadata| metadata.nlink() == 1);
    }
}

struct CleanUpRun {
    /// What was last used before this second is removed.
    unused_since: i64,
    until: Instant,
}

impl CleanUpRun {
    fn begin() -> Self {
        let unused_since = clock::now().as_second().saturating_sub_unsigned(MAX_UNUSED.as_secs());
        Self { unused_since, until: Instant::now() + MAX_TIME }
    }

    /// Removes agents beside this one, unless this process is no agent that was sent.
    fn remove_other_agents(&self, own: &Path) {
        if let Some(folder) = own.parent().filter(|_| is_agent(own)) {
            let is_other_agent = |path: &Path| path != own && (is_agent(path) || is_digest(path));
            self.remove_unused(folder, |path, metadata| metadata.is_file() && is_other_agent(path));
        }
    }

    /// Removes what is in a folder, was not used for long, and may go.
    fn remove_unused(&self, folder: &Path, may_go: impl Fn(&Path, &fs::Metadata) -> bool) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
            if Instant::now() > self.until {
                return;
            }
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.mtime() < self.unused_since && may_go(&path, &metadata) {
                let _ = if metadata.is_dir() { remove_dir(&path) } else { fs::remove_file(&path) };
            }
        }
    }
}

/// Removes a folder. If that is cut short, what is left of it is not taken for the whole.
fn remove_dir(path: &Path) -> io::Result<()> {
    let removed = path.with_extension("removed");
    fs::rename(path, &removed)?;
    fs::remove_dir_all(removed)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::SystemTime};

    use super::*;

    /// Sets when something was last used.
    fn age(path: &Path, days: u64) {
        let age = Duration::from_secs(days * 24 * 60 * 60);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(clock::now().as_second().unsigned_abs());
        fs::File::open(path).unwrap().set_modified(now - age).unwrap();
    }

    fn names(folder: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn sent_files_go_after_a_month_unless_a_folder_has_them() {
        let store = tempfile::tempdir().unwrap();
        let path = |name: &str| store.path().join(name);
        for folder in ["files", "dirs/old", "dirs/new", "seeds/old", "seeds/new"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        for (name, days) in [("unused", 31), ("in-old", 31), ("in-new", 31), ("used", 29)] {
            fs::write(path("files").join(name), name).unwrap();
            age(&path("files").join(name), days);
        }
        fs::hard_link(path("files/in-old"), path("dirs/old/a")).unwrap();
        fs::hard_link(path("files/in-new"), path("dirs/new/a")).unwrap();
        fs::write(path("seeds/old/list.json"), "[]").unwrap();
        for old in ["dirs/old", "seeds/old"] {
            age(&path(old), 31);
        }
        let lock = StoreLock::share(store.path()).unwrap();
        clean_up(store.path(), None);
        let other = StoreLock::share(store.path()).unwrap();
        clean_up(store.path(), Some(&lock));
        assert_eq!(names(&path("files")).len(), 4, "another agent uses the store");
        drop(other);
        clean_up(store.path(), Some(&lock));
        assert_eq!([names(&path("dirs")), names(&path("seeds"))].concat(), ["new", "new"].map(PathBuf::from));
        assert_eq!(names(&path("files")), [PathBuf::from("in-new"), PathBuf::from("used")]);
        mark_as_used(&path("files/used")).unwrap();
        assert!(path("files/used").metadata().unwrap().mtime() >= clock::now().as_second() - 60);
    }

    #[test]
    fn agents_of_other_builds_go_after_a_month() {
        let folder = tempfile::tempdir().unwrap();
        for (name, days) in [("agent-a", 31), ("agent-b", 31), ("agent-b.tmp-7", 31), ("agent-c", 29), ("shipped", 31)]
        {
            fs::write(folder.path().join(name), name).unwrap();
            age(&folder.path().join(name), days);
        }
        CleanUpRun::begin().remove_other_agents(&folder.path().join("runner"));
        assert_eq!(names(folder.path()).len(), 5, "this process was not sent");
        CleanUpRun::begin().remove_other_agents(&folder.path().join("agent-a"));
        assert_eq!(names(folder.path()), ["agent-a", "agent-c", "shipped"].map(PathBuf::from));
    }
}
