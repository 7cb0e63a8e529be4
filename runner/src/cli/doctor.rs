//! `runner doctor`: checks whether this machine and this plan are ready for a deployment. Nothing is deployed, but writable
//! directories are created, as a deployment would.

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

/// Runs the checks in the order of a deployment, up to the first error.
///
/// # Errors
/// The first error.
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
    findings.push(("steps", format!("{} loaded, with all required grants", prepared.steps.len())));
    prepared.check_resources()?;
    prepared.check_migrations(None).await?;
    findings.push(("resources", "directories are writable and have free space".to_owned()));
    let state = attempts::load_state(&store).map_err(|error| vec![error])?;
    findings.push(("journals", format!("{} attempts on record, all sound", state.attempts.len())));
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
