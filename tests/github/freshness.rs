//! An older checkpoint in place of the newest: refused by the sequence in the GitHub deployment, and accepted without one.
//!
//! Another job of the run needs no key for it: it puts an artifact back that had a valid MAC all along.

use super::resume::{
    BROKEN, FIXED, KEY, artifact_after_post, configure_ci, machine_with_deployment, only_artifact, run_attempt,
};
use crate::{
    artifact_service::{FakeArtifactService, FakeServiceCall, InjectedFault},
    support::{RunnerOutput, TestEnvironment},
};

/// `count` must not run twice, has no probe, and its effect is reached from each machine: only its record says that it ran.
const PLAN: &str = r#"version: 1
app: shop
steps:
  first:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [first.sh], dir: here, repeatable: true }
    grants: { dirs: { here: "./here" }, programs: [[/bin/sh, first.sh]] }
  count:
    uses: run
    effects: elsewhere
    trust: host
    with: { program: /bin/sh, args: [count.sh], dir: here }
    grants: { dirs: { here: "./here" }, programs: [[/bin/sh, count.sh]] }
  last:
    uses: run
    trust: host
    with: { program: /bin/sh, args: [last.sh], dir: here, repeatable: true }
    grants: { dirs: { here: "./here" }, programs: [[/bin/sh, last.sh]] }
"#;

const LOST_MARK: &str = "could not keep the journal's sequence in the GitHub deployment";

/// A run with two failed attempts, and the older checkpoint that the first one left.
pub(super) struct ReplayedRun {
    pub(super) service: FakeArtifactService,
    machine: TestEnvironment,
    older: (String, Vec<u8>),
}

impl ReplayedRun {
    /// `first` fails in attempt 1, and `last` in attempt 2, after `count` has run.
    pub(super) fn new(deployments: bool, before_second: impl FnOnce(&FakeArtifactService)) -> (Self, RunnerOutput) {
        let service = FakeArtifactService::start();
        let mut machine = TestEnvironment::with_plan(PLAN);
        configure_ci(&mut machine, &service);
        machine.set_variable("PAWL_KEY", KEY);
        machine.set_variable("GITHUB_SHA", "0123456789012345678901234567890123456789");
        machine.set_variable("PAWL_DEPLOYMENTS", if deployments { "true" } else { "false" });
        for (script, content) in [("first.sh", "[ -e go ]"), ("count.sh", "echo once >> count"), ("last.sh", "exit 1")]
        {
            machine.write(&format!("here/{script}"), content);
        }
        run_attempt(&mut machine, 1).assert_exit(1);
        machine.run(&["post"]).assert_exit(0);
        let name = only_artifact(&service);
        // Under a name that the page of P0226 shows.
        let (stem, _) = name.rsplit_once('-').unwrap();
        let older = (format!("{stem}-0f3c"), service.content(&name));
        machine.write("here/go", "");
        before_second(&service);
        let second = run_attempt(&mut machine, 2);
        second.assert_exit(1);
        machine.run(&["post"]).assert_exit(0);
        assert_eq!(machine.read("here/count"), "once\n");
        (Self { service, machine, older }, second)
    }

    /// Another job replaces the newest artifact by the older one.
    pub(super) fn replay(&self) {
        self.service.remove_artifact(&only_artifact(&self.service));
        self.service.add_artifact(&self.older.0, &self.older.1);
    }

    /// The machine of attempt 3, which reaches what was deployed.
    pub(super) fn next_machine(&self) -> TestEnvironment {
        let mut next = machine_with_deployment(&self.machine);
        next.set_variable("GITHUB_RUN_ATTEMPT", "3");
        next
    }
}

#[test]
fn older_signed_checkpoint_is_refused_with_a_deployment() {
    let (run, _) = ReplayedRun::new(true, |_| {});
    run.replay();
    let mut third = run.next_machine();
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P0226"), "{}", answer.stdout);
    assert_eq!(third.read("here/count"), "once\n", "nothing ran");
    assert!(third.list(".pawl/shop").iter().all(|name| !name.ends_with(".journal")), "nothing was taken over");
    // What the hint says: without that artifact, each step is probed, and `count` needs an operator.
    run.service.remove_artifact(&run.older.0);
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P0406"), "{}", answer.stdout);
    assert_eq!(third.read("here/count"), "once\n");
}

/// The limit that docs/github.md names.
#[test]
fn older_signed_checkpoint_is_accepted_without_a_deployment() {
    let (run, _) = ReplayedRun::new(false, |_| {});
    run.replay();
    let mut third = run.next_machine();
    run_attempt(&mut third, 3).assert_exit(1);
    assert_eq!(third.read("here/count"), "once\nonce\n", "its record was in the newer checkpoint");
    assert_eq!(run.service.call_count(FakeServiceCall::StatusList), 0);
}

#[test]
fn newest_checkpoint_is_resumed_from() {
    let (run, _) = ReplayedRun::new(true, |_| {});
    let mut third = run.next_machine();
    third.write("here/last.sh", "exit 0");
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[1], "count skip trusted");
    // Before each effect, and at the end: the start, three steps, the result.
    let told = run.service.status_descriptions(1);
    let sequences: Vec<_> = told.iter().filter_map(|words| words.split_once(" (journal ")).collect();
    assert_eq!((told.len(), sequences.len()), (5, 4), "{told:?}");
    assert!(sequences.iter().all(|(_, sequence)| sequence.starts_with("a02-s")), "{told:?}");
    assert!(sequences.windows(2).all(|pair| pair[0].1 < pair[1].1), "{told:?}");
    assert!(told[4].starts_with("r1: failed"), "{told:?}");
}

/// As after a kill between the upload and the status.
#[test]
fn checkpoint_that_is_newer_than_the_status_is_resumed_from() {
    let refused = |service: &FakeArtifactService| {
        service.inject_fault(FakeServiceCall::StatusCreate, 4.., InjectedFault::Status(403));
    };
    let (run, second) = ReplayedRun::new(true, refused);
    assert_eq!(second.stdout.matches(LOST_MARK).count(), 1, "{}", second.stdout);
    assert!(!second.stdout.contains("could not update the GitHub deployment"), "{}", second.stdout);
    let mut third = run.next_machine();
    third.write("here/last.sh", "exit 0");
    run_attempt(&mut third, 3).assert_exit(0);
    assert_eq!(third.read("here/count"), "once\n");
}

#[test]
fn hidden_artifacts_are_missing_and_not_stale() {
    let (run, _) = ReplayedRun::new(true, |_| {});
    // "Re-run all jobs".
    run.service.remove_artifact(&only_artifact(&run.service));
    let mut third = run.next_machine();
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("P0406") && !answer.stdout.contains("P0226"), "{}", answer.stdout);
}

#[test]
fn unknown_sequence_is_not_taken_for_none() {
    let (run, _) = ReplayedRun::new(true, |_| {});
    run.replay();
    run.service.inject_fault(FakeServiceCall::DeploymentList, 1..2, InjectedFault::Status(500));
    let mut third = run.next_machine();
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(3);
    assert!(answer.stdout.contains("can't read which journal of this run is the newest"), "{}", answer.stdout);
    // Without the permission there is no mark, and a warning says so.
    run.service.inject_fault(FakeServiceCall::DeploymentList, .., InjectedFault::Status(403));
    let answer = run_attempt(&mut third, 3);
    answer.assert_exit(1);
    assert_eq!(answer.stdout.matches(LOST_MARK).count(), 1, "{}", answer.stdout);
}

#[test]
fn deployments_of_another_job_have_a_mark_of_their_own() {
    let (run, _) = ReplayedRun::new(true, |_| {});
    let mut other = run.next_machine();
    other.set_variable("GITHUB_JOB", "canary");
    let answer = run_attempt(&mut other, 3);
    assert!(!answer.stdout.contains("P0226"), "{}", answer.stdout);
    assert!(run.service.call_count(FakeServiceCall::DeploymentList) >= 2, "the second and the third attempt asked");
}

/// A job of which each release fails at `migrate`, the first effect of the commit phase, after `pull`, which only prepares. Before the
/// workflow run, this machine had begun r1 three times.
fn job_of_two_releases(service: &FakeArtifactService) -> (TestEnvironment, (String, Vec<u8>)) {
    let mut machine = TestEnvironment::new();
    machine.pack("r1");
    machine.pack("r2");
    machine.write("migrations/0003_orders.sql", BROKEN);
    for _ in 0..3 {
        machine.deploy("r1", &[]).assert_exit(1);
    }
    configure_ci(&mut machine, service);
    machine.set_variable("PAWL_KEY", KEY);
    machine.set_variable("GITHUB_SHA", "0123456789012345678901234567890123456789");
    machine.set_variable("PAWL_DEPLOYMENTS", "true");
    run_attempt(&mut machine, 1).assert_exit(1);
    let of_r1 = artifact_after_post(&machine, service);
    let of_r1 = (of_r1.clone(), service.content(&of_r1));
    let second = machine.deploy("r2", &[]);
    second.assert_exit(1);
    assert!(second.decisions()[0].starts_with("pull run "), "{:?}", second.decisions());
    (machine, of_r1)
}

/// The journal of the second release is shorter than that of the first, and all the same the newest.
#[test]
fn journal_of_another_release_in_the_same_job_is_resumed_from() {
    let service = FakeArtifactService::start();
    let (machine, (of_r1, _)) = job_of_two_releases(&service);
    let newest = artifact_after_post(&machine, &service);
    assert!(newest > of_r1, "{newest} contains {of_r1}");
    let mut next = machine_with_deployment(&machine);
    next.write("migrations/0003_orders.sql", FIXED);
    next.set_variable("GITHUB_RUN_ATTEMPT", "2");
    let answer = next.deploy("r2", &[]);
    answer.assert_exit(0);
    assert_eq!(answer.decisions()[..2], ["pull skip held", "migrate run failed-before"]);
}

/// The record of what only prepared r2 is in the newer journal, as is the mark of that attempt's end.
#[test]
fn journal_of_the_release_before_is_refused_in_place_of_the_newest() {
    let service = FakeArtifactService::start();
    let (machine, (of_r1, content)) = job_of_two_releases(&service);
    service.remove_artifact(&artifact_after_post(&machine, &service));
    service.add_artifact(&of_r1, &content);
    for release in ["r1", "r2"] {
        let mut next = machine_with_deployment(&machine);
        next.set_variable("GITHUB_RUN_ATTEMPT", "2");
        let answer = next.deploy(release, &[]);
        answer.assert_exit(3);
        assert!(answer.stdout.contains("P0226"), "{}", answer.stdout);
        assert!(next.list(".pawl/shop").iter().all(|name| !name.ends_with(".journal")), "nothing was taken over");
    }
}

/// Only effects of the commit phase wait for the mark. A machine that was lost in the prepare phase leaves a journal that is newer than
/// the mark, or none: neither is refused, for no release, and what was prepared is probed or done again.
#[test]
fn journal_of_the_prepare_phase_needs_no_mark() {
    for (is_stored, release, first) in [
        (true, "r2", "pull run changed"),
        (true, "r3", "pull skip held"),
        (false, "r2", "pull skip held"),
        (false, "r3", "pull run changed"),
    ] {
        let service = FakeArtifactService::start();
        let (mut machine, _) = job_of_two_releases(&service);
        let before = artifact_after_post(&machine, &service);
        let content = service.content(&before);
        // The second attempt prepares r3, and raises no mark.
        machine.pack("r3");
        machine.set_variable("GITHUB_RUN_ATTEMPT", "2");
        service.inject_fault(FakeServiceCall::StatusCreate, .., InjectedFault::Status(403));
        let second = machine.deploy("r3", &[]);
        second.assert_exit(1);
        assert!(second.decisions()[0].starts_with("pull run "), "{:?}", second.decisions());
        let newest = artifact_after_post(&machine, &service);
        if !is_stored {
            service.remove_artifact(&newest);
            service.add_artifact(&before, &content);
        }
        let mut next = machine_with_deployment(&machine);
        next.write("migrations/0003_orders.sql", FIXED);
        next.set_variable("GITHUB_RUN_ATTEMPT", "3");
        let answer = next.deploy(release, &[]);
        answer.assert_exit(0);
        assert_eq!(answer.decisions()[0], first, "{is_stored} {release}");
    }
}
