//! `runner deploy`, and `runner --local`.

use std::{cell::RefCell, mem::ManuallyDrop, rc::Rc, sync::Arc};

use super::{
    attempt_notices, ci,
    github::{self, FailureObserver},
    github_deployment::{GithubDeployment, GithubDeploymentApi},
    github_high_water_mark::GithubHighWaterMark,
    guards,
    output::CommandOutput,
    plan_file, selection,
    source::{self, PlanSourceArgs, ReleaseArgs},
    verified_deployment::VerifiedDeployment,
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::{
    deploy::{
        AttemptResult, DeployOverrides, DeploymentRequest, Interrupt, MissingJournalPolicy, PreflightOptions,
        PreparedPlan, RequestedRelease, SiblingEnvironment, run as run_deployment,
    },
    report::CommandConclusion,
};
use contract::{
    AttemptNumber,
    diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice},
};
use journal::{
    JournalState,
    event::{JournalHeader, ROLLBACK},
    file::{EntryObserver, JournalObservation},
};
use plan::Plan;
use sandbox::NoticeHandler;
use state::{LockWait, StateStore, checkpoints::CheckpointStatus};

/// Arguments of `deploy`.
#[derive(Debug, clap::Args)]
pub(super) struct DeployArgs {
    /// Deploy from this machine, outside of CI
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    plan: PlanSourceArgs,
    #[command(flatten)]
    release: ReleaseArgs,
    #[command(flatten)]
    selection: selection::SelectionArgs,
    #[command(flatten)]
    hosts: selection::LimitArgs,
    #[command(flatten)]
    wait: LockWaitArgs,
    /// In a re-run of a CI job: what to do if the journal of the earlier attempts is missing
    #[arg(long, value_name = "POLICY", env = "PAWL_MISSING_JOURNAL", hide_env = true, default_value = "probe")]
    missing_journal: MissingJournalArg,
}

/// The policy for a missing journal.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum MissingJournalArg {
    /// Probe every step before it runs
    Probe,
    /// Stop before the first step
    Fail,
    /// Start from the beginning
    Restart,
}

/// A deployment to run.
pub(super) struct DeployRequest<'a> {
    pub(super) plan: Plan,
    pub(super) release: RequestedRelease,
    /// The commit of the release, if it is known.
    pub(super) commit: Option<String>,
    pub(super) preflight: PreflightOptions,
    pub(super) overrides: DeployOverrides,
    /// The files that a promotion must find unchanged.
    pub(super) verified_deployment: Option<VerifiedDeployment>,
    pub(super) wait: LockWait,
    /// The command that continues this deployment.
    pub(super) resume_command: &'a str,
    /// `runner resolve` for its environment, if a plan file says which that is.
    pub(super) resolve_command: Option<String>,
}

/// Deploys, with the setup steps first if `setup` asks for them.
///
/// # Errors
/// The errors that keep an attempt from beginning. Once it has begun, its reporter shows its errors.
pub(super) async fn run(
    args: &DeployArgs,
    setup: SetupMode,
    screen: &CommandOutput,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let ended = deploy_plan(args, setup, screen).await;
    if let Err(problems) = &ended {
        let tell = screen.notifier();
        ci::record_nothing_begun(&args.plan, problems, &*tell).await;
    }
    ended
}

async fn deploy_plan(args: &DeployArgs, setup: SetupMode, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let (name, by) = match setup {
        SetupMode::WithoutSetup => ("deploy", None),
        SetupMode::WithSetup => ("setup", Some("setup")),
    };
    guards::require_local_flag(args.local, name)?;
    let scope = args.selection.overrides().preflight_scope();
    let limit = args.hosts.limit.clone();
    let preflight = PreflightOptions { scope, limit: limit.clone(), ..xdg_dirs::preflight_options(screen.notifier()) };
    let (plan, label) = args.plan.checked_plan(&args.release, preflight.clone()).await?;
    let plan = match setup {
        SetupMode::WithoutSetup => plan,
        SetupMode::WithSetup => plan.for_setup(),
    };
    let mut again = command_line(name, args.local, &args.plan);
    if let Some(release) = &args.release.release {
        again += &format!(" --release {release}");
    }
    again += &args.hosts.as_argument();
    let job = DeployRequest {
        plan,
        release: RequestedRelease { label, digest: None },
        commit: source::release_commit(&args.plan, &args.release),
        preflight,
        overrides: DeployOverrides {
            command: by,
            limit,
            missing_journal: args.missing_journal.into(),
            ..args.selection.overrides()
        },
        verified_deployment: None,
        wait: args.wait.wait(),
        resume_command: &again,
        resolve_command: Some(command_line("resolve", args.local, &args.plan)),
    };
    deploy(job, screen).await
}

impl From<MissingJournalArg> for MissingJournalPolicy {
    fn from(missing: MissingJournalArg) -> Self {
        match missing {
            MissingJournalArg::Probe => Self::Probe,
            MissingJournalArg::Fail => Self::Fail,
            MissingJournalArg::Restart => Self::Restart,
        }
    }
}

/// Whether a deployment includes the setup steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetupMode {
    /// `runner setup`.
    WithSetup,
    /// `runner deploy`.
    WithoutSetup,
}

/// Deploys a plan and reports it. All commands that change an environment end here.
pub(super) async fn deploy(job: DeployRequest<'_>, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let DeployRequest {
        plan,
        release: wanted,
        commit,
        preflight: setting,
        overrides: orders,
        verified_deployment,
        wait,
        resume_command: again,
        resolve_command,
    } = job;
    screen.mask(plan.secrets.values().chain(ci::job_secrets().values()));
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let tell = Arc::clone(&setting.notify);
    let store = open_store(&plan, &*tell).map_err(one)?;
    let lacks_journal = ci::is_retry_without_journal(&store);
    let orders = DeployOverrides { journal_missing: lacks_journal, ..orders };
    guards::check_allowed_user(&plan).await.map_err(one)?;
    guards::check_nesting(&store).map_err(one)?;
    let interrupt = listen_for_signals().map_err(one)?;
    tokio::spawn(say_when_stopping(interrupt.clone(), Arc::clone(&tell)));
    let prepared = tokio::select! {
        prepared = PreparedPlan::new(plan, wanted, setting) => prepared?,
        _ = interrupt.requested() => return Err(one(interrupted_early(again))),
    };
    // The target of a rollback was already verified here.
    if orders.command != Some(ROLLBACK) {
        guards::check_promotion_order(&prepared.plan, &prepared.release).map_err(one)?;
    }
    if let Some(verified) = verified_deployment {
        verified.check(&prepared).await.map_err(one)?;
    }
    // The process ends soon; dropping an engine would take longer than a small step.
    let prepared = ManuallyDrop::new(prepared);
    let lockfile_write = prepared.pins.add_new(Arc::clone(&tell));
    let github_deployment = RefCell::new(None);
    let github_api = github_api(&prepared, &store, commit.as_deref());
    let high_water_mark = keep_high_water_mark(&store, github_api.as_ref(), &tell);
    let missing_journal = orders.missing_journal;
    let deployment = DeploymentRequest {
        notify: Arc::clone(&tell),
        siblings: siblings(&prepared.plan)?,
        parent_deployments: guards::enclosing_deployments(),
        prepared: &prepared,
        store: &store,
        overrides: orders,
        operator: source::user_at_host(),
        commit,
        url: source::job_url(),
        machine: xdg_dirs::machine_id(&tell),
        wait,
        resume_command: again.to_owned(),
        resolve_command,
    };
    let report = Rc::new(RefCell::new(None));
    let context = github::job_context(&prepared, &store, again);
    let failures = Rc::new(RefCell::new(FailureObserver::default()));
    let resumed_from_state = RefCell::new(None);
    let observe = |before: &JournalState, header: &JournalHeader| -> EntryObserver {
        // The modules are pinned before any step runs.
        drop(lockfile_write);
        let (report, failures) = (Rc::clone(&report), Rc::clone(&failures));
        *report.borrow_mut() = Some(screen.deployment_reporter(before, header, &context, &store, &prepared.redactor));
        *github_deployment.borrow_mut() = github_api.clone().map(|api| api.map(GithubDeployment::start));
        let checkpoints = store.checkpoints().cloned();
        if let Some(shown) = checkpoints.as_ref().map(|checkpoints| checkpoints.status()) {
            attempt_notices::of_checkpoints(&shown, missing_journal).into_iter().for_each(|notice| tell(notice));
        }
        if lacks_journal {
            tell(attempt_notices::of_lost_journal(missing_journal));
        }
        attempt_notices::of_attempt(&context, header).into_iter().for_each(|notice| tell(notice));
        if header.attempt != AttemptNumber::FIRST && !store.is_folder() {
            *resumed_from_state.borrow_mut() = Some(store.display_location());
        }
        Box::new(move |observed| match observed {
            JournalObservation::Entry(entry) => {
                checkpoints.iter().for_each(|checkpoints| checkpoints.observe(entry));
                failures.borrow_mut().on_event(entry);
                report.borrow_mut().iter_mut().for_each(|report| report.on_event(entry));
            }
            JournalObservation::Output { step_target, lines } => {
                report.borrow_mut().iter_mut().for_each(|report| report.on_output(step_target, lines));
            }
        })
    };
    let ending = run_deployment(deployment, interrupt, observe).await;
    let mut checkpoint_status = store.checkpoints().map(|checkpoints| checkpoints.status()).unwrap_or_default();
    checkpoint_status.resumed_from = checkpoint_status.resumed_from.or_else(|| resumed_from_state.take());
    if let Some(trouble) = &checkpoint_status.last_error {
        tell(Notice::warning(format!("could not store the end of the journal as an artifact of this run: {trouble}")));
    }
    if let Some(listed) = github_deployment.take() {
        let notice = finish_github_deployment(listed, &ending, &checkpoint_status).await;
        let is_known = high_water_mark.is_some_and(|mark| mark.has_warned());
        notice.into_iter().filter(|_| !is_known).for_each(|notice| tell(notice));
    }
    let outputs = |run: &str, release: &str| set_job_outputs(screen, &prepared.plan, &checkpoint_status, run, release);
    // `report_problems` reports the result of a deployment that did not begin.
    let ending = ending.inspect_err(|_| outputs("", prepared.release.label.as_str()));
    let in_words_of_github = |problems: Vec<Diagnostic>| -> Vec<Diagnostic> {
        problems.iter().map(|problem| failures.borrow().adapted(problem, &context)).collect()
    };
    let ending = if github::is_job() { ending.map_err(in_words_of_github)? } else { ending? };
    if let Some(report) = report.borrow_mut().as_mut() {
        let error = ending.error.as_ref().map(|error| screen.complete(error));
        report.finish(&CommandConclusion { exit: ending.exit, error: error.as_ref() });
    }
    ending.warnings.into_iter().for_each(|warning| tell(warning));
    if let Some(error) = &ending.error {
        let adapted = github::is_job().then(|| failures.borrow().adapted(error, &context));
        screen.show_error(adapted.as_ref().unwrap_or(error));
    }
    screen.set_job_outputs(&[("result", &github::result_output(ending.exit))]);
    outputs(ending.header.run.as_str(), ending.header.release.label.as_str());
    Ok(ending.exit)
}

/// The state of the plan's environment, in a CI job with its checkpoints.
fn open_store(plan: &Plan, notify: &dyn Fn(Notice)) -> Result<StateStore, Diagnostic> {
    let store = StateStore::new(&plan.state, &plan.app, &plan.environment);
    ci::with_checkpoints(store, &plan.source.path, &plan.app, &plan.environment, notify)
}

fn listen_for_signals() -> Result<Interrupt, Diagnostic> {
    Interrupt::listen().map_err(|error| {
        Diagnostic::new(ErrorCode::RunnerFault, "can't set up the signal handlers")
            .with_cause(error)
            .with_hint("if a limit is the cause (`ulimit -n`, `ulimit -u`), raise it; otherwise report this")
    })
}

/// Answers a signal at once: the rest takes a moment.
async fn say_when_stopping(interrupt: Interrupt, notify: NoticeHandler) {
    interrupt.requested().await;
    notify(Notice::note("stopping: running programs are ended, and the journal is saved; this takes up to 7 s"));
}

fn interrupted_early(resume_command: &str) -> Diagnostic {
    Diagnostic::new(ErrorCode::Interrupted, "interrupted before the deployment began")
        .with_hint(format!("run `{resume_command}` again"))
}

/// The plan's other environments, if their releases must not be pruned.
fn siblings(plan: &Plan) -> Result<Vec<SiblingEnvironment>, Vec<Diagnostic>> {
    let others = plan.keep.map(|_| {
        let args = PlanSourceArgs { plan: Some(plan.source.path.clone()), ..PlanSourceArgs::default() };
        args.other_environments(&plan.environment)
    });
    Ok(others.transpose()?.unwrap_or_default())
}

/// The access to GitHub's list of deployments, if the job asks for an entry.
fn github_api(
    prepared: &PreparedPlan,
    store: &StateStore,
    commit: Option<&str>,
) -> Option<Result<GithubDeploymentApi, Notice>> {
    let identity = store.checkpoints().map(|checkpoints| checkpoints.identity());
    GithubDeploymentApi::of_job(&prepared.plan, &prepared.release.label, commit, identity)
}

/// Keeps the high-water mark of the checkpoints in the GitHub deployment, if there are both.
fn keep_high_water_mark(
    store: &StateStore,
    api: Option<&Result<GithubDeploymentApi, Notice>>,
    tell: &NoticeHandler,
) -> Option<Arc<GithubHighWaterMark>> {
    let (Some(checkpoints), Some(Ok(api))) = (store.checkpoints(), api) else { return None };
    let mark = Arc::new(GithubHighWaterMark::new(api.clone(), checkpoints.identity(), Arc::clone(tell)));
    checkpoints.set_high_water_mark(Arc::<GithubHighWaterMark>::clone(&mark));
    Some(mark)
}

/// Reports to GitHub how the deployment listed there ended.
async fn finish_github_deployment(
    listed: Result<GithubDeployment, Notice>,
    ending: &Result<AttemptResult, Vec<Diagnostic>>,
    checkpoints: &CheckpointStatus,
) -> Option<Notice> {
    let (exit, error) = match ending {
        Ok(ending) => (ending.exit, ending.error.as_ref()),
        Err(problems) => (problems.first().map_or(ExitKind::Bug, |first| first.exit), problems.first()),
    };
    match listed {
        Ok(listed) => listed.finish(exit, error, checkpoints.sequence).await,
        Err(notice) => Some(notice),
    }
}

/// The outputs of a CI job that are known however the deployment ends.
fn set_job_outputs(screen: &CommandOutput, plan: &Plan, checkpoints: &CheckpointStatus, run: &str, release: &str) {
    screen.set_job_outputs(&[
        ("run", run),
        ("release", release),
        ("url", plan.url.as_deref().unwrap_or_default()),
        ("journal", checkpoints.newest.as_deref().unwrap_or_default()),
        ("resumed-from", checkpoints.resumed_from.as_deref().unwrap_or_default()),
    ]);
}

/// The command line that repeats a command.
pub(super) fn command_line(name: &str, local: bool, plan: &PlanSourceArgs) -> String {
    // `runner --local` is short for `runner deploy --local`.
    let mut command = if name == "deploy" { "runner".to_owned() } else { format!("runner {name}") };
    if local {
        command += " --local";
    }
    if let Some(option) = plan_file::plan_option(plan.plan.as_deref()) {
        command += &format!(" {option}");
    }
    if let Some(environment) = &plan.environment {
        command += &format!(" --env {environment}");
    }
    command
}
