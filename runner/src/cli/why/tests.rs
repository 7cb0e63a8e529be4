//! The exact answers of `runner why`.

use expect_test::{Expect, expect};

use super::*;
use crate::report::fixture::{self, JournalFixture};
use contract::text::WIDTH;
use journal::event::DecisionReason;
use plan::StateLocation;

fn answer(tape: &JournalFixture, step: &str, attempt: Option<u64>, form: OutputFormat) -> Result<String, Diagnostic> {
    let root = tempfile::tempdir().unwrap();
    let location = StateLocation::Dir(root.path().to_owned());
    let store = StateStore::new(&location, &"shop".parse().unwrap(), &"test".parse().unwrap());
    tape.write(store.folder());
    let mut out = Vec::new();
    let plan = PlanSourceArgs { environment: Some("test".to_owned()), ..PlanSourceArgs::default() };
    run(&WhyArgs { step: step.to_owned(), target: None, attempt }, &plan, &store, form, WIDTH, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn check(tape: &JournalFixture, step: &str, expected: Expect) {
    let text = answer(tape, step, None, OutputFormat::Text).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    expected.assert_eq(&text);
}

#[test]
fn it_never_ran() {
    check(
        &fixture::clean(),
        "migrate",
        expect![[r#"
            `migrate`, epoch 1: r1 to test (run 1-aaaaaa, attempt 1)

              decision  run: first run
              record    none before this attempt
              probe     not run
              outcome   succeeded in 41 ms: 2 files
        "#]],
    );
}

#[test]
fn it_was_skipped() {
    check(
        &fixture::all_skipped(),
        "pull",
        expect![[r#"
        `pull`, epoch 2: r1 to test (run 2-bbbbbb, attempt 1)

          decision  skip: its effect still holds
          record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                    attempt 1)
          probe     its effect holds (3 ms)
    "#]],
    );
}

#[test]
fn it_failed_after_a_change_of_its_fingerprint() {
    check(
        &fixture::failed(),
        "migrate",
        expect![[r#"
            `migrate`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

              decision  run: its configuration, migrations and the release changed
              changed   config: d63bd9a8 to 813e9b72
                        input:migrations: none to be486638
                        release: 5966598b to 4ada4591
              record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                        attempt 1)
              probe     not run
              outcome   failed after 41 ms: migrations/0007_orders.sql:3: relation "order"
                        does not exist
              hint      fix the file and run again
        "#]],
    );
}

#[test]
fn it_was_not_reached() {
    check(
        &fixture::failed(),
        "verify",
        expect![[r#"
            `verify`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

              decision  none: the attempt did not reach it (failed at `migrate`)
              record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                        attempt 1)
              probe     not run
        "#]],
    );
}

#[test]
fn it_failed_before_and_was_fixed() {
    check(
        &fixture::resumed(),
        "migrate",
        expect![[r#"
            `migrate`, epoch 3: r2 to test (run 2-bbbbbb, attempt 2)

              decision  run: it failed last time
              changed   input:migrations: be486638 to 4ae75b23
              record    failed in epoch 2, 2025-11-23 03:20:01Z (r2, run 2-bbbbbb, attempt
                        1); it said: migrations/0007_orders.sql:3: relation "order" does not
                        exist
              probe     not run
              outcome   succeeded in 12 ms: 1 file
        "#]],
    );
}

#[test]
fn it_was_stopped_by_drift() {
    check(
        &fixture::drifted(),
        "pull",
        expect![[r#"
        `pull`, epoch 2: r1 to test (run 2-bbbbbb, attempt 1)

          decision  stop: drift: releases/r1/app.js differs from the archive
          record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                    attempt 1)
          probe     drift: releases/r1/app.js differs from the archive (3 ms)
    "#]],
    );
}

#[test]
fn it_was_killed() {
    check(
        &fixture::killed(),
        "migrate",
        expect![[r#"
            `migrate`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

              decision  run: the release changed
              changed   release: 5966598b to 4ada4591
              record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                        attempt 1)
              probe     not run
              outcome   none on record: the step was killed, or is still running
        "#]],
    );
}

#[test]
fn it_was_adopted() {
    check(
        &fixture::adopted(),
        "migrate",
        expect![[r#"
        `migrate`, epoch 3: r2 to test (run 2-bbbbbb, attempt 2)

          decision  adopt: it was interrupted; the probe found its effect
                    then skip: its effect still holds
          record    interrupted in epoch 2, 2025-11-23 03:20:01Z (r2, run 2-bbbbbb,
                    attempt 1)
          probe     its effect holds (3 ms)
    "#]],
    );
}

#[test]
fn it_was_undone() {
    check(
        &fixture::rolled_back(),
        "switch",
        expect![[r#"
            `switch`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

              decision  run: the release changed
              changed   release: 5966598b to 4ada4591
              record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                        attempt 1)
              probe     not run
              outcome   succeeded in 2 ms
              undo      done
        "#]],
    );
}

#[test]
fn it_was_interrupted() {
    check(
        &fixture::killed().ended(ExitKind::Interrupted),
        "migrate",
        expect![[r#"
            `migrate`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

              decision  run: the release changed
              changed   release: 5966598b to 4ada4591
              record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                        attempt 1)
              probe     not run
              outcome   unknown: the step was interrupted
        "#]],
    );
}

#[test]
fn it_ran_again_for_the_release_before() {
    let broken = StepOutcome::Failed { failure: fixture::failure("GET /health gave 404, not 200", json!({})) };
    check(
        &fixture::repeated(broken.clone()),
        "verify",
        expect![[r#"
            `verify`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

              decision  run: an earlier step ran
              changed   release: 5966598b to 4ada4591
              record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                        attempt 1)
              probe     not run
              outcome   failed after 5.0 s: GET /health gave 500, not 200
              hint      fix the file and run again
              again     for r1: failed after 20 ms: GET /health gave 404, not 200
        "#]],
    );
    let json = answer(&fixture::repeated(broken), "verify", None, OutputFormat::Json).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["outcome"]["failure"]["message"], "GET /health gave 500, not 200");
    assert_eq!(
        (&json["again"]["release"]["label"], &json["again"]["outcome"]["result"]),
        (&"r1".into(), &"failed".into())
    );
}

#[test]
fn command_in_its_hint_names_the_environment() {
    let hint = Some("`runner logs verify` shows more".to_owned());
    let failure = StepFailure { hint, ..fixture::failure("no", json!({})) };
    let failed = fixture::clean()
        .attempt(2, "2-bbbbbb", 1, "r2")
        .begin("verify", DecisionReason::UpstreamRan, &[])
        .end("verify", 5, StepOutcome::Failed { failure })
        .ended(ExitKind::Failed);
    let text = answer(&failed, "verify", None, OutputFormat::Text).unwrap();
    assert!(text.contains("  hint      `runner logs verify --env test` shows more\n"), "{text}");
}

#[test]
fn json_has_the_same_answer() {
    expect![[r#"
        {"step":"migrate","target":"local","epoch":2,"run":"2-bbbbbb","attempt":1,"release":{"label":"r2","digest":null},"decision":"run","because":"changed","words":"its configuration, migrations and the release changed","changed":[{"component":"config","old":"d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487","new":"813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d"},{"component":"input:migrations","old":null,"new":"be4866389dcc6f074d57c3f5e8affe8328f9dbebd37f34359ff220c153c8d2c0"},{"component":"release","old":"5966598b377ee4e39c81bb5c2496b1b33494d9dd089b72b8c4e350f51d95995c","new":"4ada45911158a94766c4c59466d11516490433c4d7501e569581fd9823524e20"}],"probe":null,"record":{"status":"succeeded","run":"1-aaaaaa","attempt":1,"epoch":1,"release":{"label":"r1","digest":null},"began":"2025-11-23T03:10:00Z"},"resolved":null,"outcome":{"result":"failed","took-ms":41,"failure":{"kind":"permanent","message":"relation \"order\" does not exist","hint":"fix the file and run again","retryable":false,"details":{"file":"migrations/0007_orders.sql","line":3}}},"again":null,"undone":null}
    "#]].assert_eq(&answer(&fixture::failed(), "migrate", None, OutputFormat::Json).unwrap());
    expect![[r#"
        {"step":"verify","target":"local","epoch":2,"run":"2-bbbbbb","attempt":1,"release":{"label":"r2","digest":null},"decision":null,"because":null,"words":"the attempt did not reach it (failed at `migrate`)","changed":[],"probe":null,"record":{"status":"succeeded","run":"1-aaaaaa","attempt":1,"epoch":1,"release":{"label":"r1","digest":null},"began":"2025-11-23T03:10:00Z"},"resolved":null,"outcome":null,"again":null,"undone":null}
    "#]].assert_eq(&answer(&fixture::failed(), "verify", None, OutputFormat::Json).unwrap());
}

#[test]
fn an_earlier_attempt_is_explained_by_its_own_journal() {
    expect![[r#"
        `migrate`, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

          decision  run: its configuration, migrations and the release changed
          changed   config: d63bd9a8 to 813e9b72
                    input:migrations: none to be486638
                    release: 5966598b to 4ada4591
          record    succeeded in epoch 1, 2025-11-23 03:10:00Z (r1, run 1-aaaaaa,
                    attempt 1)
          probe     not run
          outcome   failed after 41 ms: migrations/0007_orders.sql:3: relation "order"
                    does not exist
          hint      fix the file and run again
    "#]]
    .assert_eq(&answer(&fixture::resumed(), "migrate", Some(2), OutputFormat::Text).unwrap());
}

#[test]
fn an_unknown_step_is_an_error_that_lists_the_known_ones() {
    let error = answer(&fixture::clean(), "migrat", None, OutputFormat::Text).unwrap_err();
    assert_eq!(error.code, ErrorCode::StepNotInAttempt);
    assert_eq!(error.causes, ["its steps are migrate, pull, switch, verify"]);
}

#[test]
fn many_targets_are_told_in_groups() {
    let journal = fixture::failed_on_two_hosts(100);
    check(
        &journal,
        "switch",
        expect![[r#"
        `switch` on 100 targets, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

          98    run: the release changed; succeeded
                on web-1, web-2, web-4, web-5, web-6, web-8, web-9, web-10 and 90 more
          2     run: the release changed; failed: no space left on device
                on web-3, web-7

          more  `runner why switch --target web-3 --env test` has the evidence of one
    "#]],
    );
    check(
        &journal,
        "verify",
        expect![[r#"
        `verify` on 100 targets, epoch 2: r2 to test (run 2-bbbbbb, attempt 1)

          100   the attempt did not reach it (failed at `switch` on web-3)

          more  `runner why verify --target web-1 --env test` has the evidence of one
    "#]],
    );
}
