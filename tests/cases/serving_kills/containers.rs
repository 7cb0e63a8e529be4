//! Releases in containers of a real podman, behind Caddy. Nothing is left in the engine, in its network, or of the secrets.

use std::net::TcpStream;

use super::{
    KilledDeployment, assert_nothing_begun, check_kills, files_below, keep_temporary_files, live_slot, processes,
    sockets,
};
use crate::{
    cases::container::{
        PAGE,
        world::{ContainerSite, running, world},
    },
    support::{TestEnvironment, doc_blocks::fenced_block, wait_until},
};

/// The plan of the page with its hook.
struct ContainerDeployment {
    site: ContainerSite,
    /// What the engine has besides containers.
    networks: String,
}

impl ContainerDeployment {
    fn new() -> Self {
        let mut site = world();
        keep_temporary_files(&mut site.environment);
        let hook = site.adapted(&fenced_block(PAGE, "stop: previous").replace("drain: 10s", "drain: 300ms"));
        site.environment.write("deploy.yml", site.environment.read("deploy.yml") + &hook);
        let networks = networks(&site);
        Self { site, networks }
    }
}

impl KilledDeployment for ContainerDeployment {
    const WHAT: &str = "a blue/green deployment of containers";
    const POINTS: usize = 5;

    fn environment(&self) -> &TestEnvironment {
        &self.site.environment
    }

    fn address(&self) -> String {
        self.site.caddy.address()
    }

    fn pack(&self, label: &str) {
        self.site.pack(label, "works");
    }

    fn check_finished(&self, label: &str) {
        let ContainerSite { environment, podman, ports, .. } = &self.site;
        assert_eq!(self.site.answer(), format!("{label} cor"));
        let slot = live_slot(environment);
        assert_eq!(podman.containers(), running(&[(&slot, label)]), "one slot is live");
        assert_eq!(networks(&self.site), self.networks);
        wait_until("one container is in the network", || podman.interfaces().len() == 1);
        wait_until("one container is watched", || podman.monitors().len() == 1);
        wait_until("no process of the runner is left", || processes(environment).is_empty());
        let idle = ports[usize::from(slot == "a")];
        assert!(TcpStream::connect(("127.0.0.1", idle)).is_err(), "nothing listens for the other slot");
        assert_eq!(environment.list("srv-secrets"), [format!("shop-default-start-{slot}")]);
        assert!(sockets(environment).is_empty(), "{:?}", sockets(environment));
        assert_nothing_begun(environment, files_below(&environment.path("")));
    }
}

/// The networks and volumes of the engine.
fn networks(site: &ContainerSite) -> String {
    let listed = |kind: &str| site.podman.run(&[kind, "ls", "--format", "{{.Name}}"]);
    format!("networks: {}; volumes: {}", listed("network"), listed("volume"))
}

#[test]
fn killed_deployment_of_containers_under_load_is_finished_by_the_next() {
    check_kills(ContainerDeployment::new());
}
