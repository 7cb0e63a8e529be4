//! The exact text of the log and of annotations, and the commands in it that GitHub would execute.

mod hosts;
mod pages;

use std::{
    cell::RefCell,
    io::{self, Write},
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex},
};

use expect_test::{Expect, expect};
use serde_json::json;

use super::{
    GroupedLogReporter, JobContext, JobSummaryReporter, LiveBefore, PageSources, PreviousAttempt, RecordReach,
    StopTokenSource, WorkflowOutput, render_problems_page,
};
use crate::report::{
    ColorMode, CommandConclusion, DeploymentReporter, InteractiveMode, ReportOptions, Verbosity,
    fixture::{self, JournalFixture, step_target},
};
use contract::{
    Secret,
    diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice, SourceExcerpt, SourceLocation},
    step::{MessageLevel, StepFailure, StepOutcome},
};
use journal::{
    JournalState,
    event::{Decision, DecisionReason, JournalEvent},
    line,
};

/// The lines of a malicious guest.
const HOSTILE: &[&str] = &[
    "::set-output name=x::y",
    "  ::error::forged",
    "::stop-commands::x",
    "::add-mask::a",
    "fine ##[error]forged",
    "##[add-path]/tmp",
    "one\n::set-env name=PATH::/tmp\r\n::endgroup::",
    "a long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it",
    "| a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann\n```\n# head",
];

#[derive(Clone, Default)]
struct SyncSharedBuffer(Arc<Mutex<Vec<u8>>>);

impl SyncSharedBuffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for SyncSharedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn workflow(out: &SyncSharedBuffer) -> WorkflowOutput {
    let mut count = 0;
    let token: StopTokenSource = Box::new(move || {
        count += 1;
        Some(format!("token-{count}"))
    });
    let repository = PathBuf::from("/repo/shop");
    WorkflowOutput::new(Box::new(out.clone()), token, repository.join("ops"), vec![repository])
}

fn options(verbosity: Verbosity, continues: Option<&str>) -> ReportOptions {
    ReportOptions {
        verbosity,
        color: ColorMode::Off,
        interactive: InteractiveMode::No,
        continues_after: continues.map(str::to_owned),
        logs_command: "`runner logs`".to_owned(),
    }
}

fn render_log(tape: &JournalFixture, options: ReportOptions, exit: ExitKind) -> String {
    let out = SyncSharedBuffer::default();
    let workflow = workflow(&out);
    let mut log = GroupedLogReporter::new(workflow.clone(), options);
    for entry in tape.last_attempt() {
        log.on_event(entry);
    }
    log.finish(&CommandConclusion { exit, error: None });
    workflow.close();
    out.text()
}

fn check_log(tape: &JournalFixture, exit: ExitKind, continues: Option<&str>, expected: Expect) {
    expected.assert_eq(&render_log(tape, options(Verbosity::Normal, continues), exit));
}

/// The commands that GitHub would execute, in order. Fails if a stop or a group is left open.
#[track_caller]
fn executed_commands(text: &str) -> Vec<String> {
    let (mut stop, mut depth) = (None::<String>, 0);
    let mut executed = Vec::new();
    for line in text.lines() {
        // GitHub executes the older form anywhere in a line.
        assert!(!line.contains("##["), "{line}");
        let Some((head, data)) = line.trim_start().strip_prefix("::").and_then(|line| line.split_once("::")) else {
            continue;
        };
        let name = head.split(' ').next().unwrap_or_default();
        match (&stop, name) {
            (Some(token), name) if token == name => stop = None,
            (Some(_), _) => {}
            (None, "stop-commands") => stop = Some(data.to_owned()),
            (None, name) => {
                depth += i32::from(name == "group") - i32::from(name == "endgroup");
                executed.push(name.to_owned());
            }
        }
        assert!((0..=1).contains(&depth), "{text}");
    }
    assert_eq!((stop, depth), (None, 0), "something is left open\n{text}");
    executed
}

/// The page of the last attempt. `previous` are the indexes of earlier attempts of its run.
fn render_page(tape: &JournalFixture, conclusion: &CommandConclusion<'_>, previous: &[usize], room: usize) -> String {
    let page = Rc::new(RefCell::new(String::new()));
    let written = Rc::clone(&page);
    let earlier = |until: usize| {
        let mut state = JournalState::default();
        for entries in &tape.attempts[..until] {
            for entry in entries {
                state.apply(entry, line::encode(entry).hash, entry.seq).unwrap();
            }
        }
        state
    };
    let previous_attempts: Vec<_> = previous
        .iter()
        .map(|index| {
            let entries = &tape.attempts[*index];
            let JournalEvent::Started(header) = &entries[0].event else { panic!("an attempt begins with its header") };
            let url = Some("https://github.example/acme/shop/actions/runs/4711".to_owned());
            PreviousAttempt::new(header.attempt.0.get(), url, live_before(&earlier(*index)), entries)
        })
        .collect();
    let sources = PageSources {
        previous_attempts: Box::new(|| previous_attempts),
        journal_url: Box::new(|| Some("https://github.example/acme/shop/actions/runs/4711/artifacts/99".to_owned())),
        write: Box::new(move |text: &str| written.borrow_mut().push_str(text)),
    };
    let before = earlier(tape.attempts.len() - 1);
    let mut summary = JobSummaryReporter::new(live_before(&before), job_context(previous.len()), sources, room);
    for entry in tape.last_attempt() {
        summary.on_event(entry);
    }
    summary.finish(conclusion);
    page.take()
}

fn live_before(state: &JournalState) -> LiveBefore {
    let exposing = state.records.iter().filter(|(_, record)| record.intent.exposes);
    let replaced = exposing.map(|(step, record)| (step.clone(), record.live_before.clone())).collect();
    LiveBefore { release: state.head.live.clone(), replaced }
}

fn job_context(previous: usize) -> JobContext {
    JobContext {
        repository_url: Some("https://github.example/acme/shop".to_owned()),
        run: Some("4711".to_owned()),
        attempt: u32::try_from(previous + 1).ok(),
        commit: Some("ff7cdcc0123456789abcdef0123456789abcdef0".to_owned()),
        actor: Some("ann".to_owned()),
        site: Some("https://shop.example.com/".to_owned()),
        roots: vec![PathBuf::from("/repo/shop")],
        reach: RecordReach::Outlives("git:origin".to_owned()),
        resume_command: "runner --release r2".to_owned(),
        shows_releases: true,
        has_migrations: true,
        has_archive: true,
        has_key: false,
    }
}

fn failed_error() -> Diagnostic {
    let mut error = Diagnostic::new(ErrorCode::StepFailed, "step `migrate` failed on attempt 1")
        .with_cause("migrations/0007_orders.sql:3: relation \"order\" does not exist")
        .with_hint("fix the cause; then run `runner --release r2` again (skips: pull)");
    let path = PathBuf::from("/repo/shop/ops/../db/migrations/0007_orders.sql");
    error.location = Some(Box::new(SourceLocation { path, line: Some(3), column: Some(9) }));
    error
}

/// Each line of a hostile guest as a message, a failure, a reason and a probe's finding.
fn hostile_journal() -> JournalFixture {
    let all = HOSTILE.join("\n");
    let mut tape = JournalFixture::new().attempt(1, "1-aaaaaa", 1, "r1");
    tape = tape.begin("pull", DecisionReason::Drifted { why: all.clone() }, &[]);
    for line in HOSTILE {
        tape = tape.log("pull", MessageLevel::Info, line);
    }
    let failure = fixture::failure(&all, json!({"file": "::error::x", "line": 3}));
    tape.end("pull", 1, StepOutcome::Failed { failure })
        .decide("migrate", Decision::Stop { reason: DecisionReason::Unknown { why: all.clone() } })
        .ended(ExitKind::InDoubt)
}

#[test]
fn log_of_a_clean_deployment() {
    check_log(
        &fixture::clean(),
        ExitKind::Success,
        None,
        expect![[r#"
            shop r1 to test (run 1-aaaaaa, attempt 1)
            ::group::pull: first run
              intent pull     fingerprint 9c88dbf7, key 00c0ffee
              info   pull     fetched rows=7 table=orders
            ::endgroup::
              ran    pull     2.0 KiB                                                  1.2 s
            ::group::migrate: first run
              intent migrate  fingerprint 9c88dbf7, key 00c0ffee
            ::endgroup::
              ran    migrate  2 files                                                  41 ms
            ::group::switch: first run
              intent switch   fingerprint 9c88dbf7, key 00c0ffee
            ::endgroup::
              ran    switch                                                             2 ms
            ::group::verify: first run
              intent verify   fingerprint 9c88dbf7, key 00c0ffee
            ::endgroup::
              ran    verify                                                             5 ms
            deployed r1 to test in 1.3 s (4 ran)
        "#]],
    );
}

#[test]
fn log_of_a_failure_has_the_messages_before_it() {
    check_log(
        &fixture::failed(),
        ExitKind::Failed,
        None,
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 1)
            ::group::pull: the release changed
              intent pull     fingerprint cd65dbb5, key 00c0ffee
            ::endgroup::
              ran    pull     1.5 KiB                                                   8 ms
            ::group::migrate: its configuration, migrations and the release changed
              intent migrate  fingerprint c8fff71d, key 00c0ffee
              debug  migrate  reading rows=7 table=orders
              warn   migrate  slow lock rows=7 table=orders
            ::endgroup::
              FAIL   migrate                                                           41 ms
            FAILED: r2 to test at `migrate`, after 55 ms (1 ran, 1 failed)
        "#]],
    );
}

#[test]
fn log_of_a_retry_that_skips_and_adopts() {
    check_log(
        &fixture::adopted(),
        ExitKind::Success,
        Some("`migrate` was interrupted"),
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 2)
              resume after `migrate` was interrupted
            ::group::pull
              probe  pull     its effect holds                                          3 ms
            ::endgroup::
              skip   pull     its effect still holds                                    3 ms
            ::group::migrate
              probe  migrate  its effect holds (with the recorded input)                4 ms
            ::endgroup::
              adopt  migrate  it was interrupted; the probe found its effect            4 ms
            ::group::migrate
              probe  migrate  its effect holds                                          3 ms
            ::endgroup::
              skip   migrate  its effect still holds                                    3 ms
            ::group::switch: the release changed
              intent switch   fingerprint cd65dbb5, key 00c0ffee
            ::endgroup::
              ran    switch                                                             2 ms
            ::group::verify: an earlier step ran
              intent verify   fingerprint cd65dbb5, key 00c0ffee
            ::endgroup::
              ran    verify                                                             5 ms
            deployed r2 to test in 21 ms (2 ran, 1 skipped, 1 adopted)
        "#]],
    );
}

#[test]
fn log_of_a_rollback() {
    check_log(
        &fixture::rolled_back(),
        ExitKind::RolledBack,
        None,
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 1)
            ::group::pull: the release changed
              intent pull     fingerprint cd65dbb5, key 00c0ffee
            ::endgroup::
              ran    pull                                                               8 ms
            ::group::migrate: the release changed
              intent migrate  fingerprint cd65dbb5, key 00c0ffee
            ::endgroup::
              ran    migrate                                                            9 ms
            ::group::switch: the release changed
              intent switch   fingerprint cd65dbb5, key 00c0ffee
            ::endgroup::
              ran    switch                                                             2 ms
            ::group::verify: an earlier step ran
              intent verify   fingerprint c2a699f3, key 00c0ffee
            ::endgroup::
              FAIL   verify                                                            5.0 s
            ::group::switch: undo
            ::endgroup::
              undid  switch
              back            r1 is live again
            ROLLED BACK r2 in test after `verify` failed (2 ran, 1 failed, 1 undone)
        "#]],
    );
}

#[test]
fn quiet_has_no_groups() {
    let text = render_log(&fixture::failed(), options(Verbosity::Quiet, None), ExitKind::Failed);
    expect![[r#"
          FAIL   migrate                                                           41 ms
        FAILED: r2 to test at `migrate`, after 55 ms (1 ran, 1 failed)
    "#]]
    .assert_eq(&text);
}

#[test]
fn interrupted_log_leaves_no_group_and_no_stop_open() {
    for entries in 0..fixture::failed().last_attempt().len() {
        let out = SyncSharedBuffer::default();
        let workflow = workflow(&out);
        let mut log = GroupedLogReporter::new(workflow.clone(), options(Verbosity::Normal, None));
        fixture::failed().last_attempt().iter().take(entries).for_each(|entry| log.on_event(entry));
        drop(log);
        executed_commands(&out.text());
        workflow.error(&failed_error(), ColorMode::Off);
        assert_eq!(executed_commands(&out.text()).last().map(String::as_str), Some("error"));
    }
}

#[test]
fn commands_of_a_guest_are_not_executed() {
    for verbosity in [Verbosity::Quiet, Verbosity::Normal, Verbosity::Verbose] {
        let text = render_log(&hostile_journal(), options(verbosity, Some("::error::x")), ExitKind::InDoubt);
        let commands = executed_commands(&text);
        assert!(commands.iter().all(|name| name == "group" || name == "endgroup"), "{commands:?}\n{text}");
        // Even without the stop, GitHub would execute nothing.
        let unguarded: String =
            text.lines().filter(|line| !line.contains("token-")).map(|line| format!("{line}\n")).collect();
        assert_eq!(executed_commands(&unguarded), commands, "{text}");
    }
    let text = render_log(&hostile_journal(), options(Verbosity::Normal, None), ExitKind::InDoubt);
    expect![[r#"
        shop r1 to test (run 1-aaaaaa, attempt 1)
        ::group::pull: drift: ::set-output name=x::y\n  ::error::forged\n::stop-commands::x\n::add-mask::a\nfine #\#[error]forged\n#\#[add-path]/tmp\none\n::set-env name=PATH::…
          intent pull     fingerprint 1bc722be, key 00c0ffee
        ::stop-commands::token-1
          info   pull     ::set-output name=x::y rows=7 table=orders
          info   pull       ::error::forged rows=7 table=orders
          info   pull     ::stop-commands::x rows=7 table=orders
          info   pull     ::add-mask::a rows=7 table=orders
          info   pull     fine #\#[error]forged rows=7 table=orders
          info   pull     #\#[add-path]/tmp rows=7 table=orders
          info   pull     one
                          | ::set-env name=PATH::/tmp
                          | ::endgroup:: rows=7 table=orders
          info   pull     a long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it rows=7 table=orders
          info   pull     | a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann
                          | ```
                          | # head rows=7 table=orders
        ::token-1::
        ::endgroup::
          FAIL   pull                                                               1 ms
          STOP   migrate
        STOPPED: r1 to test at `pull`, after 13 ms (1 failed, 1 in doubt)
    "#]].assert_eq(&text);
}

#[test]
fn notice_between_messages_is_executed() {
    let out = SyncSharedBuffer::default();
    let workflow = workflow(&out);
    let mut log = GroupedLogReporter::new(workflow.clone(), options(Verbosity::Normal, None));
    let tape = JournalFixture::new().attempt(1, "1-aaaaaa", 1, "r1").begin("pull", DecisionReason::NeverRan, &[]).log(
        "pull",
        MessageLevel::Info,
        "::stop-commands::x",
    );
    tape.last_attempt().iter().for_each(|entry| log.on_event(entry));
    let spot = SourceLocation { path: "/repo/shop/a.sql".into(), line: Some(2), column: None };
    workflow.annotate(&Notice { location: Some(spot), title: Some("a-rule".to_owned()), ..Notice::warning("careful") });
    drop(log);
    assert_eq!(executed_commands(&out.text()), ["group", "warning", "endgroup"]);
    assert!(out.text().contains("\n::warning file=a.sql,line=2,title=a-rule::careful\n"), "{}", out.text());
}

#[test]
fn errors_are_annotated_at_their_line() {
    let out = SyncSharedBuffer::default();
    let workflow = workflow(&out);
    workflow.error(&failed_error(), ColorMode::Off);
    let text: Arc<str> = "version: 1\nstpes:\n  a:\n".into();
    let excerpt =
        SourceExcerpt { path: "deploy.yml".to_owned(), text, span: 11..16, label: "means nothing".to_owned() };
    let mut error = Diagnostic::new(ErrorCode::UnknownKey, "the plan has no key `stpes`: what, then");
    error.excerpt = Some(excerpt.clone());
    workflow.error(&error, ColorMode::Off);
    error.excerpt = Some(SourceExcerpt { span: 11..24, ..excerpt.clone() });
    workflow.error(&error.clone().with_hint("did you mean `steps`?"), ColorMode::Off);
    error.excerpt = Some(SourceExcerpt { path: "(command line)".to_owned(), ..excerpt });
    workflow.error(&error, ColorMode::Off);
    workflow.error(&Diagnostic::new(ErrorCode::LockHeld, "locked by ann\n100%"), ColorMode::Off);
    let text = out.text();
    let commands: Vec<_> = text.lines().filter(|line| line.starts_with("::")).map(|line| format!("{line}\n")).collect();
    expect![[r#"
        ::error file=db/migrations/0007_orders.sql,line=3,col=9,title=Pawl P0301::step `migrate` failed on attempt 1%0Amigrations/0007_orders.sql:3: relation "order" does not exist%0Ahint: fix the cause; then run `runner --release r2` again (skips: pull)
        ::error file=ops/deploy.yml,line=2,col=1,endLine=2,endColumn=5,title=Pawl P0104::the plan has no key `stpes`: what, then%0Ameans nothing
        ::error file=ops/deploy.yml,line=2,col=1,endLine=3,title=Pawl P0104::the plan has no key `stpes`: what, then%0Ameans nothing%0Ahint: did you mean `steps`?
        ::error title=Pawl P0104::the plan has no key `stpes`: what, then%0Ameans nothing
        ::error title=Pawl P0501::locked by ann%0A100%25
    "#]].assert_eq(&commands.concat());
}

#[test]
fn errors_of_a_guest_are_one_command_each() {
    let out = SyncSharedBuffer::default();
    let workflow = workflow(&out);
    for line in HOSTILE {
        let mut error = Diagnostic::new(ErrorCode::StepFailed, *line).with_cause(line).with_hint(*line);
        error.location = Some(Box::new(SourceLocation { path: PathBuf::from(line), line: None, column: None }));
        workflow.error(&error, ColorMode::Off);
        workflow.notice(&Notice::warning(*line), ColorMode::Off);
    }
    workflow.close();
    assert_eq!(executed_commands(&out.text()), vec!["error"; HOSTILE.len()]);
}

#[test]
fn annotations_stop_at_the_limit_of_github() {
    for (count, told) in [(9, None), (10, None), (13, Some("(and 3 more, see the log)%0A"))] {
        let out = SyncSharedBuffer::default();
        let workflow = workflow(&out);
        for number in 0..count {
            workflow.error(&Diagnostic::new(ErrorCode::NotYaml, format!("wrong {number}")), ColorMode::Off);
        }
        workflow.close();
        let text = out.text();
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("::error")).collect();
        assert_eq!(lines.len(), count.min(10));
        assert!(lines[8].ends_with("::wrong 8"), "{}", lines[8]);
        if let Some(last) = lines.get(9) {
            assert_eq!(*last, format!("::error title=Pawl P0101::{}wrong 9", told.unwrap_or_default()));
        }
        // Those from the tenth on are in the log before anybody knows how many will follow.
        let is_in_log = |number: usize| {
            let is_annotated = text.contains(&format!("::error title=Pawl P0101::wrong {number}\n"));
            let is_written = text.contains(&format!("error[P0101]: wrong {number}\n"));
            if number < 9 { is_annotated && !is_written } else { is_written }
        };
        assert!((0..count).all(is_in_log), "{text}");
    }
}

#[test]
fn long_messages_are_truncated() {
    let out = SyncSharedBuffer::default();
    workflow(&out).error(&Diagnostic::new(ErrorCode::NotYaml, "é".repeat(5_000)), ColorMode::Off);
    let text = out.text();
    let line = text.lines().find(|line| line.starts_with("::error")).unwrap();
    let message = line.rsplit_once("::").unwrap().1;
    assert!(message.len() <= 4096 && message.ends_with("é…"), "{}", message.len());
}

#[test]
fn masks_are_executed() {
    let out = SyncSharedBuffer::default();
    let workflow = workflow(&out);
    workflow.mask(&[Secret::new("hunter2".to_owned())]);
    assert_eq!(out.text(), "::add-mask::hunter2\n::add-mask::aHVudGVyMg\n");
}
