//! What an operator said of a step with `runner resolve`: in the attempt itself, or after the record that the attempt found.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::report::messages;
use contract::text::format_time;
use journal::{
    JournalEvent, RecordOrigin, StepTarget,
    event::{JournalEntry, Resolution},
};
use state::{AttemptChoice, RecordedAttempt, StateStore};

/// A resolution on record.
pub(super) struct RecordedResolution {
    epoch: u64,
    at: Timestamp,
    resolution: Resolution,
    by: String,
    message: String,
}

impl RecordedResolution {
    /// The resolution in an entry, if it is about this step.
    pub(super) fn of_entry(entry: &JournalEntry, epoch: u64, of: &StepTarget) -> Option<Self> {
        let JournalEvent::Resolved { step_target, resolution, by, message } = &entry.event else { return None };
        (step_target == of).then(|| Self {
            epoch,
            at: entry.at,
            resolution: resolution.clone(),
            by: by.clone(),
            message: message.clone(),
        })
    }

    pub(super) fn text(&self) -> String {
        let Self { epoch, at, resolution, by, message } = self;
        format!("as {} by {by} in epoch {epoch}, {}: {message}", messages::resolution(resolution), format_time(*at))
    }

    pub(super) fn json(&self) -> Value {
        let Self { epoch, at, resolution, by, message } = self;
        json!({ "as": messages::resolution(resolution), "by": by, "message": message, "epoch": epoch, "at": at })
    }
}

/// What an operator said of a step between its record and an attempt. None if the journal with it can't be read: it may be an old one.
pub(super) fn resolution_before(
    store: &StateStore,
    attempt: &RecordedAttempt,
    step: &StepTarget,
) -> Option<RecordedResolution> {
    let record = attempt.before.records.get(step);
    let epoch = match record.map(|record| &record.origin) {
        Some(RecordOrigin::Operator { epoch }) => Some(*epoch),
        // One as undone or not begun is not the origin of a record: it is looked for among the newest attempts.
        Some(RecordOrigin::Machine(_)) | None => {
            let since = record.map_or(0, |record| record.intent.epoch);
            let later = attempt.before.attempts.iter().rev().take_while(|earlier| earlier.header.epoch > since);
            let mut resolved = later.filter(|earlier| earlier.resolved_step.as_ref() == Some(step));
            resolved.next().map(|earlier| earlier.header.epoch)
        }
    }?;
    let recorded = store.recorded_attempt(AttemptChoice::Epoch(epoch)).ok()??;
    recorded.entries.iter().find_map(|entry| RecordedResolution::of_entry(entry, epoch, step))
}
