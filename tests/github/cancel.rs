//! A cancelled job: GitHub signals the launcher alone, and the runner behind it must have its state saved before it is killed.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// GitHub sends SIGTERM after 7.5 s, and kills 2.5 s later.
const IN_TIME: Duration = Duration::from_secs(7);
const PATIENCE: Duration = Duration::from_secs(20);

/// One step that takes as long as it is told.
const PLAN: &str = "version: 1
app: shop
environments: { test: {} }
steps:
  wait:
    uses: run
    with: { program: /bin/sleep, args: [\"SECONDS\"], repeatable: true }
    grants: { programs: [[/bin/sleep, \"SECONDS\"]] }
    trust: host
";

#[test]
fn a_cancelled_job_has_its_state_saved_and_the_lock_freed() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |seconds: &str| fs::write(folder.path().join("deploy.yml"), PLAN.replace("SECONDS", seconds)).unwrap();
    plan("600");
    let mut launcher = launcher(folder.path()).spawn().unwrap();
    until("the step begins", || journal(folder.path(), 1).contains("\"type\":\"intent\""));
    let asked = Instant::now();
    kill_process(Pid::from_child(&launcher), Signal::INT).unwrap();
    let status = launcher.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(asked.elapsed() < IN_TIME, "{:?}", asked.elapsed());
    let saved = journal(folder.path(), 1);
    assert!(
        saved.trim_end().lines().last().unwrap().contains("\"type\":\"ended\",\"exit\":\"interrupted\""),
        "{saved}"
    );

    // Not locked, and not lost.
    plan("0");
    let again = self::launcher(folder.path()).status().unwrap();
    assert_eq!(again.code(), Some(0));
    assert!(journal(folder.path(), 2).contains("\"attempt\":2"));
}

fn launcher(folder: &Path) -> Command {
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../action/main.js")).current_dir(folder);
    node.env_clear().env("GITHUB_ACTIONS", "true").env("HOME", folder);
    #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
    node.env("PATH", std::env::var_os("PATH").unwrap());
    node.env("INPUT_RUNNER", env!("CARGO_BIN_EXE_runner")).env("INPUT_RELEASE", "r1");
    node.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    node
}

fn journal(folder: &Path, epoch: u32) -> String {
    fs::read_to_string(folder.join(format!(".pawl/shop/test/attempt-{epoch:06}.journal"))).unwrap_or_default()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
