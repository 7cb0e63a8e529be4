//! Migrates a database: applies SQL files in the format of sqlx or dbmate, or plain numbered ones, each once.
//!
//! The host does the work, because it depends on the session: its lock, its transactions and its loss. This module does
//! what a step owes the runner: it states its needs, previews its changes, and probes its effect.
//!
//! Deliberately absent: undoing. A migration may have destroyed what an older schema needs; an operator may run
//! `runner migrate down`.

use pawl_step::migrations::{self, JsonObject};
use pawl_step::serde_json::{Map, Value};
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleBehavior,
    ModuleDescription, ProbeSupport, Receipt, RerunSafety, Step,
};

/// The `migrate` module.
#[derive(Debug)]
pub struct MigrateStep;

/// The step's configuration; the host gets it unchanged.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(transparent)]
pub struct MigrateConfig(Map<String, Value>);

impl MigrateConfig {
    fn string_member(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn call_host(
        &self,
        call: fn(&str, &str, &JsonObject) -> Result<JsonObject, Failure>,
    ) -> Result<JsonObject, Failure> {
        call(self.string_member("database"), self.string_member("dir"), &self.0)
    }
}

impl Step for MigrateStep {
    type Config = MigrateConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Read),
                    config: Some("/dir"),
                    reason: "contains the migrations",
                },
                CapabilityNeed {
                    capability: Capability::Databases,
                    config: Some("/database"),
                    reason: "is changed by the migrations",
                },
            ],
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            outputs: Some(&["version", "applied"]),
            behaves: &[ModuleBehavior::Migrates { database: "/database", dir: "/dir" }],
            ..ModuleDescription::new(
                "migrate",
                env!("CARGO_PKG_VERSION"),
                "applies SQL migrations to a database, each once, even after an interruption",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<MigrateConfig>) -> Result<Vec<Change>, Failure> {
        let status = input.config.call_host(migrations::status)?;
        if let Some(problem) = problem(&status) {
            return Err(failure_from_problem(problem));
        }
        let (dir, database) = (input.config.string_member("dir"), input.config.string_member("database"));
        let change =
            |file: &str| Change::new(ChangeAction::Run, format!("{dir}/{file}"), format!("on database {database}"));
        Ok(pending(&status).map(change).collect())
    }

    fn apply(input: &Input<MigrateConfig>) -> Result<Receipt, Failure> {
        let done = input.config.call_host(migrations::apply)?;
        let mut receipt = Receipt::new();
        for (name, value) in object_members(&done, "outputs") {
            receipt = receipt.output(name, value.clone());
        }
        for (name, value) in object_members(&done, "notes") {
            receipt = receipt.note(name, value.clone());
        }
        Ok(receipt)
    }

    fn probe(input: &Input<MigrateConfig>) -> Result<Finding, Failure> {
        let status = input.config.call_host(migrations::status)?;
        Ok(match problem(&status) {
            // A file out of order is a pending file; `apply` reports the problem.
            Some(problem) if problem.get("order") == Some(&Value::Bool(true)) => Finding::Absent,
            Some(problem) => Finding::Drifted(failure_from_problem(problem).message),
            None if pending(&status).next().is_some() => Finding::Absent,
            None => {
                let output = |name: &str| status.get(name).cloned().unwrap_or_default();
                Finding::Held(Receipt::new().output("version", output("version")).output("applied", output("applied")))
            }
        })
    }

    fn revert(input: &Input<MigrateConfig>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!("step `{}` does not undo migrations; the database is unchanged", input.step))
            .hint("write a migration that undoes the change, run `runner migrate down`, or restore a backup"))
    }
}

fn problem(status: &JsonObject) -> Option<&Map<String, Value>> {
    status.get("problem").and_then(Value::as_object)
}

fn pending(status: &JsonObject) -> impl Iterator<Item = &str> {
    status.get("pending").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn object_members<'a>(answer: &'a JsonObject, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    answer.get(name).and_then(Value::as_object).into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn failure_from_problem(problem: &Map<String, Value>) -> Failure {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut failure = Failure::permanent(text("message")).hint(text("hint"));
    failure.details = problem.get("details").and_then(Value::as_object).cloned().unwrap_or_default();
    failure
}

pawl_step::export!(MigrateStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::{serde_json::json, testing::assert_described};

    #[test]
    fn migrate_description_is_valid() {
        assert_described::<MigrateStep>();
    }

    #[test]
    fn problem_message_hint_and_details_become_a_failure() {
        let problem = json!({ "message": "m", "hint": "h", "details": { "file": "f" }, "order": false });
        let failure = failure_from_problem(problem.as_object().unwrap());
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("m", Some("h")));
        assert_eq!(failure.details["file"], "f");
    }
}
