//! A machine of one test with a real apt and dpkg that know no package yet, and a repository of the test's own. Nothing is installed on
//! this machine.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{RunnerOutput, TestEnvironment, sha256, wait_until};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine with the folder of a test, which ends with its value.
pub struct PackageMachine {
    environment: TestEnvironment,
    /// Where its files are mounted.
    _folder: TempDir,
    boot: Child,
    /// The process id of its first process, as seen from outside.
    init: String,
}

/// A package to be built.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebFixture<'t> {
    /// Lines of its control file, such as `Depends: shop-base`.
    pub control: &'t [&'t str],
    /// A script of its own: the name and the lines.
    pub script: Option<(&'t str, &'t str)>,
    /// The size of its file.
    pub bytes: usize,
}

impl PackageMachine {
    /// Boots one with a plan.
    pub fn boot(plan: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "packages need root, for a machine in namespaces");
        let environment = TestEnvironment::with_plan(plan);
        environment.write("repository/Packages", "");
        let folder = tempfile::tempdir().unwrap();
        let script = environment.path("machine.sh");
        fs::write(&script, include_str!("package_machine.sh")).unwrap();
        let mut boot = Command::new("setpriv");
        boot.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh"]);
        boot.arg(&script).arg(folder.path()).arg(environment.path("")).arg(env!("CARGO_BIN_EXE_runner"));
        let boot = boot.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut boot = boot.unwrap_or_else(|error| panic!("setpriv: {error}; run `cargo xtask setup`"));
        let mut line = String::new();
        BufReader::new(boot.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "booted\n", "the machine does not boot");
        let pid = boot.id();
        let init = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().trim().to_owned();
        Self { environment, _folder: folder, boot, init }
    }

    /// The folder of the plan.
    pub fn environment(&self) -> &TestEnvironment {
        &self.environment
    }

    /// Builds a package into the repository; [`publish`](Self::publish) makes it known.
    pub fn build(&self, name: &str, version: &str, package: DebFixture<'_>) {
        let folder = TempDir::new().unwrap();
        let control: String = package.control.iter().map(|line| format!("{line}\n")).collect();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Ann <ann@example.com>\n\
             Description: a package of a test\n{control}"
        );
        let files = folder.path().join(format!("opt/{name}"));
        fs::create_dir_all(&files).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(files.join("version"), format!("{version}\n")).unwrap();
        fs::write(files.join("content"), vec![b'x'; package.bytes]).unwrap();
        let debian = folder.path().join("DEBIAN");
        fs::create_dir(&debian).unwrap();
        fs::write(debian.join("control"), control).unwrap();
        if let Some((script, lines)) = package.script {
            fs::write(debian.join(script), format!("#!/bin/sh\n{lines}\n")).unwrap();
            fs::set_permissions(debian.join(script), fs::Permissions::from_mode(0o755)).unwrap();
        }
        // A colon is good in a version, but not in the name of a file in the list.
        let deb = self.environment.path(format!("repository/{name}_{}.deb", version.replace(':', "_")));
        let mut command = Command::new("dpkg-deb");
        command.args(["--build", "--root-owner-group", "-Zgzip"]).arg(folder.path()).arg(deb);
        let output =
            command.output().unwrap_or_else(|error| panic!("dpkg-deb: {error}: this test needs Debian's dpkg"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Lists all packages of the repository, and lets the machine fetch the list.
    pub fn publish(&self) {
        self.list_packages();
        self.run("apt-get update").assert_exit(0);
    }

    /// Lists all packages of the repository. The machine does not know it yet.
    pub fn list_packages(&self) {
        let mut list = String::new();
        for name in self.environment.list("repository").into_iter().filter(|name| name.ends_with(".deb")) {
            let path = self.environment.path("repository").join(&name);
            let output = Command::new("dpkg-deb").arg("--field").arg(&path).output().unwrap();
            let bytes = fs::read(&path).unwrap();
            list += &String::from_utf8(output.stdout).unwrap();
            writeln!(list, "Filename: ./{name}\nSize: {}\nSHA256: {}\n", bytes.len(), sha256(&bytes)).unwrap();
        }
        self.environment.write("repository/Packages", list);
    }

    /// Runs a shell script on the machine as root, in the folder of the plan; `runner` is on its `PATH`.
    pub fn run(&self, script: &str) -> RunnerOutput {
        self.environment.write("script.sh", script);
        self.environment.run_script(&self.enter("script.sh"))
    }

    /// Starts such a script and lets it run.
    pub fn start(&self, script: &str) -> Child {
        self.environment.write("started.sh", script);
        let mut command = Command::new("sh");
        command.args(["-euc", &self.enter("started.sh")]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().unwrap()
    }

    fn enter(&self, script: &str) -> String {
        let folder = self.environment.path("").display().to_string();
        format!(
            "exec nsenter --target {} --mount --pid --root -- env -i HOME=/root PATH={PATH} DEBIAN_FRONTEND=noninteractive \
             sh -euc 'cd {folder}; . ./{script}'",
            self.init
        )
    }

    /// Deploys a release.
    pub fn deploy(&self, release: &str) -> RunnerOutput {
        self.deploy_with(release, "")
    }

    /// Deploys a release with more options.
    pub fn deploy_with(&self, release: &str, options: &str) -> RunnerOutput {
        self.run(&format!("runner --local --release {release} --json {options}"))
    }

    /// Deploys r1 as a user who is not root.
    pub fn deploy_without_root(&self) -> RunnerOutput {
        let folder = self.environment.path("..").display().to_string();
        self.run(&format!(
            "mkdir -p /srv/shop; chown -R 1000:1000 {folder} /srv/shop\nexport HOME={folder}/home\n\
             exec setpriv --reuid=1000 --regid=1000 --clear-groups runner --local --release r1 --json"
        ))
    }

    /// Lets the plan install something else: a list such as `[shop=1.0]`, and lines with more settings.
    pub fn install(&self, list: &str) {
        let plan = self.environment.read("deploy.yml");
        let start = plan.find("      install: ").unwrap();
        let end = start + plan[start..].find("    grants:").unwrap();
        self.environment.write("deploy.yml", format!("{}      install: {list}\n{}", &plan[..start], &plan[end..]));
    }

    /// Starts a deployment of r1, and kills the runner once a package's script has made `/run/script`. Returns when these programs, such as
    /// `apt-get,dpkg`, have ended too.
    pub fn kill_in_script(&self, programs: &str) {
        let mut runner = self.start("echo $$ >runner.pid\nexec runner --local --release r1");
        wait_until("the script of the package runs", || self.exists("/run/script"));
        self.run("kill -9 $(cat runner.pid)").assert_exit(0);
        runner.wait().unwrap();
        // The guard ends what the runner has started.
        let ended = format!("! ps -C {programs} >/dev/null");
        wait_until("nothing of it runs", || self.run(&ended).code == Some(0));
    }

    /// Checks that r1 waits until another installation has ended. `other` installs a package whose script makes `/run/script` and waits for
    /// `/run/go`; `list` is what the plan installs.
    pub fn check_lock_is_waited_for(&self, other: &str, list: &str) {
        let mut other = self.start(&format!("exec {other}"));
        wait_until("another installation runs", || self.exists("/run/script"));
        self.install(&format!("{list}\n      lock-timeout: 1s"));
        let locked = self.deploy("r1");
        locked.assert_exit(1).assert_stderr_contains("error[P0301]");
        locked.assert_stderr_contains("another program is installing packages");
        self.install(&format!("{list}\n      lock-timeout: 1m"));
        let mut waiting = self.start("exec runner --local --release r1 --json >waiting.json 2>&1");
        let said = self.environment.path("waiting.json");
        let is_waiting = |said: String| said.contains("waiting until it has ended");
        wait_until("the step waits", || fs::read_to_string(&said).is_ok_and(is_waiting));
        self.run("touch /run/go").assert_exit(0);
        other.wait().unwrap();
        waiting.wait().unwrap();
    }

    /// The packages of the machine: state, name and version.
    pub fn packages(&self) -> Vec<String> {
        let output =
            self.run("dpkg-query --show --showformat '${db:Status-Abbrev}${Package} ${Version}\\n' 2>&1 || true");
        let lines = output.stdout.lines().filter(|line| !line.starts_with("dpkg-query: "));
        lines.map(str::to_owned).collect()
    }

    /// Whether a path of the machine is there.
    pub fn exists(&self, path: &str) -> bool {
        let path = format!("/proc/{}/root{path}", self.init);
        fs::symlink_metadata(path).is_ok()
    }
}

impl Drop for PackageMachine {
    fn drop(&mut self) {
        // Every process of the machine ends with its first one, and that with `unshare`.
        let _ = self.boot.kill();
        let _ = self.boot.wait();
    }
}
