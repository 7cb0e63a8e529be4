//! The commands that look: status, history, why, logs, journal check, schema, doctor; and `step`, one module alone.

use std::{fs, os::unix::fs::PermissionsExt as _};

use expect_test::expect;

use crate::support::TestEnvironment;

#[test]
fn status_shows_the_live_release() {
    let environment = TestEnvironment::deployed();
    expect![[r#"
        test
          live        r1, verified, since [DATE] [DATE] by [WHO]
          last        r1: deployed; epoch 1, run [RUN 1], attempt 1, started [DATE] [DATE] by [WHO], took [TIME]

          STEP     STATE      RELEASE  EPOCH  RUN
          pull     succeeded  r1       1      [RUN 1]/1
          migrate  succeeded  r1       1      [RUN 1]/1
          switch   succeeded  r1       1      [RUN 1]/1
          verify   succeeded  r1       1      [RUN 1]/1
    "#]]
    .assert_eq(&environment.run(&["status", "--steps"]).assert_exit(0).stdout_snapshot());
}

#[test]
fn status_and_history_are_empty_before_the_first_deployment() {
    let environment = TestEnvironment::new();
    expect![[r#"
        test
          live        nothing yet
          last        no attempts yet
    "#]]
    .assert_eq(&environment.run(&["status"]).assert_exit(0).stdout_snapshot());
    expect![[r#"
        no attempts yet
    "#]]
    .assert_eq(&environment.run(&["history"]).assert_exit(0).stdout_snapshot());
    environment.run(&["why", "pull"]).assert_exit(2).assert_stderr_contains("nothing was deployed here yet");
    assert!(!environment.exists(".pawl"));
}

#[test]
fn history_lists_the_attempts() {
    let environment = TestEnvironment::deployed();
    environment.deploy("r1", &[]).assert_exit(0);
    let history = environment.run(&["history"]).assert_exit(0).stdout_snapshot();
    let rows: Vec<_> = history.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(rows.len(), 3, "{history}");
    assert_eq!((rows[1][0], rows[1][1], rows[2][0]), ("2", "r1", "1"), "the newest comes first");
}

#[test]
fn why_lists_the_known_steps_for_an_unknown_one() {
    let environment = TestEnvironment::deployed();
    let refused = environment.run(&["why", "swich"]);
    refused.assert_exit(2);
    expect![[r#"
        error[P0210]: the attempt with epoch 1 has no step `swich`
          caused by: its steps are migrate, pull, switch, verify
          hint: did you mean `switch`? otherwise use one of its steps, or another attempt with `--attempt EPOCH`; `runner history` lists them
    "#]]
    .assert_eq(&refused.stderr_snapshot());
}

#[test]
fn logs_show_step_messages() {
    let environment = TestEnvironment::deployed();
    expect![[r#"
        [DATE] [DATE]  begin  pull
        [DATE] [DATE]  meter  pull     shop-r1.tar.zst 336 B of 336 B
        [DATE] [DATE]  end    pull     succeeded after [TIME]: 295 B, 3 files
        [DATE] [DATE]  begin  migrate
        [DATE] [DATE]  meter  migrate  migrations 0 files of 2 files
        [DATE] [DATE]  info   migrate  applied 0001_products.sql in [TIME]
        [DATE] [DATE]  info   migrate  applied 0002_first_products.sql in [TIME]
        [DATE] [DATE]  end    migrate  succeeded after [TIME]
        [DATE] [DATE]  begin  switch
        [DATE] [DATE]  end    switch   succeeded after [TIME]
        [DATE] [DATE]  begin  verify
        [DATE] [DATE]  end    verify   succeeded after [TIME]: 1 round
    "#]]
    .assert_eq(&environment.run(&["logs"]).assert_exit(0).stdout_snapshot());
}

#[test]
fn journal_check_detects_a_flipped_byte() {
    let environment = TestEnvironment::deployed();
    let journal = ".pawl/shop/test/attempt-000001.journal";
    let good = environment.run(&["journal", "check", journal]);
    good.assert_exit(0);
    expect![[r#"
        .pawl/shop/test/attempt-000001.journal
          sound
          format 1.8, 20 lines; shop r1 to test, epoch 1, run [RUN 1], attempt 1
    "#]]
    .assert_eq(&good.stdout_snapshot());

    let mut bytes = fs::read(environment.path(journal)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    environment.write(journal, &bytes);
    let bad = environment.run(&["journal", "check", journal]);
    bad.assert_exit(65);
    assert!(bad.stdout.contains("line ") || bad.stderr.contains("line "), "{}{}", bad.stdout, bad.stderr);
    environment.deploy("r1", &[]).assert_exit(65);
    environment.run(&["status"]).assert_exit(65);
    let files = ["attempt-000001.journal", "index.jsonl", "lock", "snapshot.json"];
    assert_eq!(environment.list(".pawl/shop/test"), files, "nothing was begun");
}

#[test]
fn schema_accepts_a_plan_and_rejects_a_misspelled_key() {
    let environment = TestEnvironment::new();
    let schema = environment.run(&["schema"]).assert_exit(0).json();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut plan = serde_json::json!({
        "version": 1, "app": "shop", "environments": { "test": { "vars": { "root": "./deploy/test" } } },
        "steps": { "switch": {
            "uses": "switch", "with": { "link": "current" }, "grants": { "dirs": { "app": "${{ vars.root }}" } },
        } },
    });
    assert!(validator.is_valid(&plan));
    plan["steps"]["switch"]["grant"] = serde_json::json!({});
    assert!(!validator.is_valid(&plan));
}

#[test]
fn doctor_reports_a_healthy_environment() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let doctor = environment.run(&["doctor", "--release", "r1"]);
    doctor.assert_exit(0);
    expect![[r#"
        healthy:
          ok  runner     0.1.0 with modules compose, configure, container, images, migrate, packages, pull, run, supervisord, switch, systemd, venv, verify
          ok  plan       deploy.yml is valid for test
          ok  steps      4 loaded, with all required grants
          ok  release    r1 is sha256:[HASH]
          ok  resources  directories are writable and have free space
          ok  journals   0 attempts on record, all sound
          ok  lock       free
    "#]]
    .assert_eq(&format!("healthy:\n{}", doctor.stdout_snapshot()));
    assert!(!environment.exists("deploy/test/current"));
}

#[test]
fn doctor_reports_missing_files_and_folders() {
    let environment = TestEnvironment::new();
    let no_archive = environment.run(&["doctor", "--release", "r1"]);
    no_archive.assert_exit(2);
    expect![[r#"
        error[P0203]: can't determine the digest of release r1
         --> deploy.yml:9:19
          |
        9 |     with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
          |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ its source
          caused by: directory `dist` ([ROOT]/shop/dist) can't be opened: No such file or directory (os error 2)
          hint: create it, or correct its path in `grants`
        error[P0202]: directory `dist` of step `pull` ([ROOT]/shop/dist) can't be read: No such file or directory (os error 2)
          --> deploy.yml:10:54
           |
        10 |     grants: { dirs: { app: "${{ vars.root }}", dist: "./dist:ro" } }
           |                                                      ^^^^^^^^^^^ this directory
          hint: nothing was deployed; fix this, then run the same command again
    "#]]
    .assert_eq(&no_archive.stderr_snapshot());
    environment.pack("r1");
    // A file where a folder must be, since root may write into any folder.
    fs::remove_dir_all(environment.path("deploy/test")).unwrap();
    environment.write("deploy/test", "");
    let no_folder = environment.run(&["doctor", "--release", "r1"]);
    no_folder.assert_exit(2);
    expect![[r#"
        error[P0203]: can't determine the digest of release r1
         --> deploy.yml:9:19
          |
        9 |     with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
          |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ its source
          caused by: directory `app` ([ROOT]/shop/deploy/test) can't be opened: Not a directory (os error 20)
          hint: create it, or correct its path in `grants`
        error[P0202]: directory `app` of step `pull` ([ROOT]/shop/deploy/test) can't be created: File exists (os error 17)
          --> deploy.yml:10:28
           |
        10 |     grants: { dirs: { app: "${{ vars.root }}", dist: "./dist:ro" } }
           |                            ^^^^^^^^^^^^^^^^^^ this directory
          hint: nothing was deployed; fix this, then run the same command again
        error[P0202]: the folder of database `main` of step `migrate` can't be created: File exists (os error 17)
          --> deploy.yml:13:3
           |
        13 |   migrate:
           |   ^^^^^^^ this step needs it
          hint: nothing was deployed; fix this, then run the same command again
        error[P0202]: directory `app` of step `switch` ([ROOT]/shop/deploy/test) can't be created: File exists (os error 17)
          --> deploy.yml:22:28
           |
        22 |     grants: { dirs: { app: "${{ vars.root }}" } }
           |                            ^^^^^^^^^^^^^^^^^^ this directory
          hint: nothing was deployed; fix this, then run the same command again
        error[P0202]: directory `app` of step `verify` ([ROOT]/shop/deploy/test) can't be read: Not a directory (os error 20)
          --> deploy.yml:30:28
           |
        30 |     grants: { dirs: { app: "${{ vars.root }}:ro" } }
           |                            ^^^^^^^^^^^^^^^^^^^^^ this directory
          hint: nothing was deployed; fix this, then run the same command again
    "#]]
    .assert_eq(&no_folder.stderr_snapshot());
    fs::remove_file(environment.path("deploy/test")).unwrap();
    fs::create_dir_all(environment.path("deploy/test")).unwrap();
    fs::set_permissions(environment.path("deploy/test"), fs::Permissions::from_mode(0o755)).unwrap();
    environment.run(&["doctor", "--release", "r1"]).assert_exit(0);
}

#[test]
fn doctor_lists_everything_that_it_finds() {
    let environment = TestEnvironment::deployed();
    let journal = environment.read(".pawl/shop/test/attempt-000001.journal");
    environment.write(".pawl/shop/test/attempt-000001.journal", journal.replacen("r1", "r9", 1));
    fs::remove_file(environment.path(".pawl/shop/test/snapshot.json")).unwrap();
    fs::remove_dir_all(environment.path("migrations")).unwrap();
    let doctor = environment.run(&["doctor", "--release", "r2"]);
    doctor.assert_exit(2);
    expect![[r#"
        found:
          ok  runner     0.1.0 with modules compose, configure, container, images, migrate, packages, pull, run, supervisord, switch, systemd, venv, verify
          ok  plan       deploy.yml is valid for test
          ok  steps      4 loaded, with all required grants
          NO  release    1 error
          NO  resources  1 error
          NO  journals   1 error
          ok  lock       free
        error[P0203]: can't determine the digest of release r2
         --> deploy.yml:9:19
          |
        9 |     with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
          |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ its source
          caused by: can't read the release archive file:dist/shop-r2.tar.zst: No such file or directory (os error 2)
          hint: check that `--release` names a release whose archive is there, such as r1
        error[P0202]: directory `migrations` of step `migrate` ([ROOT]/shop/migrations) can't be read: No such file or directory (os error 2)
          --> deploy.yml:17:27
           |
        17 |       dirs: { migrations: "./migrations:ro" }
           |                           ^^^^^^^^^^^^^^^^^ this directory
          hint: nothing was deployed; fix this, then run the same command again
        error[P0602]: [ROOT]/shop/.pawl/shop/test/attempt-000001.journal:1: the line is corrupt
          caused by: its stated checksum is [HASH], but its content has [HASH]
          hint: restore the file from a backup or a CI artifact; without a copy, run `runner state repair --local --env test`
    "#]].assert_eq(&format!("found:\n{}{}", doctor.stdout_snapshot(), doctor.stderr_snapshot()));
    let json = environment.run(&["doctor", "--release", "r2", "--json"]);
    json.assert_exit(2);
    let first: serde_json::Value = serde_json::from_str(json.stdout.lines().next().unwrap()).unwrap();
    let codes: Vec<_> = first["problems"].as_array().unwrap().iter().map(|problem| &problem["code"]).collect();
    assert_eq!(codes, ["P0203", "P0202", "P0602"]);

    // A broken plan, no release, and still the state is looked at.
    environment.edit("deploy.yml", "uses: switch", "usess: switch");
    let doctor = environment.run(&["doctor"]);
    doctor.assert_exit(2);
    expect![[r#"
        found:
          ok  runner     0.1.0 with modules compose, configure, container, images, migrate, packages, pull, run, supervisord, switch, systemd, venv, verify
          NO  plan       1 error
          --  steps      not checked: the plan has errors
          --  release    not checked: the plan has errors
          --  resources  not checked: the plan has errors
          NO  journals   1 error
          ok  lock       free
        error[P0104]: step `switch` has no key `usess`
          --> deploy.yml:20:5
           |
        20 |     usess: switch
           |     ^^^^^ unknown key
          hint: did you mean `uses`?
        error[P0207]: no release was given, and `git describe` failed
          caused by: fatal: not a git repository (or any of the parent directories): .git
          hint: name it with `--release LABEL`
        error[P0602]: [ROOT]/shop/.pawl/shop/test/attempt-000001.journal:1: the line is corrupt
          caused by: its stated checksum is [HASH], but its content has [HASH]
          hint: restore the file from a backup or a CI artifact; without a copy, run `runner state repair --local --env test`
    "#]]
    .assert_eq(&format!("found:\n{}{}", doctor.stdout_snapshot(), doctor.stderr_snapshot()));
}

#[test]
fn step_command_runs_one_module() {
    let environment = TestEnvironment::new();
    environment.pack("r1");
    let pull = [
        "step",
        "pull",
        "--local",
        "--release",
        "r1",
        "--with",
        "from=file:dist/shop-r1.tar.zst",
        "--with",
        "into=app",
        "--dir",
        "app=deploy/test",
        "--dir",
        "dist=dist:ro",
        "--json",
    ];
    environment.run(&pull).assert_exit(0).assert_decisions(&["pull run never-ran"]);
    assert_eq!(environment.list("deploy/test/releases").len(), 1);
    environment.run(&pull).assert_exit(0).assert_decisions(&["pull skip held"]);
    let verify = |text: &str| {
        let files = format!(r#"files=[{{"path":"VERSION","contains":"{text}"}}]"#);
        environment.run(&["step", "verify", "--local", "--with", &files, "--with", "tries=1", "--dir", "app=app"])
    };
    verify("@VERSION@").assert_exit(0);
    verify("nothing")
        .assert_exit(1)
        .assert_stderr_contains("expected a file that contains `nothing`, found `@VERSION@`");
    environment.run(&["step", "pull", "--with", "from=x"]).assert_exit(2).assert_stderr_contains("--local");
    environment.run(&["step", "pull", "--local", "--with", "from"]).assert_exit(2).assert_stderr_contains("NAME=VALUE");
}
