//! Steps on a few hosts, each with lines of its own, and on many, which share one.

use super::*;

#[test]
fn a_few_hosts_have_a_line_each() {
    check(
        &fixture::failed_on_two_hosts(8),
        ExitKind::Failed,
        None,
        expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
          start  pull          the release changed
          ran    pull@web-1                                                        12 ms
          ran    pull@web-2                                                        12 ms
          ran    pull@web-3                                                        12 ms
          ran    pull@web-4                                                        12 ms
          ran    pull@web-5                                                        12 ms
          ran    pull@web-6                                                        12 ms
          ran    pull@web-7                                                        12 ms
          ran    pull@web-8                                                        12 ms
          skip   migrate@web   its effect still holds                               3 ms
          start  switch        the release changed
          ran    switch@web-1                                                      12 ms
          ran    switch@web-2                                                      12 ms
          FAIL   switch@web-3  no space left on device                             12 ms
          ran    switch@web-4                                                      12 ms
          ran    switch@web-5                                                      12 ms
          ran    switch@web-6                                                      12 ms
          FAIL   switch@web-7  no space left on device                             12 ms
          ran    switch@web-8                                                      12 ms
        FAILED: r2 to test at `switch` on web-3, after 213 ms (14 ran, 1 skipped, 2 failed)
    "#]],
    );
}

#[test]
fn many_hosts_share_a_line() {
    check(
        &fixture::failed_on_two_hosts(100),
        ExitKind::Failed,
        None,
        expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
          start  pull         the release changed
          ran    pull         100/100  ran 100                                     1.3 s
          skip   migrate@web  its effect still holds                                3 ms
          start  switch       the release changed
          FAIL   switch@web-3  no space left on device                             12 ms
          FAIL   switch       100/100  ran 98 · failed web-3, web-7                1.3 s
        FAILED: r2 to test at `switch` on web-3, after 2.6 s (198 ran, 1 skipped, 2 failed)
    "#]],
    );
    check(
        &fixture::resumed_on_two_hosts(100),
        ExitKind::Success,
        Some("`switch` on web-3 failed"),
        expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 2)
          resume after `switch` on web-3 failed
          skip   pull         100/100  skipped 100: its effect still holds        297 ms
          skip   migrate@web  its effect still holds                                3 ms
          start  switch       it failed last time
          ran    switch       100/100  ran 2 · skipped 98                         311 ms
          start  verify       an earlier step ran
          ran    verify       100/100  ran 100                                     1.3 s
        deployed r2 to test in 1.9 s (102 ran, 199 skipped)
    "#]],
    );
    let text =
        render_attempt(&fixture::failed_on_two_hosts(100), plain_options(Verbosity::Verbose, None), ExitKind::Failed);
    assert!(text.contains("switch@web-99"), "each host has its lines: {text}");
}

#[test]
fn on_a_terminal_few_hosts_have_a_progress_line_each_and_many_share_one() {
    let (stays, drawn) = render_on_terminal(&fixture::failed_on_two_hosts(8), ExitKind::Failed);
    expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
          ran    pull@web-1    the release changed                                 12 ms
          ran    pull@web-2    the release changed                                 12 ms
          ran    pull@web-3    the release changed                                 12 ms
          ran    pull@web-4    the release changed                                 12 ms
          ran    pull@web-5    the release changed                                 12 ms
          ran    pull@web-6    the release changed                                 12 ms
          ran    pull@web-7    the release changed                                 12 ms
          ran    pull@web-8    the release changed                                 12 ms
          skip   migrate@web   its effect still holds                               3 ms
          ran    switch@web-1  the release changed                                 12 ms
          ran    switch@web-2  the release changed                                 12 ms
          FAIL   switch@web-3  no space left on device                             12 ms
          ran    switch@web-4  the release changed                                 12 ms
          ran    switch@web-5  the release changed                                 12 ms
          ran    switch@web-6  the release changed                                 12 ms
          FAIL   switch@web-7  no space left on device                             12 ms
          ran    switch@web-8  the release changed                                 12 ms
        FAILED: r2 to test at `switch` on web-3, after 213 ms (14 ran, 1 skipped, 2 failed)
    "#]]
    .assert_eq(&stays);
    assert!(drawn.iter().any(|line| line.contains("switch@web-8")), "{drawn:?}");
    let (stays, drawn) = render_on_terminal(&fixture::failed_on_two_hosts(100), ExitKind::Failed);
    expect![[r#"
        shop r2 to test (run 2-bbbbbb, attempt 1)
          ran    pull         100/100  ran 100                                     1.3 s
          skip   migrate@web  its effect still holds                                3 ms
          FAIL   switch@web-3  no space left on device                             12 ms
          FAIL   switch       100/100  ran 98 · failed web-3, web-7                1.3 s
        FAILED: r2 to test at `switch` on web-3, after 2.6 s (198 ran, 1 skipped, 2 failed)
    "#]]
    .assert_eq(&stays);
    assert!(drawn.iter().any(|line| line.contains("switch  50/100  ran 48 · failed web-3, web-7 ")), "{drawn:?}");
    // But for the last line, which scripts read.
    let stays = stays.lines().filter(|line| !line.starts_with("FAILED"));
    for line in drawn.iter().flat_map(|drawn| drawn.lines()).chain(stays) {
        assert!(contract::text::column_count(line) <= 80, "{line}");
    }
}
