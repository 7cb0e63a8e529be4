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
    AgentAnswer, BeginSession, Export, MAX_FRAME_BYTES, Problem, ToAgent, ToCoordinator, message_frame,
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
                ToCoordinator::Pong | ToCoordinator::Progress { .. } | ToCoordinator::Output { .. } => {}
                message => return message,
            }
        }
    }

    fn begin(&mut self, epoch: u64, lineage: &str) -> Result<(), Problem> {
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
        match self.hear() {
            ToCoordinator::Begun { .. } => Ok(()),
            ToCoordinator::Refused(problem) => Err(problem),
            other => panic!("{other:?}"),
        }
    }

    fn call(&mut self, step: &PlanStep, export: Export) -> AgentAnswer {
        self.say(&ToAgent::Call { call: 1, step: Box::new(step.clone()), shipped: [].into(), export });
        match self.hear() {
            ToCoordinator::Answer { call: 1, answer } => answer,
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

fn switch_step(root: &Path) -> PlanStep {
    let text = format!(
        "version: 1\napp: shop\nenvironments: {{ test: {{ hosts: {{ web: [{{ at: a@b, name: web-1 }}] }} }} }}\n\
         steps: {{ switch: {{ on: web, with: {{ link: current, to: releases/a }}, grants: {{ dirs: {{ app: {} }} }} }} }}\n",
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
        let begun = agent.begin(epoch, lineage).map_err(|problem| problem.code);
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
