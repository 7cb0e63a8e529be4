//! The environment variables that every program started by a step or hook gets, in addition to the granted ones.
//!
//! They identify the deployment and its lock, so that a nested `runner` neither waits for this lock nor deploys without
//! it. Deliberately absent: the checks of the nested runner (`cli::guards`).

use std::borrow::Cow;

use contract::Secret;
use journal::event::JournalHeader;
use plan::{ConfidentialText, EnvGrant, PlanStep};
use state::{LockToken, StateStore};

/// The variables that mean something only on the machine of the deployment.
const MACHINE_VARIABLES: [&str; 3] = ["PAWL_WITHIN", "PAWL_LOCK", "PAWL_STATE"];

/// The `PAWL_…` variables for the programs that a deployment starts.
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

    /// Adds the variables to a step that can start programs. The fingerprint of the step does not include them.
    pub(super) fn apply_to<'s>(&self, step: &'s PlanStep) -> Cow<'s, PlanStep> {
        if step.grants.programs.is_empty() {
            return Cow::Borrowed(step);
        }
        // Nothing on another host can reach the state or prove that it runs under this lock.
        let is_for = |name: &str| step.remote_host().is_none() || !MACHINE_VARIABLES.contains(&name);
        let mut granted = step.clone();
        for (name, value) in self.0.iter().filter(|(name, _)| is_for(name)) {
            let confidential = ConfidentialText { written: value.clone(), value: Secret::new(value.clone()) };
            granted.grants.env.insert((*name).to_owned(), EnvGrant::Set(confidential));
        }
        Cow::Owned(granted)
    }
}
