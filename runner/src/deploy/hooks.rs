//! What runs around the steps: hooks, in each attempt, never skipped, under the lock.
//!
//! Invariant: `before` ends the attempt if it fails, while nothing is touched; `after` and `on-failure` change nothing about how
//! an attempt ends. Programs that steps and hooks start are told whose deployment they are part of, so that a `runner` among
//! them neither waits for our lock nor takes part without it. Deliberately absent: what that runner does with it (`cli::permission`).

use std::borrow::Cow;

use super::{Halt, Ready, attempt::Attempt, prune};
use contract::{
    Secret,
    diagnostic::{Exit, Notice},
};
use journal::event::Header;
use plan::{Confidential, EnvGrant, Step};
use state::{Store, Token};

/// Variables for the programs that a deployment starts, beside those that the plan grants.
pub(super) struct Surroundings(Vec<(&'static str, String)>);

impl Surroundings {
    pub(super) fn new(store: &Store, token: &Token, header: &Header, within: &[String]) -> Self {
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

    fn set(&mut self, name: &'static str, value: String) {
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value));
    }

    /// A step with them, if it can start programs. The fingerprint is not of this one.
    pub(super) fn around<'s>(&self, step: &'s Step) -> Cow<'s, Step> {
        if step.grants.programs.is_empty() {
            return Cow::Borrowed(step);
        }
        let mut step = step.clone();
        for (name, value) in &self.0 {
            let confidential = Confidential { written: value.clone(), value: Secret::new(value.clone()) };
            step.grants.env.insert((*name).to_owned(), EnvGrant::Set(confidential));
        }
        Cow::Owned(step)
    }
}

impl Attempt<'_> {
    /// Everything from the first hook to the last step.
    pub(super) async fn procedure(&mut self) -> Result<(), Halt> {
        let prepared = self.prepared;
        for hook in &prepared.hooks.before {
            self.hook(hook).await?;
        }
        self.steps().await
    }

    /// What runs at the end, whichever end it is. Returns what went wrong there.
    pub(super) async fn closing_hooks(&mut self, exit: Exit) -> Vec<Notice> {
        let prepared = self.prepared;
        let (hooks, result) = match exit {
            Exit::Success => (&prepared.hooks.after, "deployed"),
            Exit::Failed => (&prepared.hooks.on_failure, "failed"),
            Exit::RolledBack => (&prepared.hooks.on_failure, "rolled-back"),
            Exit::InDoubt => (&prepared.hooks.on_failure, "in-doubt"),
            Exit::Refused | Exit::Locked | Exit::Journal | Exit::Bug | Exit::Interrupted => return Vec::new(),
        };
        self.surroundings.set("PAWL_RESULT", result.to_owned());
        let stuck = self.journal.state().attempts.last().and_then(|attempt| attempt.stuck.as_ref());
        if let Some(place) = stuck.filter(|_| exit != Exit::Success) {
            let step = place.step.to_string();
            self.surroundings.set("PAWL_FAILED_STEP", step);
        }
        let mut warnings = Vec::new();
        for hook in hooks {
            if let Err(halt) = self.hook(hook).await {
                warnings.push(Notice::warning(format!("hook {}: {}", hook.place, self.hook_words(&halt))));
            }
        }
        warnings
    }

    /// Removes old releases once this one is verified, if the plan says how many stay, and while the lock is ours. That it could not
    /// changes nothing. `neighbours` are the states of the plan's other environments, which may share a folder.
    pub(super) async fn prune(&self, neighbours: &[Store]) -> Option<Notice> {
        let keep = self.prepared.plan.keep?;
        let failed = match self.confirmed().await {
            Ok(()) => prune::prune(&self.prepared.plan, self.journal.state(), neighbours, keep).err()?.to_string(),
            Err(halt) => format!("old releases stay: {}", self.hook_words(&halt)),
        };
        Some(Notice::warning(format!("{failed}; the deployment stands")))
    }

    async fn hook(&mut self, hook: &Ready) -> Result<(), Halt> {
        self.interrupt.check()?;
        let question = self.view().ask(hook, true)?;
        self.act(&question).await.map(drop)
    }

    fn hook_words(&self, halt: &Halt) -> String {
        let redactor = self.journal.redactor();
        match halt {
            Halt::Failed { failure, .. } => redactor.text(&failure.message),
            Halt::Interrupted => "not run: interrupted".to_owned(),
            Halt::Plan(diagnostic) => redactor.text(&diagnostic.message),
            Halt::Lock(error) => error.to_string(),
            Halt::Journal(error) => error.to_string(),
            Halt::InDoubt { .. } | Halt::NotUndone { .. } | Halt::Irreversible { .. } => {
                "it did not end well".to_owned()
            }
        }
    }
}
