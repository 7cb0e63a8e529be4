//! `runner history`: lists the attempts, newest first.

use std::io::Write;

use serde_json::Value;

use super::attempts::{summary_json, took_ms};
use crate::report::{self, OutputFormat, json, messages, table::table};
use contract::diagnostic::{Diagnostic, ExitKind};
use contract::text::{format_duration, format_time, truncate, wrap};
use journal::state::AttemptSummary;
use state::{ForcedRelease, StateStore};

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// How many attempts to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) limit: usize,
}

/// Lists attempts, as a table of at most `line_width` columns, or as a JSON array of `{epoch, run, attempt, release, by, began, last, took-ms, exit,
/// verified, stuck, lock-released: {by, at, message}}`.
///
/// # Errors
/// P06xx when a journal cannot be read.
pub(super) fn run(
    args: &HistoryArgs,
    store: &StateStore,
    form: OutputFormat,
    line_width: usize,
    out: &mut dyn Write,
) -> Result<ExitKind, Diagnostic> {
    let attempts = store.newest_attempts(args.limit).map_err(|error| Diagnostic::from(&error))?;
    let released = store.forced_releases().map_err(|error| Diagnostic::from(&error))?;
    let answer = match form {
        OutputFormat::Json => {
            let entry = |attempt: &AttemptSummary| {
                let mut entry = summary_json(attempt);
                let lost = released.iter().find(|one| one.epoch == attempt.header.epoch);
                entry["lock-released"] = lost.map_or(
                    Value::Null,
                    |one| serde_json::json!({ "by": one.by, "at": one.at, "message": one.message }),
                );
                entry
            };
            json::line(&attempts.iter().map(entry).collect::<Value>()) + "\n"
        }
        OutputFormat::Text if attempts.is_empty() => "no attempts yet\n".to_owned(),
        OutputFormat::Text => {
            let rows: Vec<_> = attempts.iter().map(table_row).collect();
            let mut answer = table(0, line_width, ["EPOCH", "RELEASE", "BEGAN", "TOOK", "RESULT", "RUN", "BY"], &rows);
            let shown = |one: &&ForcedRelease| attempts.iter().any(|attempt| attempt.header.epoch == one.epoch);
            for ForcedRelease { epoch, holder, by, at, message } in released.iter().rev().filter(shown) {
                let line = format!(
                    "lock of epoch {epoch}, held by {holder}: released by {by} at {}: {message}",
                    format_time(*at)
                );
                let lines = wrap(&line, line_width, line_width.saturating_sub(2)).join("\n  ");
                answer.push_str(&format!("\n{lines}\n"));
            }
            answer
        }
    };
    report::write_answer(out, &answer)?;
    Ok(ExitKind::Success)
}

fn table_row(attempt: &AttemptSummary) -> [String; 7] {
    let header = &attempt.header;
    [
        header.epoch.to_string(),
        truncate(header.release.label.as_str(), 20),
        format_time(attempt.started_at),
        took_ms(attempt).map_or_else(|| "–".to_owned(), format_duration),
        match (&attempt.resolved_step, &attempt.command) {
            (Some(step_target), _) => format!("resolved {step_target}"),
            (None, Some(order)) => format!("{} ({order})", messages::result(attempt.exit, attempt.verified)),
            (None, None) => messages::result(attempt.exit, attempt.verified).to_owned(),
        },
        truncate(&format!("{}/{}", header.run, header.attempt), 20),
        header.by.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::report::fixture::{self, JournalFixture};
    use contract::text::WIDTH;
    use plan::StateLocation;

    fn check(tape: &JournalFixture, limit: usize, form: OutputFormat, expected: Expect) {
        let root = tempfile::tempdir().unwrap();
        let location = StateLocation::Dir(root.path().to_owned());
        let store = StateStore::new(&location, &"shop".parse().unwrap(), &"test".parse().unwrap());
        tape.write(store.folder());
        let mut out = Vec::new();
        assert_eq!(run(&HistoryArgs { limit }, &store, form, WIDTH, &mut out).unwrap(), ExitKind::Success);
        let text = String::from_utf8(out).unwrap();
        assert!(form == OutputFormat::Json || text.lines().all(|line| line.chars().count() <= 80), "{text}");
        expected.assert_eq(&text);
    }

    #[test]
    fn nothing_was_deployed_yet() {
        check(
            &JournalFixture::new(),
            20,
            OutputFormat::Text,
            expect![[r#"
            no attempts yet
        "#]],
        );
        check(
            &JournalFixture::new(),
            20,
            OutputFormat::Json,
            expect![[r#"
            []
        "#]],
        );
    }

    #[test]
    fn the_newest_attempt_comes_first() {
        check(
            &fixture::adopted(),
            20,
            OutputFormat::Text,
            expect![[r#"
            EPOCH  RELEASE  BEGAN                 TOOK   RESULT       RUN         BY
            3      r2       2025-11-23 03:30:01Z  21 ms  deployed     2-bbbbbb/2  ann@host
            2      r2       2025-11-23 03:20:01Z  –      interrupted  2-bbbbbb/1  ann@host
            1      r1       2025-11-23 03:10:00Z  1.3 s  deployed     1-aaaaaa/1  ann@host
        "#]],
        );
        check(
            &fixture::rolled_back(),
            20,
            OutputFormat::Text,
            expect![[r#"
            EPOCH  RELEASE  BEGAN                 TOOK   RESULT       RUN         BY
            2      r2       2025-11-23 03:20:01Z  5.0 s  rolled back  2-bbbbbb/1  ann@host
            1      r1       2025-11-23 03:10:00Z  1.3 s  deployed     1-aaaaaa/1  ann@host
        "#]],
        );
    }

    #[test]
    fn the_limit_keeps_the_newest() {
        check(
            &fixture::failed(),
            1,
            OutputFormat::Json,
            expect![[r#"
                [{"epoch":2,"run":"2-bbbbbb","attempt":1,"release":{"label":"r2","digest":null},"by":"ann@host","began":"2025-11-23T03:20:01.306Z","last":"2025-11-23T03:20:01.361Z","took-ms":55,"exit":"failed","verified":false,"stuck":{"step":"migrate","target":"local"},"order":null,"resolved":null,"lock-released":null}]
            "#]],
        );
    }
}
