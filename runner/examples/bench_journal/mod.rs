//! The journal of a benchmark.

use std::path::Path;

use anyhow::Result;
use contract::AttemptNumber;
use journal::{
    Journal, LoadedJournals, Redactor,
    event::{FORMAT, JournalHeader, MAGIC, Release},
};

/// Creates the file.
pub fn create(path: &Path) -> Result<Journal> {
    let header = JournalHeader {
        magic: MAGIC.to_owned(),
        format: FORMAT,
        app: "bench".parse()?,
        environment: "default".parse()?,
        run: "1-abcdef".parse()?,
        attempt: AttemptNumber::FIRST,
        epoch: 1,
        release: Release { label: "r1".parse()?, digest: None },
        runner: "bench".to_owned(),
        by: "bench@host".to_owned(),
        commit: None,
        url: None,
        machine: None,
    };
    Ok(Journal::create(path, header, LoadedJournals::default(), Redactor::default(), Box::new(|_| {}))?)
}
