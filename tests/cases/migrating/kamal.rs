//! A machine as Kamal leaves it, by docs/migrating/kamal.md. Kamal and kamal-proxy are in no package source that the tests have: a container
//! with the name and the labels that Kamal 2.12 gives stands for theirs, and users ask it, or Caddy, without kamal-proxy in front.

use std::{fs, process::Command, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::PLAN;
use crate::support::{
    CaddyServer, ConstantTraffic, DockerRegistry, PodmanEngine, SshHost, TestEnvironment, TestRegistryAuth,
    TrafficRate, doc_blocks::fenced_block, free_ports, write_named_ssh_config,
};

const PAGE: &str = "docs/migrating/kamal.md";
/// Service, role and version.
const THEIRS: &str = "shop-web-3f2a1b0";

/// The application in a container of Kamal, and what the page puts beside it.
struct KamalMachine {
    environment: TestEnvironment,
    podman: PodmanEngine,
    registry: DockerRegistry,
    caddy: CaddyServer,
    _host: SshHost,
}

fn machine() -> KamalMachine {
    let (host, podman) = (SshHost::new(), PodmanEngine::new());
    let registry = DockerRegistry::start(TestRegistryAuth::Basic);
    let [a, b] = free_ports::<2>().map(|port| port.to_string());
    let root = host.path("srv").display().to_string();
    fs::create_dir_all(host.path("srv/storage")).unwrap();
    let caddy = CaddyServer::new(|port| {
        let text = fenced_block(PAGE, "http://:8080").replace("/srv/shop", &root);
        text.replace(":8080 {", &format!(":{port} {{"))
            .replace(":8001", &format!(":{a}"))
            .replace(":8002", &format!(":{b}"))
    });
    let mut environment = TestEnvironment::with_plan("");
    fs::remove_file(environment.path("deploy.yml")).unwrap();
    write_named_ssh_config(&environment.home(""), &[("10.0.0.7", &host)]);
    let mut plan = fenced_block(PAGE, PLAN);
    let config = environment.home("ssh_config").display().to_string();
    for (from, to) in [
        ("        - { at: deploy@10.0.0.8, name: web-2 }\n", ""),
        ("    hosts:\n", format!("    ssh: {{ config: {config} }}\n    hosts:\n").as_str()),
        ("deploy@", ""),
        ("/srv/shop", &root),
        ("/var/run/docker.sock", &podman.socket().display().to_string()),
        ("registry.example.com/acme/shop", &format!("{}/shop", registry.authority())),
        ("127.0.0.1:8080", &caddy.address()),
        ("port: 8001", &format!("port: {a}")),
        ("port: 8002", &format!("port: {b}")),
        (":8001", &format!(":{a}")),
        (":8002", &format!(":{b}")),
        // The default times are for real programs.
        ("{port}/up\" }] }", "{port}/up\" }], every: 50ms, within: 3s, stay: 300ms }"),
    ] {
        assert!(plan.contains(from), "{from}");
        plan = plan.replace(from, to);
    }
    environment.write("pawl.yml", plan);
    environment.git(&["init", "--quiet", "--bare", "-b", "main", environment.home("origin.git").to_str().unwrap()]);
    environment.git(&["init", "--quiet", "-b", "main"]);
    environment.git(&["remote", "add", "origin", environment.home("origin.git").to_str().unwrap()]);
    environment.set_variable("RAILS_MASTER_KEY", "correct-horse-battery");
    let login = STANDARD.encode(r#"{"username": "ann", "password": "secret"}"#);
    environment.set_variable("REGISTRY_AUTH", &login);
    podman.build(THEIRS, "ENV RELEASE=theirs PORT=3000");
    let labels = ["--label", "service=shop", "--label", "role=web", "--label", "destination="];
    podman.run(&[&["run", "--detach", "--name", THEIRS][..], &labels, &[THEIRS]].concat());
    KamalMachine { environment, podman, registry, caddy, _host: host }
}

impl KamalMachine {
    /// Builds an image as Kamal does, with its label, and deploys it. Returns the name of its container.
    fn deploy(&self, answer: &str, slot: &str) -> String {
        self.podman.build(answer, &format!("ENV RELEASE={answer} PORT=3000\nLABEL service=shop"));
        let image = self.podman.push(answer, &self.registry.authority(), "shop");
        let (_, label) = image.split_once("@sha256:").unwrap();
        self.environment.run(&["plan", "--release", label]).assert_exit(0);
        self.environment.deploy(label, &[]).assert_exit(0);
        // The engine's names are shorter than this label.
        let name = format!("shop-production-start-{slot}-{}", &label[..16]);
        let containers = self.podman.containers();
        let running = containers.iter().find(|line| line.starts_with(&name) && line.ends_with(" running"));
        running.unwrap().trim_end_matches(" running").to_owned()
    }

    fn traffic(&self, address: &str, answer: &str) -> ConstantTraffic {
        ConstantTraffic::start(address, TrafficRate { clients: 1, pause: Duration::from_millis(2) }, answer)
    }
}

#[test]
fn containers_run_beside_that_of_kamal_and_no_request_is_lost() {
    let machine = machine();
    let address = machine.podman.run(&[
        "inspect",
        "--format",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        THEIRS,
    ]) + ":3000";
    let users_of_kamal = machine.traffic(&address, "theirs");
    let first = machine.deploy("r1", "a");
    let mut users = machine.traffic(&machine.caddy.address(), "r1");
    let second = users.move_to("r2", || machine.deploy("r2", "b"));
    users.move_to("r1", || machine.environment.run(&["rollback", "--local"]).assert_exit(0).code);
    users.stop().assert_complete(100);
    users_of_kamal.stop().assert_complete(100);
    let all = [first.as_str(), second.as_str(), THEIRS].map(|name| format!("{name} running"));
    assert_eq!(machine.podman.containers(), all, "nobody has touched theirs");
}

/// The label of an image that Kamal has built makes `kamal prune` find a stopped container of Pawl, too.
#[test]
fn container_that_was_stopped_and_pruned_is_started_anew_by_a_rollback() {
    let machine = machine();
    let old = machine.deploy("r1", "a");
    machine.deploy("r2", "b");
    let labels = machine.podman.labels(&old);
    assert_eq!((labels["service"].as_str(), labels.get("role")), ("shop", None));
    machine.podman.run(&["stop", "--time", "1", &old]);
    machine.podman.run(&["rm", &old]);
    machine.environment.run(&["rollback", "--local"]).assert_exit(0);
    let traffic = machine.traffic(&machine.caddy.address(), "r1");
    assert!(machine.podman.containers().contains(&format!("{old} running")));
    traffic.stop().assert_complete(1);
}

#[test]
fn file_of_kamal_is_well_formed() {
    let environment = TestEnvironment::new();
    environment.write("config/deploy.yml", fenced_block(PAGE, "# config/deploy.yml"));
    let mut ruby = Command::new("ruby");
    ruby.args(["-ryaml", "-e", "puts YAML.load_file('config/deploy.yml').fetch('service')"]);
    let output = ruby.current_dir(environment.path("")).output();
    let output = output.unwrap_or_else(|error| panic!("ruby: {error}; run `cargo xtask setup`"));
    assert_eq!(output.stdout, b"shop\n", "{}", String::from_utf8_lossy(&output.stderr));
}
