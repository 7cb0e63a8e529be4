//! The page of a job: what users see, the failure, the next steps, its table, and hostile text on it.

use super::*;
use crate::report::github::MAX_SUMMARY_BYTES;
use journal::event::{OutputLine, OutputStream, RecordedOutput};

pub(super) const SUCCESS: CommandConclusion<'_> = CommandConclusion { exit: ExitKind::Success, error: None };

#[test]
fn page_of_a_clean_deployment() {
    expect![[r#"
        ## ✅ shop `r1` → **test**: live at [shop.example.com](https://shop.example.com/)

        attempt 1 · 1.3 s · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran: 2.0 KiB | 1.2 s |
        | ✅ | migrate | ran: 2 files | 41 ms |
        | ✅ | switch | ran | 2 ms |
        | ✅ | verify | ran | 5 ms |
    "#]].assert_eq(&render_page(&fixture::clean(), &SUCCESS, &[], 1 << 20));
}

#[test]
fn page_of_a_failure_begins_with_what_users_see() {
    let error = failed_error();
    let conclusion = CommandConclusion { exit: ExitKind::Failed, error: Some(&error) };
    let page = render_page(&fixture::failed(), &conclusion, &[], 1 << 20);
    expect![[r###"
        ## ❌ shop `r2` → **test**: stopped at **migrate** (step 2 of 4)

        **Nothing users see was touched.** `r1` is live. · attempt 1 · 55 ms · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **[db/migrations/0007\_orders.sql\:3](https://github.example/acme/shop/blob/ff7cdcc0123456789abcdef0123456789abcdef0/db/migrations/0007_orders.sql#L3)**: relation "order" does not exist

        **Next**

        1. Fix the file and run again.
        2. Push the fix\: "Re\-run failed jobs" uses this same commit \(`ff7cdcc`\), and would fail here again.
        3. The push starts a new workflow run, which finds this record in `git:origin`\: with the same archive it goes on at `migrate`; with a new archive all steps run; applied migrations are not repeated.

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran: 1.5 KiB | 8 ms |
        | ❌ | **migrate** | failed | 41 ms |
        | ⬜ | switch, verify | not reached |  |
    "###]].assert_eq(&page);
    assert_eq!(page.matches("relation").count(), 1, "the failure stands once");
    assert!(!page.contains("mermaid"), "{page}");
}

#[test]
fn page_of_a_failure_outside_the_repository_offers_the_rerun() {
    let failure = StepFailure { retryable: true, hint: None, ..fixture::failure("no connection", json!({})) };
    let journal = fixture::clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("pull", DecisionReason::UpstreamRan, 8, json!({"bytes": 1536}))
        .begin("migrate", DecisionReason::UpstreamRan, &[])
        .push(1, output("migrate", &["connecting", "::error::no route to host"]))
        .end("migrate", 41, StepOutcome::Failed { failure })
        .ended(ExitKind::Failed);
    let error =
        Diagnostic::new(ErrorCode::StepFailed, "step `migrate` failed on attempt 1").with_cause("no connection");
    let conclusion = CommandConclusion { exit: ExitKind::Failed, error: Some(&error) };
    expect![[r###"
        ## ❌ shop `r2` → **test**: stopped at **migrate** (step 2 of 4)

        **Nothing users see was touched.** `r1` is live. · attempt 1 · 54 ms · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **P0301** no connection

        ```text
        connecting
        ::error::no route to host
        ```

        **Next**

        1. Once the cause is gone, press "Re\-run failed jobs" \(`gh run rerun 4711 --failed`\)\: it goes on at `migrate`.

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran: 1.5 KiB | 8 ms |
        | ❌ | **migrate** | failed | 41 ms |
        | ⬜ | switch, verify | not reached |  |
    "###]].assert_eq(&render_page(&journal, &conclusion, &[], 1 << 20));
}

#[test]
fn page_of_a_resumed_attempt_has_a_column_for_each_attempt() {
    expect![[r#"
        ## ✅ shop `r2` → **test**: live at [shop.example.com](https://shop.example.com/)

        **Resumed** at **migrate** from [attempt 1](https://github.example/acme/shop/actions/runs/4711/attempts/1) · **1 of 4 steps not repeated, 8 ms saved** · attempt 2 · 27 ms · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/2)

        | | Step | Attempt 1 | Now | Why |
        |---|---|---|---|---|
        | ⏭️ | pull | ✅ ran 8 ms | skipped | its effect still holds |
        | ✅ | migrate | ❌ failed 41 ms | ran: 1 file 12 ms | it failed last time |
        | ✅ | switch | ⬜ not reached | ran 2 ms | the release changed |
        | ✅ | verify | ⬜ not reached | ran 5 ms | an earlier step ran |
    "#]].assert_eq(&render_page(&fixture::resumed(), &SUCCESS, &[1], 1 << 20));
}

#[test]
fn page_of_an_adoption_says_so() {
    expect![[r#"
        ## ✅ shop `r2` → **test**: live at [shop.example.com](https://shop.example.com/)

        **Resumed** at **migrate** from [attempt 1](https://github.example/acme/shop/actions/runs/4711/attempts/1) · **1 of 4 steps not repeated, 8 ms saved** · attempt 2 · 21 ms · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/2)

        | | Step | Attempt 1 | Now | Why |
        |---|---|---|---|---|
        | ⏭️ | pull | ✅ ran 8 ms | skipped | its effect still holds |
        | ✅ | migrate | ⚠️ interrupted; outcome unknown | adopted: the effect was already there | it was interrupted; the probe found its effect |
        | ✅ | switch | ⬜ not reached | ran 2 ms | the release changed |
        | ✅ | verify | ⬜ not reached | ran 5 ms | an earlier step ran |
    "#]].assert_eq(&render_page(&fixture::adopted(), &SUCCESS, &[1], 1 << 20));
    expect![[r#"
        ## ✅ shop `r2` → **test**: live at [shop.example.com](https://shop.example.com/)

        attempt 2 (attempt 1 on GitHub) · 22 ms · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        | | Step | | Time |
        |---|---|---|---:|
        | ⏭️ | pull | skipped | 3 ms |
        | ✅ | migrate | adopted: the effect was already there | 3 ms |
        | ✅ | switch | ran | 2 ms |
        | ✅ | verify | ran | 5 ms |
    "#]].assert_eq(&render_page(&fixture::adopted_without_record(), &SUCCESS, &[], 1 << 20));
}

#[test]
fn page_of_a_rollback_says_what_is_live_and_what_stays() {
    let error = Diagnostic::new(ErrorCode::StepFailed, "step `verify` failed on attempt 1")
        .with_cause("GET /health gave 500, not 200")
        .with_hint("r1 is live again; fix the cause; then run `runner --release r2` again")
        .with_exit(ExitKind::RolledBack);
    let rolled_back = CommandConclusion { exit: ExitKind::RolledBack, error: Some(&error) };
    expect![[r###"
        ## ↩️ shop `r2` → **test**: failed its check; **`r1` is live again**

        Users saw `r2` for **5.0 s** · attempt 1 · 5.0 s · @ann · exit 4 · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **P0301** GET /health gave 500, not 200

        **Next**

        1. Fix the file and run again.
        2. Push the fix\: the new workflow run deploys it.
        3. If the release itself is right, press "Re\-run failed jobs" \(`gh run rerun 4711 --failed`\)\: it deploys the release once more.

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran | 8 ms |
        | ⚠️ | migrate | **not undone** | 9 ms |
        | ↩️ | switch | undone | 2 ms |
        | ❌ | **verify** | failed | 5.0 s |
    "###]].assert_eq(&render_page(&fixture::rolled_back(), &rolled_back, &[], 1 << 20));
}

#[test]
fn page_of_an_interruption_and_of_an_interrupted_undo() {
    let error = Diagnostic::new(ErrorCode::Interrupted, "interrupted; the state is saved")
        .with_hint("run `runner --release r2` again to continue (skips: pull)");
    let interrupted = CommandConclusion { exit: ExitKind::Interrupted, error: Some(&error) };
    expect![[r###"
        ## ⚠️ shop `r2` → **test**: interrupted at **migrate** (step 2 of 4)

        **Nothing users see was touched.** `r1` is live. · attempt 1 · 11 ms · @ann · exit 130 · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **P0303** interrupted; the state is saved

        **Next**

        1. Press "Re\-run failed jobs" \(`gh run rerun 4711 --failed`\)\: it goes on where this attempt stopped.

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran | 8 ms |
        | ⚠️ | **migrate** | interrupted; outcome unknown |  |
        | ⬜ | switch, verify | not reached |  |
    "###]].assert_eq(&render_page(&fixture::killed(), &interrupted, &[], 1 << 20));
    let journal = fixture::clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("switch", DecisionReason::UpstreamRan, 2, json!({"links": 1}))
        .push(1, JournalEvent::UndoIntent { step_target: step_target("switch") });
    let page = render_page(&journal, &interrupted, &[], 1 << 20);
    assert!(page.contains("undo interrupted; outcome unknown"), "{page}");
    let exposed = fixture::rolled_back();
    let undone =
        exposed.last_attempt().iter().position(|entry| matches!(entry.event, JournalEvent::UndoOutcome { .. }));
    let mut cut = exposed;
    cut.attempts.last_mut().unwrap().truncate(undone.unwrap());
    let page = render_page(&cut, &interrupted, &[], 1 << 20);
    assert!(page.contains("**It is not known whether users see `r2`**"), "{page}");
}

#[test]
fn page_of_a_step_in_doubt_names_the_inputs() {
    let error = Diagnostic::new(ErrorCode::StepInDoubt, "step `migrate` is in doubt and was not run")
        .with_cause("it was interrupted; outcome unknown, because it has no probe that can tell")
        .with_hint("check what it did; if it did not finish, run `runner --release r2 --accept-drift migrate`")
        .with_exit(ExitKind::InDoubt);
    let conclusion = CommandConclusion { exit: ExitKind::InDoubt, error: Some(&error) };
    let journal = fixture::clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("pull", DecisionReason::UpstreamRan, 8, json!({}))
        .decide("migrate", Decision::Stop { reason: DecisionReason::Interrupted { finding: None } })
        .ended(ExitKind::InDoubt);
    let page = render_page(&journal, &conclusion, &[], 1 << 20);
    assert!(page.contains("waits for a decision at **migrate** (step 2 of 4)"), "{page}");
    assert!(page.contains("run a workflow with `accept-drift: migrate`"), "{page}");
    assert_eq!(page.matches("it was interrupted; outcome unknown").count(), 1, "the reason stands once\n{page}");
}

#[test]
fn long_commits_have_short_labels() {
    let commit = "ff7cdcc0123456789abcdef0123456789abcdef0";
    let tape = JournalFixture::new()
        .attempt(1, "1-aaaaaa", 1, commit)
        .run("pull", DecisionReason::NeverRan, 1, json!({}))
        .ended(ExitKind::Success);
    let page = render_page(&tape, &SUCCESS, &[], 1 << 20);
    assert!(page.starts_with("## ✅ shop `ff7cdcc` → **test**: live at"), "{page}");
}

#[test]
fn page_of_a_job_that_did_not_start_an_attempt() {
    let problems = [
        Diagnostic::new(ErrorCode::UnknownKey, "the plan has no key `a`").with_hint("leave it out"),
        Diagnostic::new(ErrorCode::WrongType, "``` </details>"),
    ];
    expect![[r#"
        ## ❌ Not started: refused

        **Nothing was touched.**

        ```text
        error[P0104]: the plan has no key `a`
          hint: leave it out
        ```

        ````text
        error[P0105]: ``` </details>
        ````

    "#]]
    .assert_eq(&render_problems_page(ExitKind::Refused, &problems, 1 << 20));
}

#[test]
fn page_of_a_hostile_guest_is_plain_text() {
    let all = HOSTILE.join("\n");
    let error = Diagnostic::new(ErrorCode::StepFailed, all.clone())
        .with_exit(ExitKind::InDoubt)
        .with_cause(&all)
        .with_hint(all);
    let conclusion = CommandConclusion { exit: ExitKind::InDoubt, error: Some(&error) };
    let page = render_page(&hostile_journal(), &conclusion, &[], 1 << 20);
    expect![[r#"
        ## ⚠️ shop `r1` → **test**: waits for a decision at **pull** (step 1 of 4)

        **Nothing users see was touched.** · attempt 1 · 13 ms · @ann · exit 3 · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **P0301** \:\:set\-output name\=x\:\:y<br>
        >   \:\:error\:\:forged<br>
        > \:\:stop\-commands\:\:x<br>
        > \:\:add\-mask\:\:a<br>
        > fine \#\\\#\[error\]forged<br>
        > \#\\\#\[add\-path\]/tmp<br>
        > one<br>
        > \:\:set\-env name\=PATH\:\:/tmp<br>
        > \:\:endgroup\:\:<br>
        > a long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it<br>
        > \| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann<br>
        > \`\`\`<br>
        > \# head<br>
        > \:\:set\-output name\=x\:\:y<br>
        >   \:\:error\:\:forged<br>
        > \:\:stop\-commands\:\:x<br>
        > \:\:add\-mask\:\:a<br>
        > fine \#\\\#\[error\]forged<br>
        > \#\\\#\[add\-path\]/tmp<br>
        > one<br>
        > \:\:set\-env name\=PATH\:\:/tmp<br>
        > \:\:endgroup\:\:<br>
        > a long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it<br>
        > \| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann<br>
        > \`\`\`<br>
        > \# head

        **Next**

        1. \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| b &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\\n\# head.

        | | Step | | Time |
        |---|---|---|---:|
        | ❌ | **pull** | failed | 1 ms |
        | ⚠️ | migrate | waits for a decision |  |
        | ⬜ | switch, verify | not reached |  |
    "#]].assert_eq(&page);
    let mut fence = None::<String>;
    for line in page.lines() {
        let ticks: String = line.chars().take_while(|char| *char == '`').collect();
        match &fence {
            Some(open) if line == open => fence = None,
            Some(_) => continue,
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => {
                assert!(!line.replace("<br>", "").contains('<'), "{line}");
                if line.starts_with('|') {
                    let bare = line.replace("\\\\", "").replace("\\|", "");
                    assert_eq!(bare.matches('|').count(), 5, "{line}");
                }
            }
        }
    }
    assert_eq!(fence, None, "a block is open");
}

#[test]
fn page_is_cut_between_rows() {
    let mut tape = JournalFixture::new().attempt(1, "1-aaaaaa", 1, "r1");
    let long = "word ".repeat(60);
    for number in 0..3_000 {
        let step = format!("step-{number}");
        let failure = fixture::failure(&long, json!({}));
        tape = tape.begin(&step, DecisionReason::NeverRan, &[]).end(&step, 1, StepOutcome::Failed { failure });
    }
    let error = failed_error();
    let conclusion = CommandConclusion { exit: ExitKind::InDoubt, error: Some(&error) };
    let full = render_page(&tape, &conclusion, &[], MAX_SUMMARY_BYTES);
    assert!(full.len() <= MAX_SUMMARY_BYTES, "{}", full.len());
    assert!(full.contains("**Next**"), "the head is whole");
    for room in [0, 10, 100, 500, 1_000, 2_000, 5_000, 100_000] {
        let cut = render_page(&tape, &conclusion, &[], room);
        assert!(cut.len() <= room, "{room}: {}", cut.len());
        assert!(cut.lines().filter(|line| line.starts_with('|')).all(|line| line.ends_with('|')), "{cut}");
        assert_eq!(cut.matches("```").count() % 2, 0, "{cut}");
        assert!(room < 5_000 || cut.contains("more rows are in the log._"), "{cut}");
    }
}

/// Lines of a program, as the journal has them.
fn output(step: &str, lines: &[&str]) -> JournalEvent {
    let at = "2025-11-23T03:00:00Z".parse().unwrap();
    let line = |text: &&str| OutputLine { at, stream: OutputStream::Stderr, text: (*text).to_owned() };
    let output = RecordedOutput { lines: lines.iter().map(line).collect(), ..RecordedOutput::default() };
    JournalEvent::Output { step_target: step_target(step), output }
}
