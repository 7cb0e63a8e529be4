//! What an older runner left is gone on with: nothing is repeated, nothing is forgotten.
//!
//! The folders were recorded with the runner of commit faa8fda (tests/fixtures/upgrade). Deliberately absent: that runner itself. That it
//! refuses what this one wrote was tried by hand (README.md there); what it refuses by is asserted here.

use std::{fs, path::Path, process::Command};

use crate::support::{MotoServer, TestEnvironment, aws_variables, release_folder};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/upgrade");

/// A folder that the older runner left.
fn recorded(name: &str) -> TestEnvironment {
    TestEnvironment::unpacked(&Path::new(FIXTURES).join(format!("{name}.tar.zst")), name)
}

/// What the operator does after the upgrade: this runner's modules are others.
#[track_caller]
fn accept_modules(environment: &TestEnvironment) {
    environment.deploy("r2", &[]).assert_exit(2).assert_stderr_contains("`runner modules --accept`");
    environment.run(&["modules", "--accept"]).assert_exit(0);
}

/// r2 is deployed to its end by the second attempt of the run that the older runner began.
#[track_caller]
fn check_resumes(environment: &TestEnvironment) {
    accept_modules(environment);
    let before = environment.list("made");
    let resumed = environment.deploy("r2", &[]);
    resumed.assert_exit(0);
    let make = resumed.decisions().into_iter().find(|decision| decision.starts_with("make ")).unwrap();
    assert_eq!(make.starts_with("make run"), !before.contains(&"ran-r2".to_owned()), "{make}");
    let history = environment.run(&["history", "--json"]).json();
    assert_eq!(history[0]["run"], history[1]["run"], "it is one run");
    assert_eq!(history[0]["attempt"], 2);
    check_deployed(environment, 3);
}

/// r2 is live, each of its statements was applied once, and `attempts` attempts are known.
#[track_caller]
fn check_deployed(environment: &TestEnvironment, attempts: usize) {
    assert_eq!(environment.read("deploy/test/current/VERSION"), "r2");
    assert_eq!(environment.list("made"), ["ran-r1", "ran-r2"]);
    assert_eq!(environment.sql("SELECT count(*) FROM product WHERE name LIKE 'spare%'"), "1");
    assert_eq!(environment.sql("SELECT price_cents FROM product WHERE name LIKE 'spare%'"), "91");
    assert_eq!(environment.sql("SELECT count(*) FROM _pawl_migrations"), "4");
    let history = environment.run(&["history", "--json"]).json();
    let epochs: Vec<_> = history.as_array().unwrap().iter().map(|attempt| attempt["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs.len(), attempts, "{epochs:?}");
    assert_eq!(
        (history[0]["verified"].as_bool(), history[attempts - 1]["verified"].as_bool()),
        (Some(true), Some(true))
    );
    let again = environment.deploy("r2", &[]);
    again.assert_exit(0);
    assert!(again.decisions().iter().all(|decision| decision.ends_with("skip held")), "{:?}", again.decisions());
}

#[test]
fn ended_run_is_followed_by_the_next_release() {
    let environment = recorded("ended");
    accept_modules(&environment);
    for (name, sql) in [
        ("0003_stock.sql", "ALTER TABLE product ADD COLUMN stock INTEGER NOT NULL DEFAULT 0;\n"),
        (
            "0004_spares.sql",
            "INSERT INTO product (name, price_cents) SELECT 'spare ' || count(*), 90 FROM product;\n\
             UPDATE product SET price_cents = price_cents + 1;\n",
        ),
    ] {
        environment.write(&format!("migrations/{name}"), sql);
    }
    environment.deploy("r2", &[]).assert_exit(0);
    check_deployed(&environment, 3);
    check_folder_is_refused(&environment);
    let [old, new] = ["r1", "r2"].map(|label| published_digest(&environment, label));
    let mut folders = [old, release_folder("r2", &new)];
    folders.sort();
    assert_eq!(environment.list("deploy/test/releases"), folders, "the older runner's folder keeps its name");
}

fn published_digest(environment: &TestEnvironment, label: &str) -> String {
    let line = environment.read(&format!("dist/shop-{label}.tar.zst.sha256"));
    line.split(' ').next().unwrap().to_owned()
}

#[test]
fn prune_and_rollback_find_releases_under_names_of_an_older_runner() {
    let environment = TestEnvironment::new();
    let releases = environment.path("deploy/test/releases");
    let mut digests = Vec::new();
    for label in ["r1", "r2", "r3", "r4"] {
        digests.push(environment.pack(label));
        environment.deploy(label, &[]).assert_exit(0);
    }
    for index in [0, 2] {
        let old = releases.join(&digests[index]);
        fs::rename(releases.join(release_folder(&format!("r{}", index + 1), &digests[index])), &old).unwrap();
        fs::remove_file(old.join(".pawl-digest")).unwrap();
    }
    // What says of no release, or of another one, is nobody's.
    let by_hand = ["by-hand".to_owned(), release_folder("copy", &digests[0]), release_folder("copy", &digests[1])];
    for name in &by_hand {
        let text = format!("sha256:{} {name}\n", digests[2]);
        environment.write(&format!("deploy/test/releases/{name}/.pawl-digest"), text);
    }
    environment.run(&["prune", "--local", "--keep", "1"]).assert_exit(0);
    let mut left = [by_hand.as_slice(), &[digests[2].clone(), release_folder("r4", &digests[3])]].concat();
    left.sort();
    assert_eq!(environment.list("deploy/test/releases"), left);
    fs::remove_dir_all(environment.path("dist")).unwrap();
    fs::create_dir(environment.path("dist")).unwrap();
    environment.run(&["rollback", "--local"]).assert_exit(0);
    assert_eq!(environment.live_target(), format!("releases/{}", digests[2]));
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r3");
}

#[test]
fn step_killed_in_the_middle_is_resumed() {
    check_resumes(&recorded("progress"));
}

#[test]
fn intent_without_an_effect_is_resumed() {
    check_resumes(&recorded("intent-only"));
}

#[test]
fn effects_without_an_outcome_are_not_repeated() {
    for step in ["make", "migrate", "switch"] {
        check_resumes(&recorded(&format!("effect-{step}")));
    }
}

#[test]
fn torn_outcome_is_not_repeated() {
    check_resumes(&recorded("torn"));
}

#[test]
fn unfinished_undo_is_finished() {
    for name in ["undo-intent", "undo-effect"] {
        let environment = recorded(name);
        accept_modules(&environment);
        let digest = published_digest(&environment, "r1");
        let refused = environment.deploy("r3", &[]);
        refused.assert_exit(4);
        assert!(environment.live_target().ends_with(&digest), "{name}: r1 is not live again");
        assert_eq!(environment.list("made"), ["ran-r1", "ran-r3"]);
        assert!(refused.event_types().contains(&"undo-outcome".to_owned()), "{name}");
        let status = environment.run(&["status", "--json"]).json();
        assert!(status.to_string().contains("\"r1\""), "{status}");
    }
}

#[test]
fn repository_is_migrated_and_resumed() {
    let environment = recorded("git");
    check_resumes(&environment);
    let repository = environment.path("remote.git");
    let record =
        Command::new("git").arg("--git-dir").arg(repository).args(["show", "refs/pawl/shop/test:state.json"]).output();
    check_manifest_is_refused(&record.unwrap().stdout);
}

/// The older runner takes version 1 only.
#[track_caller]
fn check_manifest_is_refused(manifest: &[u8]) {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    assert_eq!(manifest["version"], 2);
}

/// The older runner locks a file, and refuses a directory; and it begins no attempt after a journal of a newer format.
#[track_caller]
fn check_folder_is_refused(environment: &TestEnvironment) {
    let state = Path::new(".pawl/shop/test");
    assert!(environment.path(state.join("lock")).is_dir());
    let newest = environment.list(".pawl/shop/test").into_iter().rfind(|name| name.ends_with(".journal")).unwrap();
    let header = environment.read(&format!("{}/{newest}", state.display()));
    assert!(!header.lines().next().unwrap().contains(r#""format":{"major":1,"minor":2}"#), "{header}");
}

#[test]
fn bucket_is_migrated_and_resumed() {
    let moto = MotoServer::start();
    let mut environment = recorded("bucket");
    put_objects(&moto, &environment.path("objects"), "");
    aws_variables(&moto.address()).iter().for_each(|(name, value)| environment.set_variable(name, value));
    check_resumes(&environment);
    check_manifest_is_refused(moto.get("upgrade/shop/test/state.json").as_bytes());
}

fn put_objects(moto: &MotoServer, folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let key = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            put_objects(moto, &entry.path(), &format!("{key}/"));
        } else {
            moto.put(&key, &fs::read(entry.path()).unwrap());
        }
    }
}
