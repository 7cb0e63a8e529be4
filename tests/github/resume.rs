//! Resume from the artifacts of a CI run: what is believed, what is only asked about, and what is refused.
//!
//! A machine is a folder; what goes from one to the next is in the artifact service alone. Kept content stands for a service that
//! the plan deploys to, which outlives the machine.

use std::{
    io::{Cursor, Read as _},
    time::{Duration, Instant},
};

use crate::{
    artifact_service::{ArtifactService, Call, Mishap, REST_TOKEN, SIGNATURE},
    support::{Answer, Environment, bare, until},
};

pub(super) const BROKEN: &str = "CREATE TABLE order (id INTEGER PRIMARY KEY);\n";
pub(super) const MENDED: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n";
pub(super) const KEY: &str = "correct horse battery staple";

/// A machine of the CI with the example on it.
pub(super) fn machine(service: &ArtifactService) -> Environment {
    let mut environment = Environment::new();
    environment.pack("r1");
    enrol(&mut environment, service);
    environment
}

pub(super) fn enrol(environment: &mut Environment, service: &ArtifactService) {
    for (name, value) in service.variables() {
        environment.set(name, &value);
    }
    environment.set("PAWL_TOKEN", REST_TOKEN);
    environment.set("GITHUB_ACTIONS", "true");
    environment.set("GITHUB_SERVER_URL", "https://github.example");
    environment.set("GITHUB_JOB", "deploy");
    let workspace = environment.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    environment.set("GITHUB_WORKSPACE", &workspace);
}

/// Another machine with the same repository, on which nothing was done yet.
pub(super) fn fresh(before: &Environment) -> Environment {
    let other = moved(before);
    let _ = std::fs::remove_dir_all(other.path("deploy"));
    other
}

/// Another machine that reaches what was deployed.
pub(super) fn moved(before: &Environment) -> Environment {
    let mut other = before.another();
    let _ = std::fs::remove_dir_all(other.path(".pawl"));
    let workspace = other.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    other.set("GITHUB_WORKSPACE", &workspace);
    other
}

pub(super) fn attempt(environment: &mut Environment, number: u32) -> Answer {
    environment.set("GITHUB_RUN_ATTEMPT", &number.to_string());
    environment.deploy("r1", &[])
}

/// Attempt 1, which fails at migrate.
pub(super) fn failed(service: &ArtifactService, key: Option<&str>) -> Environment {
    let mut first = machine(service);
    if let Some(key) = key {
        first.set("PAWL_KEY", key);
    }
    first.write("migrations/0003_orders.sql", BROKEN);
    attempt(&mut first, 1).assert_exit(1);
    first.write("migrations/0003_orders.sql", MENDED);
    first
}

/// The files of a zip.
pub(super) fn files(zip: &[u8]) -> Vec<(String, Vec<u8>)> {
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
pub(super) fn settled(machine: &Environment, service: &ArtifactService) -> String {
    machine.run(&["post"]).assert_exit(0);
    only(service)
}

#[track_caller]
pub(super) fn only(service: &ArtifactService) -> String {
    let names = service.names();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

#[test]
fn with_a_key_the_journal_is_believed_on_a_new_machine() {
    let service = ArtifactService::start();
    let first = failed(&service, Some(KEY));
    let name = settled(&first, &service);
    assert!(name.starts_with("pawl-shop-test-deploy-a01-s"), "{name}");
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    let expected = ["pull run absent", "migrate run failed-before", "switch run never-ran", "verify run never-ran"];
    assert_eq!(answer.decisions(), expected);
    assert!(settled(&second, &service).starts_with("pawl-shop-test-deploy-a02-s"), "what is superseded is deleted");
}

#[test]
fn what_survived_on_the_same_machine_is_skipped() {
    let service = ArtifactService::start();
    let mut machine = failed(&service, None);
    let answer = attempt(&mut machine, 2);
    answer.assert_exit(0);
    let expected = ["pull skip held", "migrate run failed-before", "switch run never-ran", "verify run never-ran"];
    assert_eq!(answer.decisions(), expected, "what this machine wrote itself is believed without a key");
}

#[test]
fn without_a_key_records_only_suggest_what_to_probe() {
    let service = ArtifactService::start();
    let mut first = machine(&service);
    // Everything is done but the last check.
    first.edit("deploy.yml", "contains: \"Release", "contains: \"Never");
    attempt(&mut first, 1).assert_exit(1);
    // The runner's own folder is gone, and what was deployed is there.
    std::fs::remove_dir_all(first.path(".pawl")).unwrap();
    first.edit("deploy.yml", "contains: \"Never", "contains: \"Release");
    let live = first.live();
    let answer = attempt(&mut first, 2);
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
    assert_eq!(first.live(), live);
}

#[test]
fn a_step_without_a_probe_needs_the_key() {
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
    for key in [None, Some(KEY)] {
        let service = ArtifactService::start();
        let mut first = Environment::with_plan(plan);
        enrol(&mut first, &service);
        first.write("here/count.sh", "echo once >> count");
        first.write("here/last.sh", "[ -e go ]");
        if let Some(key) = key {
            first.set("PAWL_KEY", key);
        }
        let answer = attempt(&mut first, 1);
        assert_eq!(answer.code, Some(1), "{}\n{}", answer.stdout, answer.stderr);
        let mut second = moved(&first);
        second.write("here/go", "");
        let answer = attempt(&mut second, 2);
        match key {
            None => {
                answer.assert_exit(3);
                assert!(answer.stdout.contains("P0406"), "{}", answer.stdout);
            }
            Some(_) => {
                answer.assert_exit(0);
                assert_eq!(answer.decisions()[0], "count skip trusted");
            }
        }
        assert_eq!(second.read("here/count"), "once\n", "never twice");
    }
}

#[test]
fn a_missing_journal_is_probed_refused_or_forgotten() {
    for (policy, exit, about_pull) in
        [("probe", 0, "pull run unconfirmed"), ("fail", 3, ""), ("restart", 0, "pull run never-ran")]
    {
        let service = ArtifactService::start();
        let mut machine = machine(&service);
        machine.set("PAWL_MISSING_JOURNAL", policy);
        let answer = attempt(&mut machine, 2);
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
fn a_journal_that_was_missing_once_stays_so() {
    let service = ArtifactService::start();
    let mut second = machine(&service);
    second.write("migrations/0003_orders.sql", BROKEN);
    attempt(&mut second, 2).assert_exit(1);
    second.write("migrations/0003_orders.sql", MENDED);
    let mut third = fresh(&second);
    let answer = attempt(&mut third, 3);
    answer.assert_exit(0);
    let switch = answer.decisions().into_iter().find(|decision| decision.starts_with("switch")).unwrap();
    assert_eq!(switch, "switch run unconfirmed", "the first attempt may have begun it");
}

#[test]
fn post_hides_nothing_behind_an_older_history() {
    let service = ArtifactService::start();
    let first = failed(&service, None);
    let name = settled(&first, &service);
    // A machine with a history of its own, on which this run never began.
    let mut other = Environment::deployed();
    enrol(&mut other, &service);
    other.set("GITHUB_RUN_ATTEMPT", "2");
    other.run(&["post"]).assert_exit(0);
    assert_eq!(only(&service), name);
    let empty = ArtifactService::start();
    enrol(&mut other, &empty);
    other.run(&["post"]).assert_exit(0);
    assert!(empty.names().is_empty(), "{:?}", empty.names());
}

#[test]
fn a_journal_that_cannot_be_read_is_not_a_missing_one() {
    let service = ArtifactService::start();
    let first = failed(&service, None);
    service.fail(Call::List, .., Mishap::Status(403));
    service.fail(Call::RestList, .., Mishap::Status(404));
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P051"), "{}", answer.stdout);
    assert!(!second.exists("deploy/test/shop.db"), "nothing was done");
    // By REST, where the service fails.
    let service = ArtifactService::start();
    let first = failed(&service, None);
    service.fail(Call::Content, .., Mishap::Status(404));
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
    assert!(service.count(Call::RestContent) > 0);
}

#[test]
fn no_effect_of_the_commit_phase_before_its_intent_is_there() {
    let service = ArtifactService::start();
    service.fail(Call::Create, .., Mishap::Status(403));
    let mut machine = machine(&service);
    let answer = attempt(&mut machine, 1);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P0520"), "{}", answer.stdout);
    assert!(!machine.exists("deploy/test/shop.db") || machine.sql("SELECT count(*) FROM sqlite_master") == "0");
    // And the next attempt, with a service that is well, does it all.
    let service = ArtifactService::start();
    enrol(&mut machine, &service);
    attempt(&mut machine, 2).assert_exit(0);
}

#[test]
fn killed_between_intent_and_outcome_it_goes_on_elsewhere() {
    let service = ArtifactService::start();
    let mut first = machine(&service);
    first.set("PAWL_KEY", KEY);
    first.set("GITHUB_RUN_ATTEMPT", "1");
    // The lock of the database keeps the migration from its end.
    std::fs::create_dir_all(first.path("deploy/test")).unwrap();
    let database = rusqlite::Connection::open(first.path("deploy/test/shop.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut child = first.start(&["--local", "--release", "r1"]);
    let intended = |zip: &[u8]| {
        let journal = files(zip).into_iter().find(|(name, _)| name.ends_with(".journal")).unwrap().1;
        String::from_utf8(journal)
            .unwrap()
            .lines()
            .any(|line| line.contains(r#""intent""#) && line.contains(r#""step":"migrate""#))
    };
    until("the intent of migrate is there", || service.names().iter().any(|name| intended(&service.content(name))));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(database);
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run interrupted");
    // What was done and not told: killed again, after the effect and before the outcome.
    assert_eq!(
        second.sql("SELECT count(*) FROM _pawl_migrations"),
        second.sql("SELECT count(DISTINCT name) FROM _pawl_migrations")
    );
}

#[test]
fn a_checkpoint_that_was_cut_off_is_passed_over() {
    let service = ArtifactService::start();
    let first = failed(&service, None);
    let genuine = settled(&first, &service);
    let content = service.content(&genuine);
    service.plant("pawl-shop-test-deploy-a01-s9999-cut", &content[..content.len() / 2]);
    service.forget_digests();
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
}

#[test]
fn legs_of_a_matrix_do_not_meet() {
    let service = ArtifactService::start();
    let mut eu = machine(&service);
    eu.set("PAWL_MATRIX", r#"{"region": "eu"}"#);
    eu.write("migrations/0003_orders.sql", BROKEN);
    attempt(&mut eu, 1).assert_exit(1);
    let mut us = fresh(&eu);
    us.write("migrations/0003_orders.sql", MENDED);
    us.set("PAWL_MATRIX", r#"{"region": "us"}"#);
    let answer = attempt(&mut us, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run unconfirmed", "the other leg's journal is none of its own");
}

#[test]
fn post_brings_up_what_a_kill_left() {
    let service = ArtifactService::start();
    // Nothing gets there from the step itself.
    service.fail(Call::Finalize, .., Mishap::Silence);
    let mut first = machine(&service);
    first.set("GITHUB_RUN_ATTEMPT", "1");
    let mut child = first.start(&["--local", "--release", "r1"]);
    until("a journal is begun", || first.list(".pawl/shop/test").iter().any(|name| name.ends_with(".journal")));
    until("pull is done", || first.list("deploy/test/releases").iter().any(|name| !name.starts_with('.')));
    child.kill().unwrap();
    child.wait().unwrap();
    let other = ArtifactService::start();
    enrol(&mut first, &other);
    first.run(&["post"]).assert_exit(0);
    let name = only(&other);
    first.run(&["post"]).assert_exit(0);
    assert_eq!(only(&other), name, "what is there is not brought again");
    // Nor is the plan needed to be there any more.
    let mut gone = first.another();
    std::fs::remove_file(gone.path("deploy.yml")).unwrap();
    gone.set("GITHUB_RUN_ATTEMPT", "1");
    gone.run(&["post"]).assert_exit(0);
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    assert!(answer.decisions()[0].starts_with("pull run"), "{:?}", answer.decisions());
    // A name is not believed: another job of the run can give it to anything, and post brings up what it has all the same.
    let third = ArtifactService::start();
    third.plant("pawl-shop-test-deploy-a02-s999999-forged", b"no journal");
    enrol(&mut second, &third);
    second.run(&["post"]).assert_exit(0);
    assert!(third.names().iter().any(|name| name.starts_with("pawl-shop-test-deploy-a02-s00")), "{:?}", third.names());
}

#[test]
fn an_interrupt_saves_everything_within_seven_seconds() {
    let service = ArtifactService::start();
    let mut first = machine(&service);
    first.set("GITHUB_RUN_ATTEMPT", "1");
    std::fs::create_dir_all(first.path("deploy/test")).unwrap();
    let database = rusqlite::Connection::open(first.path("deploy/test/shop.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let child = first.start(&["--local", "--release", "r1"]);
    until("the intent of migrate is written", || {
        let journal = std::fs::read_to_string(first.path(".pawl/shop/test/attempt-000001.journal")).unwrap_or_default();
        journal.lines().any(|line| line.contains(r#""intent""#) && line.contains(r#""step":"migrate""#))
    });
    let began = Instant::now();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(first.wait(child), Some(130));
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    let journal = String::from_utf8(files(&service.content(&settled(&first, &service))).pop().unwrap().1).unwrap();
    assert!(journal.lines().last().unwrap().contains(r#""ended""#), "{journal}");
}

#[test]
fn no_secret_reaches_artifacts_or_log() {
    let service = ArtifactService::start();
    let mut first = failed(&service, Some(KEY));
    let answer = attempt(&mut first, 2);
    answer.assert_exit(0);
    let artifact = files(&service.content(&settled(&first, &service)));
    let mut all: Vec<u8> = artifact.into_iter().flat_map(|(_, bytes)| bytes).collect();
    all.extend_from_slice(answer.stdout.as_bytes());
    all.extend_from_slice(answer.stderr.as_bytes());
    let text = String::from_utf8_lossy(&all);
    let text: String = text.lines().filter(|line| !line.starts_with("::add-mask::")).collect();
    for secret in [KEY, SIGNATURE, REST_TOKEN, &crate::artifact_service::token()] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// What must be waited for: that the intents of migrate and switch are there, and that the end is. Each is four calls: create, block,
/// block list, finalize.
#[test]
fn a_deployment_waits_for_no_more_acknowledgements_than_it_must() {
    const LATENCY: Duration = Duration::from_millis(200);
    const DEMANDED: u32 = 3 * 4;
    let took = |service: Option<&ArtifactService>| {
        let mut machine = Environment::new();
        machine.pack("r1");
        if let Some(service) = service {
            enrol(&mut machine, service);
            machine.set("GITHUB_RUN_ATTEMPT", "1");
        }
        let began = Instant::now();
        machine.deploy("r1", &[]).assert_exit(0);
        began.elapsed()
    };
    let service = ArtifactService::start();
    service.slow_down(LATENCY);
    let (ours, alone) = (took(Some(&service)), took(None));
    println!("checkpoints: {} ms with the service, {} ms alone", ours.as_millis(), alone.as_millis());
    assert!(ours >= LATENCY * DEMANDED, "{ours:?}: something was not waited for");
    assert!(ours < LATENCY * (DEMANDED + 1) + alone, "{ours:?}: something was waited for that need not be");
}

#[test]
fn post_gives_up_the_lock_of_a_killed_runner_and_of_no_living_one() {
    let service = ArtifactService::start();
    let mut machine = machine(&service);
    let place = tempfile::tempdir().unwrap();
    bare(place.path());
    machine.edit("deploy.yml", "app: shop", &format!("app: shop\nstate: git:{}", place.path().display()));
    machine.set("GITHUB_RUN_ATTEMPT", "1");
    std::fs::create_dir_all(machine.path("deploy/test")).unwrap();
    let database = rusqlite::Connection::open(machine.path("deploy/test/shop.db")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut child = machine.start(&["--local", "--release", "r1"]);
    until("pull is done", || machine.list("deploy/test/releases").iter().any(|name| !name.starts_with('.')));
    let standing = |machine: &Environment| machine.run(&["lock", "status", "--json"]).json()[0]["standing"].clone();
    assert_eq!(standing(&machine), "unknown", "held, by a lease");
    machine.run(&["post"]).assert_exit(0);
    assert_eq!(standing(&machine), "unknown", "its holder lives");
    child.kill().unwrap();
    child.wait().unwrap();
    let post = machine.run(&["post"]);
    post.assert_exit(0);
    assert_eq!(standing(&machine), "free", "{}{}", post.stdout, post.stderr);
}
