//! `runner state check|repair`: damage is told, and repaired without moving files by hand.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::{MotoServer, TestEnvironment, aws_variables, init_bare_repository};

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
    assert_eq!(lost.len(), 3, "two journals and a snapshot: {lost:?}");
    environment.run(&["state", "check"]).assert_exit(0);
    let live = environment.live_target();
    // What the lost lines say has begun is probed, and nothing runs twice.
    let next = environment.deploy("r1", &[]);
    next.assert_exit(0);
    assert!(next.decisions().iter().all(|decision| !decision.starts_with("migrate run")), "{:?}", next.decisions());
    assert_eq!(environment.live_target(), live);
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2");
}

#[test]
fn damaged_journal_that_the_snapshot_covers_is_told_and_left_alone() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.deploy("r2", &[]).assert_exit(0);
    flip(&environment, "attempt-000001.journal");
    let (before, status) = (environment.list(FOLDER), environment.run(&["status", "--json"]).json());
    let check = environment.run(&["state", "check", "--json"]);
    check.assert_exit(65);
    let finding = &check.json()[0]["findings"][0];
    assert!(finding["path"].as_str().unwrap().ends_with("attempt-000001.journal"), "{finding}");
    assert!(finding["repair"].as_str().unwrap().contains("the snapshot stands for it"), "{finding}");
    // There is nothing to repair without a copy.
    environment.run(&["state", "repair", "--local"]).assert_exit(65);
    assert_eq!(environment.list(FOLDER), before, "the snapshot and the later journal are still there");
    assert_eq!(environment.run(&["status", "--json"]).json(), status);
    let next = environment.deploy("r2", &[]);
    next.assert_exit(0);
    assert!(next.decisions().iter().all(|decision| decision.ends_with("skip held")), "{:?}", next.decisions());
    // The release before is still on record.
    environment.run(&["rollback", "--local"]).assert_exit(0);
}

#[test]
fn newest_journal_that_is_lost_is_told_and_the_snapshot_takes_its_place() {
    let environment = TestEnvironment::deployed();
    environment.pack("r2");
    environment.deploy("r2", &[]).assert_exit(0);
    let status = environment.run(&["status", "--json"]).json();
    std::fs::remove_file(environment.path(format!("{FOLDER}/attempt-000002.journal"))).unwrap();
    let check = environment.run(&["state", "check"]);
    check.assert_exit(65);
    assert!(check.stdout.contains("attempt-000002.journal: it is missing"), "{}", check.stdout);
    assert!(check.stdout.contains("begin after epoch 2"), "{}", check.stdout);
    environment.run(&["state", "repair", "--local"]).assert_exit(0);
    assert_eq!(environment.run(&["state", "check"]).stdout, "test\n  sound\n");
    assert_eq!(environment.run(&["status", "--json"]).json()[0]["live"], status[0]["live"]);
    let next = environment.deploy("r2", &[]);
    next.assert_exit(0);
    assert!(next.decisions().iter().all(|decision| decision.ends_with("skip held")), "{:?}", next.decisions());
}

/// A step that must not run twice, killed while it ran; a bit of its intent is flipped, and the state is repaired.
fn repaired_after_charge() -> (TestEnvironment, String) {
    let folder = FOLDER.replace("test", "default");
    let script = "echo charged >> charged; test -e quick || kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)";
    let charge = json!({
        "uses": "run", "trust": "host",
        "with": { "program": "/bin/sh", "args": ["-c", script], "dir": "work" },
        "grants": { "dirs": { "work": "work" }, "programs": [["/bin/sh", "-c", script]] },
    });
    let plan = json!({ "version": 1, "app": "shop", "steps": { "charge": charge } });
    let environment = TestEnvironment::with_plan(&plan.to_string());
    let killed = environment.deploy("r1", &[]);
    assert!(killed.code.is_none(), "{}", killed.stderr);
    environment.write("work/quick", "");
    let path = format!("{folder}/attempt-000001.journal");
    let text = environment.read(&path);
    environment.write(&path, text.replacen("\"type\":\"intent\"", "\"type\":\"inteNt\"", 1));
    environment.deploy("r1", &[]).assert_exit(65).assert_stderr_contains("P0602");
    environment.run(&["state", "repair", "--local"]).assert_exit(0);
    (environment, folder)
}

#[test]
fn step_whose_intent_is_unreadable_does_not_run_twice() {
    let (environment, _) = repaired_after_charge();
    environment.deploy("r1", &[]).assert_exit(3);
    // And it stays so, whoever tries again.
    environment.deploy("r1", &[]).assert_exit(3);
    assert_eq!(environment.read("work/charged"), "charged\n");
}

#[test]
fn list_of_begun_steps_that_is_unreadable_counts_for_all_steps() {
    let (environment, folder) = repaired_after_charge();
    let path = format!("{folder}/begun.json");
    let text = environment.read(&path);
    environment.write(&path, &text[..text.len() - 3]);
    let check = environment.run(&["state", "check"]);
    check.assert_exit(0);
    assert!(
        check.stdout.contains("begun.json: the list of steps that may have begun can't be read"),
        "{}",
        check.stdout
    );
    environment.deploy("r1", &[]).assert_exit(3);
    assert_eq!(environment.read("work/charged"), "charged\n");
    assert!(!environment.exists(&path), "the journal has them now");
}

/// A machine with a release to deploy to a target, and its state in a repository.
fn machine_with_repository(repository: &Path, target: &Path) -> TestEnvironment {
    init_bare_repository(repository);
    let machine = TestEnvironment::new();
    machine.edit("deploy.yml", "app: shop\n", &format!("app: shop\nstate: git:{}\n", repository.display()));
    machine.edit("deploy.yml", "root: ./deploy/test", &format!("root: {}", target.display()));
    machine.pack("r1");
    machine
}

#[test]
fn state_that_another_machine_went_on_with_is_sound() {
    let (remote, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = machine_with_repository(remote.path(), target.path());
    let (second, third) = (first.another_machine(), first.another_machine());
    first.deploy("r1", &[]).assert_exit(0);
    second.deploy("r1", &[]).assert_exit(0);
    for machine in [&first, &second, &third] {
        let check = machine.run(&["state", "check"]);
        check.assert_exit(0);
        assert_eq!(check.stdout, "test\n  sound\n");
    }
}

/// The only finding of a check that must fail.
#[track_caller]
fn only_finding(machine: &TestEnvironment) -> Value {
    let check = machine.run(&["state", "check", "--json"]);
    check.assert_exit(65);
    let findings = check.json()[0]["findings"].clone();
    assert_eq!(findings.as_array().map(Vec::len), Some(1), "{findings}");
    findings[0].clone()
}

/// Takes a file out of the newest data of a state in a repository.
fn remove_from_data(repository: &Path, name: &str) {
    let work = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(repository).arg("--work-tree").arg(work.path()).args(arguments);
        git.env("GIT_INDEX_FILE", work.path().join("index"));
        let identity = [
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@b"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@b"),
        ];
        let output = git.envs(identity).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let data = "refs/pawl-state/shop/test/data";
    git(&["read-tree", data]);
    git(&["update-index", "--force-remove", name]);
    let tree = git(&["write-tree"]);
    let commit = git(&["commit-tree", "-p", data, "-m", "less", &tree]);
    git(&["update-ref", data, &commit]);
}

/// The record names a journal that is gone from a repository. A machine with a copy of it tells so too.
#[test]
fn old_journal_that_a_repository_lost_is_told() {
    let (remote, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = machine_with_repository(remote.path(), target.path());
    for _ in 0..3 {
        first.deploy("r1", &[]).assert_exit(0);
    }
    remove_from_data(remote.path(), "attempt-000001.journal");
    for (machine, has_copy) in [(&first, true), (&first.another_machine(), false)] {
        let finding = only_finding(machine);
        assert_eq!(finding["path"], "attempt-000001.journal");
        assert_eq!(finding["what"], format!("it is missing in git:{}", remote.path().display()));
        assert_eq!(finding["repair"].as_str().unwrap().contains("this machine has a copy"), has_copy, "{finding}");
        machine.run(&["status"]).assert_exit(0);
    }
}

/// The same for an object that was cut short.
#[test]
fn old_journal_that_a_bucket_has_in_part_is_told() {
    let moto = MotoServer::start();
    let plan =
        "version: 1\napp: shop\nstate: s3://acme-state/shop\nsteps:\n  warm: { program: [\"true\"], trust: host }\n";
    let mut machine = TestEnvironment::with_plan(plan);
    aws_variables(&moto.address()).iter().for_each(|(name, value)| machine.set_variable(name, value));
    for _ in 0..3 {
        machine.deploy("r1", &[]).assert_exit(0);
    }
    machine.run(&["state", "check"]).assert_exit(0);
    let record: Value = serde_json::from_str(&moto.get("shop/shop/default/state.json")).unwrap();
    let key = format!("shop/shop/default/{}", record["journals"][0]["parts"][0].as_str().unwrap());
    let content = moto.get(&key);
    moto.put(&key, &content.as_bytes()[..content.len() / 2]);
    let finding = only_finding(&machine);
    assert_eq!(finding["path"], "attempt-000001.journal");
    assert_eq!(finding["what"], "it is cut short in s3://acme-state/shop");
}
