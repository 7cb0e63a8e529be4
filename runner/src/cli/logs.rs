//! `runner logs [STEP]`: shows the messages of steps and the lines of their programs, and when the steps began and ended.
//!
//! The lines come from the log beside the journal. On another machine, or after many attempts, there is only what the journal has of
//! them. Deliberately absent: following a running attempt ([`follow`]).

mod follow;
mod output;

use std::io::Write;

use jiff::Timestamp;

use self::output::OutputItem;
use super::{attempts::read_attempt, why};
use crate::report::{self, OutputFormat, json, messages};
use contract::text::{self, GUTTER, format_duration};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::{StepOutcome, StepProgress},
};
use journal::{JournalEvent, StepTarget, attempt_log::AttemptLogReader, event::JournalEntry};
use state::StateStore;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Only this step
    pub(super) step: Option<String>,
    /// The epoch of an attempt, from `runner history`; by default the last one
    #[arg(long, value_name = "EPOCH")]
    pub(super) attempt: Option<u64>,
    /// Show what is written from now on, until the attempt ends
    #[arg(short, long)]
    pub(super) follow: bool,
}

/// Shows the log of an attempt: time, level, step and message, in lines of any length; or the journal entries behind them, as
/// JSON lines.
///
/// # Errors
/// P0210 when the attempt has no such step; otherwise as [`read_attempt`].
pub(super) fn run(
    args: &LogsArgs,
    store: &StateStore,
    form: OutputFormat,
    out: &mut dyn Write,
) -> Result<ExitKind, Diagnostic> {
    let reading = read_attempt(store, args.attempt)?;
    if args.follow {
        return follow::follow(args, store, &reading, form, out);
    }
    let places = why::step_targets(&reading.entries);
    if let Some(step) = args.step.as_deref().filter(|step| places.iter().all(|place| place.step.as_str() != *step)) {
        return Err(why::no_such_step_error(step, &reading.summary, &places));
    }
    let logged = AttemptLogReader::of_journal(&store.journal_path(reading.summary.header.epoch)).read_new();
    let logged = logged.map_err(|error| log_read_error(store, &error))?;
    let output = match logged.is_empty() {
        false => output::items_of_log(logged, 0),
        true => reading.entries.iter().flat_map(output::items_of_entry).collect(),
    };
    let mut items = merge(&reading.entries, &output);
    items.retain(|item| is_wanted(args, item.step_target()));
    let width = items.iter().map(|item| report::step_label(item.step_target()).len()).max().unwrap_or(0);
    let answer = match form {
        OutputFormat::Text if items.is_empty() => "nothing was logged\n".to_owned(),
        OutputFormat::Json | OutputFormat::Text => items.iter().map(|item| item.show(form, width)).collect(),
    };
    report::write_answer(out, &answer)?;
    Ok(ExitKind::Success)
}

fn is_wanted(args: &LogsArgs, step_target: &StepTarget) -> bool {
    args.step.as_ref().is_none_or(|step| step_target.step.as_str() == step)
}

fn log_read_error(store: &StateStore, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(ErrorCode::StateFolderIo, "can't read the log of the attempt")
        .with_cause(format!("{}: {error}", store.folder().display()))
        .with_hint("give this user read access to the folder in `state:`, then run again")
}

/// One thing that the log shows.
enum LogItem<'a> {
    Entry(&'a JournalEntry, StepLogLine<'a>),
    Output(&'a OutputItem),
}

impl LogItem<'_> {
    fn step_target(&self) -> &StepTarget {
        match self {
            Self::Entry(_, said) => said.place,
            Self::Output(item) => &item.step_target,
        }
    }

    /// The item as text or as JSON, its end included.
    fn show(&self, form: OutputFormat, width: usize) -> String {
        match (self, form) {
            (Self::Entry(entry, _), OutputFormat::Json) => json::line(entry) + "\n",
            (Self::Entry(entry, said), OutputFormat::Text) => format_log_line(entry.at, said, width),
            (Self::Output(item), OutputFormat::Json) => json::line(&item.json()) + "\n",
            (Self::Output(item), OutputFormat::Text) => item.text(width),
        }
    }
}

/// The entries that are shown, with the lines of programs between them by their times.
fn merge<'a>(entries: &'a [JournalEntry], output: &'a [OutputItem]) -> Vec<LogItem<'a>> {
    let mut output = output.iter().peekable();
    let mut items = Vec::new();
    for entry in entries {
        // Times are in milliseconds. What ends a call comes after the lines of its program.
        let is_end = matches!(&entry.event, JournalEvent::Outcome { .. } | JournalEvent::UndoOutcome { .. });
        let comes_before = |item: &&OutputItem| item.at < entry.at || is_end && item.at == entry.at;
        while let Some(item) = output.next_if(comes_before) {
            items.push(LogItem::Output(item));
        }
        items.extend(step_log_line(&entry.event).map(|said| LogItem::Entry(entry, said)));
    }
    items.extend(output.map(LogItem::Output));
    items
}

/// A log line for an event of a running step.
struct StepLogLine<'a> {
    place: &'a StepTarget,
    level: &'static str,
    message: String,
}

fn step_log_line(event: &JournalEvent) -> Option<StepLogLine<'_>> {
    let (place, level, message) = match event {
        JournalEvent::Intent { step_target: place, .. } => (place, "begin", String::new()),
        JournalEvent::Outcome { step_target: place, took_ms, outcome: result } => {
            let how = match result {
                StepOutcome::Succeeded { receipt } => messages::notes(&receipt.notes),
                StepOutcome::Failed { failure } | StepOutcome::Unknown { failure } => messages::failure(failure),
            };
            let separator = if how.is_empty() { "" } else { ": " };
            (place, "end", format!("{} after {}{separator}{how}", messages::outcome(result), format_duration(*took_ms)))
        }
        JournalEvent::Progress { step_target: place, progress: StepProgress::Log { level, message, fields } } => {
            (place, messages::level(*level), format!("{message}{}", messages::fields(fields)))
        }
        JournalEvent::Progress { step_target: place, progress: StepProgress::Meter { task, done, total, unit } } => {
            (place, "meter", format!("{task} {}", text::format_amount(*done, *total, unit)))
        }
        JournalEvent::UndoIntent { step_target: place } => (place, "undo", String::new()),
        JournalEvent::UndoOutcome { step_target: place, failure: None } => (place, "end", "undone".to_owned()),
        JournalEvent::UndoOutcome { step_target: place, failure: Some(failure) } => {
            (place, "end", format!("not undone: {}", messages::failure(failure)))
        }
        JournalEvent::Resolved { step_target: place, resolution, by, message } => {
            (place, "end", format!("{} by {by}: {message}", messages::resolution(resolution)))
        }
        JournalEvent::Started(_)
        | JournalEvent::Plan { .. }
        | JournalEvent::Lock { .. }
        | JournalEvent::Torn { .. }
        | JournalEvent::SwitchedBack { .. }
        | JournalEvent::Decision { .. }
        // Its lines are shown by their times.
        | JournalEvent::Output { .. }
        | JournalEvent::Probe { .. }
        | JournalEvent::Override { .. }
        | JournalEvent::HostLeftBehind { .. }
        | JournalEvent::RecordLost { .. }
        | JournalEvent::Ended { .. }
        | JournalEvent::Unrecognized => return None,
    };
    Some(StepLogLine { place, level, message })
}

/// Formats one message. It is not wrapped, so that `grep` finds whole sentences.
fn format_log_line(at: Timestamp, said: &StepLogLine<'_>, width: usize) -> String {
    let head = log_line_head(at, said.level, said.place, width);
    let mut shown = String::new();
    for (index, part) in said.message.split('\n').enumerate() {
        let part = text::escape_line(part.trim_end_matches('\r'));
        let line = match index {
            0 => format!("{head}{part}"),
            _ => format!("{}{GUTTER}{part}", " ".repeat(head.len())),
        };
        shown.push_str(line.trim_end());
        shown.push('\n');
    }
    shown
}

/// What stands before the text of a line: time, level, step.
fn log_line_head(at: Timestamp, level: &str, place: &StepTarget, width: usize) -> String {
    let at = at.strftime("%Y-%m-%d %H:%M:%S%.3fZ");
    format!("{at}  {level:<5}  {:<width$}  ", report::step_label(place))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::report::fixture::{self, JournalFixture};
    use contract::{diagnostic::ErrorCode, step::MessageLevel};
    use journal::event::DecisionReason;
    use plan::StateLocation;

    fn answer(
        tape: &JournalFixture,
        step: Option<&str>,
        attempt: Option<u64>,
        form: OutputFormat,
    ) -> Result<String, Diagnostic> {
        let root = tempfile::tempdir().unwrap();
        let location = StateLocation::Dir(root.path().to_owned());
        let store = StateStore::new(&location, &"shop".parse().unwrap(), &"test".parse().unwrap());
        tape.write(store.folder());
        let mut out = Vec::new();
        run(&LogsArgs { step: step.map(str::to_owned), attempt, follow: false }, &store, form, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn check(tape: &JournalFixture, step: Option<&str>, attempt: Option<u64>, form: OutputFormat, expected: Expect) {
        expected.assert_eq(&answer(tape, step, attempt, form).unwrap());
    }

    #[test]
    fn the_last_attempt_is_shown() {
        check(
            &fixture::failed(),
            None,
            None,
            OutputFormat::Text,
            expect![[r#"
            2025-11-23 03:20:01.308Z  begin  pull
            2025-11-23 03:20:01.316Z  end    pull     succeeded after 8 ms: 1.5 KiB
            2025-11-23 03:20:01.317Z  begin  migrate
            2025-11-23 03:20:01.318Z  debug  migrate  reading rows=7 table=orders
            2025-11-23 03:20:01.319Z  warn   migrate  slow lock rows=7 table=orders
            2025-11-23 03:20:01.360Z  end    migrate  failed after 41 ms: migrations/0007_orders.sql:3: relation "order" does not exist
        "#]],
        );
    }

    #[test]
    fn a_step_and_an_attempt_can_be_chosen() {
        check(
            &fixture::failed(),
            Some("pull"),
            Some(1),
            OutputFormat::Text,
            expect![[r#"
            2025-11-23 03:10:00.002Z  begin  pull
            2025-11-23 03:10:00.003Z  meter  pull  fetch 512 B of 2.0 KiB
            2025-11-23 03:10:00.004Z  info   pull  fetched rows=7 table=orders
            2025-11-23 03:10:01.254Z  end    pull  succeeded after 1.2 s: 2.0 KiB
        "#]],
        );
        check(
            &fixture::failed(),
            Some("verify"),
            None,
            OutputFormat::Text,
            expect![[r#"
            nothing was logged
        "#]],
        );
        check(
            &fixture::failed(),
            Some("migrate"),
            None,
            OutputFormat::Json,
            expect![[r#"
                {"seq":6,"prev":"def1fc105b58a63bfac62664d3f20c7729df7f86ce4b65d7594b612c46018b2d","at":"2025-11-23T03:20:01.317Z","event":{"type":"intent","step":"migrate","target":"local","key":"00c0ffee","fingerprint":{"config":"813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d","input:migrations":"be4866389dcc6f074d57c3f5e8affe8328f9dbebd37f34359ff220c153c8d2c0","module":"83d9dab06011479163c7c4d5fa735f911bac86729f56aaa115b7eed2eb66e022","release":"4ada45911158a94766c4c59466d11516490433c4d7501e569581fd9823524e20"},"input":{},"exposes":false}}
                {"seq":7,"prev":"606602a09866f8f02da10e01386bffa0bfa9f609bb2247a4c0ffeec7f8532331","at":"2025-11-23T03:20:01.318Z","event":{"type":"progress","step":"migrate","target":"local","progress":"log","level":"debug","message":"reading","fields":{"rows":7,"table":"orders"}}}
                {"seq":8,"prev":"a51f8f93d36112839a826f591562d1d167439a56eee41de30bb5dae3ad60f295","at":"2025-11-23T03:20:01.319Z","event":{"type":"progress","step":"migrate","target":"local","progress":"log","level":"warn","message":"slow lock","fields":{"rows":7,"table":"orders"}}}
                {"seq":9,"prev":"ceb611a9f55bc0b05dd715972ee4b28dd602adb47adec44b0136246e0633defe","at":"2025-11-23T03:20:01.36Z","event":{"type":"outcome","step":"migrate","target":"local","took-ms":41,"result":"failed","failure":{"kind":"permanent","message":"relation \"order\" does not exist","hint":"fix the file and run again","retryable":false,"details":{"file":"migrations/0007_orders.sql","line":3}}}}
            "#]],
        );
    }

    #[test]
    fn an_undo_is_shown() {
        check(
            &fixture::rolled_back(),
            Some("switch"),
            None,
            OutputFormat::Text,
            expect![[r#"
            2025-11-23 03:20:01.327Z  begin  switch
            2025-11-23 03:20:01.329Z  end    switch  succeeded after 2 ms
            2025-11-23 03:20:06.351Z  undo   switch
            2025-11-23 03:20:06.353Z  end    switch  undone
        "#]],
        );
    }

    #[test]
    fn a_message_of_many_lines_cannot_pass_for_others() {
        let tape = JournalFixture::new()
            .attempt(1, "1-aaaaaa", 1, "r1")
            .begin("pull", DecisionReason::NeverRan, &[])
            .log("pull", MessageLevel::Info, "\u{1b}[2Jone\n::error::two");
        check(
            &tape,
            None,
            None,
            OutputFormat::Text,
            expect![[r#"
            2025-11-23 03:10:00.002Z  begin  pull
            2025-11-23 03:10:00.003Z  info   pull  \u{1b}[2Jone
                                                   | ::error::two rows=7 table=orders
        "#]],
        );
    }

    #[test]
    fn an_attempt_that_is_not_there_is_an_error() {
        assert_eq!(
            answer(&fixture::clean(), None, Some(7), OutputFormat::Text).unwrap_err().code,
            ErrorCode::UnknownAttempt
        );
        assert_eq!(
            answer(&JournalFixture::new(), None, None, OutputFormat::Text).unwrap_err().code,
            ErrorCode::NoAttempts
        );
    }
}
