//! Something else is there than what was left: nothing is done until an operator says so.

use std::{fs, os::unix::fs::symlink};

use expect_test::expect;

use crate::support::TestEnvironment;

fn point_link_to(environment: &TestEnvironment, to: &str) {
    let link = environment.path("deploy/test/current");
    fs::remove_file(&link).unwrap();
    symlink(to, link).unwrap();
}

#[test]
fn link_moved_by_hand_stops_the_deployment() {
    let environment = TestEnvironment::deployed();
    let live = environment.live_target();
    fs::create_dir(environment.path("deploy/test/elsewhere")).unwrap();
    point_link_to(&environment, "elsewhere");
    let stopped = environment.run(&["--local", "--release", "r1"]);
    stopped.assert_exit(3);
    expect![[r#"
        shop r1 to test (run [RUN 2], attempt 1)
          skip   pull     its effect still holds [TIME]
          skip   migrate  its effect still holds [TIME]
          STOP   switch   drift: `app/current` points to `elsewhere`, but this step pointed it to `releases/r1-[HASH]` [TIME]
        error[P0401]: step `switch` is in doubt and was not run
          caused by: drift: `app/current` points to `elsewhere`, but this step pointed it to `releases/r1-[HASH]`
          hint: undo the change, or run `runner --local --release r1 --accept-drift switch` to run step `switch` anyway
    "#]]
    .assert_eq(&stopped.stderr_snapshot());
    assert_eq!(environment.live_target(), "elsewhere", "nothing was done about it");
    environment.deploy("r1", &[]).assert_exit(3).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch stop drifted",
    ]);
    environment.deploy("r1", &["--accept-drift", "switch"]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch run drift-accepted",
        "verify run upstream-ran",
    ]);
    assert_eq!(environment.live_target(), live);
}

#[test]
fn link_moved_back_to_the_previous_release_stops_the_deployment() {
    let environment = TestEnvironment::deployed();
    let first = environment.live_target();
    environment.pack("r2");
    environment.deploy("r2", &[]).assert_exit(0);
    let second = environment.live_target();
    point_link_to(&environment, &first);
    let stopped = environment.deploy("r2", &[]);
    stopped.assert_exit(3).assert_stderr_contains("drift: ");
    assert_eq!(environment.live_target(), first);
    environment.deploy("r2", &["--accept-drift", "switch"]).assert_exit(0);
    assert_eq!(environment.live_target(), second);
}

#[test]
fn changed_release_file_stops_the_deployment() {
    let environment = TestEnvironment::deployed();
    environment.write(&format!("deploy/test/{}/index.html", environment.live_target()), "defaced");
    let stopped = environment.run(&["--local", "--release", "r1"]);
    stopped.assert_exit(3);
    expect![[r#"
        shop r1 to test (run [RUN 2], attempt 1)
          STOP   pull     drift: app/releases/r1-[HASH] differs from its archive: changed: index.html (size 7, was 222) [TIME]
        error[P0401]: step `pull` is in doubt and was not run
          caused by: drift: app/releases/r1-[HASH] differs from its archive: changed: index.html (size 7, was 222)
          hint: undo the change, or run `runner --local --release r1 --accept-drift pull` to run step `pull` anyway
    "#]]
    .assert_eq(&stopped.stderr_snapshot());
    environment.deploy("r1", &["--accept-drift", "pull"]).assert_exit(0).assert_decisions(&[
        "pull run drift-accepted",
        "migrate skip held",
        "switch skip held",
        "verify run upstream-ran",
    ]);
    assert!(environment.read("deploy/test/current/index.html").contains("Release r1"));
}

#[test]
fn same_content_with_another_time_is_no_drift() {
    let environment = TestEnvironment::deployed();
    let file = format!("deploy/test/{}/index.html", environment.live_target());
    let content = environment.read(&file);
    environment.write(&file, &content);
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch skip held",
        "verify skip held",
    ]);
}

#[test]
fn repair_keeps_what_later_steps_made_in_the_release() {
    let environment = TestEnvironment::deployed();
    let release = format!("deploy/test/{}", environment.live_target());
    environment.write(&format!("{release}/venv/bin/python"), "made by a step");
    environment.write(&format!("{release}/index.html"), "defaced");
    environment.deploy("r1", &["--accept-drift", "pull"]).assert_exit(0);
    let log = environment.run(&["logs", "pull"]).stdout;
    assert!(log.contains("that are not part of the release: venv"), "{log}");
    assert!(environment.read(&format!("{release}/index.html")).contains("Release r1"));
    assert_eq!(environment.read(&format!("{release}/venv/bin/python")), "made by a step");
}
