//! The exact text of each report.

mod hosts;

use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
    sync::{Arc, Mutex},
};

use expect_test::{Expect, expect};
use indicatif::{ProgressDrawTarget, TermLike};
use serde_json::json;

use super::{
    ColorMode, CommandConclusion, DeploymentReporter, InteractiveMode, JsonLinesReporter, ReportOptions,
    TerminalReporter, Verbosity,
    fixture::{self, JournalFixture},
    formatter::{DisplayLine, LineStyle},
    terminal::format_line,
};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::{MessageLevel, Receipt, StepOutcome},
};
use journal::{
    JournalEvent, StepTarget,
    event::{Decision, DecisionReason},
};

/// A stream whose content a test can read.
#[derive(Clone, Default)]
struct SharedBuffer(Rc<RefCell<Vec<u8>>>);

impl SharedBuffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

impl Write for SharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reports the last attempt without a terminal; both streams go to the same buffer.
fn render_attempt(tape: &JournalFixture, options: ReportOptions, exit: ExitKind) -> String {
    let stream = SharedBuffer::default();
    let mut terminal = TerminalReporter::new(Box::new(stream.clone()), Box::new(stream.clone()), options);
    for entry in tape.last_attempt() {
        terminal.on_event(entry);
    }
    terminal.finish(&CommandConclusion { exit, error: None });
    stream.text()
}

fn plain_options(verbosity: Verbosity, continues: Option<&str>) -> ReportOptions {
    ReportOptions {
        verbosity,
        color: ColorMode::Off,
        interactive: InteractiveMode::No,
        continues_after: continues.map(str::to_owned),
        logs_command: "`runner logs`".to_owned(),
    }
}

fn check(tape: &JournalFixture, exit: ExitKind, continues: Option<&str>, expected: Expect) {
    let text = render_attempt(tape, plain_options(Verbosity::Normal, continues), exit);
    expected.assert_eq(&text);
}

#[test]
fn long_lines_are_wrapped_on_a_terminal_only() {
    let line = DisplayLine {
        min_verbosity: Verbosity::Quiet,
        style: LineStyle::Failure,
        keyword: "FAIL",
        label: "migrate".to_owned(),
        reason: None,
        text: "many words ".repeat(20),
        took_ms: Some(41),
    };
    let shown = |mode: InteractiveMode| format_line(&line, &line.text, 7, mode.line_width(), ColorMode::Off);
    let (terminal, pipe) = (shown(InteractiveMode::Yes), shown(InteractiveMode::No));
    assert!(terminal.lines().count() > 3 && terminal.lines().all(|line| line.chars().count() <= 80), "{terminal}");
    assert!(pipe.lines().count() == 1 && pipe.ends_with("words  41 ms\n"), "{pipe}");
}

#[test]
fn clean_deployment() {
    check(
        &fixture::clean(),
        ExitKind::Success,
        None,
        expect![[r#"
            shop r1 to test (run 1-aaaaaa, attempt 1)
              start  pull     first run
              ran    pull     2.0 KiB                                                  1.2 s
              start  migrate  first run
              ran    migrate  2 files                                                  41 ms
              start  switch   first run
              ran    switch                                                             2 ms
              start  verify   first run
              ran    verify                                                             5 ms
            deployed r1 to test in 1.3 s (4 ran)
        "#]],
    );
}

#[test]
fn deployment_with_all_steps_skipped() {
    check(
        &fixture::all_skipped(),
        ExitKind::Success,
        None,
        expect![[r#"
            shop r1 to test (run 2-bbbbbb, attempt 1)
              skip   pull     its effect still holds                                    3 ms
              skip   migrate  its effect still holds                                    3 ms
              skip   switch   its effect still holds                                    3 ms
              skip   verify   its effect still holds                                    3 ms
            r1 is already deployed to test (checked in 14 ms, 4 skipped)
        "#]],
    );
}

#[test]
fn failure_names_file_and_line() {
    check(
        &fixture::failed(),
        ExitKind::Failed,
        None,
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 1)
              start  pull     the release changed
              ran    pull     1.5 KiB                                                   8 ms
              start  migrate  its configuration, migrations and the release changed
              warn   migrate  slow lock rows=7 table=orders
              FAIL   migrate  migrations/0007_orders.sql:3: relation "order" does not exist  41 ms
            FAILED: r2 to test at `migrate`, after 55 ms (1 ran, 1 failed)
        "#]],
    );
}

#[test]
fn resumed_run() {
    check(
        &fixture::resumed(),
        ExitKind::Success,
        Some("`migrate` failed"),
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 2)
              resume after `migrate` failed
              skip   pull     its effect still holds                                    3 ms
              start  migrate  it failed last time
              ran    migrate  1 file                                                   12 ms
              start  switch   the release changed
              ran    switch                                                             2 ms
              start  verify   an earlier step ran
              ran    verify                                                             5 ms
            deployed r2 to test in 27 ms (3 ran, 1 skipped)
        "#]],
    );
}

#[test]
fn drift_stops_the_attempt() {
    check(
        &fixture::drifted(),
        ExitKind::InDoubt,
        None,
        expect![[r#"
            shop r1 to test (run 2-bbbbbb, attempt 1)
              STOP   pull     drift: releases/r1/app.js differs from the archive        3 ms
            STOPPED: r1 to test at `pull`, after 5 ms (1 in doubt)
        "#]],
    );
}

#[test]
fn last_line_names_the_interrupted_step() {
    check(
        &fixture::killed(),
        ExitKind::Interrupted,
        None,
        expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
          start  pull     the release changed
          ran    pull                                                               8 ms
          start  migrate  the release changed
        INTERRUPTED: r2 to test at `migrate`, after 11 ms (1 ran)
    "#]],
    );
}

#[test]
fn adopted_effect() {
    check(
        &fixture::adopted(),
        ExitKind::Success,
        Some("`migrate` was interrupted"),
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 2)
              resume after `migrate` was interrupted
              skip   pull     its effect still holds                                    3 ms
              adopt  migrate  it was interrupted; the probe found its effect            4 ms
              skip   migrate  its effect still holds                                    3 ms
              start  switch   the release changed
              ran    switch                                                             2 ms
              start  verify   an earlier step ran
              ran    verify                                                             5 ms
            deployed r2 to test in 21 ms (2 ran, 1 skipped, 1 adopted)
        "#]],
    );
}

#[test]
fn effect_without_a_record_is_adopted_and_never_started() {
    check(
        &fixture::adopted_without_record(),
        ExitKind::Success,
        Some("an interruption"),
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 2)
              resume after an interruption
              skip   pull     its effect still holds                                    3 ms
              adopt  migrate  its record is unauthenticated or missing; the probe found its effect  4 ms
              skip   migrate  its effect still holds                                    3 ms
              start  switch   the release changed
              ran    switch                                                             2 ms
              start  verify   an earlier step ran
              ran    verify                                                             5 ms
            deployed r2 to test in 22 ms (2 ran, 1 skipped, 1 adopted)
        "#]],
    );
}

#[test]
fn rolled_back_release() {
    check(
        &fixture::rolled_back(),
        ExitKind::RolledBack,
        None,
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 1)
              start  pull     the release changed
              ran    pull                                                               8 ms
              start  migrate  the release changed
              ran    migrate                                                            9 ms
              start  switch   the release changed
              ran    switch                                                             2 ms
              start  verify   an earlier step ran
              FAIL   verify   GET /health gave 500, not 200                            5.0 s
              undo   switch
              undid  switch
              back            r1 is live again
            ROLLED BACK r2 in test after `verify` failed (2 ran, 1 failed, 1 undone)
        "#]],
    );
}

#[test]
fn verbose_shows_intents_and_debug_messages() {
    let text = render_attempt(&fixture::failed(), plain_options(Verbosity::Verbose, None), ExitKind::Failed);
    expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
          plan            deploy.yml, 4 steps, 29fde71e
          intent pull     fingerprint cd65dbb5, key 00c0ffee
          start  pull     the release changed
          ran    pull     1.5 KiB                                                   8 ms
          intent migrate  fingerprint c8fff71d, key 00c0ffee
          start  migrate  its configuration, migrations and the release changed
          debug  migrate  reading rows=7 table=orders
          warn   migrate  slow lock rows=7 table=orders
          FAIL   migrate  migrations/0007_orders.sql:3: relation "order" does not exist  41 ms
        FAILED: r2 to test at `migrate`, after 55 ms (1 ran, 1 failed)
    "#]]
    .assert_eq(&text);
}

#[test]
fn verbose_shows_probes() {
    let text = render_attempt(&fixture::adopted(), plain_options(Verbosity::Verbose, None), ExitKind::Success);
    expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 2)
          plan            deploy.yml, 4 steps, 29fde71e
          probe  pull     its effect holds                                          3 ms
          skip   pull     its effect still holds                                    3 ms
          probe  migrate  its effect holds (with the recorded input)                4 ms
          adopt  migrate  it was interrupted; the probe found its effect            4 ms
          probe  migrate  its effect holds                                          3 ms
          skip   migrate  its effect still holds                                    3 ms
          intent switch   fingerprint cd65dbb5, key 00c0ffee
          start  switch   the release changed
          ran    switch                                                             2 ms
          intent verify   fingerprint cd65dbb5, key 00c0ffee
          start  verify   an earlier step ran
          ran    verify                                                             5 ms
        deployed r2 to test in 21 ms (2 ran, 1 skipped, 1 adopted)
    "#]]
    .assert_eq(&text);
}

#[test]
fn rare_events_have_a_line() {
    let step_target = || StepTarget { step: "pull".parse().unwrap(), target: "web1".parse().unwrap() };
    let lost = StepOutcome::Unknown { failure: fixture::failure("the call took longer than 5 min", json!({})) };
    let failure = Some(fixture::failure("the link is gone", json!({})));
    let tape = JournalFixture::new()
        .attempt(1, "1-aaaaaa", 1, "r1")
        .push(1, JournalEvent::Lock { resource: "shop/test".to_owned(), holder: "ann@host, process 7".to_owned() })
        .push(
            1,
            JournalEvent::Override { option: "start-from".to_owned(), step: Some(step_target().step), hosts: None },
        )
        .decide("pull", Decision::Skip { reason: DecisionReason::RequestedByOperator, receipt: Receipt::default() })
        .begin("migrate", DecisionReason::NeverRan, &[])
        .meter("migrate", 1536, None)
        .end("migrate", 300_000, lost)
        .push(1, JournalEvent::UndoIntent { step_target: step_target() })
        .push(1, JournalEvent::UndoOutcome { step_target: step_target(), failure })
        .ended(ExitKind::InDoubt);
    let text = render_attempt(&tape, plain_options(Verbosity::Verbose, None), ExitKind::InDoubt);
    expect![[r#"
        shop r1 to test (run 1-aaaaaa, attempt 1)
          plan            deploy.yml, 4 steps, 29fde71e
          lock            shop/test is held by ann@host, process 7
          option          --start-from pull
          skip   pull     the operator marked it as done
          intent migrate  fingerprint 1bc722be, key 00c0ffee
          start  migrate  first run
          meter  migrate  fetch 1.5 KiB
          LOST   migrate  outcome unknown: the call took longer than 5 min     5 min 0 s
          undo   pull@web1
          FAIL   pull@web1  rollback failed: the link is gone
        STOPPED: r1 to test at `migrate`, after 5 min 0 s (1 skipped, 1 in doubt; hooks: 1 failed)
    "#]]
    .assert_eq(&text);
}

#[test]
fn quiet_shows_failures_and_the_last_line() {
    let text = render_attempt(&fixture::failed(), plain_options(Verbosity::Quiet, None), ExitKind::Failed);
    expect![[r#"
          FAIL   migrate  migrations/0007_orders.sql:3: relation "order" does not exist  41 ms
        FAILED: r2 to test at `migrate`, after 55 ms (1 ran, 1 failed)
    "#]]
    .assert_eq(&text);
    let text = render_attempt(&fixture::clean(), plain_options(Verbosity::Quiet, None), ExitKind::Success);
    expect![[r#"
        deployed r1 to test in 1.3 s (4 ran)
    "#]]
    .assert_eq(&text);
}

#[test]
fn attempt_that_did_not_start_has_no_output() {
    let stream = SharedBuffer::default();
    let mut terminal = TerminalReporter::new(
        Box::new(stream.clone()),
        Box::new(stream.clone()),
        plain_options(Verbosity::Normal, None),
    );
    terminal.finish(&CommandConclusion { exit: ExitKind::Locked, error: None });
    assert_eq!(stream.text(), "");
}

#[test]
fn escape_sequences_of_a_guest_are_escaped() {
    let message = "\u{1b}[2J\u{1b}]0;pwned\u{7}fine\n::error::forged\r\nskip   pull";
    let tape = JournalFixture::new()
        .attempt(1, "1-aaaaaa", 1, "r1")
        .begin("pull", DecisionReason::NeverRan, &[])
        .log("pull", MessageLevel::Error, message)
        .end("pull", 1, StepOutcome::Failed { failure: fixture::failure(message, json!({})) })
        .ended(ExitKind::Failed);
    let text = render_attempt(&tape, plain_options(Verbosity::Normal, None), ExitKind::Failed);
    assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{text:?}");
    expect![[r#"
        shop r1 to test (run 1-aaaaaa, attempt 1)
          start  pull     first run
          error  pull     \u{1b}[2J\u{1b}]0;pwned\u{7}fine
                          | ::error::forged
                          | skip   pull rows=7 table=orders
          FAIL   pull     \u{1b}[2J\u{1b}]0;pwned\u{7}fine
                          | ::error::forged
                          | skip   pull                                             1 ms
        FAILED: r1 to test at `pull`, after 5 ms (1 failed)
    "#]]
    .assert_eq(&text);
}

#[test]
fn only_the_keyword_has_colour() {
    let options = ReportOptions { color: ColorMode::On, ..plain_options(Verbosity::Normal, None) };
    let text = render_attempt(&fixture::drifted(), options, ExitKind::InDoubt).replace('\u{1b}', "^");
    expect![[r#"
        shop r1 to test (run 2-bbbbbb, attempt 1)
          ^[1m^[33mSTOP^[0m   pull     drift: releases/r1/app.js differs from the archive        3 ms
        STOPPED: r1 to test at `pull`, after 5 ms (1 in doubt)
    "#]]
    .assert_eq(&text);
}

#[test]
fn json_lines_are_the_journal_and_the_result() {
    let stream = SharedBuffer::default();
    let mut report = JsonLinesReporter::new(Box::new(stream.clone()));
    let tape = fixture::failed();
    for entry in tape.last_attempt() {
        report.on_event(entry);
    }
    let error = Diagnostic::new(ErrorCode::StepFailed, "step `migrate` failed ##[error]").with_hint("fix it");
    report.finish(&CommandConclusion { exit: ExitKind::Failed, error: Some(&error) });
    let text = stream.text();
    let mut lines: Vec<_> = text.lines().collect();
    let result = lines.pop().unwrap();
    let entries: Vec<journal::event::JournalEntry> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries, tape.last_attempt());
    expect![[r#"{"type":"result","exit":"failed","status":1,"code":"P0301","message":"step `migrate` failed #\u0023[error]","causes":[],"hint":"fix it"}"#]].assert_eq(result);
}

/// A terminal that records what indicatif draws.
#[derive(Clone, Debug, Default)]
struct RecordingTerm(Arc<Mutex<Vec<String>>>);

impl RecordingTerm {
    fn record(&self, what: &str) -> io::Result<()> {
        self.0.lock().unwrap().push(what.to_owned());
        Ok(())
    }
}

impl TermLike for RecordingTerm {
    fn width(&self) -> u16 {
        80
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, line: &str) -> io::Result<()> {
        self.record(line)
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.record(text)
    }
    fn clear_line(&self) -> io::Result<()> {
        self.record("<clear>")
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What a terminal shows of an attempt: the lines that stay, and those that were drawn meanwhile.
fn render_on_terminal(tape: &JournalFixture, exit: ExitKind) -> (String, Vec<String>) {
    let (screen, stream) = (RecordingTerm::default(), SharedBuffer::default());
    let options = ReportOptions { interactive: InteractiveMode::Yes, ..plain_options(Verbosity::Normal, None) };
    let target = screen.clone();
    let mut terminal =
        TerminalReporter::with_draw_target(Box::new(stream.clone()), Box::new(stream.clone()), options, move || {
            ProgressDrawTarget::term_like(Box::new(target.clone()))
        });
    for entry in tape.last_attempt() {
        terminal.on_event(entry);
    }
    terminal.finish(&CommandConclusion { exit, error: None });
    drop(terminal);
    let drawn = screen.0.lock().unwrap().clone();
    (stream.text(), drawn)
}

#[test]
fn on_a_terminal_a_step_has_a_progress_line_and_a_final_line() {
    let (stays, drawn) = render_on_terminal(&fixture::clean(), ExitKind::Success);
    expect![[r#"
        shop r1 to test (run 1-aaaaaa, attempt 1)
          ran    pull     first run; 2.0 KiB                                       1.2 s
          ran    migrate  first run; 2 files                                       41 ms
          ran    switch   first run                                                 2 ms
          ran    verify   first run                                                 5 ms
        deployed r1 to test in 1.3 s (4 ran)
    "#]]
    .assert_eq(&stays);
    let drawn = drawn.join("\n");
    assert!(drawn.contains("migrate"), "{drawn}");
    assert!(drawn.contains("fetch 512 B of 2.0 KiB"), "{drawn}");
    assert!(drawn.trim_end().ends_with("<clear>"), "the progress line is cleared at the end: {drawn}");
}
