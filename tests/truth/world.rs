//! Doubles of modules that know the truth: what is on which machine, and what answers there. Faults are told them in advance.
//!
//! `fetch` brings content, `work` leaves an effect, `link` exposes a release, `serve` is a service that must be restarted to serve what
//! the link leads to and reads a configuration, `check` asks whether the release answers.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use async_trait::async_trait;
use contract::{
    hash::InputHash,
    step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome},
};
use db::migrate::{LintFinding, LintLevel};
use journal::{StepCompletion, StepIntent, UndoCompletion, UndoIntent};
use plan::{ModuleRef, PlanStep};
use runner::deploy::Executor;
use sandbox::{CallChannel, InputError, MigratesBehavior, ModuleDescription, PreviewChange};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// What happens to the next call of a step that acts or is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and had no effect.
    Fails,
    /// Its outcome is lost, before or after its effect.
    LostBefore,
    LostAfter,
    /// The runner is killed, before or after its effect.
    KilledBefore,
    KilledAfter,
}

/// One machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorldMachine {
    /// The effects of `fetch` and `work`: step and release.
    effects: BTreeSet<(String, String)>,
    pub(crate) link: Option<String>,
    /// Where the link led before it was moved to a release.
    link_before: BTreeMap<String, Option<String>>,
    /// What each service serves, and whether its configuration was good when it was restarted.
    services: BTreeMap<String, (String, bool)>,
}

/// All machines, and what is none's.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) machines: Vec<WorldMachine>,
    pub(crate) here: usize,
    /// Effects that are not on any of the machines.
    pub(crate) elsewhere: BTreeSet<(String, String)>,
    pub(crate) services: BTreeSet<String>,
    /// The releases that do not answer, whatever is done.
    pub(crate) broken: BTreeSet<String>,
    pub(crate) config_is_good: bool,
    pub(crate) faults: BTreeMap<String, Fault>,
    pub(crate) killed: Rc<Notify>,
}

impl World {
    pub(crate) fn machine(&mut self) -> &mut WorldMachine {
        &mut self.machines[self.here]
    }

    /// Whether users of a machine get this release.
    pub(crate) fn answers(&self, machine: usize, release: &str) -> bool {
        let machine = &self.machines[machine];
        let serves = |service: &String| machine.services.get(service) == Some(&(release.to_owned(), true));
        machine.link.as_deref() == Some(release) && !self.broken.contains(release) && self.services.iter().all(serves)
    }

    /// Whether the effect of a step for a release is there for this machine.
    pub(crate) fn has_effect(&self, step: &PlanStep, release: &str) -> bool {
        let machine = &self.machines[self.here];
        let effect = (step.id.to_string(), release.to_owned());
        match module_name(step) {
            "link" => machine.link.as_deref() == Some(release),
            "serve" => machine.services.get(step.id.as_str()).is_some_and(|(served, _)| served == release),
            "check" => true,
            _ => machine.effects.contains(&effect) || self.elsewhere.contains(&effect),
        }
    }

    fn act(&mut self, step: &PlanStep, release: &str) -> Result<Receipt, StepFailure> {
        let id = step.id.to_string();
        match module_name(step) {
            "link" => {
                let machine = self.machine();
                if machine.link.as_deref() != Some(release) {
                    let before = machine.link.replace(release.to_owned());
                    machine.link_before.insert(release.to_owned(), before);
                }
                Ok(receipt(json!({ "from": self.machine().link_before.get(release) })))
            }
            "serve" => {
                let config_is_good = self.config_is_good;
                let served = self.machine().link.clone().unwrap_or_default();
                self.machine().services.insert(id, (served, config_is_good));
                Ok(Receipt::default())
            }
            "check" if self.answers(self.here, release) => Ok(Receipt::default()),
            "check" => Err(StepFailure::new(FailureKind::Conflict, format!("{release} does not answer"))),
            _ => {
                let is_elsewhere = step.effects == plan::EffectPlace::Elsewhere;
                let effects = if is_elsewhere { &mut self.elsewhere } else { &mut self.machine().effects };
                effects.insert((id, release.to_owned()));
                Ok(Receipt::default())
            }
        }
    }

    fn undo(&mut self, release: &str, receipt: &Receipt) -> Result<(), StepFailure> {
        let before = receipt.outputs.get("from").and_then(Value::as_str).map(str::to_owned);
        let machine = self.machine();
        if machine.link.as_deref() == Some(release) {
            machine.link = before;
        } else if machine.link != before {
            return Err(StepFailure::new(FailureKind::Conflict, "somebody moved the link"));
        }
        Ok(())
    }
}

fn module_name(step: &PlanStep) -> &str {
    match &step.uses {
        ModuleRef::Official(name) => name,
        ModuleRef::File(_) | ModuleRef::Registry(_) => panic!("doubles are official"),
    }
}

fn receipt(outputs: Value) -> Receipt {
    Receipt { outputs: outputs.as_object().unwrap().clone(), notes: serde_json::Map::default() }
}

/// What the double of a step says of itself: its `with` tells whether it can be probed and repeated.
pub(crate) fn describe(step: &PlanStep) -> ModuleDescription {
    let name = module_name(step);
    let flag = |flag: &str| step.with[flag] == true;
    let phase = match name {
        "fetch" => "prepare",
        "check" => "check",
        _ => "commit",
    };
    let has_probe = ["fetch", "link"].contains(&name) || flag("probed");
    let is_repeatable = ["fetch", "link", "check"].contains(&name) || flag("repeatable");
    let description = json!({
        "name": name, "version": "1.0.0", "summary": "a double", "config": true, "needs": [], "phase": phase,
        "exposes": name == "link", "reverts": name == "link",
        "repeatable": is_repeatable, "probes": has_probe,
        "behaves": { "repeats-after-undo": name == "serve" },
    });
    serde_json::from_value(description).unwrap()
}

/// The doubles.
pub(crate) struct Doubles(pub(crate) Rc<RefCell<World>>);

impl Doubles {
    /// Acts once, or as the fault of the step says.
    async fn call<T>(
        &self,
        step: &PlanStep,
        act: impl FnOnce(&mut World) -> Result<T, StepFailure>,
    ) -> Result<T, (StepFailure, bool)> {
        let (fault, killed) = {
            let mut world = self.0.borrow_mut();
            (world.faults.remove(step.id.as_str()), Rc::clone(&world.killed))
        };
        let lost = || (StepFailure::new(FailureKind::Transient, "no connection"), false);
        let die = async || -> T {
            killed.notify_one();
            std::future::pending().await
        };
        match fault {
            None => act(&mut self.0.borrow_mut()).map_err(|failure| (failure, true)),
            Some(Fault::Fails) => Err((StepFailure::new(FailureKind::Permanent, "it fails"), true)),
            Some(Fault::LostBefore) => Err(lost()),
            Some(Fault::LostAfter) => {
                let _ = act(&mut self.0.borrow_mut());
                Err(lost())
            }
            Some(Fault::KilledBefore) => Ok(die().await),
            Some(Fault::KilledAfter) => {
                let _ = act(&mut self.0.borrow_mut());
                Ok(die().await)
            }
        }
    }
}

fn release_of(input: &Value) -> String {
    input["release"]["label"].as_str().unwrap().to_owned()
}

#[async_trait(?Send)]
impl Executor for Doubles {
    async fn input_hashes(
        &self,
        _step: &PlanStep,
        _description: &ModuleDescription,
        _config: &Value,
    ) -> Result<BTreeMap<String, InputHash>, InputError> {
        Ok(BTreeMap::new())
    }

    async fn preview(
        &self,
        _step: &PlanStep,
        _input: &Value,
        _channel: CallChannel,
    ) -> Result<Vec<PreviewChange>, StepFailure> {
        Ok(Vec::new())
    }

    async fn rehearse(&self, _step: &PlanStep, _input: &Value, _channel: CallChannel) -> Result<(), StepFailure> {
        Ok(())
    }

    async fn lint_migrations(
        &self,
        _step: &PlanStep,
        _migrates: &MigratesBehavior,
    ) -> Result<(Vec<LintFinding>, LintLevel), StepFailure> {
        Ok((Vec::new(), LintLevel::Off))
    }

    async fn probe(&self, step: &PlanStep, input: &Value, _channel: CallChannel) -> ProbeFinding {
        let mut world = self.0.borrow_mut();
        let release = release_of(input);
        // A service that runs with another configuration than there is now must be restarted.
        let config_is_good = world.config_is_good;
        let service = world.machine().services.get(step.id.as_str());
        let is_outdated = service.is_some_and(|(_, read_good)| *read_good != config_is_good);
        if is_outdated || !world.has_effect(step, &release) {
            return ProbeFinding::Absent;
        }
        let from = world.machine().link_before.get(&release).cloned();
        ProbeFinding::Held { receipt: receipt(json!({ "from": from })) }
    }

    async fn apply(&self, step: &PlanStep, intent: StepIntent, _channel: CallChannel) -> StepCompletion {
        let release = release_of(intent.input());
        let outcome = match self.call(step, |world| world.act(step, &release)).await {
            Ok(receipt) => StepOutcome::Succeeded { receipt },
            Err((failure, true)) => StepOutcome::Failed { failure },
            Err((failure, false)) => StepOutcome::Unknown { failure },
        };
        intent.complete(outcome, Duration::ZERO)
    }

    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        _channel: CallChannel,
    ) -> UndoCompletion {
        let release = release_of(input);
        let undone = self.call(step, |world| world.undo(&release, receipt)).await;
        intent.complete(undone.err().map(|(failure, _)| failure))
    }
}
