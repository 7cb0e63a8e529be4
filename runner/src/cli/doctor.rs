//! `runner doctor`: whether this machine and this plan are fit for a deployment. Nothing is deployed; writable directories are
//! made, as a deployment would.

use std::{fmt::Write as _, io::Write};

use serde_json::json;

use super::{
    attempts,
    output::CommandOutput,
    source::{self, PlanSourceArgs, ReleaseArgs},
    xdg_dirs,
};
use crate::{
    deploy::{PreparedPlan, RequestedRelease},
    report::{self, OutputFormat, json},
};
use contract::diagnostic::{Diagnostic, ExitKind};
use sandbox;
use state::{LockRequest, StateStore};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    #[command(flatten)]
    release: ReleaseArgs,
}

/// Checks in the order of a deployment; the first thing that is wrong ends it.
///
/// # Errors
/// What is wrong.
pub(super) async fn run(
    args: &DoctorArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let mut findings: Vec<(&str, String)> = Vec::new();
    let modules: Vec<_> = sandbox::official_module_names().collect();
    findings.push(("runner", format!("{} with modules {}", env!("CARGO_PKG_VERSION"), modules.join(", "))));
    let (plan, label) = args.plan.plan(&args.release)?;
    screen.mask(plan.secrets.values());
    findings.push(("plan", format!("{} is valid for {}", args.plan.plan.display(), plan.environment)));
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    let prepared = PreparedPlan::new(
        plan,
        RequestedRelease { label, digest: None },
        xdg_dirs::preflight_options(screen.stderr_notifier()),
    )
    .await?;
    let digest = prepared.release.digest.as_ref().map_or_else(|| "no digest".to_owned(), ToString::to_string);
    findings.push(("release", format!("{} is {digest}", prepared.release.label)));
    findings.push(("steps", format!("{} load, and have what they need", prepared.steps.len())));
    prepared.check_resources()?;
    prepared.check_migrations(None).await?;
    findings.push(("resources", "directories can be written and have room".to_owned()));
    let state = attempts::load_state(&store).map_err(|error| vec![error])?;
    findings.push(("journals", format!("{} attempts are on record and sound", state.attempts.len())));
    let lock =
        store.acquire_lock(LockRequest::new(&source::user_at_host())).await.map_err(|error| vec![(&error).into()])?;
    lock.close(std::time::Duration::from_secs(10)).await.map_err(|error| vec![(&error).into()])?;
    findings.push(("lock", "free".to_owned()));
    let answer = match screen.format() {
        OutputFormat::Json => {
            let object: serde_json::Map<_, _> =
                findings.iter().map(|(what, finding)| ((*what).to_owned(), json!(finding))).collect();
            json::line(&object) + "\n"
        }
        OutputFormat::Text => findings.iter().fold(String::new(), |mut text, (what, finding)| {
            let _ = writeln!(text, "  ok  {what:<10} {finding}");
            text
        }),
    };
    report::write_answer(out, &answer).map_err(|error| vec![error])?;
    Ok(ExitKind::Success)
}
