//! A job that is cancelled, and one that is killed with everything. GitHub signals the launcher alone; the runner behind it must have
//! its state saved before it is killed. The next attempt is on a machine that has nothing but the artifacts.

use std::{
    fs,
    io::{Cursor, Read as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::{
    artifact_service::{FakeArtifactService, FakeServiceCall},
    support::wait_until,
};

/// GitHub sends SIGTERM after 7.5 s, and kills 2.5 s later.
const CANCEL_DEADLINE: Duration = Duration::from_secs(7);
/// What each answer of the service takes: it is far away.
const LATENCY: Duration = Duration::from_millis(200);

/// One step, which is over long after the tests are.
const PLAN: &str = "version: 1
app: shop
environments: { test: {} }
steps:
  wait:
    uses: run
    with: { program: /bin/sleep, args: [\"SECONDS\"], repeatable: REPEATABLE }
    grants: { programs: [[/bin/sleep, \"SECONDS\"]] }
    trust: host
";

#[test]
fn cancelled_job_saves_its_state_and_frees_the_lock() {
    let service = FakeArtifactService::start();
    service.set_latency(LATENCY);
    let first = CiMachine::new("60", true);
    let mut launcher = first.launcher_command(&service, 1).spawn().unwrap();
    wait_until("the step begins, and is known elsewhere", || {
        first.has_intent() && service.call_count(FakeServiceCall::Finalize) > 0
    });
    let signalled_at = Instant::now();
    kill_process(Pid::from_child(&launcher), Signal::INT).unwrap();
    let status = launcher.wait().unwrap();
    assert!(signalled_at.elapsed() < CANCEL_DEADLINE, "{:?}", signalled_at.elapsed());
    assert_eq!(status.code(), Some(130));
    let here = fs::read_to_string(first.journal_path(1)).unwrap();
    assert!(here.trim_end().lines().last().unwrap().contains("\"type\":\"ended\",\"exit\":\"interrupted\""), "{here}");
    // All of it is there, and nothing was left for `post`.
    assert_eq!(newest_journal(&service), here);

    // Not locked: the same machine goes on at once.
    first.write_plan("0", true);
    assert_eq!(first.launcher_command(&service, 2).status().unwrap().code(), Some(0));
    // Not lost: so does another one.
    let second = CiMachine::new("0", true);
    assert_eq!(second.launcher_command(&service, 2).status().unwrap().code(), Some(0));
    assert!(fs::read_to_string(second.journal_path(2)).unwrap().contains("\"attempt\":2"));
}

/// Between a step's intent and its outcome. Whether it may be done again is for the step to say.
#[test]
fn killed_job_leaves_its_step_in_doubt() {
    for (repeatable, exit, decision) in [(true, 0, "\"action\":\"run\""), (false, 3, "\"action\":\"stop\"")] {
        let service = FakeArtifactService::start();
        let first = CiMachine::new("60", repeatable);
        let mut launcher = first.launcher_command(&service, 1).process_group(0).spawn().unwrap();
        // The intent is where the next machine finds it, before the effect.
        wait_until("the intent is known elsewhere", || {
            first.has_intent() && newest_journal(&service).contains("\"type\":\"intent\"")
        });
        kill_process_group(Pid::from_child(&launcher), Signal::KILL).unwrap();
        launcher.wait().unwrap();

        let second = CiMachine::new(if repeatable { "0" } else { "60" }, repeatable);
        let status = second.launcher_command(&service, 2).status().unwrap();
        let journal = fs::read_to_string(second.journal_path(2)).unwrap();
        assert_eq!(status.code(), Some(exit), "{journal}");
        assert!(journal.contains(decision), "{journal}");
    }
}

/// A machine with the plan and nothing else. Its workspace goes with it.
struct CiMachine {
    folder: TempDir,
}

impl CiMachine {
    fn new(seconds: &str, repeatable: bool) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        machine.write_plan(seconds, repeatable);
        machine
    }

    fn write_plan(&self, seconds: &str, repeatable: bool) {
        let plan = PLAN.replace("SECONDS", seconds).replace("REPEATABLE", &repeatable.to_string());
        fs::write(self.folder.path().join("deploy.yml"), plan).unwrap();
    }

    /// The launcher as a job starts it.
    fn launcher_command(&self, service: &FakeArtifactService, attempt: u32) -> Command {
        let folder = self.folder.path();
        let mut node = Command::new("node");
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../action/main.js")).current_dir(folder);
        node.env_clear().envs(service.variables()).env("GITHUB_ACTIONS", "true").env("HOME", folder);
        node.env("GITHUB_JOB", "deploy").env("GITHUB_RUN_ATTEMPT", attempt.to_string());
        node.env("GITHUB_WORKSPACE", folder);
        #[expect(clippy::disallowed_methods, reason = "tests pass on where programs are")]
        node.env("PATH", std::env::var_os("PATH").unwrap());
        node.env("INPUT_RUNNER", env!("CARGO_BIN_EXE_runner")).env("INPUT_RELEASE", "r1");
        node.env("INPUT_KEY", "a-key-of-the-journal");
        node.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        node
    }

    fn journal_path(&self, epoch: u32) -> PathBuf {
        self.folder.path().join(format!(".pawl/shop/test/attempt-{epoch:06}.journal"))
    }

    /// Whether the step's intent is on record here.
    fn has_intent(&self) -> bool {
        fs::read_to_string(self.journal_path(1)).is_ok_and(|journal| journal.contains("\"type\":\"intent\""))
    }
}

/// The first journal in the newest artifact; nothing while there is none.
fn newest_journal(service: &FakeArtifactService) -> String {
    let mut names = service.artifact_names();
    // `…-s<lines>-<nonce>`: one attempt only.
    names.sort_by_key(|name| name.rsplit('-').nth(1).and_then(|part| part[1..].parse::<u64>().ok()));
    let Some(name) = names.last() else { return String::new() };
    let mut archive = zip::ZipArchive::new(Cursor::new(service.content(name))).unwrap();
    let mut text = String::new();
    archive.by_name("attempt-000001.journal").unwrap().read_to_string(&mut text).unwrap();
    text
}
