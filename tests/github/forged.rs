//! Journals that the runner did not write, or not for this job: what is refused, what is passed over, and what harms nothing.

use std::io::{Cursor, Write as _};

use contract::step::Outcome;
use journal::{Event, event::Entry, line};
use serde_json::{Value, json};

use super::resume::{KEY, attempt, enrol, failed, files, fresh, settled};
use crate::artifact_service::ArtifactService;

fn zipped(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint whose journal was written anew, line by line, with hashes that fit; `None` ends it there.
fn forged(zip: &[u8], mut change: impl FnMut(&mut Event) -> Option<()>, manifest: impl Fn(&mut Value)) -> Vec<u8> {
    let mut all = files(zip);
    let (_, journal) = all.iter_mut().find(|(name, _)| name.ends_with(".journal")).unwrap();
    let (mut prev, mut written) = (None, Vec::new());
    for line in journal.split_inclusive(|byte| *byte == b'\n') {
        let (mut entry, _) = line::decode(line.strip_suffix(b"\n").unwrap()).unwrap();
        if change(&mut entry.event).is_none() {
            break;
        }
        let line = line::encode(&Entry { prev, ..entry });
        prev = Some(line.hash);
        written.extend_from_slice(&line.bytes);
    }
    *journal = written;
    let (bytes, hash) = (journal.len(), contract::hash::Hash::of(journal));
    let (_, text) = all.iter_mut().find(|(name, _)| name == "pawl.json").unwrap();
    let mut value: Value = serde_json::from_slice(text).unwrap();
    value["journals"][0]["bytes"] = json!(bytes);
    value["journals"][0]["hash"] = json!(hash);
    manifest(&mut value);
    *text = serde_json::to_vec(&value).unwrap();
    zipped(&all)
}

fn without_mac(manifest: &mut Value) {
    manifest.as_object_mut().unwrap().remove("mac");
}

#[test]
fn a_forged_journal_is_passed_over_with_a_key() {
    let service = ArtifactService::start();
    let first = failed(&service, Some(KEY));
    let genuine = settled(&first, &service);
    // It leaves out all that was done, and says that it is newer.
    let forgery =
        forged(&service.content(&genuine), |event| (!matches!(event, Event::Intent { .. })).then_some(()), without_mac);
    service.plant("pawl-shop-test-deploy-a01-s9999-forged", &forgery);
    let mut second = fresh(&first);
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("passed over an artifact of this run: pawl-shop-test-deploy-a01-s9999-forged"));
    assert_eq!(answer.decisions()[1], "migrate run failed-before");
    // An older one under a newer name, which has its MAC, is not the newest.
    let service = ArtifactService::start();
    let mut late = failed(&service, Some(KEY));
    let older = service.content(&settled(&late, &service));
    attempt(&mut late, 2).assert_exit(0);
    service.plant("pawl-shop-test-deploy-a02-s9999-replayed", &older);
    let answer = attempt(&mut late, 3);
    answer.assert_exit(0);
    assert!(answer.stdout.contains("passed over an artifact of this run: pawl-shop-test-deploy-a02-s9999-replayed"));
    // Nor is what is no checkpoint at all.
    service.plant("pawl-shop-test-deploy-a03-s9999-junk", b"junk");
    attempt(&mut late, 4).assert_exit(0);
    // With nothing else there, it is refused.
    let service = ArtifactService::start();
    service.plant("pawl-shop-test-deploy-a01-s9999-forged", &forgery);
    let mut third = fresh(&first);
    enrol(&mut third, &service);
    let answer = attempt(&mut third, 2);
    answer.assert_exit(65);
    assert!(answer.stdout.contains("P0522"), "{}", answer.stdout);
    assert!(!third.exists("deploy/test/shop.db"), "nothing was done");
    // The wrong key is no key.
    let service = ArtifactService::start();
    let first = failed(&service, Some("another key"));
    let mut fourth = fresh(&first);
    fourth.set("PAWL_KEY", KEY);
    attempt(&mut fourth, 2).assert_exit(65);
}

#[test]
fn a_forged_journal_harms_nothing_without_a_key() {
    let service = ArtifactService::start();
    let first = failed(&service, None);
    let genuine = settled(&first, &service);
    // Says that everything is done, and that the release lies somewhere else.
    let mut fingerprints = 0;
    let forgery = forged(
        &service.content(&genuine),
        |event| {
            match event {
                Event::Outcome { result, .. } => {
                    let mut receipt = contract::step::Receipt::default();
                    receipt.outputs.insert("path".to_owned(), json!("releases/evil"));
                    *result = Outcome::Succeeded { receipt };
                    fingerprints += 1;
                }
                Event::Ended { verified, .. } => *verified = true,
                _ => {}
            }
            Some(())
        },
        |_| {},
    );
    assert!(fingerprints > 0);
    let lines = files(&forgery).pop().unwrap().1.iter().filter(|byte| **byte == b'\n').count();
    // Of two with the same number of lines, it is the first by its name.
    service.plant(&format!("pawl-shop-test-deploy-a01-s{lines:04}-0000000forged"), &forgery);
    let mut second = fresh(&first);
    second.write("deploy/test/releases/evil/VERSION", "r1");
    let answer = attempt(&mut second, 2);
    answer.assert_exit(0);
    assert!(second.live().ends_with("releases/r1") || !second.live().contains("evil"), "{}", second.live());
    assert_eq!(second.sql("SELECT count(*) FROM orders"), "0", "what it said is done was done");
    assert!(
        !answer.decisions().iter().any(|decision| decision == "migrate skip held") || second.sql("SELECT 1") == "1"
    );
}

#[test]
fn a_journal_of_something_else_is_refused() {
    let service = ArtifactService::start();
    let first = failed(&service, None);
    let genuine = service.content(&settled(&first, &service));
    for (what, value) in [
        ("repository", "acme/other"),
        ("workflow-run", "1"),
        ("environment", "prod"),
        ("plan", "other.yml"),
        ("app", "other"),
        ("job", "other"),
    ] {
        let service = ArtifactService::start();
        let other = forged(&genuine, |_| Some(()), |manifest| manifest[what] = json!(value));
        service.plant("pawl-shop-test-deploy-a01-s9999-other", &other);
        let mut second = fresh(&first);
        enrol(&mut second, &service);
        let answer = attempt(&mut second, 2);
        answer.assert_exit(65);
        assert!(answer.stdout.contains("P0523") && answer.stdout.contains(value), "{what}: {}", answer.stdout);
        assert!(
            !second.exists("deploy/test/shop.db")
                && second.list(".pawl/shop/test").iter().all(|name| !name.ends_with(".journal"))
        );
    }
    // Nor is one that does not keep its own word.
    let mut damaged = files(&genuine);
    damaged.iter_mut().find(|(name, _)| name.ends_with(".journal")).unwrap().1[40] ^= 1;
    let service = ArtifactService::start();
    service.plant("pawl-shop-test-deploy-a01-s9999-damaged", &zipped(&damaged));
    let mut second = fresh(&first);
    enrol(&mut second, &service);
    attempt(&mut second, 2).assert_exit(65);
}
