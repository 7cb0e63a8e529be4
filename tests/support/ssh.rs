//! A host that only sshd is on: a real one, on a port of this machine. By default it has this machine's programs, and folders of its own for
//! what an agent keeps; [`SshHost::with_root`] has a root of its own, on which there are no more programs than sshd needs.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::TempDir;

use super::host_root::{HostRoot, HostSystem};

const SSHD: &str = "/usr/sbin/sshd";
/// What this machine's user has in `~/.bashrc` does not run in each session.
const HOME: &str = "HOME=ROOT";

/// Lets its user in until it is dropped.
pub struct SshHost {
    folder: TempDir,
    root: Option<HostRoot>,
    port: u16,
    child: Mutex<Child>,
}

impl SshHost {
    /// A host with these further lines in the configuration of its sshd.
    pub fn with_options(options: &str) -> Self {
        Self::with_signed_key(options, |_| {})
    }

    /// The same, with something done with the host's key before sshd reads it.
    pub fn with_signed_key(options: &str, sign: impl Fn(&Path)) -> Self {
        let folder = host_folder();
        sign(&folder.path().join("host-key"));
        Self::start_on_machine(folder, options, HOME, Command::new(SSHD))
    }

    /// A host whose sessions have these variables. `ROOT` in their values is its folder.
    pub fn with_variables(variables: &str) -> Self {
        Self::start_on_machine(host_folder(), "", &format!("{variables} {HOME}"), Command::new(SSHD))
    }

    /// A host with mounts of its own, which a shell script makes. `ROOT` in it is its folder, in which `mount` is empty.
    pub fn with_mounts(script: &str, variables: &str) -> Self {
        let folder = host_folder();
        let script = script.replace("ROOT", &folder.path().display().to_string());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("set -e; {script}; exec {SSHD} \"$@\""), "sh"]);
        Self::start_on_machine(folder, "", &format!("{variables} {HOME}"), command)
    }

    /// A host with two users more, `deploy` and `app`, and these rules of sudo. Its sessions find these programs; none: all.
    pub fn with_users(rules: &str, programs: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "hosts with users of their own need root");
        let folder = host_folder();
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
        Self::start_on_machine(folder, "", path, command)
    }

    /// Starts an sshd of this machine by a command that lacks its arguments. `ROOT` in the variables of its sessions is its folder.
    fn start_on_machine(folder: TempDir, options: &str, variables: &str, command: Command) -> Self {
        if rustix::process::geteuid().is_root() {
            // Where sshd drops its privileges.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let shown = folder.path().display().to_string();
        // Of several values of a variable, the first counts.
        let variables = variables.replace("ROOT", &shown);
        let options = format!(
            "SetEnv {variables} XDG_CACHE_HOME={shown}/cache XDG_STATE_HOME={shown}/state PATH={shown}/bin:/usr/bin:/bin\n{options}"
        );
        Self::serve(folder, None, &shown, &options, command)
    }

    /// A host as it comes.
    pub fn new() -> Self {
        Self::with_options("")
    }

    /// A host with a root of its own: sshd, a shell and coreutils, in namespaces of its own for mounts and processes.
    pub fn with_root() -> Self {
        let folder = host_folder();
        let root = HostRoot::new(folder.path().join("root"), HostSystem::shared());
        for file in ["host-key", "host-key.pub", "user-key.pub"] {
            fs::copy(folder.path().join(file), root.path("etc/ssh").join(file)).unwrap();
        }
        Self::serve(folder, Some(root), "/etc/ssh", "", Command::new(SSHD))
    }

    /// Starts sshd, which finds its files in `etc`, by a command that lacks its arguments.
    fn serve(folder: TempDir, root: Option<HostRoot>, etc: &str, options: &str, command: Command) -> Self {
        let port = super::ports::free_port();
        // The key exchanges that are safe from quantum computers take each side much processor time.
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {etc}/host-key\nAuthorizedKeysFile {etc}/user-key.pub\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nKexAlgorithms -sntrup761*,mlkem768*\nUsePAM no\nStrictModes no\nPidFile none\n\
             {options}\n"
        );
        let file = root.as_ref().map_or_else(|| folder.path().to_owned(), |root| root.path(etc)).join("sshd_config");
        fs::write(file, configuration).unwrap();
        let child = Mutex::new(start_sshd(&folder, root.as_ref(), etc, command));
        let host = Self { folder, root, port, child };
        host.wait_until_it_listens();
        host
    }

    fn wait_until_it_listens(&self) {
        super::wait_until("sshd listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Its folder on this machine, for what a plan deploys there. A host with a root of its own has what is there in `/srv/…` as `srv/…`.
    pub fn path(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.path(path),
            None => self.folder.path().join(path),
        }
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
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// How a plan writes its address.
    pub fn address(&self) -> String {
        match &self.root {
            Some(root) => format!("ssh://{}@127.0.0.1:{}", root.user(), self.port),
            None => format!("ssh://127.0.0.1:{}", self.port),
        }
    }

    /// The same for a user.
    pub fn address_of(&self, user: &str) -> String {
        self.address().replace("//", &format!("//{user}@"))
    }

    /// Its port on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The key of the host, as `known_hosts` has it.
    pub fn known_key(&self) -> String {
        self.known_key_at(self.port)
    }

    /// The key of the host where another port leads to it.
    pub fn known_key_at(&self, port: u16) -> String {
        let public = fs::read_to_string(self.folder.path().join("host-key.pub")).unwrap();
        let key: Vec<&str> = public.split_whitespace().take(2).collect();
        format!("[127.0.0.1]:{port} {}\n", key.join(" "))
    }

    /// Ends sshd. A host with a root of its own is down then: everything on it ends.
    pub fn stop(&self) {
        self.cut_connections();
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts sshd again, on the same port.
    pub fn start(&self) {
        let etc =
            self.root.as_ref().map_or_else(|| self.folder.path().display().to_string(), |_| "/etc/ssh".to_owned());
        *self.child() = start_sshd(&self.folder, self.root.as_ref(), &etc, Command::new(SSHD));
        self.wait_until_it_listens();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends each connection, as if the network were gone.
    pub fn cut_connections(&self) -> usize {
        let started = self.child().id();
        // In a process namespace, sshd is the only child of what made that.
        let sshd = if self.root.is_some() { children_of(started) } else { vec![started] };
        let sessions: Vec<u32> = sshd.into_iter().flat_map(children_of).collect();
        let inner: Vec<u32> = sessions.iter().flat_map(|pid| children_of(*pid)).filter(|pid| is_sshd(*pid)).collect();
        let all = sessions.into_iter().chain(inner).filter(|pid| is_sshd(*pid));
        all.filter(|pid| kill(*pid)).count()
    }

    /// The processes of agents on this host: their binary is in its cache, or they have a file of its state open.
    pub fn agents(&self) -> Vec<u32> {
        let folders = match &self.root {
            Some(root) => [root.home().join(".cache"), root.home().join(".local/state")],
            None => [self.folder.path().to_owned(), self.path("state")],
        };
        let [binaries, state] = folders;
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

/// A plan with each of its steps on a host, in the environment `prod`. Each step begins with a line of its own.
pub fn plan_on_host(plan: &str, at: &str) -> String {
    let (before, steps) = plan.split_once("steps:\n").unwrap();
    let is_step = |line: &str| line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':');
    let on_host = |line: &str| if is_step(line) { format!("{line}\n    on: web\n") } else { format!("{line}\n") };
    let steps: String = steps.lines().map(on_host).collect();
    format!(
        "{before}environments:\n  prod:\n    ssh: {{ config: ./ssh_config }}\n    hosts: {{ web: [{{ at: \"{at}\", name: web-1 }}] }}\n\
         steps:\n{steps}"
    )
}

/// Writes the configuration of ssh for these hosts to a folder.
pub fn write_ssh_config(folder: &Path, hosts: &[&SshHost]) {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host, host.port)).collect();
    write_ssh_config_at(folder, &hosts);
}

/// Writes the configuration of ssh for hosts to which these ports lead.
pub fn write_ssh_config_at(folder: &Path, hosts: &[(&SshHost, u16)]) {
    let known: String = hosts.iter().map(|(host, port)| host.known_key_at(*port)).collect();
    fs::write(folder.join("known_hosts"), known).unwrap();
    let folder = folder.display();
    for (host, port) in hosts {
        fs::copy(host.folder.path().join("user-key"), format!("{folder}/user-key-{port}")).unwrap();
    }
    // A server refuses who offers it many keys.
    let text =
        format!("IdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\nIdentityFile {folder}/user-key-%p\n");
    fs::write(format!("{folder}/ssh_config"), text).unwrap();
}

/// Writes the configuration of ssh for hosts that a plan calls by these names.
pub fn write_named_ssh_config(folder: &Path, hosts: &[(&str, &SshHost)]) {
    let unnamed: Vec<_> = hosts.iter().map(|(_, host)| *host).collect();
    write_ssh_config(folder, &unnamed);
    let path = folder.join("ssh_config");
    let mut text = fs::read_to_string(&path).unwrap();
    for (name, host) in hosts {
        let user = host.root.as_ref().map_or(String::new(), |root| format!("  User {}\n", root.user()));
        text += &format!("Host {name}\n  HostName 127.0.0.1\n  Port {}\n{user}", host.port);
    }
    fs::write(path, text).unwrap();
}

/// A folder with the keys of a host and of its user.
fn host_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for key in ["host-key", "user-key"] {
        make_key(&folder.path().join(key));
    }
    fs::create_dir(folder.path().join("mount")).unwrap();
    folder
}

fn start_sshd(folder: &TempDir, root: Option<&HostRoot>, etc: &str, command: Command) -> Child {
    let configuration = format!("{etc}/sshd_config");
    let mut command = match root {
        Some(root) => root.command(&[], &[SSHD, "-D", "-e", "-f", &configuration]),
        None => {
            let mut command = command;
            command.args(["-D", "-e", "-f", &configuration]);
            command
        }
    };
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("sshd.log")).unwrap();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    child.unwrap_or_else(|error| panic!("sshd: {error}; run `cargo xtask setup`"))
}

/// Kills those children of a process whose command lines are wanted. Returns how many there were.
pub fn kill_children(parent: u32, is_wanted: impl Fn(&str) -> bool) -> usize {
    let command = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let shown = |pid: &u32| String::from_utf8_lossy(&command(pid)).replace('\0', " ");
    children_of(parent).into_iter().filter(|pid| is_wanted(&shown(pid)) && kill(*pid)).count()
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
