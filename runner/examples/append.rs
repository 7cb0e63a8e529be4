//! Times the journal: appends and syncs an intent and its outcome, and compares this with bare writes and `fdatasync` of
//! lines of the same length. Prints two medians in nanoseconds per record: the journal's, then the bare one. For
//! `cargo xtask bench append`.

mod bench_journal;

use std::{
    fs::OpenOptions,
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use contract::{
    TargetName,
    step::{Receipt, StepOutcome},
};
use journal::{StepTarget, event::Fingerprint, file::StepEffect};

const ROUNDS: usize = 200;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("usage: append FOLDER")?;
    let folder = tempfile::tempdir_in(folder)?;
    let path = folder.path().join("attempt-000001.journal");
    let mut journal = bench_journal::create(&path)?;
    let place = StepTarget { step: "migrate".parse()?, target: TargetName::local() };
    let input = serde_json::json!({"config": {"dir": "migrations", "database": "main"}, "key": "0123456789abcdef"});
    let bare_path = folder.path().join("bare");
    let mut bare_file = OpenOptions::new().append(true).create_new(true).open(&bare_path)?;

    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let size = std::fs::metadata(&path)?.len();
        let began = Instant::now();
        let intent = journal.record_intent(
            &place,
            "0123456789abcdef",
            Fingerprint::default(),
            input.clone(),
            StepEffect::Mutating,
        )?;
        journal
            .record_outcome(intent.complete(StepOutcome::Succeeded { receipt: Receipt::default() }, Duration::ZERO))?;
        ours.push(began.elapsed() / 2);

        let line = vec![b'x'; usize::try_from((std::fs::metadata(&path)?.len() - size) / 2)?];
        let began = Instant::now();
        for _ in 0..2 {
            bare_file.write_all(&line)?;
            bare_file.sync_data()?;
        }
        bare.push(began.elapsed() / 2);
    }
    for times in [&mut ours, &mut bare] {
        times.sort();
        #[expect(clippy::print_stdout, reason = "its output is read by xtask")]
        {
            println!("{}", times[ROUNDS / 2].as_nanos());
        }
    }
    Ok(())
}
