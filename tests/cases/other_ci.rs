//! GitLab and Buildkite by their variables: who deploys, and a retry, with its journal and without. GitLab's jobs are run by
//! tests/github/gitlab.rs.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::{TestEnvironment, doc_blocks::fenced_block, init_bare_repository, wait_until};

/// The script of the pipeline of docs/elsewhere.md that contains `part`: what its `command` has, which is its last key.
fn documented_script(part: &str) -> String {
    let pipeline = fenced_block("docs/elsewhere.md", part);
    let command = pipeline.split_once("    command: ").expect("the pipeline has a command").1;
    match command.strip_prefix("|\n") {
        Some(lines) => lines.lines().map(|line| format!("{}\n", line.strip_prefix("      ").unwrap())).collect(),
        None => command.to_owned(),
    }
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

/// The next job is on another machine, where nothing is but the repository.
#[test]
fn buildkite_pipeline_with_the_state_in_git_resumes_elsewhere() {
    let mut job = BuildkiteJob::with_state_in_git();
    let broken = "CREATE TABLE order (id INTEGER);\n";
    job.environment.write("migrations/0003_orders.sql", broken);
    let first = job.run();
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    forget_machine(&job.environment);
    job.check_out();
    job.environment.write("migrations/0003_orders.sql", broken.replace("order", "orders"));
    job.environment.set_variable("BUILDKITE_RETRY_COUNT", "1");
    let retry = job.run();
    let said = String::from_utf8(retry.stderr).unwrap();
    assert_eq!(retry.status.code(), Some(0), "{said}");
    assert!(said.contains("resume after `migrate` failed") && !said.contains(JOURNAL_LOST), "{said}");
    assert_eq!(job.environment.read("deploy/test/current/VERSION"), "r1");
}

#[test]
fn buildkite_script_resumes_after_a_failure_and_probes_without_a_journal() {
    let broken = "CREATE TABLE order (id INTEGER);\n";
    for uploaded in [true, false] {
        let mut job = BuildkiteJob::new();
        job.environment.write("migrations/0003_orders.sql", broken);
        let first = job.run();
        assert_eq!(first.status.code(), Some(1), "{first:?}");
        // A lost machine uploads nothing.
        if uploaded {
            upload(&job.environment);
        }
        forget_machine(&job.environment);
        job.environment.write("migrations/0003_orders.sql", broken.replace("order", "orders"));
        job.environment.set_variable("BUILDKITE_RETRY_COUNT", "1");
        job.environment.write("down", "");
        let down = job.run();
        assert_eq!(down.status.code(), Some(3), "the service is down: {down:?}");
        fs::remove_file(job.environment.path("down")).unwrap();
        let retry = job.run();
        let said = String::from_utf8(retry.stderr).unwrap();
        assert_eq!(retry.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("resume after `migrate` failed"), uploaded, "{said}");
        assert_eq!(said.contains("start  migrate  it failed last time"), uploaded, "{said}");
        assert_eq!(said.contains(JOURNAL_LOST), !uploaded, "{said}");
    }
}

/// The agent ends all processes of a cancelled job.
#[test]
fn buildkite_script_resumes_after_a_cancel_on_the_same_machine_and_elsewhere() {
    for (uploaded, same_machine) in [(true, true), (true, false), (false, false)] {
        let mut job = BuildkiteJob::new();
        let [warming, slow] = ["warming", "slow"].map(|name| job.environment.path(name).display().to_string());
        let program = format!("touch {warming}; if [ -e {slow} ]; then exec sleep 60; fi");
        let step = WARM.replace("PROGRAM", &program);
        job.environment.edit("deploy.yml", "  switch:\n", &format!("{step}  switch:\n"));
        job.environment.write("slow", "");
        let cancelled = job.run_and_cancel("warming");
        assert!(!cancelled.status.success(), "{cancelled:?}");
        if uploaded {
            upload(&job.environment);
        }
        let _ = fs::remove_dir_all(job.environment.path(".pawl"));
        if !same_machine {
            forget_machine(&job.environment);
        }
        fs::remove_file(job.environment.path("slow")).unwrap();
        job.environment.set_variable("BUILDKITE_RETRY_COUNT", "1");
        let retry = job.run();
        let said = String::from_utf8(retry.stderr).unwrap();
        assert_eq!(retry.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("resume after `warm`"), uploaded, "{said}");
        assert_eq!(said.contains("skip   migrate"), same_machine, "{said}");
        assert_eq!(said.contains(JOURNAL_LOST), !uploaded, "{said}");
    }
}

const JOURNAL_LOST: &str = "the journal of the earlier attempts is not here";
const WARM: &str = "  warm:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [-c, \"PROGRAM\"], repeatable: true }
    grants: { programs: [[/bin/sh, -c, \"**\"]] }
";

/// A job with the script of the page.
struct BuildkiteJob {
    environment: TestEnvironment,
    script: String,
}

impl BuildkiteJob {
    /// That of the pipeline with artifacts.
    fn new() -> Self {
        Self::with_script(documented_script("artifact_paths:").replace("$$", "$"))
    }

    /// That of the pipeline without artifacts, in a checkout whose plan has the state that the page says.
    fn with_state_in_git() -> Self {
        let job = Self::with_script(documented_script("cancel_on_build_failing:"));
        job.environment.edit("deploy.yml", "app: shop\n", "app: shop\nstate: git:origin\n");
        init_bare_repository(&job.environment.home("remote"));
        job.check_out();
        job
    }

    /// Makes the folder a new checkout.
    fn check_out(&self) {
        let _ = fs::remove_dir_all(self.environment.path(".git"));
        self.environment.git(&["init", "--quiet", "--initial-branch", "main"]);
        let remote = self.environment.home("remote");
        self.environment.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
        self.environment.git(&["add", "--all"]);
        self.environment.git(&["commit", "--quiet", "--message", "as it is"]);
    }

    fn with_script(script: String) -> Self {
        let mut environment = TestEnvironment::new();
        environment.pack("r1");
        fs::create_dir(environment.path("store")).unwrap();
        for (name, value) in [("CI", "true"), ("BUILDKITE_COMMIT", "r1"), ("BUILDKITE_RETRY_COUNT", "0")] {
            environment.set_variable(name, value);
        }
        environment.set_variable("BUILDKITE_BUILD_URL", "https://buildkite.example/acme/shop/builds/7");
        Self { environment, script }
    }

    fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// Runs it, and sends SIGTERM to all its processes once a file is there.
    fn run_and_cancel(&self, file: &str) -> Output {
        let mut shell = self.command();
        let child = shell.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("the step runs", || self.environment.exists(file));
        kill_process_group(Pid::from_child(&child), Signal::TERM).unwrap();
        // The runner has the pipes until it ends, after its shell.
        child.wait_with_output().unwrap()
    }

    /// The script as the agent starts it, with the stub of the agent first on the PATH.
    fn command(&self) -> Command {
        let environment = &self.environment;
        let runner = format!("#!/bin/sh\nexec {} \"$@\" --env test\n", env!("CARGO_BIN_EXE_runner"));
        for (name, content) in [("buildkite-agent", BUILDKITE_STUB), ("runner", &runner)] {
            environment.write_program(&format!("bin/{name}"), content);
        }
        let template = environment.command(&[]);
        let mut shell = Command::new("sh");
        shell.env_clear().envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
        let path = std::env::var("PATH").unwrap();
        shell.env("PATH", format!("{}:{path}", environment.path("bin").display()));
        shell.arg("-ec").arg(self.script.replace(" --env prod", "")).current_dir(environment.path(""));
        shell.stdin(Stdio::null());
        shell
    }
}
