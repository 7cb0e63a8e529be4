//! What a journal names must be on the disk no later than the journal itself: after a power loss, a chain without one of its
//! lines could not be read.

use anyhow::{Context as _, Result, ensure};

use super::{KillHarness, KillScenario, deploy_arguments, strace, strace::TracedCall};

/// The first attempt is killed before it synced its journal, as its second line is written; the next attempt follows that line.
#[test]
fn the_previous_journal_is_synced_before_the_next_one() -> Result<()> {
    let bench = KillHarness::new(KillScenario::FirstDeployment)?;
    let (arguments, folder) = (deploy_arguments("r1"), tempfile::tempdir()?);
    let shop = bench.initial.copy_to(&folder.path().join("shop"))?;
    let is_write = |call: &TracedCall| call.name == "write" && call.text.contains("attempt-000001.journal>");
    let killed = strace::run_traced(&shop, &arguments, |call| is_write(call) && call.text.contains("\\\"seq\\\":1,"))?;
    ensure!(killed.killed_after.is_some(), "no call wrote the second line: {:?}", killed.status);
    ensure!(sync_of(&killed.calls, "attempt-000001.journal").is_none(), "it was synced before the kill");

    let next = strace::run_traced(&shop, &arguments, |_| false)?;
    let previous = sync_of(&next.calls, "attempt-000001.journal").context("the previous journal was not synced")?;
    let own = sync_of(&next.calls, "attempt-000002.journal").context("the new journal was not synced")?;
    ensure!(previous < own, "the new journal was synced by call {own}, the previous one by call {previous}");
    Ok(())
}

/// The first call that syncs a file.
fn sync_of(calls: &[TracedCall], file: &str) -> Option<usize> {
    let is_sync = |call: &&TracedCall| {
        matches!(call.name.as_str(), "fsync" | "fdatasync") && call.text.contains(&format!("/{file}>"))
    };
    calls.iter().find(is_sync).map(|call| call.index)
}
