//! `--limit` of a rollback and of a promotion. The hosts that are left out have no sshd meanwhile, so they can't be asked anything.

use std::fs;

use super::{fleet, not_skipped};
use crate::support::{SshHost, TestEnvironment, write_ssh_config};

#[test]
fn a_rollback_of_some_hosts_needs_no_other_host() {
    let hosts = [SshHost::new(), SshHost::new()];
    let environment = fleet(&[&hosts[0], &hosts[1]]);
    environment.deploy("r1", &[]).assert_exit(0);
    environment.deploy("r2", &[]).assert_exit(0);
    let shown = || [0, 1].map(|host: usize| hosts[host].read("srv/current/VERSION").trim().to_owned());
    hosts[0].stop();
    let back = environment.run(&["rollback", "--local", "--limit", "web-2", "--json"]);
    back.assert_exit(0);
    assert!(not_skipped(&back).iter().all(|decision| !decision.contains(" web-1 ")), "{:?}", not_skipped(&back));
    assert_eq!(shown(), ["r2", "r1"]);
    hosts[0].start();
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(shown(), ["r1", "r1"]);
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"]["verified"], true);
}

#[test]
fn a_promotion_to_some_hosts_needs_no_other_host() {
    let hosts = [SshHost::new(), SshHost::new(), SshHost::new()];
    let written = |index: usize, name: &str| {
        let (at, root) = (hosts[index].address(), hosts[index].path("srv"));
        fs::create_dir(&root).unwrap();
        format!("{{ at: \"{at}\", name: {name}, vars: {{ root: {} }} }}", root.display())
    };
    let (test, one, two) = (written(0, "web-t"), written(1, "web-1"), written(2, "web-2"));
    let environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}", dist: "./dist:ro" }}
environments:
  test: {{ ssh: {{ config: ./ssh_config }}, hosts: {{ web: [{test}] }} }}
  prod: {{ after: test, ssh: {{ config: ./ssh_config }}, hosts: {{ web: [{one}, {two}] }} }}
steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
"#
    ));
    write_ssh_config(&environment.path(""), &[&hosts[0], &hosts[1], &hosts[2]]);
    environment.pack("r1");
    environment.deploy("r1", &["--env", "test"]).assert_exit(0);
    let promote = |more: &[&str]| {
        environment.run(&[&["promote", "--local", "--from", "test", "--to", "prod", "--json"], more].concat())
    };
    hosts[1].stop();
    let part = promote(&["--limit", "web-2"]);
    part.assert_exit(0);
    assert_eq!(not_skipped(&part), ["pull web-2 run", "switch web-2 run"]);
    assert!(!hosts[1].path("srv/current").exists() && hosts[2].path("srv/current").exists());
    hosts[1].start();
    let whole = promote(&[]);
    whole.assert_exit(0);
    assert_eq!(not_skipped(&whole), ["pull web-1 run", "switch web-1 run"]);
    assert_eq!(hosts[1].read("srv/current/VERSION").trim(), "r1");
}
