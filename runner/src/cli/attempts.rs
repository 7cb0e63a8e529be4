//! The attempts on record, as `why`, `logs`, `status` and `history` read them. They take no lock: an attempt that still
//! runs is read as far as it is written.

use serde_json::{Value, json};

use contract::diagnostic::{Code, Diagnostic, Exit};
use contract::text::between;
use journal::{
    Event, Loaded, State,
    event::{Entry, Header},
    state::AttemptSummary,
};
use state::Store;

/// One attempt with all of its entries, and what was known before it.
pub(super) struct Reading {
    /// The fold of all attempts before.
    pub(super) before: State,
    /// The attempt.
    pub(super) summary: AttemptSummary,
    /// Its entries, in order.
    pub(super) entries: Vec<Entry>,
}

impl Reading {
    /// Reads the attempt with this epoch, or the last one.
    ///
    /// # Errors
    /// P0211 when there is no such attempt, P0212 when there is none at all; P06xx when a journal can't be read.
    pub(super) fn of(store: &Store, epoch: Option<u64>) -> Result<Self, Diagnostic> {
        let paths = store.journals().map_err(|error| Diagnostic::from(&error))?;
        let (mut entries, mut is_wanted) = (Vec::new(), false);
        let loaded = Loaded::read(&paths, |entry| {
            if let Event::Started(header) = &entry.event {
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
            None => attempts.len().checked_sub(1).ok_or_else(|| nothing_yet(store))?,
            Some(epoch) => attempts
                .iter()
                .position(|attempt| attempt.header.epoch == epoch)
                .ok_or_else(|| no_such_attempt(store, epoch, &attempts))?,
        };
        let summary = attempts.swap_remove(index);
        // Every attempt has one file, and a file without an attempt can only be the last.
        let before = Loaded::read(&paths[..index], |_| ()).map_err(|error| Diagnostic::from(&error))?.state;
        Ok(Self { before, summary, entries })
    }
}

/// What all attempts on record come to.
///
/// # Errors
/// P06xx when a journal can't be read.
pub(super) fn state(store: &Store) -> Result<State, Diagnostic> {
    let paths = store.journals().map_err(|error| Diagnostic::from(&error))?;
    Ok(Loaded::read(&paths, |_| {}).map_err(|error| Diagnostic::from(&error))?.state)
}

/// An attempt for programs. `exit` is null when it was killed, or still runs.
pub(super) fn summary_json(attempt: &AttemptSummary) -> Value {
    let Header { epoch, run, attempt: number, release, by, .. } = &attempt.header;
    json!({
        "epoch": epoch,
        "run": run,
        "attempt": number,
        "release": release,
        "by": by,
        "began": attempt.began,
        "last": attempt.last,
        "took-ms": between(attempt.began, attempt.last),
        "exit": attempt.exit,
        "verified": attempt.verified,
        "stuck": attempt.stuck,
        "order": attempt.order,
    })
}

fn nothing_yet(store: &Store) -> Diagnostic {
    Diagnostic::new(Code("P0212"), Exit::Refused, "nothing was deployed here yet")
        .because(format!("there is no journal in {}", store.folder().display()))
        .hint("see that --plan and --env name what you mean; `runner status` shows all environments")
}

fn no_such_attempt(store: &Store, epoch: u64, attempts: &[AttemptSummary]) -> Diagnostic {
    match (attempts.first(), attempts.last()) {
        (Some(first), Some(last)) => {
            Diagnostic::new(Code("P0211"), Exit::Refused, format!("there is no attempt with the epoch {epoch}"))
                .because(format!("the attempts on record go from {} to {}", first.header.epoch, last.header.epoch))
                .hint("`runner history` lists them")
        }
        (None, _) | (_, None) => nothing_yet(store),
    }
}
