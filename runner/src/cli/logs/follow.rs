//! `runner logs --follow`: shows what a running attempt writes, until it ends.
//!
//! It reads the files that the attempt appends to, so it needs no lock and works from any process of the same machine. An attempt ends
//! with its last entry, or when its lock has no holder any more.

use std::{
    fs::File,
    io::{self, Read as _, Write},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use super::{LogsArgs, is_wanted, log_read_error, merge, output};
use crate::{
    cli::source,
    report::{self, OutputFormat},
};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};
use journal::{
    JournalEvent,
    attempt_log::{AttemptLogReader, log_path},
    event::JournalEntry,
    line,
};
use state::{LockStatus, RecordedAttempt, StateStore};

/// How often the files are read.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often the lock is looked at, of a folder and of a remote state.
const FOLDER_LOCK_INTERVAL: Duration = Duration::from_millis(500);
const REMOTE_LOCK_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the rest of an attempt, from its beginning if it is still running.
///
/// # Errors
/// P0232 when the attempt runs on another machine.
pub(super) fn follow(
    args: &LogsArgs,
    store: &StateStore,
    attempt: &RecordedAttempt,
    form: OutputFormat,
    out: &mut dyn Write,
) -> Result<ExitKind, Diagnostic> {
    let header = &attempt.summary.header;
    let path = store.journal_path(header.epoch);
    let is_running = attempt.summary.exit.is_none();
    if is_running && !store.is_folder() && !log_path(&path).exists() && header.by != source::user_at_host() {
        return Err(log_elsewhere(store, attempt));
    }
    let mut follower = Follower {
        journal: FollowedJournal::new(path.clone()),
        log: AttemptLogReader::of_journal(&path),
        last_line: 0,
    };
    let interval = if store.is_folder() { FOLDER_LOCK_INTERVAL } else { REMOTE_LOCK_INTERVAL };
    let mut lock_seen = Instant::now();
    loop {
        // What is written before an end is seen is read after it.
        let mut has_ended = !is_running;
        if !has_ended && lock_seen.elapsed() >= interval {
            lock_seen = Instant::now();
            has_ended = is_abandoned(store);
        }
        let ended = follower.show_new(args, store, form, out)?;
        if ended || has_ended {
            follower.show_new(args, store, form, out)?;
            return Ok(ExitKind::Success);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Whether nobody holds the lock.
fn is_abandoned(store: &StateStore) -> bool {
    match store.lock_status(false) {
        Ok((_, LockStatus::Free | LockStatus::Stale)) => true,
        Ok((_, LockStatus::Held | LockStatus::Unknown)) | Err(_) => false,
    }
}

fn log_elsewhere(store: &StateStore, attempt: &RecordedAttempt) -> Diagnostic {
    let header = &attempt.summary.header;
    let message = format!("attempt {} runs on another machine, and its log is there", header.epoch);
    Diagnostic::new(ErrorCode::LogElsewhere, message)
        .with_cause(format!("{} started it; {} shares journals, not logs", header.by, store.display_location()))
        .with_hint("follow it on that machine, or run `runner logs` after a step has ended: the journal has its first and last lines")
}

/// What was shown of an attempt.
struct Follower {
    journal: FollowedJournal,
    log: AttemptLogReader,
    /// The number of the last line that was read from the log.
    last_line: u64,
}

impl Follower {
    /// Shows what is new. Returns whether the attempt has ended.
    fn show_new(
        &mut self,
        args: &LogsArgs,
        store: &StateStore,
        form: OutputFormat,
        out: &mut dyn Write,
    ) -> Result<bool, Diagnostic> {
        let error = |error: io::Error| log_read_error(store, &error);
        // The lines of a program are written before the end of its step.
        let entries = self.journal.read_new().map_err(error)?;
        let lines = self.log.read_new().map_err(error)?;
        let last_line = lines.last().map_or(self.last_line, |line| line.number);
        let output = output::items_of_log(lines, self.last_line);
        self.last_line = last_line;
        let items = merge(&entries, &output);
        let shown: String = items
            .iter()
            .filter(|item| is_wanted(args, item.step_target()))
            .map(|item| item.show(form, self.journal.label_width))
            .collect();
        if !shown.is_empty() {
            report::write_answer(out, &shown)?;
        }
        Ok(entries.iter().any(|entry| matches!(entry.event, JournalEvent::Ended { .. })))
    }
}

/// A journal that is read while it is written.
struct FollowedJournal {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    /// The width of the longest step in the plan.
    label_width: usize,
}

impl FollowedJournal {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, rest: Vec::new(), label_width: 0 }
    }

    fn read_new(&mut self) -> io::Result<Vec<JournalEntry>> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => self.file.insert(file),
                // The attempt is in an archive.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            },
        };
        file.read_to_end(&mut self.rest)?;
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let rest = self.rest.split_off(end);
        let whole = std::mem::replace(&mut self.rest, rest);
        // The whole journal was checked when the attempt was chosen.
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let entries: Vec<JournalEntry> =
            lines.filter_map(|line| line::decode(line).ok()).map(|(entry, _)| entry).collect();
        for entry in &entries {
            if let JournalEvent::Plan { steps, .. } = &entry.event {
                let widths = steps.iter().map(|step| report::step_label(&step.step_target).len());
                self.label_width = widths.max().unwrap_or(0);
            }
        }
        Ok(entries)
    }
}
