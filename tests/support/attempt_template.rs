//! An attempt that is written again and again, with the product's own code: long histories in seconds.
//!
//! Each repetition is the next epoch, a run of its own, and for a release of its own. Deliberately absent: the snapshot, the index and
//! the archives, which the next deployment makes, as it does for a folder that an older runner left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use contract::{AttemptNumber, Digest, step::StepPhase};
use journal::{
    Journal, JournalState, LoadedJournals, Redactor, StepTarget,
    event::{JournalEntry, JournalEvent, JournalHeader, Release},
    file::{JournalNote, StepEffect, StepIntent},
};
use state::StateStore;

/// Repeats the newest attempt of a state folder `count` times.
pub(crate) fn repeat_newest_attempt(store: &StateStore, count: u64) -> Result<()> {
    let mut template = Vec::new();
    let loaded = store.load(|entry| {
        if entry.seq == 0 {
            template.clear();
        }
        template.push(entry.clone());
    })?;
    let template = AttemptTemplate::new(template)?;
    let mut state = loaded.state;
    for _ in 0..count {
        let loaded = LoadedJournals { state, ..LoadedJournals::default() };
        state = template.repeat(store, loaded)?;
    }
    Ok(())
}

/// The attempt that is repeated.
struct AttemptTemplate {
    header: JournalHeader,
    rest: Vec<JournalEntry>,
    /// The steps that change nothing.
    checks: BTreeSet<StepTarget>,
}

impl AttemptTemplate {
    fn new(entries: Vec<JournalEntry>) -> Result<Self> {
        let mut entries = entries.into_iter();
        let first = entries.next().context("there is no attempt to repeat")?;
        let JournalEvent::Started(header) = first.event else { bail!("the newest journal has no header") };
        let rest: Vec<_> = entries.collect();
        let ends = matches!(rest.last(), Some(JournalEntry { event: JournalEvent::Ended { .. }, .. }));
        ensure!(ends, "the newest attempt has not ended");
        let mut checks = BTreeSet::new();
        for entry in &rest {
            let JournalEvent::Plan { steps, .. } = &entry.event else { continue };
            let read_only = steps.iter().filter(|step| step.phase == StepPhase::Check);
            checks.extend(read_only.map(|step| step.step_target.clone()));
        }
        Ok(Self { header, rest, checks })
    }

    /// Writes the attempt after those in `loaded`. Returns the state after it.
    fn repeat(&self, store: &StateStore, loaded: LoadedJournals) -> Result<JournalState> {
        let epoch = loaded.state.epoch() + 1;
        let mut sum = [0; 32];
        sum[..8].copy_from_slice(&epoch.to_be_bytes());
        let header = JournalHeader {
            epoch,
            run: format!("{epoch}-{:06x}", epoch & 0xff_ffff).parse()?,
            attempt: AttemptNumber::FIRST,
            release: Release { label: format!("s{epoch}").parse()?, digest: Some(Digest::from_bytes(sum)) },
            ..self.header.clone()
        };
        let path = store.journal_path(epoch);
        let mut journal = Journal::create(&path, header, loaded, Redactor::default(), Box::new(|_| {}))?;
        let mut begun = BTreeMap::new();
        for entry in &self.rest {
            self.write(&mut journal, &mut begun, entry.event.clone())?;
        }
        Ok(journal.state().clone())
    }

    fn write(
        &self,
        journal: &mut Journal,
        begun: &mut BTreeMap<StepTarget, StepIntent>,
        event: JournalEvent,
    ) -> Result<()> {
        match event {
            JournalEvent::Plan { digest, path, steps } => {
                journal.record_note(JournalNote::Plan { digest, path, steps })?
            }
            JournalEvent::Lock { resource, holder } => journal.record_note(JournalNote::Lock { resource, holder })?,
            JournalEvent::Override { option, step, hosts } => {
                journal.record_note(JournalNote::Override { option, step, hosts })?;
            }
            JournalEvent::Progress { step_target, progress } => {
                journal.record_note(JournalNote::Progress { step_target, progress })?;
            }
            JournalEvent::Output { step_target, output } => {
                journal.record_note(JournalNote::Output { step_target, output })?;
            }
            JournalEvent::Probe { step_target, probed_input, took_ms, finding } => {
                let took = Duration::from_millis(took_ms);
                journal.record_probe(&step_target, probed_input, took, finding)?;
            }
            JournalEvent::Decision { step_target, decision } => journal.record_decision(&step_target, decision)?,
            JournalEvent::Intent { step_target, key, fingerprint, input, exposes, release: _ } => {
                let effect = match exposes {
                    true => StepEffect::Exposing,
                    false if self.checks.contains(&step_target) => StepEffect::ReadOnly,
                    false => StepEffect::Mutating,
                };
                let intent = journal.record_intent(&step_target, &key, fingerprint, input, effect)?;
                begun.insert(step_target, intent);
            }
            JournalEvent::Outcome { step_target, took_ms, outcome } => {
                let intent = begun.remove(&step_target).context("an outcome without an intent")?;
                journal.record_outcome(intent.complete(outcome, Duration::from_millis(took_ms)))?;
            }
            JournalEvent::Ended { exit, verified } => journal.record_end(exit, verified)?,
            other @ (JournalEvent::Started(_)
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::UndoIntent { .. }
            | JournalEvent::UndoOutcome { .. }
            | JournalEvent::Resolved { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::Unrecognized) => bail!("{other:?} is not repeated"),
        }
        Ok(())
    }
}
