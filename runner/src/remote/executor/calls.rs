//! The calls of a step's module, made on another host: each a question to its agent, and what its answer means.
//!
//! Deliberately absent: connections and what becomes of a call when one is lost, which the executor knows.

#![expect(clippy::wildcard_enum_match_arm, reason = "an answer to another question is one error, whichever it is")]

use std::{collections::BTreeMap, time::Instant};

use async_trait::async_trait;
use serde_json::Value;

use contract::{
    hash::InputHash,
    step::{FailureKind, ProbeFinding, Receipt, StepFailure, StepOutcome},
};
use db::migrate::{LintFinding, LintLevel};
use journal::{StepCompletion, StepIntent, UndoCompletion, UndoIntent};
use plan::PlanStep;
use sandbox::{CallChannel, InputError, MigratesBehavior, ModuleDescription, PreviewChange};

use super::{RemoteExecutor, other_answer};
use crate::{
    agent::wire::{AgentAnswer, Export},
    deploy::Executor,
    remote::shipping,
};

#[async_trait(?Send)]
impl Executor for RemoteExecutor {
    async fn input_hashes(
        &self,
        step: &PlanStep,
        _description: &ModuleDescription,
        config: &Value,
    ) -> Result<BTreeMap<String, InputHash>, InputError> {
        let export = || Export::InputHashes { config: config.clone() };
        match self.ask(step, config, &CallChannel::unobserved(), export).await? {
            AgentAnswer::InputHashes { hashes } => Ok(hashes),
            AgentAnswer::InputUnreadable { message, hint } => {
                let message = format!("{}: {message}", self.host.name);
                Err(StepFailure::new(FailureKind::NotFound, message).with_hint(hint).into())
            }
            AgentAnswer::Failed { failure } => {
                let message = format!("{}: {}", self.host.name, failure.message);
                Err(StepFailure { message, ..failure }.into())
            }
            _ => Err(other_answer().into()),
        }
    }

    async fn preview(
        &self,
        step: &PlanStep,
        input: &Value,
        channel: CallChannel,
    ) -> Result<Vec<PreviewChange>, StepFailure> {
        let export = || Export::Preview { input: input.clone() };
        match self.ask(step, &input["config"], &channel, export).await? {
            AgentAnswer::Preview { changes } => Ok(changes),
            AgentAnswer::Failed { failure } => Err(failure),
            _ => Err(other_answer()),
        }
    }

    async fn rehearse(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> Result<(), StepFailure> {
        let export = || Export::Rehearse { input: input.clone() };
        match self.ask(step, &input["config"], &channel, export).await? {
            AgentAnswer::Rehearsed => Ok(()),
            AgentAnswer::Failed { failure } => Err(failure),
            _ => Err(other_answer()),
        }
    }

    async fn lint_migrations(
        &self,
        step: &PlanStep,
        migrates: &MigratesBehavior,
    ) -> Result<(Vec<LintFinding>, LintLevel), StepFailure> {
        let answer = self.ask(step, &step.with, &CallChannel::unobserved(), || Export::LintMigrations).await?;
        let (mut findings, level) = match answer {
            AgentAnswer::Linted { findings, level } => (findings, level),
            AgentAnswer::Failed { failure } => return Err(failure),
            _ => return Err(other_answer()),
        };
        // Files that were sent are shown where they come from.
        if let Some(dir) = shipping::dir_of_this_machine(step, migrates.dir(&step.with)) {
            for finding in &mut findings {
                finding.path = dir.join(finding.path.file_name().unwrap_or_default());
            }
        }
        Ok((findings, level))
    }

    async fn probe(&self, step: &PlanStep, input: &Value, channel: CallChannel) -> ProbeFinding {
        let export = || Export::Probe { input: input.clone() };
        match self.ask(step, &input["config"], &channel, export).await {
            Ok(AgentAnswer::Finding { finding }) => finding,
            Ok(AgentAnswer::Failed { failure }) | Err(failure) => ProbeFinding::Failed { failure },
            Ok(_) => ProbeFinding::Failed { failure: other_answer() },
        }
    }

    async fn apply(&self, step: &PlanStep, intent: StepIntent, channel: CallChannel) -> StepCompletion {
        let began = Instant::now();
        let (step_target, input) = (intent.step_target().clone(), intent.input().clone());
        let key = input["key"].as_str().unwrap_or_default().to_owned();
        let export = || Export::Apply {
            step_target: step_target.clone(),
            key: key.clone(),
            fingerprint: intent.fingerprint().clone(),
            input: input.clone(),
            effect: intent.effect(),
        };
        let answer = self.act(step, &step_target, Some(&key), &input, &channel, export).await;
        let outcome = match answer {
            Ok(AgentAnswer::Outcome { outcome: StepOutcome::Succeeded { mut receipt } }) if step.confirm.is_some() => {
                receipt.notes.insert("confirmed".to_owned(), true.into());
                StepOutcome::Succeeded { receipt }
            }
            Ok(AgentAnswer::Outcome { outcome }) => outcome,
            Ok(AgentAnswer::Failed { failure }) | Err(failure) => StepOutcome::Failed { failure },
            Ok(_) => StepOutcome::Unknown { failure: other_answer() },
        };
        intent.complete(outcome, began.elapsed())
    }

    async fn revert(
        &self,
        step: &PlanStep,
        intent: UndoIntent,
        input: &Value,
        receipt: &Receipt,
        channel: CallChannel,
    ) -> UndoCompletion {
        let step_target = intent.step_target().clone();
        let export =
            || Export::Revert { step_target: step_target.clone(), input: input.clone(), receipt: receipt.clone() };
        let answer = self.act(step, &step_target, None, input, &channel, export).await;
        let failure = match answer {
            Ok(AgentAnswer::Reverted { failure }) => failure,
            Ok(AgentAnswer::Failed { failure }) | Err(failure) => Some(failure),
            Ok(AgentAnswer::Outcome { outcome: StepOutcome::Unknown { failure } }) => Some(failure),
            Ok(_) => Some(other_answer()),
        };
        intent.complete(failure)
    }
}
