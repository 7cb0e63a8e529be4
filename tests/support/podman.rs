//! A real podman with its service, Docker's API on a unix socket. It has its own storage and its own network, so that several are side by
//! side; what it runs ends with it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use tempfile::TempDir;

use super::{sha256, wait_until};

/// The server of the tests, for images that have nothing else.
const APP: &str = include_str!("podman_app.c");

/// Podmans do not know of each other. Each would call the bridge of its first network `podman1`, and the last container of one of them would take
/// the bridge away from the others: so the names here have the number of the podman. And the machine's packet filter is one: rules that two of
/// them write at once get lost, so all wait for each other. The DNS server that netavark leaves running must not have the lock: hence `--close`.
const NETAVARK: &str = r#"#!/bin/sh
sed 's/"network_interface": *"podman/"network_interface":"pNUMBERn/g' |
  exec flock --close /usr/lib/podman/netavark /usr/lib/podman/netavark "$@"
"#;

/// Runs until it is dropped, and ends its containers then.
pub struct PodmanEngine {
    folder: TempDir,
    service: Option<Child>,
    /// Nobody else has its port, and so nobody else has a network of its number.
    number: TcpListener,
}

impl PodmanEngine {
    /// One without images.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers with networks need root");
        let folder = tempfile::tempdir().unwrap();
        let number = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut engine = Self { folder, service: None, number };
        engine.configure();
        engine.serve();
        engine
    }

    fn configure(&self) {
        let root = self.folder.path().display();
        let number = self.number.local_addr().unwrap().port();
        let name = format!("pawl{number}");
        let configuration = format!(
            "[engine]\nhelper_binaries_dir = [\"{root}/helpers\", \"/usr/lib/podman\"]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\n\
             events_logger = \"file\"\ntmp_dir = \"{root}/tmp\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{root}/networks\"\ndefault_network = \"{name}\"\n\
             default_subnet_pools = [{{ base = \"10.{0}.{1}.128/25\", size = 27 }}]\n",
            number >> 8,
            number & 255
        );
        // Ephemeral ports begin at 32768: from 10.128.0.0/24 on. The upper half is for what compose makes.
        let subnet = format!("10.{}.{}", number >> 8, number & 255);
        let network = format!(
            "{{\"name\": \"{name}\", \"id\": \"{}\", \"driver\": \"bridge\", \"network_interface\": \"{name}\", \
             \"created\": \"2026-01-01T00:00:00Z\", \"subnets\": [{{\"subnet\": \"{subnet}.0/25\", \"gateway\": \"{subnet}.1\"}}], \
             \"ipv6_enabled\": false, \"internal\": false, \"dns_enabled\": false, \"ipam_options\": {{\"driver\": \"host-local\"}}}}",
            sha256(name.as_bytes())
        );
        for name in ["networks", "helpers"] {
            fs::create_dir(self.folder.path().join(name)).unwrap();
        }
        for (path, text) in [
            ("containers.conf", configuration),
            (&format!("networks/{name}.json"), network),
            // Registries of the tests are without TLS.
            (
                "registries.conf",
                "[[registry]]\nprefix = \"127.0.0.1\"\nlocation = \"127.0.0.1\"\ninsecure = true\n".to_owned(),
            ),
            ("auth.json", "{}".to_owned()),
            ("helpers/netavark", NETAVARK.replace("NUMBER", &number.to_string())),
        ] {
            fs::write(self.folder.path().join(path), text).unwrap();
        }
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.path().join("helpers/netavark"), executable).unwrap();
    }

    /// Starts the service. It runs already, unless [`stop_service`](Self::stop_service) has ended it.
    pub fn serve(&mut self) {
        let mut command = self.command(&["system", "service", "--time", "0"]);
        command.arg(format!("unix://{}", self.socket().display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.service = Some(child.unwrap_or_else(|error| panic!("podman: {error}; run `cargo xtask setup`")));
        wait_until("podman listens", || UnixStream::connect(self.socket()).is_ok());
    }

    /// Ends the service. Containers run on.
    pub fn stop_service(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        let _ = fs::remove_file(self.socket());
    }

    /// Where it speaks Docker's API.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("podman.sock")
    }

    /// `podman` on the storage of this one.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", path("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", path("registries.conf"));
        command.env("REGISTRY_AUTH_FILE", path("auth.json")).env("HOME", self.folder.path());
        // Whenever compose asks which engine it is, podman asks for the packages of its programs: an empty list answers at once.
        command.env("DPKG_ADMINDIR", path("packages"));
        command.arg("--root").arg(path("storage")).arg("--runroot").arg(path("run"));
        command.args(arguments);
        command
    }

    /// What lets a script find this one: `$ENGINE` is its `podman`.
    pub fn exports(&self) -> String {
        let command = self.command(&[]);
        let variables = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
        let mut text: String = variables.map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        let words = command.get_args().filter_map(|word| word.to_str());
        text += &format!("export ENGINE='podman {}'\n", words.collect::<Vec<_>>().join(" "));
        text
    }

    /// What `podman` says on standard output, without the line break at its end.
    pub fn run(&self, arguments: &[&str]) -> String {
        Self::said(arguments, self.command(arguments).output().unwrap())
    }

    fn said(arguments: &[&str], output: Output) -> String {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Makes an image of the test's server, which has nothing else in it, with more lines of a Dockerfile, such as `ENV RELEASE=r1`. The
    /// server is told what to do by variables: see podman_app.c.
    pub fn build(&self, name: &str, lines: &str) {
        let context = self.folder.path().join(format!("context-{}", sha256(name.as_bytes())));
        Self::write_context(&context, lines);
        self.run(&["build", "--quiet", "--tag", name, context.to_str().unwrap()]);
    }

    /// Writes what an image of the test's server is built of, with more lines of its Dockerfile.
    pub fn write_context(context: &Path, lines: &str) {
        fs::create_dir_all(context).unwrap();
        let _ = fs::remove_file(context.join("app"));
        fs::hard_link(static_app(), context.join("app"))
            .or_else(|_| fs::copy(static_app(), context.join("app")).map(drop))
            .unwrap();
        fs::write(context.join("Dockerfile"), format!("FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n{lines}\n"))
            .unwrap();
    }

    /// Moves a built image to a registry without TLS; returns its name there, with its digest: `127.0.0.1:<port>/shop@sha256:…`.
    pub fn push(&self, name: &str, registry: &str, repository: &str) -> String {
        let digest = self.folder.path().join("digest");
        let arguments = ["push", "--quiet", "--tls-verify=false", "--creds", "ann:secret", "--digestfile"];
        let target = format!("docker://{registry}/{repository}:latest");
        let mut command = self.command(&arguments);
        let output = command.arg(&digest).arg(name).arg(&target).output().unwrap();
        Self::said(&[name, &target], output);
        self.run(&["rmi", "--force", name]);
        format!("{registry}/{repository}@{}", fs::read_to_string(digest).unwrap().trim())
    }

    /// The containers, each as `<name> <state>`, sorted.
    pub fn containers(&self) -> Vec<String> {
        let listed: serde_json::Value = serde_json::from_str(&self.run(&["ps", "--all", "--format", "json"])).unwrap();
        let line = |container: &serde_json::Value| {
            format!("{} {}", container["Names"][0].as_str().unwrap(), container["State"].as_str().unwrap())
        };
        let mut lines: Vec<String> = listed.as_array().unwrap().iter().map(line).collect();
        lines.sort_unstable();
        lines
    }

    /// The interfaces in its network: one for each container.
    pub fn interfaces(&self) -> Vec<String> {
        let folder = format!("/sys/class/net/pawl{}/brif", self.number.local_addr().unwrap().port());
        let found = fs::read_dir(folder).into_iter().flatten().flatten();
        found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The processes that watch containers: podman has one for each, which outlives the service.
    pub fn monitors(&self) -> Vec<u32> {
        let folder = self.folder.path().to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let is_monitor = |pid: &u32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            arguments.split('\0').next().is_some_and(|program| program.ends_with("conmon"))
                && arguments.contains(folder)
        };
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_monitor).collect()
    }

    /// The digests of the images.
    pub fn images(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.run(&["images", "--no-trunc", "--format", "{{.Digest}}"]).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    /// The labels of a container.
    pub fn labels(&self, container: &str) -> BTreeMap<String, String> {
        let text = self.run(&["inspect", "--type", "container", "--format", "{{json .Config.Labels}}", container]);
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for PodmanEngine {
    fn drop(&mut self) {
        self.stop_service();
        // Who was killed in the middle may have left a container that is half there.
        for _ in 0..3 {
            let _ = self.command(&["rm", "--all", "--force", "--time", "0"]).output();
            if self.command(&["ps", "--all", "--quiet"]).output().is_ok_and(|left| left.stdout.is_empty()) {
                break;
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = format!("{}/", self.folder.path().display());
        let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&below));
        for place in places.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["--lazy", place]).output();
        }
    }
}

/// The server as one static program, compiled once.
fn static_app() -> &'static Path {
    static APP_FOLDER: OnceLock<PathBuf> = OnceLock::new();
    APP_FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = format!("podman-app-{}", &sha256(APP.as_bytes())[..16]);
        let made = folder.join(&name);
        if made.exists() {
            return made;
        }
        let part = tempfile::Builder::new().prefix(&name).tempfile_in(folder).unwrap().into_temp_path();
        let mut compiler = Command::new("cc")
            .args(["-static", "-Os", "-s", "-x", "c", "-", "-o"])
            .arg(&part)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a C compiler, as for the build");
        compiler.stdin.take().unwrap().write_all(APP.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success(), "the test's server does not compile");
        part.persist(&made).unwrap();
        made
    })
}
