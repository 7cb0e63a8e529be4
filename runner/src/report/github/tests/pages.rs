//! The page of a job: its tables, its chart, what it says of a retry, and what hostile text becomes on it.

use super::*;
use crate::report::github::MAX_SUMMARY_BYTES;

#[test]
fn the_page_of_a_clean_deployment() {
    let conclusion = CommandConclusion { exit: ExitKind::Success, error: None };
    expect![[r#"
        ## shop r1 → test: deployed

        deployed r1 to test in 1.3 s \(4 ran\) (run 1\-aaaaaa, attempt 1)

        | Step | Decision | Why | Result | Time |
        |---|---|---|---|---:|
        | pull | run | it never ran here | ran; 2.0 KiB | 1.2 s |
        | migrate | run | it never ran here | ran; 2 files | 41 ms |
        | switch | run | it never ran here | ran | 2 ms |
        | verify | run | it never ran here | ran | 5 ms |

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
fn the_page_of_a_failure() {
    let error = failed_error();
    let conclusion = CommandConclusion { exit: ExitKind::Failed, error: Some(&error) };
    expect![[r###"
        ## shop r2 → test: failed at \`migrate\`

        FAILED r2 to test at \`migrate\` after 55 ms \(1 ran, 1 failed\) (run 2\-bbbbbb, attempt 1)

        | Step | Decision | Why | Result | Time |
        |---|---|---|---|---:|
        | pull | run | the release changed | ran; 1.5 KiB | 8 ms |
        | migrate | run | its configuration, migrations and the release changed | FAIL; migrations/0007\_orders.sql\:3\: relation "order" does not exist | 41 ms |
        | switch |  |  | not reached |  |
        | verify |  |  | not reached |  |

        ```text
        error[P0301]: step `migrate` failed on attempt 1
          caused by: migrations/0007_orders.sql:3: relation "order" does not exist
          hint: fix the cause; then run `runner --release r2` again (skips: pull)
        ```

        **A retry** goes on with this run. It

        - skips, while its effect holds, pull (it ran)
        - runs migrate (it failed)
        - comes to what this attempt did not: switch, verify

        **By hand**, in the folder that the job ran in:

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
            FAIL migrate :crit, 1763868001317, 1763868001360
        ```
    "###]].assert_eq(&render_page(&fixture::failed(), &conclusion, Vec::new(), 1 << 20));
}

#[test]
fn the_page_of_a_retry_has_the_attempts_before_it() {
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
        ## shop r2 → test: deployed

        deployed r2 to test in 21 ms \(2 ran, 1 skipped, 1 adopted\) (run 2\-bbbbbb, attempt 2)

        | Step | Decision | Why | Result | Time |
        |---|---|---|---|---:|
        | pull | skip | its effect still holds |  | 3 ms |
        | migrate | adopt | it was begun and did not end, and its probe finds it done |  | 3 ms |
        | switch | run | the release changed | ran | 2 ms |
        | verify | run | a step before it ran | ran | 5 ms |

        ```mermaid
        gantt
            title Run 2-bbbbbb
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            failed at migrate :crit, 1763866800000, 1763866890000
            section attempt 2
            interrupted at pull :active, 1763866920000, 1763866921000
            ran switch :done, 1763868601329, 1763868601331
            ran verify :done, 1763868601332, 1763868601337
        ```
    "#]]
    .assert_eq(&render_page(&fixture::adopted(), &conclusion, earlier, 1 << 20));
}

#[test]
fn the_page_of_a_rollback_and_of_an_interruption() {
    let rolled_back = CommandConclusion { exit: ExitKind::RolledBack, error: None };
    expect![[r#"
        ## shop r2 → test: rolled back after \`verify\` failed

        ROLLED BACK r2 in test after \`verify\` failed \(2 ran, 1 failed, 1 undone\) (run 2\-bbbbbb, attempt 1)

        | Step | Decision | Why | Result | Time |
        |---|---|---|---|---:|
        | pull | run | the release changed | ran | 8 ms |
        | migrate | run | the release changed | ran | 9 ms |
        | switch | run | the release changed | undid | 2 ms |
        | verify | run | a step before it ran | FAIL; GET /health gave 500, not 200 | 5.0 s |

        **A retry** begins a new run. It

        - skips, while its effect holds, pull (it ran), migrate (it ran)
        - runs switch (it was undone), verify (it failed)

        **By hand**, in the folder that the job ran in:

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
            undid switch :crit, 1763868001327, 1763868001329
            FAIL verify :crit, 1763868001330, 1763868006350
        ```
    "#]]
    .assert_eq(&render_page(&fixture::rolled_back(), &rolled_back, Vec::new(), 1 << 20));
    let interrupted = CommandConclusion { exit: ExitKind::Interrupted, error: None };
    expect![[r#"
        ## shop r2 → test: interrupted at \`migrate\`

        INTERRUPTED r2 to test at \`migrate\` after 11 ms \(1 ran\) (run 2\-bbbbbb, attempt 1)

        | Step | Decision | Why | Result | Time |
        |---|---|---|---|---:|
        | pull | run | the release changed | ran | 8 ms |
        | migrate | run | the release changed | begun, and not ended |  |
        | switch |  |  | not reached |  |
        | verify |  |  | not reached |  |

        **A retry** goes on with this run. It

        - skips, while its effect holds, pull (it ran)
        - looks before it acts at migrate (how far it got is not known)
        - comes to what this attempt did not: switch, verify

        **By hand**, in the folder that the job ran in:

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
            begun migrate :active, 1763868001317, 1763868001318
        ```
    "#]]
    .assert_eq(&render_page(&fixture::killed(), &interrupted, Vec::new(), 1 << 20));
}

#[test]
fn no_name_of_a_step_means_something_to_mermaid() {
    let tape =
        JournalFixture::new().attempt(1, "1-aaaaaa", 1, "r1").run("call", DecisionReason::NeverRan, 1, json!({}));
    let page = render_page(&tape, &CommandConclusion { exit: ExitKind::Interrupted, error: None }, Vec::new(), 1 << 20);
    assert!(page.contains("\n    ran call :done, "), "{page}");
}

#[test]
fn the_page_where_nothing_was_begun() {
    let problems = [
        Diagnostic::new(ErrorCode::UnknownKey, "the plan has no key `a`").with_hint("leave it out"),
        Diagnostic::new(ErrorCode::WrongType, "``` </details>"),
    ];
    expect![[r#"
        ## Nothing was begun: refused

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
fn the_page_of_a_hostile_guest_is_text() {
    let all = HOSTILE.join("\n");
    let error = Diagnostic::new(ErrorCode::StepFailed, all.clone())
        .with_exit(ExitKind::InDoubt)
        .with_cause(&all)
        .with_hint(all);
    let conclusion = CommandConclusion { exit: ExitKind::InDoubt, error: Some(&error) };
    let page = render_page(&hostile_journal(), &conclusion, Vec::new(), 1 << 20);
    expect![[r#"
        ## shop r1 → test: stopped at \`migrate\`

        STOPPED r1 to test at \`migrate\` after 13 ms \(1 failed, 1 in doubt\) (run 1\-aaaaaa, attempt 1)

        | Step | Decision | Why | Result | Time |
        |---|---|---|---|---:|
        | pull | run | something else is there\: \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\`\`\`\\n\# head | FAIL; \:\:error\:\:x\:3\: \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\`\`\`\\n\# head | 1 ms |
        | migrate | stop | it can't be told whether its effect holds\: \:\:set\-output name\=x\:\:y\\n  \:\:error\:\:forged\\n\:\:stop\-commands\:\:x\\n\:\:add\-mask\:\:a\\nfine \#\\\#\[error\]forged\\n\#\\\#\[add\-path\]/tmp\\none\\n\:\:set\-env name\=PATH\:\:/tmp\\r\\n\:\:endgroup\:\:\\na long line of many words until it must be wrapped and then a command \:\:add\-path\:\:/tmp and more of it\\n\| a \| \`b\` &lt;/details&gt; &lt;script&gt;x&lt;/script&gt; %0A\:\:error\:\:y \[x\]\(javascript\:y\) \$a\$ \@ann\\n\`\`\`… |  |  |
        | switch |  |  | not reached |  |
        | verify |  |  | not reached |  |

        ````text
        error[P0301]: ::set-output name=x::y\n  ::error::forged\n::stop-commands::x\n::add-mask::a\nfine #\#[error]forged\n#\#[add-path]/tmp\none\n::set-env name=PATH::/tmp\r\n::endgroup::\na long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it\n| a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann\n```\n# head
          caused by: ::set-output name=x::y\n  ::error::forged\n::stop-commands::x\n::add-mask::a\nfine #\#[error]forged\n#\#[add-path]/tmp\none\n::set-env name=PATH::/tmp\r\n::endgroup::\na long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it\n| a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann\n```\n# head
          hint: ::set-output name=x::y\n  ::error::forged\n::stop-commands::x\n::add-mask::a\nfine #\#[error]forged\n#\#[add-path]/tmp\none\n::set-env name=PATH::/tmp\r\n::endgroup::\na long line of many words until it must be wrapped and then a command ::add-path::/tmp and more of it\n| a | `b` </details> <script>x</script> %0A::error::y [x](javascript:y) $a$ @ann\n```\n# head
        ````

        **A retry** goes on with this run. It

        - looks before it acts at migrate (an operator must say)
        - runs pull (it failed)
        - comes to what this attempt did not: switch, verify

        **By hand**, in the folder that the job ran in:

        ```sh
        runner --local --release r2
        ```

        ```mermaid
        gantt
            title Run 1-aaaaaa
            dateFormat x
            axisFormat %H:%M:%S
            section attempt 1
            FAIL pull :crit, 1763867400002, 1763867400012
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
                    assert_eq!(bare.matches('|').count(), 6, "{line}");
                }
            }
        }
    }
    assert_eq!(fence, None, "a block is open");
}

#[test]
fn a_page_is_cut_between_rows() {
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
    assert!(full.contains("more steps; the log has them._") && full.contains("error[P0301]"), "the end is there");
    for room in [0, 10, 100, 500, 1_000, 2_000, 5_000] {
        let cut = render_page(&tape, &conclusion, Vec::new(), room);
        assert!(cut.len() <= room, "{room}: {}", cut.len());
        assert!(cut.lines().filter(|line| line.starts_with('|')).all(|line| line.ends_with('|')), "{cut}");
        assert_eq!(cut.matches("```").count() % 2, 0, "{cut}");
    }
}
