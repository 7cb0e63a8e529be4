//! The page of a job: its table, its chart, the plan of a retry, and hostile text on it.

use super::*;
use crate::report::github::MAX_SUMMARY_BYTES;

#[test]
fn page_of_a_clean_deployment() {
    let conclusion = CommandConclusion { exit: ExitKind::Success, error: None };
    expect![[r#"
        ## ✅ shop r1 → test: deployed

        deployed r1 to test in 1.3 s \(4 ran\) (run 1\-aaaaaa, attempt 1)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ✅ ran: 2.0 KiB | first run | 1.2 s |
        | migrate | ✅ ran: 2 files | first run | 41 ms |
        | switch | ✅ ran | first run | 2 ms |
        | verify | ✅ ran | first run | 5 ms |

        ```mermaid
        gantt
            title Run 1-aaaaaa
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            ran pull :done, 1763867400002, 1763867401254
            ran migrate :done, 1763867401255, 1763867401296
            ran switch :done, 1763867401297, 1763867401299
            ran verify :done, 1763867401300, 1763867401305
        ```
    "#]]
    .assert_eq(&render_page(&fixture::clean(), &conclusion, Vec::new(), 1 << 20));
}

#[test]
fn page_of_a_failure() {
    let error = failed_error();
    let conclusion = CommandConclusion { exit: ExitKind::Failed, error: Some(&error) };
    expect![[r###"
        ## ❌ shop r2 → test: failed at \`migrate\`

        FAILED r2 to test at \`migrate\` after 55 ms \(1 ran, 1 failed\) (run 2\-bbbbbb, attempt 1)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ✅ ran: 1.5 KiB | the release changed | 8 ms |
        | migrate | ❌ failed: migrations/0007\_orders.sql\:3\: relation "order" does not exist | its configuration, migrations and the release changed | 41 ms |
        | switch | ⬜ not reached |  |  |
        | verify | ⬜ not reached |  |  |

        ```text
        error[P0301]: step `migrate` failed on attempt 1
          caused by: migrations/0007_orders.sql:3: relation "order" does not exist
          hint: fix the cause; then run `runner --release r2` again (skips: pull)
        ```

        **A retry** continues this run. It

        - skips if the effect still holds: pull (ran)
        - runs again: migrate (failed)
        - continues with: switch, verify

        **To continue from a terminal**, run in the job's folder:

        ```sh
        runner --local --release r2
        ```

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            ran pull :done, 1763868001308, 1763868001316
            failed migrate :crit, 1763868001317, 1763868001360
        ```
    "###]].assert_eq(&render_page(&fixture::failed(), &conclusion, Vec::new(), 1 << 20));
}

#[test]
fn page_of_a_retry_has_the_previous_attempts() {
    let at = |time: &str| format!("2025-11-23T03:{time}Z").parse().unwrap();
    let earlier = |number, began, ended, exit, stuck: Option<&str>| {
        let (began, ended) = (at(began), at(ended));
        PreviousAttempt {
            number,
            started_at: began,
            ended_at: ended,
            exit,
            verified: false,
            failed_step: stuck.map(step_target),
        }
    };
    let earlier = vec![
        earlier(1, "00:00", "01:30", Some(ExitKind::Failed), Some("migrate")),
        earlier(2, "02:00", "02:01", None, Some("pull")),
    ];
    let conclusion = CommandConclusion { exit: ExitKind::Success, error: None };
    expect![[r#"
        ## ✅ shop r2 → test: deployed

        deployed r2 to test in 21 ms \(2 ran, 1 skipped, 1 adopted\) (run 2\-bbbbbb, attempt 2)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ⏭️ skipped | its effect still holds | 3 ms |
        | migrate | ✅ adopted: the effect was already there | it was interrupted; the probe found its effect | 3 ms |
        | switch | ✅ ran | the release changed | 2 ms |
        | verify | ✅ ran | an earlier step ran | 5 ms |

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            failed at migrate :crit, 1763866800000, 1763866890000
            section attempt 2
            interrupted at pull :active, 1763866920000, 1763866921000
            adopted migrate :done, 1763868601325, 1763868601326
            ran switch :done, 1763868601329, 1763868601331
            ran verify :done, 1763868601332, 1763868601337
        ```
    "#]]
    .assert_eq(&render_page(&fixture::adopted(), &conclusion, earlier, 1 << 20));
}

#[test]
fn page_of_an_adoption_without_a_record() {
    let conclusion = CommandConclusion { exit: ExitKind::Success, error: None };
    let page = render_page(&fixture::adopted_without_record(), &conclusion, Vec::new(), 1 << 20);
    expect![[r#"
        ## ✅ shop r2 → test: deployed

        deployed r2 to test in 22 ms \(2 ran, 1 skipped, 1 adopted\) (run 2\-bbbbbb, attempt 2)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ⏭️ skipped | its effect still holds | 3 ms |
        | migrate | ✅ adopted: the effect was already there | its record is unauthenticated or missing; the probe found its effect | 3 ms |
        | switch | ✅ ran | the release changed | 2 ms |
        | verify | ✅ ran | an earlier step ran | 5 ms |

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 2
            adopted migrate :done, 1763868001315, 1763868001316
            ran switch :done, 1763868001319, 1763868001321
            ran verify :done, 1763868001322, 1763868001327
        ```
    "#]].assert_eq(&page);
}

#[test]
fn page_of_an_interrupted_undo() {
    let interrupted = CommandConclusion { exit: ExitKind::Interrupted, error: None };
    let journal = fixture::clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .run("switch", DecisionReason::UpstreamRan, 2, json!({"links": 1}))
        .push(1, JournalEvent::UndoIntent { step_target: step_target("switch") });
    expect![[r#"
        ## ⚠️ shop r2 → test: interrupted at \`switch\`

        INTERRUPTED r2 to test at \`switch\` after 5 ms \(1 ran\) (run 2\-bbbbbb, attempt 1)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ⬜ not reached |  |  |
        | migrate | ⬜ not reached |  |  |
        | switch | ⚠️ undo interrupted; outcome unknown | an earlier step ran | 2 ms |
        | verify | ⬜ not reached |  |  |

        **A retry** continues this run. It

        - finishes the undo of: switch
        - continues with: pull, migrate, verify

        **To continue from a terminal**, run in the job's folder:

        ```sh
        runner --local --release r2
        ```

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            interrupted switch :active, 1763868001308, 1763868001310
        ```
    "#]]
    .assert_eq(&render_page(&journal, &interrupted, Vec::new(), 1 << 20));
}

#[test]
fn page_of_a_rollback_and_of_an_interruption() {
    let rolled_back = CommandConclusion { exit: ExitKind::RolledBack, error: None };
    expect![[r#"
        ## ↩️ shop r2 → test: rolled back after \`verify\` failed

        ROLLED BACK r2 in test after \`verify\` failed \(2 ran, 1 failed, 1 undone\) (run 2\-bbbbbb, attempt 1)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ✅ ran | the release changed | 8 ms |
        | migrate | ✅ ran | the release changed | 9 ms |
        | switch | ↩️ undone | the release changed | 2 ms |
        | verify | ❌ failed: GET /health gave 500, not 200 | an earlier step ran | 5.0 s |

        **A retry** starts a new run. It

        - skips if the effect still holds: pull (ran), migrate (ran)
        - runs again: switch (undone), verify (failed)

        **To continue from a terminal**, run in the job's folder:

        ```sh
        runner --local --release r2
        ```

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            ran pull :done, 1763868001308, 1763868001316
            ran migrate :done, 1763868001317, 1763868001326
            undone switch :crit, 1763868001327, 1763868001329
            failed verify :crit, 1763868001330, 1763868006350
        ```
    "#]]
    .assert_eq(&render_page(&fixture::rolled_back(), &rolled_back, Vec::new(), 1 << 20));
    let interrupted = CommandConclusion { exit: ExitKind::Interrupted, error: None };
    expect![[r#"
        ## ⚠️ shop r2 → test: interrupted at \`migrate\`

        INTERRUPTED r2 to test at \`migrate\` after 11 ms \(1 ran\) (run 2\-bbbbbb, attempt 1)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ✅ ran | the release changed | 8 ms |
        | migrate | ⚠️ interrupted; outcome unknown | the release changed |  |
        | switch | ⬜ not reached |  |  |
        | verify | ⬜ not reached |  |  |

        **A retry** continues this run. It

        - skips if the effect still holds: pull (ran)
        - probes before it acts: migrate (outcome unknown)
        - continues with: switch, verify

        **To continue from a terminal**, run in the job's folder:

        ```sh
        runner --local --release r2
        ```

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            ran pull :done, 1763868001308, 1763868001316
            interrupted migrate :active, 1763868001317, 1763868001318
        ```
    "#]]
    .assert_eq(&render_page(&fixture::killed(), &interrupted, Vec::new(), 1 << 20));
}

#[test]
fn step_names_are_not_keywords_of_mermaid() {
    let tape =
        JournalFixture::new().attempt(1, "1-aaaaaa", 1, "r1").run("call", DecisionReason::NeverRan, 1, json!({}));
    let page = render_page(&tape, &CommandConclusion { exit: ExitKind::Interrupted, error: None }, Vec::new(), 1 << 20);
    assert!(page.contains("\n    ran call :done, "), "{page}");
}

#[test]
fn page_of_a_job_that_did_not_start_an_attempt() {
    let problems = [
        Diagnostic::new(ErrorCode::UnknownKey, "the plan has no key `a`").with_hint("leave it out"),
        Diagnostic::new(ErrorCode::WrongType, "``` </details>"),
    ];
    expect![[r#"
        ## ❌ Not started: refused

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
    let page = render_page(&hostile_journal(), &conclusion, Vec::new(), 1 << 20);
    expect![[r#"
        ## ⚠️ shop r1 → test: stopped at \`pull\`

        STOPPED r1 to test at \`pull\` after 13 ms \(1 failed, 1 in doubt\) (run 1\-aaaaaa, attempt 1)

        | Step | Result | Why | Time |
        |---|---|---|---:|
        | pull | ❌ failed: \:\:error\:\:x\:3\: \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\`\`\`\\n\# head | drift\: \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\`\`\`\\n\# head | 1 ms |
        | migrate | ⚠️ stopped | its probe could not verify its effect\: \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\`\`\`\\n\# … |  |
        | switch | ⬜ not reached |  |  |
        | verify | ⬜ not reached |  |  |

        ````text
        error[P0301]: ::set-output name=x::y\n  ::error::forged\n::stop-commands::x\n::add-mask::a\nfine #\#[error]forged\n#\#[add-path]/tmp\none\n::set-env name=PATH::/tmp\r\n::endgroup::\na long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it\n| a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann\n```\n# head
          caused by: ::set-output name=x::y
            |   ::error::forged
            | ::stop-commands::x
            | ::add-mask::a
            | fine #\#[error]forged
            | #\#[add-path]/tmp
            | one
            | ::set-env name=PATH::/tmp\r
            | ::endgroup::
            | a long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it
            | | a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann
            | ```
            | # head
          hint: ::set-output name=x::y\n  ::error::forged\n::stop-commands::x\n::add-mask::a\nfine #\#[error]forged\n#\#[add-path]/tmp\none\n::set-env name=PATH::/tmp\r\n::endgroup::\na long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it\n| a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann\n```\n# head
        ````

        **A retry** continues this run. It

        - probes before it acts: migrate (waits for an operator)
        - runs again: pull (failed)
        - continues with: switch, verify

        **To continue from a terminal**, run in the job's folder:

        ```sh
        runner --local --release r2
        ```

        ```mermaid
        gantt
            title Run 1-aaaaaa
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            failed pull :crit, 1763867400002, 1763867400012
        ```
    "#]].assert_eq(&page);
    let mut fence = None::<String>;
    for line in page.lines() {
        let ticks: String = line.chars().take_while(|char| *char == '`').collect();
        match &fence {
            Some(open) if line == open => fence = None,
            Some(_) => continue,
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => {
                assert!(!line.contains('<'), "{line}");
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
        let step_target = step_target(&format!("step-{number}"));
        let decision = Decision::Stop { reason: DecisionReason::Unknown { why: long.clone() } };
        tape = tape.push(1, JournalEvent::Decision { step_target, decision });
    }
    let error = failed_error();
    let conclusion = CommandConclusion { exit: ExitKind::InDoubt, error: Some(&error) };
    let full = render_page(&tape, &conclusion, Vec::new(), MAX_SUMMARY_BYTES);
    assert!(full.len() <= MAX_SUMMARY_BYTES && full.len() > MAX_SUMMARY_BYTES - 2_000, "{}", full.len());
    assert!(full.contains("more steps are in the log._") && full.contains("error[P0301]"), "the end is missing");
    for room in [0, 10, 100, 500, 1_000, 2_000, 5_000] {
        let cut = render_page(&tape, &conclusion, Vec::new(), room);
        assert!(cut.len() <= room, "{room}: {}", cut.len());
        assert!(cut.lines().filter(|line| line.starts_with('|')).all(|line| line.ends_with('|')), "{cut}");
        assert_eq!(cut.matches("```").count() % 2, 0, "{cut}");
    }
}
