//! The log and the page of a deployment to a few hosts and to many.

use super::{pages::SUCCESS, *};

#[test]
fn log_of_hosts_has_a_group_a_step() {
    check_log(
        &fixture::failed_on_two_hosts(8),
        ExitKind::Failed,
        None,
        expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
        ::group::pull: the release changed
          intent pull@web-1    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-2    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-3    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-4    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-5    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-6    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-7    fingerprint cd65dbb5, key 00c0ffee
          intent pull@web-8    fingerprint cd65dbb5, key 00c0ffee
        ::endgroup::
          ran    pull@web-1                                                        12 ms
          ran    pull@web-2                                                        12 ms
          ran    pull@web-3                                                        12 ms
          ran    pull@web-4                                                        12 ms
          ran    pull@web-5                                                        12 ms
          ran    pull@web-6                                                        12 ms
          ran    pull@web-7                                                        12 ms
          ran    pull@web-8                                                        12 ms
        ::group::migrate@web
          probe  migrate@web   its effect holds                                     3 ms
        ::endgroup::
          skip   migrate@web   its effect still holds                               3 ms
        ::group::switch: the release changed
          intent switch@web-1  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-2  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-3  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-4  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-5  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-6  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-7  fingerprint cd65dbb5, key 00c0ffee
          intent switch@web-8  fingerprint cd65dbb5, key 00c0ffee
        ::endgroup::
          ran    switch@web-1                                                      12 ms
          ran    switch@web-2                                                      12 ms
          FAIL   switch@web-3                                                      12 ms
          ran    switch@web-4                                                      12 ms
          ran    switch@web-5                                                      12 ms
          ran    switch@web-6                                                      12 ms
          FAIL   switch@web-7                                                      12 ms
          ran    switch@web-8                                                      12 ms
        FAILED: r2 to test at `switch` on web-3, after 213 ms (14 ran, 1 skipped, 2 failed)
    "#]],
    );
    check_log(
        &fixture::failed_on_two_hosts(100),
        ExitKind::Failed,
        None,
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 1)
            ::group::pull: the release changed
            ::endgroup::
              ran    pull         100/100  ran 100                                     1.3 s
            ::group::migrate@web
              probe  migrate@web  its effect holds                                      3 ms
            ::endgroup::
              skip   migrate@web  its effect still holds                                3 ms
            ::group::switch: the release changed
            ::endgroup::
              FAIL   switch@web-3                                                      12 ms
              FAIL   switch       100/100  ran 98 · failed web-3, web-7                1.3 s
            FAILED: r2 to test at `switch` on web-3, after 2.6 s (198 ran, 1 skipped, 2 failed)
        "#]],
    );
    check_log(
        &fixture::resumed_on_two_hosts(100),
        ExitKind::Success,
        Some("`switch` on web-3 failed"),
        expect![[r#"
            shop r2 to test (run 2-bbbbbb, attempt 2)
              resume after `switch` on web-3 failed
              skip   pull         100/100  skipped 100: its effect still holds        297 ms
            ::group::migrate@web
              probe  migrate@web  its effect holds                                      3 ms
            ::endgroup::
              skip   migrate@web  its effect still holds                                3 ms
            ::group::switch: it failed last time
            ::endgroup::
              ran    switch       100/100  ran 2 · skipped 98                         311 ms
            ::group::verify: an earlier step ran
            ::endgroup::
              ran    verify       100/100  ran 100                                     1.3 s
            deployed r2 to test in 1.9 s (102 ran, 199 skipped)
        "#]],
    );
}

#[test]
fn page_of_hosts_has_a_table_of_hosts_and_steps() {
    let error = Diagnostic::new(ErrorCode::StepFailed, "step `switch` on web-3 failed on attempt 1")
        .with_cause("no space left on device")
        .with_cause("the same on web-7");
    let failed = CommandConclusion { exit: ExitKind::Failed, error: Some(&error) };
    expect![[r###"
        ## ❌ shop `r2` → **test**: stopped at **switch\@web\-3** (step 3 of 4)

        **Users see `r2` on 6 of 8 hosts**, and it is not verified · attempt 1 · 213 ms · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **P0301** no space left on device<br>
        > the same on web\-7

        **Next**

        1. Fix the file and run again.
        2. If the cause is outside the repository \(network, database, host\), remove it, and press "Re\-run failed jobs" \(`gh run rerun 4711 --failed`\)\: it goes on at `switch@web-3`.
        3. If the fix is in the repository, push it\: a re\-run uses this same commit \(`ff7cdcc`\); the push starts a new workflow run, which finds this record in `git:origin`\: with the same archive it goes on at `switch@web-3`; with a new archive all steps run; applied migrations are not repeated.

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran on 8 hosts | 12 ms |
        | ⏭️ | migrate\@web | skipped | 3 ms |
        | ❌ | **switch** | 6 ran, 2 failed (web\-3, web\-7) | 12 ms |
        | ⬜ | verify | not reached |  |

        | Host | pull | switch | verify |
        |---|---|---|---|
        | web\-1 | ✅ ran 12 ms | ✅ ran 12 ms | ⬜ not reached |
        | web\-2 | ✅ ran 12 ms | ✅ ran 12 ms | ⬜ not reached |
        | web\-3 | ✅ ran 12 ms | ❌ failed 12 ms | ⬜ not reached |
        | web\-4 | ✅ ran 12 ms | ✅ ran 12 ms | ⬜ not reached |
        | web\-5 | ✅ ran 12 ms | ✅ ran 12 ms | ⬜ not reached |
        | web\-6 | ✅ ran 12 ms | ✅ ran 12 ms | ⬜ not reached |
        | web\-7 | ✅ ran 12 ms | ❌ failed 12 ms | ⬜ not reached |
        | web\-8 | ✅ ran 12 ms | ✅ ran 12 ms | ⬜ not reached |
    "###]].assert_eq(&render_page(&fixture::failed_on_two_hosts(8), &failed, &[], 1 << 20));
    // Also if the last one fails.
    let page = render_page(&fixture::failed_on_two_hosts(7), &failed, &[], 1 << 20);
    assert!(page.contains("**Users see `r2` on 5 of 7 hosts**, and it is not verified"), "{page}");
    // Of many, only those that somebody has to look at.
    expect![[r###"
        ## ❌ shop `r2` → **test**: stopped at **switch\@web\-3** (step 3 of 4)

        **Users see `r2` on 98 of 100 hosts**, and it is not verified · attempt 1 · 2.6 s · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/1)

        > **P0301** no space left on device<br>
        > the same on web\-7

        **Next**

        1. Fix the file and run again.
        2. If the cause is outside the repository \(network, database, host\), remove it, and press "Re\-run failed jobs" \(`gh run rerun 4711 --failed`\)\: it goes on at `switch@web-3`.
        3. If the fix is in the repository, push it\: a re\-run uses this same commit \(`ff7cdcc`\); the push starts a new workflow run, which finds this record in `git:origin`\: with the same archive it goes on at `switch@web-3`; with a new archive all steps run; applied migrations are not repeated.

        | | Step | | Time |
        |---|---|---|---:|
        | ✅ | pull | ran on 100 hosts | 12 ms |
        | ⏭️ | migrate\@web | skipped | 3 ms |
        | ❌ | **switch** | 98 ran, 2 failed (web\-3, web\-7) | 12 ms |
        | ⬜ | verify | not reached |  |

        98 of 100 hosts have no failure. The others:

        | Host | pull | switch | verify |
        |---|---|---|---|
        | web\-3 | ✅ ran 12 ms | ❌ failed 12 ms | ⬜ not reached |
        | web\-7 | ✅ ran 12 ms | ❌ failed 12 ms | ⬜ not reached |
    "###]].assert_eq(&render_page(&fixture::failed_on_two_hosts(100), &failed, &[], 1 << 20));
    expect![[r#"
        ## ✅ shop `r2` → **test**: live at [shop.example.com](https://shop.example.com/)

        **Resumed** at **switch\@web\-3** from [attempt 1](https://github.example/acme/shop/actions/runs/4711/attempts/1) · **1 of 4 steps not repeated, 12 ms saved** · attempt 2 · 1.9 s · @ann · [journal](https://github.example/acme/shop/actions/runs/4711/artifacts/99) · [log](https://github.example/acme/shop/actions/runs/4711/attempts/2)

        | | Step | Attempt 1 | Now | Why |
        |---|---|---|---|---|
        | ⏭️ | pull | ✅ ran on 100 hosts 12 ms | skipped on 100 hosts | its effect still holds |
        | ⏭️ | migrate\@web | ⏭️ skipped | skipped | its effect still holds |
        | ✅ | switch | ❌ 98 ran, 2 failed (web\-3, web\-7) 12 ms | 98 skipped, 2 ran 9 ms | it failed last time |
        | ✅ | verify | ⬜ not reached on 100 hosts | ran on 100 hosts 12 ms | an earlier step ran |

        None of the 100 hosts has a failure.
    "#]].assert_eq(&render_page(&fixture::resumed_on_two_hosts(100), &SUCCESS, &[1], 1 << 20));
}
