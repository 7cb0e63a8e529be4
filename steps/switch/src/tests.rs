//! Every kill, and every hand at the link.

use std::path::PathBuf;

use pawl_step::testing::{Sandbox, assert_described};
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

fn input(name: char, key: &str) -> Input<Config> {
    let text = json!({ "path": path(name), "dir": "app" });
    let config = Config { strategy: Strategy::Symlink, dir: None, link: "current".into(), to: None };
    let mut input = pawl_step::testing::input("switch", config);
    input.key = key.to_owned();
    input.release = release(name);
    input.outputs.insert("pull".to_owned(), text);
    input
}

fn sandbox() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    let app = sandbox.grant("app", Access::Write);
    for name in ['a', 'b', 'c'] {
        std::fs::create_dir_all(app.join(path(name))).unwrap();
    }
    (sandbox, app)
}

fn by_hand(app: &std::path::Path, text: &str) {
    let link = app.join("current");
    let _may_be_missing = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(text, link).unwrap();
}

fn live(app: &std::path::Path) -> Option<String> {
    std::fs::read_link(app.join("current")).ok().map(|text| text.to_string_lossy().into_owned())
}

fn hidden(app: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(app)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn from(receipt: &Receipt) -> &Value {
    &receipt.notes["from"]
}

fn held(finding: Finding) -> Receipt {
    match finding {
        Finding::Held(receipt) => receipt,
        other @ (Finding::Absent | Finding::Drifted(_) | Finding::Unknown(_)) => panic!("{other:?}"),
    }
}

fn drifted(finding: Finding) -> String {
    match finding {
        Finding::Drifted(why) => why,
        other @ (Finding::Held(_) | Finding::Absent | Finding::Unknown(_)) => panic!("{other:?}"),
    }
}

#[test]
fn describes_itself() {
    assert_described::<Switch>();
}

#[test]
fn r1_r2_r1() {
    let (_sandbox, app) = sandbox();
    for (name, key, before) in [('a', "1", Value::Null), ('b', "2", json!(path('a'))), ('a', "3", json!(path('b')))] {
        let input = input(name, key);
        assert_eq!(Switch::preview(&input).unwrap().len(), 1);
        let receipt = Switch::apply(&input).unwrap();
        assert_eq!(from(&receipt), &before);
        assert_eq!(Value::Object(receipt.outputs.clone()), json!({ "link": "current", "to": path(name) }));
        assert_eq!(live(&app), Some(path(name)));
        assert_eq!(held(Switch::probe(&input).unwrap()), receipt);
        assert_eq!(Switch::apply(&input).unwrap(), receipt);
        assert_eq!(Switch::preview(&input).unwrap(), []);
        assert_eq!(hidden(&app), [".current.switch"]);
    }
}

/// After a kill at any write: the old release or the new one is live, the probe says which, and the next attempt ends with
/// the same receipt and the same files as one that was not killed.
#[test]
fn every_kill_of_a_switch() {
    for before in [None, Some('a')] {
        let mut kills = 0;
        for writes in 0.. {
            let (sandbox, app) = sandbox();
            if let Some(before) = before {
                Switch::apply(&input(before, "1")).unwrap();
            }
            let next = input('b', "2");
            sandbox.kill_after(writes);
            let outcome = Switch::apply(&next);
            sandbox.revive();
            match Switch::probe(&next).unwrap() {
                Finding::Held(receipt) => {
                    assert_eq!(live(&app), Some(path('b')), "killed after {writes}");
                    assert_eq!(from(&receipt), &json!(before.map(path)), "killed after {writes}");
                    assert_eq!(hidden(&app), [".current.switch"], "killed after {writes}");
                }
                Finding::Absent => assert_eq!(live(&app), before.map(path), "killed after {writes}"),
                other @ (Finding::Drifted(_) | Finding::Unknown(_)) => panic!("killed after {writes}: {other:?}"),
            }
            // A second kill, anywhere in the repair.
            for again in 0.. {
                sandbox.kill_after(again);
                let repaired = Switch::apply(&next);
                sandbox.revive();
                match Switch::probe(&next).unwrap() {
                    Finding::Held(receipt) => {
                        assert_eq!(from(&receipt), &json!(before.map(path)), "killed after {writes}, {again}")
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
            let receipt = Switch::apply(&next).unwrap();
            assert_eq!(from(&receipt), &json!(before.map(path)));
            assert_eq!((live(&app), hidden(&app)), (Some(path('b')), vec![".current.switch".to_owned()]));
            if outcome.is_ok() {
                break;
            }
            kills += 1;
        }
        assert!(kills >= 4, "only {kills} kills");
    }
}

#[test]
fn every_kill_of_a_revert() {
    for before in [None, Some('a')] {
        for writes in 0.. {
            let (sandbox, app) = sandbox();
            if let Some(before) = before {
                Switch::apply(&input(before, "1")).unwrap();
            }
            let next = input('b', "2");
            let receipt = Switch::apply(&next).unwrap();
            sandbox.kill_after(writes);
            let outcome = Switch::revert(&next, &receipt);
            sandbox.revive();
            assert!([Some(path('b')), before.map(path)].contains(&live(&app)), "killed after {writes}");
            Switch::revert(&next, &receipt).unwrap();
            Switch::revert(&next, &receipt).unwrap();
            assert_eq!(live(&app), before.map(path));
            let note = before.map(|_| ".current.switch".to_owned());
            assert_eq!(hidden(&app), Vec::from_iter(note));
            if outcome.is_ok() {
                assert!(writes >= 2);
                break;
            }
        }
    }
}

#[test]
fn a_move_by_hand_is_drift_back_to_the_old_release_too() {
    let (_sandbox, app) = sandbox();
    Switch::apply(&input('a', "1")).unwrap();
    let next = input('b', "2");
    Switch::apply(&next).unwrap();
    for (text, named) in [
        (path('a'), path('a')),
        (path('c'), path('c')),
        (app.join(path('b')).to_string_lossy().into_owned(), "leads out".to_owned()),
    ] {
        by_hand(&app, &text);
        let why = drifted(Switch::probe(&next).unwrap());
        assert!(why.contains(&named) && why.contains(&path('b')), "{why}");
    }
    std::fs::remove_file(app.join("current")).unwrap();
    assert_eq!(Switch::probe(&next).unwrap(), Finding::Absent);
    assert_eq!(from(&Switch::apply(&next).unwrap()), &json!(path('a')), "what was live before is not lost");
    by_hand(&app, &path('c'));
    assert_eq!(from(&Switch::apply(&next).unwrap()), &json!(path('c')), "accepted drift is what a revert returns to");
}

#[test]
fn a_link_from_before_pawl_is_adopted_or_replaced() {
    let (sandbox, app) = sandbox();
    by_hand(&app, &path('a'));
    assert_eq!(Switch::probe(&input('b', "1")).unwrap(), Finding::Absent);
    let receipt = Switch::apply(&input('a', "1")).unwrap();
    assert_eq!(from(&receipt), &json!(path('a')), "it was live before");
    Switch::revert(&input('a', "1"), &receipt).unwrap();
    assert_eq!(live(&app), Some(path('a')));

    by_hand(&app, "/somewhere/else");
    assert_eq!(Switch::apply(&input('b', "2")).unwrap_err().kind, FailureKind::Conflict);
    std::fs::remove_file(app.join("current")).unwrap();
    std::fs::create_dir(app.join("current")).unwrap();
    let failure = Switch::apply(&input('b', "2")).unwrap_err();
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::Conflict, "`app/current` is a file or folder, not a symbolic link; it is left alone")
    );
    drop(sandbox);
}

#[test]
fn an_interrupted_switch_does_not_bother_the_next_release() {
    for writes in 0..6 {
        let (sandbox, app) = sandbox();
        Switch::apply(&input('a', "1")).unwrap();
        sandbox.kill_after(writes);
        let _killed = Switch::apply(&input('b', "2"));
        sandbox.revive();
        let before = live(&app);
        let next = input('c', "3");
        assert_eq!(Switch::probe(&next).unwrap(), Finding::Absent);
        assert_eq!(from(&Switch::apply(&next).unwrap()), &json!(before));
        assert_eq!(hidden(&app), [".current.switch"]);
    }
}

#[test]
fn undoing_leads_to_the_verified_release() {
    let (_sandbox, app) = sandbox();
    Switch::apply(&input('a', "1")).unwrap();
    Switch::apply(&input('b', "2")).unwrap();
    let mut next = input('c', "3");
    next.head = Some(EnvironmentHead { live: Some(release('a')) });
    let receipt = Switch::apply(&next).unwrap();
    assert_eq!(from(&receipt), &json!(path('b')));
    Switch::revert(&next, &receipt).unwrap();
    assert_eq!(live(&app), Some(path('a')), "`b` was live, but never verified");
}

#[test]
fn deploying_the_live_release_again_has_nothing_to_undo() {
    let (_sandbox, app) = sandbox();
    Switch::apply(&input('a', "1")).unwrap();
    Switch::apply(&input('b', "2")).unwrap();
    let mut again = input('b', "3");
    again.head = Some(EnvironmentHead { live: Some(release('b')) });
    let receipt = Switch::apply(&again).unwrap();
    assert_eq!(from(&receipt), &json!(path('b')));
    Switch::revert(&again, &receipt).unwrap();
    assert_eq!(live(&app), Some(path('b')));
}

#[test]
fn a_revert_does_not_touch_what_somebody_moved() {
    let (_sandbox, app) = sandbox();
    Switch::apply(&input('a', "1")).unwrap();
    let next = input('b', "2");
    let receipt = Switch::apply(&next).unwrap();
    by_hand(&app, &path('c'));
    assert_eq!(Switch::revert(&next, &receipt).unwrap_err().kind, FailureKind::Conflict);
    by_hand(&app, &path('b'));
    std::fs::remove_dir(app.join(path('a'))).unwrap();
    assert_eq!(Switch::revert(&next, &receipt).unwrap_err().kind, FailureKind::NotFound);
    assert_eq!(Switch::revert(&next, &Receipt::new()).unwrap_err().kind, FailureKind::Permanent);
    assert_eq!(live(&app), Some(path('b')));
}

#[test]
fn nested_links_and_named_targets() {
    let (_sandbox, app) = sandbox();
    std::fs::create_dir(app.join("web")).unwrap();
    let mut nested = input('a', "1");
    nested.config.link = "web/current".into();
    nested.config.to = Some(path('c'));
    nested.outputs.clear();
    Switch::apply(&nested).unwrap();
    assert_eq!(std::fs::read_link(app.join("web/current")).unwrap().to_str().unwrap(), format!("../{}", path('c')));
    assert!(app.join("web/current").is_dir());
    held(Switch::probe(&nested).unwrap());
    nested.config.to = Some("releases/none".into());
    let failure = Switch::apply(&nested).unwrap_err();
    assert_eq!(failure.message, "`web/current` cannot lead to `releases/none`: there is no such folder in `app`");
    nested.config.to = None;
    let failure = Switch::apply(&nested).unwrap_err();
    assert_eq!(failure.message, "no earlier step put a release into `app`, so there is nothing to switch to");
}

/// A deployment that lost its lock and slept: whatever it does then, the newer one's link stays.
#[test]
fn an_older_deployment_switches_nothing_after_a_newer_one() {
    let (_sandbox, app) = sandbox();
    let at = |name: char, epoch: u64, lineage: &str| {
        let mut input = input(name, &format!("key{epoch}"));
        (input.epoch, input.lineage) = (epoch, lineage.to_owned());
        input
    };
    let old = at('a', 5, "here");
    let receipt = Switch::apply(&old).unwrap();
    Switch::apply(&at('b', 6, "here")).unwrap();
    let failure = Switch::apply(&old).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Conflict);
    assert!(failure.message.contains("epoch 6") && failure.message.contains("epoch 5"), "{}", failure.message);
    assert!(Switch::revert(&old, &receipt).unwrap_err().message.contains("epoch 6"));
    assert_eq!(live(&app), Some(path('b')));
    // Those of another state can't be compared, and newer ones go on.
    Switch::apply(&at('c', 1, "elsewhere")).unwrap();
    assert_eq!(live(&app), Some(path('c')));
    Switch::apply(&at('a', 7, "here")).unwrap();
    assert_eq!(live(&app), Some(path('a')));
}
