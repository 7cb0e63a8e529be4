//! Errors of journals.

use std::fs;

use contract::hash::Blake3Hash;
use journal::{JournalEvent, event::JournalEntry, line};
use serde_json::json;

use super::check_page;
use crate::support::{GuestFixture, TestEnvironment};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];
const JOURNAL: &str = ".pawl/shop/test/attempt-000001.journal";

/// Writes the journal anew with changed events and hashes that fit.
fn rewrite_journal(environment: &TestEnvironment, mut change: impl FnMut(&mut JournalEvent)) {
    let (mut prev, mut written) = (None, Vec::new());
    for line in environment.read(JOURNAL).lines() {
        let (mut entry, _) = line::decode(line.as_bytes()).unwrap();
        change(&mut entry.event);
        let line = line::encode(&JournalEntry { prev, ..entry });
        prev = Some(line.hash);
        written.extend_from_slice(&line.bytes);
    }
    environment.write(JOURNAL, written);
}

/// A folder is where the next journal must be.
#[test]
fn p0601_journal_that_cannot_be_written() {
    let environment = TestEnvironment::deployed();
    fs::create_dir(environment.path(".pawl/shop/test/attempt-000002.journal")).unwrap();
    check_page("P0601", &environment, DEPLOY);
}

#[test]
fn p0602_corrupt_line() {
    let environment = TestEnvironment::deployed();
    environment.edit(JOURNAL, "\"succeeded\"", "\"suceeeded\"");
    check_page("P0602", &environment, DEPLOY);
}

#[test]
fn p0603_missing_line() {
    let environment = TestEnvironment::deployed();
    let journal = environment.read(JOURNAL);
    let lines: Vec<_> = journal.split_inclusive('\n').collect();
    environment.write(JOURNAL, [&lines[..5], &lines[6..]].concat().concat());
    check_page("P0603", &environment, DEPLOY);
}

/// A newer runner gives a reason that this one does not know: what it wrote is shown, and not called corrupt.
#[test]
fn unknown_reason_of_a_newer_runner_is_not_corrupt() {
    let environment = TestEnvironment::deployed();
    rewrite_journal(&environment, |event| {
        if let JournalEvent::Started(header) = event {
            header.format.minor += 1;
        }
    });
    let (mut prev, mut written) = (None, String::new());
    for line in environment.read(JOURNAL).lines() {
        let mut entry: serde_json::Value = serde_json::from_str(&line[9..]).unwrap();
        entry["prev"] = json!(prev);
        if entry["event"]["type"] == "decision" && entry["event"]["step"] == "migrate" {
            entry["event"]["decision"]["reason"]["because"] = json!("full-moon");
        }
        let json = entry.to_string();
        let line = format!("{:08x} {json}", crc32c::crc32c(json.as_bytes()));
        prev = Some(Blake3Hash::of(line.as_bytes()));
        written += &format!("{line}\n");
    }
    environment.write(JOURNAL, written);
    let status = environment.run(&["status", "--json"]);
    status.assert_exit(0);
    assert_eq!(status.json()[0]["live"]["release"]["label"], "r1");
    environment.run(&["why", "switch"]).assert_exit(0);
    environment.run(&["journal", "check", ".pawl/shop/test"]).assert_exit(0);
    environment.run(DEPLOY).assert_exit(65).assert_stderr_contains("error[P0604]");
}

#[test]
fn p0604_journal_of_a_newer_runner() {
    let environment = TestEnvironment::deployed();
    rewrite_journal(&environment, |event| {
        if let JournalEvent::Started(header) = event {
            header.format.minor += 1;
        }
    });
    check_page("P0604", &environment, DEPLOY);
}

#[test]
fn p0605_record_that_is_too_long() {
    let fixture = GuestFixture::new(json!({ "do": "nothing", "text": "x".repeat(70_000) }), json!({}));
    check_page("P0605", &fixture.environment, DEPLOY);
}
