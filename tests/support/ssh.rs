//! A host that only sshd is on: a real one, on a port of this machine, with folders of its own for what an agent keeps.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";

/// Lets its user in until it is dropped.
pub struct SshHost {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl SshHost {
    /// A host with these further lines in the configuration of its sshd.
    pub fn with_options(options: &str) -> Self {
        Self::start(options, "", None)
    }

    /// A host whose sessions have these variables. `ROOT` in their values is its folder.
    pub fn with_variables(variables: &str) -> Self {
        Self::start("", variables, None)
    }

    /// A host with mounts of its own, which a shell script makes. `ROOT` in it is its folder, in which `mount` is empty.
    pub fn with_mounts(script: &str, variables: &str) -> Self {
        Self::start("", variables, Some(script))
    }

    fn start(options: &str, variables: &str, mounts: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for key in ["host-key", "user-key"] {
            make_key(&root.join(key));
        }
        if rustix::process::geteuid().is_root() {
            // Where sshd drops its privileges.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = root.display();
        fs::create_dir(root.join("mount")).unwrap();
        // Of several values of a variable, the first counts.
        let variables = variables.replace("ROOT", &shown.to_string());
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {shown}/host-key\nAuthorizedKeysFile {shown}/user-key.pub\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nUsePAM no\nStrictModes no\nPidFile none\n\
             SetEnv {variables} XDG_CACHE_HOME={shown}/cache XDG_STATE_HOME={shown}/state PATH=/usr/bin:/bin\n{options}\n"
        );
        fs::write(root.join("sshd_config"), configuration).unwrap();
        let mut command = match mounts {
            None => Command::new(SSHD),
            Some(script) => {
                let script = format!("set -e; {}; exec {SSHD} \"$@\"", script.replace("ROOT", &shown.to_string()));
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", &script, "sh"]);
                command
            }
        };
        command.args(["-D", "-e", "-f"]).arg(root.join("sshd_config")).stdin(Stdio::null()).stdout(Stdio::null());
        let log = fs::File::create(root.join("sshd.log")).unwrap();
        let child = command.stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("sshd: {error}; run `cargo xtask setup`"));
        super::wait_until("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { folder, port, child }
    }

    /// A host as it comes.
    pub fn new() -> Self {
        Self::with_options("")
    }

    /// Its folder on the host, for what a plan deploys there.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The content of a file there.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// How a plan writes its address.
    pub fn address(&self) -> String {
        format!("ssh://127.0.0.1:{}", self.port)
    }

    /// The key of the host, as `known_hosts` has it.
    pub fn known_key(&self) -> String {
        let public = self.read("host-key.pub");
        let key: Vec<&str> = public.split_whitespace().take(2).collect();
        format!("[127.0.0.1]:{} {}\n", self.port, key.join(" "))
    }

    /// Ends each connection, as if the network were gone.
    pub fn cut_connections(&self) -> usize {
        let sessions = children_of(self.child.id());
        let inner: Vec<u32> = sessions.iter().flat_map(|pid| children_of(*pid)).filter(|pid| is_sshd(*pid)).collect();
        let all = sessions.into_iter().chain(inner).filter(|pid| is_sshd(*pid));
        all.filter(|pid| kill(*pid)).count()
    }

    /// The processes of agents on this host: their binary is in its cache, or they have a file of its state open.
    pub fn agents(&self) -> Vec<u32> {
        let (binaries, state) = (self.path("cache"), self.path("state"));
        let is_agent = |pid: &u32| {
            let leads_to = |link: PathBuf, folder: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(folder));
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            leads_to(format!("/proc/{pid}/exe").into(), &binaries)
                || files.into_iter().any(|file| leads_to(file.path(), &state))
        };
        processes().filter(is_agent).collect()
    }

    /// Lets nobody in any more, or again. Connections that are there stay.
    pub fn allow_logins(&self, are_allowed: bool) {
        let (key, taken_away) = (self.path("user-key.pub"), self.path("user-key.gone"));
        match are_allowed {
            true => fs::rename(taken_away, key).unwrap(),
            false => fs::rename(key, taken_away).unwrap(),
        }
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        self.cut_connections();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in self.agents() {
            kill(pid);
        }
    }
}

/// Writes the configuration of ssh for these hosts to a folder.
pub fn write_ssh_config(folder: &Path, hosts: &[&SshHost]) {
    let known: String = hosts.iter().map(|host| host.known_key()).collect();
    fs::write(folder.join("known_hosts"), known).unwrap();
    let folder = folder.display();
    for host in hosts {
        fs::copy(host.path("user-key"), format!("{folder}/user-key-{}", host.port)).unwrap();
    }
    // A server refuses who offers it many keys.
    let text =
        format!("IdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\nIdentityFile {folder}/user-key-%p\n");
    fs::write(format!("{folder}/ssh_config"), text).unwrap();
}

fn make_key(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(made.unwrap().success(), "ssh-keygen");
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `PID (NAME) STATE PARENT …`
        let parent_of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent_of == Some(parent)
    };
    processes().filter(is_child).collect()
}

fn is_sshd(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("sshd"))
}

fn kill(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok())
}
