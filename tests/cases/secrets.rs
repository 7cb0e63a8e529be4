//! Secrets never leave the runner or change what it decides by, and what a program writes cannot take over the terminal.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use serde_json::Value;

use crate::support::{RunnerOutput, TestEnvironment, init_bare_repository};

const SECRET: &str = "hunter2-correct-horse";

/// A program that shows the secret in several forms, in one write and in halves.
const SCRIPT: &str = r#"echo "raw $SECRET"
echo "raw $SECRET" >&2
printf %s "$SECRET" | base64
printf 'hunter2-'; printf 'correct-horse\n'
printf 'user:%s' "$SECRET" | base64
exit "$1"
"#;

fn secret_encodings() -> Vec<String> {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    vec![SECRET.to_owned(), encode(SECRET).trim_end_matches('=').to_owned()]
}

fn plan(status: &str) -> String {
    format!(
        r#"version: 1
app: shop
secrets: {{ PASSWORD: env:DEPLOY_PASSWORD }}
steps:
  show:
    uses: run
    trust: host
    with: {{ program: /bin/sh, args: [show.sh, "{status}"], dir: work }}
    grants:
      dirs: {{ work: "./work:ro" }}
      programs: [[/bin/sh, show.sh, "*"]]
      env: {{ SECRET: "${{{{ secrets.PASSWORD }}}}", PATH: /usr/bin:/bin }}
"#
    )
}

#[test]
fn printed_secret_appears_nowhere() {
    for (status, exit) in [("0", 0), ("1", 1)] {
        let mut environment = TestEnvironment::with_plan(&plan(status));
        environment.write("work/show.sh", SCRIPT);
        environment.set_variable("DEPLOY_PASSWORD", SECRET);
        let text = environment.run(&["--local", "--release", "r1", "-v"]);
        text.assert_exit(exit);
        let json = environment.run(&["--local", "--release", "r1", "--json", "--fresh"]);
        let more = ["plan --release r1", "why show", "why show --json", "logs", "logs --json", "status --json"];
        let mut outputs: Vec<RunnerOutput> = vec![text, json];
        outputs.extend(more.map(|line| environment.run(&line.split(' ').collect::<Vec<_>>())));
        let journals = environment.tree().into_iter().filter(|(path, _)| path.starts_with(environment.path(".pawl")));
        let mut texts: Vec<_> = journals.map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect();
        assert!(texts.iter().any(|text| text.contains("raw ")), "what the program said is on record");
        texts.extend(outputs.into_iter().flat_map(|answer| [answer.stdout, answer.stderr]));
        for form in secret_encodings() {
            for text in &texts {
                assert!(!text.contains(&form), "{form} is in\n{text}");
            }
        }
    }
}

#[test]
fn secret_in_a_probe_message_is_redacted() {
    let text = plan("0").replace("dir: work }", "dir: work, probe: [/bin/sh, probe.sh] }");
    let text = text.replace(r#"show.sh, "*"]]"#, r#"show.sh, "*"], [/bin/sh, probe.sh]]"#);
    let mut environment = TestEnvironment::with_plan(&text);
    environment.write("work/show.sh", SCRIPT);
    environment.write("work/probe.sh", "echo \"can't tell $SECRET\" >&2\nexit 2\n");
    environment.set_variable("DEPLOY_PASSWORD", SECRET);
    environment.deploy("r1", &[]).assert_exit(0);
    let stopped = environment.run(&["--local", "--release", "r1"]);
    stopped.assert_exit(3).assert_stderr_contains("can't tell ***");
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(0);
    assert!(preview.stdout.contains("can't tell ***"), "{}", preview.stdout);
    let json = environment.run(&["plan", "--release", "r1", "--json"]);
    for text in [stopped.stdout, stopped.stderr, preview.stdout, preview.stderr, json.stdout] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn unset_secret_is_a_plan_error() {
    let environment = TestEnvironment::with_plan(&plan("0"));
    environment.write("work/show.sh", SCRIPT);
    environment.run(&["--local", "--release", "r1"]).assert_exit(2).assert_stderr_contains("error[P0114]");
}

#[test]
fn terminal_escapes_of_a_program_are_neutralized() {
    let environment = TestEnvironment::with_plan(
        r#"version: 1
app: shop
steps:
  shout:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [shout.sh], dir: work }
    grants: { dirs: { work: "./work:ro" }, programs: [[/bin/sh, shout.sh]] }
"#,
    );
    environment.write("work/shout.sh", "printf '\\033[2J\\033]0;owned\\007red \\033[31mtext\\r\\n::error::forged\\n'\nprintf '\\033[31mfatal\\n' >&2\nexit 1\n");
    let failed = environment.run(&["--local", "--release", "r1", "-v"]);
    failed.assert_exit(1).assert_stderr_contains("fatal");
    let logs = environment.run(&["logs", "-v"]);
    let json = environment.run(&["logs", "--json"]);
    for text in [&failed.stdout, &failed.stderr, &logs.stdout, &json.stdout] {
        let is_harmless = |c: char| c == '\n' || !c.is_control();
        assert!(text.chars().all(is_harmless), "{text:?}");
        assert!(text.lines().all(|line| !line.starts_with("::")), "{text}");
    }
}

/// A release is made live by a link whose name holds the secret; a check can fail.
const LINK_PLAN: &str = r#"version: 1
app: shop
secrets: { NAME: env:NAME }
steps:
  switch:
    uses: switch
    with: { link: shop-live, to: "releases/${{ release }}" }
    grants: { dirs: { app: ./app } }
  verify:
    uses: verify
    with: { tries: 1, files: [{ path: broken, exists: false }] }
    grants: { dirs: { app: "./app:ro" } }
on-failure: rollback
"#;

fn link_environment(secret: &str) -> TestEnvironment {
    let mut environment = TestEnvironment::with_plan(LINK_PLAN);
    for release in ["one", "two"] {
        environment.write(&format!("app/releases/{release}/index.html"), release);
    }
    environment.set_variable("NAME", secret);
    environment
}

fn live_release(environment: &TestEnvironment) -> String {
    std::fs::read_link(environment.path("app/shop-live")).unwrap().to_string_lossy().into_owned()
}

/// The events of all journals.
fn events(environment: &TestEnvironment) -> Vec<Value> {
    let is_journal = |path: &std::path::Path| path.extension().is_some_and(|end| end == "journal");
    let journals = environment.tree().into_iter().filter(|(path, _)| is_journal(path));
    let texts = journals.map(|(_, bytes)| String::from_utf8(bytes).unwrap());
    texts
        .flat_map(|text| text.lines().map(|line| serde_json::from_str(&line[9..]).unwrap()).collect::<Vec<Value>>())
        .map(|entry| entry["event"].clone())
        .collect()
}

/// What later attempts decide by.
fn control_values(event: &Value) -> String {
    let header = ["app", "environment", "run", "release", "url", "commit"].map(|name| event[name].to_string());
    let values = [&event["input"], &event["receipt"], &event["decision"]["receipt"], &event["finding"]["receipt"]];
    header.into_iter().chain(values.map(Value::to_string)).collect()
}

/// No control value holds a mask.
#[track_caller]
fn assert_control_values_are_exact(environment: &TestEnvironment) {
    for event in events(environment) {
        assert!(!control_values(&event).contains("***"), "{event}");
    }
}

#[test]
fn link_that_contains_a_short_secret_is_reverted_as_it_is() {
    for secret in ["shop", "liv", "one"] {
        let environment = link_environment(secret);
        let warning = "warning: the value of secret `NAME` has fewer than 8 characters";
        for command in [&["plan", "--release", "one"] as &[&str], &["doctor", "--release", "one"]] {
            environment.run(command).assert_exit(0).assert_stderr_contains(warning);
        }
        environment.run(&["--local", "--release", "one"]).assert_exit(0).assert_stderr_contains(warning);
        environment.write("app/broken", "");
        let second = environment.run(&["--local", "--release", "two"]);
        second.assert_exit(4);
        let why = environment.run(&["why", "switch"]);
        if secret == "one" {
            // The release before is masked in a text, and stays as it is on record.
            second.assert_stderr_contains("from releases/***");
            assert!(!second.stderr.contains("releases/one"), "{}", second.stderr);
            assert!(why.stdout.contains("from releases/***") && !why.stdout.contains("releases/one"), "{}", why.stdout);
        }
        assert_eq!(live_release(&environment), "releases/one");
        assert_control_values_are_exact(&environment);
    }
}

#[test]
fn secret_in_a_control_value_is_refused_before_anything_runs() {
    let switch = |secret: &str| {
        let mut environment = TestEnvironment::new();
        environment.set_variable("NAME", secret);
        environment.edit("deploy.yml", "app: shop\n", "app: shop\nsecrets: { NAME: env:NAME }\n");
        environment
    };
    let link = switch("live-link");
    link.edit("deploy.yml", "link: current", "link: \"${{ env.NAME }}\"");
    link.pack("r1");
    let path = switch("hunter2-dist");
    path.edit("deploy.yml", "file:dist/shop", "file:dist/hunter2-dist/shop");
    let label = switch("r1-of-today");
    label.pack("r1-of-today");
    let mut digest = switch("x");
    let content = digest.pack("r1");
    digest.set_variable("NAME", &content[20..28]);
    let mut encoded = switch("live-link");
    encoded.edit("deploy.yml", "link: current", "link: \"${{ env.LINK }}\"");
    encoded.set_variable("LINK", &base64::engine::general_purpose::STANDARD_NO_PAD.encode("our-live-link"));
    encoded.pack("r1");
    for (environment, release, what) in [
        (&link, "r1", "`with` of step `switch` contains the value of secret `NAME` at `link`"),
        (&encoded, "r1", "`with` of step `switch` contains the value of secret `NAME` at `link`"),
        (&path, "r1", "`with` of step `pull` contains the value of secret `NAME` at `from`"),
        (&label, "r1-of-today", "the release label contains the value of secret `NAME`"),
        (&digest, "r1", "the release's digest contains the value of secret `NAME`"),
    ] {
        if what.contains("`from`") {
            environment.pack(release);
            environment.write(
                "dist/hunter2-dist/shop-r1.tar.zst",
                std::fs::read(environment.path("dist/shop-r1.tar.zst")).unwrap(),
            );
        }
        for command in [&["--local", "--release", release] as &[&str], &["plan", "--release", release]] {
            let refused = environment.run(command);
            refused.assert_exit(2).assert_stderr_contains(&format!("error[P0225]: {what}"));
            refused.assert_stderr_contains("not a secret? use `env.NAME`");
            assert!(!environment.exists("deploy") && !environment.exists(".pawl"), "nothing was begun: {what}");
        }
        assert!(!environment.run(&["plan", "--release", release]).stderr.contains("hunter2-dist"), "it is not shown");
    }
}

/// The key of the checkpoints is in no plan; the runner has it from its environment.
#[test]
fn key_of_the_job_in_a_control_value_is_refused_before_anything_runs() {
    let shop = |key: &str| {
        let mut environment = TestEnvironment::new();
        environment.set_variable("PAWL_KEY", key);
        environment
    };
    let link = shop("live-link");
    link.edit("deploy.yml", "link: current", "link: our-live-link");
    link.pack("r1");
    let path = shop("hunter2-dist");
    path.edit("deploy.yml", "file:dist/shop", "file:dist/hunter2-dist/shop");
    path.pack("r1");
    let archive = std::fs::read(path.path("dist/shop-r1.tar.zst")).unwrap();
    path.write("dist/hunter2-dist/shop-r1.tar.zst", archive);
    let label = shop("r1-of-today");
    label.pack("r1-of-today");
    let mut digest = shop("x");
    let content = digest.pack("r1");
    digest.set_variable("PAWL_KEY", &content[20..28]);
    for (environment, release, what) in [
        (&link, "r1", "`with` of step `switch` contains the value of the job's secret `PAWL_KEY` at `link`"),
        (&path, "r1", "`with` of step `pull` contains the value of the job's secret `PAWL_KEY` at `from`"),
        (&label, "r1-of-today", "the release label contains the value of the job's secret `PAWL_KEY`"),
        (&digest, "r1", "the release's digest contains the value of the job's secret `PAWL_KEY`"),
    ] {
        for command in [&["--local", "--release", release] as &[&str], &["plan", "--release", release]] {
            let refused = environment.run(command);
            refused.assert_exit(2).assert_stderr_contains(&format!("error[P0225]: {what}"));
            refused.assert_stderr_contains("hint: take it out of this value");
            assert!(!environment.exists("deploy") && !environment.exists(".pawl"), "nothing was begun: {what}");
        }
        assert!(!environment.run(&["plan", "--release", release]).stderr.contains("hunter2-dist"), "it is not shown");
    }
    // A short one is found by chance in too many values.
    let short = shop("live-12");
    short.edit("deploy.yml", "link: current", "link: live-123");
    short.pack("r1");
    let warned = short.run(&["--local", "--release", "r1"]);
    warned.assert_stderr_contains("warning: the value of the job's secret `PAWL_KEY` has fewer than 8 characters");
    assert!(!warned.stderr.contains("P0225"), "{}", warned.stderr);
}

#[test]
fn key_of_the_job_is_masked_in_texts_and_refused_in_a_receipt() {
    let mut environment = link_environment("");
    environment.edit("deploy.yml", "secrets: { NAME: env:NAME }\n", "");
    environment.set_variable("PAWL_KEY", "hunter2-old");
    environment.write("app/hunter2-old/index.html", "");
    std::os::unix::fs::symlink("hunter2-old", environment.path("app/shop-live")).unwrap();
    let refused = environment.run(&["--local", "--release", "one"]);
    refused.assert_exit(1).assert_stderr_contains("error[P0304]: step `switch` failed on attempt 1");
    refused.assert_stderr_contains("it returned the value of the job's secret `PAWL_KEY` in `notes.from`");
    let show = plan("1").replace("secrets: { PASSWORD: env:DEPLOY_PASSWORD }\n", "");
    let mut shown = TestEnvironment::with_plan(&show.replace("SECRET: \"${{ secrets.PASSWORD }}\", ", ""));
    shown.set_variable("PAWL_KEY", "hunter2-old");
    shown.write("work/show.sh", "echo 'raw hunter2-old'\necho 'raw hunter2-old' >&2\nexit 1\n");
    let failed = shown.run(&["--local", "--release", "r1", "-v"]);
    failed.assert_exit(1).assert_stderr_contains("raw ***");
    assert!(!failed.stdout.contains("hunter2") && !failed.stderr.contains("hunter2"), "{}", failed.stderr);
    for (path, bytes) in environment.tree().into_iter().chain(shown.tree()) {
        let is_state = path.components().any(|part| part.as_os_str() == ".pawl");
        assert!(!is_state || !String::from_utf8_lossy(&bytes).contains("hunter2"), "{}", path.display());
    }
}

#[test]
fn secret_that_earlier_outputs_complete_is_refused_before_the_step() {
    let environment = link_environment("shop-live-mark");
    let step = r#"  mark:
    uses: run
    trust: host
    with: { program: /bin/touch, args: ["${{ steps.switch.link }}-mark"], dir: app }
    grants: { dirs: { app: ./app }, programs: [[/bin/touch, "*"]] }
"#;
    environment.edit("deploy.yml", "  verify:\n", &format!("{step}  verify:\n"));
    let refused = environment.run(&["--local", "--release", "one"]);
    refused
        .assert_exit(2)
        .assert_stderr_contains("error[P0225]: `with` of step `mark` contains the value of secret `NAME` at `args.0`");
    assert!(!environment.exists("app/shop-live-mark"));
    assert_eq!(live_release(&environment), "releases/one");
}

/// The link led to a folder with the secret in its name: the receipt would say so.
#[test]
fn secret_in_a_receipt_makes_the_outcome_unknown() {
    let environment = link_environment("hunter2-old");
    environment.write("app/hunter2-old/index.html", "");
    std::os::unix::fs::symlink("hunter2-old", environment.path("app/shop-live")).unwrap();
    let first = environment.run(&["--local", "--release", "one"]);
    first.assert_exit(1).assert_stderr_contains("error[P0304]: step `switch` failed on attempt 1");
    first.assert_stderr_contains(
        "it returned the value of secret `NAME` in `notes.from`, so its receipt was not recorded",
    );
    let outcome = events(&environment).into_iter().find(|event| event["type"] == "outcome").unwrap();
    assert_eq!((&outcome["result"], &outcome["receipt"]), (&"unknown".into(), &Value::Null));
    assert_eq!(outcome["failure"]["details"]["code"], "P0304");
    // Its probe tells the same.
    let second = environment.run(&["--local", "--release", "one"]);
    second.assert_exit(3).assert_stderr_contains("error[P0403]");
    second.assert_stderr_contains("it returned the value of secret `NAME` in `notes.from`");
    for (path, bytes) in environment.tree() {
        let is_state = path.starts_with(environment.path(".pawl"));
        assert!(!is_state || !String::from_utf8_lossy(&bytes).contains("hunter2"), "{}", path.display());
    }
    // Not a secret after all: what happened is adopted.
    environment.edit("deploy.yml", "secrets: { NAME: env:NAME }\n", "");
    environment.run(&["--local", "--release", "one"]).assert_exit(0);
    assert_eq!(live_release(&environment), "releases/one");
}

/// Journals that a runner before format 1.3 left, with the secret `shop` masked: the link is `***-live` in them.
fn with_masked_journals(attempts: u32) -> TestEnvironment {
    let environment = link_environment("shop");
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/journal-1.2-masked");
    for attempt in 1..=attempts {
        let name = format!("attempt-{attempt:06}.journal");
        environment.write(&format!(".pawl/shop/default/{name}"), std::fs::read(fixture.join(name)).unwrap());
    }
    std::os::unix::fs::symlink("releases/two", environment.path("app/shop-live")).unwrap();
    environment
}

#[test]
fn masked_record_of_an_older_runner_is_probed_and_never_undone_by() {
    // An undo by the masked record had failed, and kept every deployment from beginning.
    let environment = with_masked_journals(3);
    environment.run(&["--local", "--release", "two"]).assert_exit(0);
    assert_eq!(live_release(&environment), "releases/two");
    // The old runner was killed after the switch, and the check still fails. The undo has the right link, and the probe finds in the
    // switch note what the link was before; without the note, an operator has to say.
    let note = r#"{"epoch":2,"from":"releases/one","key":"53f97c6b2f5452e8","lineage":"27893d05","to":"releases/two"}"#;
    for (has_note, exit, live) in [(true, 4, "releases/one"), (false, 3, "releases/two")] {
        let environment = with_masked_journals(2);
        let path = ".pawl/shop/default/attempt-000002.journal";
        let text = environment.read(path);
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let switched = lines.iter().position(|line| line.contains("\"outcome\"")).unwrap();
        environment.write(path, lines[..=switched].concat());
        environment.write("app/broken", "");
        if has_note {
            environment.write("app/.shop-live.switch", note);
        }
        environment.run(&["--local", "--release", "two"]).assert_exit(exit);
        assert_eq!(live_release(&environment), live);
        let newest = events(&environment).into_iter().rev().take_while(|event| event["type"] != "started");
        for event in newest {
            assert!(!control_values(&event).contains("***"), "{event}");
        }
    }
}

/// Names that plans use, and secrets that are made of the same words.
const WORDS: [&str; 10] = ["shop", "live", "shop-live", "one", "abc", "1", "deadbeef", "s3cr-ets", "x", "current"];

#[test]
fn generated_plans_with_colliding_secrets_keep_their_values_and_leak_nothing() {
    let mut seed = 7_u64;
    let mut pick = |count: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % count
    };
    let mut refused = 0;
    for _ in 0..30 {
        let mut word = || WORDS[pick(WORDS.len())];
        let secrets = [word().to_owned(), format!("{}-{}", word(), word())];
        let (link, release) = (format!("{}-{}", word(), word()), format!("{}.{}", word(), word()));
        let mut environment = TestEnvironment::with_plan(&format!(
            "version: 1\napp: {}\nsecrets: {{ A: env:A, B: env:B }}\nsteps:\n  link:\n    uses: switch\n    \
             with: {{ link: {link:?}, to: \"releases/${{{{ release }}}}\" }}\n    grants: {{ dirs: {{ app: ./app }} }}\n",
            word()
        ));
        environment.write(&format!("app/releases/{release}/index.html"), "");
        environment.set_variable("A", &secrets[0]);
        environment.set_variable("B", &secrets[1]);
        let output = environment.run(&["--local", "--release", &release, "-v"]);
        let is_refused = output.stderr.contains("error[P0225]");
        refused += usize::from(is_refused);
        output.assert_exit(if is_refused { 2 } else { 0 });
        assert_control_values_are_exact(&environment);
        for (path, bytes) in environment.tree() {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if !path.starts_with(environment.path(".pawl")) {
                continue;
            }
            for secret in secrets.iter().filter(|secret| secret.len() >= 8) {
                let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
                let is_found =
                    text.contains(secret) || text.contains(&hex) || path.display().to_string().contains(secret);
                assert!(!is_found, "{secret:?} is in {}: {text}", path.display());
            }
        }
        if !is_refused {
            assert_eq!(
                std::fs::read_link(environment.path(format!("app/{link}"))).unwrap().to_string_lossy(),
                format!("releases/{release}")
            );
        }
    }
    assert!((3..27).contains(&refused), "{refused} of 30 plans were refused");
}

/// Asks the kernel for the environments of its guard and of the runner, the guard's parent.
const PEEK: &str = r#"
for pid in $PPID $(cut -d ' ' -f 4 "/proc/$PPID/stat"); do
  tr '\0' '\n' < "/proc/$pid/environ"; tr '\0' ' ' < "/proc/$pid/cmdline"; cat "/proc/$pid/comm"
done"#;

/// A plan whose step may run any script, and is granted no secret.
const PEEK_PLAN: &str = r#"
version: 1
app: shop
secrets: { DB: env:DATABASE_URL }
steps:
  peek:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [peek.sh], dir: work, stdin: "${{ env.GREETING }}" }
    grants:
      dirs: { work: "./work:ro" }
      programs: [[/bin/sh, peek.sh]]
      env: { PATH: /usr/bin:/bin }
"#;

#[test]
fn granted_program_cannot_read_the_runners_environment() {
    let hidden = [
        ("DATABASE_URL", "postgres://ann:hunter2-correct-horse@db/shop"),
        ("PAWL_KEY", "checkpoint-key-of-the-job"),
        ("ACTIONS_RUNTIME_TOKEN", "token-of-the-artifact-service"),
        ("GITHUB_TOKEN", "token-of-the-repository"),
        ("UNRELATED", "but-not-for-everybody"),
    ];
    let mut environment = TestEnvironment::with_plan(PEEK_PLAN);
    environment.write("work/peek.sh", PEEK);
    environment.set_variable("GREETING", "hello");
    for (name, value) in hidden {
        environment.set_variable(name, value);
    }
    for arguments in [&["--local", "--release", "r1"][..], &["deploy", "--local", "--release", "r2"]] {
        environment.run(arguments).assert_exit(0);
        let logs = environment.run(&["logs"]).stdout;
        for (name, value) in hidden {
            assert!(!logs.contains(name) && !logs.contains(value), "{name} is in\n{logs}");
        }
        // The rest is as it was: its name and its arguments.
        assert!(logs.contains(&arguments.join(" ")), "{logs}");
        assert!(logs.contains("runner"), "{logs}");
    }
    // All variables were there for the runner itself: the plan's, `PATH` and `HOME`.
    environment.edit("deploy.yml", "${{ env.GREETING }}", "${{ env.GREETING }} ${{ env.HOME }} ${{ env.PATH }}");
    environment.run(&["--local", "--release", "r3"]).assert_exit(0);
}

/// A hook of the repository gets the environment of the git that pushes to it.
#[test]
fn git_does_not_get_the_secrets_of_the_plan_and_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("state.git");
    init_bare_repository(&repository);
    std::fs::create_dir_all(repository.join("hooks")).unwrap();
    let (hook, seen) = (repository.join("hooks/pre-receive"), folder.path().join("seen"));
    std::fs::write(&hook, format!("#!/bin/sh\nenv >> {}\n", seen.display())).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let plan = PEEK_PLAN.replace("app: shop", &format!("app: shop\nstate: git:{}", repository.display()));
    let mut environment = TestEnvironment::with_plan(&plan);
    environment.write("work/peek.sh", "true\n");
    let hidden = ["DATABASE_URL", "PAWL_KEY", "PAWL_TOKEN", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"];
    for name in ["GREETING", "UNRELATED"].iter().chain(&hidden) {
        environment.set_variable(name, &format!("value-of-{name}"));
    }
    environment.run(&["--local", "--release", "r1"]).assert_exit(0);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("\nUNRELATED="), "{seen}");
    for name in hidden {
        assert!(!seen.contains(name), "{name} is in\n{seen}");
    }
}
