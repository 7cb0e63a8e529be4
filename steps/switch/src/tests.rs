//! Tests of kills and of changes by hand.

use std::path::PathBuf;

use pawl_step::testing::{TestSandbox, assert_described};
use pawl_step::{Digest, EnvironmentHead, FailureKind, Release};
use serde_json::{Value, json};

use super::*;

fn hex(name: char) -> String {
    name.to_string().repeat(64)
}

fn release(name: char) -> Release {
    Release { label: format!("r{name}"), digest: Some(Digest::try_from(format!("sha256:{}", hex(name))).unwrap()) }
}

fn path(name: char) -> String {
    format!("releases/{}", hex(name))
}

fn input(name: char, key: &str) -> Input<SwitchConfig> {
    let text = json!({ "path": path(name), "dir": "app" });
    let config = SwitchConfig {
        strategy: SwitchStrategy::Symlink,
        dir: None,
        link: "current".into(),
        to: None,
        check: None,
        wired: None,
        haproxy: None,
    };
    let mut input = pawl_step::testing::input("switch", config);
    input.key = key.to_owned();
    input.release = release(name);
    input.outputs.insert("pull".to_owned(), text);
    input
}

fn sandbox() -> (TestSandbox, PathBuf) {
    let sandbox = TestSandbox::new();
    let app = sandbox.grant("app", DirectoryAccess::Write);
    for name in ['a', 'b', 'c'] {
        std::fs::create_dir_all(app.join(path(name))).unwrap();
    }
    (sandbox, app)
}

fn replace_link_by_hand(app: &std::path::Path, text: &str) {
    let link = app.join("current");
    let _may_be_missing = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(text, link).unwrap();
}

fn link_text(app: &std::path::Path) -> Option<String> {
    std::fs::read_link(app.join("current")).ok().map(|text| text.to_string_lossy().into_owned())
}

fn hidden_files(app: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(app)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn previous_target(receipt: &Receipt) -> &Value {
    &receipt.notes["from"]
}

fn expect_held(finding: Finding) -> Receipt {
    match finding {
        Finding::Held(receipt) => receipt,
        other @ (Finding::Absent | Finding::Drifted(_) | Finding::Unknown(_)) => panic!("{other:?}"),
    }
}

fn expect_drifted(finding: Finding) -> String {
    match finding {
        Finding::Drifted(why) => why,
        other @ (Finding::Held(_) | Finding::Absent | Finding::Unknown(_)) => panic!("{other:?}"),
    }
}

#[test]
fn switch_description_is_valid() {
    assert_described::<SwitchStep>();
}

#[test]
fn switching_records_the_previous_target() {
    let (_sandbox, app) = sandbox();
    for (name, key, before) in [('a', "1", Value::Null), ('b', "2", json!(path('a'))), ('a', "3", json!(path('b')))] {
        let input = input(name, key);
        assert_eq!(SwitchStep::preview(&input).unwrap().len(), 1);
        let receipt = SwitchStep::apply(&input).unwrap();
        assert_eq!(previous_target(&receipt), &before);
        assert_eq!(Value::Object(receipt.outputs.clone()), json!({ "link": "current", "to": path(name) }));
        assert_eq!(link_text(&app), Some(path(name)));
        assert_eq!(expect_held(SwitchStep::probe(&input).unwrap()), receipt);
        assert_eq!(SwitchStep::apply(&input).unwrap(), receipt);
        assert_eq!(SwitchStep::preview(&input).unwrap(), []);
        assert_eq!(hidden_files(&app), [".current.switch"]);
    }
}

/// After a kill at any write, the old or the new release is live, and the probe determines which. The next attempt ends
/// with the same receipt and files as one that was not killed.
#[test]
fn switch_recovers_from_a_kill_after_any_write() {
    for before in [None, Some('a')] {
        let mut kills = 0;
        for writes in 0.. {
            let (sandbox, app) = sandbox();
            if let Some(before) = before {
                SwitchStep::apply(&input(before, "1")).unwrap();
            }
            let next = input('b', "2");
            sandbox.kill_after(writes);
            let outcome = SwitchStep::apply(&next);
            sandbox.revive();
            match SwitchStep::probe(&next).unwrap() {
                Finding::Held(receipt) => {
                    assert_eq!(link_text(&app), Some(path('b')), "killed after {writes}");
                    assert_eq!(previous_target(&receipt), &json!(before.map(path)), "killed after {writes}");
                    assert_eq!(hidden_files(&app), [".current.switch"], "killed after {writes}");
                }
                Finding::Absent => assert_eq!(link_text(&app), before.map(path), "killed after {writes}"),
                other @ (Finding::Drifted(_) | Finding::Unknown(_)) => panic!("killed after {writes}: {other:?}"),
            }
            // A second kill, anywhere in the repair.
            for again in 0.. {
                sandbox.kill_after(again);
                let repaired = SwitchStep::apply(&next);
                sandbox.revive();
                match SwitchStep::probe(&next).unwrap() {
                    Finding::Held(receipt) => {
                        assert_eq!(
                            previous_target(&receipt),
                            &json!(before.map(path)),
                            "killed after {writes}, {again}"
                        )
                    }
                    Finding::Absent => assert!(repaired.is_err()),
                    other @ (Finding::Drifted(_) | Finding::Unknown(_)) => {
                        panic!("killed after {writes}, {again}: {other:?}")
                    }
                }
                if repaired.is_ok() {
                    break;
                }
            }
            let receipt = SwitchStep::apply(&next).unwrap();
            assert_eq!(previous_target(&receipt), &json!(before.map(path)));
            assert_eq!((link_text(&app), hidden_files(&app)), (Some(path('b')), vec![".current.switch".to_owned()]));
            if outcome.is_ok() {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 4, "only {kills} kills");
    }
}

#[test]
fn revert_recovers_from_a_kill_after_any_write() {
    for before in [None, Some('a')] {
        for writes in 0.. {
            let (sandbox, app) = sandbox();
            if let Some(before) = before {
                SwitchStep::apply(&input(before, "1")).unwrap();
            }
            let next = input('b', "2");
            let receipt = SwitchStep::apply(&next).unwrap();
            sandbox.kill_after(writes);
            let outcome = SwitchStep::revert(&next, &receipt);
            sandbox.revive();
            assert!([Some(path('b')), before.map(path)].contains(&link_text(&app)), "killed after {writes}");
            SwitchStep::revert(&next, &receipt).unwrap();
            SwitchStep::revert(&next, &receipt).unwrap();
            assert_eq!(link_text(&app), before.map(path));
            let note = before.map(|_| ".current.switch".to_owned());
            assert_eq!(hidden_files(&app), Vec::from_iter(note));
            if outcome.is_ok() {
                assert!(writes >= 2);
                break;
            }
        }
    }
}

#[test]
fn link_moved_by_hand_is_drift_even_to_the_old_release() {
    let (_sandbox, app) = sandbox();
    SwitchStep::apply(&input('a', "1")).unwrap();
    let next = input('b', "2");
    SwitchStep::apply(&next).unwrap();
    for (text, named) in [
        (path('a'), path('a')),
        (path('c'), path('c')),
        (app.join(path('b')).to_string_lossy().into_owned(), "points outside".to_owned()),
    ] {
        replace_link_by_hand(&app, &text);
        let why = expect_drifted(SwitchStep::probe(&next).unwrap());
        assert!(why.contains(&named) && why.contains(&path('b')), "{why}");
    }
    std::fs::remove_file(app.join("current")).unwrap();
    assert_eq!(SwitchStep::probe(&next).unwrap(), Finding::Absent);
    assert_eq!(previous_target(&SwitchStep::apply(&next).unwrap()), &json!(path('a')), "the previous target is kept");
    replace_link_by_hand(&app, &path('c'));
    assert_eq!(
        previous_target(&SwitchStep::apply(&next).unwrap()),
        &json!(path('c')),
        "accepted drift is what a revert returns to"
    );
}

#[test]
fn existing_link_is_adopted_or_replaced() {
    let (sandbox, app) = sandbox();
    replace_link_by_hand(&app, &path('a'));
    assert_eq!(SwitchStep::probe(&input('b', "1")).unwrap(), Finding::Absent);
    let receipt = SwitchStep::apply(&input('a', "1")).unwrap();
    assert_eq!(previous_target(&receipt), &json!(path('a')), "it was live before");
    SwitchStep::revert(&input('a', "1"), &receipt).unwrap();
    assert_eq!(link_text(&app), Some(path('a')));

    replace_link_by_hand(&app, "/somewhere/else");
    assert_eq!(SwitchStep::apply(&input('b', "2")).unwrap_err().kind, FailureKind::Conflict);
    std::fs::remove_file(app.join("current")).unwrap();
    std::fs::create_dir(app.join("current")).unwrap();
    let failure = SwitchStep::apply(&input('b', "2")).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            FailureKind::Conflict,
            "`app/current` is a file or folder, not a symbolic link; this step does not replace it"
        )
    );
    drop(sandbox);
}

#[test]
fn interrupted_switch_does_not_affect_the_next_release() {
    for writes in 0..6 {
        let (sandbox, app) = sandbox();
        SwitchStep::apply(&input('a', "1")).unwrap();
        sandbox.kill_after(writes);
        let _killed = SwitchStep::apply(&input('b', "2"));
        sandbox.revive();
        let before = link_text(&app);
        let next = input('c', "3");
        assert_eq!(SwitchStep::probe(&next).unwrap(), Finding::Absent);
        assert_eq!(previous_target(&SwitchStep::apply(&next).unwrap()), &json!(before));
        assert_eq!(hidden_files(&app), [".current.switch"]);
    }
}

#[test]
fn revert_returns_to_the_verified_release() {
    let (_sandbox, app) = sandbox();
    SwitchStep::apply(&input('a', "1")).unwrap();
    SwitchStep::apply(&input('b', "2")).unwrap();
    let mut next = input('c', "3");
    next.head = Some(EnvironmentHead { live: Some(release('a')) });
    let receipt = SwitchStep::apply(&next).unwrap();
    assert_eq!(previous_target(&receipt), &json!(path('b')));
    SwitchStep::revert(&next, &receipt).unwrap();
    assert_eq!(link_text(&app), Some(path('a')), "`b` was live, but never verified");
}

#[test]
fn revert_finds_the_verified_release_under_any_name() {
    let by_label = |name: char| format!("v{name}-{}", name.to_string().repeat(8));
    for (verified, now, below) in
        [(hex('a'), by_label('c'), ""), (by_label('a'), hex('c'), ""), (by_label('a'), by_label('c'), "/public")]
    {
        let (_sandbox, app) = sandbox();
        std::fs::remove_dir_all(app.join("releases")).unwrap();
        for (name, folder) in [('a', &verified), ('b', &hex('b')), ('c', &now)] {
            std::fs::create_dir_all(app.join("releases").join(folder).join("public")).unwrap();
            releases::write_digest(&format!("app/releases/{folder}"), folder, &release(name).digest.unwrap()).unwrap();
        }
        let to = |folder: &str| format!("releases/{folder}{below}");
        let mut before = input('b', "1");
        before.config.to = Some(to(&hex('b')));
        SwitchStep::apply(&before).unwrap();
        let mut next = input('c', "2");
        next.config.to = Some(to(&now));
        next.head = Some(EnvironmentHead { live: Some(release('a')) });
        let receipt = SwitchStep::apply(&next).unwrap();
        SwitchStep::revert(&next, &receipt).unwrap();
        assert_eq!(link_text(&app), Some(to(&verified)), "`b` was live, but never verified");
    }
}

/// On another machine, or where its folder was removed: the link would show another release than the record says.
#[test]
fn revert_does_not_take_another_release_for_the_verified_one() {
    for has_link_before in [true, false] {
        let (_sandbox, app) = sandbox();
        if has_link_before {
            SwitchStep::apply(&input('a', "1")).unwrap();
        }
        let mut next = input('c', "2");
        next.head = Some(EnvironmentHead { live: Some(release('d')) });
        let receipt = SwitchStep::apply(&next).unwrap();
        let failure = SwitchStep::revert(&next, &receipt).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert!(failure.message.ends_with("its folder is not in `app` on this machine"), "{}", failure.message);
        assert_eq!(link_text(&app), Some(path('c')));
    }
}

#[test]
fn reverting_the_live_release_changes_nothing() {
    let (_sandbox, app) = sandbox();
    SwitchStep::apply(&input('a', "1")).unwrap();
    SwitchStep::apply(&input('b', "2")).unwrap();
    let mut again = input('b', "3");
    again.head = Some(EnvironmentHead { live: Some(release('b')) });
    let receipt = SwitchStep::apply(&again).unwrap();
    assert_eq!(previous_target(&receipt), &json!(path('b')));
    SwitchStep::revert(&again, &receipt).unwrap();
    assert_eq!(link_text(&app), Some(path('b')));
}

#[test]
fn revert_does_not_touch_a_link_moved_by_hand() {
    let (_sandbox, app) = sandbox();
    SwitchStep::apply(&input('a', "1")).unwrap();
    let next = input('b', "2");
    let receipt = SwitchStep::apply(&next).unwrap();
    replace_link_by_hand(&app, &path('c'));
    assert_eq!(SwitchStep::revert(&next, &receipt).unwrap_err().kind, FailureKind::Conflict);
    replace_link_by_hand(&app, &path('b'));
    std::fs::remove_dir(app.join(path('a'))).unwrap();
    assert_eq!(SwitchStep::revert(&next, &receipt).unwrap_err().kind, FailureKind::NotFound);
    assert_eq!(SwitchStep::revert(&next, &Receipt::new()).unwrap_err().kind, FailureKind::Permanent);
    assert_eq!(link_text(&app), Some(path('b')));
}

#[test]
fn nested_links_and_explicit_targets_work() {
    let (_sandbox, app) = sandbox();
    std::fs::create_dir(app.join("web")).unwrap();
    let mut nested = input('a', "1");
    nested.config.link = "web/current".into();
    nested.config.to = Some(path('c'));
    nested.outputs.clear();
    SwitchStep::apply(&nested).unwrap();
    assert_eq!(std::fs::read_link(app.join("web/current")).unwrap().to_str().unwrap(), format!("../{}", path('c')));
    assert!(app.join("web/current").is_dir());
    expect_held(SwitchStep::probe(&nested).unwrap());
    nested.config.to = Some("releases/none".into());
    let failure = SwitchStep::apply(&nested).unwrap_err();
    assert_eq!(failure.message, "`web/current` cannot point to `releases/none`: no such folder in `app`");
    nested.config.to = None;
    let failure = SwitchStep::apply(&nested).unwrap_err();
    assert_eq!(failure.message, "no earlier step put a release into `app`, so there is nothing to switch to");
}

/// A deployment that lost its lock and slept cannot change the newer deployment's link.
#[test]
fn older_epoch_cannot_switch_after_a_newer_one() {
    let (_sandbox, app) = sandbox();
    let at = |name: char, epoch: u64, lineage: &str| {
        let mut input = input(name, &format!("key{epoch}"));
        (input.epoch, input.lineage) = (epoch, lineage.to_owned());
        input
    };
    let old = at('a', 5, "here");
    let receipt = SwitchStep::apply(&old).unwrap();
    SwitchStep::apply(&at('b', 6, "here")).unwrap();
    let failure = SwitchStep::apply(&old).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Conflict);
    assert!(failure.message.contains("epoch 6") && failure.message.contains("epoch 5"), "{}", failure.message);
    assert!(SwitchStep::revert(&old, &receipt).unwrap_err().message.contains("epoch 6"));
    assert_eq!(link_text(&app), Some(path('b')));
    // Epochs of different lineages are not compared, and newer epochs continue.
    SwitchStep::apply(&at('c', 1, "elsewhere")).unwrap();
    assert_eq!(link_text(&app), Some(path('c')));
    SwitchStep::apply(&at('a', 7, "here")).unwrap();
    assert_eq!(link_text(&app), Some(path('a')));
}

/// The link leads to a slot, and what counts is which release the slot holds.
#[test]
fn slot_with_another_release_is_not_switched_to_and_is_drift() {
    let (_sandbox, app) = sandbox();
    let mut next = input('b', "1");
    next.config.link = "live".into();
    next.config.to = Some("slots/b".into());
    std::fs::create_dir_all(app.join("slots/b")).unwrap();
    let fill = |input: &Input<SwitchConfig>| {
        let record = SlotRecord::starting(input, None);
        let record = json!({
            "app": record.app, "environment": record.environment, "step": "start", "release": record.release, "label": record.label,
            "input-hash": "1", "key": "1", "epoch": 1, "lineage": "here", "state": "ready",
        });
        std::fs::write(app.join("slots/b/slot.json"), record.to_string()).unwrap();
    };
    fill(&input('a', "1"));
    let failure = SwitchStep::apply(&next).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Conflict);
    assert_eq!(failure.message, "`app/live` can't point to `slots/b`: the slot holds ra, not rb");
    assert!(std::fs::symlink_metadata(app.join("live")).is_err(), "nothing is switched");
    fill(&next);
    SwitchStep::apply(&next).unwrap();
    expect_held(SwitchStep::probe(&next).unwrap());
    fill(&input('c', "1"));
    let why = "`app/live` points to `slots/b`, but the slot holds rc, not rb";
    assert_eq!(expect_drifted(SwitchStep::probe(&next).unwrap()), why);
    // A slot without a record is one that nobody has filled by a step.
    std::fs::remove_file(app.join("slots/b/slot.json")).unwrap();
    expect_held(SwitchStep::probe(&next).unwrap());
}

/// What an earlier step returns is not known in a rehearsal.
#[test]
fn rehearsal_refuses_a_link_that_a_switch_does_not_replace() {
    let (_sandbox, app) = sandbox();
    let mut input = input('a', "1");
    input.outputs.clear();
    SwitchStep::rehearse(&input).unwrap();
    replace_link_by_hand(&app, &path('b'));
    SwitchStep::rehearse(&input).unwrap();
    replace_link_by_hand(&app, "/etc");
    assert_eq!(SwitchStep::rehearse(&input).unwrap_err().kind, FailureKind::Conflict);
    std::fs::remove_file(app.join("current")).unwrap();
    std::fs::create_dir(app.join("current")).unwrap();
    assert_eq!(SwitchStep::rehearse(&input).unwrap_err().kind, FailureKind::Conflict);
}
