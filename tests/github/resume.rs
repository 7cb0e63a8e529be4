//! Resume from the artifacts of a CI run: what is believed, what is only asked about, and what is refused.
//!
//! A machine is a folder; what goes from one to the next is in the artifact service alone. Kept content stands for a service that
//! the plan deploys to, which outlives the machine.

use std::{
    io::{Cursor, Read as _},
    time::{Duration, Instant},
};

use crate::{
    artifact_service::{FakeArtifactService, FakeServiceCall, InjectedFault, REST_TOKEN, SIGNATURE},
    support::{RunnerOutput, TestEnvironment, init_bare_repository, wait_until},
};

pub(super) const BROKEN: &str = "CREATE TABLE order (id INTEGER PRIMARY KEY);\n";
pub(super) const FIXED: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n";
pub(super) const KEY: &str = "correct horse battery staple";

/// A machine of the CI with the example on it.
pub(super) fn ci_machine(service: &FakeArtifactService) -> TestEnvironment {
    let mut environment = TestEnvironment::new();
    environment.pack("r1");
    configure_ci(&mut environment, service);
    environment
}

pub(super) fn configure_ci(environment: &mut TestEnvironment, service: &FakeArtifactService) {
    for (name, value) in service.variables() {
        environment.set_variable(name, &value);
    }
    environment.set_variable("PAWL_TOKEN", REST_TOKEN);
    environment.set_variable("GITHUB_ACTIONS", "true");
    environment.set_variable("GITHUB_SERVER_URL", "https://github.example");
    environment.set_variable("GITHUB_JOB", "deploy");
    let workspace = environment.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    environment.set_variable("GITHUB_WORKSPACE", &workspace);
}

/// Another machine with the same repository, on which nothing was done yet.
pub(super) fn fresh_machine(before: &TestEnvironment) -> TestEnvironment {
    let other = machine_with_deployment(before);
    let _ = std::fs::remove_dir_all(other.path("deploy"));
    other
}

/// Another machine that reaches what was deployed.
pub(super) fn machine_with_deployment(before: &TestEnvironment) -> TestEnvironment {
    let mut other = before.another_machine();
    let _ = std::fs::remove_dir_all(other.path(".pawl"));
    let workspace = other.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    other.set_variable("GITHUB_WORKSPACE", &workspace);
    other
}

pub(super) fn run_attempt(environment: &mut TestEnvironment, number: u32) -> RunnerOutput {
    environment.set_variable("GITHUB_RUN_ATTEMPT", &number.to_string());
    environment.deploy("r1", &[])
}

/// Attempt 1, which fails at migrate.
pub(super) fn failed_first_attempt(service: &FakeArtifactService, key: Option<&str>) -> TestEnvironment {
    let mut first = ci_machine(service);
    if let Some(key) = key {
        first.set_variable("PAWL_KEY", key);
    }
    first.write("migrations/0003_orders.sql", BROKEN);
    run_attempt(&mut first, 1).assert_exit(1);
    first.write("migrations/0003_orders.sql", FIXED);
    first
}

/// The files of a zip.
pub(super) fn unzip_files(zip: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let mut all = Vec::new();
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        all.push((file.name().unwrap().into_owned(), bytes));
    }
    all
}

/// The one that is there after `post`, which removes what the runner had no time for.
#[track_caller]
pub(super) fn artifact_after_post(machine: &TestEnvironment, service: &FakeArtifactService) -> String {
    machine.run(&["post"]).assert_exit(0);
    only_artifact(service)
}

#[track_caller]
pub(super) fn only_artifact(service: &FakeArtifactService) -> String {
    let names = service.artifact_names();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

#[test]
fn journal_is_authenticated_with_a_key_on_a_new_machine() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some(KEY));
    let name = artifact_after_post(&first, &service);
    assert!(name.starts_with("pawl-shop-test-deploy-a01-s"), "{name}");
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    let expected = ["pull run absent", "migrate run failed-before", "switch run never-ran", "verify run never-ran"];
    assert_eq!(answer.decisions(), expected);
    assert!(
        artifact_after_post(&second, &service).starts_with("pawl-shop-test-deploy-a02-s"),
        "what is superseded is deleted"
    );
}

#[test]
fn surviving_effects_on_the_same_machine_are_skipped() {
    let service = FakeArtifactService::start();
    let mut machine = failed_first_attempt(&service, None);
    let answer = run_attempt(&mut machine, 2);
    answer.assert_exit(0);
    let expected = ["pull skip held", "migrate run failed-before", "switch run never-ran", "verify run never-ran"];
    assert_eq!(answer.decisions(), expected, "what this machine wrote itself is believed without a key");
}

#[test]
fn records_without_a_key_are_only_probed() {
    let service = FakeArtifactService::start();
    let mut first = ci_machine(&service);
    // Everything is done but the last check.
    first.edit("deploy.yml", "contains: \"Release", "contains: \"Never");
    run_attempt(&mut first, 1).assert_exit(1);
    // The runner's own folder is gone, and what was deployed is there.
    std::fs::remove_dir_all(first.path(".pawl")).unwrap();
    first.edit("deploy.yml", "contains: \"Never", "contains: \"Release");
    let live_target = first.live_target();
    let answer = run_attempt(&mut first, 2);
    answer.assert_exit(0);
    answer.assert_decisions(&[
        "pull adopt unconfirmed",
        "pull skip held",
        "migrate adopt unconfirmed",
        "migrate skip held",
        "switch adopt unconfirmed",
        "switch skip held",
        "verify run unconfirmed",
    ]);
    assert_eq!(first.live_target(), live_target);
}

#[test]
fn step_without_a_probe_resumes_only_with_a_key() {
    let plan = r#"
version: 1
app: shop
steps:
  count:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [count.sh], dir: here }
    grants: { dirs: { here: "./here" }, programs: [[/bin/sh, count.sh]] }
  last:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [last.sh], dir: here, repeatable: true }
    grants: { dirs: { here: "./here" }, programs: [[/bin/sh, last.sh]] }
"#;
    let elsewhere = plan.replacen("    uses: run\n", "    uses: run\n    effects: elsewhere\n", 1);
    for (key, plan) in [(None, elsewhere.as_str()), (Some(KEY), &elsewhere), (Some(KEY), plan)] {
        let service = FakeArtifactService::start();
        let mut first = TestEnvironment::with_plan(plan);
        configure_ci(&mut first, &service);
        first.write("here/count.sh", "echo once >> count");
        first.write("here/last.sh", "[ -e go ]");
        if let Some(key) = key {
            first.set_variable("PAWL_KEY", key);
        }
        let answer = run_attempt(&mut first, 1);
        assert_eq!(answer.code, Some(1), "{}\n{}", answer.stdout, answer.stderr);
        let mut second = machine_with_deployment(&first);
        second.write("here/go", "");
        let answer = run_attempt(&mut second, 2);
        match key {
            None => {
                answer.assert_exit(3);
                assert!(answer.stdout.contains("P0406"), "{}", answer.stdout);
            }
            Some(_) if plan == elsewhere => {
                answer.assert_exit(0);
                assert_eq!(answer.decisions()[0], "count skip trusted");
            }
            // With a key, the record is authentic; but its effect is on the machine before.
            Some(_) => {
                answer.assert_exit(3);
                assert_eq!(answer.decisions()[0], "count stop made-elsewhere");
                assert!(answer.stdout.contains("P0407"), "{}", answer.stdout);
            }
        }
        assert_eq!(second.read("here/count"), "once\n", "never twice");
    }
}

#[test]
fn new_machine_runs_a_step_again_that_only_the_machine_before_did() {
    let service = FakeArtifactService::start();
    let mut first = ci_machine(&service);
    first.set_variable("PAWL_KEY", KEY);
    let warm = r#"  warm:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, "echo warm > warm"], dir: app, repeatable: true }
    grants: { dirs: { app: "${{ vars.root }}" }, programs: [[/bin/sh, -c, "**"]] }
"#;
    first.edit("deploy.yml", "  migrate:\n", &format!("{warm}  migrate:\n"));
    first.write("migrations/0003_orders.sql", BROKEN);
    run_attempt(&mut first, 1).assert_exit(1);
    first.run(&["post"]).assert_exit(0);
    first.write("migrations/0003_orders.sql", FIXED);
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[..2], ["pull run absent", "warm run made-elsewhere"]);
    assert!(second.exists("deploy/test/warm"));
}

#[test]
fn missing_journal_follows_the_configured_policy() {
    for (policy, exit, about_pull) in
        [("probe", 0, "pull run unconfirmed"), ("fail", 3, ""), ("restart", 0, "pull run never-ran")]
    {
        let service = FakeArtifactService::start();
        let mut machine = ci_machine(&service);
        machine.set_variable("PAWL_MISSING_JOURNAL", policy);
        let answer = run_attempt(&mut machine, 2);
        answer.assert_exit(exit);
        match exit {
            0 => assert_eq!(answer.decisions()[0], about_pull),
            _ => {
                assert!(answer.stdout.contains("P0521") && !machine.exists("deploy/test/shop.db"), "{}", answer.stdout)
            }
        }
    }
}

#[test]
fn journal_missing_once_stays_unconfirmed() {
    let service = FakeArtifactService::start();
    let mut second = ci_machine(&service);
    second.write("migrations/0003_orders.sql", BROKEN);
    run_attempt(&mut second, 2).assert_exit(1);
    second.write("migrations/0003_orders.sql", FIXED);
    let mut third = fresh_machine(&second);
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(0);
    let switch = answer.decisions().into_iter().find(|decision| decision.starts_with("switch")).unwrap();
    assert_eq!(switch, "switch run unconfirmed", "the first attempt may have begun it");
}

#[test]
fn post_does_not_upload_an_unrelated_history() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    let name = artifact_after_post(&first, &service);
    // A machine with a history of its own, on which this run never began.
    let mut other = TestEnvironment::deployed();
    configure_ci(&mut other, &service);
    other.set_variable("GITHUB_RUN_ATTEMPT", "2");
    other.run(&["post"]).assert_exit(0);
    assert_eq!(only_artifact(&service), name);
    let empty = FakeArtifactService::start();
    configure_ci(&mut other, &empty);
    other.run(&["post"]).assert_exit(0);
    assert!(empty.artifact_names().is_empty(), "{:?}", empty.artifact_names());
}

#[test]
fn unreadable_journal_is_not_treated_as_missing() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    service.inject_fault(FakeServiceCall::List, .., InjectedFault::Status(403));
    service.inject_fault(FakeServiceCall::RestList, .., InjectedFault::Status(404));
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P051"), "{}", answer.stdout);
    assert!(!second.exists("deploy/test/shop.db"), "nothing was done");
    // By REST, where the service fails.
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    service.inject_fault(FakeServiceCall::Content, .., InjectedFault::Status(404));
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
    assert!(service.call_count(FakeServiceCall::RestContent) > 0);
}

#[test]
fn commit_step_waits_until_its_intent_is_uploaded() {
    let service = FakeArtifactService::start();
    service.inject_fault(FakeServiceCall::Create, .., InjectedFault::Status(403));
    let mut machine = ci_machine(&service);
    let answer = run_attempt(&mut machine, 1);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P0520"), "{}", answer.stdout);
    assert!(answer.stdout.contains("not started: the journal could not be uploaded"), "{}", answer.stdout);
    assert!(!machine.exists("deploy/test/shop.db") || machine.sql("SELECT count(*) FROM sqlite_master") == "0");
    // And the next attempt, with a service that is well, does it all.
    let service = FakeArtifactService::start();
    configure_ci(&mut machine, &service);
    run_attempt(&mut machine, 2).assert_exit(0);
}

#[test]
fn deployment_killed_between_intent_and_outcome_resumes_elsewhere() {
    let service = FakeArtifactService::start();
    let mut first = ci_machine(&service);
    first.set_variable("PAWL_KEY", KEY);
    first.set_variable("GITHUB_RUN_ATTEMPT", "1");
    // The lock of the database keeps the migration from its end.
    std::fs::create_dir_all(first.path("deploy/test")).unwrap();
    let database = rusqlite::Connection::open(first.path("deploy/test/shop.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut child = first.start(&["--local", "--release", "r1"]);
    let intended = |zip: &[u8]| {
        let journal = unzip_files(zip).into_iter().find(|(name, _)| name.ends_with(".journal")).unwrap().1;
        String::from_utf8(journal)
            .unwrap()
            .lines()
            .any(|line| line.contains(r#""intent""#) && line.contains(r#""step":"migrate""#))
    };
    wait_until("the intent of migrate is there", || {
        service.artifact_names().iter().any(|name| intended(&service.content(name)))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    drop(database);
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run interrupted");
    // What was done and not told: killed again, after the effect and before the outcome.
    assert_eq!(
        second.sql("SELECT count(*) FROM _pawl_migrations"),
        second.sql("SELECT count(DISTINCT name) FROM _pawl_migrations")
    );
}

#[test]
fn truncated_checkpoint_is_ignored() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    let genuine = artifact_after_post(&first, &service);
    let content = service.content(&genuine);
    service.add_artifact("pawl-shop-test-deploy-a01-s9999-cut", &content[..content.len() / 2]);
    service.remove_digests();
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
}

#[test]
fn matrix_jobs_do_not_share_journals() {
    let service = FakeArtifactService::start();
    let mut eu = ci_machine(&service);
    eu.set_variable("PAWL_MATRIX", r#"{"region": "eu"}"#);
    eu.write("migrations/0003_orders.sql", BROKEN);
    run_attempt(&mut eu, 1).assert_exit(1);
    let mut us = fresh_machine(&eu);
    us.write("migrations/0003_orders.sql", FIXED);
    us.set_variable("PAWL_MATRIX", r#"{"region": "us"}"#);
    let answer = run_attempt(&mut us, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run unconfirmed", "the other leg's journal is none of its own");
}

#[test]
fn post_uploads_the_journal_of_a_killed_runner() {
    let service = FakeArtifactService::start();
    // Nothing gets there from the step itself.
    service.inject_fault(FakeServiceCall::Finalize, .., InjectedFault::NoResponse);
    let mut first = ci_machine(&service);
    first.set_variable("GITHUB_RUN_ATTEMPT", "1");
    let mut child = first.start(&["--local", "--release", "r1"]);
    wait_until("a journal is begun", || first.list(".pawl/shop/test").iter().any(|name| name.ends_with(".journal")));
    wait_until("pull is done", || first.list("deploy/test/releases").iter().any(|name| !name.starts_with('.')));
    child.kill().unwrap();
    child.wait().unwrap();
    let other = FakeArtifactService::start();
    configure_ci(&mut first, &other);
    first.run(&["post"]).assert_exit(0);
    let name = only_artifact(&other);
    first.run(&["post"]).assert_exit(0);
    assert_eq!(only_artifact(&other), name, "what is there is not brought again");
    // Nor is the plan needed to be there any more.
    let mut gone = first.another_machine();
    std::fs::remove_file(gone.path("deploy.yml")).unwrap();
    gone.set_variable("GITHUB_RUN_ATTEMPT", "1");
    gone.run(&["post"]).assert_exit(0);
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert!(answer.decisions()[0].starts_with("pull run"), "{:?}", answer.decisions());
    // A name is not believed: another job of the run can give it to anything, and post brings up what it has all the same.
    let third = FakeArtifactService::start();
    third.add_artifact("pawl-shop-test-deploy-a02-s999999-forged", b"no journal");
    configure_ci(&mut second, &third);
    second.run(&["post"]).assert_exit(0);
    assert!(
        third.artifact_names().iter().any(|name| name.starts_with("pawl-shop-test-deploy-a02-s00")),
        "{:?}",
        third.artifact_names()
    );
}

#[test]
fn interrupt_saves_everything_within_seven_seconds() {
    let service = FakeArtifactService::start();
    let mut first = ci_machine(&service);
    first.set_variable("GITHUB_RUN_ATTEMPT", "1");
    std::fs::create_dir_all(first.path("deploy/test")).unwrap();
    let database = rusqlite::Connection::open(first.path("deploy/test/shop.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let child = first.start(&["--local", "--release", "r1"]);
    wait_until("the intent of migrate is written", || {
        let journal = std::fs::read_to_string(first.path(".pawl/shop/test/attempt-000001.journal")).unwrap_or_default();
        journal.lines().any(|line| line.contains(r#""intent""#) && line.contains(r#""step":"migrate""#))
    });
    let began = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(first.wait(child), Some(130));
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let journal =
        String::from_utf8(unzip_files(&service.content(&artifact_after_post(&first, &service))).pop().unwrap().1)
            .unwrap();
    assert!(journal.lines().last().unwrap().contains(r#""ended""#), "{journal}");
}

#[test]
fn secrets_reach_neither_artifacts_nor_log() {
    let service = FakeArtifactService::start();
    let mut first = failed_first_attempt(&service, Some(KEY));
    let answer = run_attempt(&mut first, 2);
    answer.assert_exit(0);
    let artifact = unzip_files(&service.content(&artifact_after_post(&first, &service)));
    let mut all: Vec<u8> = artifact.into_iter().flat_map(|(_, bytes)| bytes).collect();
    all.extend_from_slice(answer.stdout.as_bytes());
    all.extend_from_slice(answer.stderr.as_bytes());
    let text = String::from_utf8_lossy(&all);
    let text: String = text.lines().filter(|line| !line.starts_with("::add-mask::")).collect();
    for secret in [KEY, SIGNATURE, REST_TOKEN, &crate::artifact_service::runtime_token()] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// A deployment waits for three uploads: the intents of `migrate` and `switch`, and its end. Each upload takes four calls: create, block,
/// block list, finalize. `cargo xtask bench checkpoints` reads the line that this prints, and has the upper bound.
#[test]
fn deployment_waits_until_its_checkpoints_are_stored() {
    const LATENCY: Duration = Duration::from_millis(200);
    const DEMANDED: u32 = 3 * 4;
    let took = |service: Option<&FakeArtifactService>| {
        let mut machine = TestEnvironment::new();
        machine.pack("r1");
        if let Some(service) = service {
            configure_ci(&mut machine, service);
            machine.set_variable("GITHUB_RUN_ATTEMPT", "1");
        }
        let began = Instant::now();
        machine.deploy("r1", &[]).assert_exit(0);
        began.elapsed()
    };
    let service = FakeArtifactService::start();
    service.set_latency(LATENCY);
    let (ours, alone) = (took(Some(&service)), took(None));
    println!("checkpoints: {} ms with the service, {} ms alone", ours.as_millis(), alone.as_millis());
    assert!(ours >= LATENCY * DEMANDED, "{ours:?}: the deployment did not wait for each upload");
}

#[test]
fn post_releases_the_lock_of_a_killed_runner_only() {
    let service = FakeArtifactService::start();
    let mut machine = ci_machine(&service);
    let remote = tempfile::tempdir().unwrap();
    init_bare_repository(remote.path());
    machine.edit("deploy.yml", "app: shop", &format!("app: shop\nstate: git:{}", remote.path().display()));
    machine.set_variable("GITHUB_RUN_ATTEMPT", "1");
    std::fs::create_dir_all(machine.path("deploy/test")).unwrap();
    let database = rusqlite::Connection::open(machine.path("deploy/test/shop.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut child = machine.start(&["--local", "--release", "r1"]);
    wait_until("pull is done", || machine.list("deploy/test/releases").iter().any(|name| !name.starts_with('.')));
    let standing = |machine: &TestEnvironment| machine.run(&["lock", "status", "--json"]).json()[0]["standing"].clone();
    assert_eq!(standing(&machine), "unknown", "held, by a lease");
    machine.run(&["post"]).assert_exit(0);
    assert_eq!(standing(&machine), "unknown", "its holder lives");
    child.kill().unwrap();
    child.wait().unwrap();
    let post = machine.run(&["post"]);
    post.assert_exit(0);
    assert_eq!(standing(&machine), "free", "{}{}", post.stdout, post.stderr);
}
