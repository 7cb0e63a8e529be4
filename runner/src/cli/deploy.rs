//! `runner deploy`, and `runner --local`.

use std::{cell::RefCell, mem::ManuallyDrop, rc::Rc, sync::Arc};

use super::{
    ci,
    deployments::Deployments,
    github, permission, places,
    screen::Screen,
    selection,
    source::{self, PlanArgs, ReleaseArgs},
    wait::WaitArgs,
};
use crate::{
    deploy::{Deployment, Interrupt, MissingJournal, Orders, Prepared, Setting, Wanted},
    report::Conclusion,
};
use contract::diagnostic::{Code, Diagnostic, Exit, Notice};
use journal::{
    State,
    event::{Header, ROLLBACK},
    file::Observer,
};
use plan::Plan;
use state::{Store, Wait, checkpoints::Shown};

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
    /// In a CI's re-run, what it means that the journal of the attempts before is not found
    #[arg(long, value_name = "POLICY", env = "PAWL_MISSING_JOURNAL", hide_env = true, default_value = "probe")]
    missing_journal: Missing,
}

/// What a missing journal means.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Missing {
    /// Every step may have been begun: its probe is asked
    Probe,
    /// Nothing is done
    Fail,
    /// Nothing was begun
    Restart,
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
        orders: Orders { by, missing_journal: args.missing_journal.into(), ..args.selection.orders() },
        wait: args.wait.wait(),
        again: &again,
    };
    deploy(job, screen).await
}

impl From<Missing> for MissingJournal {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Probe => Self::Probe,
            Missing::Fail => Self::Fail,
            Missing::Restart => Self::Restart,
        }
    }
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
    screen.mask(plan.secrets.values().chain(&ci::secrets()));
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let store = Store::new(&plan.state, &plan.app, &plan.environment);
    let store =
        ci::checkpointed(store, &plan.source.path, &plan.app, &plan.environment, &|notice| (setting.tell)(notice));
    let store = store.map_err(one)?;
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
    let listed = RefCell::new(None);
    let released_of = commit.clone();
    let orders_missing = orders.missing_journal;
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
        *listed.borrow_mut() = Deployments::begin(&prepared.plan, &prepared.release.label, released_of.as_deref());
        let checkpoints = store.checkpoints().cloned();
        if let Some(shown) = checkpoints.as_ref().map(|checkpoints| checkpoints.shown()) {
            whence(&shown, orders_missing).into_iter().for_each(|notice| tell(notice));
        }
        Box::new(move |entry| {
            checkpoints.iter().for_each(|checkpoints| checkpoints.observe(entry));
            report.borrow_mut().iter_mut().for_each(|report| report.event(entry));
        })
    };
    let ending = deployment.run(interrupt, observe).await;
    let kept = store.checkpoints().map(|checkpoints| checkpoints.shown()).unwrap_or_default();
    if let Some(trouble) = &kept.trouble {
        tell(Notice::warning(format!("the end of the journal is not among the artifacts of this run: {trouble}")));
    }
    let told = match listed.take() {
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
    let (journal, resumed_from) = (kept.newest.unwrap_or_default(), kept.resumed_from.unwrap_or_default());
    let outputs = |run: &str, release: &str| {
        screen.outputs(&[
            ("run", run),
            ("release", release),
            ("url", prepared.plan.url.as_deref().unwrap_or_default()),
            ("journal", &journal),
            ("resumed-from", &resumed_from),
        ]);
    };
    // How it ended is said by whoever is told of the problems.
    let ending = ending.inspect_err(|_| outputs("", prepared.release.label.as_str()))?;
    if let Some(report) = report.borrow_mut().as_mut() {
        report.finish(&Conclusion { exit: ending.exit, error: ending.error.as_ref() });
    }
    ending.warnings.into_iter().for_each(|warning| tell(warning));
    if let Some(error) = &ending.error {
        screen.error(error);
    }
    screen.outputs(&[("result", &github::result(ending.exit))]);
    outputs(ending.header.run.as_str(), ending.header.release.label.as_str());
    Ok(ending.exit)
}

/// Where what is known of earlier attempts of this CI run comes from.
fn whence(shown: &Shown, missing: MissingJournal) -> Vec<Notice> {
    let passed_over = shown.passed_over.iter();
    let mut notices: Vec<Notice> =
        passed_over.map(|why| Notice::warning(format!("passed over an artifact of this run: {why}"))).collect();
    if let Some(name) = &shown.resumed_from {
        notices.push(Notice::note(format!("goes on from the journal in artifact {name}")));
    }
    if shown.is_missing {
        let then = match missing {
            MissingJournal::Probe | MissingJournal::Fail => "what is not on record here is probed before it runs",
            MissingJournal::Restart => "it starts from the beginning, as `missing_journal: restart` says",
        };
        notices.push(Notice::warning(format!(
            "the attempts before left no journal among the artifacts of this run; {then}"
        )));
    }
    notices
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
