//! The journal of one attempt as a file: created, appended to, synced.
//!
//! Invariants: a file is only ever appended to, by the one process that made it, while it holds the lock. Every intent
//! to act and every outcome of it is on disk (`fdatasync`) when the call returns, and so is the file's name; those of a step
//! that only looks are on disk with the next record that must be (docs/adr/0007). After a
//! failed write or sync nothing more is written (a failed fsync is final for that file), so there is never an effect
//! without its record. Deliberately absent: locks, decisions, reports; an observer is told of each entry.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use super::{
    error::{JournalError, io_error},
    event::{Decision, Entry, Event, Fingerprint, Header, Place, Planned, Question},
    line,
    load::Loaded,
    redact::Redactor,
    state::{State, Trust},
};
use crate::clock;
use contract::{StepId, diagnostic::Exit};
use contract::{
    hash::Hash,
    step::{Failure, Finding, Outcome, Progress},
};

/// The largest journal of one attempt, in bytes.
pub const LARGEST: u64 = 16 * 1024 * 1024;

/// Progress is no longer written beyond this many bytes, so that intents and outcomes always have room.
const PROGRESS_ROOM: u64 = LARGEST / 2;

/// Nothing is begun beyond this many bytes, so that what was begun has room for its outcome.
const INTENT_ROOM: u64 = LARGEST - 16 * line::LONGEST as u64;

/// Called with every entry once it is written.
pub type Observer = Box<dyn FnMut(&Entry)>;

/// The journal of the attempt that this process works on.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Syncs the folder, so that the file's name lasts.
    naming: Option<JoinHandle<io::Result<()>>>,
    state: State,
    next: u64,
    size: u64,
    poisoned: bool,
    redactor: Redactor,
    observer: Observer,
}

/// What a step does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it is of phase check, and runs again whatever is on record.
    Looks,
    /// Something that users don't see.
    Acts,
    /// It shows the release to users.
    Exposes,
}

/// Proof that an intent is on disk. Only [`Journal::intend`] makes one; acting consumes it.
#[must_use]
#[derive(Debug)]
pub struct Intent {
    place: Place,
    input: Value,
    effect: Effect,
}

/// Proof that an action ended; what [`Journal::settle`] takes.
#[must_use]
#[derive(Debug)]
pub struct Ended {
    place: Place,
    effect: Effect,
    result: Outcome,
    took: Duration,
}

/// Proof that the intent to undo is on disk.
#[must_use]
#[derive(Debug)]
pub struct UndoIntent {
    place: Place,
}

/// Proof that undoing ended.
#[must_use]
#[derive(Debug)]
pub struct UndoEnded {
    place: Place,
    failure: Option<Failure>,
}

impl Intent {
    /// The step that may act now.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The input that is on record.
    #[must_use]
    pub fn input(&self) -> &Value {
        &self.input
    }

    /// The action ended.
    pub fn ended(self, result: Outcome, took: Duration) -> Ended {
        Ended { place: self.place, effect: self.effect, result, took }
    }
}

impl Ended {
    /// How.
    #[must_use]
    pub fn result(&self) -> &Outcome {
        &self.result
    }
}

impl UndoIntent {
    /// The step that may be undone now.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Undoing ended; well, without a failure.
    pub fn ended(self, failure: Option<Failure>) -> UndoEnded {
        UndoEnded { place: self.place, failure }
    }
}

impl UndoEnded {
    /// Why it is not undone.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }
}

impl Journal {
    /// Makes the file `path` with its header; `loaded` is what came before.
    ///
    /// # Errors
    /// [`JournalError`] when the file is there already, can't be written, or must not follow what came before.
    pub fn begin(
        path: &Path,
        header: Header,
        loaded: Loaded,
        redactor: Redactor,
        observer: Observer,
    ) -> Result<Self, JournalError> {
        if let Some(format) = loaded.state.newer_minor {
            return Err(JournalError::Newer { path: loaded.newer.unwrap_or_else(|| path.to_owned()), format });
        }
        if let Some(stillborn) = &loaded.stillborn {
            fs::remove_file(stillborn).map_err(|source| io_error("remove the empty", stillborn, source))?;
        }
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let file = file.map_err(|source| io_error("make", path, source))?;
        let path = path.to_owned();
        let folder = folder_of(&path).to_owned();
        // Meanwhile there is other work to do; the first sync waits for it.
        let naming = thread::Builder::new().spawn(move || File::open(folder)?.sync_all());
        let naming = Some(naming.map_err(|source| io_error("sync the folder of", &path, source))?);
        let state = State { trust: Trust::Believed, ..loaded.state };
        let mut journal = Self { file, path, naming, state, next: 0, size: 0, poisoned: false, redactor, observer };
        journal.append(Event::Started(header))?;
        Ok(journal)
    }

    /// What is known, this attempt included.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What takes secrets out of all that is told of this attempt.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes that `place` is about to act; on disk when it returns, if it has an effect.
    ///
    /// # Errors
    /// [`JournalError`]: then the step must not act.
    pub fn intend(
        &mut self,
        place: &Place,
        key: &str,
        fingerprint: Fingerprint,
        input: Value,
        effect: Effect,
    ) -> Result<Intent, JournalError> {
        let (place, key) = (place.clone(), key.to_owned());
        let exposes = effect == Effect::Exposes;
        self.append(Event::Intent { place: place.clone(), key, fingerprint, input: input.clone(), exposes })?;
        self.sync_for(effect)?;
        Ok(Intent { place, input, effect })
    }

    /// Writes what a step would act on, for a step that does not act: what is there already is adopted next.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn vouch(
        &mut self,
        place: &Place,
        key: &str,
        fingerprint: Fingerprint,
        input: Value,
        effect: Effect,
    ) -> Result<(), JournalError> {
        // Nothing acts on this intent; killed before the adoption, the next attempt looks again.
        self.intend(place, key, fingerprint, input, effect).map(drop)
    }

    /// Writes how an action ended; on disk when it returns, if it had an effect.
    ///
    /// # Errors
    /// [`JournalError`]: then the attempt must end; the next one finds the intent without an outcome.
    pub fn settle(&mut self, ended: Ended) -> Result<(), JournalError> {
        let took_ms = millis(ended.took);
        self.append(Event::Outcome { place: ended.place, took_ms, result: ended.result })?;
        self.sync_for(ended.effect)
    }

    /// Writes that `place` is about to be undone; on disk when it returns.
    ///
    /// # Errors
    /// [`JournalError`]: then nothing may be undone.
    pub fn intend_undo(&mut self, place: &Place) -> Result<UndoIntent, JournalError> {
        self.append(Event::UndoIntent { place: place.clone() })?;
        self.sync()?;
        Ok(UndoIntent { place: place.clone() })
    }

    /// Writes how undoing ended; on disk when it returns.
    ///
    /// # Errors
    /// [`JournalError`]: then the attempt must end.
    pub fn settle_undo(&mut self, ended: UndoEnded) -> Result<(), JournalError> {
        self.append(Event::UndoOutcome { place: ended.place, failure: ended.failure })?;
        self.sync()
    }

    /// Writes a decision; an adoption is on disk when it returns, since it stands for an outcome.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn decide(&mut self, place: &Place, decision: Decision) -> Result<(), JournalError> {
        let stands_for_outcome = matches!(decision, Decision::Adopt { .. });
        self.append(Event::Decision { place: place.clone(), decision })?;
        if stands_for_outcome { self.sync() } else { Ok(()) }
    }

    /// Writes something that nothing depends on. Progress beyond its room is dropped.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn note(&mut self, note: Note) -> Result<(), JournalError> {
        if let Note::Progress { .. } = &note
            && self.size > PROGRESS_ROOM
        {
            return Ok(());
        }
        self.append(match note {
            Note::Plan { digest, path, steps } => Event::Plan { digest, path, steps },
            Note::Lock { resource, holder } => Event::Lock { resource, holder },
            Note::Torn { file, bytes } => Event::Torn { file, bytes },
            Note::Override { option, step } => Event::Override { option, step },
            Note::Progress { place, progress } => Event::Progress { place, progress },
            Note::Probe { place, question, took, finding } => {
                Event::Probe { place, question, took_ms: millis(took), finding }
            }
        })
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn end(&mut self, exit: Exit, verified: bool) -> Result<(), JournalError> {
        self.append(Event::Ended { exit, verified })?;
        self.sync()
    }

    fn append(&mut self, event: Event) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned { path: self.path.clone() });
        }
        let room = room(&event);
        let event = event.sanitized(&self.redactor);
        let entry = Entry { seq: self.next, prev: self.state.tail, at: clock::now(), event };
        let line = line::encode(&entry);
        if line.bytes.len() > line::LONGEST {
            return Err(JournalError::TooLong { bytes: line.bytes.len() });
        }
        let size = self.size + line.bytes.len() as u64;
        if size > room {
            return Err(JournalError::Full);
        }
        self.state.apply(&entry, line.hash, self.next).map_err(|source| {
            self.poisoned = true;
            JournalError::Illegal { path: self.path.clone(), seq: self.next, source }
        })?;
        if let Err(source) = self.file.write_all(&line.bytes) {
            self.poisoned = true;
            return Err(io_error("append to", &self.path, source));
        }
        self.next += 1;
        self.size = size;
        (self.observer)(&entry);
        Ok(())
    }

    /// Puts another file under the journal, for tests of writes and syncs that fail.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = file;
    }

    fn sync_for(&mut self, effect: Effect) -> Result<(), JournalError> {
        match effect {
            Effect::Looks => Ok(()),
            Effect::Acts | Effect::Exposes => self.sync(),
        }
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        let named = self.naming.take().map_or(Ok(()), |naming| naming.join().expect("syncing a folder can't panic"));
        let named = named.map_err(|source| io_error("sync", folder_of(&self.path), source));
        let synced = self.file.sync_data().map_err(|source| io_error("sync", &self.path, source));
        named.and(synced).inspect_err(|_| self.poisoned = true)
    }
}

fn folder_of(journal: &Path) -> &Path {
    journal.parent().unwrap_or(Path::new("."))
}

/// An event that nothing is decided by.
#[derive(Debug)]
pub enum Note {
    Plan { digest: Hash, path: String, steps: Vec<Planned> },
    Lock { resource: String, holder: String },
    Torn { file: String, bytes: u64 },
    Override { option: String, step: Option<StepId> },
    Progress { place: Place, progress: Progress },
    Probe { place: Place, question: Question, took: Duration, finding: Finding },
}

/// How large the file may become by such an event.
fn room(event: &Event) -> u64 {
    match event {
        Event::Outcome { .. } | Event::UndoOutcome { .. } | Event::Ended { .. } => LARGEST,
        Event::Started(_)
        | Event::Plan { .. }
        | Event::Lock { .. }
        | Event::Torn { .. }
        | Event::Decision { .. }
        | Event::Intent { .. }
        | Event::Progress { .. }
        | Event::Probe { .. }
        | Event::UndoIntent { .. }
        | Event::Override { .. }
        | Event::Unrecognized => INTENT_ROOM,
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
