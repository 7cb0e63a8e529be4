//! What programs that steps and hooks start find in their environment, beside what the plan grants.
//!
//! They are told whose deployment they are part of, so that a `runner` among them neither waits for our lock nor takes part
//! without it. Deliberately absent: what that runner does with it (`cli::guards`).

use std::borrow::Cow;

use contract::Secret;
use journal::event::JournalHeader;
use plan::{ConfidentialText, EnvGrant, PlanStep};
use state::{LockToken, StateStore};

/// Variables for the programs that a deployment starts, beside those that the plan grants.
pub(super) struct StepEnvironment(Vec<(&'static str, String)>);

impl StepEnvironment {
    pub(super) fn new(store: &StateStore, token: &LockToken, header: &JournalHeader, within: &[String]) -> Self {
        let ours = format!("{} {}", token.resource, store.address());
        let within: Vec<_> = within.iter().cloned().chain([ours]).collect();
        Self(vec![
            ("PAWL_WITHIN", within.join("\n")),
            ("PAWL_LOCK", token.to_string()),
            ("PAWL_STATE", store.address()),
            ("PAWL_APP", header.app.to_string()),
            ("PAWL_ENVIRONMENT", header.environment.to_string()),
            ("PAWL_RELEASE", header.release.label.to_string()),
            ("PAWL_RUN", header.run.to_string()),
        ])
    }

    pub(super) fn set(&mut self, name: &'static str, value: String) {
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value));
    }

    /// A step with the variables, if it can start programs. Its fingerprint does not include them.
    pub(super) fn apply_to<'s>(&self, step: &'s PlanStep) -> Cow<'s, PlanStep> {
        if step.grants.programs.is_empty() {
            return Cow::Borrowed(step);
        }
        let mut step = step.clone();
        for (name, value) in &self.0 {
            let confidential = ConfidentialText { written: value.clone(), value: Secret::new(value.clone()) };
            step.grants.env.insert((*name).to_owned(), EnvGrant::Set(confidential));
        }
        Cow::Owned(step)
    }
}
