//! The recorded attempts, as `why`, `logs`, `status` and `history` read them. They need no lock: a running attempt is read as far
//! as it is written.

use serde_json::{Value, json};

use contract::diagnostic::{Diagnostic, ErrorCode};
use contract::text::millis_between;
use journal::{
    JournalEvent, JournalState, LoadedJournals,
    event::{JournalEntry, JournalHeader},
    state::AttemptSummary,
};
use state::StateStore;

/// One attempt with all of its entries, and the state before it.
pub(super) struct RecordedAttempt {
    /// The state before the attempt.
    pub(super) before: JournalState,
    /// The summary of the attempt.
    pub(super) summary: AttemptSummary,
    /// Its entries, in order.
    pub(super) entries: Vec<JournalEntry>,
}

impl RecordedAttempt {
    /// Reads the attempt with this epoch, or the last one.
    ///
    /// # Errors
    /// P0211 when there is no such attempt, P0212 when there is no attempt at all; P06xx when a journal cannot be read.
    pub(super) fn read(store: &StateStore, epoch: Option<u64>) -> Result<Self, Diagnostic> {
        let paths = store.journal_paths().map_err(|error| Diagnostic::from(&error))?;
        let (mut entries, mut is_wanted) = (Vec::new(), false);
        let loaded = LoadedJournals::read(&paths, |entry| {
            if let JournalEvent::Started(header) = &entry.event {
                is_wanted = epoch.is_none_or(|epoch| epoch == header.epoch);
                if is_wanted {
                    entries.clear();
                }
            }
            if is_wanted {
                entries.push(entry.clone());
            }
        });
        let mut attempts = loaded.map_err(|error| Diagnostic::from(&error))?.state.attempts;
        let index = match epoch {
            None => attempts.len().checked_sub(1).ok_or_else(|| no_attempts_error(store))?,
            Some(epoch) => attempts
                .iter()
                .position(|attempt| attempt.header.epoch == epoch)
                .ok_or_else(|| no_such_attempt_error(store, epoch, &attempts))?,
        };
        let summary = attempts.swap_remove(index);
        // Every attempt has one file, and only the last file can lack an attempt.
        let before = LoadedJournals::read(&paths[..index], |_| ()).map_err(|error| Diagnostic::from(&error))?.state;
        Ok(Self { before, summary, entries })
    }
}

/// The state after all recorded attempts.
///
/// # Errors
/// P06xx when a journal cannot be read.
pub(super) fn load_state(store: &StateStore) -> Result<JournalState, Diagnostic> {
    let paths = store.journal_paths().map_err(|error| Diagnostic::from(&error))?;
    Ok(LoadedJournals::read(&paths, |_| {}).map_err(|error| Diagnostic::from(&error))?.state)
}

/// The summary of an attempt as JSON. `exit` is null if it was killed, or is still running.
pub(super) fn summary_json(attempt: &AttemptSummary) -> Value {
    let JournalHeader { epoch, run, attempt: number, release, by, .. } = &attempt.header;
    json!({
        "epoch": epoch,
        "run": run,
        "attempt": number,
        "release": release,
        "by": by,
        "began": attempt.started_at,
        "last": attempt.last_entry_at,
        "took-ms": millis_between(attempt.started_at, attempt.last_entry_at),
        "exit": attempt.exit,
        "verified": attempt.verified,
        "stuck": attempt.failed_step,
        "order": attempt.command,
    })
}

fn no_attempts_error(store: &StateStore) -> Diagnostic {
    Diagnostic::new(ErrorCode::NoAttempts, "nothing was deployed here yet")
        .with_cause(format!("there is no journal in {}", store.folder().display()))
        .with_hint("check `--plan` and `--env`; `runner status` shows all environments")
}

fn no_such_attempt_error(store: &StateStore, epoch: u64, attempts: &[AttemptSummary]) -> Diagnostic {
    match (attempts.first(), attempts.last()) {
        (Some(first), Some(last)) => {
            Diagnostic::new(ErrorCode::UnknownAttempt, format!("there is no attempt with epoch {epoch}"))
                .with_cause(format!(
                    "the attempts on record have the epochs {} to {}",
                    first.header.epoch, last.header.epoch
                ))
                .with_hint("use an epoch from `runner history`")
        }
        (None, _) | (_, None) => no_attempts_error(store),
    }
}
