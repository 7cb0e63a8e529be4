//! The log of an attempt: the lines of its programs, in a file beside its journal.
//!
//! ```text
//!   attempt-000007.log       the first lines, up to 2 MiB
//!   attempt-000007.log.3     later lines; of these files, the newest two are kept
//!   attempt-000007.log.4
//! ```
//! A line is `<number> <time> <step> <target> <out|err|tty> <text>`; numbers count from 1, so a gap tells how many are left out.
//!
//! Invariant: files are only appended to and removed whole, so whatever was written when the runner is killed can be read. The first
//! line creates the file, and removes the logs of all but the newest attempts. Deliberately absent: syncing, since the log decides
//! nothing; and secrets, which are removed before.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::{
    event::StepTarget,
    output::{OutputLine, OutputStream},
};

/// The size of one file, in bytes. A batch of lines is never split.
const MAX_SEGMENT_BYTES: u64 = 2 << 20;

/// How many files of later lines are kept.
const KEPT_TAIL_SEGMENTS: u64 = 2;

/// How many attempts keep their logs.
const KEPT_LOGS: usize = 10;

/// The log that the attempt of this process writes.
#[derive(Debug)]
pub struct AttemptLog {
    path: PathBuf,
    writer: LogWriter,
    line_count: u64,
}

#[derive(Debug)]
enum LogWriter {
    /// No program has written a line yet.
    NotCreated,
    Open {
        file: File,
        segment: u64,
        bytes: u64,
    },
    /// It could not be written.
    Failed,
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedLine {
    /// Its number in the attempt, from 1.
    pub number: u64,
    /// The step that ran the program.
    pub step_target: StepTarget,
    /// The line.
    pub line: OutputLine,
}

/// The path of the log that belongs to a journal.
#[must_use]
pub fn log_path(journal: &Path) -> PathBuf {
    journal.with_extension("log")
}

impl AttemptLog {
    /// The log that belongs to a journal. Creates no file yet.
    pub(super) fn of_journal(journal: &Path) -> Self {
        Self { path: log_path(journal), writer: LogWriter::NotCreated, line_count: 0 }
    }

    /// Appends lines.
    ///
    /// # Errors
    /// When they can't be written. Then nothing more is written, and no further error returned.
    pub(super) fn append(&mut self, step_target: &StepTarget, lines: &[OutputLine]) -> io::Result<()> {
        let mut text = String::new();
        let mut at = None;
        let mut head = String::new();
        for line in lines {
            self.line_count += 1;
            if at != Some((line.at, line.stream)) {
                at = Some((line.at, line.stream));
                head.clear();
                let StepTarget { step, target } = step_target;
                write!(head, " {} {step} {target} {} ", line.at, line.stream.short_name()).map_err(io::Error::other)?;
            }
            write!(text, "{}", self.line_count).map_err(io::Error::other)?;
            text.push_str(&head);
            text.push_str(&line.text);
            text.push('\n');
        }
        let written = self.write(text.as_bytes());
        if written.is_err() {
            self.writer = LogWriter::Failed;
        }
        written
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let length = text.len() as u64;
        match &mut self.writer {
            LogWriter::Failed => return Ok(()),
            LogWriter::Open { bytes, .. } if *bytes + length <= MAX_SEGMENT_BYTES => {}
            LogWriter::Open { segment, .. } => {
                let segment = *segment + 1;
                self.writer = LogWriter::Open { file: create(&segment_path(&self.path, segment))?, segment, bytes: 0 };
                if let Some(old) = segment.checked_sub(KEPT_TAIL_SEGMENTS).filter(|old| *old > 0) {
                    fs::remove_file(segment_path(&self.path, old))?;
                }
            }
            LogWriter::NotCreated => {
                remove_old_logs(&self.path);
                self.writer = LogWriter::Open { file: create(&self.path)?, segment: 0, bytes: 0 };
            }
        }
        if let LogWriter::Open { file, bytes, .. } = &mut self.writer {
            file.write_all(text)?;
            *bytes += length;
        }
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).open(path)
}

/// The path of a file of the log; 0 is the one with the first lines.
fn segment_path(path: &Path, segment: u64) -> PathBuf {
    match segment {
        0 => path.to_owned(),
        later => path.with_extension(format!("log.{later}")),
    }
}

/// The epoch and the number of a file of a log, from its name.
fn epoch_and_segment(path: &Path) -> Option<(u64, u64)> {
    let (epoch, rest) = path.file_name()?.to_str()?.strip_prefix("attempt-")?.split_once(".log")?;
    let segment = if rest.is_empty() { Some(0) } else { rest.strip_prefix('.')?.parse().ok() };
    Some((epoch.parse().ok()?, segment?))
}

/// Removes the logs of all but the newest attempts, so that they do not grow with history. What can't be removed stays.
fn remove_old_logs(path: &Path) {
    let Ok(entries) = fs::read_dir(path.parent().unwrap_or(Path::new("."))) else { return };
    let mut logs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| epoch_and_segment(path).is_some());
    let mut epochs: Vec<_> = logs.iter().filter_map(|path| epoch_and_segment(path)).map(|(epoch, _)| epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    // One with this epoch belonged to an attempt that does not count.
    let own = epoch_and_segment(path).map(|(epoch, _)| epoch);
    epochs.retain(|epoch| Some(*epoch) != own);
    let old = &epochs[..(epochs.len() + 1).saturating_sub(KEPT_LOGS)];
    let is_old = |(epoch, _): (u64, u64)| Some(epoch) == own || old.contains(&epoch);
    for log in logs.iter().filter(|path| epoch_and_segment(path).is_some_and(is_old)) {
        let _ = fs::remove_file(log);
    }
}

/// Reads a log while it is written, or after.
#[derive(Debug)]
pub struct AttemptLogReader {
    path: PathBuf,
    current: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    number: u64,
    file: File,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl AttemptLogReader {
    /// Reads the log that belongs to a journal, from its beginning.
    #[must_use]
    pub fn of_journal(journal: &Path) -> Self {
        Self { path: log_path(journal), current: None }
    }

    /// The lines that were written since the last call; none if there is no log. An incomplete last line is left for the next call.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn read_new(&mut self) -> io::Result<Vec<LoggedLine>> {
        let mut lines = Vec::new();
        if self.current.is_none() {
            self.current = self.open(0)?;
        }
        while let Some(current) = &mut self.current {
            let number = current.number;
            // Only a finished file has a successor, so it is looked for first.
            let next = next_segment(&self.path, number)?;
            current.file.read_to_end(&mut current.rest)?;
            let end = current.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            let rest = current.rest.split_off(end);
            let whole = std::mem::replace(&mut current.rest, rest);
            lines.extend(whole.split(|byte| *byte == b'\n').filter_map(parse_line));
            let Some(next) = next else { break };
            match self.open(next)? {
                Some(segment) => self.current = Some(segment),
                // It was removed meanwhile; there is a newer one.
                None => continue,
            }
        }
        Ok(lines)
    }

    fn open(&self, number: u64) -> io::Result<Option<OpenSegment>> {
        match File::open(segment_path(&self.path, number)) {
            Ok(file) => Ok(Some(OpenSegment { number, file, rest: Vec::new() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The next file of the log that still exists.
fn next_segment(path: &Path, after: u64) -> io::Result<Option<u64>> {
    let direct = after + 1;
    if segment_path(path, direct).exists() {
        return Ok(Some(direct));
    }
    let Some((epoch, _)) = epoch_and_segment(path) else { return Ok(None) };
    let entries = fs::read_dir(path.parent().unwrap_or(Path::new(".")))?;
    let segments = entries.flatten().filter_map(|entry| epoch_and_segment(&entry.path()));
    Ok(segments.filter(|found| found.0 == epoch && found.1 > after).map(|found| found.1).min())
}

fn parse_line(line: &[u8]) -> Option<LoggedLine> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(6, ' ');
    let mut word = || words.next();
    let number = word()?.parse().ok()?;
    let at = word()?.parse().ok()?;
    let step_target = StepTarget { step: word()?.parse().ok()?, target: word()?.parse().ok()? };
    let name = word()?;
    let stream = OutputStream::ALL.into_iter().find(|stream| stream.short_name() == name)?;
    Some(LoggedLine { number, step_target, line: OutputLine { at, stream, text: word()?.to_owned() } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::TargetName;
    use jiff::Timestamp;

    fn step_target() -> StepTarget {
        StepTarget { step: "build".parse().unwrap(), target: TargetName::local() }
    }

    fn line(text: &str) -> OutputLine {
        let at = Timestamp::from_millisecond(1_763_867_400_123).unwrap();
        OutputLine { at, stream: OutputStream::Stderr, text: text.to_owned() }
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("attempt-000007.journal");
        let mut log = AttemptLog::of_journal(&journal);
        let mut reader = AttemptLogReader::of_journal(&journal);
        assert_eq!(reader.read_new().unwrap(), []);
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is created before the first line");
        for (number, text) in (1..).zip(["one", "", " two  words ", "ü\u{1b}[1m"]) {
            log.append(&step_target(), &[line(text)]).unwrap();
            assert_eq!(
                reader.read_new().unwrap(),
                [LoggedLine { number, step_target: step_target(), line: line(text) }]
            );
        }
        let text = fs::read_to_string(log_path(&journal)).unwrap();
        assert_eq!(text.lines().next(), Some("1 2025-11-23T03:10:00.123Z build local err one"));
    }

    #[test]
    fn first_and_last_lines_of_a_long_log_remain_and_can_be_read_at_any_time() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("attempt-000007.journal");
        let mut log = AttemptLog::of_journal(&journal);
        let mut follower = AttemptLogReader::of_journal(&journal);
        let (text, mut followed) = ("x".repeat(1000), 0);
        for _ in 0..200 {
            log.append(&step_target(), &vec![line(&text); 100]).unwrap();
            followed += follower.read_new().unwrap().len();
        }
        assert_eq!(followed, 20_000, "whoever follows misses nothing");
        let files: u64 = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(files <= 3 * MAX_SEGMENT_BYTES, "{files}");
        let kept = AttemptLogReader::of_journal(&journal).read_new().unwrap();
        assert_eq!((kept[0].number, kept.last().unwrap().number), (1, 20_000));
        let gaps = kept.windows(2).filter(|pair| pair[0].number + 1 != pair[1].number).count();
        assert_eq!(gaps, 1, "only the middle is left out");
    }

    #[test]
    fn incomplete_last_line_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("attempt-000001.journal");
        fs::write(log_path(&journal), "1 2025-11-23T03:10:00Z a local out whole\n2 2025-11-23T03:1").unwrap();
        let lines = AttemptLogReader::of_journal(&journal).read_new().unwrap();
        assert_eq!(lines.into_iter().map(|line| line.line.text).collect::<Vec<_>>(), ["whole"]);
    }

    #[test]
    fn only_the_newest_attempts_keep_their_logs() {
        let folder = tempfile::tempdir().unwrap();
        for epoch in 1..=30 {
            let journal = folder.path().join(format!("attempt-{epoch:06}.journal"));
            fs::write(&journal, "").unwrap();
            AttemptLog::of_journal(&journal).append(&step_target(), &[line("one")]).unwrap();
        }
        let names = || fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let mut kept: Vec<u64> = names().filter_map(|path| epoch_and_segment(&path)).map(|(epoch, _)| epoch).collect();
        kept.sort_unstable();
        assert_eq!(kept, (21..=30).collect::<Vec<_>>());
        assert_eq!(names().count(), 40, "journals stay");
    }

    #[test]
    fn log_that_cannot_be_written_fails_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = AttemptLog::of_journal(&folder.path().join("missing/attempt-000001.journal"));
        assert!(log.append(&step_target(), &[line("one")]).is_err());
        assert!(log.append(&step_target(), &[line("two")]).is_ok());
    }
}
