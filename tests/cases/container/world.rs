//! What the cases about containers stand on.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use super::PAGE;
use crate::support::{
    CaddyServer, DockerRegistry, PodmanEngine, RunnerOutput, TestEnvironment, TestRegistryAuth,
    doc_blocks::fenced_block, free_ports, wait_until,
};

/// The plan of the page, with the folders and addresses of a test, a podman, a registry, and Caddy as the page configures it.
pub(in crate::cases) struct ContainerSite {
    pub(in crate::cases) environment: TestEnvironment,
    pub(in crate::cases) podman: PodmanEngine,
    pub(in crate::cases) registry: DockerRegistry,
    pub(in crate::cases) caddy: CaddyServer,
    /// The ports of the slots.
    pub(in crate::cases) ports: [u16; 2],
}

pub(in crate::cases) fn world() -> ContainerSite {
    let environment = TestEnvironment::with_plan(&fenced_block(PAGE, "version: 1"));
    let podman = PodmanEngine::new();
    let ports = free_ports();
    let root = environment.path("srv").display().to_string();
    let caddy = CaddyServer::new(|port| {
        let mut text = fenced_block(PAGE, "http://:8080").replace("/srv/shop", &root);
        for (from, to) in [
            ("http://:8080 {", format!("http://:{port} {{\n\tbind 127.0.0.1")),
            ("8001", ports[0].to_string()),
            ("8002", ports[1].to_string()),
        ] {
            text = text.replace(from, &to);
        }
        text
    });
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let mut world = ContainerSite { environment, podman, registry, caddy, ports };
    world.environment.write("deploy.yml", world.adapted(&fenced_block(PAGE, "version: 1")));
    world.environment.set_variable("DB_PASSWORD", "correct-horse-battery");
    world.pack("r1", "works");
    world
}

impl ContainerSite {
    /// A text of the page with what this test has.
    pub(in crate::cases) fn adapted(&self, text: &str) -> String {
        let root = self.environment.path("srv").display().to_string();
        let [a, b] = self.ports.map(|port| port.to_string());
        let socket = self.podman.socket().display().to_string();
        let mut text = text.to_owned();
        for (from, to) in [
            ("/srv/shop", root.as_str()),
            ("/run/podman/podman.sock", &socket),
            ("127.0.0.1:8080", &self.caddy.address()),
            ("8001", &a),
            ("8002", &b),
            // The default times are for real programs.
            ("/health\" }] }", "/health\" }], every: 50ms, within: 3s, stay: 300ms }"),
            ("drain: 10s", "drain: 100ms"),
        ] {
            text = text.replace(from, to);
        }
        text
    }

    /// Builds the image of a release, pushes it, and writes what the plan reads.
    pub(in crate::cases) fn pack(&self, release: &str, behavior: &str) {
        let lines =
            format!("ENV RELEASE={release} BEHAVIOR={behavior}\nLABEL org.opencontainers.image.version={release}");
        self.podman.build(release, &lines);
        let name = self.podman.push(release, &self.registry.authority(), "shop");
        self.environment.write(&format!("dist/shop-{release}.image"), format!("{name}\n"));
    }

    pub(in crate::cases) fn deploy(&self, release: &str) -> RunnerOutput {
        self.environment.deploy(release, &[])
    }

    /// What a visitor gets.
    pub(in crate::cases) fn answer(&self) -> String {
        answer_at(&self.caddy.address())
    }

    /// Deploys a release, and kills the runner after a time.
    pub(in crate::cases) fn kill_after(&self, release: &str, moment: Duration) {
        let began = Instant::now();
        let mut killed = self.environment.start(&["--local", "--release", release]);
        wait_until("the moment", || began.elapsed() >= moment || killed.try_wait().unwrap().is_some());
        let _ = killed.kill();
        killed.wait().unwrap();
    }
}

/// The body of an answer.
pub(in crate::cases) fn answer_at(address: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

/// The containers of releases in the slots, as [`PodmanEngine::containers`] has them.
pub(in crate::cases) fn running(slots: &[(&str, &str)]) -> Vec<String> {
    slots.iter().map(|(slot, release)| format!("shop-default-start-{slot}-{release} running")).collect()
}
