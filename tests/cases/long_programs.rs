//! Programs that run for long: their lines come while they run, are kept however they end, and no program outlives its runner.
//!
//! A program here waits for a file, so that a line is seen before the next one can be written. Deliberately absent: how soon a line
//! comes and what much output costs, which `cargo xtask bench output` measures.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::Value;

use crate::support::{TestEnvironment, wait_until};

const DEPLOY: &[&str] = &["--local", "--release", "r1"];
const JOURNAL: &str = ".pawl/shop/default/attempt-000001.journal";
const LOG: &str = ".pawl/shop/default/attempt-000001.log";

/// From the kill of a runner to the end of its program, which has 10 s to end by itself.
const MAX_ORPHAN_TIME: Duration = Duration::from_secs(12);

/// A timeout of 1 s, and less than the 4 s that a program then has to end by itself.
const MAX_STOP_TIME: Duration = Duration::from_secs(4);

/// A plan whose step `build` runs a script.
fn plan(with: &str, more: &str) -> String {
    format!(
        r#"version: 1
app: shop
{more}steps:
  build:
    uses: run
    trust: host
    with: {{ program: /bin/sh, args: [build.sh], dir: work{with} }}
    grants:
      dirs: {{ work: ".:ro" }}
      programs: [[/bin/sh, build.sh]]
      env: {{ PATH: /usr/bin:/bin{} }}
"#,
        if more.contains("secrets") { r#", KEY: "${{ secrets.KEY }}""# } else { "" }
    )
}

fn environment(with: &str, script: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_plan(&plan(with, ""));
    environment.write("build.sh", script);
    environment
}

/// Says a line, and waits until it may say another one.
const TWO_LINES: &str = "echo first line\necho on stderr >&2\nuntil test -e go; do sleep 0.02; done\necho last line\n";

/// A command that runs in the background, and what it has written to one of its streams.
struct Background {
    child: Child,
    reader: BufReader<Box<dyn std::io::Read>>,
    seen: String,
}

impl Background {
    fn with_stderr(environment: &TestEnvironment, arguments: &[&str]) -> Self {
        let mut child = environment.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stream = child.stderr.take().unwrap();
        Self { child, reader: BufReader::new(Box::new(stream)), seen: String::new() }
    }

    fn with_stdout(environment: &TestEnvironment, arguments: &[&str]) -> Self {
        let mut child = environment.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stream = child.stdout.take().unwrap();
        Self { child, reader: BufReader::new(Box::new(stream)), seen: String::new() }
    }

    /// Reads until a line contains `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert_ne!(self.reader.read_line(&mut self.seen).unwrap(), 0, "{text} did not come:\n{}", self.seen);
        }
    }

    /// Reads to the end, and returns the exit code and all that was written.
    fn finish(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        // The end of a terminal is an error.
        let _ = self.reader.read_to_end(&mut rest);
        self.seen += &String::from_utf8_lossy(&rest);
        (self.child.wait().unwrap().code(), self.seen)
    }
}

/// Whether a program that wrote its number to a file still runs.
fn is_running(environment: &TestEnvironment, file: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", environment.read(file).trim())).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn events(environment: &TestEnvironment, journal: &str) -> Vec<Value> {
    let text = environment.read(journal);
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line.split_once(' ').unwrap().1).unwrap());
    entries.map(|entry| entry["event"].clone()).collect()
}

#[test]
fn lines_come_in_a_pipe_and_to_followers_while_the_program_runs() {
    let environment = environment("", TWO_LINES);
    let mut runner = Background::with_stderr(&environment, DEPLOY);
    runner.wait_for("  out    build  first line\n");
    runner.wait_for("  err    build  on stderr\n");
    assert!(environment.read(LOG).contains(" build local out first line\n"));
    let mut follower = Background::with_stdout(&environment, &["logs", "--follow"]);
    follower.wait_for("first line");
    let mut json = Background::with_stdout(&environment, &["logs", "--follow", "build", "--json"]);
    json.wait_for(r#""stream":"stderr","text":"on stderr""#);
    assert!(!environment.exists("go"), "all that was before the program went on");
    environment.write("go", "");
    let (code, seen) = runner.finish();
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("  out    build  last line\n"), "{seen}");
    let (code, followed) = follower.finish();
    assert_eq!(code, Some(0));
    let words: Vec<_> = followed.lines().map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>()).collect();
    assert_eq!(words[0], ["begin", "build"], "{followed}");
    assert_eq!(words[3], ["out", "build", "last", "line"], "{followed}");
    assert_eq!(words[4][..2], ["end", "build"], "{followed}");
    assert_eq!(json.finish().0, Some(0));
    // It has ended: all is shown at once.
    assert_eq!(environment.run(&["logs", "--follow"]).stdout, environment.run(&["logs"]).stdout);
}

#[test]
fn lines_come_in_the_group_of_a_job_while_the_program_runs() {
    let mut environment = environment("", TWO_LINES);
    environment.set_variable("GITHUB_ACTIONS", "true");
    let mut runner = Background::with_stdout(&environment, DEPLOY);
    runner.wait_for("::group::build");
    runner.wait_for("  out    build  first line\n");
    environment.write("go", "");
    let (code, seen) = runner.finish();
    assert_eq!(code, Some(0), "{seen}");
    let (group, _) = seen.split_once("::endgroup::").unwrap();
    assert!(group.contains("  out    build  last line\n"), "{seen}");
}

/// The runner on a terminal, which shows what is drawn.
fn on_terminal(environment: &TestEnvironment, arguments: &[&str]) -> Background {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let path = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    let mut command = environment.command(arguments);
    command.env("TERM", "xterm").stdout(Stdio::null()).stderr(Stdio::from(theirs));
    let child = command.spawn().unwrap();
    // The command keeps the program's end open.
    drop(command);
    Background { child, reader: BufReader::new(Box::new(File::from(ours))), seen: String::new() }
}

impl Background {
    /// Reads until the terminal has shown `text`.
    #[track_caller]
    fn wait_for_drawn(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            let read = self.reader.read(&mut bytes).unwrap();
            self.seen += &String::from_utf8_lossy(&bytes[..read]);
        }
    }
}

#[test]
fn terminal_shows_the_last_line_or_with_verbose_all_lines() {
    for (more, line) in [(None, "      on stderr"), (Some("-v"), "  out    \u{1b}[0mbuild  first line")] {
        let environment = environment("", TWO_LINES);
        let arguments: Vec<&str> = DEPLOY.iter().copied().chain(more).collect();
        let mut runner = on_terminal(&environment, &arguments);
        match more {
            None => runner.wait_for_drawn(line),
            Some(_) => runner.wait_for_drawn("build  first line"),
        }
        environment.write("go", "");
        let (code, seen) = runner.finish();
        assert_eq!(code, Some(0), "{seen}");
        assert_eq!(seen.contains("build  last line"), more.is_some(), "{seen}");
    }
}

#[test]
fn python_prints_each_line_at_once_on_a_terminal() {
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| Path::new(path).exists());
    let python = python.expect("python3 is installed: `cargo xtask setup`");
    let text = plan(", tty: true", "").replace("/bin/sh", python).replace("build.sh", "build.py");
    let environment = TestEnvironment::with_plan(&text);
    environment.write(
        "build.py",
        "import os, sys, time\nprint('first', sys.stdout.isatty(), sys.stderr.isatty())\n\
         while not os.path.exists('go'): time.sleep(0.02)\nprint('\\033[32mlast\\033[0m')\nprint('reason', file=sys.stderr)\nsys.exit(3)\n",
    );
    let mut runner = Background::with_stderr(&environment, DEPLOY);
    runner.wait_for("  tty    build  first True True\n");
    environment.write("go", "");
    let (code, seen) = runner.finish();
    assert_eq!(code, Some(1), "{seen}");
    assert!(seen.contains("  tty    build  last\n"), "colours are removed: {seen}");
    assert!(seen.contains("    | last\n    | reason\n") || seen.contains("reason\n"), "{seen}");
}

#[test]
fn output_stays_when_the_runner_is_killed_and_the_retry_runs_no_second_program() {
    // The program takes its time to end when it is asked to, and says when it did. Its standard error has no reader any more.
    let script = "exec 2>/dev/null\ntrap 'until test -e end; do sleep 0.02; done; echo end $$ >> runs; exit 1' TERM\necho start $$ >> runs\n\
                  echo said before\ntest -e quick && exit 0\nwhile :; do sleep 0.02; done\n";
    let environment = environment(", repeatable: true", script);
    let mut runner = Background::with_stderr(&environment, DEPLOY);
    runner.wait_for("said before");
    runner.child.kill().unwrap();
    runner.finish();
    assert!(environment.read(LOG).contains("said before"));
    let logs = environment.run(&["logs"]);
    assert!(logs.stdout.contains("out    build  said before"), "{}", logs.stdout);
    environment.write("quick", "");
    let mut retry = Background::with_stderr(&environment, DEPLOY);
    retry.wait_for("step `build` of an attempt that was killed or lost its lock left a program running (process ");
    assert_eq!(environment.read("runs").lines().count(), 1, "a second one runs beside it");
    environment.write("end", "");
    let (code, seen) = retry.finish();
    assert_eq!(code, Some(0), "{seen}");
    let runs = environment.read("runs");
    let words: Vec<_> = runs.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["start", "end", "start"], "{runs}");
    assert!(!environment.exists(".pawl/shop/default/programs"));
}

#[test]
fn program_that_ignores_sigterm_is_killed_soon_after_its_runner() {
    let environment = environment("", "trap '' TERM\necho $$ > pid.tmp && mv pid.tmp pid\nwhile :; do sleep 1; done\n");
    let mut runner = environment.start(DEPLOY);
    wait_until("the program runs", || environment.exists("pid"));
    runner.kill().unwrap();
    runner.wait().unwrap();
    let killed = Instant::now();
    wait_until("the program is gone", || !is_running(&environment, "pid"));
    assert!(killed.elapsed() < MAX_ORPHAN_TIME, "{:?}", killed.elapsed());
}

/// Interrupts a deployment whose script runs, and returns what the runner wrote.
fn interrupt(environment: &TestEnvironment) -> String {
    let mut runner = Background::with_stderr(environment, DEPLOY);
    runner.wait_for("said before");
    kill_process(Pid::from_child(&runner.child), Signal::INT).unwrap();
    let (code, seen) = runner.finish();
    assert_eq!(code, Some(130), "{seen}");
    seen
}

#[test]
fn program_that_ends_itself_when_interrupted_has_failed_cleanly() {
    let script = "trap 'echo cleaned up; exit 7' TERM\necho said before\ntest -e quick && exit 0\nwhile :; do sleep 0.02; done\n";
    let environment = environment("", script);
    let seen = interrupt(&environment);
    assert!(seen.contains("  out    build  cleaned up\n"), "{seen}");
    let outcome = events(&environment, JOURNAL).into_iter().find(|event| event["type"] == "outcome").unwrap();
    assert_eq!((&outcome["result"], &outcome["failure"]["details"]["status"]), (&"failed".into(), &7.into()));
    environment.write("quick", "");
    environment.deploy("r1", &[]).assert_exit(0).assert_decisions(&["build run failed-before"]);
}

#[test]
fn program_that_is_ended_by_an_interrupt_is_in_doubt_and_its_output_is_kept() {
    let environment = environment("", "echo said before\nwhile :; do sleep 0.02; done\n");
    let seen = interrupt(&environment);
    assert!(seen.contains("step `build` was cut off, and has no probe that can tell what it did"), "{seen}");
    assert!(seen.contains("runner resolve --local build --as done"), "{seen}");
    let recorded = events(&environment, JOURNAL);
    assert!(recorded.iter().all(|event| event["type"] != "outcome"), "nobody knows what it did");
    let output = recorded.iter().find(|event| event["type"] == "output").unwrap();
    assert_eq!(output["lines"][0]["text"], "said before");
    environment.deploy("r1", &[]).assert_exit(3).assert_decisions(&["build stop interrupted"]);
}

#[test]
fn output_is_kept_after_a_timeout_and_an_exit_status_is_a_clean_failure() {
    let script = "trap 'echo too slow >&2; exit 7' TERM\necho said before\nwhile :; do sleep 0.02; done\n";
    for (script, result, [why, reason]) in [
        (script, "failed", [": `/bin/sh build.sh` exited with status 7: ", "too slow"]),
        ("echo said before\nwhile :; do sleep 0.02; done\n", "unknown", [""; 2]),
    ] {
        let environment = environment("", script);
        environment.edit("deploy.yml", "    trust: host\n", "    trust: host\n    timeout: 1s\n");
        environment.deploy("r1", &[]).assert_exit(1);
        let recorded = events(&environment, JOURNAL);
        let outcome = recorded.iter().find(|event| event["type"] == "outcome").unwrap();
        assert_eq!(outcome["result"], result);
        let message = outcome["failure"]["message"].as_str().unwrap();
        let start = format!("the runner stopped it after its timeout of 1s{why}");
        // The shell may say that its `sleep` was ended.
        assert!(message.starts_with(&start) && message.ends_with(reason), "{message}");
        assert!(environment.run(&["logs"]).stdout.contains("said before"));
    }
}

/// Here the runner is the first process of a container, and nobody else asks how an orphan ended.
#[test]
fn program_that_was_stopped_is_not_waited_for_where_nobody_reaps_its_processes() {
    let environment = environment("", "sleep 60\necho never\n");
    environment.edit("deploy.yml", "    trust: host\n", "    trust: host\n    timeout: 1s\n");
    let script = r#"exec unshare --pid --fork --mount-proc --kill-child "$@""#;
    environment.run_in_mount_namespace(script, DEPLOY).assert_exit(1).assert_stderr_contains("after its timeout of 1s");
    let recorded = events(&environment, JOURNAL);
    let outcome = recorded.iter().find(|event| event["type"] == "outcome").unwrap();
    let took = Duration::from_millis(outcome["took-ms"].as_u64().unwrap());
    assert!(took < MAX_STOP_TIME, "{took:?}");
}

/// The text of the lines of `runner logs` that a program wrote, and how many are said to be left out.
fn logged_lines(environment: &TestEnvironment) -> (Vec<String>, u64) {
    let lines = environment.run(&["logs", "--json"]).json_lines();
    let left_out = |line: &Value| match line["type"].as_str() {
        Some("left-out") => line["lines"].as_u64().unwrap(),
        _ => 0,
    };
    let text = |line: &Value| (line["type"] == "output").then(|| line["text"].as_str().unwrap().to_owned());
    (lines.iter().filter_map(text).collect(), lines.iter().map(left_out).sum())
}

#[test]
fn head_tail_and_true_count_of_much_output_are_kept() {
    const LINES: u64 = 300_000;
    let environment = environment("", &format!("seq -f 'line number %09.0f of many' 1 {LINES}\n"));
    let shown = environment.run(DEPLOY);
    shown.assert_exit(0);
    let shown: Vec<&str> = shown.stderr.lines().filter(|line| line.contains("  build  ")).collect();
    assert!(shown.len() < 10_000 && shown.iter().any(|line| line.contains("lines left out")), "{}", shown.len());
    assert!(shown.iter().any(|line| line.ends_with(&format!("line number {LINES:09} of many"))));

    let from_log = logged_lines(&environment);
    fs::remove_file(environment.path(LOG)).unwrap();
    let from_journal = logged_lines(&environment);
    for (lines, left_out) in [from_log, from_journal] {
        assert!(lines[0] == "line number 000000001 of many" && left_out > 0, "{left_out}");
        assert_eq!(lines.last().unwrap(), &format!("line number {LINES:09} of many"));
        assert_eq!(lines.len() as u64 + left_out, LINES);
    }
    let size = fs::metadata(environment.path(JOURNAL)).unwrap().len();
    assert!(size < 1 << 20, "{size}");
}

#[test]
fn secret_that_is_written_in_pieces_is_nowhere() {
    let mut environment = TestEnvironment::with_plan(&plan("", "secrets: { KEY: env:KEY }\n"));
    let secret = "correct-horse-battery";
    environment.set_variable("KEY", secret);
    environment.write(
        "build.sh",
        "printf 'in pieces: correct-'; sleep 0.05; printf 'horse-battery.\\n'\necho correct-horse-; echo battery\n\
         echo whole: $KEY >&2; echo the end\n",
    );
    let shown = environment.run(DEPLOY);
    shown.assert_exit(0);
    let logs = environment.run(&["logs"]).stdout;
    for text in [&shown.stderr, &logs, &environment.read(LOG), &environment.read(JOURNAL)] {
        assert!(!text.contains("horse") && !text.contains("battery"), "{text}");
        assert!(text.contains("in pieces: ***.") && text.contains("whole: ***") && text.contains("the end"), "{text}");
    }
}

#[test]
fn reason_on_standard_output_is_in_the_error() {
    let environment = environment("", "echo one; echo two; echo the reason; exit 4\n");
    let failed = environment.run(DEPLOY);
    failed.assert_exit(1).assert_stderr_contains(
        "  caused by: `/bin/sh build.sh` exited with status 4: one\n    | two\n    | the reason\n",
    );
}

#[test]
fn step_without_a_program_makes_no_log() {
    let environment = TestEnvironment::deployed();
    let files = environment.list(".pawl/shop/test");
    assert!(files.iter().all(|name| !name.contains(".log") && name != "programs"), "{files:?}");
}
