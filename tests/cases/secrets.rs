//! Secrets never leave the runner, and what a program writes cannot take over the terminal.

use base64::Engine as _;

use crate::support::{RunnerOutput, TestEnvironment};

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

/// Asks the kernel for the environments of the runner and of all that runs here for this user.
const PEEK: &str =
    r#"tr '\0' '\n' < "/proc/$PPID/environ"; tr '\0' ' ' < "/proc/$PPID/cmdline"; cat "/proc/$PPID/comm""#;

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
