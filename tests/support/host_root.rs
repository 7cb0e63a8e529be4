//! The root of a host on which there is sshd, a shell and coreutils: a folder, whose `/usr` has this machine's own files of these.
//!
//! Its processes have namespaces of their own for mounts and processes. Once its first process has ended, nothing is mounted and nothing
//! runs on it. Who is not root gets a user namespace too, and is the user `deploy` there.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, Weak},
};

use tempfile::TempDir;

/// What is in `/usr/bin`: the shell and coreutils, no more.
const PROGRAMS: &str = "sh basename cat chmod chown cp cut date dd df dirname du echo env expr false head id install ln ls \
                        mkdir mktemp mv od printf pwd readlink rm rmdir seq sha256sum sleep sort stat stty sync tail tee \
                        test touch tr true uname uniq wc";
/// Where this machine has them, and what sshd calls.
const FOLDERS: [&str; 3] = ["/usr/bin", "/bin", "/usr/sbin"];
const SERVERS: [&str; 3] = ["/usr/sbin/sshd", "/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth"];

/// What runs before the first process: `$1` is the folder with `usr`, `$2` the root.
const MOUNT: &str = "set -e; mount --bind \"$1/usr\" \"$2/usr\"; mount -o remount,bind,ro \"$2/usr\"; \
                     mount -t proc proc \"$2/proc\"; \
                     for d in null zero full random urandom; do mount --bind /dev/$d \"$2/dev/$d\"; done; root=$2; shift 2; ";

/// The `/usr` that hosts share.
pub struct HostSystem {
    /// With few programs, until the last of the hosts is gone; none: it is this machine's.
    folder: Option<TempDir>,
}

impl HostSystem {
    /// The one that other hosts of this process have, or a new one.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<HostSystem>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let system = Arc::new(Self::install());
            *shared = Arc::downgrade(&system);
            system
        })
    }

    /// This machine's own, with all its programs.
    pub fn of_this_machine() -> Arc<Self> {
        Arc::new(Self { folder: None })
    }

    fn install() -> Self {
        let system = Self { folder: Some(tempfile::tempdir().unwrap()) };
        fs::set_permissions(system.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let find = |name: &str| FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
        let mut installed: Vec<(PathBuf, PathBuf)> = Vec::new();
        for name in PROGRAMS.split_whitespace() {
            let found = find(name).unwrap_or_else(|| panic!("{name} is missing: run `cargo xtask setup`"));
            installed.push((found, Path::new("/usr/bin").join(name)));
        }
        // Newer servers consist of several programs.
        let servers = SERVERS.iter().map(PathBuf::from).filter(|path| path.exists());
        installed.extend(servers.map(|path| (path.clone(), path)));
        for (from, to) in &installed {
            system.copy(from, to);
        }
        for library in libraries(installed.iter().map(|(from, _)| from.as_path())) {
            system.copy(&library, &library);
        }
        system
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new("/"), TempDir::path)
    }

    /// Copies a file of this machine to a path of the host.
    fn copy(&self, from: &Path, to: &Path) {
        let below_usr = to.strip_prefix("/usr").or_else(|_| to.strip_prefix("/")).unwrap();
        let path = self.path().join("usr").join(below_usr);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(from, &path).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

/// The libraries of programs. What a test is linked to is what the runner is linked to, libc.
fn libraries<'p>(programs: impl Iterator<Item = &'p Path>) -> Vec<PathBuf> {
    let output = Command::new("ldd").args(programs).arg(std::env::current_exe().unwrap()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().filter(|line| line.starts_with('\t')).flat_map(str::split_whitespace);
    let mut found: Vec<PathBuf> = words.filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    found.sort();
    found.dedup();
    found
}

/// The root of one host.
pub struct HostRoot {
    system: Arc<HostSystem>,
    folder: PathBuf,
}

impl HostRoot {
    /// Makes a root in a folder that is not there yet.
    pub fn new(folder: PathBuf, system: Arc<HostSystem>) -> Self {
        let root = Self { system, folder };
        for folder in ["dev", "etc/ssh", "home/deploy", "proc", "root", "run/sshd", "srv", "tmp", "usr", "var/tmp"] {
            fs::create_dir_all(root.path(folder)).unwrap();
        }
        for folder in ["tmp", "var/tmp"] {
            fs::set_permissions(root.path(folder), fs::Permissions::from_mode(0o1777)).unwrap();
        }
        for folder in ["", "run/sshd"] {
            fs::set_permissions(root.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for folder in ["bin", "lib", "lib64", "sbin"] {
            symlink(Path::new("usr").join(folder), root.path(folder)).unwrap();
        }
        for device in ["null", "zero", "full", "random", "urandom"] {
            fs::write(root.path("dev").join(device), "").unwrap();
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n\
                     deploy:x:1000:1000::/home/deploy:/bin/sh\n";
        let groups = "root:x:0:\ndeploy:x:1000:\nnogroup:x:65534:\n";
        let names = "passwd: files\ngroup: files\nhosts: files\n";
        for (file, text) in
            [("passwd", users), ("group", groups), ("nsswitch.conf", names), ("hosts", "127.0.0.1 localhost\n")]
        {
            fs::write(root.path("etc").join(file), text).unwrap();
        }
        root
    }

    /// Where a path of the host is on this machine.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.folder.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Who logs in.
    pub fn user(&self) -> &'static str {
        if is_root() { "root" } else { "deploy" }
    }

    /// The home of that user, on this machine.
    pub fn home(&self) -> PathBuf {
        self.path(if self.user() == "root" { "root" } else { "home/deploy" })
    }

    /// A command that becomes the first process of the host. With `--net` among the namespaces, it has a network of its own.
    pub fn command(&self, namespaces: &[&str], program: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child"]).args(namespaces);
        let enter = match self.user() {
            "root" => "exec chroot \"$root\" \"$@\"",
            _ => {
                command.args(["--user", "--map-root-user"]);
                "exec unshare --user --map-user=1000 --map-group=1000 --root=\"$root\" \"$@\""
            }
        };
        command.args(["sh", "-c", &format!("{MOUNT}{enter}"), "sh"]).arg(self.system.path()).arg(&self.folder);
        command.args(program);
        command
    }
}

/// The owner of our own entry in /proc is the effective user.
fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
