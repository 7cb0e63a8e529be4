//! Brings a database's schema up to date: SQL files in the form of sqlx, dbmate, or plain numbered ones, each applied once.
//!
//! The work is the host's (runner/src/sandbox/migrate), since it lives from the session: its lock, its transactions and its loss. Here
//! is what the step owes the runner: what it needs, what it would do, and whether its effect holds.
//!
//! Deliberately absent: undoing. A migration may have destroyed what an older schema needs; `runner migrate down` is an operator's.

use pawl_step::migrations::{self, JsonObject};
use pawl_step::serde_json::{Map, Value};
use pawl_step::{
    Access, Action, Capability, CapabilityNeed, Change, Description, Failure, Finding, Input, Phase, ProbeSupport,
    Receipt, RerunSafety, Step,
};

/// The module.
#[derive(Debug)]
pub struct Migrate;

/// The step's `with:`; all but the two names goes to the host as it is.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(transparent)]
pub struct Config(Map<String, Value>);

impl Config {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn ask(&self, call: fn(&str, &str, &JsonObject) -> Result<JsonObject, Failure>) -> Result<JsonObject, Failure> {
        call(self.text("database"), self.text("dir"), &self.0)
    }
}

impl Step for Migrate {
    type Config = Config;

    fn describe() -> Description {
        Description {
            name: "migrate",
            version: env!("CARGO_PKG_VERSION"),
            summary: "applies SQL files to a database, each once, whatever is killed when",
            config: include_str!("../config.schema.json"),
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(Access::Read),
                    config: Some("/dir"),
                    reason: "has the migrations",
                },
                CapabilityNeed { capability: Capability::Databases, config: Some("/database"), reason: "is migrated" },
            ],
            phase: Phase::Commit,
            exposes: false,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: false,
        }
    }

    fn preview(input: &Input<Config>) -> Result<Vec<Change>, Failure> {
        let status = input.config.ask(migrations::status)?;
        if let Some(problem) = problem(&status) {
            return Err(failure(problem));
        }
        let (dir, database) = (input.config.text("dir"), input.config.text("database"));
        let change = |file: &str| Change::new(Action::Run, format!("{dir}/{file}"), format!("on database {database}"));
        Ok(pending(&status).map(change).collect())
    }

    fn apply(input: &Input<Config>) -> Result<Receipt, Failure> {
        let done = input.config.ask(migrations::apply)?;
        let mut receipt = Receipt::new();
        for (name, value) in members(&done, "outputs") {
            receipt = receipt.output(name, value.clone());
        }
        for (name, value) in members(&done, "notes") {
            receipt = receipt.note(name, value.clone());
        }
        Ok(receipt)
    }

    fn probe(input: &Input<Config>) -> Result<Finding, Failure> {
        let status = input.config.ask(migrations::status)?;
        Ok(match problem(&status) {
            // A file out of order is not applied either; `apply` says what is wrong with it.
            Some(problem) if problem.get("order") == Some(&Value::Bool(true)) => Finding::Absent,
            Some(problem) => Finding::Drifted(failure(problem).message),
            None if pending(&status).next().is_some() => Finding::Absent,
            None => {
                let output = |name: &str| status.get(name).cloned().unwrap_or_default();
                Finding::Held(Receipt::new().output("version", output("version")).output("applied", output("applied")))
            }
        })
    }

    fn revert(input: &Input<Config>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!(
            "migrations are not undone: step `{}` leaves the database as it is",
            input.step
        ))
        .hint("write a new migration that undoes it, `runner migrate down`, or restore a backup"))
    }
}

fn problem(status: &JsonObject) -> Option<&Map<String, Value>> {
    status.get("problem").and_then(Value::as_object)
}

fn pending(status: &JsonObject) -> impl Iterator<Item = &str> {
    status.get("pending").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn members<'a>(answer: &'a JsonObject, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    answer.get(name).and_then(Value::as_object).into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn failure(problem: &Map<String, Value>) -> Failure {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut failure = Failure::permanent(text("message")).hint(text("hint"));
    failure.details = problem.get("details").and_then(Value::as_object).cloned().unwrap_or_default();
    failure
}

pawl_step::export!(Migrate);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::{serde_json::json, testing::assert_described};

    #[test]
    fn describes_itself() {
        assert_described::<Migrate>();
    }

    #[test]
    fn a_problem_keeps_its_words() {
        let problem = json!({ "message": "m", "hint": "h", "details": { "file": "f" }, "order": false });
        let failure = failure(problem.as_object().unwrap());
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("m", Some("h")));
        assert_eq!(failure.details["file"], "f");
    }
}
