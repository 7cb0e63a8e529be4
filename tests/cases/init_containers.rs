//! The templates `container` and `compose`, on a real podman, registry and Caddy: deployed, broken, resumed, rolled back.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::support::{
    CaddyServer, DockerRegistry, PodmanEngine, RunnerOutput, TestEnvironment, TestRegistryAuth, free_ports,
};

/// The folder of the application.
const PROJECT: &str = "project/shop";

/// A template, with the folders, ports and servers of a test.
struct ContainerProject {
    environment: TestEnvironment,
    podman: PodmanEngine,
    registry: DockerRegistry,
    /// Where visitors ask.
    address: String,
    _caddy: Option<CaddyServer>,
}

impl ContainerProject {
    fn new(template: &str) -> Self {
        let environment = TestEnvironment::new();
        fs::create_dir_all(environment.path(PROJECT)).unwrap();
        environment.run_in(PROJECT, &["init", "--template", template]).assert_exit(0);
        let podman = PodmanEngine::new();
        let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
        let ports = free_ports::<2>().map(|port| port.to_string());
        let root = environment.path("srv").display().to_string();
        let adapted = |path: &str, more: &[(&str, &str)]| {
            let mut text = environment.read(&format!("{PROJECT}/{path}"));
            let of_test = [("/srv/shop", root.as_str()), ("8001", &ports[0]), ("8002", &ports[1])];
            for (from, to) in of_test.iter().chain(more) {
                text = text.replace(from, to);
            }
            text
        };
        let caddy = (template == "container").then(|| {
            CaddyServer::new(|port| {
                let site = format!("http://:{port} {{\n\tbind 127.0.0.1");
                adapted("deploy/Caddyfile", &[("http://:8080 {", &site)])
            })
        });
        // Compose publishes a port of its own.
        let address = caddy.as_ref().map_or_else(|| format!("127.0.0.1:{}", ports[0]), CaddyServer::address);
        let socket = podman.socket().display().to_string();
        // The times are for real programs.
        let quick = "every: 50ms, within: 3s, stay: 300ms }\n      stop-timeout: 1s";
        let more = [("/run/podman/podman.sock", socket.as_str()), ("127.0.0.1:8080", &address), ("stay: 2s }", quick)];
        let mut written = vec![("deploy.yml", adapted("deploy.yml", &more))];
        if template == "compose" {
            written.push(("compose.yml", adapted("compose.yml", &more)));
        }
        for (path, text) in written {
            environment.write(&format!("{PROJECT}/{path}"), text);
        }
        Self { environment, podman, registry, address, _caddy: caddy }
    }

    /// Builds a release with the script of the template.
    fn build(&self, release: &str, behavior: &str) {
        let lines = format!("ARG RELEASE\nENV RELEASE=$RELEASE BEHAVIOR={behavior}");
        PodmanEngine::write_context(&self.environment.path(PROJECT), &lines);
        let exports = format!("{}export REGISTRY={}\n", self.podman.exports(), self.registry.authority());
        self.environment
            .run_script(&format!("PATH=$(dirname \"$0\"):$PATH\n{exports}cd {PROJECT}\nsh build.sh {release}"))
            .assert_exit(0);
    }

    fn run(&self, arguments: &[&str]) -> RunnerOutput {
        self.environment.run_in(PROJECT, arguments)
    }

    /// What a visitor gets: the release, and nothing that it was not given.
    fn answer(&self) -> String {
        let Ok(mut connection) = TcpStream::connect(&self.address) else { return "nobody".to_owned() };
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.rsplit("\r\n").next().unwrap().trim_end().to_owned()
    }

    /// From the first release to the way back, with an error of the second one and what is told of it.
    fn check(&self, error: &str, told: &str) {
        let deploy = |release: &str| self.run(&["--local", "--release", release, "--json"]);
        self.build("r1", "works");
        deploy("r1").assert_exit(0);
        assert_eq!(self.answer(), "r1");
        self.build("r2", error);
        deploy("r2").assert_exit(1).assert_stderr_contains(told);
        assert_eq!(self.answer(), "r1");
        // The same release with the error corrected.
        self.build("r2", "works");
        deploy("r2").assert_exit(0);
        assert_eq!(self.answer(), "r2");
        self.run(&["rollback", "--local", "--json"]).assert_exit(0);
        assert_eq!(self.answer(), "r1");
    }
}

#[test]
fn container_template_is_deployed_broken_resumed_and_rolled_back() {
    let project = ContainerProject::new("container");
    project.check("exits", "the database is not to be found");
    let slots = ["a-r1", "b-r2"].map(|slot| format!("shop-default-start-{slot} running"));
    assert_eq!(project.podman.containers(), slots, "both run, so nothing was started for the way back");
}

#[test]
fn compose_template_is_deployed_broken_resumed_and_rolled_back() {
    let project = ContainerProject::new("compose");
    project.check("never", "expected status 200, found 503");
    assert_eq!(project.podman.containers(), ["shop_web_1 running"]);
}
