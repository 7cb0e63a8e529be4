//! The exact answers of `runner status`.

use std::fs;

use expect_test::{Expect, expect};

use super::*;
use crate::report::fixture::{self, JournalFixture};
use contract::text::WIDTH;
use plan::StateLocation;

fn check(tape: &JournalFixture, args: &StatusArgs, form: OutputFormat, expected: Expect) {
    let root = tempfile::tempdir().unwrap();
    let location = StateLocation::Dir(root.path().to_owned());
    let environments = ["test", "prod"].map(|name| {
        let environment: EnvironmentName = name.parse().unwrap();
        let store = StateStore::new(&location, &"shop".parse().unwrap(), &environment);
        (environment, store)
    });
    tape.write(environments[0].1.folder());
    let record = r#"{"resource":"shop/test","epoch":2,"holder":"ann@host, process 7","since":"2025-11-23T03:20:00Z"}"#;
    fs::write(environments[0].1.folder().join("lock"), record).unwrap();
    let mut out = Vec::new();
    let plan = PlanSourceArgs { plan: Some(root.path().join("no-plan.yml")), ..PlanSourceArgs::default() };
    assert_eq!(run(args, &plan, &environments, form, WIDTH, &mut out).unwrap(), ExitKind::Success);
    let text = String::from_utf8(out).unwrap();
    assert!(form == OutputFormat::Json || text.lines().all(|line| line.chars().count() <= 80), "{text}");
    expected.assert_eq(&text);
}

#[test]
fn deployed() {
    check(
        &fixture::all_skipped(),
        &StatusArgs { steps: false },
        OutputFormat::Text,
        expect![[r#"
            test
              live        r1, verified, since 2025-11-23 03:10:01Z by ann@host
              last        r1: deployed; epoch 2, run 2-bbbbbb, attempt 1, started 2025-11-23
                          03:20:01Z by ann@host, took 14 ms

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
}

#[test]
fn failed_before_users_saw_anything() {
    check(
        &fixture::failed(),
        &StatusArgs { steps: true },
        OutputFormat::Text,
        expect![[r#"
            test
              live        r1, verified, since 2025-11-23 03:10:01Z by ann@host
              last        r2: failed at `migrate`; epoch 2, run 2-bbbbbb, attempt 1, started
                          2025-11-23 03:20:01Z by ann@host, took 55 ms
              unfinished  run 2-bbbbbb is at `migrate`; to continue, deploy r2 again

              STEP     STATE      RELEASE  EPOCH  RUN
              pull     succeeded  r2       2      2-bbbbbb/1
              migrate  failed     r2       2      2-bbbbbb/1
              switch   succeeded  r1       1      1-aaaaaa/1
              verify   succeeded  r1       1      1-aaaaaa/1

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
    check(
        &fixture::failed(),
        &StatusArgs { steps: false },
        OutputFormat::Json,
        expect![[r#"
            [{"environment":"test","live":{"release":{"label":"r1","digest":null},"verified":true,"since":"2025-11-23T03:10:01.299Z","by":"ann@host","commit":null},"hosts":[],"removed_hosts":[],"unrecorded":null,"lock":{"holder":{"who":"ann@host, process 7"},"epoch":2,"since":"2025-11-23T03:20:00Z","standing":"stale"},"last":{"epoch":2,"run":"2-bbbbbb","attempt":1,"release":{"label":"r2","digest":null},"by":"ann@host","began":"2025-11-23T03:20:01.306Z","last":"2025-11-23T03:20:01.361Z","took-ms":55,"exit":"failed","verified":false,"stuck":{"step":"migrate","target":"local"},"order":null,"resolved":null},"running":null,"unfinished":{"run":"2-bbbbbb","release":{"label":"r2","digest":null},"stuck":{"step":"migrate","target":"local"}},"steps":[{"step":"pull","target":"local","status":"succeeded","release":{"label":"r2","digest":null},"run":"2-bbbbbb","attempt":1,"epoch":2},{"step":"migrate","target":"local","status":"failed","release":{"label":"r2","digest":null},"run":"2-bbbbbb","attempt":1,"epoch":2},{"step":"switch","target":"local","status":"succeeded","release":{"label":"r1","digest":null},"run":"1-aaaaaa","attempt":1,"epoch":1},{"step":"verify","target":"local","status":"succeeded","release":{"label":"r1","digest":null},"run":"1-aaaaaa","attempt":1,"epoch":1}]},{"environment":"prod","live":null,"hosts":[],"removed_hosts":[],"unrecorded":null,"lock":null,"last":null,"running":null,"unfinished":null,"steps":[]}]
        "#]],
    );
}

#[test]
fn killed() {
    check(
        &fixture::killed(),
        &StatusArgs { steps: false },
        OutputFormat::Text,
        expect![[r#"
            test
              live        r1, verified, since 2025-11-23 03:10:01Z by ann@host
              last        r2: interrupted at `migrate` (killed); epoch 2, run 2-bbbbbb,
                          attempt 1, started 2025-11-23 03:20:01Z by ann@host
              unfinished  run 2-bbbbbb is at `migrate`; to continue, deploy r2 again
              lock        left behind by ann@host, process 7 at 2025-11-23 03:20:00Z

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
}

#[test]
fn adopted() {
    check(
        &fixture::adopted(),
        &StatusArgs { steps: true },
        OutputFormat::Text,
        expect![[r#"
            test
              live        r2, verified, since 2025-11-23 03:30:01Z by ann@host
              last        r2: deployed; epoch 3, run 2-bbbbbb, attempt 2, started 2025-11-23
                          03:30:01Z by ann@host, took 21 ms

              STEP     STATE      RELEASE  EPOCH  RUN
              pull     succeeded  r2       2      2-bbbbbb/1
              migrate  succeeded  r2       2      2-bbbbbb/1
              switch   succeeded  r2       3      2-bbbbbb/2
              verify   succeeded  r2       3      2-bbbbbb/2

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
}

#[test]
fn many_hosts_are_counted_and_those_that_differ_are_named() {
    let steps = StatusArgs { steps: true };
    check(
        &fixture::failed_on_two_hosts(100),
        &steps,
        OutputFormat::Text,
        expect![[r#"
            test
              live        not the same on all hosts: r2 on 98 hosts; r1 on web-3, web-7
              last        r2: failed at `switch` on web-3; epoch 2, run 2-bbbbbb, attempt 1,
                          started 2025-11-23 03:20:03Z by ann@host, took 2.6 s
              unfinished  run 2-bbbbbb is at `switch` on web-3; to continue, deploy r2 again
              hosts       98 behind; failed: web-3, web-7

              STEP                 STATE      RELEASE  EPOCH  RUN
              pull on 100 hosts    succeeded  r2       2      2-bbbbbb/1
              migrate@web          succeeded  r1       1      1-aaaaaa/1
              switch on 98 hosts   succeeded  r2       2      2-bbbbbb/1
              switch@web-3         failed     r2       2      2-bbbbbb/1
              switch@web-7         failed     r2       2      2-bbbbbb/1
              verify on 100 hosts  succeeded  r1       1      1-aaaaaa/1

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
    check(
        &fixture::failed_on_two_hosts(8),
        &StatusArgs { steps: false },
        OutputFormat::Text,
        expect![[r#"
            test
              live        not the same on all hosts: r2 on 6 hosts; r1 on web-3, web-7
              last        r2: failed at `switch` on web-3; epoch 2, run 2-bbbbbb, attempt 1,
                          started 2025-11-23 03:20:00Z by ann@host, took 213 ms
              unfinished  run 2-bbbbbb is at `switch` on web-3; to continue, deploy r2 again
              hosts       behind: web-1, web-2, web-4, web-5, web-6, web-8; failed: web-3,
                          web-7

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
}

#[test]
fn rolled_back() {
    check(
        &fixture::rolled_back(),
        &StatusArgs { steps: true },
        OutputFormat::Text,
        expect![[r#"
            test
              live        r1, verified, since 2025-11-23 03:20:06Z by ann@host
              last        r2: rolled back after `verify` failed; epoch 2, run 2-bbbbbb,
                          attempt 1, started 2025-11-23 03:20:01Z by ann@host, took 5.0 s

              STEP     STATE      RELEASE  EPOCH  RUN
              pull     succeeded  r2       2      2-bbbbbb/1
              migrate  succeeded  r2       2      2-bbbbbb/1
              switch   undone     r2       2      2-bbbbbb/1
              verify   failed     r2       2      2-bbbbbb/1

            prod
              live        nothing yet
              last        no attempts yet
        "#]],
    );
}
