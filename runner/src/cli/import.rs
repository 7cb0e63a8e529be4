//! `runner import`: adds a release that is live, and that the history does not know, to the history.
//!
//! It is a deployment that only adopts: it compares the release's digest and the folder with the archive, records what its probes find,
//! and runs the checks. It changes nothing.

use super::{
    deploy::{self, DeployRequest},
    guards,
    output::CommandOutput,
    source::{self, PlanSourceArgs, ReleaseArgs},
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::deploy::{DeployOverrides, PreflightOptions, PreflightScope, RequestedRelease};
use contract::diagnostic::{Diagnostic, ExitKind};
use journal::event::IMPORT;

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Imports the live release.
///
/// # Errors
/// P0227 when another release is live, P0228 when the history knows what is live; otherwise as a deployment.
pub(super) async fn run(args: &ImportArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    guards::require_local_flag(args.local, "import")?;
    let (plan, label) = args.plan.plan(&args.release)?;
    let again = format!("{} --release {label}", deploy::command_line("import", args.local, &args.plan));
    let request = DeployRequest {
        plan,
        release: RequestedRelease { label, digest: None },
        // A named release was put there earlier, perhaps from another commit.
        commit: match args.release.release {
            Some(_) => source::ci_commit(),
            None => source::release_commit(&args.plan, &args.release),
        },
        // Nothing of the plan runs but checks.
        preflight: PreflightOptions { scope: PreflightScope::Plan, ..xdg_dirs::preflight_options(screen.notifier()) },
        overrides: DeployOverrides { command: Some(IMPORT), ..DeployOverrides::default() },
        verified_deployment: None,
        wait: args.wait.wait(),
        resume_command: &again,
        resolve_command: Some(deploy::command_line("resolve", args.local, &args.plan)),
    };
    deploy::deploy(request, screen).await
}
