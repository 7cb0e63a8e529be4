//! A machine with a history of its own: its checkpoints carry a snapshot and the run's journals, and another machine goes on from there.

use super::resume::{BROKEN, FIXED, KEY, artifact_after_post, configure_ci, fresh_machine, run_attempt, unzip_files};
use crate::{
    artifact_service::FakeArtifactService,
    support::{RunnerOutput, TestEnvironment},
};

/// Three deployments outside of CI, and then a failed first attempt of a CI run.
pub(super) fn machine_with_history(service: &FakeArtifactService, key: Option<&str>) -> TestEnvironment {
    let mut machine = TestEnvironment::deployed();
    for _ in 0..2 {
        machine.deploy("r1", &[]).assert_exit(0);
    }
    configure_ci(&mut machine, service);
    if let Some(key) = key {
        machine.set_variable("PAWL_KEY", key);
    }
    machine.write("migrations/0003_orders.sql", BROKEN);
    run_attempt(&mut machine, 1).assert_exit(1);
    machine.write("migrations/0003_orders.sql", FIXED);
    machine
}

fn epochs(history: &RunnerOutput) -> Vec<u64> {
    history.json().as_array().unwrap().iter().map(|attempt| attempt["epoch"].as_u64().unwrap()).collect()
}

#[test]
fn new_machine_goes_on_from_the_snapshot() {
    let service = FakeArtifactService::start();
    let first = machine_with_history(&service, Some(KEY));
    let files = unzip_files(&service.content(&artifact_after_post(&first, &service)));
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["pawl.json", "snapshot-base.json", "attempt-000004.journal"]);
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
    // It knows what was deployed before, and says which journals it does not have.
    assert_eq!(epochs(&second.run(&["history", "--json"])), [5, 4, 3, 2, 1]);
    second.run(&["state", "check"]).assert_exit(0);
    second.run(&["logs", "--attempt", "4"]).assert_exit(0);
    let missing = second.run(&["logs", "--attempt", "2"]);
    missing.assert_exit(2);
    assert!(missing.stderr.contains("is not on this machine") || missing.stdout.contains("is not on this machine"));
    // And hands all of it on.
    artifact_after_post(&second, &service);
    let mut third = fresh_machine(&second);
    run_attempt(&mut third, 3).assert_exit(0);
    assert_eq!(epochs(&third.run(&["history", "--json"])), [6, 5, 4, 3, 2, 1]);
    // The first machine catches up.
    let mut first = first;
    run_attempt(&mut first, 4).assert_exit(0);
    assert_eq!(epochs(&first.run(&["history", "--json"])), [7, 6, 5, 4, 3, 2, 1]);
    first.run(&["state", "check"]).assert_exit(0);
    first.run(&["logs", "--attempt", "2"]).assert_exit(0);
}

/// Attempt 1 of the CI run skips `pull`, so only the snapshot has its record.
#[test]
fn snapshot_without_a_key_is_only_probed() {
    for (key, expected) in [(None, "pull adopt unconfirmed"), (Some(KEY), "pull skip held")] {
        let service = FakeArtifactService::start();
        let mut machine = machine_with_history(&service, key);
        artifact_after_post(&machine, &service);
        // The runner's own folder is gone, and what was deployed is there.
        std::fs::remove_dir_all(machine.path(".pawl")).unwrap();
        let answer = run_attempt(&mut machine, 2);
        answer.assert_exit(0);
        assert_eq!(answer.decisions()[0], expected);
    }
}

/// Two attempts after the restored snapshot, which is cut.
pub(super) fn machine_with_damaged_base(service: &FakeArtifactService) -> TestEnvironment {
    let first = machine_with_history(service, Some(KEY));
    artifact_after_post(&first, service);
    let mut second = fresh_machine(&first);
    run_attempt(&mut second, 2).assert_exit(0);
    artifact_after_post(&second, service);
    let base = second.read(BASE);
    second.write(BASE, &base[1..]);
    second
}

const BASE: &str = ".pawl/shop/test/snapshot-base.json";

#[test]
fn damaged_base_snapshot_is_told_and_repaired() {
    let machine = machine_with_damaged_base(&FakeArtifactService::start());
    let status_before = machine.run(&["status"]);
    status_before.assert_exit(65);
    let check = machine.run(&["state", "check"]);
    check.assert_exit(65);
    assert!(check.stdout.contains("snapshot-base.json: its content does not have the hash"), "{}", check.stdout);
    assert!(check.stdout.contains("repair lets the history begin after epoch 4"), "{}", check.stdout);
    machine.run(&["state", "repair", "--local"]).assert_exit(0);
    machine.run(&["state", "check"]).assert_exit(0);
    assert_eq!(epochs(&machine.run(&["history", "--json"])), [5, 4, 3, 2, 1]);
    machine.run(&["logs", "--attempt", "5"]).assert_exit(0);
    assert_eq!(machine.list(".pawl/shop/test/lost").len(), 2);
}

#[test]
fn damaged_base_snapshot_is_taken_from_the_checkpoint() {
    let service = FakeArtifactService::start();
    let mut machine = machine_with_damaged_base(&service);
    let answer = run_attempt(&mut machine, 3);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[..2], ["pull skip held", "migrate skip held"]);
    machine.run(&["state", "check"]).assert_exit(0);
    assert_eq!(epochs(&machine.run(&["history", "--json"])), [6, 5, 4, 3, 2, 1]);
}
