//! Hosts that a deployment goes on without, as `max-failures` allows: folders of this machine, and real sshds.

use std::{fs, path::Path};

use expect_test::expect;

use crate::support::{RunnerOutput, SshHost, TestEnvironment, wait_until, write_ssh_config};

/// The steps, for hosts whose folder is `root`. `restart` fails while its folder has a file `broken`, and waits while it has a file `wait`.
const STEPS: &str = r#"steps:
  pull:
    on: web
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  migrate:
    on: { hosts: web, once: true }
    with: { dir: migrations, database: main }
    grants: { dirs: [migrations], databases: { main: "sqlite:SHARED/shop.db" } }
  announce:
    on: { hosts: web, once: true }
    program: [/bin/sh, -c, "echo ${{ release }} >> SHARED/announced"]
    trust: host
  switch: { on: web, with: { link: current }, grants: { dirs: [app] } }
  restart:
    on: web
    program: [/bin/sh, -c, "touch begun; while test -e wait; do sleep 0.02; done; test ! -e broken && echo $(cat current/VERSION) >> restarts"]
    trust: host
    with: { dir: app, repeatable: true }
    grants: { dirs: [app] }
  verify:
    on: web
    with: { files: [{ path: current/VERSION, equals: "${{ release }}" }] }
    grants: { dirs: ["app:ro"] }
"#;

/// A plan for these hosts, each with its address and its folder.
fn fleet(hosts: &[(String, String)], rollout: &str, more: &str) -> TestEnvironment {
    let hosts: Vec<String> = hosts
        .iter()
        .enumerate()
        .map(|(index, (at, root))| {
            format!("        - {{ at: \"{at}\", name: web-{}, vars: {{ root: \"{root}\" }} }}\n", index + 1)
        })
        .collect();
    let environment = TestEnvironment::with_plan(&format!(
        "version: 1\napp: shop\n{more}dirs: {{ app: \"${{{{ host.vars.root }}}}\", dist: \"./dist:ro\", migrations: \"./migrations:ro\" }}\n\
         environments:\n  test:\n    ssh: {{ config: ./ssh_config }}\n    rollout: {rollout}\n    hosts:\n      web:\n{}{STEPS}",
        hosts.concat()
    ));
    fs::create_dir(environment.path("shared")).unwrap();
    let shared = environment.path("shared").display().to_string();
    environment.write("deploy.yml", environment.read("deploy.yml").replace("SHARED", &shared));
    environment.pack("r1");
    environment.pack("r2");
    environment
}

/// So many hosts that are folders of this machine.
fn local_fleet(count: usize, rollout: &str, more: &str) -> TestEnvironment {
    let hosts: Vec<_> = (1..=count).map(|number| ("local".to_owned(), format!("./deploy/web-{number}"))).collect();
    fleet(&hosts, rollout, more)
}

/// Hosts that ssh reaches.
fn remote_fleet(hosts: &[SshHost], rollout: &str, more: &str) -> TestEnvironment {
    let places: Vec<_> = hosts.iter().map(|host| (host.address(), host.path("srv").display().to_string())).collect();
    let environment = fleet(&places, rollout, more);
    write_ssh_config(&environment.path(""), &hosts.iter().collect::<Vec<_>>());
    hosts.iter().for_each(|host| fs::create_dir(host.path("srv")).unwrap());
    environment
}

/// The release that each of the folders shows.
fn shown<'f>(folders: impl IntoIterator<Item = &'f Path>) -> String {
    let shown = |folder: &Path| match fs::read_to_string(folder.join("current/VERSION")) {
        Ok(version) => version.trim().to_owned(),
        Err(_) => "-".to_owned(),
    };
    folders.into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn shown_here(environment: &TestEnvironment, count: usize) -> String {
    let folders: Vec<_> = (1..=count).map(|number| environment.path(format!("deploy/web-{number}"))).collect();
    shown(folders.iter().map(|folder| &**folder))
}

fn shown_there(hosts: &[SshHost]) -> String {
    let folders: Vec<_> = hosts.iter().map(|host| host.path("srv")).collect();
    shown(folders.iter().map(|folder| &**folder))
}

/// The decisions that neither skip nor only check, as `step target action`, sorted.
fn acted(output: &RunnerOutput) -> Vec<String> {
    let mut decisions = output.decisions_on_targets();
    decisions.retain(|decision| !decision.ends_with("skip") && !decision.starts_with("verify"));
    decisions.sort_unstable();
    decisions
}

/// The hosts that the journal says were left behind.
fn left_behind(output: &RunnerOutput) -> Vec<String> {
    let lines = output.json_lines();
    let events = lines.iter().map(|line| &line["event"]).filter(|event| event["type"] == "host-left-behind");
    events.map(|event| event["target"].as_str().unwrap().to_owned()).collect()
}

fn error_of(output: &RunnerOutput) -> &str {
    &output.stderr[output.stderr.find("error[").expect("there is an error")..]
}

/// Two of eight fail, each in its own way. What is done elsewhere is not done again.
#[test]
fn the_others_go_on_and_only_what_is_missing_runs_after_the_repair() {
    let environment = local_fleet(8, "{ on: web, max-failures: 25% }", "");
    environment.write("deploy/web-3/broken", "");
    environment.write("deploy/web-5/.current.switch.new/file", "");
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    assert_eq!(shown_here(&environment, 8), "r1 r1 r1 r1 - r1 r1 r1");
    assert_eq!(left_behind(&failed), ["web-5", "web-3"]);
    assert_eq!(failed.result_line()["code"], "P0264");
    expect![[r#"
        error[P0264]: 2 of 8 hosts of `web` were left behind
          caused by: web-3: step `restart` failed: `/bin/sh -c 'touch begun; while test -e wait; do sleep 0.02; done; test ! -e broken && echo $(cat current/VERSION) >> restarts'` exited with status 1: it wrote nothing
          caused by: web-5: step `switch` failed: cannot write `app/.current.switch`: it is a folder
          hint: fix the cause there, then run `runner --local --release r1` again: it runs what is missing
    "#]].assert_eq(error_of(&failed));
    assert!(!failed.decisions_on_targets().contains(&"verify web-3 run".to_owned()), "nothing more runs there");
    assert!(failed.decisions_on_targets().contains(&"verify web-8 run".to_owned()));
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!((&history[0]["exit"], &history[0]["verified"]), (&"failed".into(), &false.into()));

    fs::remove_file(environment.path("deploy/web-3/broken")).unwrap();
    fs::remove_dir_all(environment.path("deploy/web-5/.current.switch.new")).unwrap();
    let repaired = environment.deploy("r1", &[]);
    repaired.assert_exit(0);
    assert_eq!(acted(&repaired), ["restart web-3 run", "restart web-5 run", "switch web-5 run"]);
    assert_eq!(shown_here(&environment, 8), "r1 r1 r1 r1 r1 r1 r1 r1");
    assert_eq!(environment.read("deploy/web-1/restarts"), "r1\n", "it ran once");
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"]["verified"], true);
}

/// What is missing is found early, and costs the host that lacks it, also if that is this machine.
#[test]
fn hosts_of_this_machine_that_lack_something_count_as_others_do() {
    let environment = local_fleet(4, "{ on: web, max-failures: 2 }", "");
    let check =
        "  check: { on: web, program: [\"${{ host.vars.root }}-check\"], trust: host, with: { repeatable: true } }\n";
    environment.edit("deploy.yml", "  migrate:\n", &format!("{check}  migrate:\n"));
    for number in [1, 3, 4] {
        environment.write_program(&format!("deploy/web-{number}-check"), "#!/bin/sh\n");
    }
    environment.write("deploy/web-3", "not a folder");
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    assert_eq!(left_behind(&failed), ["web-2", "web-3"]);
    assert_eq!(shown_here(&environment, 4), "r1 - - r1");
    failed.assert_stderr_contains("2 of 4 hosts of `web` were left behind");
    failed.assert_stderr_contains("web-2-check");
    failed.assert_stderr_contains("caused by: web-3: directory `app` of step `pull`");
    assert!(!environment.exists("deploy/web-2"), "nothing was made for it");

    // One more than the plan allows: nothing begins.
    environment.edit("deploy.yml", "max-failures: 2", "max-failures: 1");
    let refused = environment.run(&["--local", "--release", "r2"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("web-2-check");
    assert_eq!(shown_here(&environment, 4), "r1 - - r1");

    environment.write_program("deploy/web-2-check", "#!/bin/sh\n");
    fs::remove_file(environment.path("deploy/web-3")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(shown_here(&environment, 4), "r1 r1 r1 r1");
}

/// In a job on GitHub, the log and the page name the host.
#[test]
fn the_page_of_a_job_names_the_hosts() {
    let mut environment = local_fleet(3, "{ on: web, max-failures: 1 }", "");
    environment.set_variable("GITHUB_ACTIONS", "true");
    environment.set_variable("GITHUB_STEP_SUMMARY", environment.home("summary.md").to_str().unwrap());
    environment.write("deploy/web-2/broken", "");
    let failed = environment.run(&["--release", "r1"]);
    failed.assert_exit(1);
    let log = [failed.stdout.as_str(), failed.stderr.as_str()].concat();
    assert!(log.lines().any(|line| line.contains("LEFT") && line.contains("web-2")), "{log}");
    let page = fs::read_to_string(environment.home("summary.md")).unwrap();
    let failure: Vec<&str> = page.lines().filter(|line| line.starts_with(['#', '>', '1'])).collect();
    expect![[r###"
        ## ❌ shop `r1` → **test**: deployed, but not to all hosts
        > **P0264** 1 of 3 hosts of \`web\` was left behind<br>
        > web\-2\: step \`restart\` failed\: \`/bin/sh \-c 'touch begun; while test \-e wait; do sleep 0.02; done; test \! \-e broken &amp;&amp; echo \$\(cat current/VERSION\) &gt;&gt; restarts'\` exited with status 1\: it wrote nothing
        1. Fix the cause there, then press "Re\-run failed jobs"\: it runs what is missing."###]].assert_eq(&failure.join("\n"));
}

#[test]
fn a_host_that_is_left_behind_is_rolled_back_alone() {
    let environment = local_fleet(4, "{ on: web, max-failures: 1 }", "on-failure: rollback\n");
    // Only the new release fails.
    environment.edit("deploy.yml", "test ! -e broken", "grep -q r1 current/VERSION || test ! -e broken");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-3/broken", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(1);
    assert_eq!(shown_here(&environment, 4), "r2 r2 r1 r2");
    failed.assert_stderr_contains("caused by: web-3: step `restart` failed: ");
    failed.assert_stderr_contains("; rolled back: r1 is live again");
    assert_eq!(environment.read("deploy/web-3/restarts"), "r1\nr1\n", "it was repeated for r1");
    let status = environment.run(&["status"]).stdout;
    assert!(status.contains("r2 on web-1, web-2, web-4; r1 on web-3"), "{status}");

    fs::remove_file(environment.path("deploy/web-3/broken")).unwrap();
    let repaired = environment.deploy("r2", &[]);
    repaired.assert_exit(0);
    assert_eq!(acted(&repaired), ["restart web-3 run", "switch web-3 run"]);
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"]["verified"], true);
}

#[test]
fn beyond_the_limit_nothing_begins_and_every_host_is_rolled_back() {
    let environment = local_fleet(5, "{ on: web, max-failures: 20% }", "on-failure: rollback\n");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-2/broken", "");
    environment.write("deploy/web-3/broken", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4);
    failed.assert_stderr_contains("2 of 5 hosts of `web` failed, more than `max-failures: 1` allows");
    assert_eq!(shown_here(&environment, 5), "r1 r1 r1 r1 r1");
    let decisions = failed.decisions_on_targets();
    assert!(decisions.contains(&"restart web-3 run".to_owned()), "the first failure stops nothing: {decisions:?}");
    assert!(!decisions.contains(&"restart web-4 run".to_owned()), "the second one does: {decisions:?}");
}

/// A canary that fails says something about the release, however many hosts may fail.
#[test]
fn a_batch_of_which_no_host_is_left_stops_the_rollout() {
    let rollout = "{ on: web, batches: [1, 50%, 100%], max-failures: 50% }";
    let environment = local_fleet(8, rollout, "on-failure: rollback\n");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-1/broken", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4);
    failed.assert_stderr_contains("no host is left of the batch");
    assert_eq!(shown_here(&environment, 8), "r1 r1 r1 r1 r1 r1 r1 r1");
    let decisions = failed.decisions_on_targets();
    assert_eq!(decisions.iter().filter(|it| it.starts_with("switch")).count(), 1, "{decisions:?}");
    // One of a larger batch is left behind.
    fs::rename(environment.path("deploy/web-1/broken"), environment.path("deploy/web-3/broken")).unwrap();
    environment.deploy("r2", &[]).assert_exit(1);
    assert_eq!(shown_here(&environment, 8), "r2 r2 r1 r2 r2 r2 r2 r2");
}

/// On one, a file is where a folder must be; one is down. Both are repaired, and only they are worked on.
#[test]
fn two_of_eight_real_hosts_are_left_behind() {
    let hosts: Vec<SshHost> = (0..8).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 25% }", "");
    fs::write(hosts[4].path("srv/releases"), "").unwrap();
    hosts[0].stop();
    let plan = environment.run(&["plan", "--release", "r1"]);
    plan.assert_exit(0);
    plan.assert_stderr_contains("warning: host web-1 is left behind: host `web-1` (127.0.0.1:");
    assert!(plan.stdout.contains("not known yet: the host would be left behind"), "{}", plan.stdout);
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    assert_eq!(shown_there(&hosts), "- r1 r1 r1 - r1 r1 r1");
    failed.assert_stderr_contains("error[P0264]: 2 of 8 hosts of `web` were left behind");
    failed.assert_stderr_contains("caused by: web-1: host `web-1` (127.0.0.1:");
    failed.assert_stderr_contains("caused by: web-5: step `pull` failed: ");
    assert_eq!(left_behind(&failed), ["web-1", "web-5"]);
    assert_eq!(environment.read("shared/announced"), "r1\n", "web-2 took the place of web-1");

    fs::remove_file(hosts[4].path("srv/releases")).unwrap();
    hosts[0].start();
    let repaired = environment.deploy("r1", &[]);
    repaired.assert_exit(0);
    let on_both = |step: &str| ["web-1", "web-5"].map(|host| format!("{step} {host} run"));
    assert_eq!(acted(&repaired), ["pull", "restart", "switch"].map(on_both).concat());
    assert_eq!(shown_there(&hosts), "r1 r1 r1 r1 r1 r1 r1 r1");
    assert_eq!(environment.read("shared/announced"), "r1\n", "what ran once for the group is not repeated");
}

/// The host that did what runs once is lost for good, before the run has ended.
#[test]
fn what_ran_once_is_not_repeated_when_its_host_is_lost() {
    let hosts: Vec<SshHost> = (0..3).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 1 }", "");
    hosts[1..].iter().for_each(|host| fs::write(host.path("srv/broken"), "").unwrap());
    environment.deploy("r1", &[]).assert_exit(1);
    assert_eq!(environment.read("shared/announced"), "r1\n");
    hosts[1..].iter().for_each(|host| fs::remove_file(host.path("srv/broken")).unwrap());
    hosts[0].stop();
    let without = environment.deploy("r1", &[]);
    without.assert_exit(1);
    without.assert_stderr_contains("1 of 3 hosts of `web` was left behind");
    assert_eq!(acted(&without), ["restart web-2 run", "restart web-3 run"]);
    // It is taken out of the plan.
    let plan = environment.read("deploy.yml");
    let line = plan.lines().find(|line| line.contains("name: web-1,")).unwrap().to_owned();
    environment.edit("deploy.yml", &format!("{line}\n"), "");
    let removed = environment.deploy("r1", &[]);
    removed.assert_exit(0);
    assert_eq!(acted(&removed), Vec::<String>::new());
    assert_eq!(environment.read("shared/announced"), "r1\n");
    let status = environment.run(&["status"]).stdout;
    assert!(status.contains("no longer in the plan: web-1 (showed r1)"), "{status}");
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["removed_hosts"][0]["name"], "web-1");
}

/// The runner is killed when one host is left behind already: the next attempt tries it again.
#[test]
fn a_killed_attempt_is_resumed_with_the_host_that_it_had_left_behind() {
    let hosts: Vec<SshHost> = (0..3).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 1 }", "");
    hosts[1].stop();
    fs::write(hosts[2].path("srv/wait"), "").unwrap();
    let mut run = environment.start(&["--local", "--release", "r1"]);
    wait_until("the step runs on the last host", || hosts[2].path("srv/begun").exists());
    run.kill().unwrap();
    run.wait().unwrap();
    fs::remove_file(hosts[2].path("srv/wait")).unwrap();
    hosts[1].start();
    let resumed = environment.deploy("r1", &[]);
    resumed.assert_exit(0);
    let acted = acted(&resumed);
    for step in ["pull", "switch", "restart"] {
        assert!(acted.contains(&format!("{step} web-2 run")), "{acted:?}");
    }
    let on_others: Vec<_> = acted.iter().filter(|decision| !decision.contains(" web-2 ")).collect();
    assert!(on_others.iter().all(|decision| decision.starts_with("restart ")), "{acted:?}");
    for host in [&hosts[0], &hosts[2]] {
        assert_eq!(host.read("srv/restarts"), "r1\n", "it ran once");
    }
}

/// A host is lost in the middle of a step. It can't be rolled back; when it is back, the next attempt goes on there.
#[test]
fn a_host_that_is_lost_in_the_middle_is_left_behind() {
    let hosts: Vec<SshHost> = (0..3).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 1 }", "on-failure: rollback\n");
    environment.deploy("r1", &[]).assert_exit(0);
    let (begun, wait) = (hosts[2].path("srv/begun"), hosts[2].path("srv/wait"));
    fs::remove_file(&begun).unwrap();
    fs::write(&wait, "").unwrap();
    let run = environment.start_with_stderr(&["--local", "--release", "r2"]);
    wait_until("the step runs on the last host", || begun.exists());
    hosts[2].stop();
    let failed = environment.output_of(run);
    failed.assert_exit(1);
    failed.assert_stderr_contains("caused by: web-3: the outcome of step `restart` is unknown: ");
    failed.assert_stderr_contains("; not rolled back: it can't be reached");
    assert_eq!(shown_there(&hosts), "r2 r2 r2");
    fs::remove_file(&wait).unwrap();
    hosts[2].start();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(hosts[0].read("srv/restarts"), "r1\nr2\n", "it ran once for each release");
}

/// The same where no host may fail: the others are rolled back, each by itself, and the lost one is named.
#[test]
fn the_others_are_rolled_back_although_one_is_lost() {
    let hosts: Vec<SshHost> = (0..3).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 0 }", "on-failure: rollback\n");
    environment.deploy("r1", &[]).assert_exit(0);
    let (begun, wait) = (hosts[2].path("srv/begun"), hosts[2].path("srv/wait"));
    fs::remove_file(&begun).unwrap();
    fs::write(&wait, "").unwrap();
    let run = environment.start_with_stderr(&["--local", "--release", "r2"]);
    wait_until("the step runs on the last host", || begun.exists());
    hosts[2].stop();
    let failed = environment.output_of(run);
    failed.assert_exit(3);
    failed.assert_stderr_contains("the rollback of step `switch` on web-3 failed");
    assert_eq!(shown_there(&hosts), "r1 r1 r2");
    assert_eq!(hosts[0].read("srv/restarts"), "r1\nr2\nr1\n", "it was repeated for r1");
}

/// The first host is lost before a step begins that runs once: the next one takes it.
#[test]
fn the_next_host_takes_what_runs_once() {
    let hosts: Vec<SshHost> = (0..3).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 1 }", "");
    let gate = "touch at-gate; until test -e open; do sleep 0.02; done";
    let gate = format!(
        "  gate: {{ program: [/bin/sh, -c, \"{gate}\"], trust: host, with: {{ dir: shared }}, grants: {{ dirs: {{ shared: ./shared }} }} }}\n"
    );
    environment.edit("deploy.yml", "  migrate:\n", &format!("{gate}  migrate:\n"));
    let run = environment.start_with_stderr(&["--local", "--release", "r1"]);
    wait_until("the release is on all hosts", || environment.exists("shared/at-gate"));
    hosts[0].stop();
    environment.write("shared/open", "");
    let failed = environment.output_of(run);
    failed.assert_exit(1);
    failed.assert_stderr_contains("caused by: web-1: the connection was lost before step `migrate` began");
    assert_eq!(shown_there(&hosts), "- r1 r1");
    assert_eq!(environment.read("shared/announced"), "r1\n");
    hosts[0].start();
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(shown_there(&hosts), "r1 r1 r1");
    assert_eq!(environment.read("shared/announced"), "r1\n", "once for the group");
}

/// With too small a number, a host that is down stops everything before anything has changed.
#[test]
fn more_hosts_than_may_fail_are_down() {
    let hosts: Vec<SshHost> = (0..3).map(|_| SshHost::new()).collect();
    let environment = remote_fleet(&hosts, "{ on: web, max-failures: 34% }", "");
    hosts[..2].iter().for_each(|host| host.stop());
    let refused = environment.run(&["--local", "--release", "r1"]);
    refused.assert_exit(2);
    refused.assert_stderr_contains("P0260");
    assert!(!hosts[2].path("srv/releases").exists(), "nothing was changed");
}
