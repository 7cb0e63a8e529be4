//! A deployment, again, and after parts of its effect are gone.

use std::{fs, time::Duration};

use crate::support::Environment;

/// What a whole process that has nothing to do may take.
const NOTHING_TO_DO: Duration = Duration::from_millis(25);

/// So many times it is measured at most.
const ROUNDS: u32 = 15;

const FIRST: [&str; 4] =
    ["pull run never-ran", "migrate run never-ran", "switch run never-ran", "verify run never-ran"];
const AGAIN: [&str; 4] = ["pull skip held", "migrate skip held", "switch skip held", "verify skip held"];

#[test]
fn the_first_deployment_makes_the_release_live() {
    let environment = Environment::new();
    let digest = environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&FIRST);
    assert_eq!(environment.live(), format!("releases/{digest}"));
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2");
}

#[test]
fn the_second_probes_each_step_and_skips_it() {
    let environment = Environment::deployed();
    let before = environment.tree();
    let again = environment.deploy("r1", &[]);
    again.assert_exit(0).assert_decisions(&AGAIN);
    assert_eq!(again.events().iter().filter(|kind| *kind == "probe").count(), 4, "verify does its live round");
    let new: Vec<_> =
        environment.tree().into_iter().filter(|(path, content)| before.get(path) != Some(content)).collect();
    let new: Vec<_> =
        new.iter().map(|(path, _)| path.strip_prefix(environment.path("")).unwrap().display().to_string()).collect();
    assert_eq!(new, [".pawl/shop/test/attempt-000002.journal", ".pawl/shop/test/lock"]);
}

#[test]
fn with_nothing_to_do_the_process_ends_at_once() {
    // Each round has a history of its own. The best counts: a machine that is busy with something else says nothing about
    // the runner.
    let median = || {
        let environment = Environment::deployed();
        let median = environment.times(20, &["--local", "--release", "r1", "--quiet"])[10];
        environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&AGAIN);
        median
    };
    let mut best = median();
    for _ in 1..ROUNDS {
        if best < NOTHING_TO_DO {
            break;
        }
        best = best.min(median());
    }
    assert!(cfg!(debug_assertions) || best < NOTHING_TO_DO, "the median is {best:?}");
}

#[test]
fn a_release_that_is_gone_is_pulled_again_and_nothing_else_runs() {
    let environment = Environment::deployed();
    let release = environment.path("deploy/test").join(environment.live());
    fs::remove_dir_all(&release).unwrap();
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull run absent",
        "migrate skip held",
        "switch skip held",
        "verify run upstream-ran",
    ]);
    assert!(release.join("VERSION").is_file());
}

#[test]
fn a_link_that_is_gone_is_made_again() {
    let environment = Environment::deployed();
    let live = environment.live();
    fs::remove_file(environment.path("deploy/test/current")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch run absent",
        "verify run upstream-ran",
    ]);
    assert_eq!(environment.live(), live);
}

#[test]
fn a_journal_that_ends_in_a_torn_line_is_read_as_far_as_it_is_whole() {
    let environment = Environment::deployed();
    let journal = ".pawl/shop/test/attempt-000001.journal";
    let text = environment.read(journal);
    environment.write(journal, &text[..text.len() - 20]);
    let again = environment.deploy("r1", &[]);
    again.assert_exit(0).assert_decisions(&AGAIN);
    assert!(again.events().contains(&"torn".to_owned()), "it is said");
    assert_eq!(again.lines()[0]["event"]["attempt"], 2, "the end of the first attempt is not known");
    assert_eq!(environment.read(journal), text[..text.len() - 20], "what is written stays");
}

#[test]
fn releases_follow_each_other_in_any_order() {
    let environment = Environment::deployed();
    let first = environment.live();
    environment.pack("r2");
    environment
        .write("migrations/0003_third_product.sql", "INSERT INTO product (name, price_cents) VALUES ('spring', 80);\n");
    let second = environment.deploy("r2", &[]);
    second.assert_exit(0).assert_decisions(&[
        "pull run changed",
        "migrate run changed",
        "switch run changed",
        "verify run changed",
    ]);
    assert_ne!(environment.live(), first);
    let back = environment.deploy("r1", &[]);
    back.assert_exit(0);
    assert!(back.events().iter().all(|kind| kind != "override"));
    assert_eq!(environment.live(), first);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");

    let history = environment.run(&["history", "--json"]);
    let labels: Vec<_> = history.json().as_array().unwrap().iter().map(|one| one["release"]["label"].clone()).collect();
    assert_eq!(labels, ["r1", "r2", "r1"]);
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"]["release"]["label"], "r1");
    assert_eq!(status[0]["live"]["verified"], true);
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&AGAIN);
}
