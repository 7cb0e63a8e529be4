//! GitLab and Buildkite: who deploys, and a retry whose journal was not uploaded.

use std::{fs, process::Command};

use crate::support::TestEnvironment;

/// A script of docs/elsewhere.md: the lines of the block that begins with `start`, without their indent.
fn documented_script(start: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/elsewhere.md")).unwrap();
    let lines: Vec<_> = page.lines().collect();
    let first = lines.iter().position(|line| line.contains(start)).expect("the page has the script");
    let indent = lines[first].len() - lines[first].trim_start().len();
    let script = lines[first..].iter().take_while(|line| line.len() - line.trim_start().len() >= indent);
    script.map(|line| format!("{}\n", &line[indent..])).collect()
}

/// Runs a script as a job does, with a stub for the CI's program first on the PATH.
fn run_script(environment: &TestEnvironment, script: &str, stub: (&str, &str)) -> std::process::Output {
    use std::os::unix::fs::PermissionsExt as _;
    let (name, content) = stub;
    let runner = format!("#!/bin/sh\nexec {} \"$@\" --env test\n", env!("CARGO_BIN_EXE_runner"));
    for (name, content) in [(name, content), ("runner", &runner)] {
        environment.write(&format!("bin/{name}"), content);
        fs::set_permissions(environment.path(format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let template = environment.command(&[]);
    let mut shell = Command::new("sh");
    shell.env_clear().envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
    #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
    let path = std::env::var("PATH").unwrap();
    shell.env("PATH", format!("{}:{path}", environment.path("bin").display()));
    shell.arg("-ec").arg(script.replace(" --env prod", "")).current_dir(environment.path("")).output().unwrap()
}

fn journal_text(environment: &TestEnvironment) -> String {
    let folder = ".pawl/shop/test";
    let names = environment.list(folder).into_iter().filter(|name| name.ends_with(".journal"));
    names.map(|name| environment.read(&format!("{folder}/{name}"))).collect()
}

#[test]
fn user_of_the_ci_is_the_operator() {
    for (variable, login) in [("GITLAB_USER_LOGIN", "ann"), ("BUILDKITE_BUILD_CREATOR", "Ben")] {
        let mut environment = TestEnvironment::new();
        environment.pack("r1");
        environment.set_variable("CI", "true");
        environment.set_variable(variable, login);
        environment.run(&["deploy", "--release", "r1"]).assert_exit(0);
        let journal = journal_text(&environment);
        assert!(journal.contains(&format!("\"by\":\"{login}@")), "{journal}");
    }
}

#[test]
fn retry_without_its_journal_follows_the_policy_and_says_so() {
    for (variable, value) in [("BUILDKITE_RETRY_COUNT", "1"), ("PAWL_RETRY", "true")] {
        for (policy, exit, about_pull) in
            [("probe", 0, "pull run unconfirmed"), ("fail", 3, ""), ("restart", 0, "pull run never-ran")]
        {
            let mut environment = TestEnvironment::new();
            environment.pack("r1");
            environment.set_variable("CI", "true");
            environment.set_variable("BUILDKITE_BUILD_URL", "https://buildkite.example/acme/shop/builds/7");
            environment.set_variable(variable, value);
            let output = environment.run(&["deploy", "--release", "r1", "--missing-journal", policy]);
            output.assert_exit(exit);
            match exit {
                0 => {
                    output
                        .assert_stderr_contains("this is a retry, and the journal of the earlier attempts is not here");
                    let why = environment.run(&["why", "pull", "--json"]);
                    why.assert_exit(0);
                    let word = about_pull.rsplit(' ').next().unwrap();
                    assert!(why.stdout.contains(word), "{}", why.stdout);
                }
                _ => assert!(output.stderr.contains("P0521") && !environment.exists("deploy"), "{}", output.stderr),
            }
        }
    }
}

#[test]
fn retry_with_its_journal_resumes() {
    let mut environment = TestEnvironment::new();
    environment.pack("r1");
    environment.set_variable("CI", "true");
    environment.set_variable("BUILDKITE_BUILD_URL", "https://buildkite.example/acme/shop/builds/7");
    environment.set_variable("BUILDKITE_RETRY_COUNT", "0");
    environment.write("migrations/0003_orders.sql", "CREATE TABLE order (id INTEGER);\n");
    environment.run(&["deploy", "--release", "r1"]).assert_exit(1);
    environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER);\n");
    environment.set_variable("BUILDKITE_RETRY_COUNT", "1");
    let retry = environment.run(&["deploy", "--release", "r1", "--json"]);
    retry.assert_exit(0);
    assert_eq!(retry.decisions()[..2], ["pull skip held", "migrate run failed-before"]);
    assert!(!retry.stdout.contains("this is a retry, and the journal"), "{}", retry.stdout);
}

/// Stores what `.pawl` holds below `store`, as the services do after a job.
fn upload(environment: &TestEnvironment) {
    let status = Command::new("cp").args(["-r", ".pawl", "store/"]).current_dir(environment.path("")).status();
    assert!(status.unwrap().success());
}

fn forget_machine(environment: &TestEnvironment) {
    for folder in [".pawl", "deploy"] {
        let _ = fs::remove_dir_all(environment.path(folder));
    }
}

const BUILDKITE_STUB: &str = r#"#!/bin/sh
[ -e down ] && exit 1
case "$2" in
search) [ -d store/.pawl ] && find store/.pawl -type f; exit 0 ;;
download) cp -r store/.pawl . ;;
esac
"#;

#[test]
fn buildkite_script_resumes_after_a_failure_and_probes_without_a_journal() {
    let script = documented_script("if [ \"$$BUILDKITE_RETRY_COUNT\"").replace("$$", "$");
    for uploaded in [true, false] {
        let mut environment = TestEnvironment::new();
        environment.pack("r1");
        fs::create_dir(environment.path("store")).unwrap();
        for (name, value) in [("CI", "true"), ("BUILDKITE_COMMIT", "r1"), ("BUILDKITE_RETRY_COUNT", "0")] {
            environment.set_variable(name, value);
        }
        environment.set_variable("BUILDKITE_BUILD_URL", "https://buildkite.example/acme/shop/builds/7");
        environment.write("migrations/0003_orders.sql", "CREATE TABLE order (id INTEGER);\n");
        let first = run_script(&environment, &script, ("buildkite-agent", BUILDKITE_STUB));
        assert_eq!(first.status.code(), Some(1), "{first:?}");
        // A cancelled job, or a lost machine, uploads nothing.
        if uploaded {
            upload(&environment);
        }
        forget_machine(&environment);
        environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER);\n");
        environment.set_variable("BUILDKITE_RETRY_COUNT", "1");
        environment.write("down", "");
        let down = run_script(&environment, &script, ("buildkite-agent", BUILDKITE_STUB));
        assert_eq!(down.status.code(), Some(3), "the service is down: {down:?}");
        fs::remove_file(environment.path("down")).unwrap();
        let retry = run_script(&environment, &script, ("buildkite-agent", BUILDKITE_STUB));
        let said = String::from_utf8(retry.stderr).unwrap();
        assert_eq!(retry.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("resume after `migrate` failed"), uploaded, "{said}");
        assert_eq!(said.contains("start  migrate  it failed last time"), uploaded, "{said}");
        assert_eq!(said.contains("the journal of the earlier attempts is not here"), !uploaded, "{said}");
    }
}

const GITLAB_STUB: &str = r#"#!/bin/sh
[ -e down ] && exit 22
while [ $# -gt 0 ]; do
  case "$1" in
  --output) out="$2"; shift ;;
  http*) url="$1" ;;
  esac
  shift
done
case "$url" in
*page=1) if [ -e store/state.zip ]; then a='{"filename":"artifacts.zip"}'; else a=null; fi
  if [ -e retried ]; then echo '[{"name":"deploy","id":1,"artifacts_file":'"$a"'},{"name":"build","id":2}]' >"$out"; else echo '[]' >"$out"; fi ;;
*page=*) echo '[]' >"$out" ;;
*/jobs/1/artifacts) cp store/state.zip "$out" ;;
*) exit 22 ;;
esac
"#;

#[test]
fn gitlab_script_resumes_after_a_failure_and_probes_after_a_cancel() {
    let script = documented_script("api=\"$CI_API_V4_URL");
    let script = format!("{script}\nrunner deploy --release \"$CI_COMMIT_SHORT_SHA\"\n");
    for uploaded in [true, false] {
        let mut environment = TestEnvironment::new();
        environment.pack("r1");
        fs::create_dir(environment.path("store")).unwrap();
        for (name, value) in [
            ("CI", "true"),
            ("CI_COMMIT_SHORT_SHA", "r1"),
            ("CI_API_V4_URL", "https://gitlab.example/api/v4"),
            ("CI_PROJECT_ID", "1"),
            ("CI_PIPELINE_ID", "7"),
            ("CI_JOB_NAME", "deploy"),
            ("CI_JOB_ID", "1"),
            ("CI_JOB_URL", "https://gitlab.example/acme/shop/-/jobs/1"),
            ("READ_TOKEN", "x"),
        ] {
            environment.set_variable(name, value);
        }
        environment.write("migrations/0003_orders.sql", "CREATE TABLE order (id INTEGER);\n");
        let first = run_script(&environment, &script, ("curl", GITLAB_STUB));
        assert_eq!(first.status.code(), Some(1), "{first:?}");
        if uploaded {
            zip_state(&environment);
        }
        forget_machine(&environment);
        environment.write("migrations/0003_orders.sql", "CREATE TABLE orders (id INTEGER);\n");
        environment.write("retried", "");
        // A retry is another job, with a page of its own.
        environment.set_variable("CI_JOB_ID", "3");
        environment.set_variable("CI_JOB_URL", "https://gitlab.example/acme/shop/-/jobs/3");
        environment.write("down", "");
        let down = run_script(&environment, &script, ("curl", GITLAB_STUB));
        assert_eq!(down.status.code(), Some(22), "the service is down: {down:?}");
        fs::remove_file(environment.path("down")).unwrap();
        let retry = run_script(&environment, &script, ("curl", GITLAB_STUB));
        let said = String::from_utf8(retry.stderr).unwrap();
        assert_eq!(retry.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("resume after `migrate` failed"), uploaded, "{said}");
        assert_eq!(said.contains("start  migrate  it failed last time"), uploaded, "{said}");
        assert_eq!(said.contains("the journal of the earlier attempts is not here"), !uploaded, "{said}");
    }
}

/// The folder as the artifact that GitLab stores.
fn zip_state(environment: &TestEnvironment) {
    let code = "import shutil; shutil.make_archive('store/state', 'zip', '.', '.pawl')";
    let status = Command::new("python3").args(["-c", code]).current_dir(environment.path("")).status();
    assert!(status.unwrap().success());
}
