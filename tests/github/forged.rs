//! Journals that the runner did not write, or not for this job: what is refused, what is passed over, and what harms nothing.

use std::io::{Cursor, Write as _};

use contract::step::StepOutcome;
use journal::{JournalEvent, event::JournalEntry, line};
use serde_json::{Value, json};

use super::resume::{
    KEY, artifact_after_post, configure_ci, failed_first_attempt, fresh_machine, run_attempt, unzip_files,
};
use crate::artifact_service::FakeArtifactService;

fn zip_files(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint whose journal was written anew, line by line, with hashes that fit; `None` ends it there.
pub(super) fn forge_checkpoint(
    zip: &[u8],
    mut change: impl FnMut(&mut JournalEvent) -> Option<()>,
    manifest: impl Fn(&mut Value),
) -> Vec<u8> {
    let mut all = unzip_files(zip);
    let (_, journal) = all.iter_mut().find(|(name, _)| name.ends_with(".journal")).unwrap();
    let (mut prev, mut written) = (None, Vec::new());
    for line in journal.split_inclusive(|byte| *byte == b'\n') {
        let (mut entry, _) = line::decode(line.strip_suffix(b"\n").unwrap()).unwrap();
        if change(&mut entry.event).is_none() {
            break;
        }
        let line = line::encode(&JournalEntry { prev, ..entry });
        prev = Some(line.hash);
        written.extend_from_slice(&line.bytes);
    }
    *journal = written;
    let (bytes, hash) = (journal.len(), contract::hash::Blake3Hash::of(journal));
    let (_, text) = all.iter_mut().find(|(name, _)| name == "pawl.json").unwrap();
    let mut value: Value = serde_json::from_slice(text).unwrap();
    value["journals"][0]["bytes"] = json!(bytes);
    value["journals"][0]["hash"] = json!(hash);
    manifest(&mut value);
    *text = serde_json::to_vec(&value).unwrap();
    zip_files(&all)
}

pub(super) fn remove_mac(manifest: &mut Value) {
    manifest.as_object_mut().unwrap().remove("mac");
}

#[test]
fn forged_journal_is_ignored_with_a_key() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some(KEY));
    let genuine = artifact_after_post(&first, &service);
    // It leaves out all that was done, and says that it is newer.
    let forgery = forge_checkpoint(
        &service.content(&genuine),
        |event| (!matches!(event, JournalEvent::Intent { .. })).then_some(()),
        remove_mac,
    );
    service.add_artifact("pawl-shop-test-deploy-a01-s9999-forged", &forgery);
    let mut second = fresh_machine(&first);
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("ignored an artifact: pawl-shop-test-deploy-a01-s9999-forged"));
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
    // An older one under a newer name, which has its MAC, is not the newest.
    let service = FakeArtifactService::start();
    let mut late = failed_first_attempt(&service, Some(KEY));
    let older = service.content(&artifact_after_post(&late, &service));
    run_attempt(&mut late, 2).assert_exit(0);
    service.add_artifact("pawl-shop-test-deploy-a02-s9999-replayed", &older);
    let answer = run_attempt(&mut late, 3);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("ignored an artifact: pawl-shop-test-deploy-a02-s9999-replayed"));
    // Nor is what is no checkpoint at all.
    service.add_artifact("pawl-shop-test-deploy-a03-s9999-junk", b"junk");
    run_attempt(&mut late, 4).assert_exit(0);
    // With nothing else there, it is refused.
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-shop-test-deploy-a01-s9999-forged", &forgery);
    let mut third = fresh_machine(&first);
    configure_ci(&mut third, &service);
    let answer = run_attempt(&mut third, 2);
    answer.assert_exit(2);
    assert!(answer.stdout.contains("P0241"), "{}", answer.stdout);
    assert!(!third.exists("deploy/test/shop.db"), "nothing was done");
    // The wrong key is no key.
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, Some("another key"));
    let mut fourth = fresh_machine(&first);
    fourth.set_variable("PAWL_KEY", KEY);
    run_attempt(&mut fourth, 2).assert_exit(65);
}

#[test]
fn forged_journal_does_no_harm_without_a_key() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    let genuine = artifact_after_post(&first, &service);
    // Says that everything is done, and that the release lies somewhere else.
    let mut fingerprints = 0;
    let forgery = forge_checkpoint(
        &service.content(&genuine),
        |event| {
            match event {
                JournalEvent::Outcome { outcome: result, .. } => {
                    let mut receipt = contract::step::Receipt::default();
                    receipt.outputs.insert("path".to_owned(), json!("releases/evil"));
                    *result = StepOutcome::Succeeded { receipt };
                    fingerprints += 1;
                }
                JournalEvent::Ended { verified, .. } => *verified = true,
                _ => {}
            }
            Some(())
        },
        |_| {},
    );
    assert!(fingerprints > 0);
    let lines = unzip_files(&forgery).pop().unwrap().1.iter().filter(|byte| **byte == b'\n').count();
    // Of two with the same number of lines, it is the first by its name.
    service.add_artifact(&format!("pawl-shop-test-deploy-a01-s{lines:04}-0000000forged"), &forgery);
    let mut second = fresh_machine(&first);
    second.write("deploy/test/releases/evil/VERSION", "r1");
    let answer = run_attempt(&mut second, 2);
    answer.assert_exit(0);
    assert!(
        second.live_target().ends_with("releases/r1") || !second.live_target().contains("evil"),
        "{}",
        second.live_target()
    );
    assert_eq!(second.sql("SELECT count(*) FROM orders"), "0", "what it said is done was done");
    assert!(
        !answer.decisions().iter().any(|decision| decision == "migrate skip held") || second.sql("SELECT 1") == "1"
    );
}

#[test]
fn journal_of_another_deployment_is_rejected() {
    let service = FakeArtifactService::start();
    let first = failed_first_attempt(&service, None);
    let genuine = service.content(&artifact_after_post(&first, &service));
    for (what, value) in [
        ("repository", "acme/other"),
        ("workflow-run", "1"),
        ("environment", "prod"),
        ("plan", "other.yml"),
        ("app", "other"),
        ("job", "other"),
    ] {
        let service = FakeArtifactService::start();
        let other = forge_checkpoint(&genuine, |_| Some(()), |manifest| manifest[what] = json!(value));
        service.add_artifact("pawl-shop-test-deploy-a01-s9999-other", &other);
        let mut second = fresh_machine(&first);
        configure_ci(&mut second, &service);
        let answer = run_attempt(&mut second, 2);
        answer.assert_exit(65);
        assert!(answer.stdout.contains("P0523") && answer.stdout.contains(value), "{what}: {}", answer.stdout);
        assert!(
            !second.exists("deploy/test/shop.db")
                && second.list(".pawl/shop/test").iter().all(|name| !name.ends_with(".journal"))
        );
    }
    // Nor is one that does not keep its own word.
    let mut damaged = unzip_files(&genuine);
    damaged.iter_mut().find(|(name, _)| name.ends_with(".journal")).unwrap().1[40] ^= 1;
    let service = FakeArtifactService::start();
    service.add_artifact("pawl-shop-test-deploy-a01-s9999-damaged", &zip_files(&damaged));
    let mut second = fresh_machine(&first);
    configure_ci(&mut second, &service);
    run_attempt(&mut second, 2).assert_exit(65);
}
