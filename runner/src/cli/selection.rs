//! The options that choose steps, shared by `deploy` and `plan`.

use std::collections::BTreeSet;

use crate::deploy::DeployOverrides;
use contract::StepId;
use journal::decision::Selection;

#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct SelectionArgs {
    /// Run from this step on; what comes before is taken as done, on your word
    #[arg(long, value_name = "STEP", conflicts_with_all = ["until", "only"])]
    start_from: Option<StepId>,
    /// Stop after this step
    #[arg(long, value_name = "STEP", conflicts_with = "only")]
    until: Option<StepId>,
    /// Run this step only; what comes before is taken as done, on your word
    #[arg(long, value_name = "STEP")]
    only: Option<StepId>,
    /// Ignore what is on record; what must not be repeated is still probed
    #[arg(long)]
    fresh: bool,
    /// Run this step although something else was found in its place; may be given more than once
    #[arg(long, value_name = "STEP")]
    accept_drift: Vec<StepId>,
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
        DeployOverrides { selection, fresh: self.fresh, accept_drift, ..DeployOverrides::default() }
    }
}
