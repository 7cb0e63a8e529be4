//! The journal file of one attempt: created, appended to, synced.
//!
//! Invariants: only the process that created a file appends to it, while it holds the lock. Every intent and every outcome is on
//! disk (`fdatasync`) when the call returns, and so is the file's name; those of a read-only step are on disk with the next
//! record that must be (docs/adr/0007). After a failed write or sync nothing more is written (a failed fsync is final for that
//! file), so there is never an effect without its record. Nor is anything written after the attempt has lost its lock
//! ([`Journal::fence`]). Deliberately absent: the lock, decisions, reports; an observer gets each entry.

mod proof;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

pub use self::proof::{StepCompletion, StepEffect, StepIntent, UndoCompletion, UndoIntent};
use super::{
    attempt_log::AttemptLog,
    error::{JournalError, io_error},
    event::{
        Decision, Fingerprint, JournalEntry, JournalEvent, JournalHeader, PlanStepRecord, ProbeInput, Release,
        Resolution, StepTarget,
    },
    line,
    load::LoadedJournals,
    output::{OutputLine, RecordedOutput},
    redact::Redactor,
    state::{JournalState, JournalTrust},
};
use crate::clock;
use contract::{StepId, TargetName, diagnostic::ExitKind};
use contract::{
    hash::Blake3Hash,
    step::{ProbeFinding, StepOutcome, StepProgress},
};

/// The largest journal of one attempt, in bytes.
pub const MAX_JOURNAL_BYTES: u64 = 16 * 1024 * 1024;

/// The size in bytes beyond which progress is dropped, so that intents and outcomes always have room.
const PROGRESS_LIMIT_BYTES: u64 = MAX_JOURNAL_BYTES / 2;

/// The size in bytes beyond which no step begins, so that running steps have room for their outcomes.
const INTENT_LIMIT_BYTES: u64 = MAX_JOURNAL_BYTES - 16 * line::MAX_LINE_BYTES as u64;

/// How many folders above a journal's own the first attempt creates: `<state>/<app>/<environment>`.
const CREATED_FOLDERS: usize = 3;

/// A callback that gets every entry after it is written, and the lines of programs as they come.
pub type EntryObserver = Box<dyn FnMut(JournalObservation<'_>)>;

/// What an observer of a journal gets.
#[derive(Clone, Copy, Debug)]
pub enum JournalObservation<'a> {
    /// An entry, after it is written.
    Entry(&'a JournalEntry),
    /// Lines that a program of a step wrote, after they are in the log of the attempt.
    Output { step_target: &'a StepTarget, lines: &'a [OutputLine] },
}

/// The journal of the attempt that this process works on.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// The thread that syncs the folder, so that the file's name is durable.
    folder_sync: Option<JoinHandle<io::Result<()>>>,
    state: JournalState,
    next_seq: u64,
    size: u64,
    poisoned: bool,
    fenced: bool,
    redactor: Redactor,
    observer: EntryObserver,
    log: AttemptLog,
}

impl Journal {
    /// Creates the file `path` with its header, after the journals in `loaded`.
    ///
    /// # Errors
    /// [`JournalError`] if the file exists, cannot be written, or must not follow the loaded journals.
    pub fn create(
        path: &Path,
        header: JournalHeader,
        loaded: LoadedJournals,
        redactor: Redactor,
        observer: EntryObserver,
    ) -> Result<Self, JournalError> {
        Self::create_staged(None, path, header, loaded, redactor, observer)
    }

    /// Like [`create`](Self::create). With a `staging` directory, the file is created there, and then renamed to `path`: if the
    /// directory is gone, another holder has the lock, and nothing was created.
    ///
    /// # Errors
    /// The same, and [`JournalError::Fenced`] if the directory is gone.
    pub fn create_staged(
        staging: Option<&Path>,
        path: &Path,
        header: JournalHeader,
        loaded: LoadedJournals,
        redactor: Redactor,
        observer: EntryObserver,
    ) -> Result<Self, JournalError> {
        if let Some(format) = loaded.state.newer_format {
            return Err(JournalError::NewerFormat {
                path: loaded.newer_format_file.unwrap_or_else(|| path.to_owned()),
                format,
            });
        }
        let staged = staging.map(|staging| staging.join("journal"));
        if let Some(headerless) = &loaded.headerless {
            remove_headerless(headerless, staging)?;
        }
        if staged.is_some() && path.exists() {
            return Err(io_error("create", path, io::ErrorKind::AlreadyExists.into()));
        }
        // The new journal names the last line of the previous one, and may reach the disk at any time.
        loaded.sync_newest()?;
        let created_path = staged.as_deref().unwrap_or(path);
        let file = OpenOptions::new().append(true).create_new(true).open(created_path);
        let file = file.map_err(|source| fenced_or_io_error(staging, path, "create", source))?;
        let state = JournalState { trust: JournalTrust::Authenticated, ..loaded.state };
        let (next_seq, size, path, log) = (0, 0, path.to_owned(), AttemptLog::of_journal(path));
        let (folder_sync, poisoned, fenced) = (None, false, false);
        let mut journal =
            Self { file, path, folder_sync, state, next_seq, size, poisoned, fenced, redactor, observer, log };
        let entry = journal.write(JournalEvent::Started(header))?;
        if let Some(staged) = staged {
            let renamed = fs::rename(staged, &journal.path);
            renamed.map_err(|source| fenced_or_io_error(staging, &journal.path, "create", source))?;
        }
        let folder = folder_of(&journal.path).to_owned();
        let is_first = journal.state.attempts.len() == 1;
        // This runs in parallel; the first sync waits for it.
        let naming = thread::Builder::new().spawn(move || sync_names(&folder, is_first));
        let naming = naming.map_err(|source| io_error("sync the folder of", &journal.path, source))?;
        journal.folder_sync = Some(naming);
        (journal.observer)(JournalObservation::Entry(&entry));
        Ok(journal)
    }

    /// Ends the writing: the attempt has lost its lock, so another one may read the file, or may have read it.
    pub fn fence(&mut self) {
        self.fenced = true;
    }

    /// Whether the attempt has lost its lock.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// The state, including this attempt.
    #[must_use]
    pub fn state(&self) -> &JournalState {
        &self.state
    }

    /// The redactor for all texts about this attempt.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes that `step_target` is about to act. The record is on disk on return, if the step has an effect.
    ///
    /// # Errors
    /// [`JournalError`]: then the step must not act.
    pub fn record_intent(
        &mut self,
        step_target: &StepTarget,
        key: &str,
        fingerprint: Fingerprint,
        input: Value,
        effect: StepEffect,
    ) -> Result<StepIntent, JournalError> {
        self.append_intent(step_target, key, fingerprint, input, effect, None)
    }

    /// Writes that a step is about to act once more, with the input on record, for the release that a rollback switched back to. The
    /// record is on disk on return, if the step has an effect.
    ///
    /// # Errors
    /// [`JournalError`]: then the step must not act.
    pub fn record_repeat_intent(
        &mut self,
        step_target: &StepTarget,
        key: &str,
        fingerprint: Fingerprint,
        input: Value,
        effect: StepEffect,
        release: Release,
    ) -> Result<StepIntent, JournalError> {
        self.append_intent(step_target, key, fingerprint, input, effect, Some(release))
    }

    fn append_intent(
        &mut self,
        step_target: &StepTarget,
        key: &str,
        fingerprint: Fingerprint,
        input: Value,
        effect: StepEffect,
        release: Option<Release>,
    ) -> Result<StepIntent, JournalError> {
        let (step_target, key) = (step_target.clone(), key.to_owned());
        let exposes = effect == StepEffect::Exposing;
        self.append(JournalEvent::Intent {
            step_target: step_target.clone(),
            key,
            fingerprint: fingerprint.clone(),
            input: input.clone(),
            exposes,
            release,
        })?;
        self.sync_for(effect)?;
        Ok(StepIntent { step_target, fingerprint, input, effect })
    }

    /// Writes that a rollback switched back to a release, and why it is not verified, if it is not. The record is on disk on return.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_switched_back(&mut self, release: Release, doubt: Option<String>) -> Result<(), JournalError> {
        self.append(JournalEvent::SwitchedBack { release, doubt })?;
        self.sync()
    }

    /// Writes the intent of a step that does not act, because its existing effect is adopted next.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_adoption_intent(
        &mut self,
        step_target: &StepTarget,
        key: &str,
        fingerprint: Fingerprint,
        input: Value,
        effect: StepEffect,
    ) -> Result<(), JournalError> {
        // Nothing acts on this intent; if the runner is killed before the adoption, the next attempt probes again.
        self.record_intent(step_target, key, fingerprint, input, effect).map(drop)
    }

    /// Writes the outcome of an action, and returns it. The record is on disk on return, if the step has an effect. If the
    /// receipt contains a secret, the outcome is unknown, and the receipt is not written.
    ///
    /// # Errors
    /// [`JournalError`]: then the attempt must end; the next one finds the intent without an outcome.
    pub fn record_outcome(&mut self, completion: StepCompletion) -> Result<StepOutcome, JournalError> {
        let StepCompletion { step_target, effect, outcome, took } = completion;
        let outcome = self.redactor.scanner().admit_outcome(outcome);
        self.append(JournalEvent::Outcome { step_target, took_ms: millis(took), outcome: outcome.clone() })?;
        self.sync_for(effect)?;
        Ok(outcome)
    }

    /// Writes the finding of a probe, and returns it. If the receipt contains a secret, the probe has failed, and the receipt
    /// is not written.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_probe(
        &mut self,
        step_target: &StepTarget,
        probed_input: ProbeInput,
        took: Duration,
        finding: ProbeFinding,
    ) -> Result<ProbeFinding, JournalError> {
        let finding = self.redactor.scanner().admit_finding(finding);
        self.append(JournalEvent::Probe {
            step_target: step_target.clone(),
            probed_input,
            took_ms: millis(took),
            finding: finding.clone(),
        })?;
        Ok(finding)
    }

    /// Writes that `step_target` is about to be undone. The record is on disk on return.
    ///
    /// # Errors
    /// [`JournalError`]: then nothing may be undone.
    pub fn record_undo_intent(&mut self, step_target: &StepTarget) -> Result<UndoIntent, JournalError> {
        self.append(JournalEvent::UndoIntent { step_target: step_target.clone() })?;
        self.sync()?;
        Ok(UndoIntent { step_target: step_target.clone() })
    }

    /// Writes the outcome of undoing a step. The record is on disk on return.
    ///
    /// # Errors
    /// [`JournalError`]: then the attempt must end.
    pub fn record_undo_outcome(&mut self, completion: UndoCompletion) -> Result<(), JournalError> {
        self.append(JournalEvent::UndoOutcome { step_target: completion.step_target, failure: completion.failure })?;
        self.sync()
    }

    /// Writes a decision. An adoption is on disk on return, since it replaces an outcome.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_decision(&mut self, step_target: &StepTarget, decision: Decision) -> Result<(), JournalError> {
        let replaces_outcome = matches!(decision, Decision::Adopt { .. });
        self.append(JournalEvent::Decision { step_target: step_target.clone(), decision })?;
        if replaces_outcome { self.sync() } else { Ok(()) }
    }

    /// Writes what an operator says about a step. The record is on disk on return.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_resolution(
        &mut self,
        step_target: &StepTarget,
        resolution: Resolution,
        by: &str,
        message: &str,
    ) -> Result<(), JournalError> {
        let (by, message) = (by.to_owned(), message.to_owned());
        self.append(JournalEvent::Resolved { step_target: step_target.clone(), resolution, by, message })?;
        self.sync()
    }

    /// Writes that entries about these steps were lost with the lock of an earlier attempt. The records are on disk on return.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_lost(&mut self, steps: &[StepTarget]) -> Result<(), JournalError> {
        let events = steps.iter().map(|step_target| JournalEvent::RecordLost { step_target: step_target.clone() });
        events.into_iter().try_for_each(|event| self.append(event))?;
        if steps.is_empty() { Ok(()) } else { self.sync() }
    }

    /// Writes an event that no decision depends on. Progress beyond its limit is dropped.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_note(&mut self, note: JournalNote) -> Result<(), JournalError> {
        if let JournalNote::Progress { .. } | JournalNote::Output { .. } = &note
            && self.size > PROGRESS_LIMIT_BYTES
        {
            return Ok(());
        }
        self.append(match note {
            JournalNote::Plan { digest, path, steps } => JournalEvent::Plan { digest, path, steps },
            JournalNote::Lock { resource, holder } => JournalEvent::Lock { resource, holder },
            JournalNote::Torn { file, bytes } => JournalEvent::Torn { file, bytes },
            JournalNote::Override { option, step, hosts } => JournalEvent::Override { option, step, hosts },
            JournalNote::HostLeftBehind { target, why } => JournalEvent::HostLeftBehind { target, why },
            JournalNote::Progress { step_target, progress } => JournalEvent::Progress { step_target, progress },
            JournalNote::Output { step_target, output } => JournalEvent::Output { step_target, output },
        })
    }

    /// Writes lines of a program to the log of the attempt, which is a file beside the journal, and passes them to the observer.
    /// They must be without secrets. The log is for people, so a fault of it ends nothing; the first one is returned.
    ///
    /// # Errors
    /// When the log can't be written; it has no further lines.
    pub fn log_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) -> io::Result<()> {
        if self.fenced || lines.is_empty() {
            return Ok(());
        }
        let logged = self.log.append(step_target, lines);
        (self.observer)(JournalObservation::Output { step_target, lines });
        logged
    }

    /// Writes the last line.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record_end(&mut self, exit: ExitKind, verified: bool) -> Result<(), JournalError> {
        self.append(JournalEvent::Ended { exit, verified })?;
        self.sync()
    }

    fn append(&mut self, event: JournalEvent) -> Result<(), JournalError> {
        let entry = self.write(event)?;
        (self.observer)(JournalObservation::Entry(&entry));
        Ok(())
    }

    fn write(&mut self, event: JournalEvent) -> Result<JournalEntry, JournalError> {
        if self.fenced {
            return Err(JournalError::Fenced { path: self.path.clone() });
        }
        if self.poisoned {
            return Err(JournalError::Poisoned { path: self.path.clone() });
        }
        if let Some(found) = event.secret_location(self.redactor.scanner()) {
            return Err(JournalError::SecretInRecord { found });
        }
        let room = size_limit_for(&event);
        let event = event.sanitized(&self.redactor);
        let entry = JournalEntry { seq: self.next_seq, prev: self.state.last_line_hash, at: clock::now(), event };
        let line = line::encode(&entry);
        if line.bytes.len() > line::MAX_LINE_BYTES {
            return Err(JournalError::TooLong { bytes: line.bytes.len() });
        }
        let size = self.size + line.bytes.len() as u64;
        if size > room {
            return Err(JournalError::Full);
        }
        self.state.apply(&entry, line.hash, self.next_seq).map_err(|source| {
            self.poisoned = true;
            JournalError::IllegalTransition { path: self.path.clone(), seq: self.next_seq, source }
        })?;
        if let Err(source) = self.file.write_all(&line.bytes) {
            self.poisoned = true;
            return Err(io_error("append to", &self.path, source));
        }
        self.next_seq += 1;
        self.size = size;
        Ok(entry)
    }

    /// Replaces the file, for tests of writes and syncs that fail.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = file;
    }

    fn sync_for(&mut self, effect: StepEffect) -> Result<(), JournalError> {
        match effect {
            StepEffect::ReadOnly => Ok(()),
            StepEffect::Mutating | StepEffect::Exposing => self.sync(),
        }
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        let named =
            self.folder_sync.take().map_or(Ok(()), |naming| naming.join().expect("syncing a folder does not panic"));
        let named = named.map_err(|source| io_error("sync", folder_of(&self.path), source));
        let synced = self.file.sync_data().map_err(|source| io_error("sync", &self.path, source));
        named.and(synced).inspect_err(|_| self.poisoned = true)
    }
}

/// Removes a journal whose attempt never began.
fn remove_headerless(path: &Path, staging: Option<&Path>) -> Result<(), JournalError> {
    let removed = match staging {
        None => fs::remove_file(path),
        Some(staging) => fs::rename(path, staging.join("headerless")),
    };
    removed.map_err(|source| fenced_or_io_error(staging, path, "remove the empty", source))
}

/// The error of an action that needs the staging directory, if there is one.
fn fenced_or_io_error(staging: Option<&Path>, path: &Path, action: &'static str, source: io::Error) -> JournalError {
    if staging.is_some_and(|staging| !staging.exists()) {
        return JournalError::Fenced { path: path.to_owned() };
    }
    io_error(action, path, source)
}

/// Makes the names in a folder durable. The first attempt may have created the folder and those above it, so their names are synced too.
fn sync_names(folder: &Path, is_first: bool) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    let above = folder.ancestors().skip(1).take(if is_first { CREATED_FOLDERS } else { 0 });
    for folder in above.filter(|folder| *folder != Path::new("")) {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            // It can't be read, so this user did not create anything in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            done => done?,
        }
    }
    Ok(())
}

fn folder_of(journal: &Path) -> &Path {
    journal.parent().unwrap_or(Path::new("."))
}

/// An event that no decision depends on.
#[derive(Debug)]
pub enum JournalNote {
    Plan { digest: Blake3Hash, path: String, steps: Vec<PlanStepRecord> },
    Lock { resource: String, holder: String },
    Torn { file: String, bytes: u64 },
    Override { option: String, step: Option<StepId>, hosts: Option<String> },
    HostLeftBehind { target: TargetName, why: String },
    Progress { step_target: StepTarget, progress: StepProgress },
    Output { step_target: StepTarget, output: RecordedOutput },
}

/// The largest size of the file after such an event.
fn size_limit_for(event: &JournalEvent) -> u64 {
    match event {
        JournalEvent::Outcome { .. } | JournalEvent::UndoOutcome { .. } | JournalEvent::Ended { .. } => {
            MAX_JOURNAL_BYTES
        }
        JournalEvent::Started(_)
        | JournalEvent::Plan { .. }
        | JournalEvent::Lock { .. }
        | JournalEvent::Torn { .. }
        | JournalEvent::SwitchedBack { .. }
        | JournalEvent::Decision { .. }
        | JournalEvent::Intent { .. }
        | JournalEvent::Progress { .. }
        | JournalEvent::Output { .. }
        | JournalEvent::Probe { .. }
        | JournalEvent::UndoIntent { .. }
        | JournalEvent::Override { .. }
        | JournalEvent::HostLeftBehind { .. }
        | JournalEvent::Resolved { .. }
        | JournalEvent::RecordLost { .. }
        | JournalEvent::Unrecognized => INTENT_LIMIT_BYTES,
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
