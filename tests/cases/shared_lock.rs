//! One deployment at a time, wherever state is: races, killed holders, holders that were stopped or cut off, and operators.

use std::{
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Environment, GitHttp, Moto, Relay, aws, bare, until};

const RACERS: usize = 16;
const ROUNDS: usize = 20;

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
    grants: { dirs: { work: . }, programs: [[/bin/sh, wait.sh]] }
  act:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [act.sh], dir: work, repeatable: true }
    grants: { dirs: { work: . }, programs: [[/bin/sh, act.sh]] }
"#;
const WAIT: &str = "echo $$ > began.tmp && mv began.tmp began\nuntil test -e go; do sleep 0.02; done\n";
const ACT: &str = "echo acted >> acted\n";

/// Where state is, with what serves it.
enum Backend {
    Dir,
    GitFile(TempDir),
    GitHttp(GitHttp),
    S3(Moto),
}

impl Backend {
    fn git_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        bare(&folder.path().join("state.git"));
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

    fn machine(&self, ttl: &str) -> Environment {
        let mut machine = machine(&self.state(), ttl);
        if let Self::S3(moto) = self {
            aws(&moto.address()).iter().for_each(|(name, value)| machine.set(name, value));
        }
        machine
    }

    /// Another machine; for a folder, the same.
    fn another(&self, first: &Environment) -> Option<Environment> {
        match self {
            Self::Dir => None,
            Self::GitFile(_) | Self::GitHttp(_) | Self::S3(_) => Some(first.another()),
        }
    }
}

fn machine(state: &str, ttl: &str) -> Environment {
    let machine = Environment::with_plan(&PLAN.replace("STATE", state).replace("TTL", ttl));
    machine.write("wait.sh", WAIT);
    machine.write("act.sh", ACT);
    machine
}

fn forget(machine: &Environment) {
    for file in ["began", "go", "acted"] {
        let _ = std::fs::remove_file(machine.path(file));
    }
}

/// Starts a deployment and waits until it holds the lock.
fn hold(machine: &Environment, release: &str) -> Child {
    forget(machine);
    let holder = machine.start(&["--local", "--release", release]);
    until("the step began", || machine.exists("began"));
    holder
}

/// Kills a runner, and the program that it left.
fn kill(machine: &Environment, mut holder: Child) {
    holder.kill().unwrap();
    holder.wait().unwrap();
    let program = Pid::from_raw(machine.read("began").trim().parse().unwrap()).unwrap();
    let _ = kill_process(program, Signal::KILL);
}

/// Sixteen at once, again and again: one wins, fifteen are told so, and what the winner let go is free.
fn race(backend: &Backend) {
    let first = backend.machine("30s");
    first.run(&["modules", "--accept"]).assert_exit(0);
    let others: Vec<_> = (1..RACERS).map(|_| backend.another(&first)).collect();
    let machines: Vec<&Environment> =
        std::iter::once(&first).chain(others.iter().map(|other| other.as_ref().unwrap_or(&first))).collect();
    for round in 0..ROUNDS {
        machines.iter().for_each(|machine| forget(machine));
        let release = format!("r{round}");
        let words = ["--local", "--release", &release, "--lock-wait", "0"];
        let mut racers: Vec<Child> = machines.iter().map(|machine| machine.start(&words)).collect();
        let mut ended = vec![None; RACERS];
        until("all but one have ended", || {
            for (racer, ended) in racers.iter_mut().zip(&mut ended) {
                *ended = ended.or_else(|| racer.try_wait().unwrap().map(|status| status.code()));
            }
            ended.iter().filter(|ended| ended.is_some()).count() >= RACERS - 1
        });
        let winner = ended.iter().position(Option::is_none).expect("one holds the lock until it may go on");
        for (racer, code) in ended.iter().enumerate().filter(|(racer, _)| *racer != winner) {
            assert_eq!(
                *code,
                Some(Some(5)),
                "racer {racer} of round {round} was to be told that another holds the lock"
            );
        }
        until("the winner began", || machines[winner].exists("began"));
        machines[winner].write("go", "");
        assert_eq!(racers[winner].wait().unwrap().code(), Some(0), "the winner of round {round}");
    }
    let history = first.run(&["history", "--json", "--limit", "100"]).json();
    let epochs: Vec<_> = history.as_array().unwrap().iter().map(|one| one["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs.len(), ROUNDS, "an attempt a round, no more");
    assert!(epochs.windows(2).all(|two| two[0] > two[1]), "newest first, no two alike: {epochs:?}");
    assert_eq!(first.run(&["lock", "status", "--json"]).json()[0]["standing"], "free");
}

/// Every holder is killed while it holds the lock; the next gets it, not before it may.
fn kills(backend: &Backend, least: Duration) {
    let first = backend.machine("1s");
    let other = backend.another(&first);
    for round in 0..3 {
        let holder = hold(&first, &format!("r{round}"));
        kill(&first, holder);
        let next = other.as_ref().unwrap_or(&first);
        forget(next);
        next.write("go", "");
        // The same release may wait by default; in the last round it is another, and must be told to.
        let (release, wait): (_, &[&str]) =
            if round == 2 { ("other", &["--lock-wait", "15s"]) } else { (&*format!("r{round}"), &[]) };
        let began = Instant::now();
        let answer = next.run(&[&["--local", "--release", release], wait].concat());
        let took = began.elapsed();
        answer.assert_exit(0);
        assert!(took >= least, "the lock was taken from one who could still live, after {took:?}");
        if least.is_zero() {
            assert!(took < Duration::from_secs(1), "a killed holder holds nothing, and yet it took {took:?}");
        }
    }
}

const LEASE: Duration = Duration::from_secs(1);

#[test]
fn sixteen_race_for_a_folder() {
    race(&Backend::Dir);
}

#[test]
fn sixteen_race_for_a_git_repository() {
    race(&Backend::git_file());
}

#[test]
fn sixteen_race_for_a_git_repository_over_http() {
    race(&Backend::GitHttp(GitHttp::start()));
}

#[test]
fn sixteen_race_for_a_bucket() {
    race(&Backend::S3(Moto::start()));
}

#[test]
fn a_killed_holder_of_a_folder_holds_nothing() {
    kills(&Backend::Dir, Duration::ZERO);
}

#[test]
fn a_killed_holder_in_a_git_repository_is_believed_in_for_a_lease() {
    kills(&Backend::git_file(), LEASE);
}

#[test]
fn a_killed_holder_in_a_git_repository_over_http_is_believed_in_for_a_lease() {
    kills(&Backend::GitHttp(GitHttp::start()), LEASE);
}

#[test]
fn a_killed_holder_in_a_bucket_is_believed_in_for_a_lease() {
    kills(&Backend::S3(Moto::start()), LEASE);
}

/// Starts a deployment whose words can be read at its end.
fn told(machine: &Environment, release: &str) -> (Child, PathBuf) {
    forget(machine);
    let said = machine.path("said");
    let mut command = machine.command(&["--local", "--release", release]);
    command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&said).unwrap());
    let holder = command.spawn().unwrap();
    until("the step began", || machine.exists("began"));
    (holder, said)
}

/// The deployment refused to go on, and said of which epoch.
#[track_caller]
fn refused(machine: &Environment, mut holder: Child, said: &std::path::Path) {
    let code = holder.wait().unwrap().code();
    let said = std::fs::read_to_string(said).unwrap();
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("P0503") && said.contains("epoch 1 "), "{said}");
    assert!(!machine.exists("acted"), "the next step happened without the lock");
}

/// A holder that was stopped for longer than its lease does nothing more, whether another came or not.
fn stops(backend: &Backend) {
    for is_taken in [true, false] {
        let release = if is_taken { "r1" } else { "r2" };
        let mut first = backend.machine("1s");
        if !is_taken {
            // A place of its own, so that epochs begin anew.
            first.edit("deploy.yml", "app: shop", "app: shop2");
            if let Backend::S3(moto) = backend {
                aws(&moto.address()).iter().for_each(|(name, value)| first.set(name, value));
            }
        }
        let second = first.another();
        let (holder, said) = told(&first, release);
        let pid = Pid::from_child(&holder);
        kill_process(pid, Signal::STOP).unwrap();
        if is_taken {
            second.write("go", "");
            second.run(&["--local", "--release", "other", "--lock-wait", "15s"]).assert_exit(0);
        } else {
            let lock = second.run(&["lock", "status", "--watch", "--json"]).json();
            assert_eq!(lock[0]["standing"], "ended", "{lock}");
        }
        kill_process(pid, Signal::CONT).unwrap();
        first.write("go", "");
        refused(&first, holder, &said);
    }
}

#[test]
fn a_holder_that_was_stopped_beyond_its_lease_in_git_does_nothing_more() {
    stops(&Backend::git_file());
}

#[test]
fn a_holder_that_was_stopped_beyond_its_lease_in_a_bucket_does_nothing_more() {
    stops(&Backend::S3(Moto::start()));
}

#[test]
fn a_holder_that_was_cut_off_for_5_s_goes_on_and_one_cut_off_beyond_its_lease_does_not() {
    let moto = Moto::start();
    for (ttl, goes_on) in [("9s", true), ("2s", false)] {
        let relay = Relay::new(moto.address());
        let mut first = machine(&format!("s3://acme-state/{ttl}"), ttl);
        aws(&relay.address()).iter().for_each(|(name, value)| first.set(name, value));
        let mut second = first.another();
        aws(&moto.address()).iter().for_each(|(name, value)| second.set(name, value));
        let (mut holder, said) = told(&first, "r1");
        relay.cut();
        let began = Instant::now();
        if goes_on {
            until("5 s have passed", || began.elapsed() > Duration::from_secs(5));
        } else {
            let lock = second.run(&["lock", "status", "--watch", "--json"]).json();
            assert_eq!(lock[0]["standing"], "ended", "{lock}");
        }
        relay.mend();
        first.write("go", "");
        if goes_on {
            assert_eq!(holder.wait().unwrap().code(), Some(0), "{}", std::fs::read_to_string(&said).unwrap());
            assert!(first.exists("acted"));
        } else {
            refused(&first, holder, &said);
        }
    }
}

/// Writes arrive whose answers do not: each counts once.
#[test]
fn lost_answers_are_found_out_by_reading_back() {
    let (moto, server) = (Moto::start(), GitHttp::start());
    for (address, state) in [(moto.address(), "s3://acme-state/deaf"), (server.address(), "git:http://RELAY/state.git")]
    {
        let relay = Relay::new(address);
        let mut first = machine(&state.replace("RELAY", &relay.address()), "6s");
        aws(&relay.address()).iter().for_each(|(name, value)| first.set(name, value));
        let (mut holder, said) = told(&first, "r1");
        relay.lose_answers();
        // Long enough for a renewal, which is due after 2 s.
        let began = Instant::now();
        until("3 s have passed", || began.elapsed() > Duration::from_secs(3));
        relay.mend();
        first.write("go", "");
        assert_eq!(holder.wait().unwrap().code(), Some(0), "{}", std::fs::read_to_string(&said).unwrap());
        assert_eq!(first.run(&["history", "--json"]).json().as_array().unwrap().len(), 1);
        assert_eq!(first.run(&["lock", "status", "--json"]).json()[0]["standing"], "free");
    }
}

#[test]
fn signals_leave_no_lock_behind() {
    for backend in [Backend::git_file(), Backend::Dir] {
        let first = backend.machine("30s");
        for (round, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
            let mut holder = hold(&first, &format!("r{round}"));
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
fn who_waits_for_the_lock_gets_it_when_it_is_free_and_can_be_interrupted() {
    for backend in [Backend::git_file(), Backend::Dir] {
        let first = backend.machine("30s");
        let other = backend.another(&first);
        let next = other.as_ref().unwrap_or(&first);
        let mut holder = hold(&first, "r1");
        let mut waits = next.start(&["--local", "--release", "r2", "--lock-wait", "1m"]);
        let gives_up = next.run(&["--local", "--release", "r3", "--lock-wait", "300ms"]);
        gives_up.assert_exit(5).assert_says("P0501");
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
fn an_operator_takes_the_lock_from_one_who_lives_and_it_is_told() {
    for backend in [Backend::Dir, Backend::git_file(), Backend::S3(Moto::start())] {
        let first = backend.machine("3s");
        let other = backend.another(&first);
        let operator = other.as_ref().unwrap_or(&first);
        let (holder, said) = told(&first, "r1");
        operator.run(&["lock", "release"]).assert_exit(2).assert_says("P0208");
        operator.run(&["lock", "release", "--local", "--force"]).assert_exit(2).assert_says("--message");
        let living = operator.run(&["lock", "release", "--local"]);
        living.assert_exit(5).assert_says("P0504").assert_says("--force --message");
        let words = ["lock", "release", "--local", "--force", "--message", "it hangs, says ann"];
        operator.run(&words).assert_exit(0);
        assert_eq!(operator.run(&["lock", "status", "--json"]).json()[0]["standing"], "free");
        // A folder of its own, where this machine is the operator too.
        operator.write("go", "");
        first.write("go", "");
        refused(&first, holder, &said);
        let _ = std::fs::remove_file(operator.path("acted"));
        operator.run(&["--local", "--release", "r2"]).assert_exit(0);
        assert!(operator.exists("acted"));
        let history = operator.run(&["history"]);
        history.assert_exit(0);
        assert!(history.stdout.contains("lock of epoch 1, held by ") && history.stdout.contains("it hangs, says ann"));
        assert!(history.stdout.lines().all(|line| line.chars().count() <= 80), "{}", history.stdout);
        let history = operator.run(&["history", "--json"]).json();
        assert_eq!(history[1]["lock-released"]["message"], "it hangs, says ann", "{history}");
        operator.run(&["lock", "release", "--local"]).assert_exit(0);
    }
}
