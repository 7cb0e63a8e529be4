//! Releases that start as containers of a real podman behind Caddy, beside the one that serves.

mod failures;
mod rollout;
pub(super) mod world;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use super::switch_traffic::measured::{SwitchLoad, SwitchWay};
use crate::support::{
    DockerRegistry, PodmanEngine, SshHost, TestEnvironment, TestRegistryAuth, doc_blocks::fenced_block, free_ports,
    write_ssh_config,
};
use world::{answer_at, running, world};

pub(super) const PAGE: &str = "docs/container.md";

#[test]
fn plan_of_the_page_starts_each_release_beside_the_one_that_serves() {
    let world = world();
    world.deploy("r1").assert_exit(0);
    assert_eq!(world.answer(), "r1 cor", "the container got its secret");
    assert_eq!(world.podman.containers(), running(&[("a", "r1")]));
    let again = world.deploy("r1");
    for step in ["images", "start"] {
        let is_skipped = again.decisions().iter().any(|decision| decision.starts_with(&format!("{step} skip")));
        assert!(is_skipped, "{:?}", again.decisions());
    }
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r2 cor", running(&[("a", "r1"), ("b", "r2")])));
    // The old container runs on, so the way back is one rename.
    let started = |name: &str| world.podman.run(&["inspect", "--format", "{{.State.StartedAt}}", name]);
    let first = started("shop-default-start-a-r1");
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!((world.answer().as_str(), started("shop-default-start-a-r1")), ("r1 cor", first));
    world.pack("r3", "works");
    world.deploy("r3").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r3 cor", running(&[("a", "r1"), ("b", "r3")])));
    let labels = world.podman.labels("shop-default-start-b-r3");
    let label = |name: &str| labels[name].as_str();
    assert_eq!(
        ["app", "environment", "slot", "release"].map(|name| label(&format!("pawl.{name}"))),
        ["shop", "default", "b", "r3"]
    );
    // The password is in its files only, and nobody else reaches them.
    let inspected = world.podman.run(&["inspect", "shop-default-start-b-r3"]);
    assert!(!inspected.contains("correct-horse"), "{inspected}");
    let found =
        Command::new("grep").args(["-rl", "correct-horse-battery"]).arg(world.environment.path("")).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.lines().filter(|path| path.contains("/srv-secrets/")).count(), 2, "{found}");
    assert_eq!(found.lines().count(), 2, "{found}");
    let folder = world.environment.path("srv-secrets/shop-default-start-b");
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn hook_of_the_page_stops_the_old_container() {
    let world = world();
    let plan = world.environment.read("deploy.yml") + &world.adapted(&fenced_block(PAGE, "stop: previous"));
    world.environment.write("deploy.yml", plan);
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "works");
    world.deploy("r2").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r2 cor", running(&[("b", "r2")])));
    assert!(!world.environment.exists("srv-secrets/shop-default-start-a"));
    world.environment.run(&["rollback", "--local", "--json"]).assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r1 cor", running(&[("a", "r1")])));
}

#[test]
fn changed_secret_and_settings_start_beside_the_old_container() {
    let mut world = world();
    world.deploy("r1").assert_exit(0);
    world.environment.set_variable("DB_PASSWORD", "staple");
    world.deploy("r1").assert_exit(0);
    assert_eq!((world.answer().as_str(), world.podman.containers()), ("r1 sta", running(&[("a", "r1"), ("b", "r1")])));
    world.environment.edit(
        "deploy.yml",
        "container: { port: 8080,",
        "container: { port: 8080, user: \"65534\", memory: 64m, env: { GREETING: \"from {slot}\" }, volumes: [\"{slot-dir}:/here:ro\"], \
         stop-signal: TERM, command: serve,",
    );
    world.deploy("r1").assert_exit(0);
    assert_eq!(
        (world.answer().as_str(), world.podman.containers()),
        ("r1 from a", running(&[("a", "r1"), ("b", "r1")]))
    );
    let inspected = world.podman.run(&[
        "inspect",
        "--format",
        "{{.Config.User}} {{.HostConfig.Memory}} {{.HostConfig.Binds}}",
        "shop-default-start-a-r1",
    ]);
    assert!(inspected.starts_with("65534 67108864 ") && inspected.contains("/slots/a:/here:ro"), "{inspected}");
    let again = world.deploy("r1");
    assert!(again.decisions().iter().any(|decision| decision.starts_with("start skip")), "{:?}", again.decisions());
}

#[test]
fn no_request_is_lost_in_swaps_of_a_slow_container() {
    let world = world();
    world.pack("r1", "slow");
    world.deploy("r1").assert_exit(0);
    world.pack("r2", "slow");
    let hook = world.adapted(&fenced_block(PAGE, "stop: previous"));
    world.environment.write("deploy.yml", world.environment.read("deploy.yml") + &hook);
    let mut load = SwitchLoad::from_env();
    if !load.is_measured() {
        load = load.at_most(2);
    }
    let (address, name) = (world.caddy.address(), "container behind Caddy, the link");
    let way = SwitchWay { name, address: &address, answers: ["r1 cor", "r2 cor"] };
    load.check(&way, |answer| {
        world.deploy(answer.trim_end_matches(" cor")).assert_exit(0);
    });
    assert_eq!(world.podman.containers().len(), 1);
    if load.is_measured() {
        rollout::measure(load, &world);
    }
}

#[test]
fn commands_of_the_page_run_each_step_alone() {
    let world = world();
    let commands = world
        .adapted(&fenced_block(PAGE, "runner step images"))
        .replace("/health\"}]", "/health\"}], \"every\": \"50ms\", \"stay\": \"100ms\"");
    let ran = world.environment.run_script(&commands.replace("runner step", "\"$0\" step"));
    ran.assert_exit(0);
    assert_eq!(world.podman.containers(), ["step-container-default-container-a-r1 running"]);
    assert_eq!(answer_at(&format!("127.0.0.1:{}", world.ports[0])), "r1 ");
}

#[test]
fn container_starts_on_a_host_by_its_agent() {
    let (host, podman) = (SshHost::new(), PodmanEngine::new());
    let [a, b] = free_ports();
    let registry = DockerRegistry::start(TestRegistryAuth::Anonymous);
    let mut environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}" }}
environments:
  prod:
    ssh: {{ config: ./ssh_config }}
    hosts: {{ web: [{{ at: "{}", name: web-1, vars: {{ root: {} }} }}] }}
steps:
  images:
    on: web
    trust: host
    with: {{ image: "{}/shop@${{{{ env.DIGEST }}}}", engine: podman }}
    grants: {{ sockets: &sockets {{ podman: "unix:{}" }} }}
  start:
    on: web
    uses: container
    trust: host
    with:
      engine: podman
      slots: {{ a: {{ port: {a} }}, b: {{ port: {b} }} }}
      container: {{ port: 8080, env: {{ GREETING: "on {{port}}" }} }}
      ready: {{ http: [{{ url: "http://127.0.0.1:{{port}}/health" }}], every: 50ms, within: 3s, stay: 100ms }}
    grants: {{ dirs: [app], sockets: *sockets, http: ["http://127.0.0.1:{a}", "http://127.0.0.1:{b}"] }}
  switch: {{ on: web, with: {{ link: live, to: "${{{{ steps.start.to }}}}" }}, grants: {{ dirs: [app] }} }}
"#,
        host.address(),
        host.path("srv").display(),
        registry.authority(),
        podman.socket().display(),
    ));
    write_ssh_config(&environment.path(""), &[&host]);
    fs::create_dir(host.path("srv")).unwrap();
    for (release, behavior, slot, exit) in [("r1", "works", "a", 0), ("r2", "works", "b", 0), ("r3", "exits", "b", 1)] {
        podman.build(release, &format!("ENV RELEASE={release} BEHAVIOR={behavior}"));
        let name = podman.push(release, &registry.authority(), "shop");
        environment.set_variable("DIGEST", name.split_once('@').unwrap().1);
        environment.deploy(release, &[]).assert_exit(exit);
        assert_eq!(fs::read_link(host.path("srv/live")).unwrap(), Path::new("slots").join(slot));
    }
    assert_eq!(podman.containers(), ["shop-prod-start-b-r2 running"], "r3 took the place of r1");
    assert_eq!(answer_at(&format!("127.0.0.1:{b}")), format!("r2 on {b}"));
}
