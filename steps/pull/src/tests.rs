//! Tests of kills, damage and shared paths.

use std::path::{Path, PathBuf};

use pawl_step::testing::{TestSandbox, assert_described};
use pawl_step::{Digest, EnvironmentHead, FailureKind, Release};
use serde_json::{Value, json};

use super::*;

fn hex(name: char) -> String {
    name.to_string().repeat(64)
}

/// The folder of a release that nothing else was called like.
fn folder_name(name: char) -> String {
    format!("v{name}-{}", name.to_string().repeat(8))
}

fn release(name: char) -> Release {
    Release { label: format!("v{name}"), digest: Some(Digest::try_from(format!("sha256:{}", hex(name))).unwrap()) }
}

fn input(name: char, config: &Value) -> Input<PullConfig> {
    let mut with = json!({ "from": format!("file:dist/shop-{name}.tar.zst"), "into": "app" });
    for (member, value) in config.as_object().unwrap() {
        with[member] = value.clone();
    }
    let mut input = pawl_step::testing::input("pull", PullConfig::deserialize(with).unwrap());
    input.release = release(name);
    input
}

fn sandbox() -> (TestSandbox, PathBuf) {
    let sandbox = TestSandbox::new();
    sandbox.grant("dist", DirectoryAccess::Read);
    let app = sandbox.grant("app", DirectoryAccess::Write);
    for name in ['a', 'b'] {
        let files = [
            ("VERSION", format!("v{name}\n")),
            ("bin/shop", format!("binary {name}")),
            ("storage/seed", format!("seed {name}")),
        ];
        let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
        sandbox.archive(&format!("file:dist/shop-{name}.tar.zst"), &format!("sha256:{}", hex(name)), &files);
    }
    (sandbox, app)
}

fn file_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_held(input: &Input<PullConfig>) -> bool {
    match PullStep::probe(input).unwrap() {
        Finding::Held(receipt) => {
            assert_eq!(receipt.outputs, PullStep::apply(input).unwrap().outputs);
            true
        }
        Finding::Absent => false,
        other @ (Finding::Drifted(_) | Finding::Unknown(_)) => panic!("{other:?}"),
    }
}

#[test]
fn pull_description_is_valid() {
    assert_described::<PullStep>();
}

#[test]
fn pull_unpacks_the_release_and_then_holds() {
    let (_sandbox, app) = sandbox();
    let input = input('a', &json!({ "version-file": "VERSION" }));
    assert_eq!(PullStep::probe(&input).unwrap(), Finding::Absent);
    let changes = PullStep::preview(&input).unwrap();
    assert_eq!(
        changes,
        [Change::new(
            ChangeAction::Create,
            format!("app/releases/{}", folder_name('a')),
            "release va from file:dist/shop-a.tar.zst"
        )]
    );
    let receipt = PullStep::apply(&input).unwrap();
    let outputs = json!({ "path": format!("releases/{}", folder_name('a')), "dir": "app", "digest": format!("sha256:{}", hex('a')), "label": "va" });
    assert_eq!(Value::Object(receipt.outputs), outputs);
    assert_eq!(receipt.notes["files"], 3);
    assert!(is_held(&input));
    assert_eq!(PullStep::preview(&input).unwrap(), []);
    assert_eq!(file_names(&app.join("releases")), [folder_name('a')]);
}

#[test]
fn pull_recovers_from_a_kill_after_any_write() {
    for shared in [json!([]), json!(["storage", "logs/"])] {
        let input = input('a', &json!({ "shared": shared }));
        for writes in 0.. {
            let (sandbox, app) = sandbox();
            sandbox.kill_after(writes);
            let outcome = PullStep::apply(&input);
            sandbox.revive();
            if outcome.is_ok() {
                assert!(writes > 10);
                break;
            }
            assert!(app.join("releases").join(folder_name('a')).exists() == is_held(&input), "killed after {writes}");
            PullStep::apply(&input).unwrap();
            assert!(is_held(&input), "killed after {writes}");
            assert_eq!(file_names(&app.join("releases")), [folder_name('a')], "killed after {writes}");
            assert_eq!(
                std::fs::read_to_string(app.join("releases").join(folder_name('a')).join("storage/seed")).unwrap(),
                "seed a"
            );
        }
    }
}

#[test]
fn pull_replaces_a_damaged_release_despite_a_kill_after_any_write() {
    let input = input('a', &json!({}));
    for writes in 0.. {
        let (sandbox, app) = sandbox();
        PullStep::apply(&input).unwrap();
        let file = app.join("releases").join(folder_name('a')).join("bin/shop");
        std::fs::write(&file, "worm").unwrap();
        let added = [file.with_file_name("cache"), app.join("releases").join(folder_name('a')).join("venv/lib")];
        for path in &added {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "made by a later step").unwrap();
        }
        match PullStep::probe(&input).unwrap() {
            Finding::Drifted(why) => assert_eq!(
                why,
                format!(
                    "app/releases/{} differs from its archive: changed: bin/shop (modified since)",
                    folder_name('a')
                )
            ),
            other @ (Finding::Held(_) | Finding::Absent | Finding::Unknown(_)) => panic!("{other:?}"),
        }
        sandbox.kill_after(writes);
        let outcome = PullStep::apply(&input);
        sandbox.revive();
        PullStep::apply(&input).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "binary a", "killed after {writes}");
        assert!(added.iter().all(|path| path.is_file()), "killed after {writes}");
        assert_eq!(file_names(&app.join("releases")), [folder_name('a')], "killed after {writes}");
        if outcome.is_ok() {
            break;
        }
    }
}

#[test]
fn a_failed_pull_leaves_nothing() {
    let (sandbox, app) = sandbox();
    sandbox.archive("file:dist/wrong.tar", &format!("sha256:{}", hex('c')), &[("f", "x")]);
    for (config, kind, message) in [
        (
            json!({ "from": "file:dist/wrong.tar" }),
            FailureKind::BadContent,
            format!("`file:dist/wrong.tar` has the digest sha256:{}, not sha256:{}", hex('c'), hex('a')),
        ),
        (
            json!({ "version": "v7" }),
            FailureKind::BadContent,
            "the file `VERSION` of the release says `va`, not `v7`".to_owned(),
        ),
        (
            json!({ "version-file": "none" }),
            FailureKind::BadContent,
            "the release has no file `none`; expected one that says `va`".to_owned(),
        ),
        (
            json!({ "shared": [".env"] }),
            FailureKind::NotFound,
            "the shared path `.env` is neither in the release nor at `app/shared/.env`".to_owned(),
        ),
        (
            json!({ "shared": ["storage", "storage/logs"] }),
            FailureKind::InvalidConfig,
            "`shared` names `storage/logs` and `storage`, but one contains the other".to_owned(),
        ),
        (
            json!({ "shared": ["../etc"] }),
            FailureKind::InvalidConfig,
            "`shared: ../etc` is not a path inside the granted directory".to_owned(),
        ),
    ] {
        let failure = PullStep::apply(&input('a', &config)).unwrap_err();
        assert_eq!((failure.kind, failure.message), (kind, message));
        assert!(failure.hint.is_some() || config.get("from").is_some());
        assert!(!app.join("releases").exists() || file_names(&app.join("releases")).is_empty());
        assert!(!app.join("shared").exists());
    }
}

#[test]
fn a_release_without_a_digest_is_refused() {
    let (_sandbox, _app) = sandbox();
    let mut input = input('a', &json!({}));
    input.release.digest = None;
    let failure = PullStep::apply(&input).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InvalidConfig);
    assert!(failure.hint.unwrap().contains("sha256sum"));
}

#[test]
fn shared_paths_outlive_releases_and_are_not_damage() {
    let (_sandbox, app) = sandbox();
    let config = json!({ "shared": ["storage", "logs/app/", "VERSION"] });
    let (first, second) = (input('a', &config), input('b', &config));
    PullStep::apply(&first).unwrap();
    std::fs::write(app.join("shared/storage/upload"), "by a user").unwrap();
    assert!(is_held(&first));
    PullStep::apply(&second).unwrap();
    assert!(is_held(&second) && is_held(&first));
    let release = app.join("releases").join(folder_name('b'));
    assert_eq!(std::fs::read_to_string(release.join("storage/upload")).unwrap(), "by a user");
    assert_eq!(
        std::fs::read_to_string(release.join("storage/seed")).unwrap(),
        "seed a",
        "the content of the first release is kept"
    );
    assert_eq!(std::fs::read_link(release.join("logs/app")).unwrap(), Path::new("../../../shared/logs/app"));
    assert!(release.join("logs/app").is_dir());

    // Damage elsewhere is still found, and so is a missing link.
    std::fs::remove_file(release.join("bin/shop")).unwrap();
    std::fs::remove_file(release.join("storage")).unwrap();
    match PullStep::probe(&second).unwrap() {
        Finding::Drifted(why) => {
            assert!(why.ends_with("missing: bin/shop; changed: storage (not a link to shared/storage)"), "{why}");
        }
        other @ (Finding::Held(_) | Finding::Absent | Finding::Unknown(_)) => panic!("{other:?}"),
    }
    // When a path becomes shared later, its old content moves to `shared/`, and the release links to it.
    let wider = input('a', &json!({ "shared": ["storage", "logs/app/", "VERSION", "bin"] }));
    assert!(!matches!(PullStep::probe(&wider).unwrap(), Finding::Held(_)));
    PullStep::apply(&wider).unwrap();
    assert!(is_held(&wider));
    assert_eq!(std::fs::read_to_string(app.join("shared/bin/shop")).unwrap(), "binary a");
}

#[test]
fn revert_keeps_the_live_release() {
    let (sandbox, app) = sandbox();
    let mut input = input('a', &json!({}));
    let receipt = PullStep::apply(&input).unwrap();
    input.head = Some(EnvironmentHead { live: Some(release('a')) });
    PullStep::revert(&input, &receipt).unwrap();
    assert!(is_held(&input));
    input.head = Some(EnvironmentHead { live: Some(release('b')) });
    sandbox.kill_after(3);
    assert!(PullStep::revert(&input, &receipt).is_err());
    sandbox.revive();
    assert_eq!(PullStep::probe(&input).unwrap(), Finding::Absent, "a part of a release is never left under its name");
    PullStep::revert(&input, &receipt).unwrap();
    assert_eq!(file_names(&app.join("releases")), [""; 0]);
}

#[test]
fn directory_defaults_to_the_only_grant() {
    let (_sandbox, _app) = sandbox();
    let mut input = input('a', &json!({}));
    input.config.into = None;
    assert_eq!(PullStep::apply(&input).unwrap().outputs["dir"], "app");
    assert_eq!(mirrors::source_dir("file:/dist/x"), Some("dist"));
    assert_eq!(mirrors::source_dir("https://example.org/x"), None);
}

#[test]
fn pull_of_another_release_finishes_a_killed_repair() {
    let (first, second) = (input('a', &json!({})), input('b', &json!({})));
    for writes in 0.. {
        let (sandbox, app) = sandbox();
        PullStep::apply(&first).unwrap();
        let folder = app.join("releases").join(folder_name('a'));
        std::fs::write(folder.join("bin/shop"), "worm").unwrap();
        std::fs::create_dir(folder.join("venv")).unwrap();
        std::fs::write(folder.join("venv/lib"), "made by a later step").unwrap();
        sandbox.kill_after(writes);
        let outcome = PullStep::apply(&first);
        sandbox.revive();
        PullStep::apply(&second).unwrap();
        assert!(folder.join("venv/lib").is_file(), "killed after {writes}");
        assert_eq!(file_names(&app.join("releases")), [folder_name('a'), folder_name('b')], "killed after {writes}");
        if outcome.is_ok() {
            break;
        }
    }
}

#[test]
fn repair_never_loses_what_belongs_in_shared() {
    let (_sandbox, app) = sandbox();
    PullStep::apply(&input('a', &json!({}))).unwrap();
    let uploads = app.join("releases").join(folder_name('a')).join("uploads");
    std::fs::create_dir(&uploads).unwrap();
    std::fs::write(uploads.join("photo"), "of a user").unwrap();
    let later = input('a', &json!({ "shared": ["uploads/"] }));
    PullStep::apply(&later).unwrap();
    assert!(is_held(&later) && app.join("shared/uploads/photo").is_file());
    // A link that was replaced by a folder, while `shared/` has files too.
    std::fs::remove_file(&uploads).unwrap();
    std::fs::create_dir(&uploads).unwrap();
    std::fs::write(uploads.join("photo"), "a later one").unwrap();
    let failure = PullStep::apply(&later).unwrap_err();
    assert!(
        failure.message.contains("has files of its own, and `app/shared/uploads` exists too"),
        "{}",
        failure.message
    );
    assert_eq!(std::fs::read_to_string(uploads.join("photo")).unwrap(), "a later one");
}

/// Makes the folder of release `a` one of another name: an older runner's, or one of an earlier label.
fn pulled_as(app: &Path, name: &str) -> PathBuf {
    PullStep::apply(&input('a', &json!({}))).unwrap();
    let folder = app.join("releases").join(name);
    std::fs::rename(app.join("releases").join(folder_name('a')), &folder).unwrap();
    std::fs::write(folder.join(releases::DIGEST_FILE), format!("sha256:{} {name}\n", hex('a'))).unwrap();
    folder
}

#[test]
fn content_is_found_under_an_older_name_and_under_another_label() {
    let input = input('a', &json!({}));
    for name in [hex('a'), "v1-aaaaaaaa".to_owned(), "v1-aaaaaaaaaaaa".to_owned(), format!("v1-{}", hex('a'))] {
        let (_sandbox, app) = sandbox();
        let folder = pulled_as(&app, &name);
        if name == hex('a') {
            std::fs::remove_file(folder.join(releases::DIGEST_FILE)).unwrap();
        }
        assert!(is_held(&input), "{name}");
        assert_eq!(PullStep::preview(&input).unwrap(), [], "{name}");
        let receipt = PullStep::apply(&input).unwrap();
        assert_eq!(
            (&receipt.outputs["path"], &receipt.outputs["label"]),
            (&json!(format!("releases/{name}")), &json!("va"))
        );
        // Its repair keeps the name too.
        std::fs::write(folder.join("bin/shop"), "worm").unwrap();
        PullStep::apply(&input).unwrap();
        assert!(is_held(&input), "{name}");
        assert_eq!(file_names(&app.join("releases")), [name.as_str()]);
        PullStep::revert(&input, &receipt).unwrap();
        assert_eq!(file_names(&app.join("releases")), [""; 0], "{name}");
    }
}

#[test]
fn name_that_another_content_has_is_lengthened() {
    let (sandbox, app) = sandbox();
    let near = format!("{}{}", "a".repeat(10), "b".repeat(54));
    sandbox.archive("file:dist/shop-near.tar.zst", &format!("sha256:{near}"), &[("VERSION", "va")]);
    let mut other = input('a', &json!({ "from": "file:dist/shop-near.tar.zst" }));
    other.release.digest = Some(Digest::try_from(format!("sha256:{near}")).unwrap());
    let first = input('a', &json!({}));
    for input in [&first, &other] {
        PullStep::apply(input).unwrap();
    }
    assert!(is_held(&first) && is_held(&other));
    assert_eq!(file_names(&app.join("releases")), ["va-aaaaaaaa", "va-aaaaaaaaaabb"]);
    // What says of no release is nobody's, and stays.
    let mut third = input('b', &json!({}));
    third.release.label = "r".to_owned();
    std::fs::write(app.join("releases/r-bbbbbbbb"), "by hand").unwrap();
    std::fs::create_dir(app.join("releases/r-bbbbbbbbbbbb")).unwrap();
    assert_eq!(PullStep::apply(&third).unwrap().outputs["path"], format!("releases/r-{}", "b".repeat(16)));
    assert_eq!(std::fs::read_to_string(app.join("releases/r-bbbbbbbb")).unwrap(), "by hand");
}

#[test]
fn long_label_is_cut() {
    let (_sandbox, _app) = sandbox();
    let mut input = input('a', &json!({}));
    input.release.label = "1.0+build.".repeat(12);
    let path = PullStep::apply(&input).unwrap().outputs["path"].as_str().unwrap().to_owned();
    assert_eq!(path, format!("releases/{}-aaaaaaaa", "1.0+build.".repeat(7)));
    assert!(is_held(&input));
}

#[test]
fn temporary_folders_of_an_older_runner_are_finished_or_removed() {
    let input = input('a', &json!({}));
    for (left, is_brought_back) in
        [("ready", true), ("old", true), ("new", false), ("removed", false), ("pruned", false)]
    {
        for name in [hex('a'), "v1-aaaaaaaa".to_owned()] {
            let (_sandbox, app) = sandbox();
            let folder = pulled_as(&app, &name);
            std::fs::write(folder.join("cache"), "made by a later step").unwrap();
            std::fs::rename(&folder, app.join(format!("releases/.tmp-{left}-{name}"))).unwrap();
            assert_eq!(PullStep::probe(&input).unwrap(), Finding::Absent);
            PullStep::apply(&input).unwrap();
            let expected = if is_brought_back { name.clone() } else { folder_name('a') };
            assert_eq!(file_names(&app.join("releases")), [expected], "{left} {name}");
            assert_eq!(folder.join("cache").exists(), is_brought_back, "{left} {name}");
        }
    }
}

#[test]
fn mirrors_are_tried_until_one_has_the_release() {
    let (sandbox, app) = sandbox();
    sandbox.archive("file:dist/wrong.tar", &format!("sha256:{}", hex('c')), &[("f", "x")]);
    let good = "file:dist/shop-a.tar.zst";
    let from = json!({ "from": ["file:dist/none.tar", "file:dist/wrong.tar", good] });
    let receipt = PullStep::apply(&input('a', &from)).unwrap();
    assert_eq!(receipt.notes["mirror"], good);
    assert_eq!(file_names(&app.join("releases")), [folder_name('a')]);

    let failure =
        PullStep::apply(&input('b', &json!({ "from": ["file:dist/wrong.tar", "file:dist/none.tar"] }))).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadContent, "what is wrong weighs more than what is missing");
    let wrong = format!("`file:dist/wrong.tar` has the digest sha256:{}, not sha256:{}", hex('c'), hex('b'));
    assert_eq!(
        failure.message,
        format!(
            "none of the 2 mirrors has the release: `file:dist/wrong.tar`: {wrong}; `file:dist/none.tar`: `file:dist/none.tar` does not exist"
        )
    );
    assert_eq!(file_names(&app.join("releases")), [folder_name('a')]);
    let failure = PullStep::apply(&input('a', &json!({ "from": [] }))).unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::InvalidConfig, "`from` has no source"));
}
