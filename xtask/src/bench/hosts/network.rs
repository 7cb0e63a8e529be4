//! Hosts for the bench: a real sshd each, in namespaces of their own for mounts, processes and the network, on one bridge of this machine.
//!
//! Each has a root of its own with this machine's `/usr`, since other tools need Python, tar or scp there. What goes to a host and comes
//! from it is counted by the kernel, on its interface. Deliberately absent: latency; all are on this machine.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{
    host_root::{HostRoot, HostSystem},
    meter::CpuAccount,
};
use crate::workspace::run as run_command;

/// The bridge that hosts are on, and its network.
const BRIDGE: &str = "pawl-bench";
const OWN_ADDRESS: &str = "10.77.0.1/16";
/// How long a host may take to be there.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Hosts that are there until they are dropped.
pub(super) struct BenchHosts {
    pub(super) hosts: Vec<BenchHost>,
    /// The processor time of everything on them.
    pub(super) cpu: CpuAccount,
    folder: TempDir,
}

pub(super) struct BenchHost {
    pub(super) address: String,
    interface: String,
    root: HostRoot,
    child: Child,
}

impl BenchHosts {
    /// Starts so many hosts.
    pub(super) fn start(count: usize) -> Result<Self> {
        ensure!(fs::metadata("/proc/self")?.uid() == 0, "the bench of hosts makes networks: run it as root");
        let folder = tempfile::tempdir()?;
        // Each tool can use these kinds.
        for (key, kind) in [("host-key", "ecdsa"), ("user-key", "ed25519")] {
            let path = folder.path().join(key);
            run_command(Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(path))?;
        }
        let _ = Command::new("ip").args(["link", "del", BRIDGE]).stderr(Stdio::null()).status();
        ip(
            &[],
            &format!("link add {BRIDGE} type bridge\naddr add {OWN_ADDRESS} dev {BRIDGE}\nlink set {BRIDGE} up\n"),
        )?;
        let mut hosts = Self { hosts: Vec::new(), cpu: CpuAccount::new("hosts")?, folder };
        let system = HostSystem::of_this_machine();
        for number in 0..count {
            let root = HostRoot::new(hosts.folder.path().join(format!("root-{number}")), system.clone());
            let host = hosts.start_host(number, root)?;
            hosts.hosts.push(host);
        }
        for host in &hosts.hosts {
            wait_until("sshd listens", || TcpStream::connect((&*host.address, 22)).is_ok())?;
        }
        hosts.write_ssh_files()?;
        Ok(hosts)
    }

    fn start_host(&self, number: usize, root: HostRoot) -> Result<BenchHost> {
        let address = format!("10.77.{}.{}", 1 + number / 200, 1 + number % 200);
        for file in ["host-key", "host-key.pub", "user-key.pub"] {
            fs::copy(self.folder.path().join(file), root.path("etc/ssh").join(file))?;
        }
        let configuration = "HostKey /etc/ssh/host-key\nAuthorizedKeysFile /etc/ssh/user-key.pub\nPasswordAuthentication no\n\
                             KbdInteractiveAuthentication no\nPermitRootLogin yes\nUsePAM no\nStrictModes no\nPidFile none\n\
                             Subsystem sftp internal-sftp\n";
        fs::write(root.path("etc/ssh/sshd_config"), configuration)?;
        let sshd = ["/usr/sbin/sshd", "-D", "-f", "/etc/ssh/sshd_config"];
        let mut command = self.cpu.enter(&root.command(&["--net"], &sshd));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("start a host")?;
        let interface = format!("pawl-h{number}");
        let host = BenchHost { address, interface, root, child };
        let (pid, address, interface) = (host.child.id(), &host.address, &host.interface);
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        wait_until("a host has its network", || {
            network(&pid.to_string()).is_some_and(|of| Some(of) != network("self"))
        })?;
        let pair = format!(
            "link add {interface} type veth peer name eth0 netns {pid}\nlink set {interface} master {BRIDGE} up\n"
        );
        ip(&[], &pair)?;
        let inside = format!("addr add {address}/16 dev eth0\nlink set eth0 up\nlink set lo up\n");
        ip(&["nsenter", &format!("--net=/proc/{pid}/ns/net")], &inside)?;
        Ok(host)
    }

    /// What ssh, and tools that have an ssh of their own, read.
    fn write_ssh_files(&self) -> Result<()> {
        let public = fs::read_to_string(self.folder.path().join("host-key.pub"))?;
        let key = public.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let known: String = self.hosts.iter().map(|host| format!("{} {key}\n", host.address)).collect();
        fs::write(self.path("known_hosts"), known)?;
        let folder = self.folder.path().display();
        let text = format!(
            "Host 10.77.*\n  User root\n  IdentityFile {folder}/user-key\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n"
        );
        Ok(fs::write(self.path("ssh_config"), text)?)
    }

    /// A file for all hosts: `ssh_config`, `known_hosts`, `user-key`.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path on a host, on this machine.
    pub(super) fn path_on(&self, host: usize, path: &str) -> PathBuf {
        self.hosts[host].root.path(path)
    }

    /// The bytes on the network so far, to and from all hosts.
    pub(super) fn bytes(&self) -> Result<u64> {
        let count = |host: &BenchHost, name: &str| -> Result<u64> {
            let path = Path::new("/sys/class/net").join(&host.interface).join("statistics").join(name);
            Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().parse()?)
        };
        self.hosts.iter().map(|host| Ok(count(host, "tx_bytes")? + count(host, "rx_bytes")?)).sum()
    }
}

impl Drop for BenchHosts {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            let _ = host.child.kill();
            let _ = host.child.wait();
            // The kernel would do that some time later.
            let _ = Command::new("ip").args(["link", "del", &host.interface]).stderr(Stdio::null()).status();
        }
        let _ = Command::new("ip").args(["link", "del", BRIDGE]).status();
    }
}

/// Gives commands to `ip`, maybe under another program.
fn ip(under: &[&str], commands: &str) -> Result<()> {
    let words: Vec<&str> = under.iter().copied().chain(["ip", "-batch", "-"]).collect();
    let mut child = Command::new(words[0]).args(&words[1..]).stdin(Stdio::piped()).spawn().context("start ip")?;
    child.stdin.take().context("it is piped")?.write_all(commands.as_bytes())?;
    ensure!(child.wait()?.success(), "ip: {commands}");
    Ok(())
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        ensure!(began.elapsed() < START_TIMEOUT, "it did not come true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
