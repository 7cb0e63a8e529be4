//! A host that only sshd is on: a real one, on a port of this machine, with folders of its own for what an agent keeps.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
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
        Self::with_signed_key(options, |_| {})
    }

    /// The same, with something done with the host's key before sshd reads it.
    pub fn with_signed_key(options: &str, sign: impl Fn(&Path)) -> Self {
        let folder = Self::folder();
        sign(&folder.path().join("host-key"));
        Self::start(folder, options, "", Command::new(SSHD))
    }

    /// A host whose sessions have these variables. `ROOT` in their values is its folder.
    pub fn with_variables(variables: &str) -> Self {
        Self::start(Self::folder(), "", variables, Command::new(SSHD))
    }

    /// A host with mounts of its own, which a shell script makes. `ROOT` in it is its folder, in which `mount` is empty.
    pub fn with_mounts(script: &str, variables: &str) -> Self {
        let folder = Self::folder();
        let script = script.replace("ROOT", &folder.path().display().to_string());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("set -e; {script}; exec {SSHD} \"$@\""), "sh"]);
        Self::start(folder, "", variables, command)
    }

    /// A host with two users more, `deploy` and `app`, and these rules of sudo. Its sessions find these programs; none: all.
    pub fn with_users(rules: &str, programs: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "hosts with users of their own need root");
        let folder = Self::folder();
        let root = folder.path();
        let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
        for (user, id) in [("deploy", 61_001), ("app", 61_002)] {
            let home = root.join("home").join(user);
            fs::create_dir_all(&home).unwrap();
            chown(&home, Some(id), Some(id)).unwrap();
            fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
            passwd.push_str(&format!("{user}:*:{id}:{id}::{}:/bin/sh\n", home.display()));
        }
        fs::write(root.join("passwd"), passwd).unwrap();
        fs::write(root.join("sudoers"), format!("Defaults env_reset\n{rules}\n")).unwrap();
        fs::set_permissions(root.join("sudoers"), fs::Permissions::from_mode(0o440)).unwrap();
        fs::create_dir(root.join("bin")).unwrap();
        for program in programs {
            std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), root.join("bin").join(program)).unwrap();
        }
        let path = if programs.is_empty() { "" } else { "PATH=ROOT/bin" };
        let script = r#"mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/sudoers" /etc/sudoers && exec /usr/sbin/sshd "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(root);
        Self::start(folder, "", path, command)
    }

    /// A folder with the keys of a host and of its user.
    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for key in ["host-key", "user-key"] {
            make_key(&folder.path().join(key));
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("mount")).unwrap();
        folder
    }

    /// Starts an sshd by a command that lacks its arguments. `ROOT` in the variables of its sessions is its folder.
    fn start(folder: TempDir, options: &str, variables: &str, command: Command) -> Self {
        let root = folder.path();
        if rustix::process::geteuid().is_root() {
            // Where sshd drops its privileges.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = root.display();
        // Of several values of a variable, the first counts.
        let variables = variables.replace("ROOT", &shown.to_string());
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {shown}/host-key\nAuthorizedKeysFile {shown}/user-key.pub\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nUsePAM no\nStrictModes no\nPidFile none\n\
             SetEnv {variables} XDG_CACHE_HOME={shown}/cache XDG_STATE_HOME={shown}/state PATH={shown}/bin:/usr/bin:/bin\n{options}\n"
        );
        fs::write(root.join("sshd_config"), configuration).unwrap();
        let child = start_sshd(root, port, command);
        Self { folder, port, child }
    }

    /// A host as it comes.
    pub fn new() -> Self {
        Self::with_options("")
    }

    /// Takes the host off the network: its sshd ends, with all connections.
    pub fn go_down(&mut self) {
        self.cut_connections();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Brings it back as it was.
    pub fn come_back(&mut self) {
        self.child = start_sshd(self.folder.path(), self.port, Command::new(SSHD));
    }

    /// Its folder on the host, for what a plan deploys there.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Lets a program say this and nothing else there.
    pub fn fake_program(&self, name: &str, answer: &str) {
        fs::create_dir_all(self.path("bin")).unwrap();
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The content of a file there.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The same for a user.
    pub fn address_of(&self, user: &str) -> String {
        self.address().replace("//", &format!("//{user}@"))
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
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

    /// Ends its sshd: from now on, nobody gets in.
    pub fn stop(&mut self) {
        self.cut_connections();
        let _ = self.child.kill();
        let _ = self.child.wait();
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
        self.stop();
        for pid in self.agents() {
            kill(pid);
        }
    }
}

/// Starts an sshd by a command that lacks its arguments, and waits until it listens.
fn start_sshd(root: &Path, port: u16, mut command: Command) -> Child {
    command.args(["-D", "-e", "-f"]).arg(root.join("sshd_config")).stdin(Stdio::null()).stdout(Stdio::null());
    let log = fs::File::create(root.join("sshd.log")).unwrap();
    let child = command.stderr(log).spawn();
    let child = child.unwrap_or_else(|error| panic!("sshd: {error}; run `cargo xtask setup`"));
    super::wait_until("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
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

pub fn make_key(path: &Path) {
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
