//! A machine in namespaces, with real systemd, on which a page is followed as it is written: its paths, ports, users and services
//! are its own.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A condition that is waited for must come true within this time.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where `cargo xtask setup` installs what is no package of the system.
pub fn installed_tools() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_runner")).ancestors().nth(2).expect("it lies in a profile's folder");
    target.join("tools")
}

/// Who runs something on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineUser {
    Root,
    Deploy,
}

/// A machine of one test, which ends with its value, and with the test's thread.
pub struct TestMachine {
    /// What the boot script writes.
    folder: TempDir,
    boot: Child,
    /// The process id of its systemd, as seen from outside.
    init: String,
}

impl TestMachine {
    /// Boots it, and waits until its systemd runs.
    pub fn boot() -> Self {
        assert!(rustix::process::geteuid().is_root(), "the recipes need root, for a machine in namespaces");
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("machine.sh");
        fs::write(&script, include_str!("machine.sh")).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut boot = Command::new("sh");
        boot.arg(&script).arg("boot").arg(folder.path()).arg(env!("CARGO_BIN_EXE_runner")).arg(installed_tools());
        let boot = boot.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut machine = Self { folder, boot, init: String::new() };
        machine.wait_for_systemd();
        machine
    }

    fn wait_for_systemd(&mut self) {
        let pid = self.boot.id();
        let began = Instant::now();
        loop {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            children.trim().clone_into(&mut self.init);
            if !self.init.is_empty() {
                let state = self.output(MachineUser::Root, "systemctl is-system-running || true", &[]);
                if String::from_utf8_lossy(&state.stdout).trim() == "running" {
                    return;
                }
            }
            let has_ended = self.boot.try_wait().unwrap().is_some();
            if has_ended || began.elapsed() > WAIT_TIMEOUT {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("the machine does not boot; `cargo xtask setup` installs what it needs: {log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a shell script that must succeed, and returns its standard output.
    #[track_caller]
    pub fn run(&self, user: MachineUser, script: &str) -> String {
        let output = self.output(user, script, &[]);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{user:?}: {script}\n{}: {stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// Runs a shell script, and returns its exit code and all that it wrote, in order.
    pub fn run_with_one_stream(&self, user: MachineUser, script: &str) -> (Option<i32>, String) {
        let output = self.output(user, &format!("exec 2>&1\n{script}"), &[]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Writes a file, and the folders that it lies in. A relative path begins in the user's home.
    #[track_caller]
    pub fn write(&self, user: MachineUser, path: &str, content: &[u8]) {
        let script = format!("mkdir -p \"$(dirname '{path}')\"\ncat >'{path}'");
        let output = self.output(user, &script, content);
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn output(&self, user: MachineUser, script: &str, input: &[u8]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--root", "--wd", "--target", &self.init]);
        let home = match user {
            MachineUser::Root => "/tmp",
            MachineUser::Deploy => {
                command.args(["setpriv", "--reuid=deploy", "--regid=deploy", "--init-groups"]);
                concat!("/ho", "me/deploy")
            }
        };
        command.args(["env", "-i", &format!("HOME={home}"), &format!("PATH={PATH}"), "sh", "-euc"]);
        command.arg(format!("cd\n{script}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("nsenter: {error}; run `cargo xtask setup`"));
        // A command that reads nothing has ended by then.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
}

impl Drop for TestMachine {
    fn drop(&mut self) {
        // Every process of the machine ends with its first one, and that with `unshare`.
        let _ = self.boot.kill();
        let _ = self.boot.wait();
        let Ok(group) = fs::read_to_string(self.folder.path().join("group")) else { return };
        let began = Instant::now();
        while !remove_group(Path::new(group.trim_end())) && began.elapsed() < WAIT_TIMEOUT {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes a control group and those below it; false while a process is left in one of them.
fn remove_group(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}
