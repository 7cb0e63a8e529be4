//! `runner deploy`, and `runner --local`.

use std::{cell::RefCell, mem::ManuallyDrop, rc::Rc, sync::Arc};

use super::{
    deployments::Deployments,
    github, permission, places,
    screen::Screen,
    selection,
    source::{self, PlanArgs, ReleaseArgs},
    wait::WaitArgs,
};
use crate::{
    diagnose::{Code, Diagnostic, Exit},
    drive::{Deployment, Interrupt, Orders, Prepared, Setting, Wanted},
    journal::{
        State,
        event::{Header, ROLLBACK},
        file::Observer,
    },
    plan::Plan,
    report::Conclusion,
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

/// What to deploy, and how.
pub(super) struct Job<'a> {
    pub(super) plan: Plan,
    pub(super) wanted: Wanted,
    /// The commit that the release is of, if it is known.
    pub(super) commit: Option<String>,
    pub(super) setting: Setting,
    pub(super) orders: Orders,
    pub(super) wait: Wait,
    /// The command that continues this deployment.
    pub(super) again: &'a str,
}

/// Deploys, after what is done once for an environment if that is asked for.
///
/// # Errors
/// What keeps an attempt from beginning. One that began is told of by its report, and ends with an exit code.
pub(super) async fn run(args: &Args, setup: Setup, screen: &Screen) -> Result<Exit, Vec<Diagnostic>> {
    let (name, by) = match setup {
        Setup::Done => ("deploy", None),
        Setup::First => ("setup", Some("setup")),
    };
    permission::local(args.local, name)?;
    let (plan, label) = args.plan.plan(&args.release)?;
    let plan = match setup {
        Setup::Done => plan,
        Setup::First => plan.for_setup(),
    };
    let mut again = command(name, args.local, &args.plan);
    if let Some(release) = &args.release.release {
        again += &format!(" --release {release}");
    }
    let job = Job {
        plan,
        wanted: Wanted { label, digest: None },
        commit: source::commit(&args.plan, &args.release),
        setting: places::setting(screen.tell()),
        orders: Orders { by, ..args.selection.orders() },
        wait: args.wait.wait(),
        again: &again,
    };
    deploy(job, screen).await
}

/// Whether what is done once for an environment is part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// `runner setup`.
    First,
    /// `runner deploy`.
    Done,
}

/// The one way to change an environment: deploys a plan and tells of it on the screen.
pub(super) async fn deploy(job: Job<'_>, screen: &Screen) -> Result<Exit, Vec<Diagnostic>> {
    let Job { plan, wanted, commit, setting, orders, wait, again } = job;
    screen.mask(plan.secrets.values());
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let store = Store::new(&plan.state, &plan.app, &plan.environment);
    permission::person(&plan).map_err(one)?;
    permission::nesting(&store).map_err(one)?;
    let interrupt = Interrupt::listen().map_err(|error| {
        one(Diagnostic::new(Code("P0701"), Exit::Bug, "signals can't be handled")
            .because(error)
            .hint("please report this"))
    })?;
    let tell = Arc::clone(&setting.tell);
    let prepared = tokio::select! {
        prepared = Prepared::new(plan, wanted, setting) => prepared?,
        _ = interrupt.asked() => {
            let message = "interrupted before anything was begun";
            return Err(one(Diagnostic::new(Code("P0303"), Exit::Interrupted, message).hint(format!("run `{again}` again"))));
        }
    };
    // What goes back was verified here already.
    if orders.by != Some(ROLLBACK) {
        permission::order(&prepared.plan, &prepared.release).map_err(one)?;
    }
    // The process ends soon after; taking an engine apart takes longer than a small step.
    let prepared = ManuallyDrop::new(prepared);
    if let Some(notice) = prepared.pins.add_new() {
        tell(notice);
    }
    let neighbours = prepared.plan.keep.map(|_| {
        let args = PlanArgs { plan: prepared.plan.source.path.clone(), environment: None };
        args.neighbours(&prepared.plan.environment)
    });
    let listed = Deployments::begin(&prepared.plan, &prepared.release.label, commit.as_deref());
    let deployment = Deployment {
        neighbours: neighbours.unwrap_or_default(),
        within: permission::within(),
        prepared: &prepared,
        store: &store,
        orders,
        by: source::who(),
        commit,
        url: source::job(),
        wait,
        again: again.to_owned(),
    };
    let report = Rc::new(RefCell::new(None));
    let observe = |before: &State, header: &Header| -> Observer {
        let report = Rc::clone(&report);
        *report.borrow_mut() = Some(screen.report(before, header, again));
        Box::new(move |entry| report.borrow_mut().iter_mut().for_each(|report| report.event(entry)))
    };
    let ending = deployment.run(interrupt, observe).await;
    let told = match listed {
        Some(Ok(listed)) => {
            let (exit, error) = match &ending {
                Ok(ending) => (ending.exit, ending.error.as_ref()),
                Err(problems) => (problems.first().map_or(Exit::Bug, |first| first.exit), problems.first()),
            };
            listed.end(exit, error).await
        }
        Some(Err(notice)) => Some(notice),
        None => None,
    };
    told.into_iter().for_each(|notice| tell(notice));
    let ending = ending?;
    if let Some(report) = report.borrow_mut().as_mut() {
        report.finish(&Conclusion { exit: ending.exit, error: ending.error.as_ref() });
    }
    ending.warnings.into_iter().for_each(|warning| tell(warning));
    if let Some(error) = &ending.error {
        screen.error(error);
    }
    screen.outputs(&[
        ("result", &github::result(ending.exit)),
        ("run", ending.header.run.as_str()),
        ("release", ending.header.release.label.as_str()),
        ("url", prepared.plan.url.as_deref().unwrap_or_default()),
    ]);
    Ok(ending.exit)
}

/// A command that changes things, as the user would type it again.
pub(super) fn command(name: &str, local: bool, plan: &PlanArgs) -> String {
    // `runner --local` is short for `runner deploy --local`.
    let mut command = if name == "deploy" { "runner".to_owned() } else { format!("runner {name}") };
    if local {
        command += " --local";
    }
    if plan.plan.as_os_str() != "deploy.yml" {
        command += &format!(" --plan {}", plan.plan.display());
    }
    if let Some(environment) = &plan.environment {
        command += &format!(" --env {environment}");
    }
    command
}
