//! `runner state check|repair`: damage is told, and repaired without moving files by hand.

use crate::support::TestEnvironment;

const FOLDER: &str = ".pawl/shop/test";

fn flip(environment: &TestEnvironment, name: &str) {
    let path = format!("{FOLDER}/{name}");
    let mut bytes = std::fs::read(environment.path(&path)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    environment.write(&path, bytes);
}

#[test]
fn sound_state_is_left_as_it_is() {
    let environment = TestEnvironment::deployed();
    let before = environment.list(FOLDER);
    let check = environment.run(&["state", "check"]);
    check.assert_exit(0);
    assert_eq!(check.stdout, "test\n  sound\n");
    environment.run(&["state", "repair", "--local"]).assert_exit(0);
    assert_eq!(environment.list(FOLDER), before);
    environment.deploy("r1", &[]).assert_exit(0);
}

#[test]
fn snapshot_and_index_are_made_again() {
    for name in ["snapshot.json", "index.jsonl"] {
        let environment = TestEnvironment::deployed();
        flip(&environment, name);
        let check = environment.run(&["state", "check", "--json"]);
        check.assert_exit(0);
        let finding = &check.json()[0]["findings"][0];
        assert_eq!(finding["what"], "the snapshot or the index does not match the journals");
        assert_eq!(finding["repair"], "repair makes them again from the journals");
        environment.run(&["state", "repair", "--local"]).assert_exit(0);
        assert_eq!(environment.run(&["state", "check"]).stdout, "test\n  sound\n");
        environment.deploy("r1", &[]).assert_exit(0);
    }
}

#[test]
fn damaged_journal_is_cut_and_its_steps_are_probed() {
    let environment = TestEnvironment::deployed();
    environment.deploy("r1", &[]).assert_exit(0);
    flip(&environment, "attempt-000001.journal");
    // The snapshot stands for the damaged journal, until something needs it.
    std::fs::remove_file(environment.path(format!("{FOLDER}/snapshot.json"))).unwrap();
    environment.deploy("r1", &[]).assert_exit(65).assert_stderr_contains("error[P0602]");
    let check = environment.run(&["state", "check"]);
    check.assert_exit(65);
    assert!(
        check.stdout.contains("attempt-000001.journal") && check.stdout.contains("repair moves"),
        "{}",
        check.stdout
    );
    environment.run(&["state", "repair"]).assert_exit(2).assert_stderr_contains("error[P0208]");
    environment.run(&["state", "repair", "--local"]).assert_exit(0);
    let lost = environment.list(&format!("{FOLDER}/lost"));
    assert_eq!(lost.len(), 2, "{lost:?}");
    environment.run(&["state", "check"]).assert_exit(0);
    let live = environment.live_target();
    // What the lost lines say has begun is probed, and nothing runs twice.
    let next = environment.deploy("r1", &[]);
    next.assert_exit(0);
    assert!(next.decisions().iter().all(|decision| !decision.starts_with("migrate run")), "{:?}", next.decisions());
    assert_eq!(environment.live_target(), live);
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2");
}
