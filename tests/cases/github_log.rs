//! In a job on GitHub: what its log, its annotations, its page and its outputs hold, and what they never do.

use std::{collections::BTreeMap, fs, path::PathBuf};

use base64::Engine as _;
use expect_test::expect;

use crate::support::{RunnerOutput, TestEnvironment};

/// Lines that a program prints to be obeyed.
const INJECTION_SCRIPT: &str = r"cat <<'END'
::set-output name=x::y
  ::error::forged
::stop-commands::x
::add-mask::a
fine ##[error]forged
| `b` </details> %0A::error::y
::endgroup::
END
";

/// A secret of several lines, one too short to be hidden.
const SECRET: &str = "-----BEGIN KEY-----\nhunter2-correct-horse\n  YmF0dGVyeTEyMw==\nend\n-----END KEY-----\n";

/// A job: the files of its step lie beside the plan's folder.
fn github_job(mut environment: TestEnvironment) -> TestEnvironment {
    let workspace = environment.path("").canonicalize().unwrap();
    environment.set_variable("GITHUB_ACTIONS", "true");
    environment.set_variable("GITHUB_WORKSPACE", workspace.to_str().unwrap());
    for (name, file) in [("GITHUB_STEP_SUMMARY", "summary.md"), ("GITHUB_OUTPUT", "outputs")] {
        environment.set_variable(name, environment.home(file).to_str().unwrap());
    }
    environment
}

fn summary(environment: &TestEnvironment) -> String {
    fs::read_to_string(environment.home("summary.md")).unwrap()
}

/// The outputs as a later step reads them.
fn outputs(environment: &TestEnvironment) -> BTreeMap<String, String> {
    let text = fs::read_to_string(environment.home("outputs")).unwrap();
    let mut lines = text.lines();
    let mut found = BTreeMap::new();
    while let Some(line) = lines.next() {
        let (name, end) = line.split_once("<<").unwrap();
        assert!(end.len() > 32, "nobody guesses {end}");
        let value: Vec<_> = lines.by_ref().take_while(|line| *line != end).collect();
        found.insert(name.to_owned(), value.join("\n"));
    }
    found
}

/// The commands that GitHub obeys, whole lines.
fn executed_commands(log: &str) -> Vec<&str> {
    let mut stop: Option<&str> = None;
    let mut found = Vec::new();
    for line in log.lines() {
        assert!(!line.contains("##["), "{line}");
        let Some((head, data)) = line.trim_start().strip_prefix("::").and_then(|line| line.split_once("::")) else {
            continue;
        };
        match stop {
            Some(token) if token == head => stop = None,
            Some(_) => {}
            None if head == "stop-commands" => stop = Some(data),
            None => found.push(line),
        }
    }
    assert_eq!(stop, None, "a stop is open in\n{log}");
    found
}

/// Commands but those that fold.
fn reporting_commands(answer: &RunnerOutput) -> Vec<&str> {
    let commands = executed_commands(&answer.stdout).into_iter();
    commands.filter(|line| !line.starts_with("::group::") && !line.starts_with("::endgroup::")).collect()
}

fn shell_plan(script: &str, more: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
{more}steps:
  show:
    uses: run
    trust: host
    with: {{ program: /bin/sh, args: [show.sh], dir: work }}
    grants:
      dirs: {{ work: "./work:ro" }}
      programs: [[/bin/sh, show.sh]]
      env: {{ PATH: /usr/bin:/bin{} }}
"#,
        if more.contains("secrets") { r#", SECRET: "${{ secrets.KEY }}""# } else { "" }
    ));
    environment.write("work/show.sh", script);
    environment
}

#[test]
fn failed_migration_is_annotated_at_its_line_and_a_retry_resumes() {
    let environment = github_job(TestEnvironment::new());
    environment.pack("r1");
    environment.write("migrations/0003_orders.sql", "-- Orders.\nSELECT 1;\nINSERT INTO ordr (id) VALUES (1);\n");
    let failed = environment.run(&["deploy", "--release", "r1"]);
    failed.assert_exit(1);
    assert_eq!(failed.stderr, "", "all is on one stream, in order");
    expect![[r#"
        warning: the journal is not stored for a re-run: only a `uses:` step of the workflow has access to the artifacts of its run
        warning: modules are not pinned: deploy.lock is missing; run `runner modules --accept` and commit it
        shop r1 to test (run [RUN 1], attempt 1)
        ::group::pull: first run
          intent pull     fingerprint [HASH], key [HASH]
        ::endgroup::
          ran    pull     295 B, 3 files [TIME]
        ::group::migrate: first run
          intent migrate  fingerprint [HASH], key [HASH]
          info   migrate  applied 0001_products.sql in [TIME]
          info   migrate  applied 0002_first_products.sql in [TIME]
        ::endgroup::
          FAIL   migrate [TIME]
        FAILED: r1 to test at `migrate`, after [TIME] (1 ran, 1 failed)
        ::error file=migrations/0003_orders.sql,line=3,col=1,title=Pawl P0301::step `migrate` failed on attempt 1%0Amigrations/0003_orders.sql:3: no such table: ordr%0Ahint: correct the file: its statements were rolled back, and the files before it will not run again; push the fix: "Re-run failed jobs" uses this same commit, and would fail here again; the push starts a new workflow run, which does not find this journal: all steps run or are probed again; applied migrations are not repeated. With `state: git:origin` it would go on at `migrate` (docs/github.md)
    "#]].assert_eq(&failed.stdout_snapshot());
    assert_eq!(failed.stdout.matches("no such table").count(), 1, "{}", failed.stdout);
    let [error] = reporting_commands(&failed)[..] else { panic!("{}", failed.stdout) };
    assert!(error.starts_with("::error file=migrations/0003_orders.sql,line=3,col="), "{error}");
    assert!(error.contains(",title=Pawl P0301::step `migrate` failed on attempt 1%0A"), "{error}");
    let page = summary(&environment);
    for part in [
        "## ❌ shop `r1` → **test**: stopped at **migrate** (step 2 of 4)\n\n**Nothing users see was touched.** · attempt 1 · ",
        "> **migrations/0003\\_orders.sql\\:3**: no such table\\: ordr\n",
        "\"Re\\-run failed jobs\" uses this same commit",
        "| ✅ | pull | ran: 295 B, 3 files | ",
        "| ❌ | **migrate** | failed | ",
        "| ⬜ | switch, verify | not reached |  |\n",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    let first_outputs = outputs(&environment);
    assert_eq!((first_outputs["result"].as_str(), first_outputs["release"].as_str()), ("failed", "r1"));

    environment.write("migrations/0003_orders.sql", "SELECT 1;\n");
    let fixed = environment.run(&["deploy", "--release", "r1"]);
    fixed.assert_exit(0);
    assert_eq!(reporting_commands(&fixed), Vec::<&str>::new());
    let page = summary(&environment);
    let (first, second) =
        page.split_once("## ✅ shop `r1` → **test**: live\n").expect("the second page follows the first");
    assert!(first.contains("stopped at") && second.contains("**Resumed** at **migrate** from attempt 1"), "{page}");
    assert!(second.contains("**1 of 4 steps not repeated, "), "{second}");
    assert!(second.contains("| | Step | Attempt 1 | Now | Why |\n"), "{second}");
    assert!(second.contains("| ⏭️ | pull | ✅ ran ") && second.contains(" | its effect still holds |"), "{second}");
    assert!(second.contains("| ✅ | migrate | ❌ failed "), "{second}");
    let again = outputs(&environment);
    assert_eq!((again["result"].as_str(), &again["run"]), ("success", &first_outputs["run"]));
}

#[test]
fn invalid_plan_is_annotated_at_its_line() {
    let environment = github_job(TestEnvironment::new());
    environment.pack("r1");
    environment.edit("deploy.yml", "  pull:\n", "  pull:\n    nonsense: 1\n");
    fs::create_dir(environment.path("ops")).unwrap();
    let refused = environment.run_in("ops", &["deploy", "--plan", "../deploy.yml", "--release", "r1"]);
    refused.assert_exit(2);
    let [error] = reporting_commands(&refused)[..] else { panic!("{}", refused.stdout) };
    let line = environment.read("deploy.yml").lines().position(|line| line.contains("nonsense")).unwrap() + 1;
    assert!(
        error.starts_with(&format!(
            "::error file=deploy.yml,line={line},col=5,endLine={line},endColumn=12,title=Pawl P0104::"
        )),
        "{error}"
    );
    let page = summary(&environment);
    assert!(page.starts_with("## ❌ Not started: refused\n") && page.contains("error[P0104]"), "{page}");
    assert_eq!(outputs(&environment), BTreeMap::from([("result".to_owned(), "refused".to_owned())]));
    // Beside an answer, and beside JSON, the same is on standard error.
    let preview = environment.run(&["plan", "--release", "r1"]);
    preview.assert_exit(2).assert_stderr_contains("::error file=deploy.yml,");
    let json = environment.run(&["deploy", "--release", "r1", "--json"]);
    json.assert_exit(2).assert_stderr_contains("::error file=deploy.yml,");
    assert_eq!(json.result_line()["code"], "P0104");
}

#[test]
fn errors_without_a_location_are_annotated_up_to_ten() {
    let environment = github_job(TestEnvironment::new());
    environment.pack("r1");
    let unknown = environment.run(&["deploy", "--release", "r1", "--only", "nothing"]);
    unknown.assert_exit(2);
    let [error] = reporting_commands(&unknown)[..] else { panic!("{}", unknown.stdout) };
    assert!(error.starts_with("::error title=Pawl P0205::"), "{error}");
    let wrong: String = (0..13).map(|number| format!("    wrong{number}: 1\n")).collect();
    environment.edit("deploy.yml", "  pull:\n", &format!("  pull:\n{wrong}"));
    let refused = environment.run(&["deploy", "--release", "r1"]);
    let errors = reporting_commands(&refused);
    assert_eq!(errors.len(), 10, "{}", refused.stdout);
    assert!(errors[9].contains("::(and 3 more, see the log)%0A"), "{}", errors[9]);
}

#[test]
fn printed_workflow_commands_are_not_executed() {
    for (end, exit) in [("exit 0", 0), ("exit 1", 1)] {
        let environment = github_job(shell_plan(&format!("{INJECTION_SCRIPT}{end}\n"), ""));
        for more in [&[][..], &["-v"], &["-q"]] {
            let shown = environment.run(&[&["deploy", "--release", "r1", "--fresh"], more].concat());
            shown.assert_exit(exit);
            let commands = reporting_commands(&shown);
            assert!(
                commands.iter().all(|line| exit == 1 && line.starts_with("::error title=Pawl P0301::")),
                "{commands:#?}"
            );
            assert_eq!(commands.len(), usize::try_from(exit).unwrap(), "{}", shown.stdout);
        }
        let log = environment.run(&["deploy", "--release", "r1", "--fresh"]).stdout;
        let line_index = log.lines().position(|line| line.contains("::set-output")).expect("it is in the log");
        let before: Vec<_> = log.lines().take(line_index).collect();
        assert!(before.iter().any(|line| line.starts_with("::stop-commands::")), "{log}");
        let page = summary(&environment);
        let outside = page.split("```").step_by(2);
        assert!(
            outside.into_iter().all(|text| !text.replace("<br>", "").contains('<') && !text.contains("`b`")),
            "{page}"
        );
    }
}

#[test]
fn multi_line_secret_is_masked_first_and_appears_nowhere_else() {
    for (end, exit) in [("exit 0", 0), ("exit 1", 1)] {
        let script =
            format!("printf %s \"$SECRET\"\nprintf %s \"$SECRET\" >&2\nprintf %s \"$SECRET\" | base64 -w0\n{end}\n");
        let mut environment = github_job(shell_plan(&script, "secrets: { KEY: env:DEPLOY_KEY }\n"));
        environment.set_variable("DEPLOY_KEY", SECRET);
        let deployed = environment.run(&["deploy", "--release", "r1", "-v"]);
        deployed.assert_exit(exit);
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(SECRET);
        let parts = ["-----BEGIN KEY-----", "hunter2-correct-horse", "YmF0dGVyeTEyMw==", "-----END KEY-----", &encoded];
        let masks: Vec<_> = parts.iter().map(|part| format!("::add-mask::{part}")).collect();
        let lines: Vec<_> = deployed.stdout.lines().collect();
        assert_eq!(lines[..masks.len()], masks, "first of all, and the short line is not among them");
        let rest = lines[masks.len()..].join("\n");
        assert!(rest.contains("***"), "it was printed, and hidden\n{rest}");

        let json = environment.run(&["deploy", "--release", "r1", "--json", "--fresh"]);
        json.assert_exit(exit);
        assert_eq!(json.stderr.lines().take(masks.len()).collect::<Vec<_>>(), masks);
        let stderr_rest = json.stderr.lines().skip(masks.len()).collect::<Vec<_>>().join("\n");
        let journals: BTreeMap<PathBuf, Vec<u8>> =
            environment.tree().into_iter().filter(|(path, _)| path.starts_with(environment.path(".pawl"))).collect();
        assert!(journals.keys().any(|path| path.extension().is_some_and(|end| end == "journal")));
        let mut texts: Vec<_> = journals.into_values().map(|bytes| String::from_utf8(bytes).unwrap()).collect();
        texts.extend([rest, json.stdout, stderr_rest, summary(&environment)]);
        texts.push(fs::read_to_string(environment.home("outputs")).unwrap());
        for text in &texts {
            for part in parts {
                assert!(!text.contains(part), "{part} is in\n{text}");
            }
        }
    }
}

#[test]
fn unwritable_summary_is_only_a_warning() {
    let mut environment = github_job(TestEnvironment::new());
    environment.pack("r1");
    let folder = environment.home("");
    environment.set_variable("GITHUB_STEP_SUMMARY", folder.to_str().unwrap());
    environment.set_variable("GITHUB_OUTPUT", folder.to_str().unwrap());
    let deployed = environment.run(&["deploy", "--release", "r1"]);
    deployed.assert_exit(0);
    assert!(deployed.stdout.contains("warning: could not write the job summary: "), "{}", deployed.stdout);
    assert!(deployed.stdout.contains("warning: could not write the job outputs: "), "{}", deployed.stdout);
    environment.set_variable("GITHUB_STEP_SUMMARY", "");
    environment.set_variable("GITHUB_OUTPUT", "");
    let quiet = environment.run(&["deploy", "--release", "r1"]);
    quiet.assert_exit(0);
    assert!(!quiet.stdout.contains("could not write"), "{}", quiet.stdout);
}

#[test]
fn full_summary_is_kept() {
    let environment = github_job(TestEnvironment::new());
    environment.pack("r1");
    let full = "x".repeat((1 << 20) - 300);
    fs::write(environment.home("summary.md"), &full).unwrap();
    environment.run(&["deploy", "--release", "r1"]).assert_exit(0);
    let page = summary(&environment);
    assert!(page.starts_with(&full) && page.len() <= 1 << 20, "{}", page.len());
    assert!(page[full.len()..].starts_with("## ✅ shop `r1` → **test**: live\n"), "{}", &page[full.len()..]);
}

#[test]
fn interrupted_deployment_writes_its_summary() {
    let environment = github_job(shell_plan("echo waiting\ntouch \"$MARK\"\nsleep 60\n", ""));
    let mark = environment.home("mark");
    environment.edit(
        "deploy.yml",
        "PATH: /usr/bin:/bin",
        &format!("PATH: \"/usr/bin:/bin\", MARK: \"{}\"", mark.display()),
    );
    let child = environment.start(&["deploy", "--release", "r1"]);
    crate::support::wait_until("the step runs", || mark.exists());
    let id = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(environment.wait(child), Some(130));
    let page = summary(&environment);
    assert!(page.starts_with("## ⚠️ shop `r1` → **default**: interrupted at **show** (step 1 of 1)\n"), "{page}");
    assert!(
        page.contains("**P0303** interrupted") && page.contains("run the workflow again with `command: deploy`"),
        "{page}"
    );
    assert_eq!(outputs(&environment)["result"], "interrupted");
}

/// A check that only r1 passes, after a step that a rollback repeats.
#[test]
fn page_of_a_rollback_says_what_stays_and_what_was_repeated() {
    let environment = github_job(TestEnvironment::new());
    let restart = "  restart:\n    uses: run\n    trust: host\n    with: { program: /bin/true, args: [], repeatable: true }\n    \
                   grants: { programs: [[/bin/true]] }\n";
    environment.edit("deploy.yml", "  verify:\n", &format!("{restart}  verify:\n"));
    let check =
        "      files:\n        - { path: current/VERSION, equals: r1 }\n        - { path: broken, exists: false }\n";
    environment.edit("deploy.yml", "      files:\n", check);
    environment.write("deploy.yml", environment.read("deploy.yml") + "on-failure: rollback\n");
    for label in ["r1", "r2"] {
        environment.pack(label);
    }
    environment.run(&["deploy", "--release", "r1"]).assert_exit(0);
    environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY);\n");
    let rolled_back = |expected: &[&str]| {
        fs::remove_file(environment.home("summary.md")).unwrap();
        environment.run(&["deploy", "--release", "r2"]).assert_exit(4);
        let page = summary(&environment);
        for line in expected {
            assert!(page.contains(line), "no {line:?} in\n{page}");
        }
        assert!(!page.contains("releases/"), "{page}");
    };
    rolled_back(&[
        "## ↩️ shop `r2` → **test**: failed its check; **`r1` is live again**\n",
        "| ⚠️ | migrate | **not undone**: 0003\\_orders.sql |",
        "| ↩️ | switch | undone |",
        "| ✅ | restart | ran; again for `r1` |",
        "| ❌ | **verify** | failed; passed for `r1` |",
    ]);
    // r1 does not pass either, and nothing was migrated this time.
    environment.write("deploy/test/broken", "");
    rolled_back(&[
        "failed its check; switched back to `r1`; **not verified**\n",
        "> **`r1` is not verified**: `verify` failed\\: ",
        "| ❌ | **verify** | failed; failed for `r1` |",
    ]);
    assert!(!summary(&environment).contains("not undone"), "{}", summary(&environment));
}
