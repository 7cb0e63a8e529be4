//! Several environments: what was verified in one goes to the next, the same content and in order; and the way back.

use crate::support::{TestEnvironment, release_folder, wait_until};

/// Three environments, each with a folder and a database of its own, and three releases.
pub fn three_environments() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.edit(
        "deploy.yml",
        "environments:\n",
        "environments:\n  pre: { after: test, vars: { root: ./deploy/pre } }\n  prod: { after: pre, vars: { root: ./deploy/prod } }\n",
    );
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    environment
}

fn live_target(environment: &TestEnvironment, name: &str) -> String {
    std::fs::read_link(environment.path(format!("deploy/{name}/current"))).unwrap().to_string_lossy().into_owned()
}

pub fn live_version(environment: &TestEnvironment, name: &str) -> String {
    environment.read(&format!("deploy/{name}/current/VERSION")).trim().to_owned()
}

/// Makes `verify` fail where a file `broken` lies.
fn add_breakable_check(environment: &TestEnvironment) {
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: broken, exists: false }\n");
}

#[test]
fn promotion_moves_the_same_content_through_environments_in_order() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    for release in [&["--env", "prod", "--release", "r1"], &["--env", "prod", "--release", "r2"]] {
        let refused = environment.run(&[&["--local"], release.as_slice()].concat());
        refused
            .assert_exit(2)
            .assert_stderr_contains("error[P0216]")
            .assert_stderr_contains("must be verified in `pre` before it goes to `prod`");
    }
    let early = environment.run(&["promote", "--local", "--from", "test", "--to", "prod"]);
    early
        .assert_exit(2)
        .assert_stderr_contains("error[P0216]")
        .assert_stderr_contains("runner promote --from pre --to prod");
    assert!(!environment.exists("deploy/prod"), "nothing was touched");

    environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]).assert_exit(0);
    environment.run(&["promote", "--local", "--from", "pre", "--to", "prod"]).assert_exit(0);
    let lives = ["test", "pre", "prod"].map(|name| live_target(&environment, name));
    assert!(lives.iter().all(|live| *live == lives[0]), "{lives:?}");
    let status = environment.run(&["status", "--json"]).json();
    let digests: Vec<_> =
        status.as_array().unwrap().iter().map(|one| one["live"]["release"]["digest"].clone()).collect();
    assert!(digests.len() == 3 && digests.iter().all(|digest| *digest == digests[0] && digest.is_string()), "{status}");
    for name in ["test", "pre", "prod"] {
        assert!(environment.exists(&format!("deploy/{name}/shop.db")), "{name} has a database of its own");
    }
    assert!(environment.run(&["history", "--env", "prod"]).stdout.contains("promote"), "the history tells how it came");
}

#[test]
fn label_with_other_content_is_not_promoted() {
    let environment = three_environments();
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    environment.write("app/index.html", "Release r1, built again\n");
    environment.pack("r1");
    let rebuilt = environment.run(&["promote", "--local", "--from", "test", "--to", "pre"]);
    rebuilt
        .assert_exit(2)
        .assert_stderr_contains("error[P0215]")
        .assert_stderr_contains("differs from the verified release of that name");
    let deployed = environment.run(&["--local", "--env", "pre", "--release", "r1"]);
    deployed.assert_exit(2).assert_stderr_contains("error[P0216]").assert_stderr_contains("has different content");
    assert!(!environment.exists("deploy/pre"));
}

#[test]
fn unverified_release_is_not_promoted() {
    let environment = three_environments();
    add_breakable_check(&environment);
    let promote =
        |more: &[&str]| environment.run(&[&["promote", "--local", "--from", "test", "--to", "pre"], more].concat());
    promote(&[]).assert_exit(2).assert_stderr_contains("error[P0222]: nothing is live in `test`");
    environment.write("deploy/test/broken", "");
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(1);
    promote(&[]).assert_exit(2).assert_stderr_contains("r1 is live in `test`, but not verified");
    promote(&["--release", "r2"]).assert_exit(2).assert_stderr_contains("r2 is not verified in `test`");
    // A part of a deployment verifies nothing.
    std::fs::remove_file(environment.path("deploy/test/broken")).unwrap();
    environment.run(&["--local", "--env", "test", "--release", "r1", "--only", "verify"]).assert_exit(0);
    promote(&[]).assert_exit(2).assert_stderr_contains("not verified");
    environment.run(&["--local", "--env", "test", "--release", "r1"]).assert_exit(0);
    promote(&[]).assert_exit(0);
}

#[test]
fn rollback_returns_to_the_last_verified_release() {
    let environment = TestEnvironment::new();
    add_breakable_check(&environment);
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    let none = environment.run(&["rollback", "--local"]);
    none.assert_exit(2)
        .assert_stderr_contains("error[P0217]")
        .assert_stderr_contains("no release is verified here yet");
    environment.deploy("r1", &[]).assert_exit(0);
    let good = environment.live_target();
    environment
        .run(&["rollback", "--local"])
        .assert_exit(2)
        .assert_stderr_contains("has no verified release to go back to")
        .assert_stderr_contains("verified here, oldest first: `r1`, which is live");

    // One that fails its check, and one that is not deployed to its end.
    environment.write("deploy/test/broken", "");
    environment.deploy("r2", &[]).assert_exit(1);
    assert_ne!(environment.live_target(), good);
    std::fs::remove_file(environment.path("deploy/test/broken")).unwrap();
    environment.deploy("r3", &["--until", "switch"]).assert_exit(0);
    let back = environment.run(&["rollback", "--local"]);
    back.assert_exit(0);
    assert_eq!((environment.live_target(), live_version(&environment, "test").as_str()), (good.clone(), "r1"));
    let history = environment.run(&["history"]).stdout;
    assert!(history.contains("rollback"), "{history}");

    // Good ones: each time one further back, and never to one that was gone back from.
    environment.deploy("r2", &[]).assert_exit(0);
    environment.deploy("r3", &[]).assert_exit(0);
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r2");
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
    environment.run(&["rollback", "--local"]).assert_exit(2).assert_stderr_contains("error[P0217]");
    // By name, forward too; and what is not verified, not at all.
    environment.run(&["rollback", "--local", "--to", "r3"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r3");
    environment
        .run(&["rollback", "--local", "--to", "r9"])
        .assert_exit(2)
        .assert_stderr_contains("r9 was not verified in shop/test");
}

#[test]
fn rollback_needs_no_archive_while_the_content_exists() {
    let environment = TestEnvironment::new();
    for label in ["r1", "r2"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    std::fs::remove_dir_all(environment.path("dist")).unwrap();
    std::fs::create_dir(environment.path("dist")).unwrap();
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
}

#[test]
fn killed_rollback_resumes() {
    let environment = TestEnvironment::new();
    for label in ["r1", "r2"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    // It hangs before its first step, is killed there, and then not.
    let script = "test -e go || exec sleep 60";
    let hook = serde_json::json!({ "before": [{ "program": ["/bin/sh", "-c", script] }] });
    environment.write("deploy.yml", environment.read("deploy.yml") + &format!("hooks: {hook}\n"));
    let mut child = environment.start(&["rollback", "--local"]);
    wait_until("the hook has begun", || {
        let history = environment.run(&["history", "--json"]).json();
        history[0]["order"] == "rollback" && history[0]["stuck"]["step"] == "before-1"
    });
    child.kill().unwrap();
    child.wait().unwrap();
    environment.write("go", "");
    assert_eq!(live_version(&environment, "test"), "r2");
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!((&history[0]["run"], &history[0]["attempt"]), (&history[1]["run"], &2.into()), "{history}");
}

#[test]
fn irreversible_step_stops_a_rollback_and_lists_the_rest() {
    let environment = TestEnvironment::new();
    environment.edit(
        "deploy.yml",
        "  verify:\n",
        "  mail:\n    uses: run\n    with: { program: /bin/true, repeatable: true }\n    grants: { programs: [[/bin/true]] }\n    \
         trust: host\n    irreversible: true\n  verify:\n",
    );
    add_breakable_check(&environment);
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    for label in ["r1", "r2"] {
        environment.pack(label);
    }
    environment.deploy("r1", &[]).assert_exit(0);
    environment.write("deploy/test/broken", "");
    let stopped = environment.run(&["--local", "--release", "r2"]);
    stopped
        .assert_exit(3)
        .assert_stderr_contains("error[P0405]: step `mail` is irreversible")
        .assert_stderr_contains("not rolled back, last step first: `switch`");
    assert_eq!(live_version(&environment, "test"), "r2", "nothing was undone");
    std::fs::remove_file(environment.path("deploy/test/broken")).unwrap();
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
}

#[test]
fn setup_runs_its_steps_and_deploys() {
    let environment = TestEnvironment::new();
    environment.edit(
        "deploy.yml",
        "steps:\n",
        "setup:\n  folder:\n    uses: run\n    with: { program: /bin/mkdir, args: [made], creates: app/../made, dir: here }\n    \
         grants: { dirs: { here: \".:ro\" }, programs: [[/bin/mkdir, made]] }\n    trust: host\nsteps:\n",
    );
    environment.edit("deploy.yml", "creates: app/../made", "creates: here/made");
    environment.pack("r1");
    environment.pack("r2");
    let first = environment.run(&["setup", "--local", "--release", "r1", "--json"]);
    first.assert_exit(0);
    assert_eq!(first.decisions().first().map(String::as_str), Some("folder run never-ran"), "{:?}", first.decisions());
    assert!(environment.exists("made") && environment.exists("deploy/test/current"));
    let second = environment.deploy("r2", &[]);
    second.assert_exit(0);
    assert!(second.decisions().iter().all(|decision| !decision.starts_with("folder")), "{:?}", second.decisions());
    let again = environment.run(&["setup", "--local", "--release", "r2", "--json"]);
    again.assert_exit(0);
    assert_eq!(again.decisions()[0], "folder run changed");
}

#[test]
fn allow_list_is_checked_before_any_change() {
    let mut environment = TestEnvironment::new();
    environment.pack("r1");
    let allow = |environment: &TestEnvironment, who: &str| {
        let plan = environment.read("deploy.yml");
        let line = plan.lines().find(|line| line.starts_with("  test:")).unwrap().to_owned();
        environment.write(
            "deploy.yml",
            plan.replace(&line, &format!("  test: {{ allow: {who}, vars: {{ root: ./deploy/test }} }}")),
        );
    };
    allow(&environment, "[\"github:Ada\", \"user:nobody-of-that-name\"]");
    let deploy = ["deploy", "--local", "--release", "r1"];
    let refused = environment.run(&deploy);
    refused
        .assert_exit(2)
        .assert_stderr_contains("error[P0218]")
        .assert_stderr_contains("`github:Ada`, `user:nobody-of-that-name`");
    environment.run(&["lock", "release", "--local"]).assert_exit(2).assert_stderr_contains("error[P0218]");
    assert!(!environment.exists("deploy") && !environment.exists(".pawl"), "something happened");
    // A name in a variable counts in a CI only, and there who asked for the re-run.
    environment.set_variable("GITHUB_ACTOR", "ada");
    environment.run(&deploy).assert_exit(2);
    environment.set_variable("CI", "true");
    environment.set_variable("GITHUB_TRIGGERING_ACTOR", "eve");
    environment.run(&deploy).assert_exit(2).assert_stderr_contains("eve is not allowed to change environment `test`");
    environment.set_variable("GITHUB_TRIGGERING_ACTOR", "ada");
    environment.run(&deploy).assert_exit(0);
    environment.run(&["lock", "release"]).assert_exit(0);
    allow(&environment, "[\"team:acme/ops\"]");
    let hint = "write `github:LOGIN`, `github-team:ORGANIZATION/TEAM` or `user:NAME`";
    environment.run(&deploy).assert_exit(2).assert_stderr_contains(hint);
    let me = std::process::Command::new("id").arg("-un").output().unwrap();
    allow(&environment, &format!("[\"user:{}\"]", String::from_utf8(me.stdout).unwrap().trim()));
    environment.run(&deploy).assert_exit(0);
}

/// The folders of releases, with those that were begun.
fn release_folders(environment: &TestEnvironment) -> Vec<String> {
    environment.list("deploy/test/releases")
}

#[test]
fn prune_removes_old_releases_but_keeps_needed_ones() {
    let environment = TestEnvironment::new();
    let labels = ["r1", "r2", "r3", "r4"];
    let folders = labels.map(|label| release_folder(label, &environment.pack(label)));
    for label in labels {
        environment.deploy(label, &[]).assert_exit(0);
    }
    environment.run(&["rollback", "--local", "--to", "r2"]).assert_exit(0);
    environment.run(&["prune"]).assert_exit(2).assert_stderr_contains("error[P0208]");
    let nothing = environment.run(&["prune", "--local"]);
    nothing.assert_exit(0);
    assert_eq!((nothing.stdout.as_str(), release_folders(&environment).len()), ("nothing to remove\n", 4));
    let told = environment.run(&["prune", "--dry-run", "--keep", "1"]);
    told.assert_exit(0);
    let line = |verb: &str, index: usize, why: &str| {
        let path = environment.path(format!("deploy/test/releases/{}", folders[index]));
        format!("{verb:<6}  {}: {why}", path.display())
    };
    let expected = [
        line("keep", 0, "r1 is what `runner rollback` goes back to"),
        line("keep", 1, "r2 is live"),
        line("remove", 2, "r3 was verified, and is not among the last 1 verified releases"),
        line("keep", 3, "r4 is what an undo of the switch goes back to"),
    ];
    let mut lines: Vec<_> = told.stdout.lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| line.rsplit_once(": r").map(|(_, label)| label.to_owned()));
    assert_eq!(lines, expected);
    let told = environment.run(&["prune", "--dry-run", "--keep", "1", "--json"]).json();
    let removed = told["releases"].as_array().unwrap().iter().filter(|release| release["remove"] == true);
    assert_eq!(removed.map(|release| &release["release"]).collect::<Vec<_>>(), [&"r3"], "{told}");
    assert_eq!(release_folders(&environment).len(), 4, "nothing was removed");
    let removed = environment.run(&["prune", "--local", "--keep", "1", "--json"]);
    removed.assert_exit(0);
    assert_eq!(removed.json()["removed"].as_array().unwrap().len(), 1, "{}", removed.stdout);
    // r2 is live and the last that nobody went back from; a rollback would lead to r1, and undoing r2's switch to r4.
    assert_eq!(release_folders(&environment), [&*folders[0], &*folders[1], &*folders[3]]);
    assert_eq!(live_version(&environment, "test"), "r2");
    // What is gone is pulled again.
    environment.run(&["rollback", "--local", "--to", "r3"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r3");
}

#[test]
fn deployment_prunes_to_keep_and_only_warns_on_failure() {
    let environment = TestEnvironment::new();
    environment.write("deploy.yml", environment.read("deploy.yml") + "keep: 2\n");
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    assert_eq!(release_folders(&environment).len(), 2);
    assert_eq!(live_version(&environment, "test"), "r3");
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r2");

    // Something lies where what is to be removed is renamed to.
    let environment = TestEnvironment::new();
    environment.write("deploy.yml", environment.read("deploy.yml") + "keep: 1\n");
    let oldest = release_folder("r1", &environment.pack("r1"));
    for label in ["r2", "r3"] {
        environment.pack(label);
    }
    for label in ["r1", "r2"] {
        environment.deploy(label, &[]).assert_exit(0);
    }
    let blocked = format!("deploy/test/releases/.tmp-pruned-{oldest}/full");
    let argv = format!("[/bin/mkdir, -p, {blocked}]");
    environment.edit(
        "deploy.yml",
        "  verify:\n",
        &format!(
            "  block:\n    uses: run\n    with: {{ program: /bin/mkdir, args: [-p, {blocked}], repeatable: true }}\n    \
             grants: {{ programs: [{argv}] }}\n    trust: host\n  verify:\n"
        ),
    );
    let deployed = environment.run(&["--local", "--release", "r3"]);
    deployed
        .assert_exit(0)
        .assert_stderr_contains("warning: can't remove old releases in")
        .assert_stderr_contains("the deployment itself succeeded");
    assert_eq!(live_version(&environment, "test"), "r3");
    assert!(release_folders(&environment).contains(&oldest));
}

#[test]
fn keep_must_be_a_positive_number() {
    for bad in ["0", "many", "-1", "1.5"] {
        let environment = TestEnvironment::new();
        environment.write("deploy.yml", environment.read("deploy.yml") + &format!("keep: {bad}\n"));
        environment
            .run(&["--local", "--release", "r1"])
            .assert_exit(2)
            .assert_stderr_contains("error[P0118]: `keep` must be the number");
    }
}

/// Epochs of one history are not those of another: nobody is fenced by a state that is gone.
#[test]
fn new_state_is_not_fenced_by_the_deleted_one() {
    let environment = TestEnvironment::new();
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    std::fs::remove_dir_all(environment.path(".pawl")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
}

/// The example with three environments, as it is.
#[test]
fn the_example_of_three_environments_runs() {
    let environment = TestEnvironment::new();
    environment.write("environments.yml", include_str!("../../examples/shop/environments.yml"));
    environment.pack("r1");
    let run = |arguments: &[&str]| {
        let answer = environment.run(&[arguments, &["--local", "--plan", "environments.yml"]].concat());
        answer.assert_exit(0);
        assert!(!answer.stderr.contains("warning"), "{}", answer.stderr);
    };
    run(&["setup", "--env", "test", "--release", "r1"]);
    run(&["promote", "--from", "test", "--to", "pre"]);
    run(&["promote", "--from", "pre", "--to", "prod"]);
    let lives = ["test", "pre", "prod"].map(|name| live_target(&environment, name));
    assert!(lives.iter().all(|live| *live == lives[0]), "{lives:?}");
}

/// r1 to r3 deployed, then a rollback that hangs behind the switch until a file `go` is there, and ends by a signal or a kill.
fn interrupted_rollback(signal: rustix::process::Signal) -> TestEnvironment {
    let environment = TestEnvironment::new();
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
    }
    let argv = "[/bin/sh, -c, \"test -e go || exec sleep 60\"]";
    environment.edit(
        "deploy.yml",
        "  verify:\n",
        &format!(
            "  slow:\n    uses: run\n    with: {{ program: /bin/sh, args: [-c, \"test -e go || exec sleep 60\"], repeatable: true }}\n    \
             grants: {{ programs: [{argv}] }}\n    trust: host\n  verify:\n"
        ),
    );
    let mut child = environment.start(&["rollback", "--local"]);
    wait_until("it has switched", || {
        let history = environment.run(&["history", "--json"]).json();
        history[0]["order"] == "rollback" && history[0]["stuck"]["step"] == "slow"
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap();
    environment.write("go", "");
    assert_eq!(live_version(&environment, "test"), "r2");
    environment
}

#[test]
fn rollback_interrupted_after_the_switch_resumes_to_its_target() {
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::INT] {
        let environment = interrupted_rollback(signal);
        let status = environment.run(&["status"]).stdout;
        assert!(status.contains("`runner rollback --to r2 --local` again"), "{status}");
        environment.run(&["rollback", "--local"]).assert_exit(0);
        assert_eq!(live_version(&environment, "test"), "r2", "not one further");
        environment.run(&["rollback", "--local"]).assert_exit(0);
        assert_eq!(live_version(&environment, "test"), "r1");
    }
}

#[test]
fn rollback_finished_by_a_deployment_counts_as_rollback() {
    let environment = interrupted_rollback(rustix::process::Signal::KILL);
    environment.deploy("r2", &[]).assert_exit(0);
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1", "r3 was gone back from");
}

#[test]
fn rollback_after_a_cancelled_deployment_returns_to_the_verified_release() {
    let environment = TestEnvironment::new();
    for label in ["r1", "r2"] {
        environment.pack(label);
    }
    environment.deploy("r1", &[]).assert_exit(0);
    environment.edit("deploy.yml", "      tries: 1\n", "      tries: 100\n");
    environment.edit("deploy.yml", "      files:\n", "      files:\n        - { path: go }\n");
    let mut child = environment.start(&["--local", "--release", "r2"]);
    wait_until("its check runs", || environment.run(&["history", "--json"]).json()[0]["stuck"]["step"] == "verify");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(live_version(&environment, "test"), "r2");
    environment.write("deploy/test/go", "");
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
}

#[test]
fn prune_keeps_releases_that_a_rollback_may_need() {
    let environment = TestEnvironment::new();
    add_breakable_check(&environment);
    environment.write("deploy.yml", environment.read("deploy.yml") + "keep: 1\non-failure: rollback\n");
    for label in ["r1", "r2"] {
        environment.pack(label);
    }
    environment.deploy("r1", &[]).assert_exit(0);
    // A part of a deployment succeeds and verifies nothing: what was live before is still needed.
    environment.deploy("r2", &["--until", "switch"]).assert_exit(0);
    assert_eq!(release_folders(&environment).len(), 2);
    environment.run(&["prune", "--local", "--keep", "0"]).assert_exit(2);
    environment.run(&["prune", "--local", "--keep", "1"]).assert_exit(0);
    environment.write("deploy/test/broken", "");
    environment.deploy("r2", &[]).assert_exit(4);
    assert_eq!(live_version(&environment, "test"), "r1");
}

/// The release in a slot may be running, whatever the records say.
#[test]
fn prune_keeps_releases_that_slots_hold() {
    let environment = TestEnvironment::new();
    let digests = ["r1", "r2", "r3", "r4"].map(|label| {
        let digest = environment.pack(label);
        environment.deploy(label, &[]).assert_exit(0);
        digest
    });
    let record = |slot: &str, text: &str| environment.write(&format!("deploy/test/slots/{slot}/slot.json"), text);
    record("a", &format!("{{\"release\":\"sha256:{}\",\"state\":\"ready\"}}", digests[0]));
    record("b", "{");
    let refused = environment.run(&["prune", "--local", "--keep", "1"]);
    refused.assert_exit(1).assert_stderr_contains("slots/b/slot.json can't be read, so it is not known which release");
    assert_eq!(environment.list("deploy/test/releases").len(), 4, "nothing was removed");
    record("b", "{\"release\":\"by-hand\"}");
    let told = environment.run(&["prune", "--dry-run", "--keep", "1"]);
    assert!(told.stdout.contains("is in slot a"), "{}", told.stdout);
    environment.run(&["prune", "--local", "--keep", "1"]).assert_exit(0);
    let left = environment.list("deploy/test/releases");
    let kept =
        [release_folder("r1", &digests[0]), release_folder("r3", &digests[2]), release_folder("r4", &digests[3])];
    assert_eq!(left, kept);
}

#[test]
fn prune_keeps_releases_of_environments_that_share_a_folder() {
    let plan = r#"
version: 1
app: shop
environments:
  test: { vars: { link: test/current } }
  pre: { vars: { link: pre/current } }
steps:
  pull: { uses: pull, with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }, grants: { dirs: { app: ./deploy/test, dist: "./dist:ro" } } }
  switch: { uses: switch, with: { link: "${{ vars.link }}" }, grants: { dirs: { app: ./deploy/test } } }
"#;
    let environment = TestEnvironment::with_plan(plan);
    for folder in ["test", "pre"] {
        std::fs::create_dir_all(environment.path(format!("deploy/test/{folder}"))).unwrap();
    }
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    environment.run(&["--local", "--env", "pre", "--release", "r1"]).assert_exit(0);
    for label in ["r2", "r3"] {
        environment.run(&["--local", "--env", "test", "--release", label]).assert_exit(0);
    }
    environment.run(&["prune", "--local", "--env", "test", "--keep", "1"]).assert_exit(0);
    assert_eq!(environment.read("deploy/test/pre/current/VERSION").trim(), "r1", "pre is live from the same folder");
}

/// Two environments that install into one folder; the state of prod is where a variable says.
const SHARED_FOLDER_PLAN: &str = r#"
version: 1
app: shop
state: "dir:${{ vars.state }}"
environments:
  test: { vars: { state: .pawl } }
  prod: { vars: { state: "${{ env.PROD_STATE }}" } }
steps:
  pull: { uses: pull, with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }, grants: { dirs: { app: ./deploy/test, dist: "./dist:ro" } } }
  switch: { uses: switch, with: { link: current }, grants: { dirs: { app: ./deploy/test } } }
keep: 1
"#;

#[test]
fn nothing_is_pruned_while_the_needs_of_an_environment_are_unknown() {
    let mut environment = TestEnvironment::with_plan(SHARED_FOLDER_PLAN);
    for label in ["r1", "r2", "r3"] {
        environment.pack(label);
    }
    environment.set_variable("PROD_STATE", "prod-state");
    for label in ["r1", "r2"] {
        environment.run(&["--local", "--env", "prod", "--release", label]).assert_exit(0);
    }
    // An empty variable is as good as none: prod's state is not found.
    environment.set_variable("PROD_STATE", "");
    let deployed = environment.run(&["--local", "--env", "test", "--release", "r3"]);
    deployed.assert_exit(0).assert_stderr_contains("warning: old releases are kept").assert_stderr_contains("`prod`");
    assert_eq!(release_folders(&environment).len(), 3);
    let pruned = environment.run(&["prune", "--local", "--env", "test"]);
    pruned.assert_exit(1).assert_stderr_contains("error[P0223]").assert_stderr_contains("no release was removed");
    assert_eq!(release_folders(&environment).len(), 3);

    // It is found, and can't be read.
    environment.set_variable("PROD_STATE", "prod-state");
    let journal = "prod-state/shop/prod/attempt-000001.journal";
    let sound = environment.read(journal);
    environment.write(journal, sound.replacen("r1", "r9", 1));
    std::fs::remove_file(environment.path("prod-state/shop/prod/snapshot.json")).unwrap();
    let pruned = environment.run(&["prune", "--local", "--env", "test"]);
    pruned.assert_exit(1).assert_stderr_contains("`prod`");
    assert_eq!(release_folders(&environment).len(), 3);

    environment.write(journal, sound);
    environment.run(&["prune", "--local", "--env", "test"]).assert_exit(0);
    assert_eq!(release_folders(&environment).len(), 3, "prod's rollback target is r1");
    for label in ["r1", "r2", "r3"] {
        std::fs::remove_file(environment.path(format!("dist/shop-{label}.tar.zst"))).unwrap();
    }
    environment.run(&["rollback", "--local", "--env", "prod"]).assert_exit(0);
    assert_eq!(live_version(&environment, "test"), "r1");
}
