//! `runner journal check FILE…`: checks that journals are complete, chained and consistent.
//!
//! The `attempt-*.journal` files of a folder are checked as one chain. A single file may follow attempts that were not given: its
//! chain then starts at its first line, and references to earlier events are not checked.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::report::{self, OutputFormat, json};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};
use contract::text::{self, WIDTH, escape_line};
use journal::{
    JournalError, JournalState, decode_line,
    event::{JournalFormat, JournalHeader},
    state::TransitionError,
    transition_error,
};

/// The subcommands of `journal`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum JournalSubcommand {
    /// Check journals for corruption
    Check {
        /// Journal files, or folders that contain them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Checks journals; returns [`ExitKind::Journal`] if one is corrupt.
///
/// As JSON, an array of `{path, verdict, format, lines, app, environment, run, attempt, epoch, release, torn-bytes,
/// follows, problem: {code, line, message}}`, with the verdicts `sound`, `torn`, `empty`, `corrupt`, `newer` and `unchecked`.
/// `follows` says whether the attempts before it were given.
///
/// # Errors
/// P0213 if a path has no journal.
pub(super) fn run(
    command: &JournalSubcommand,
    form: OutputFormat,
    out: &mut dyn Write,
) -> Result<ExitKind, Diagnostic> {
    let JournalSubcommand::Check { files } = command;
    let mut findings = Vec::new();
    for path in files {
        findings.extend(check_chain(&journals_at(path)?)?);
    }
    let answer = match form {
        OutputFormat::Json => json::line(&findings.iter().map(JournalCheck::json).collect::<Value>()) + "\n",
        OutputFormat::Text => findings.iter().map(JournalCheck::text).collect(),
    };
    report::write_answer(out, &answer)?;
    let is_refused = findings.iter().any(|finding| !finding.verdict.is_readable());
    Ok(if is_refused { ExitKind::Journal } else { ExitKind::Success })
}

/// The journals at a path, in the order of their chain.
fn journals_at(path: &Path) -> Result<Vec<PathBuf>, Diagnostic> {
    let error = |cause: io::Error| nothing_to_check(path).with_cause(cause);
    if !fs::metadata(path).map_err(error)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut journals = Vec::new();
    for entry in fs::read_dir(path).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if let Some(epoch) = epoch_of(&path) {
            journals.push((epoch, path));
        }
    }
    journals.sort();
    if journals.is_empty() {
        return Err(nothing_to_check(path).with_cause("the folder has no attempt-*.journal"));
    }
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

fn epoch_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("attempt-")?.strip_suffix(".journal")?.parse().ok()
}

fn nothing_to_check(path: &Path) -> Diagnostic {
    Diagnostic::new(ErrorCode::NoJournal, format!("there is no journal to check at {}", path.display()))
        .with_hint("name a journal, or the folder <state>/<app>/<environment>")
}

/// The result of checking one file.
struct JournalCheck {
    path: PathBuf,
    verdict: JournalVerdict,
    header: Option<JournalHeader>,
    lines: u64,
    preceding: PrecedingJournals,
}

enum JournalVerdict {
    Sound,
    /// The bytes after the last newline were ignored.
    Torn(usize),
    /// The file has no complete line: its attempt never began.
    Empty,
    Corrupt(JournalProblem),
    /// A newer runner wrote the file, and this one can't read it from that line on.
    Newer {
        format: JournalFormat,
        line: u64,
    },
    /// The file follows one that is corrupt or can't be read.
    Unchecked,
}

impl JournalVerdict {
    fn for_error(error: &JournalError, line: u64) -> Self {
        if let JournalError::NewerFormat { format, .. } = error {
            return Self::Newer { format: *format, line };
        }
        let diagnostic = Diagnostic::from(error);
        Self::Corrupt(JournalProblem { code: diagnostic.code, line, message: diagnostic.causes.join(": ") })
    }

    fn is_readable(&self) -> bool {
        match self {
            Self::Sound | Self::Torn(_) | Self::Empty => true,
            Self::Corrupt(_) | Self::Newer { .. } | Self::Unchecked => false,
        }
    }
}

/// Whether all journals before a file were given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PrecedingJournals {
    Given,
    Missing,
}

struct JournalProblem {
    code: ErrorCode,
    line: u64,
    message: String,
}

/// Checks a chain of journals; those after a corrupt one are not checked.
fn check_chain(paths: &[PathBuf]) -> Result<Vec<JournalCheck>, Diagnostic> {
    let mut findings: Vec<JournalCheck> = Vec::new();
    let (mut state, mut follows) = (JournalState::default(), PrecedingJournals::Given);
    for (index, path) in paths.iter().enumerate() {
        let is_broken = findings.iter().any(|finding| !finding.verdict.is_readable());
        if is_broken {
            let (path, verdict) = (path.clone(), JournalVerdict::Unchecked);
            findings.push(JournalCheck { path, verdict, header: None, lines: 0, preceding: follows });
            continue;
        }
        let bytes = fs::read(path).map_err(|cause| nothing_to_check(path).with_cause(cause))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole == 0 && index + 1 == paths.len() {
            let (path, verdict) = (path.clone(), JournalVerdict::Empty);
            findings.push(JournalCheck { path, verdict, header: None, lines: 0, preceding: follows });
            continue;
        }
        let known = state.attempts.len();
        let mut lines = 0;
        let mut verdict =
            if whole < bytes.len() { JournalVerdict::Torn(bytes.len() - whole) } else { JournalVerdict::Sound };
        for line in bytes[..whole].strip_suffix(b"\n").unwrap_or_default().split(|byte| *byte == b'\n') {
            if let Err(error) = apply_line(&mut state, &mut follows, path, lines, line) {
                verdict = JournalVerdict::for_error(&error, lines + 1);
                break;
            }
            lines += 1;
        }
        let header = state.attempts.get(known).map(|attempt| attempt.header.clone());
        findings.push(JournalCheck { path: path.clone(), verdict, header, lines, preceding: follows });
    }
    Ok(findings)
}

/// Folds one line. The first line of a chain may follow a line that was not given; then a step's event may also follow an
/// unknown one.
fn apply_line(
    state: &mut JournalState,
    follows: &mut PrecedingJournals,
    path: &Path,
    seq: u64,
    line: &[u8],
) -> Result<(), JournalError> {
    let (entry, hash) = decode_line(state, path, seq, line)?;
    if state.attempts.is_empty() && entry.prev.is_some() {
        state.last_line_hash = entry.prev;
        *follows = PrecedingJournals::Missing;
    }
    match state.apply(&entry, hash, seq) {
        Err(TransitionError::Transition { step_target: place, .. })
            if *follows == PrecedingJournals::Missing && !state.records.contains_key(&place) =>
        {
            state.last_line_hash = Some(hash);
            Ok(())
        }
        folded => folded.map_err(|source| transition_error(state, path, seq, source)),
    }
}

impl JournalCheck {
    fn text(&self) -> String {
        let verdict = match &self.verdict {
            JournalVerdict::Sound => "sound".to_owned(),
            JournalVerdict::Torn(bytes) => {
                format!("sound, except for an incomplete last line of {bytes} bytes, which is ignored")
            }
            JournalVerdict::Empty => "empty: its attempt never began".to_owned(),
            JournalVerdict::Corrupt(JournalProblem { code, line, message }) => {
                format!("CORRUPT at line {line}: {message} ({code})")
            }
            JournalVerdict::Newer { format: JournalFormat { major, minor }, line } => {
                format!("NOT CHECKED from line {line} on: a newer runner wrote it (format {major}.{minor})")
            }
            JournalVerdict::Unchecked => "NOT CHECKED: it follows a corrupt or unreadable journal".to_owned(),
        };
        let mut answer = format!("{}\n", escape_line(&self.path.display().to_string()));
        let mut row = |text: &str| {
            for line in text::wrap(text, WIDTH - 2, WIDTH - 2) {
                answer.push_str(&format!("  {line}\n"));
            }
        };
        row(&verdict);
        if let Some(JournalHeader { format, app, environment, run, attempt, epoch, release, .. }) = &self.header {
            row(&format!(
                "format {}.{}, {} lines; {app} {} to {environment}, epoch {epoch}, run {run}, attempt {attempt}",
                format.major, format.minor, self.lines, release.label
            ));
        }
        if self.preceding == PrecedingJournals::Missing {
            row("the attempts before it were not given; checked from its first line on");
        }
        answer
    }

    fn json(&self) -> Value {
        let (verdict, torn, problem) = match &self.verdict {
            JournalVerdict::Sound => ("sound", 0, None),
            JournalVerdict::Torn(bytes) => ("torn", *bytes, None),
            JournalVerdict::Empty => ("empty", 0, None),
            JournalVerdict::Corrupt(problem) => ("corrupt", 0, Some(problem)),
            JournalVerdict::Newer { .. } => ("newer", 0, None),
            JournalVerdict::Unchecked => ("unchecked", 0, None),
        };
        let header = self.header.as_ref();
        json!({
            "path": self.path.display().to_string(),
            "verdict": verdict,
            "format": header.map(|header| format!("{}.{}", header.format.major, header.format.minor)),
            "lines": self.lines,
            "app": header.map(|header| &header.app),
            "environment": header.map(|header| &header.environment),
            "run": header.map(|header| &header.run),
            "attempt": header.map(|header| header.attempt),
            "epoch": header.map(|header| header.epoch),
            "release": header.map(|header| &header.release),
            "torn-bytes": torn,
            "follows": match self.preceding {
                PrecedingJournals::Given => "given",
                PrecedingJournals::Missing => "missing",
            },
            "problem": problem.map(|JournalProblem { code, line, message }| json!({
                "code": code.as_str(),
                "line": line,
                "message": message,
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::report::fixture::{self, JournalFixture};

    /// Writes the journals to a folder, lets `damage` change them, and checks the file or the folder.
    fn check(tape: &JournalFixture, damage: impl FnOnce(&Path), what: &str, exit: ExitKind, expected: Expect) {
        let root = tempfile::tempdir().unwrap();
        tape.write(root.path());
        damage(root.path());
        let command = JournalSubcommand::Check { files: vec![root.path().join(what)] };
        let mut out = Vec::new();
        let actual = run(&command, OutputFormat::Text, &mut out).unwrap();
        let folder = format!("{}/", root.path().display());
        expected.assert_eq(&String::from_utf8(out).unwrap().replace(&folder, ""));
        assert_eq!(actual, exit);
    }

    fn change(path: &Path, change: impl FnOnce(&mut String)) {
        let mut text = fs::read_to_string(path).unwrap();
        change(&mut text);
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_folder_is_one_chain() {
        check(
            &fixture::resumed(),
            |_| (),
            "",
            ExitKind::Success,
            expect![[r#"
                attempt-000001.journal
                  sound
                  format 1.8, 17 lines; shop r1 to test, epoch 1, run 1-aaaaaa, attempt 1
                attempt-000002.journal
                  sound
                  format 1.8, 11 lines; shop r2 to test, epoch 2, run 2-bbbbbb, attempt 1
                attempt-000003.journal
                  sound
                  format 1.8, 14 lines; shop r2 to test, epoch 3, run 2-bbbbbb, attempt 2
            "#]],
        );
    }

    #[test]
    fn a_later_attempt_alone_is_checked_from_its_first_line() {
        check(
            &fixture::adopted(),
            |_| (),
            "attempt-000003.journal",
            ExitKind::Success,
            expect![[r#"
                attempt-000003.journal
                  sound
                  format 1.8, 15 lines; shop r2 to test, epoch 3, run 2-bbbbbb, attempt 2
                  the attempts before it were not given; checked from its first line on
            "#]],
        );
    }

    #[test]
    fn a_torn_last_line_is_reported() {
        let tear = |root: &Path| change(&root.join("attempt-000002.journal"), |text| text.truncate(text.len() - 9));
        check(
            &fixture::killed(),
            tear,
            "",
            ExitKind::Success,
            expect![[r#"
                attempt-000001.journal
                  sound
                  format 1.8, 17 lines; shop r1 to test, epoch 1, run 1-aaaaaa, attempt 1
                attempt-000002.journal
                  sound, except for an incomplete last line of 465 bytes, which is ignored
                  format 1.8, 6 lines; shop r2 to test, epoch 2, run 2-bbbbbb, attempt 1
            "#]],
        );
    }

    #[test]
    fn an_attempt_that_never_began_is_reported() {
        let tear = |root: &Path| fs::write(root.join("attempt-000002.journal"), "00c0f").unwrap();
        check(
            &fixture::clean(),
            tear,
            "",
            ExitKind::Success,
            expect![[r#"
                attempt-000001.journal
                  sound
                  format 1.8, 17 lines; shop r1 to test, epoch 1, run 1-aaaaaa, attempt 1
                attempt-000002.journal
                  empty: its attempt never began
            "#]],
        );
    }

    #[test]
    fn corruption_names_its_line_and_what_follows_is_not_checked() {
        let flip = |root: &Path| {
            change(&root.join("attempt-000001.journal"), |text| *text = text.replacen("deploy.yml", "deploy.yaml", 1));
        };
        check(
            &fixture::failed(),
            flip,
            "",
            ExitKind::Journal,
            expect![[r#"
                attempt-000001.journal
                  CORRUPT at line 2: its stated checksum is b869d346, but its content has
                  335eb60d (P0602)
                  format 1.8, 1 lines; shop r1 to test, epoch 1, run 1-aaaaaa, attempt 1
                attempt-000002.journal
                  NOT CHECKED: it follows a corrupt or unreadable journal
            "#]],
        );
    }

    #[test]
    fn a_missing_line_breaks_the_chain() {
        let cut = |root: &Path| {
            change(&root.join("attempt-000001.journal"), |text| {
                let (head, rest) = text.split_once('\n').unwrap();
                *text = format!("{head}\n{}", rest.split_once('\n').unwrap().1);
            });
        };
        check(
            &fixture::clean(),
            cut,
            "attempt-000001.journal",
            ExitKind::Journal,
            expect![[r#"
                attempt-000001.journal
                  CORRUPT at line 2: expected line 1, found line 2 (P0603)
                  format 1.8, 1 lines; shop r1 to test, epoch 1, run 1-aaaaaa, attempt 1
            "#]],
        );
    }

    #[test]
    fn json_has_the_line_as_a_number() {
        let root = tempfile::tempdir().unwrap();
        fixture::clean().write(root.path());
        let path = root.path().join("attempt-000001.journal");
        change(&path, |text| *text = text.replacen("deploy.yml", "deploy.yaml", 1));
        let mut out = Vec::new();
        run(&JournalSubcommand::Check { files: vec![path] }, OutputFormat::Json, &mut out).unwrap();
        let answer: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(answer[0]["verdict"], "corrupt");
        assert_eq!(answer[0]["problem"]["line"], 2);
        assert_eq!(answer[0]["problem"]["code"], "P0602");
    }

    #[test]
    fn nothing_to_check_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        for path in [root.path().to_owned(), root.path().join("gone.journal")] {
            let command = JournalSubcommand::Check { files: vec![path] };
            assert_eq!(run(&command, OutputFormat::Text, &mut Vec::new()).unwrap_err().code, ErrorCode::NoJournal);
        }
    }
}
