//! One deployment at a time, wherever state is: races, killed holders, holders that were stopped or cut off, and operators.

use std::{
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    GitHttpServer, MotoServer, TcpRelay, TestEnvironment, aws_variables, init_bare_repository, wait_until,
};

const RACERS: usize = 16;
/// The rounds of a race. `PAWL_POINTS=all` has four times as many (`cargo xtask bench faults`).
const ROUNDS: usize = 5;

#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn rounds() -> usize {
    if std::env::var("PAWL_POINTS").is_ok_and(|points| points == "all") { 4 * ROUNDS } else { ROUNDS }
}

/// A step that says that it began and waits until it may go on; then one that is not to happen without the lock.
const PLAN: &str = r#"version: 1
app: shop
state: STATE
lock: { ttl: TTL }
steps:
  wait:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [wait.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ".:ro" }, programs: [[/bin/sh, wait.sh]] }
  act:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [act.sh], dir: work, repeatable: true }
    grants: { dirs: { work: ".:ro" }, programs: [[/bin/sh, act.sh]] }
"#;
const WAIT: &str = "echo $$ > began.tmp && mv began.tmp began\nuntil test -e go; do sleep 0.02; done\n";
const ACT: &str = "echo acted >> acted\n";

/// Where state is, with what serves it.
enum TestStateBackend {
    Dir,
    GitFile(TempDir),
    GitHttp(GitHttpServer),
    S3(MotoServer),
}

impl TestStateBackend {
    fn git_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        init_bare_repository(&folder.path().join("state.git"));
        Self::GitFile(folder)
    }

    fn state(&self) -> String {
        match self {
            Self::Dir => "dir:.pawl".to_owned(),
            Self::GitFile(folder) => format!("git:{}/state.git", folder.path().display()),
            Self::GitHttp(server) => format!("git:http://{}/state.git", server.address()),
            Self::S3(_) => "s3://acme-state/shop".to_owned(),
        }
    }

    fn machine(&self, ttl: &str) -> TestEnvironment {
        let mut machine = machine(&self.state(), ttl);
        if let Self::S3(moto) = self {
            aws_variables(&moto.address()).iter().for_each(|(name, value)| machine.set_variable(name, value));
        }
        machine
    }

    /// Another machine; for a folder, the same.
    fn another_machine(&self, first: &TestEnvironment) -> Option<TestEnvironment> {
        match self {
            Self::Dir => None,
            Self::GitFile(_) | Self::GitHttp(_) | Self::S3(_) => Some(first.another_machine()),
        }
    }
}

fn machine(state: &str, ttl: &str) -> TestEnvironment {
    let machine = TestEnvironment::with_plan(&PLAN.replace("STATE", state).replace("TTL", ttl));
    machine.write("wait.sh", WAIT);
    machine.write("act.sh", ACT);
    machine
}

fn reset_files(machine: &TestEnvironment) {
    for file in ["began", "go", "acted"] {
        let _ = std::fs::remove_file(machine.path(file));
    }
}

/// Starts a deployment and waits until it holds the lock.
fn start_and_hold_lock(machine: &TestEnvironment, release: &str) -> Child {
    reset_files(machine);
    let holder = machine.start(&["--local", "--release", release]);
    wait_until("the step began", || machine.exists("began"));
    holder
}

/// Kills a runner, and the program that it left.
fn kill_holder(machine: &TestEnvironment, mut holder: Child) {
    holder.kill().unwrap();
    holder.wait().unwrap();
    let program = Pid::from_raw(machine.read("began").trim().parse().unwrap()).unwrap();
    let _ = kill_process(program, Signal::KILL);
}

/// Sixteen at once, again and again: one wins, fifteen are told so, and what the winner let go is free.
fn check_race(backend: &TestStateBackend) {
    let first = backend.machine("30s");
    first.run(&["modules", "--accept"]).assert_exit(0);
    let others: Vec<_> = (1..RACERS).map(|_| backend.another_machine(&first)).collect();
    let machines: Vec<&TestEnvironment> =
        std::iter::once(&first).chain(others.iter().map(|other| other.as_ref().unwrap_or(&first))).collect();
    let rounds = rounds();
    for round in 0..rounds {
        machines.iter().for_each(|machine| reset_files(machine));
        let release = format!("r{round}");
        let arguments = ["--local", "--release", &release, "--lock-wait", "0"];
        let mut racers: Vec<Child> = machines.iter().map(|machine| machine.start_with_stderr(&arguments)).collect();
        let mut ended = vec![None; RACERS];
        wait_until("all but one have ended", || {
            for (racer, ended) in racers.iter_mut().zip(&mut ended) {
                *ended = ended.or_else(|| racer.try_wait().unwrap().map(|status| status.code()));
            }
            ended.iter().filter(|ended| ended.is_some()).count() >= RACERS - 1
        });
        let winner = ended.iter().position(Option::is_none).expect("one holds the lock until it may go on");
        for (racer, code) in ended.iter().enumerate().filter(|(racer, _)| *racer != winner) {
            let stderr = std::io::read_to_string(racers[racer].stderr.take().unwrap()).unwrap();
            assert_eq!(
                *code,
                Some(Some(5)),
                "racer {racer} of round {round} was to be told that another holds the lock:\n{stderr}"
            );
        }
        wait_until("the winner began", || machines[winner].exists("began"));
        machines[winner].write("go", "");
        assert_eq!(racers[winner].wait().unwrap().code(), Some(0), "the winner of round {round}");
    }
    let history = first.run(&["history", "--json", "--limit", "100"]).json();
    let epochs: Vec<_> = history.as_array().unwrap().iter().map(|one| one["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs.len(), rounds, "an attempt a round, no more");
    assert!(epochs.windows(2).all(|two| two[0] > two[1]), "newest first, no two alike: {epochs:?}");
    assert_eq!(first.run(&["lock", "status", "--json"]).json()[0]["standing"], "free");
}

/// Every holder is killed while it holds the lock; the next gets it, not before it may.
fn check_killed_holders(backend: &TestStateBackend, least: Duration) {
    // A folder's lock goes with its holder: nothing waits for a lease of ten minutes.
    let first = backend.machine(if least.is_zero() { "10m" } else { "1s" });
    let other = backend.another_machine(&first);
    for round in 0..3 {
        let holder = start_and_hold_lock(&first, &format!("r{round}"));
        kill_holder(&first, holder);
        let next = other.as_ref().unwrap_or(&first);
        reset_files(next);
        next.write("go", "");
        // The same release may wait by default; in the last round it is another, and must be told to.
        let (release, wait): (_, &[&str]) =
            if round == 2 { ("other", &["--lock-wait", "15s"]) } else { (&*format!("r{round}"), &[]) };
        let began = Instant::now();
        let answer = next.run(&[&["--local", "--release", release], wait].concat());
        let took = began.elapsed();
        answer.assert_exit(0);
        assert_eq!(answer.stderr.contains("waiting for the lock on "), !least.is_zero(), "{}", answer.stderr);
        assert!(took >= least, "the lock was taken from one who could still live, after {took:?}");
    }
}

const LEASE_TIME: Duration = Duration::from_secs(1);

#[test]
fn one_of_sixteen_gets_the_folder_lock() {
    check_race(&TestStateBackend::Dir);
}

#[test]
fn one_of_sixteen_gets_the_git_lock() {
    check_race(&TestStateBackend::git_file());
}

#[test]
fn one_of_sixteen_gets_the_git_http_lock() {
    check_race(&TestStateBackend::GitHttp(GitHttpServer::start()));
}

#[test]
fn one_of_sixteen_gets_the_bucket_lock() {
    check_race(&TestStateBackend::S3(MotoServer::start()));
}

#[test]
fn killed_holder_frees_the_folder_lock() {
    check_killed_holders(&TestStateBackend::Dir, Duration::ZERO);
}

#[test]
fn killed_holder_blocks_the_git_lock_for_a_lease() {
    check_killed_holders(&TestStateBackend::git_file(), LEASE_TIME);
}

#[test]
fn killed_holder_blocks_the_git_http_lock_for_a_lease() {
    check_killed_holders(&TestStateBackend::GitHttp(GitHttpServer::start()), LEASE_TIME);
}

#[test]
fn killed_holder_blocks_the_bucket_lock_for_a_lease() {
    check_killed_holders(&TestStateBackend::S3(MotoServer::start()), LEASE_TIME);
}

/// Starts a deployment whose words can be read at its end.
fn start_with_output(machine: &TestEnvironment, release: &str) -> (Child, PathBuf) {
    reset_files(machine);
    let stderr_file = machine.path("said");
    let mut command = machine.command(&["--local", "--release", release]);
    command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&stderr_file).unwrap());
    let holder = command.spawn().unwrap();
    wait_until("the step began", || machine.exists("began"));
    (holder, stderr_file)
}

/// The deployment refused to go on, and said of which epoch.
#[track_caller]
fn assert_lock_lost(machine: &TestEnvironment, mut holder: Child, said: &std::path::Path) {
    let code = holder.wait().unwrap().code();
    let said = std::fs::read_to_string(said).unwrap();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("P0503") && said.contains("(epoch 1)"), "{said}");
    assert!(!machine.exists("acted"), "the next step happened without the lock");
}

/// A holder that was stopped for longer than its lease does nothing more, whether another came or not.
fn check_stopped_holders(backend: &TestStateBackend) {
    for is_taken in [true, false] {
        let release = if is_taken { "r1" } else { "r2" };
        let mut first = backend.machine("1s");
        if !is_taken {
            // A place of its own, so that epochs begin anew.
            first.edit("deploy.yml", "app: shop", "app: shop2");
            if let TestStateBackend::S3(moto) = backend {
                aws_variables(&moto.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
            }
        }
        let second = first.another_machine();
        let (holder, stderr_file) = start_with_output(&first, release);
        let pid = Pid::from_child(&holder);
        kill_process(pid, Signal::STOP).unwrap();
        if is_taken {
            second.write("go", "");
            second.run(&["--local", "--release", "other", "--lock-wait", "15s"]).assert_exit(0);
        } else {
            let lock = second.run(&["lock", "status", "--watch", "--json"]).json();
            assert_eq!(lock[0]["standing"], "stale", "{lock}");
        }
        kill_process(pid, Signal::CONT).unwrap();
        first.write("go", "");
        assert_lock_lost(&first, holder, &stderr_file);
    }
}

/// The last step is the last chance to notice it: no record says that the deployment succeeded.
#[test]
fn deployment_that_lost_its_lock_in_the_last_step_is_not_recorded_as_deployed() {
    let backend = TestStateBackend::git_file();
    let first = backend.machine("12s");
    let plan = first.read("deploy.yml");
    first.write("deploy.yml", &plan[..plan.find("  act:").unwrap()]);
    let second = first.another_machine();
    let (mut holder, said) = start_with_output(&first, "r1");
    second.run(&["lock", "release", "--local", "--force", "--message", "it hangs"]).assert_exit(0);
    first.write("go", "");
    assert_eq!(holder.wait().unwrap().code(), Some(5), "{}", std::fs::read_to_string(said).unwrap());
    for machine in [&first, &second] {
        let status = machine.run(&["status"]);
        assert!(status.stdout.contains("interrupted") && !status.stdout.contains("deployed"), "{}", status.stdout);
    }
}

#[test]
fn holder_stopped_beyond_its_git_lease_does_nothing_more() {
    check_stopped_holders(&TestStateBackend::git_file());
}

#[test]
fn holder_stopped_beyond_its_bucket_lease_does_nothing_more() {
    check_stopped_holders(&TestStateBackend::S3(MotoServer::start()));
}

#[test]
fn disconnected_holder_continues_only_within_its_lease() {
    let moto = MotoServer::start();
    for (ttl, goes_on) in [("12s", true), ("2s", false)] {
        let relay = TcpRelay::new(moto.address());
        let mut first = machine(&format!("s3://acme-state/{ttl}"), ttl);
        aws_variables(&relay.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
        let mut second = first.another_machine();
        aws_variables(&moto.address()).iter().for_each(|(name, value)| second.set_variable(name, value));
        let (mut holder, stderr_file) = start_with_output(&first, "r1");
        relay.cut();
        if goes_on {
            wait_until("a renewal has failed", || relay.losses() > 0);
        } else {
            let lock = second.run(&["lock", "status", "--watch", "--json"]).json();
            assert_eq!(lock[0]["standing"], "stale", "{lock}");
        }
        relay.restore();
        first.write("go", "");
        if goes_on {
            assert_eq!(holder.wait().unwrap().code(), Some(0), "{}", std::fs::read_to_string(&stderr_file).unwrap());
            assert!(first.exists("acted"));
        } else {
            assert_lock_lost(&first, holder, &stderr_file);
        }
    }
}

/// Writes arrive whose answers do not: each counts once.
#[test]
fn lost_responses_are_resolved_by_reading_back() {
    let (moto, server) = (MotoServer::start(), GitHttpServer::start());
    for (address, state) in [(moto.address(), "s3://acme-state/deaf"), (server.address(), "git:http://RELAY/state.git")]
    {
        let relay = TcpRelay::new(address);
        let mut first = machine(&state.replace("RELAY", &relay.address()), "6s");
        aws_variables(&relay.address()).iter().for_each(|(name, value)| first.set_variable(name, value));
        let (mut holder, stderr_file) = start_with_output(&first, "r1");
        relay.drop_responses();
        wait_until("the response to a renewal is lost", || relay.losses() > 0);
        relay.restore();
        first.write("go", "");
        assert_eq!(holder.wait().unwrap().code(), Some(0), "{}", std::fs::read_to_string(&stderr_file).unwrap());
        assert_eq!(first.run(&["history", "--json"]).json().as_array().unwrap().len(), 1);
        assert_eq!(first.run(&["lock", "status", "--json"]).json()[0]["standing"], "free");
    }
}

#[test]
fn signals_leave_no_lock_behind() {
    for backend in [TestStateBackend::git_file(), TestStateBackend::Dir] {
        let first = backend.machine("30s");
        for (round, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
            let mut holder = start_and_hold_lock(&first, &format!("r{round}"));
            let began = Instant::now();
            kill_process(Pid::from_child(&holder), signal).unwrap();
            assert_eq!(holder.wait().unwrap().code(), Some(130));
            assert!(began.elapsed() < Duration::from_secs(7), "it took {:?}", began.elapsed());
            let lock = first.run(&["lock", "status", "--json"]).json();
            assert_eq!(lock[0]["standing"], "free", "{lock}");
        }
    }
}

#[test]
fn waiter_gets_the_free_lock_and_can_be_interrupted() {
    for backend in [TestStateBackend::git_file(), TestStateBackend::Dir] {
        let first = backend.machine("30s");
        let other = backend.another_machine(&first);
        let next = other.as_ref().unwrap_or(&first);
        let mut holder = start_and_hold_lock(&first, "r1");
        let mut waits = next.start(&["--local", "--release", "r2", "--lock-wait", "1m"]);
        let gives_up = next.run(&["--local", "--release", "r3", "--lock-wait", "300ms"]);
        gives_up.assert_exit(5).assert_stderr_contains("P0501");
        kill_process(Pid::from_child(&waits), Signal::INT).unwrap();
        assert_eq!(waits.wait().unwrap().code(), Some(130), "waiting can be interrupted");
        let mut waits = next.start(&["--local", "--release", "r2", "--lock-wait", "1m"]);
        first.write("go", "");
        next.write("go", "");
        assert_eq!(holder.wait().unwrap().code(), Some(0));
        assert_eq!(waits.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn forced_release_takes_the_lock_from_a_running_deployment() {
    for backend in [TestStateBackend::Dir, TestStateBackend::git_file(), TestStateBackend::S3(MotoServer::start())] {
        let first = backend.machine("3s");
        let other = backend.another_machine(&first);
        let operator = other.as_ref().unwrap_or(&first);
        let (holder, stderr_file) = start_with_output(&first, "r1");
        operator.run(&["lock", "release"]).assert_exit(2).assert_stderr_contains("P0208");
        operator.run(&["lock", "release", "--local", "--force"]).assert_exit(2).assert_stderr_contains("--message");
        let living = operator.run(&["lock", "release", "--local"]);
        living.assert_exit(5).assert_stderr_contains("P0504").assert_stderr_contains("--force --message");
        let words = ["lock", "release", "--local", "--force", "--message", "it hangs, says ann"];
        operator.run(&words).assert_exit(0);
        assert_eq!(operator.run(&["lock", "status", "--json"]).json()[0]["standing"], "free");
        // A folder of its own, where this machine is the operator too.
        operator.write("go", "");
        first.write("go", "");
        assert_lock_lost(&first, holder, &stderr_file);
        let _ = std::fs::remove_file(operator.path("acted"));
        operator.run(&["--local", "--release", "r2"]).assert_exit(0);
        assert!(operator.exists("acted"));
        let history = operator.run(&["history"]);
        history.assert_exit(0);
        let is_released =
            |line: &str| line.starts_with("lock of epoch 1, held by ") && line.ends_with("it hangs, says ann");
        assert!(history.stdout.lines().any(is_released), "{}", history.stdout);
        let history = operator.run(&["history", "--json"]).json();
        assert_eq!(history[1]["lock-released"]["message"], "it hangs, says ann", "{history}");
        operator.run(&["lock", "release", "--local"]).assert_exit(0);
    }
}

/// What a deployment was told that lost its lock, from its error on, without the time.
fn error_of_loser(said: &str) -> String {
    let error = &said[said.find("error[").unwrap_or_else(|| panic!("no error in {said}"))..];
    let (before, rest) = error.split_once(" released it at ").unwrap_or_else(|| panic!("who released it? {said}"));
    let (_, message) = rest.split_once("Z: ").unwrap_or_else(|| panic!("when? {said}"));
    format!("{before} released it at TIME: {message}")
}

/// It was forced out and its step fails: it is told who took its lock and why, in the same words wherever state is.
#[test]
fn loser_whose_step_fails_is_told_who_released_its_lock() {
    let mut told = Vec::new();
    for backend in [TestStateBackend::Dir, TestStateBackend::git_file(), TestStateBackend::S3(MotoServer::start())] {
        let first = backend.machine("12s");
        first.write("wait.sh", format!("{WAIT}exit 3\n"));
        let other = backend.another_machine(&first);
        let (mut holder, said) = start_with_output(&first, "r1");
        let words = ["lock", "release", "--local", "--force", "--message", "it hangs, says ann"];
        other.as_ref().unwrap_or(&first).run(&words).assert_exit(0);
        first.write("go", "");
        let code = holder.wait().unwrap().code();
        let said = std::fs::read_to_string(said).unwrap();
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("it hangs, says ann") && !said.contains("P0301"), "{said}");
        told.push(error_of_loser(&said));
        for machine in [Some(&first), other.as_ref()].into_iter().flatten() {
            machine.run(&["state", "check"]).assert_exit(0);
        }
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:#?}");
}
