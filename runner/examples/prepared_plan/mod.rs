//! A plan of a benchmark, with its modules loaded.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow};
use contract::Label;
use plan::{Plan, PlanRequest, PlanSource};
use runner::deploy::{PinPolicy, PreflightOptions, PreflightScope, PreparedPlan, RequestedRelease};
use sandbox::UserPaths;

/// Prepares the plan for the release `r1`. Relative paths begin at the folder.
pub async fn prepare(folder: &Path, text: &str) -> Result<PreparedPlan> {
    let label: Label = "r1".parse()?;
    let source = PlanSource { path: "(bench)".into(), folder: folder.to_owned(), text: text.into() };
    let request = PlanRequest { environment: None, release: &label, env: &|_| None, inventory: &plan::no_inventory };
    let plan = Plan::parse(source, &request).map_err(|errors| anyhow!("{errors:?}"))?;
    let setting = PreflightOptions {
        cache_dirs: UserPaths::default(),
        notify: std::sync::Arc::new(|_| {}),
        pin_policy: PinPolicy::Disabled,
        scope: PreflightScope::Machine,
        job_secrets: BTreeMap::new(),
        limit: None,
    };
    PreparedPlan::new(plan, RequestedRelease { label, digest: None }, setting)
        .await
        .map_err(|problems| anyhow!("{problems:?}"))
}
