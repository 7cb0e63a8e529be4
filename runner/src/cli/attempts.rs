//! The recorded attempts, as `why`, `logs`, `status` and `history` read them. They need no lock: a running attempt is read as far
//! as it is written.

use serde_json::{Value, json};

use contract::diagnostic::{Diagnostic, ErrorCode};
use contract::text::millis_between;
use journal::{JournalState, event::JournalHeader, state::AttemptSummary};
use state::{AttemptChoice, RecordedAttempt, StateStore};

/// Reads the attempt with this epoch, or the last one.
///
/// # Errors
/// P0211 when there is no such attempt, P0212 when there is no attempt at all; P06xx when a journal cannot be read.
pub(super) fn read_attempt(store: &StateStore, epoch: Option<u64>) -> Result<RecordedAttempt, Diagnostic> {
    let choice = epoch.map_or(AttemptChoice::Newest, AttemptChoice::Epoch);
    let attempt = store.recorded_attempt(choice).map_err(|error| Diagnostic::from(&error))?;
    match (attempt, epoch) {
        (Some(attempt), _) => Ok(attempt),
        (None, None) => Err(no_attempts_error(store)),
        (None, Some(epoch)) => Err(no_such_attempt_error(store, epoch)?),
    }
}

/// The state after all recorded attempts.
///
/// # Errors
/// P06xx when a journal cannot be read.
pub(super) fn load_state(store: &StateStore) -> Result<JournalState, Diagnostic> {
    Ok(store.load(|_| {}).map_err(|error| Diagnostic::from(&error))?.state)
}

/// How long an attempt took, in milliseconds. None if it was killed, or is still running: its journal ends with the last step that began.
pub(super) fn took_ms(attempt: &AttemptSummary) -> Option<u64> {
    attempt.exit.map(|_| millis_between(attempt.started_at, attempt.last_entry_at))
}

/// The summary of an attempt as JSON. `exit` and `took-ms` are null if it was killed, or is still running.
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
        "took-ms": took_ms(attempt),
        "exit": attempt.exit,
        "verified": attempt.verified,
        "stuck": attempt.failed_step,
        "order": attempt.command,
        "resolved": attempt.resolved_step,
    })
}

pub(super) fn no_attempts_error(store: &StateStore) -> Diagnostic {
    Diagnostic::new(ErrorCode::NoAttempts, "nothing was deployed here yet")
        .with_cause(format!("there is no journal in {}", store.folder().display()))
        .with_hint("check `--plan` and `--env`; `runner status` shows all environments")
}

fn no_such_attempt_error(store: &StateStore, epoch: u64) -> Result<Diagnostic, Diagnostic> {
    let attempts = store.newest_attempts(usize::MAX).map_err(|error| Diagnostic::from(&error))?;
    if attempts.iter().any(|attempt| attempt.header.epoch == epoch) {
        let message = format!("the journal of the attempt with epoch {epoch} is not on this machine");
        return Ok(Diagnostic::new(ErrorCode::UnknownAttempt, message)
            .with_cause(
                "its file was removed, or this history was restored from the artifacts of a CI run, which carry that run's journals only",
            )
            .with_hint("run the command on the machine that deployed it, or restore the file from a copy"));
    }
    Ok(match (attempts.last(), attempts.first()) {
        (Some(first), Some(last)) => {
            Diagnostic::new(ErrorCode::UnknownAttempt, format!("there is no attempt with epoch {epoch}"))
                .with_cause(format!(
                    "the attempts on record have the epochs {} to {}",
                    first.header.epoch, last.header.epoch
                ))
                .with_hint("use an epoch from `runner history`")
        }
        (None, _) | (_, None) => no_attempts_error(store),
    })
}
