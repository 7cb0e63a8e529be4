//! The options that select steps, shared by `deploy` and `plan`.

use std::collections::BTreeSet;

use crate::deploy::DeployOverrides;
use contract::StepId;
use journal::decision::Selection;

#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SelectionArgs {
    /// Start at this step, and assume that the steps before it are done
    #[arg(long, value_name = "STEP", conflicts_with_all = ["until", "only"])]
    start_from: Option<StepId>,
    /// Stop after this step
    #[arg(long, value_name = "STEP", conflicts_with = "only")]
    until: Option<StepId>,
    /// Run only this step, and assume that the steps before it are done
    #[arg(long, value_name = "STEP")]
    only: Option<StepId>,
    /// Run this step again, and what depends on it; may be given more than once
    #[arg(long, value_name = "STEP", conflicts_with_all = ["start_from", "until", "only"])]
    rerun: Vec<StepId>,
    /// Ignore the records; steps that must not run twice are still probed
    #[arg(long)]
    fresh: bool,
    /// Run this step although it is in doubt, by drift or an unknown outcome; may be given more than once
    #[arg(long, value_name = "STEP")]
    accept_drift: Vec<StepId>,
}

/// The option that chooses hosts.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LimitArgs {
    /// Work only on these hosts, by names, groups and labels, `!` excludes: web-2,canary,!db. The release does not count as verified
    #[arg(long, value_name = "HOSTS")]
    pub(super) limit: Option<String>,
}

impl LimitArgs {
    /// The option as a command line has it, with a space before it; empty without one.
    pub(super) fn as_argument(&self) -> String {
        let Some(limit) = &self.limit else { return String::new() };
        // A shell takes `!` and spaces for something else.
        let is_plain = !limit.contains(|c: char| c == '!' || c.is_whitespace());
        if is_plain { format!(" --limit {limit}") } else { format!(" --limit '{limit}'") }
    }
}

impl SelectionArgs {
    pub(super) fn overrides(&self) -> DeployOverrides {
        let selection = match (&self.start_from, &self.until, &self.only) {
            (Some(step), _, _) => Selection::StartFrom(step.clone()),
            (_, Some(step), _) => Selection::Until(step.clone()),
            (_, _, Some(step)) => Selection::Only(step.clone()),
            (None, None, None) => Selection::All,
        };
        let accept_drift: BTreeSet<_> = self.accept_drift.iter().cloned().collect();
        let rerun: BTreeSet<_> = self.rerun.iter().cloned().collect();
        DeployOverrides { selection, fresh: self.fresh, accept_drift, rerun, ..DeployOverrides::default() }
    }
}
