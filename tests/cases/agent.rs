//! The agent of a host, spoken to as a coordinator does: over its standard input and output.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use contract::step::{Receipt, StepOutcome};
use journal::{StepTarget, event::Fingerprint, file::StepEffect};
use plan::{Plan, PlanRequest, PlanSource, PlanStep};
use runner::agent::wire::{
    AgentAnswer, BeginSession, BegunSession, Export, HostRecord, MAX_FRAME_BYTES, Problem, ToAgent, ToCoordinator,
    message_frame,
};
use serde_json::{Value, json};

use crate::support::wait_until;

struct AgentProcess {
    child: Child,
}

impl AgentProcess {
    /// Starts an agent that keeps everything in a folder, and reads up to its hello.
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command.arg("agent").env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut agent = Self { child };
        let mut mark = [0; "\nPAWL-AGENT\n".len()];
        agent.child.stdout.as_mut().unwrap().read_exact(&mut mark).unwrap();
        assert_eq!(&mark, b"\nPAWL-AGENT\n");
        assert!(matches!(agent.hear(), ToCoordinator::Hello(_)));
        agent
    }

    fn say(&mut self, message: &ToAgent) {
        self.child.stdin.as_mut().unwrap().write_all(&message_frame(message)).unwrap();
    }

    /// The next message that is an answer.
    fn hear(&mut self) -> ToCoordinator {
        loop {
            let stdout = self.child.stdout.as_mut().unwrap();
            let mut head = [0; 5];
            stdout.read_exact(&mut head).unwrap();
            let mut body = vec![0; u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize];
            stdout.read_exact(&mut body).unwrap();
            match serde_json::from_slice(&body).unwrap() {
                ToCoordinator::Pong
                | ToCoordinator::Progress { .. }
                | ToCoordinator::Output { .. }
                | ToCoordinator::AwaitsConfirmation { .. } => {}
                message => return message,
            }
        }
    }

    fn begin(&mut self, epoch: u64, lineage: &str) -> Result<BegunSession, Problem> {
        self.say_begin(epoch, lineage);
        match self.hear() {
            ToCoordinator::Begun(begun) => Ok(begun),
            ToCoordinator::Refused(problem) => Err(problem),
            other => panic!("{other:?}"),
        }
    }

    fn say_begin(&mut self, epoch: u64, lineage: &str) {
        self.say(&ToAgent::Begin(BeginSession {
            app: "shop".parse().unwrap(),
            environment: "test".parse().unwrap(),
            target: "web-1".parse().unwrap(),
            run: "1-aaaaaa".parse().unwrap(),
            attempt: contract::AttemptNumber::FIRST,
            release: serde_json::from_value(json!({ "label": "r1", "digest": null })).unwrap(),
            epoch,
            lineage: lineage.to_owned(),
            by: "ann@ci".to_owned(),
            secrets: [].into(),
        }));
    }

    fn call(&mut self, step: &PlanStep, export: Export) -> AgentAnswer {
        self.say_call(step, export);
        self.hear_answer()
    }

    fn say_call(&mut self, step: &PlanStep, export: Export) {
        self.say(&ToAgent::Call { call: 1, step: Box::new(step.clone()), shipped: [].into(), export });
    }

    fn hear_answer(&mut self) -> AgentAnswer {
        match self.hear() {
            ToCoordinator::Answer { call: 1, answer } => answer,
            other => panic!("{other:?}"),
        }
    }

    /// Whether a call of the attempt is confirmed by this one, over its own connection.
    fn confirms(&mut self, epoch: u64) -> bool {
        let (app, environment, target) = ("shop".parse().unwrap(), "test".parse().unwrap(), "web-1".parse().unwrap());
        self.say(&ToAgent::Confirm { call: 1, app, environment, target, key: KEY.to_owned(), epoch });
        match self.hear_answer() {
            AgentAnswer::Confirmation { confirmed } => confirmed,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the connection, and waits for the end of the process.
    fn leave(mut self) {
        drop(self.child.stdin.take());
        wait_until("the agent has ended", || self.child.try_wait().unwrap().is_some());
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const KEY: &str = "00c0ffee00c0ffee";

fn switch_step(root: &Path) -> PlanStep {
    switch_step_with(root, "")
}

/// The step with another line.
fn switch_step_with(root: &Path, more: &str) -> PlanStep {
    let text = format!(
        "version: 1\napp: shop\nenvironments: {{ test: {{ hosts: {{ web: [{{ at: a@b, name: web-1 }}] }} }} }}\n\
         steps: {{ switch: {{ on: web, with: {{ link: current, to: releases/a }}, grants: {{ dirs: {{ app: {} }} }}{more} }} }}\n",
        root.display()
    );
    let source = PlanSource { path: "deploy.yml".into(), folder: "/".into(), text: text.into() };
    let request = PlanRequest {
        environment: None,
        release: &"r1".parse().unwrap(),
        env: &|_| None,
        inventory: &plan::no_inventory,
    };
    Plan::parse(source, &request).unwrap().steps.remove(0)
}

fn input(epoch: u64) -> Value {
    json!({
        "app": "shop", "environment": "test", "run": "1-aaaaaa", "attempt": 1, "step": "switch", "target": "web-1",
        "key": "00c0ffee00c0ffee", "input-hash": "0".repeat(64), "config": { "link": "current", "to": "releases/a" },
        "release": { "label": "r1", "digest": null }, "outputs": {}, "epoch": epoch, "lineage": "a", "head": { "live": null },
    })
}

fn step_target() -> StepTarget {
    StepTarget { step: "switch".parse().unwrap(), target: "web-1".parse().unwrap() }
}

/// The answer to an undo may be lost: asked again, also by a later attempt, the host says that it is undone.
#[test]
fn an_undo_that_is_done_is_done_again_without_harm() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("app");
    std::fs::create_dir_all(root.join("releases/a")).unwrap();
    let step = switch_step(&root);
    let mut agent = AgentProcess::start(folder.path());
    agent.begin(1, "a").unwrap();
    let (key, fingerprint, effect) = ("00c0ffee00c0ffee".to_owned(), Fingerprint::default(), StepEffect::Exposing);
    let apply = Export::Apply { step_target: step_target(), key, fingerprint, input: input(1), effect };
    let receipt = match agent.call(&step, apply) {
        AgentAnswer::Outcome { outcome: StepOutcome::Succeeded { receipt }, .. } => receipt,
        other => panic!("{other:?}"),
    };
    assert!(root.join("current").is_symlink());
    let revert =
        |receipt: &Receipt| Export::Revert { step_target: step_target(), input: input(1), receipt: receipt.clone() };
    assert!(matches!(agent.call(&step, revert(&receipt)), AgentAnswer::Reverted { failure: None }));
    assert!(!root.join("current").is_symlink());
    assert!(matches!(agent.call(&step, revert(&receipt)), AgentAnswer::Reverted { failure: None }));
    agent.leave();
    let mut agent = AgentProcess::start(folder.path());
    agent.begin(2, "a").unwrap();
    assert!(matches!(agent.call(&step, revert(&receipt)), AgentAnswer::Reverted { failure: None }));
}

/// A host without records of its own, such as a new one of the same name, undoes what it is told to.
#[test]
fn a_host_without_records_can_undo() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("app");
    std::fs::create_dir_all(root.join("releases/a")).unwrap();
    std::os::unix::fs::symlink("releases/a", root.join("current")).unwrap();
    let step = switch_step(&root);
    let mut agent = AgentProcess::start(folder.path());
    agent.begin(1, "a").unwrap();
    let revert = Export::Revert { step_target: step_target(), input: input(1), receipt: Receipt::default() };
    assert!(matches!(agent.call(&step, revert), AgentAnswer::Reverted { .. }));
}

#[test]
fn nothing_is_changed_before_a_session_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("app");
    std::fs::create_dir_all(root.join("releases/a")).unwrap();
    let mut agent = AgentProcess::start(folder.path());
    let (key, fingerprint, effect) = (String::new(), Fingerprint::default(), StepEffect::Exposing);
    let apply = Export::Apply { step_target: step_target(), key, fingerprint, input: input(1), effect };
    assert!(matches!(agent.call(&switch_step(&root), apply), AgentAnswer::Failed { .. }));
    assert!(!root.join("current").is_symlink());
}

/// An attempt that lost its lock to a newer one changes nothing on a host that the newer one has worked on.
#[test]
fn an_older_coordinator_of_the_same_lineage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let begin = |epoch, lineage: &str| {
        let mut agent = AgentProcess::start(folder.path());
        let begun = agent.begin(epoch, lineage).map(drop).map_err(|problem| problem.code);
        agent.leave();
        begun
    };
    assert_eq!(begin(5, "a"), Ok(()));
    assert_eq!(begin(4, "a"), Err("P0503".to_owned()));
    assert_eq!(begin(5, "a"), Ok(()), "the same attempt connects again");
    assert_eq!(begin(1, "b"), Ok(()), "epochs of different lineages say nothing of each other");
}

#[test]
fn what_is_no_message_ends_the_agent() {
    let too_long = (MAX_FRAME_BYTES + 1).to_be_bytes();
    for bytes in [&b"\0\0\0\x02\0{}"[..], b"\0\0\0\x01\x07x", &too_long, b"GET / HTTP/1.1\r\n"] {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = AgentProcess::start(folder.path());
        agent.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
        agent.leave();
        assert!(!folder.path().join(".local/state/pawl/hosts").exists(), "{bytes:?}");
    }
}

/// A folder with two releases, `current` at the first, and the step that switches to the second and must be confirmed.
fn confirmed_switch(folder: &Path, within: &str) -> PlanStep {
    let root = folder.join("app");
    for release in ["releases/a", "releases/before"] {
        std::fs::create_dir_all(root.join(release)).unwrap();
    }
    std::os::unix::fs::symlink("releases/before", root.join("current")).unwrap();
    switch_step_with(&root, &format!(", confirm: {within}"))
}

fn apply(epoch: u64) -> Export {
    let (key, fingerprint, effect) = (KEY.to_owned(), Fingerprint::default(), StepEffect::Exposing);
    Export::Apply { step_target: step_target(), key, fingerprint, input: input(epoch), effect }
}

fn live(folder: &Path) -> String {
    std::fs::read_link(folder.join("app/current")).unwrap().display().to_string()
}

fn record(begun: &BegunSession) -> &HostRecord {
    begun.records.iter().find(|record| record.step_target == step_target()).unwrap()
}

#[test]
fn another_connection_confirms_a_step_and_only_that_attempt_s() {
    let folder = tempfile::tempdir().unwrap();
    let step = confirmed_switch(folder.path(), "10m");
    let (mut agent, mut other) = (AgentProcess::start(folder.path()), AgentProcess::start(folder.path()));
    agent.begin(3, "a").unwrap();
    agent.say_call(&step, apply(3));
    assert!(other.confirms(3));
    assert!(matches!(agent.hear_answer(), AgentAnswer::Outcome { outcome: StepOutcome::Succeeded { .. } }));
    agent.leave();
    assert!(!other.confirms(3), "nothing is left to confirm");
    let begun = other.begin(4, "a").unwrap();
    assert!(matches!(record(&begun).outcome, Some(StepOutcome::Succeeded { .. })) && !record(&begun).undone);
    assert_eq!(live(folder.path()), "releases/a");
}

#[test]
fn step_that_nobody_confirms_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let step = confirmed_switch(folder.path(), "5s");
    let mut agent = AgentProcess::start(folder.path());
    agent.begin(1, "a").unwrap();
    assert!(matches!(agent.call(&step, apply(1)), AgentAnswer::NotConfirmed { failure: None }));
    assert_eq!(live(folder.path()), "releases/before");
    agent.leave();
    // The same without the connection that it was made over.
    let mut agent = AgentProcess::start(folder.path());
    agent.begin(2, "a").unwrap();
    agent.say_call(&step, apply(2));
    wait_until("it has switched", || live(folder.path()) == "releases/a");
    agent.leave();
    assert_eq!(live(folder.path()), "releases/before");
    let begun = AgentProcess::start(folder.path()).begin(3, "a").unwrap();
    assert_eq!((record(&begun).outcome.clone(), record(&begun).undone, begun.ended_agent), (None, true, None));
}

/// Nobody undoes it any more, and the next attempt finds an intent without an outcome.
#[test]
fn agent_that_is_killed_before_the_confirmation_leaves_an_intent() {
    let folder = tempfile::tempdir().unwrap();
    let step = confirmed_switch(folder.path(), "10m");
    let mut agent = AgentProcess::start(folder.path());
    agent.begin(1, "a").unwrap();
    agent.say_call(&step, apply(1));
    wait_until("it has switched", || live(folder.path()) == "releases/a");
    drop(agent);
    let mut other = AgentProcess::start(folder.path());
    let begun = other.begin(2, "a").unwrap();
    assert_eq!((record(&begun).outcome.clone(), record(&begun).undone), (None, false));
    other.leave();
    assert!(!AgentProcess::start(folder.path()).confirms(1), "what it left is gone");
}

/// A newer attempt does not wait until the time is over.
#[test]
fn newer_coordinator_finds_what_was_not_confirmed_undone() {
    let folder = tempfile::tempdir().unwrap();
    let step = confirmed_switch(folder.path(), "10m");
    let (mut agent, mut newer) = (AgentProcess::start(folder.path()), AgentProcess::start(folder.path()));
    agent.begin(1, "a").unwrap();
    agent.say_call(&step, apply(1));
    wait_until("it has switched", || live(folder.path()) == "releases/a");
    let begun = newer.begin(2, "a").unwrap();
    assert_eq!(live(folder.path()), "releases/before");
    assert!(record(&begun).undone);
    let ended = begun.ended_agent.unwrap();
    assert_eq!((ended.pid, ended.epoch, ended.was_killed), (agent.child.id(), 1, false));
    assert!(matches!(agent.hear_answer(), AgentAnswer::NotConfirmed { failure: None }), "its coordinator hears it");
}

#[test]
fn stopped_agent_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut agent, mut newer) = (AgentProcess::start(folder.path()), AgentProcess::start(folder.path()));
    agent.begin(1, "a").unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent.child), rustix::process::Signal::STOP)
        .unwrap();
    let ended = newer.begin(2, "a").unwrap().ended_agent.unwrap();
    assert!(ended.was_killed && ended.pid == agent.child.id());
    let status = agent.child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}

#[test]
fn older_coordinator_does_not_disturb_the_newest_one() {
    let folder = tempfile::tempdir().unwrap();
    let step = confirmed_switch(folder.path(), "10m");
    let (mut agent, mut older) = (AgentProcess::start(folder.path()), AgentProcess::start(folder.path()));
    agent.begin(5, "a").unwrap();
    let refused = older.begin(4, "a").unwrap_err();
    assert_eq!(refused.code, "P0503");
    assert!(refused.message.contains("(epoch 5)") && refused.message.contains("has epoch 4"), "{}", refused.message);
    // Who was there before the newest one came begins nothing more.
    let file = folder.path().join(".local/state/pawl/hosts/web-1/shop/test/coordinator.json");
    std::fs::write(file, r#"{"lineage":"a","epoch":6}"#).unwrap();
    match agent.call(&step, apply(5)) {
        AgentAnswer::Failed { failure } => assert!(failure.message.contains("(epoch 6)"), "{}", failure.message),
        other => panic!("{other:?}"),
    }
    assert_eq!(live(folder.path()), "releases/before");
}

/// Its epochs say nothing, so its agent is waited for.
#[test]
fn agent_of_another_lineage_may_finish() {
    let folder = tempfile::tempdir().unwrap();
    let step = confirmed_switch(folder.path(), "10m");
    let (mut agent, mut other) = (AgentProcess::start(folder.path()), AgentProcess::start(folder.path()));
    let mut confirming = AgentProcess::start(folder.path());
    agent.begin(5, "a").unwrap();
    other.say_begin(9, "b");
    agent.say_call(&step, apply(5));
    assert!(confirming.confirms(5));
    assert!(matches!(agent.hear_answer(), AgentAnswer::Outcome { outcome: StepOutcome::Succeeded { .. } }));
    agent.leave();
    match other.hear() {
        ToCoordinator::Begun(begun) => assert_eq!(begun.ended_agent, None),
        other => panic!("{other:?}"),
    }
}
