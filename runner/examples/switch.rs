//! Times one call of `switch` whose code is loaded: a store, an instance, the new link, the note and the rename, four syncs among them. Beside
//! it are the same calls, made by this process itself. Prints two medians in nanoseconds. For `cargo xtask bench switches`.

mod bench_journal;
mod prepared_plan;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use contract::{TargetName, step::StepOutcome};
use journal::{StepTarget, event::Fingerprint, file::StepEffect};
use sandbox::CallChannel;

const ROUNDS: usize = 200;

const PLAN: &str = r#"{"version": 1, "app": "bench", "steps": {"switch": {
    "with": {"link": "live", "to": "slots/a"}, "grants": {"dirs": {"app": "./app"}}}}}"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("usage: switch FOLDER")?;
    let folder = tempfile::tempdir_in(folder)?;
    for slot in ["a", "b"] {
        fs::create_dir_all(folder.path().join("app/slots").join(slot))?;
    }
    let prepared = prepared_plan::prepare(folder.path(), PLAN).await?;
    let [ready] = &prepared.steps[..] else { return Err(anyhow!("the plan has one step")) };
    let mut journal = bench_journal::create(&folder.path().join("attempt-000001.journal"))?;
    let place = StepTarget { step: "switch".parse()?, target: TargetName::local() };

    let bare_folder = folder.path().join("bare");
    fs::create_dir(&bare_folder)?;
    let (mut times, mut bare) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (key, to) = (format!("{round:016x}"), format!("slots/{}", ["a", "b"][round % 2]));
        let input = serde_json::json!({
            "app": "bench", "environment": "default", "run": "1-abcdef", "attempt": 1, "epoch": 1, "lineage": "bench", "step": "switch",
            "target": "local", "key": key, "input-hash": key, "config": {"link": "live", "to": to},
            "release": {"label": "r1", "digest": null}, "outputs": {}, "head": {"live": null},
        });
        let intent = journal.record_intent(&place, &key, Fingerprint::default(), input, StepEffect::Exposing)?;
        let began = Instant::now();
        let done = prepared.executor(ready).apply(&ready.step, intent, CallChannel::unobserved()).await;
        times.push(began.elapsed());
        ensure!(matches!(done.outcome(), StepOutcome::Succeeded { .. }), "{:?}", done.outcome());
        ensure!(fs::read_link(folder.path().join("app/live"))?.to_str() == Some(&to), "the link does not lead to {to}");
        journal.record_outcome(done)?;
        let note = fs::read(folder.path().join("app/.live.switch"))?;
        let began = Instant::now();
        switch_bare(&bare_folder, &to, &note)?;
        bare.push(began.elapsed());
    }
    for times in [&mut times, &mut bare] {
        times.sort();
        #[expect(clippy::print_stdout, reason = "its output is read by xtask")]
        {
            println!("{}", times[ROUNDS / 2].as_nanos());
        }
    }
    Ok(())
}

/// What the module does, without a look at what is there.
fn switch_bare(folder: &Path, to: &str, note: &[u8]) -> Result<()> {
    let dir = File::open(folder)?;
    symlink(to, folder.join("new"))?;
    dir.sync_all()?;
    let mut file = File::create(folder.join("note.new"))?;
    file.write_all(note)?;
    file.sync_all()?;
    fs::rename(folder.join("note.new"), folder.join("note"))?;
    dir.sync_all()?;
    fs::rename(folder.join("new"), folder.join("live"))?;
    Ok(dir.sync_all()?)
}
