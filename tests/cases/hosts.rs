//! Steps on several hosts. Here they are folders of this machine: what differs between hosts is in their variables.

use expect_test::expect;

use crate::support::{TestEnvironment, wait_until};

/// Two groups; `restart` fails on a host while its folder has a file `broken`.
const FLEET: &str = r#"version: 1
app: shop
dirs: { app: "${{ host.vars.root }}", dist: "./dist:ro", migrations: "./migrations:ro" }
environments:
  test:
    hosts:
      web:
        - { at: local, name: web-1, vars: { root: ./deploy/web-1 } }
        - { at: local, name: web-2, vars: { root: ./deploy/web-2 } }
      worker:
        - { at: local, name: worker-1, vars: { root: ./deploy/worker-1 } }
steps:
  pull:
    on: [web, worker]
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  migrate:
    on: { hosts: web, once: true }
    with: { dir: migrations, database: main }
    grants: { dirs: [migrations], databases: { main: "sqlite:./shop.db" } }
  switch:
    on: [web, worker]
    with: { link: current }
    grants: { dirs: [app] }
  restart:
    on: [web, worker]
    program: [/bin/sh, -c, "test ! -e broken && echo ${{ host.name }} ${{ release }} >> restarts"]
    trust: host
    with: { dir: app, repeatable: true }
    grants: { dirs: [app] }
  verify:
    on: web
    with: { files: [{ path: current/VERSION, equals: "${{ release }}" }] }
    grants: { dirs: ["app:ro"] }
on-failure: rollback
"#;

const HOSTS: [&str; 3] = ["web-1", "web-2", "worker-1"];

fn fleet() -> TestEnvironment {
    let environment = TestEnvironment::with_plan(FLEET);
    environment.pack("r1");
    environment.pack("r2");
    environment
}

/// The release that each host shows, by its link.
fn shown(environment: &TestEnvironment) -> [String; 3] {
    HOSTS.map(|host| match environment.exists(&format!("deploy/{host}/current")) {
        true => environment.read(&format!("deploy/{host}/current/VERSION")).trim().to_owned(),
        false => "nothing".to_owned(),
    })
}

#[test]
fn each_step_runs_on_each_host_of_its_groups_and_once_for_a_group() {
    let environment = fleet();
    let deployed = environment.deploy("r1", &[]);
    deployed.assert_exit(0);
    assert_eq!(shown(&environment), ["r1", "r1", "r1"]);
    assert_eq!(
        deployed.decisions_on_targets(),
        [
            "pull web-1 run",
            "pull web-2 run",
            "pull worker-1 run",
            "migrate web run",
            "switch web-1 run",
            "switch web-2 run",
            "switch worker-1 run",
            "restart web-1 run",
            "restart web-2 run",
            "restart worker-1 run",
            "verify web-1 run",
            "verify web-2 run",
        ]
    );
    let again = environment.deploy("r1", &[]);
    again.assert_exit(0);
    let changing = again.decisions_on_targets();
    let mut changing = changing.iter().filter(|it| !it.starts_with("restart") && !it.starts_with("verify"));
    assert!(changing.all(|it| it.ends_with("skip")), "{:?}", again.decisions_on_targets());
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"]["verified"], true);
    assert_eq!(status[0]["hosts"].as_array().unwrap().len(), 3);
}

#[test]
fn what_failed_on_one_host_is_resumed_there_alone() {
    let environment = fleet();
    environment.edit("deploy.yml", "on-failure: rollback\n", "");
    environment.write("deploy/web-2/broken", "");
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    failed.assert_stderr_contains("step `restart` on web-2 failed");
    assert_eq!(environment.read("deploy/web-1/restarts"), "web-1 r1\n");
    std::fs::remove_file(environment.path("deploy/web-2/broken")).unwrap();
    let resumed = environment.deploy("r1", &[]);
    resumed.assert_exit(0);
    let ran = resumed.decisions_on_targets();
    let ran: Vec<&str> = ran.iter().map(String::as_str).filter(|decision| decision.ends_with("run")).collect();
    assert_eq!(ran, ["restart web-2 run", "restart worker-1 run", "verify web-1 run", "verify web-2 run"]);
    assert_eq!(environment.read("deploy/web-1/restarts"), "web-1 r1\n", "what was done is not repeated");
}

#[test]
fn a_rollback_leads_each_host_back_to_what_it_showed() {
    let environment = fleet();
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/worker-1/broken", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4);
    assert_eq!(shown(&environment), ["r1", "r1", "r1"]);
    std::fs::remove_file(environment.path("deploy/worker-1/broken")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(shown(&environment), ["r2", "r2", "r2"]);
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(shown(&environment), ["r1", "r1", "r1"]);
}

#[test]
fn status_tells_hosts_apart_while_they_differ() {
    let environment = fleet();
    environment.edit("deploy.yml", "on-failure: rollback\n", "");
    environment.deploy("r1", &[]).assert_exit(0);
    // The note of the second host can't be written.
    environment.write("deploy/web-2/.current.switch.new/file", "");
    environment.deploy("r2", &[]).assert_exit(1);
    let status = environment.run(&["status"]);
    expect![[r#"
        test
          live        not the same on all hosts: r1 on web-2, worker-1; r2 on web-1
          last        r2: failed at `switch` on web-2; epoch 2, run [RUN 2], attempt 1, started [DATE] [DATE] by [WHO], took [TIME]
          unfinished  run [RUN 2] is at `switch` on web-2; to continue, deploy r2 again
          hosts       behind: web-1, worker-1; failed: web-2
    "#]]
    .assert_eq(&status.stdout_snapshot());
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"], serde_json::Value::Null);
    let live: Vec<_> = HOSTS
        .iter()
        .map(|host| {
            let hosts = status[0]["hosts"].as_array().unwrap();
            hosts.iter().find(|it| it["name"] == **host).unwrap()["live"]["label"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(live, ["r2", "r1", "r1"]);
}

#[test]
fn a_removed_host_no_longer_counts_and_a_new_one_gets_the_release() {
    let environment = fleet();
    environment.deploy("r1", &[]).assert_exit(0);
    environment.edit(
        "deploy.yml",
        "name: web-2, vars: { root: ./deploy/web-2 }",
        "name: web-3, vars: { root: ./deploy/web-3 }",
    );
    let deployed = environment.deploy("r1", &[]);
    deployed.assert_exit(0);
    assert!(deployed.decisions_on_targets().contains(&"switch web-3 run".to_owned()));
    assert!(deployed.decisions_on_targets().contains(&"migrate web skip".to_owned()), "the group has it already");
    let status = environment.run(&["status", "--json"]).json();
    let names: Vec<_> = status[0]["hosts"].as_array().unwrap().iter().map(|host| host["name"].clone()).collect();
    assert_eq!(names, ["web-1", "web-3", "worker-1"]);
    assert_eq!(status[0]["live"]["release"]["label"], "r1");
}

#[test]
fn the_preview_shows_each_host() {
    let environment = fleet();
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    expect![[r#"
        shop r1 → test (preview: nothing is changed)
          run    pull@web-1        prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-2        prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@worker-1     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/worker-1 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    migrate@web       commit   first run
                   run migrations/0001_products.sql  (on database main)
                   run migrations/0002_first_products.sql  (on database main)
                   needs a directory `migrations`: it contains the migrations
                   needs a database `main`: it is changed by the migrations
                   may reach directory `migrations` = [ROOT]/shop/migrations (read only; from `dirs.migrations` of the plan)
                   may reach database `main` = sqlite:[ROOT]/shop/shop.db
          run    switch@web-1      commit   first run
                   not known yet: it is known after `pull` and `migrate`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)
          run    switch@web-2      commit   first run
                   not known yet: it is known after `pull` and `migrate`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)
          run    switch@worker-1   commit   first run
                   not known yet: it is known after `pull` and `migrate`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/worker-1 (read and write; from `dirs.app` of the plan)
          run    restart@web-1     commit   first run
                   run /bin/sh -c 'test ! -e broken && echo web-1 r1 >> restarts'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c test ! -e broken && echo web-1 r1 >> restarts (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-2     commit   first run
                   run /bin/sh -c 'test ! -e broken && echo web-2 r1 >> restarts'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c test ! -e broken && echo web-2 r1 >> restarts (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@worker-1  commit   first run
                   run /bin/sh -c 'test ! -e broken && echo worker-1 r1 >> restarts'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/worker-1 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c test ! -e broken && echo worker-1 r1 >> restarts (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    verify@web-1      check    first run
                   check file app/current/VERSION  (the content `r1`)
                   needs a directory: it contains the files to check
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read only; from `dirs.app` of the plan)
          run    verify@web-2      check    first run
                   check file app/current/VERSION  (the content `r1`)
                   needs a directory: it contains the files to check
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read only; from `dirs.app` of the plan)
          programs get `PATH` = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin and `HOME` = the home of the runner's user, unless the step sets them
    "#]].assert_eq(&preview.stdout_snapshot());
}

/// Four hosts get a release in batches of one, one and two.
fn rollout(more: &str) -> TestEnvironment {
    let hosts = |number: usize| {
        format!("        - {{ at: local, name: web-{number}, vars: {{ root: ./deploy/web-{number} }} }}\n")
    };
    let plan = FLEET.replace(&[hosts(1), hosts(2)].concat(), &(1..=4).map(hosts).collect::<String>());
    let rollout = format!("    rollout: {{ on: web, batches: [1, 50%, 100%]{more} }}\n    hosts:\n");
    let plan = plan.replace("    hosts:\n", &rollout);
    let environment = TestEnvironment::with_plan(&plan);
    environment.pack("r1");
    environment.pack("r2");
    environment
}

/// What is prepared is prepared everywhere; from the first commit step on, a batch is verified before the next one is touched.
#[test]
fn a_rollout_goes_on_when_a_batch_is_verified() {
    let environment = rollout("");
    let deployed = environment.deploy("r1", &[]);
    deployed.assert_exit(0);
    let on_web: Vec<String> =
        deployed.decisions_on_targets().into_iter().filter(|decision| !decision.contains("worker")).collect();
    assert_eq!(
        on_web.iter().map(|decision| decision.trim_end_matches(" run")).collect::<Vec<_>>(),
        [
            "pull web-1",
            "pull web-2",
            "pull web-3",
            "pull web-4",
            "migrate web",
            "switch web-1",
            "restart web-1",
            "verify web-1",
            "switch web-2",
            "restart web-2",
            "verify web-2",
            "switch web-3",
            "switch web-4",
            "restart web-3",
            "restart web-4",
            "verify web-3",
            "verify web-4",
        ]
    );
}

/// A release that is no good on the first host is undone there, and is seen nowhere else.
#[test]
fn a_bad_release_stays_on_the_canary() {
    let environment = rollout("");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-1/broken", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4);
    for host in ["web-1", "web-2", "web-3", "web-4", "worker-1"] {
        assert_eq!(environment.read(&format!("deploy/{host}/current/VERSION")).trim(), "r1", "{host}");
    }
    let switched: Vec<String> =
        failed.decisions_on_targets().into_iter().filter(|decision| decision.starts_with("switch")).collect();
    assert_eq!(switched, ["switch web-1 run"]);
    // The next run goes on where it was.
    std::fs::remove_file(environment.path("deploy/web-1/broken")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(environment.read("deploy/web-4/current/VERSION").trim(), "r2");
}

/// It waits after a batch, and not after one that was done before; back it goes at once.
#[test]
fn a_rollout_pauses_between_batches() {
    let environment = rollout(", pause: 50ms");
    let deployed = environment.run(&["--local", "--release", "r1"]);
    deployed.assert_exit(0);
    deployed.assert_stderr_contains("batch 1 of 3 is done (1 of 4 hosts); the next one begins in ");
    deployed.assert_stderr_contains("batch 2 of 3 is done (2 of 4 hosts)");
    let again = environment.run(&["--local", "--release", "r1", "--until", "switch"]);
    again.assert_exit(0);
    assert!(!again.stderr.contains("batch"), "{}", again.stderr);
    // What only prepares is in no batch.
    let prepared = environment.run(&["--local", "--release", "r2", "--only", "pull"]);
    prepared.assert_exit(0);
    assert!(!prepared.stderr.contains("batch"), "{}", prepared.stderr);
    environment.deploy("r2", &[]).assert_exit(0);
    let back = environment.run(&["rollback", "--local"]);
    back.assert_exit(0);
    assert!(!back.stderr.contains("batch"), "{}", back.stderr);
}

/// A job that is run again must not shorten the time that a canary has.
#[test]
fn an_interrupted_pause_begins_again() {
    let environment = rollout(", pause: 1h");
    let mut run = environment.start(&["--local", "--release", "r1"]);
    let journal = ".pawl/shop/test/attempt-000001.journal";
    let is_verified = || {
        environment.exists(journal)
            && environment
                .read(journal)
                .lines()
                .any(|line| line.contains("\"type\":\"outcome\",\"step\":\"verify\",\"target\":\"web-1\""))
    };
    wait_until("the canary is verified", is_verified);
    run.kill().unwrap();
    run.wait().unwrap();
    environment.edit("deploy.yml", "pause: 1h", "pause: 50ms");
    let resumed = environment.run(&["--local", "--release", "r1"]);
    resumed.assert_exit(0);
    resumed.assert_stderr_contains("batch 1 of 3 is done");
    let switched = resumed.stderr.find("switch@web-2").unwrap();
    assert!(resumed.stderr.find("batch 1 of 3").unwrap() < switched, "{}", resumed.stderr);
}

/// The setup of a machine goes to all hosts first: what comes after it needs it there.
#[test]
fn setup_steps_are_in_no_batch() {
    let environment = rollout("");
    let setup = r#"setup:
  install:
    on: web
    program: [/bin/sh, -c, "printf '#!/bin/sh\\nexit 0\\n' > tool && chmod +x tool"]
    trust: host
    with: { dir: app, repeatable: true }
    grants: { dirs: [app] }
steps:
"#;
    environment.edit("deploy.yml", "steps:\n", setup);
    let program = r#"  use:
    on: web
    program: ["./deploy/${{ host.name }}/tool"]
    trust: host
    with: { repeatable: true }
  switch:
"#;
    environment.edit("deploy.yml", "  switch:\n", program);
    let deployed = environment.run(&["setup", "--local", "--release", "r1", "--json"]);
    deployed.assert_exit(0);
    let decisions = deployed.decisions_on_targets();
    let of_use = decisions.iter().position(|decision| decision.starts_with("use ")).unwrap();
    assert_eq!(
        decisions[..of_use].iter().filter(|decision| decision.starts_with("install ")).count(),
        4,
        "{decisions:?}"
    );
}
