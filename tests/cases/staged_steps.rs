//! Staged steps: what works beside the live release is undone after a failure, on each host, also when the release was never exposed.

use std::{fs, path::Path};

use expect_test::expect;
use serde_json::Value;

use crate::support::{RunnerOutput, SshHost, TestEnvironment, wait_until, write_ssh_config};

/// `configure` is staged. `gate` fails while its folder has a file `gate`, `verify` while it has one `broken`.
const STEPS: &str = r#"steps:
  pull:
    @ON@
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  configure:
    @ON@
    trust: host
    with: { templates: { conf/site.j2: etc/site.conf }, notify: [/bin/sh, NOTIFY] }
    grants: { dirs: [conf], renders: { etc: "ROOT" }, programs: [[/bin/sh, "**"]] }
  gate:
    @ON@
    program: [/bin/sh, -c, "test ! -e gate"]
    trust: host
    with: { dir: app, repeatable: true }
    grants: { dirs: [app] }
  switch: { @ON@, with: { link: current }, grants: { dirs: [app] } }
  verify:
    @ON@
    with: { tries: 1, files: [{ path: current/VERSION, equals: "${{ release }}" }, { path: broken, exists: false }] }
    grants: { dirs: ["app:ro"] }
"#;

/// A plan whose steps run on hosts, each with its address and its folder, or, without any, on this machine.
fn staged(on_failure: &str, hosts: &[(String, String)], rollout: &str) -> TestEnvironment {
    let listed: Vec<String> = hosts
        .iter()
        .enumerate()
        .map(|(index, (at, root))| {
            format!("        - {{ at: \"{at}\", name: web-{}, vars: {{ root: \"{root}\" }} }}\n", index + 1)
        })
        .collect();
    let environments = format!(
        "environments:\n  test:\n    ssh: {{ config: ./ssh_config }}\n{rollout}    hosts:\n      web:\n{}",
        listed.concat()
    );
    let (on, root, environments) = match hosts {
        [] => ("retry: 0", "./deploy", String::new()),
        [..] => ("on: web", "${{ host.vars.root }}", environments),
    };
    let environment = TestEnvironment::with_plan("");
    let notify = environment.path("notify.sh").display().to_string();
    let steps = STEPS.replace("@ON@", on).replace("ROOT", root).replace("NOTIFY", &notify);
    environment.write("deploy.yml", format!(
        "version: 1\napp: shop\non-failure: {on_failure}\ndirs: {{ app: \"{root}\", dist: \"./dist:ro\", conf: \"./conf:ro\" }}\n{environments}{steps}"
    ));
    environment.write("conf/site.j2", "release {{ release }};\n");
    // It waits while somebody holds it.
    let told = environment.path("told").display().to_string();
    environment.write("notify.sh", format!("echo told >> {told}; while test -e {told}.hold; do sleep 0.02; done\n"));
    for label in ["r1", "r2"] {
        environment.pack(label);
    }
    environment
}

/// What the file of a folder says, and what its link shows.
fn shown(folder: &Path) -> (String, String) {
    let read = |path: &str| fs::read_to_string(folder.join(path)).unwrap_or_else(|_| "-".to_owned());
    let release = read("current/VERSION");
    (read("site.conf").trim().to_owned(), release.trim().to_owned())
}

/// The undos, in their order: `step target`.
fn undone(output: &RunnerOutput) -> Vec<String> {
    let lines = output.json_lines();
    let undos = lines.iter().map(|line| &line["event"]).filter(|event| event["type"] == "undo-outcome");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    undos
        .inspect(|event| assert!(event["failure"].is_null(), "{event}"))
        .map(|event| format!("{} {}", text(&event["step"]), text(&event["target"])))
        .collect()
}

fn pair(site: &str, release: &str) -> (String, String) {
    (site.to_owned(), release.to_owned())
}

#[test]
fn failure_before_the_release_is_exposed_undoes_staged_steps() {
    let environment = staged("rollback", &[], "");
    let folder = environment.path("deploy");
    environment.write("deploy/gate", "");
    // The first release of all.
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1);
    assert_eq!((undone(&failed), shown(&folder)), (vec!["configure local".to_owned()], pair("-", "-")));
    fs::remove_file(folder.join("gate")).unwrap();
    let fixed = environment.deploy("r1", &[]);
    fixed.assert_exit(0);
    assert!(fixed.decisions().contains(&"configure run reverted".to_owned()), "{:?}", fixed.decisions());
    assert_eq!(shown(&folder), pair("release r1;", "r1"));

    environment.write("deploy/gate", "");
    let failed = environment.run(&["--local", "--release", "r2"]);
    failed.assert_exit(1);
    assert_eq!(shown(&folder), pair("release r1;", "r1"));
    let error = &failed.stderr_snapshot()[failed.stderr_snapshot().find("error[").unwrap()..].to_owned();
    expect![[r#"
        error[P0301]: step `gate` failed on attempt 1
          caused by: `/bin/sh -c 'test ! -e gate'` exited with status 1: it wrote nothing
          hint: `configure` is undone; read the full output with `runner logs`, and fix the cause; then run `runner --local --release r2` again (skips: pull)
    "#]]
    .assert_eq(error);
    expect![[r#"
        FAILED: r2 to default at `gate`, after [TIME] (1 ran, 1 failed, 1 undone)
    "#]]
    .assert_eq(&failed.stdout_snapshot());
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!((&history[0]["exit"], &history[0]["stuck"]["step"]), (&"failed".into(), &"gate".into()));
    // It is the same run, and goes on.
    fs::remove_file(folder.join("gate")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(environment.run(&["history", "--json"]).json()[0]["attempt"], 2);
    assert_eq!(shown(&folder), pair("release r2;", "r2"));
}

#[test]
fn hold_keeps_staged_steps() {
    let environment = staged("hold", &[], "");
    let folder = environment.path("deploy");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/gate", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(1);
    assert_eq!((undone(&failed), shown(&folder)), (vec![], pair("release r2;", "r1")));
    fs::remove_file(folder.join("gate")).unwrap();
    let fixed = environment.deploy("r2", &[]);
    fixed.assert_exit(0);
    assert!(fixed.decisions().contains(&"configure skip held".to_owned()), "{:?}", fixed.decisions());
}

#[test]
fn failure_after_the_switch_undoes_staged_steps_last() {
    let environment = staged("rollback", &[], "");
    let folder = environment.path("deploy");
    environment.write("deploy/broken", "");
    // Nothing was live before, so the release stays, with what it needs.
    let failed = environment.deploy("r1", &[]);
    failed.assert_exit(1).assert_stderr_contains("not rolled back: no release was live before this one");
    assert_eq!((undone(&failed), shown(&folder)), (vec![], pair("release r1;", "r1")));
    fs::remove_file(folder.join("broken")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    environment.edit("deploy.yml", "path: broken", "path: \"no-${{ release }}\"");
    environment.write("deploy/no-r2", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4).assert_stderr_contains("r1 is live again");
    assert_eq!(undone(&failed), ["switch local", "configure local"]);
    assert_eq!(shown(&folder), pair("release r1;", "r1"));
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!((&status[0]["live"]["release"]["label"], &status[0]["live"]["verified"]), (&"r1".into(), &true.into()));
}

/// A call that is cut off may have done anything.
#[test]
fn staged_step_with_an_unknown_outcome_is_undone() {
    let environment = staged("rollback", &[], "");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.edit(
        "deploy.yml",
        "    trust: host\n    with: { templates",
        "    trust: host\n    timeout: 1s\n    with: { templates",
    );
    let (told, site) =
        (environment.path("told").display().to_string(), environment.path("deploy/site.conf").display().to_string());
    environment.write("notify.sh", format!("echo told >> {told}; while grep -q r2 {site}; do sleep 0.02; done\n"));
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(1);
    let outcomes: Vec<_> = failed.json_lines().into_iter().map(|line| line["event"]["result"].clone()).collect();
    assert!(outcomes.contains(&"unknown".into()), "{outcomes:?}");
    assert_eq!(undone(&failed), ["configure local"]);
    assert_eq!(shown(&environment.path("deploy")), pair("release r1;", "r1"));
}

#[test]
fn undo_that_was_killed_is_finished() {
    let environment = staged("rollback", &[], "");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/gate", "");
    let told = || environment.read("told").lines().count();
    let mut killed = environment.start(&["--local", "--release", "r2", "--json"]);
    wait_until("it is told of the new file", || told() == 2);
    environment.write("told.hold", "");
    wait_until("it is told of the old file", || told() == 3);
    killed.kill().unwrap();
    killed.wait().unwrap();
    fs::remove_file(environment.path("told.hold")).unwrap();
    fs::remove_file(environment.path("deploy/gate")).unwrap();
    let resumed = environment.deploy("r2", &[]);
    resumed.assert_exit(0);
    assert_eq!(undone(&resumed), ["configure local"], "the undo is finished first");
    assert_eq!(shown(&environment.path("deploy")), pair("release r2;", "r2"));
    // Of the old file once more, since nobody knows what the killed program did.
    assert_eq!(told(), 5);
}

/// Two folders of this machine, and a real host.
fn fleet(rollout: &str) -> (TestEnvironment, SshHost) {
    let host = SshHost::new();
    fs::create_dir(host.path("srv")).unwrap();
    let there = (host.address(), host.path("srv").display().to_string());
    let here = |number: u32| ("local".to_owned(), format!("./deploy/web-{number}"));
    let environment = staged("rollback", &[here(1), here(2), there], rollout);
    write_ssh_config(&environment.path(""), &[&host]);
    // The host has its own programs and templates.
    (environment, host)
}

fn shown_on(environment: &TestEnvironment, host: &SshHost) -> Vec<String> {
    let folders = [environment.path("deploy/web-1"), environment.path("deploy/web-2"), host.path("srv")];
    folders.iter().map(|folder| shown(folder)).map(|(site, release)| format!("{site} {release}")).collect()
}

#[test]
fn staged_steps_are_undone_on_each_host() {
    let (environment, host) = fleet("");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-2/gate", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(1);
    let mut hosts = undone(&failed);
    hosts.sort_unstable();
    assert_eq!(hosts, ["configure web-1", "configure web-2", "configure web-3"]);
    assert_eq!(shown_on(&environment, &host), ["release r1; r1"; 3]);
    fs::remove_file(environment.path("deploy/web-2/gate")).unwrap();
    environment.deploy("r2", &[]).assert_exit(0);
    assert_eq!(shown_on(&environment, &host), ["release r2; r2"; 3]);
}

/// The first batch shows the release, and the second one never does.
#[test]
fn batches_are_taken_back_as_far_as_each_came() {
    let (environment, host) = fleet("    rollout: { on: web, batches: [1] }\n");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-2/gate", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(4);
    let mut undone = undone(&failed);
    assert_eq!(undone.remove(0), "switch web-1", "only there");
    undone.sort_unstable();
    assert_eq!(undone, ["configure web-1", "configure web-2", "configure web-3"]);
    assert_eq!(shown_on(&environment, &host), ["release r1; r1"; 3]);
}

#[test]
fn staged_steps_of_a_host_that_is_left_behind_are_undone() {
    let (environment, host) = fleet("    rollout: { on: web, max-failures: 1 }\n");
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/web-2/gate", "");
    let failed = environment.deploy("r2", &[]);
    failed.assert_exit(1).assert_stderr_contains("error[P0264]").assert_stderr_contains("; `configure` is undone");
    assert_eq!(undone(&failed), ["configure web-2"]);
    assert_eq!(shown_on(&environment, &host), ["release r2; r2", "release r1; r1", "release r2; r2"]);
}
