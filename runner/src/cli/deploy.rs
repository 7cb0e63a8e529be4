//! `runner deploy`, and `runner --local`.

use std::{cell::RefCell, mem::ManuallyDrop, rc::Rc, sync::Arc};

use super::{
    places,
    screen::Screen,
    selection,
    source::{self, PlanArgs, ReleaseArgs},
    wait::WaitArgs,
};
use crate::{
    diagnose::{Code, Diagnostic, Exit},
    drive::{Deployment, Interrupt, Orders, Prepared, Setting},
    journal::{State, event::Header, file::Observer},
    plan::{Attempt, Label, Plan},
    report::{Conclusion, words},
    state::{Store, Wait},
};

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Deploy from here, outside a CI
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    selection: selection::Args,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Deploys.
///
/// # Errors
/// What keeps an attempt from beginning. One that began is told of by its report, and ends with an exit code.
pub(super) async fn run(args: &Args, screen: &Screen) -> Result<Exit, Vec<Diagnostic>> {
    allowed(args.local, "deploy")?;
    let (plan, label) = args.plan.plan(&args.release)?;
    deploy(plan, label, places::setting(screen.tell()), args.selection.orders(), args.wait.wait(), &again(args), screen)
        .await
}

/// Outside a CI, a command that changes something says so: no accident from a laptop.
pub(super) fn allowed(local: bool, command: &str) -> Result<(), Vec<Diagnostic>> {
    if local || source::is_ci() {
        return Ok(());
    }
    let message = format!("`runner {command}` changes things, and this is no CI");
    Err(vec![Diagnostic::new(Code("P0208"), Exit::Refused, message).hint("if you mean it, add `--local`")])
}

/// Deploys a plan and tells of it on the screen.
pub(super) async fn deploy(
    plan: Plan,
    label: Label,
    setting: Setting,
    orders: Orders,
    wait: Wait,
    again: &str,
    screen: &Screen,
) -> Result<Exit, Vec<Diagnostic>> {
    let interrupt = Interrupt::listen().map_err(|error| {
        vec![
            Diagnostic::new(Code("P0701"), Exit::Bug, "signals can't be handled")
                .because(error)
                .hint("please report this"),
        ]
    })?;
    let tell = Arc::clone(&setting.tell);
    let store = Store::new(&plan.state, &plan.app, &plan.environment);
    let prepared = tokio::select! {
        prepared = Prepared::new(plan, label, setting) => prepared?,
        _ = interrupt.asked() => {
            let message = "interrupted before anything was begun";
            return Err(vec![Diagnostic::new(Code("P0303"), Exit::Interrupted, message).hint(format!("run `{again}` again"))]);
        }
    };
    // The process ends soon after; taking an engine apart takes longer than a small step.
    let prepared = ManuallyDrop::new(prepared);
    if let Some(notice) = prepared.pins.add_new() {
        tell(notice);
    }
    let deployment = Deployment {
        prepared: &prepared,
        store: &store,
        orders,
        by: source::who(),
        url: source::job(),
        wait,
        again: again.to_owned(),
    };
    let report = Rc::new(RefCell::new(None));
    let observe = |before: &State, header: &Header| -> Observer {
        let report = Rc::clone(&report);
        let last = before.attempts.last().filter(|_| header.attempt != Attempt::FIRST);
        let continues = last.map(|last| words::continues_after(last.exit, last.stuck.as_ref()));
        *report.borrow_mut() = Some(screen.report(continues));
        Box::new(move |entry| report.borrow_mut().iter_mut().for_each(|report| report.event(entry)))
    };
    let ending = deployment.run(interrupt, observe).await?;
    if let Some(report) = report.borrow_mut().as_mut() {
        report.finish(&Conclusion { exit: ending.exit, error: ending.error.as_ref() });
    }
    if let Some(error) = &ending.error {
        screen.error(error);
    }
    Ok(ending.exit)
}

/// The command that continues this deployment, as the user would type it.
fn again(args: &Args) -> String {
    let mut command = "runner".to_owned();
    if args.local {
        command += " --local";
    }
    if args.plan.plan.as_os_str() != "deploy.yml" {
        command += &format!(" --plan {}", args.plan.plan.display());
    }
    if let Some(environment) = &args.plan.environment {
        command += &format!(" --env {environment}");
    }
    if let Some(release) = &args.release.release {
        command += &format!(" --release {release}");
    }
    command
}
