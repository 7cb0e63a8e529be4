//! From one workflow run to the next, and which attempts of a run began nothing: the fix that comes with a push.

use serde_json::{Value, json};

use super::resume::{
    FIXED, KEY, artifact_after_post, ci_machine, configure_ci, failed_first_attempt, fresh_machine, only_artifact,
    run_attempt,
};
use crate::{
    artifact_service::{FakeArtifactService, FakeServiceCall},
    support::{TestEnvironment, init_bare_repository},
};

/// A push: another workflow run, on a machine that has nothing but the database, which stands for a server.
fn machine_of_next_run(service: &FakeArtifactService, before: &TestEnvironment) -> TestEnvironment {
    service.begin_run();
    let mut next = fresh_machine(before);
    next.write("deploy/test/shop.db", std::fs::read(before.path("deploy/test/shop.db")).unwrap());
    configure_ci(&mut next, service);
    next
}

/// The files that the database says are applied.
fn applied_count(machine: &TestEnvironment) -> String {
    machine.sql("SELECT count(*) FROM product")
}

#[test]
fn pushed_fix_with_the_same_archive_goes_on_in_a_new_workflow_run() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some(KEY));
    artifact_after_post(&first, &service);
    let mut next = machine_of_next_run(&service, &first);
    let page = with_page(&mut next);
    let answer = run_attempt(&mut next, 1);
    answer.assert_exit(0);
    let expected = ["pull run absent", "migrate run failed-before", "switch run never-ran", "verify run never-ran"];
    assert_eq!(answer.decisions(), expected);
    let page = page(&next);
    assert!(page.contains("**Resumed** at **migrate** from "), "{page}");
    assert!(page.contains("attempt 2 (attempt 1 on GitHub)"), "{page}");
    assert!(page.contains("| | Step | Attempt 1 | Now | Why |"), "{page}");
    // Its own artifacts hold all of the run, for the next re-run.
    assert!(artifact_after_post(&next, &service).starts_with("pawl-shop-test-deploy-a01-s"));
}

#[test]
fn pushed_fix_with_a_new_archive_is_a_new_run_that_repeats_no_migration() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some(KEY));
    artifact_after_post(&first, &service);
    let rows = applied_count(&first);
    let mut next = machine_of_next_run(&service, &first);
    next.pack("r2");
    next.set_variable("GITHUB_RUN_ATTEMPT", "1");
    let page = with_page(&mut next);
    let answer = next.deploy("r2", &[]);
    answer.assert_exit(0);
    assert_eq!(answer.decisions().len(), 4, "{:?}", answer.decisions());
    assert!(answer.decisions().iter().all(|decision| decision.contains(" run ")), "{:?}", answer.decisions());
    assert_eq!(applied_count(&next), rows, "the rows of 0002 are there once");
    let page = page(&next);
    assert!(page.starts_with("## ✅ shop `r2` → **test**: live") && !page.contains("Resumed"), "{page}");
}

#[test]
fn pushed_fix_goes_on_from_a_state_in_git() {
    let remote = tempfile::tempdir().unwrap();
    init_bare_repository(remote.path());
    let service = FakeArtifactService::start();
    let mut first = ci_machine(&service);
    first.edit("deploy.yml", "version: 1\n", &format!("version: 1\nstate: git:{}\n", remote.path().display()));
    first.write("migrations/0003_orders.sql", super::resume::BROKEN);
    let page = with_page(&mut first);
    run_attempt(&mut first, 1).assert_exit(1);
    let page = page(&first);
    assert!(page.contains("would fail here again") && page.contains("finds this record in `git:"), "{page}");
    first.write("migrations/0003_orders.sql", FIXED);
    let mut next = machine_of_next_run(&service, &first);
    let outputs = with_outputs(&mut next);
    let answer = run_attempt(&mut next, 1);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[..2], ["pull run absent", "migrate run failed-before"]);
    let outputs = outputs(&next);
    assert!(outputs.contains("resumed-from<<") && outputs.contains("\ngit:"), "{outputs}");
    assert!(answer.stdout.contains("attempt 2 of run ") && answer.stdout.contains(", attempt 1 of the workflow run"));
    // A new archive is a new run of the plan.
    next.pack("r2");
    let rows = applied_count(&next);
    let answer = next.deploy("r2", &[]);
    answer.assert_exit(0);
    assert!(answer.decisions().iter().all(|decision| decision.contains(" run ")), "{:?}", answer.decisions());
    assert_eq!(applied_count(&next), rows);
}

#[test]
fn earlier_runs_are_read_with_a_key_and_a_permission_only() {
    for key in [None, Some(KEY)] {
        let service = FakeArtifactService::start();
        let first = failed_first_attempt(&service, key);
        artifact_after_post(&first, &service);
        let mut next = fresh_machine(&machine_of_next_run(&service, &first));
        if key.is_some() {
            service.deny_rest();
        }
        let answer = run_attempt(&mut next, 1);
        answer.assert_exit(0);
        assert_eq!(answer.decisions()[0], "pull run never-ran");
        let is_told = answer.stdout.contains("the journals of earlier workflow runs were not read");
        assert_eq!(is_told, key.is_some(), "{}", answer.stdout);
        assert_eq!(service.call_count(FakeServiceCall::RestRuns) > 0, key.is_some());
    }
}

#[test]
fn runs_of_other_branches_and_of_forks_are_not_read() {
    for (branch, is_of_fork) in [("other", false), ("main", true)] {
        let service = FakeArtifactService::start();
        let first = failed_first_attempt(&service, Some(KEY));
        artifact_after_post(&first, &service);
        let mut next = machine_of_next_run(&service, &first);
        service.change_earlier_run(branch, is_of_fork);
        let answer = run_attempt(&mut next, 1);
        answer.assert_exit(0);
        assert!(answer.decisions().contains(&"migrate run never-ran".to_owned()), "{:?}", answer.decisions());
    }
}

#[test]
fn refused_attempt_says_that_it_began_nothing() {
    let service = FakeArtifactService::start();
    let mut first = ci_machine(&service);
    first.set_variable("PAWL_KEY", KEY);
    first.set_variable("GITHUB_RUN_ATTEMPT", "1");
    first.deploy("r1", &["--only", "nothing"]).assert_exit(2);
    assert!(only_artifact(&service).starts_with("pawl-shop-test-deploy-a01-s0000-"));
    let mut second = fresh_machine(&first);
    second.set_variable("PAWL_MISSING_JOURNAL", "fail");
    second.write("migrations/0003_orders.sql", super::resume::BROKEN);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(1);
    assert_eq!(answer.decisions()[0], "pull run never-ran");
    // A later refusal does not hide the journal of the attempt before it.
    let mut third = fresh_machine(&second);
    third.set_variable("GITHUB_RUN_ATTEMPT", "3");
    third.deploy("r1", &["--only", "nothing"]).assert_exit(2);
    third.write("migrations/0003_orders.sql", FIXED);
    let answer = run_attempt(&mut fresh_machine(&third), 4);
    answer.assert_exit(0);
    assert!(answer.decisions().contains(&"migrate run failed-before".to_owned()), "{:?}", answer.decisions());
}

#[test]
fn attempt_that_said_nothing_still_counts_as_begun() {
    let service = FakeArtifactService::start();
    let mut second = ci_machine(&service);
    second.set_variable("GITHUB_RUN_ATTEMPT", "2");
    second.deploy("r1", &["--only", "nothing"]).assert_exit(2);
    let answer = run_attempt(&mut fresh_machine(&second), 3);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[0], "pull run unconfirmed", "nobody knows of attempt 1");
}

/// A step that is cut off by its timeout, and can't be probed.
const INDEX_PLAN: &str = r#"
version: 1
app: shop
steps:
  index:
    uses: run
    trust: host
    timeout: 1s
    with: { program: /bin/sh, args: [index.sh], dir: here }
    grants: { dirs: { here: ".:ro" }, programs: [[/bin/sh, index.sh]] }
"#;

#[test]
fn step_in_doubt_is_resolved_in_a_later_workflow_run() {
    let service = FakeArtifactService::start();
    let mut first = TestEnvironment::with_plan(INDEX_PLAN);
    configure_ci(&mut first, &service);
    first.set_variable("PAWL_KEY", KEY);
    first.write("index.sh", "sleep 20\n");
    run_attempt(&mut first, 1).assert_exit(1);
    artifact_after_post(&first, &service);
    let next = |before: &TestEnvironment| {
        service.begin_run();
        let mut next = fresh_machine(before);
        configure_ci(&mut next, &service);
        next.set_variable("GITHUB_RUN_ATTEMPT", "1");
        next
    };
    let second = next(&first);
    let doubt = second.run(&["deploy", "--release", "r1"]);
    doubt.assert_exit(3);
    let hint = "run a workflow with `command: resolve` and `resolve: index=done` and `message: …`";
    assert!(doubt.stdout.contains(hint) && !doubt.stdout.contains("does not find this journal"), "{}", doubt.stdout);
    second.run(&["post"]).assert_exit(0);
    let third = next(&second);
    let resolved = third.run(&["resolve", "--as=done", "--message=checked by hand", "--", "index"]);
    resolved.assert_exit(0);
    assert!(resolved.stdout.contains("step `index` is recorded as done"), "{}", resolved.stdout);
    third.run(&["post"]).assert_exit(0);
    let mut fourth = next(&third);
    let answer = run_attempt(&mut fourth, 1);
    answer.assert_exit(0);
    assert_eq!(answer.decisions(), ["index skip trusted"]);
}

#[test]
fn heading_names_the_step_that_failed_without_a_key_too() {
    for key in [None, Some(KEY)] {
        let service = FakeArtifactService::start();
        let first = failed_first_attempt(&service, key);
        artifact_after_post(&first, &service);
        let mut second = fresh_machine(&first);
        second.set_variable("GITHUB_RUN_ATTEMPT", "2");
        let page = with_page(&mut second);
        let answer = second.run(&["deploy", "--release", "r1"]);
        answer.assert_exit(0);
        assert!(answer.stdout.contains("resume after `migrate` failed"), "{}", answer.stdout);
        assert!(page(&second).contains("**Resumed** at **migrate** from [attempt 1]"), "{}", page(&second));
    }
}

fn job(name: &str, status: &str, conclusion: Value, runner: &str, steps: usize) -> Value {
    let steps = vec![json!({ "name": "Deploy" }); steps];
    json!({ "name": name, "status": status, "conclusion": conclusion, "runner_name": runner, "steps": steps })
}

#[test]
fn job_that_did_not_run_before_misses_no_journal() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    machine.set_variable("RUNNER_NAME", "r-7");
    machine.set_variable("PAWL_MISSING_JOURNAL", "fail");
    let build = || job("Build", "completed", json!("failure"), "r-1", 3);
    service.set_jobs(1, vec![build(), job("Deploy / eu", "completed", json!("skipped"), "", 0)]);
    service.set_jobs(2, vec![build(), job("Deploy / eu", "in_progress", Value::Null, "r-7", 1)]);
    let answer = run_attempt(&mut machine, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[0], "pull run never-ran");
    // Where it ran, or where GitHub does not say which job this is, the journal is missing.
    for (first, runner) in [("failure", "r-7"), ("skipped", "r-8")] {
        let service = FakeArtifactService::start();
        let mut machine = ci_machine(&service);
        machine.set_variable("RUNNER_NAME", "r-7");
        machine.set_variable("PAWL_MISSING_JOURNAL", "fail");
        let steps = usize::from(first == "failure") * 2;
        service.set_jobs(1, vec![job("Deploy / eu", "completed", json!(first), "r-2", steps)]);
        service.set_jobs(2, vec![job("Deploy / eu", "in_progress", Value::Null, runner, 1)]);
        let answer = run_attempt(&mut machine, 2);
        answer.assert_exit(3);
        assert!(answer.stdout.contains("P0521"), "{}", answer.stdout);
    }
}

/// Two machines that GitHub gives the same job and matrix, after attempt 1 of both failed.
fn two_jobs(service: &FakeArtifactService, instances: [Option<&str>; 2]) -> [TestEnvironment; 2] {
    instances.map(|instance| {
        let mut machine = ci_machine(service);
        machine.set_variable("PAWL_KEY", KEY);
        if let Some(instance) = instance {
            machine.set_variable("PAWL_INSTANCE", instance);
        }
        machine.write("migrations/0003_orders.sql", super::resume::BROKEN);
        run_attempt(&mut machine, 1).assert_exit(1);
        machine.write("migrations/0003_orders.sql", FIXED);
        machine
    })
}

#[test]
fn two_jobs_with_one_identity_are_refused() {
    let service = FakeArtifactService::start();
    let [eu, _us] = two_jobs(&service, [None, None]);
    let answer = run_attempt(&mut fresh_machine(&eu), 2);
    answer.assert_exit(2);
    assert!(answer.stdout.contains("P0240") && answer.stdout.contains("`instance:`"), "{}", answer.stdout);
}

#[test]
fn each_instance_goes_on_from_its_own_journal() {
    let service = FakeArtifactService::start();
    for (machine, instance) in two_jobs(&service, [Some("eu"), Some("us")]).iter().zip(["eu", "us"]) {
        let mut second = fresh_machine(machine);
        let outputs = with_outputs(&mut second);
        let answer = run_attempt(&mut second, 2);
        answer.assert_exit(0);
        assert!(answer.decisions().contains(&"migrate run failed-before".to_owned()), "{:?}", answer.decisions());
        assert!(outputs(&second).contains(&format!("\npawl-shop-test-deploy-{instance}-a01-s")));
    }
    let mut machine = ci_machine(&service);
    machine.set_variable("PAWL_INSTANCE", "eu/1");
    let answer = run_attempt(&mut machine, 1);
    answer.assert_exit(2);
    assert!(answer.stdout.contains("P0526") && answer.stdout.contains("PAWL_INSTANCE"), "{}", answer.stdout);
}

#[test]
fn each_change_of_the_key_is_named() {
    for (before, now, code, words) in [
        (None, Some(KEY), "P0241", "the key was added"),
        (Some(KEY), None, "P0241", "the key was dropped"),
        (Some(KEY), Some("another one"), "P0522", "the key was changed"),
    ] {
        let service = FakeArtifactService::start();
        let first = failed_first_attempt(&service, before);
        artifact_after_post(&first, &service);
        let mut second = fresh_machine(&first);
        second.set_variable("PAWL_KEY", now.unwrap_or_default());
        let answer = run_attempt(&mut second, 2);
        answer.assert_exit(if code == "P0241" { 2 } else { 65 });
        assert!(answer.stdout.contains(code) && answer.stdout.contains(words), "{}", answer.stdout);
        assert!(!second.exists("deploy"), "nothing was done");
    }
}

#[test]
fn missing_key_is_said_at_the_first_attempt() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    // As a misspelled secret.
    machine.set_variable("PAWL_KEY", "");
    let answer = run_attempt(&mut machine, 1);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("no `key`: the input is not given, or its secret is empty"), "{}", answer.stdout);
}

#[test]
fn pull_request_of_a_fork_does_not_deploy_unless_allowed() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    let event = json!({ "repository": { "full_name": "acme/shop" }, "pull_request": { "head": { "repo": { "full_name": "eve/shop" } } } });
    machine.write("event.json", event.to_string());
    let path = machine.path("event.json").to_str().unwrap().to_owned();
    machine.set_variable("GITHUB_EVENT_PATH", &path);
    let answer = run_attempt(&mut machine, 1);
    answer.assert_exit(2);
    assert!(answer.stdout.contains("P0242") && answer.stdout.contains("eve/shop"), "{}", answer.stdout);
    assert!(!machine.exists("deploy"), "nothing was done");
    machine.set_variable("PAWL_ALLOW_FORKS", "true");
    run_attempt(&mut machine, 1).assert_exit(0);
}

/// Gives a machine a page, and returns how to read it.
fn with_page(machine: &mut TestEnvironment) -> impl Fn(&TestEnvironment) -> String + use<> {
    let path = machine.home("summary.md");
    machine.set_variable("GITHUB_STEP_SUMMARY", path.to_str().unwrap());
    move |_| std::fs::read_to_string(&path).unwrap()
}

/// Gives a machine a file for its outputs, and returns how to read it.
fn with_outputs(machine: &mut TestEnvironment) -> impl Fn(&TestEnvironment) -> String + use<> {
    let path = machine.home("outputs");
    machine.set_variable("GITHUB_OUTPUT", path.to_str().unwrap());
    move |_| std::fs::read_to_string(&path).unwrap()
}
