//! What the cases stand on: a hermetic folder with the example, the runner as a process, and its answer.

mod archive;
mod caddy;
pub mod crafted;
pub mod doc_blocks;
mod forge;
mod git_http;
mod guest;
mod guest_fixture;
mod host_link;
#[expect(dead_code, reason = "the bench of hosts uses the rest")]
mod host_root;
pub mod machine;
mod metered_relay;
mod moto;
mod nginx;
mod normalize;
mod package_machine;
mod php_fpm;
mod podman;
mod ports;
mod proxy;
mod pypi;
mod registry;
mod relay;
mod rpm;
mod runner_output;
mod server;
mod ssh;
mod supervisord;
mod template_site;
mod tracer;
mod traffic;
mod unpack;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use self::{
    archive::{TestArchiveFormat, release_folder, sha256},
    caddy::CaddyServer,
    forge::{CreateFault, FORGE_TOKEN, FakeForge, FakeForgeKind},
    git_http::{GitHttpServer, delete_refs, init_bare_repository},
    guest_fixture::{GuestFixture, GuestOutcome},
    host_link::{HostLink, LinkDirection, LinkEnd},
    metered_relay::MeteredRelay,
    moto::{MotoServer, aws_variables},
    nginx::{NGINX_TOKEN, NginxServer},
    package_machine::{DebFixture, PackageMachine},
    php_fpm::PhpFpmServer,
    podman::PodmanEngine,
    ports::{free_port, free_ports},
    proxy::{FaultyProxy, ProxyFault},
    pypi::{PypiAuth, PypiServer},
    registry::{ANN_CREDENTIALS, DockerRegistry, TestRegistryAuth},
    relay::TcpRelay,
    rpm::RpmFixture,
    runner_output::RunnerOutput,
    server::{HttpReply, HttpTestServer},
    ssh::{
        SshHost, kill_children, make_key, plan_on_host, write_named_ssh_config, write_ssh_config, write_ssh_config_at,
    },
    supervisord::SupervisordServer,
    template_site::{TEMPLATE_PROJECT, TemplateSite},
    tracer::{TracedCall, TracedRun},
    traffic::{ConstantTraffic, TrafficRate, TrafficReport},
};

/// Where the plan, the app and the migrations are copied from.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/shop");

/// The same plan in long forms, which most tests change.
const LONG_PLAN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/long-plan/deploy.yml");

/// A condition that is waited for must come true within this time.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Whoever measures time is alone: every other run waits.
static MEASUREMENT_LOCK: RwLock<()> = RwLock::new(());

/// A folder with the example in it, and nothing from this machine but `PATH`.
pub struct TestEnvironment {
    root: TempDir,
    variables: BTreeMap<String, String>,
}

impl TestEnvironment {
    /// The example, with nothing deployed and nothing packed.
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["home", "shop"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        let environment = Self { root, variables: BTreeMap::new() };
        let example = Path::new(EXAMPLE);
        fs::copy(LONG_PLAN, environment.path("deploy.yml")).unwrap();
        for folder in ["app", "migrations"] {
            copy_dir(&example.join(folder), &environment.path(folder));
        }
        // Where the example waits for a service, a test that expects a failure should not.
        environment.edit("deploy.yml", "    with:\n      files:", "    with:\n      tries: 1\n      files:");
        environment
    }

    /// The example, packed as r1 and deployed.
    pub fn deployed() -> Self {
        let environment = Self::new();
        environment.pack("r1");
        environment.deploy("r1", &[]).assert_exit(0);
        environment
    }

    /// What is in the folder `name` of an archive, with modes and times.
    pub fn unpacked(archive: &Path, name: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        unpack::unpack(archive, root.path()).unwrap();
        fs::rename(root.path().join(name), root.path().join("shop")).unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        Self { root, variables: BTreeMap::new() }
    }

    /// Another plan, in a folder with nothing else.
    pub fn with_plan(plan: &str) -> Self {
        let environment = Self::new();
        environment.write("deploy.yml", plan);
        environment
    }

    /// Sets a variable for all runs to come.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Another machine with the same plan and content, and nothing of what this one did.
    pub fn another_machine(&self) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("home")).unwrap();
        copy_dir(&self.path(""), &root.path().join("shop"));
        Self { root, variables: self.variables.clone() }
    }

    /// A path in the folder of the plan.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join("shop").join(path)
    }

    /// A path in the user's home.
    pub fn home(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.path().join("home").join(path)
    }

    /// What the documentation calls the folders of this one.
    pub fn shown_paths(&self) -> Vec<(String, &'static str)> {
        let path = |name: &str| self.root.path().join(name).display().to_string();
        vec![(path("shop"), "/srv/shop"), (path("home"), "~"), (self.root.path().display().to_string(), "/srv")]
    }

    /// The bytes of an official module, which serves as a third-party one.
    pub fn component(name: &str) -> Vec<u8> {
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        fs::read(target.join("guest/components").join(name).with_extension("wasm")).unwrap()
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Writes a file, and the folders that it lies in.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes a file that can be executed.
    pub fn write_program(&self, path: &str, content: &str) {
        self.write(path, content);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Replaces a text in a file, which must be there.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no {from:?}:\n{text}");
        self.write(path, text.replacen(from, to, 1));
    }

    /// Whether something is there.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// The names in a folder, sorted; none if it is not there.
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Every path below the plan's folder, with the content of files and where links lead to.
    pub fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let kind = path.symlink_metadata().unwrap().file_type();
                if kind.is_symlink() {
                    found.insert(
                        path.clone(),
                        fs::read_link(&path).unwrap().to_string_lossy().into_owned().into_bytes(),
                    );
                } else if kind.is_dir() {
                    found.insert(path.clone(), Vec::new());
                    walk(&path, found);
                } else {
                    found.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.path(""), &mut found);
        found
    }

    /// Makes `dist/shop-<label>.tar.zst` and its `.sha256` out of `app/`. Returns the digest in hex.
    pub fn pack(&self, label: &str) -> String {
        let bytes = archive::pack_folder(&self.path("app"), label, TestArchiveFormat::TarZst);
        let name = format!("shop-{label}.tar.zst");
        let digest = sha256(&bytes);
        self.write(&format!("dist/{name}"), bytes);
        self.write(&format!("dist/{name}.sha256"), format!("{digest}  {name}\n"));
        digest
    }

    /// The bytes of a release, to be served by something else than the folder `dist`.
    pub fn archive(&self, label: &str, format: TestArchiveFormat) -> Vec<u8> {
        archive::pack_folder(&self.path("app"), label, format)
    }

    /// Where `current` leads to.
    pub fn live_target(&self) -> String {
        fs::read_link(self.path("deploy/test/current")).unwrap().to_string_lossy().into_owned()
    }

    /// What one query on the deployed database gives, as text.
    pub fn sql(&self, query: &str) -> String {
        let database = rusqlite::Connection::open(self.path("deploy/test/shop.db")).unwrap();
        database.query_row(query, (), |row| row.get::<_, rusqlite::types::Value>(0)).map_or_else(
            |error| error.to_string(),
            |value| match value {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            },
        )
    }

    /// Runs `runner --local --release <label> --json` with more arguments.
    pub fn deploy(&self, label: &str, more: &[&str]) -> RunnerOutput {
        self.run(&[&["--local", "--release", label, "--json"], more].concat())
    }

    /// Runs `runner <command> --local --release <label> --json`.
    pub fn deploy_with(&self, command: &str, label: &str) -> RunnerOutput {
        self.run(&[command, "--local", "--release", label, "--json"])
    }

    /// Runs the runner and waits for its end.
    pub fn run(&self, arguments: &[&str]) -> RunnerOutput {
        let _shared = lock_for_run();
        self.runner_output(self.command(arguments).output().unwrap())
    }

    /// Runs the runner and returns its exit code and all that it wrote, in order, as a terminal or a log has it.
    pub fn run_with_one_stream(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let path = self.root.path().join("said");
        let file = fs::File::create(&path).unwrap();
        let mut command = self.command(arguments);
        let _shared = lock_for_run();
        let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        (status.code(), fs::read_to_string(path).unwrap())
    }

    /// Runs a shell script whose `$0` is the runner, with nothing from this machine but `PATH`.
    pub fn run_script(&self, script: &str) -> RunnerOutput {
        let mut command = Command::new("sh");
        self.make_hermetic(&mut command);
        command.args(["-euc", script, env!("CARGO_BIN_EXE_runner")]);
        let _shared = lock_for_run();
        self.runner_output(command.output().unwrap())
    }

    /// Runs the runner in another folder.
    pub fn run_in(&self, folder: &str, arguments: &[&str]) -> RunnerOutput {
        let _shared = lock_for_run();
        self.runner_output(self.command(arguments).current_dir(self.path(folder)).output().unwrap())
    }

    /// Starts the runner and lets it run.
    pub fn start(&self, arguments: &[&str]) -> std::process::Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Starts the runner and keeps what it says to people; [`output_of`](Self::output_of) returns it.
    pub fn start_with_stderr(&self, arguments: &[&str]) -> std::process::Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for a process that [`start_with_stderr`](Self::start_with_stderr) started.
    pub fn output_of(&self, child: std::process::Child) -> RunnerOutput {
        self.runner_output(child.wait_with_output().unwrap())
    }

    /// Waits for a process that [`start`](Self::start) started and returns its exit code, if it ended by itself.
    pub fn wait(&self, mut child: std::process::Child) -> Option<i32> {
        child.wait().unwrap().code()
    }

    /// Runs the runner under strace until `is_last` says of a call that it is killed behind it, or to its end. None if strace failed, by
    /// which the runner is killed too.
    pub fn run_traced(&self, arguments: &[&str], is_last: impl Fn(&TracedCall) -> bool) -> Option<TracedRun> {
        let mut command = Command::new("strace");
        self.make_hermetic(&mut command);
        let (run, strace_error) = tracer::trace_once(command, arguments, is_last).unwrap();
        strace_error.is_empty().then(|| run.unwrap())
    }

    /// Runs the runner while no other case runs.
    pub fn run_alone(&self, arguments: &[&str]) -> RunnerOutput {
        let _alone = MEASUREMENT_LOCK.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.runner_output(self.command(arguments).output().unwrap())
    }

    /// Runs the runner where a name of another machine leads to `addresses`: with an `/etc/hosts` of its own, in a mount
    /// namespace.
    pub fn run_with_hosts(&self, addresses: &[(&str, &str)], arguments: &[&str]) -> RunnerOutput {
        let hosts: String = addresses.iter().map(|(address, name)| format!("{address} {name}\n")).collect();
        fs::write(self.root.path().join("hosts"), hosts).unwrap();
        self.run_in_mount_namespace(r#"mount --bind ../hosts /etc/hosts && exec "$@""#, arguments)
    }

    /// Runs the runner in a mount namespace, by a shell script that ends in `exec "$@"`.
    pub fn run_in_mount_namespace(&self, script: &str, arguments: &[&str]) -> RunnerOutput {
        let mut command = Command::new("unshare");
        self.make_hermetic(&mut command);
        // Who is not root is root in a user namespace of its own.
        let namespaces: &[&str] = if rustix::process::geteuid().is_root() { &["--mount"] } else { &["--mount", "-Ur"] };
        command.args(namespaces).args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_runner")]).args(arguments);
        let _shared = lock_for_run();
        let output = command.output().unwrap_or_else(|error| panic!("unshare: {error}; run `cargo xtask setup`"));
        self.runner_output(output)
    }

    /// Runs git in the plan's folder.
    pub fn git(&self, arguments: &[&str]) {
        let mut command = Command::new("git");
        self.make_hermetic(&mut command);
        let output = command.args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The runner, ready to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        self.make_hermetic(&mut command);
        command.args(arguments);
        command
    }

    fn make_hermetic(&self, command: &mut Command) {
        #[expect(clippy::disallowed_methods, reason = "all that a run gets of this process")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.root.path().join("home"));
        command.env("GIT_CEILING_DIRECTORIES", self.root.path()).envs(&self.variables);
        command.current_dir(self.path("")).stdin(Stdio::null());
    }

    fn runner_output(&self, output: std::process::Output) -> RunnerOutput {
        RunnerOutput::new(output, self.root.path())
    }
}

impl Drop for TestEnvironment {
    fn drop(&mut self) {
        // A folder that a case made read-only must not stay behind.
        if let Ok(entries) = fs::read_dir(self.path("deploy")) {
            for entry in entries.flatten() {
                let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755));
            }
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < WAIT_TIMEOUT, "it did not come true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn lock_for_run() -> RwLockReadGuard<'static, ()> {
    MEASUREMENT_LOCK.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), to.join(entry.file_name())).unwrap();
        } else if kind.is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
