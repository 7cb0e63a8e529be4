//! `runner history`: the attempts, newest first.

use std::io::Write;

use serde_json::Value;

use super::attempts::summary_json;
use crate::report::{self, Form, json, table::table, words};
use contract::diagnostic::{Diagnostic, Exit};
use contract::text::{WIDTH, between, cut, moment, took, wrap};
use journal::{Loaded, state::AttemptSummary};
use state::{Released, Store};

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many attempts to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) limit: usize,
}

/// Lists attempts, as a table, or as a JSON array of `{epoch, run, attempt, release, by, began, last, took-ms, exit,
/// verified, stuck, lock-released: {by, at, message}}`.
///
/// # Errors
/// P06xx when a journal can't be read.
pub(super) fn run(args: &Args, store: &Store, form: Form, out: &mut dyn Write) -> Result<Exit, Diagnostic> {
    let paths = store.journals().map_err(|error| Diagnostic::from(&error))?;
    let state = Loaded::read(&paths, |_| ()).map_err(|error| Diagnostic::from(&error))?.state;
    let released = store.released().map_err(|error| Diagnostic::from(&error))?;
    let attempts: Vec<_> = state.attempts.iter().rev().take(args.limit).collect();
    let answer = match form {
        Form::Json => {
            let entry = |attempt: &&AttemptSummary| {
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
        Form::Text if state.attempts.is_empty() => "no attempts yet\n".to_owned(),
        Form::Text => {
            let rows: Vec<_> = attempts.iter().map(|attempt| row(attempt)).collect();
            let mut answer = table(0, ["EPOCH", "RELEASE", "BEGAN", "TOOK", "RESULT", "RUN", "BY"], &rows);
            let shown = |one: &&Released| attempts.iter().any(|attempt| attempt.header.epoch == one.epoch);
            for Released { epoch, holder, by, at, message } in released.iter().rev().filter(shown) {
                let line =
                    format!("lock of epoch {epoch}, held by {holder}: released by {by} at {}: {message}", moment(*at));
                let lines = wrap(&line, WIDTH, WIDTH - 2).join("\n  ");
                answer.push_str(&format!("\n{lines}\n"));
            }
            answer
        }
    };
    report::emit(out, &answer)?;
    Ok(Exit::Success)
}

fn row(attempt: &AttemptSummary) -> [String; 7] {
    let header = &attempt.header;
    [
        header.epoch.to_string(),
        cut(header.release.label.as_str(), 20),
        moment(attempt.began),
        took(between(attempt.began, attempt.last)),
        match &attempt.order {
            Some(order) => format!("{} ({order})", words::result(attempt.exit, attempt.verified)),
            None => words::result(attempt.exit, attempt.verified).to_owned(),
        },
        cut(&format!("{}/{}", header.run, header.attempt), 20),
        header.by.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::report::fixture::{self, Tape};
    use plan::StateLocation;

    fn check(tape: &Tape, limit: usize, form: Form, expected: Expect) {
        let root = tempfile::tempdir().unwrap();
        let location = StateLocation::Dir(root.path().to_owned());
        let store = Store::new(&location, &"shop".parse().unwrap(), &"test".parse().unwrap());
        tape.write(store.folder());
        let mut out = Vec::new();
        assert_eq!(run(&Args { limit }, &store, form, &mut out).unwrap(), Exit::Success);
        let text = String::from_utf8(out).unwrap();
        assert!(form == Form::Json || text.lines().all(|line| line.chars().count() <= 80), "{text}");
        expected.assert_eq(&text);
    }

    #[test]
    fn nothing_was_deployed_yet() {
        check(
            &Tape::new(),
            20,
            Form::Text,
            expect![[r#"
            no attempts yet
        "#]],
        );
        check(
            &Tape::new(),
            20,
            Form::Json,
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
            Form::Text,
            expect![[r#"
            EPOCH  RELEASE  BEGAN                 TOOK   RESULT       RUN         BY
            3      r2       2025-11-23 03:30:01Z  21 ms  deployed     2-bbbbbb/2  ann@host
            2      r2       2025-11-23 03:20:01Z  11 ms  interrupted  2-bbbbbb/1  ann@host
            1      r1       2025-11-23 03:10:00Z  1.3 s  deployed     1-aaaaaa/1  ann@host
        "#]],
        );
        check(
            &fixture::rolled_back(),
            20,
            Form::Text,
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
            Form::Json,
            expect![[r#"
                [{"epoch":2,"run":"2-bbbbbb","attempt":1,"release":{"label":"r2","digest":null},"by":"ann@host","began":"2025-11-23T03:20:01.306Z","last":"2025-11-23T03:20:01.361Z","took-ms":55,"exit":"failed","verified":false,"stuck":{"step":"migrate","target":"local"},"order":null,"lock-released":null}]
            "#]],
        );
    }
}
