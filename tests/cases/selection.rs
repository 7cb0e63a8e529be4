//! Options that choose the release, the steps, and what is shown.

use expect_test::expect;

use crate::support::TestEnvironment;

fn is_verified(environment: &TestEnvironment) -> bool {
    let status = environment.run(&["status", "--json"]).json();
    status[0]["live"]["verified"] == true
}

#[test]
fn start_from_assumes_earlier_steps_are_done() {
    let environment = TestEnvironment::deployed();
    let begun = environment.deploy("r1", &["--start-from", "switch"]);
    begun.assert_exit(0).assert_decisions(&[
        "pull skip operator-word",
        "migrate skip operator-word",
        "switch run operator-word",
        "verify run upstream-ran",
    ]);
    assert!(begun.event_types().contains(&"override".to_owned()), "it is on record");
    assert_eq!(environment.run(&["history", "--json"]).json()[0]["verified"], false);
}

#[test]
fn partial_deployment_never_marks_a_release_verified() {
    for (option, step) in [("--until", "switch"), ("--start-from", "verify"), ("--only", "verify")] {
        let environment = TestEnvironment::new();
        environment.pack("r1");
        environment.deploy("r1", &["--until", "switch"]).assert_exit(0);
        environment.deploy("r1", &[option, step]).assert_exit(0);
        assert!(!is_verified(&environment), "{option} {step}");
        environment.deploy("r1", &[]).assert_exit(0);
        assert!(is_verified(&environment), "the whole plan");
    }
}

#[test]
fn until_stops_after_the_step_and_only_runs_one_step() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let until = environment.deploy("r1", &["--until", "migrate"]);
    until.assert_exit(0).assert_decisions(&["pull run never-ran", "migrate run never-ran"]);
    assert!(!environment.exists("deploy/test/current"));
    environment
        .deploy("r1", &["--only", "migrate"])
        .assert_exit(0)
        .assert_decisions(&["pull skip operator-word", "migrate run operator-word"]);
}

#[test]
fn unknown_step_is_an_error() {
    let environment = TestEnvironment::deployed();
    for option in ["--start-from", "--until", "--only", "--accept-drift"] {
        environment
            .run(&["--local", "--release", "r1", option, "swich"])
            .assert_exit(2)
            .assert_stderr_contains("names an unknown step");
    }
    let refused = environment.run(&["--local", "--release", "r1", "--start-from", "swich"]);
    expect![[r#"
        error[P0205]: `--start-from swich` names an unknown step
          hint: did you mean `switch`?
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    let files = ["attempt-000001.journal", "index.jsonl", "lock", "snapshot.json"];
    assert_eq!(environment.list(".pawl/shop/test"), files, "there was no attempt");
}

#[test]
fn start_from_never_takes_the_outputs_of_another_release() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    let (live, before) = (environment.live_target(), environment.tree());
    for option in ["--start-from", "--only"] {
        let refused = environment.deploy("r2", &[option, "switch"]);
        refused.assert_exit(2);
        assert_eq!(refused.result_line()["code"], "P0224");
        refused.assert_stderr_contains("it last ran for r1, and only the last run of a step is on record");
        environment.run(&["plan", "--release", "r2", option, "switch"]).assert_exit(2);
    }
    assert_eq!(environment.live_target(), live);
    assert_eq!(
        environment.list(".pawl/shop/test/"),
        ["attempt-000001.journal", "index.jsonl", "lock", "snapshot.json"]
    );
    assert!(environment.tree().keys().eq(before.keys()), "nothing was made");
    // What the hint says works.
    environment.deploy("r2", &["--until", "pull"]).assert_exit(0);
    environment.deploy("r2", &["--start-from", "switch"]).assert_exit(0).assert_decisions(&[
        "pull skip operator-word",
        "migrate skip operator-word",
        "switch run changed",
        "verify run changed",
    ]);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r2");
}

#[test]
fn start_from_assumes_a_step_whose_outputs_nobody_needs() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    environment.deploy("r1", &["--until", "pull"]).assert_exit(0);
    // Somebody else migrated the database.
    environment.deploy("r1", &["--start-from", "switch"]).assert_exit(0);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
}

#[test]
fn only_fails_without_the_outputs_of_earlier_steps() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let refused = environment.run(&["--local", "--release", "r1", "--only", "switch"]);
    refused.assert_exit(2);
    expect![[r#"
        note: wrote deploy.lock, which pins the modules; commit it
        error[P0224]: step `switch` needs the outputs of `pull` for r1, which are not on record
          caused by: it never ran here
          hint: `pull` must run for r1 first: deploy without `--only`, or deploy with `--until pull` first
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    assert!(!environment.exists("deploy/test"), "nothing was made");
}

#[test]
fn fresh_reruns_every_step() {
    let environment = TestEnvironment::deployed();
    let live = environment.live_target();
    environment.deploy("r1", &["--fresh"]).assert_exit(0).assert_decisions(&[
        "pull run fresh",
        "migrate run fresh",
        "switch run fresh",
        "verify run fresh",
    ]);
    assert_eq!(environment.live_target(), live);
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2");
}

#[test]
fn release_defaults_to_git_describe() {
    let environment = TestEnvironment::new();
    let unknown = environment.run(&["--local"]);
    unknown.assert_exit(2).assert_stderr_contains("name it with `--release LABEL`");
    // A broken plan comes first: nobody should name a release only to learn of it then.
    environment.edit("deploy.yml", "uses: switch", "usess: switch");
    let broken = environment.run(&["--local"]);
    broken.assert_exit(2);
    assert!(broken.stderr.starts_with("error[P0104]: step `switch` has no key `usess`"), "{}", broken.stderr);
    broken.assert_stderr_contains("name it with `--release LABEL`");
    environment.edit("deploy.yml", "usess: switch", "uses: switch");
    environment.git(&["init", "--quiet"]);
    environment.git(&["commit", "--quiet", "--allow-empty", "--message", "first"]);
    environment.git(&["tag", "v1.4.2"]);
    environment.pack("v1.4.2");
    environment.run(&["--local"]).assert_exit(0);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "v1.4.2");
}

#[test]
fn json_output_is_one_object_a_line_and_ends_with_the_result() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let answer = environment.deploy("r1", &[]);
    assert_eq!(answer.event_types().first().map(String::as_str), Some("started"));
    assert_eq!(answer.event_types().last().map(String::as_str), Some("ended"));
    assert_eq!(answer.result_line()["type"], "result");
    assert_eq!(answer.result_line()["status"], 0);
    assert_eq!(answer.stderr, "");
    let refused = environment.run(&["--local", "--json", "--release", "../x"]);
    refused.assert_exit(2);
    assert_eq!(
        (refused.result_line()["type"].as_str(), refused.result_line()["status"].as_i64()),
        (Some("result"), Some(2))
    );
}

#[test]
fn deployment_outside_ci_requires_local() {
    let mut environment = TestEnvironment::new();
    environment.pack("r1");
    let refused = environment.run(&["--release", "r1"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0208]: `runner deploy` changes an environment, and this is not a CI job
          hint: to run it from this machine, add `--local`: `runner --release r1 --local`
    "#]]
    .assert_eq(&refused.stderr_snapshot());
    assert!(!environment.exists(".pawl") && !environment.exists("deploy"));
    environment.set_variable("CI", "true");
    environment.run(&["--release", "r1"]).assert_exit(0);
}

#[test]
fn verbosity_options_control_the_output() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let plain = environment.run(&["--local", "--release", "r1"]);
    expect![[r#"
        note: wrote deploy.lock, which pins the modules; commit it
        shop r1 to test (run [RUN 1], attempt 1)
          start  pull     first run
          ran    pull     295 B, 3 files [TIME]
          start  migrate  first run
          ran    migrate [TIME]
          start  switch   first run
          ran    switch [TIME]
          start  verify   first run
          ran    verify   1 round [TIME]
    "#]]
    .assert_eq(&plain.stderr_snapshot());
    expect![[r#"
        deployed r1 to test in [TIME] (4 ran)
    "#]]
    .assert_eq(&plain.stdout_snapshot());
    let quiet = environment.run(&["--local", "--release", "r1", "-q"]);
    assert_eq!(quiet.stderr_snapshot(), "");
    expect![[r#"
        r1 is already deployed to test (checked in [TIME], 4 skipped)
    "#]]
    .assert_eq(&quiet.stdout_snapshot());
    let verbose = environment.run(&["--local", "--release", "r1", "-v"]);
    expect![[r#"
        shop r1 to test (run [RUN 3], attempt 1)
          plan            deploy.yml, 4 steps, [HASH]
          lock            shop/test is held by [WHO], process [PID]
          probe  pull     its effect holds [TIME]
          skip   pull     its effect still holds [TIME]
          probe  migrate  its effect holds [TIME]
          skip   migrate  its effect still holds [TIME]
          probe  switch   its effect holds [TIME]
          skip   switch   its effect still holds [TIME]
          probe  verify   its effect holds [TIME]
          skip   verify   its effect still holds [TIME]
    "#]]
    .assert_eq(&verbose.stderr_snapshot());
}

#[test]
fn colors_follow_the_option_and_no_color() {
    let mut environment = TestEnvironment::deployed();
    let is_colored = |environment: &TestEnvironment, more: &[&str]| {
        let answer = environment.run(&[&["--local", "--release", "r1"], more].concat());
        answer.assert_exit(0);
        answer.stderr.contains('\u{1b}')
    };
    assert!(!is_colored(&environment, &[]), "this is no terminal");
    assert!(is_colored(&environment, &["--color", "always"]));
    environment.set_variable("NO_COLOR", "1");
    assert!(!is_colored(&environment, &[]));
    assert!(is_colored(&environment, &["--color", "always"]), "the option is nearer than the variable");
}
