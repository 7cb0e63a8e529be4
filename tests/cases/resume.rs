//! A deployment, again, and after parts of its effect are gone.

use std::fs;

use crate::support::{TestEnvironment, release_folder};

const FIRST_DECISIONS: [&str; 4] =
    ["pull run never-ran", "migrate run never-ran", "switch run never-ran", "verify run never-ran"];
const REPEAT_DECISIONS: [&str; 4] = ["pull skip held", "migrate skip held", "switch skip held", "verify skip held"];

#[test]
fn first_deployment_makes_the_release_live() {
    let environment = TestEnvironment::new();
    let digest = environment.pack("r1");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&FIRST_DECISIONS);
    assert_eq!(environment.live_target(), format!("releases/{}", release_folder("r1", &digest)));
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");
    assert_eq!(environment.sql("SELECT count(*) FROM product"), "2");
}

#[test]
fn second_deployment_probes_and_skips_each_step() {
    let environment = TestEnvironment::deployed();
    let before = environment.tree();
    let again = environment.deploy("r1", &[]);
    again.assert_exit(0).assert_decisions(&REPEAT_DECISIONS);
    assert_eq!(again.event_types().iter().filter(|kind| *kind == "probe").count(), 4, "verify does its live round");
    let new: Vec<_> =
        environment.tree().into_iter().filter(|(path, content)| before.get(path) != Some(content)).collect();
    let new: Vec<_> =
        new.iter().map(|(path, _)| path.strip_prefix(environment.path("")).unwrap().display().to_string()).collect();
    let files = ["attempt-000002.journal", "index.jsonl", "lock/record", "snapshot-previous.json", "snapshot.json"];
    assert_eq!(new, files.map(|file| format!(".pawl/shop/test/{file}")));
}

#[test]
fn missing_release_is_pulled_again_and_nothing_else_runs() {
    let environment = TestEnvironment::deployed();
    let release = environment.path("deploy/test").join(environment.live_target());
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
fn missing_link_is_recreated() {
    let environment = TestEnvironment::deployed();
    let live = environment.live_target();
    fs::remove_file(environment.path("deploy/test/current")).unwrap();
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&[
        "pull skip held",
        "migrate skip held",
        "switch run absent",
        "verify run upstream-ran",
    ]);
    assert_eq!(environment.live_target(), live);
}

#[test]
fn journal_with_a_torn_last_line_is_read_up_to_it() {
    let environment = TestEnvironment::deployed();
    let journal = ".pawl/shop/test/attempt-000001.journal";
    let text = environment.read(journal);
    environment.write(journal, &text[..text.len() - 20]);
    let again = environment.deploy("r1", &[]);
    again.assert_exit(0).assert_decisions(&REPEAT_DECISIONS);
    assert!(again.event_types().contains(&"torn".to_owned()), "it is said");
    assert_eq!(again.json_lines()[0]["event"]["attempt"], 2, "the end of the first attempt is not known");
    assert_eq!(environment.read(journal), text[..text.len() - 20], "what is written stays");
}

#[test]
fn releases_may_be_deployed_in_any_order() {
    let environment = TestEnvironment::deployed();
    let first = environment.live_target();
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
    assert_ne!(environment.live_target(), first);
    let back = environment.deploy("r1", &[]);
    back.assert_exit(0);
    assert!(back.event_types().iter().all(|kind| kind != "override"));
    assert_eq!(environment.live_target(), first);
    assert_eq!(environment.read("deploy/test/current/VERSION").trim(), "r1");

    let history = environment.run(&["history", "--json"]);
    let labels: Vec<_> = history.json().as_array().unwrap().iter().map(|one| one["release"]["label"].clone()).collect();
    assert_eq!(labels, ["r1", "r2", "r1"]);
    let status = environment.run(&["status", "--json"]).json();
    assert_eq!(status[0]["live"]["release"]["label"], "r1");
    assert_eq!(status[0]["live"]["verified"], true);
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&REPEAT_DECISIONS);
}
