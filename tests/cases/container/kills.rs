//! A deployment of containers under load that is killed, and run again: see `serving_kills`.

use super::{
    PAGE,
    world::{ContainerSite, running, world},
};
use crate::{
    cases::serving_kills::{ServingSite, check_kills_under_load, processes_in, sockets_in, use_own_temporary_folder},
    support::{TestEnvironment, doc_blocks::fenced_block, wait_until},
};

impl ServingSite for ContainerSite {
    fn environment(&self) -> &TestEnvironment {
        &self.environment
    }

    fn address(&self) -> String {
        self.caddy.address()
    }

    fn pack(&self, label: &str) {
        self.pack(label, "works");
    }

    fn check_only_live(&self, slot: &str, label: &str) {
        assert_eq!(self.answer(), format!("{label} cor"));
        assert_eq!(self.podman.containers(), running(&[(slot, label)]), "one slot is live");
        assert_eq!(self.podman.run(&["network", "ls", "--quiet"]).lines().count(), 1, "no network is made");
        assert_eq!(self.environment.list("srv-secrets"), [format!("shop-default-start-{slot}")]);
        wait_until("no process is left", || processes_in(&self.environment).is_empty());
        assert!(sockets_in(&self.environment).is_empty());
    }
}

#[test]
fn killed_deployment_of_containers_under_load_is_finished_by_the_next() {
    let mut site = world();
    use_own_temporary_folder(&mut site.environment);
    let hook = site.adapted(&fenced_block(PAGE, "stop: previous"));
    site.environment.write("deploy.yml", site.environment.read("deploy.yml") + &hook);
    check_kills_under_load(&site, "containers", 6);
}
