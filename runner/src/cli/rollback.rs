//! `runner rollback` deploys an earlier verified release again; `runner promote` deploys the live, verified release of one
//! environment to another. Both are deployments whose release digest is known in advance, also to some of the hosts.

use std::collections::BTreeSet;

use super::{
    attempts, ci,
    deploy::{self, DeployRequest},
    guards,
    output::CommandOutput,
    selection,
    source::{self, PlanSourceArgs},
    verified_deployment::VerifiedDeployment,
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::deploy::{DeployOverrides, PreflightOptions, RequestedRelease, UnrecordedRelease};
use contract::{
    Label, TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice},
};
use journal::{
    JournalState,
    event::{ROLLBACK, Release},
};
use state::StateStore;

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    /// The verified release to go back to; by default the last one before the live release
    #[arg(long, value_name = "LABEL")]
    to: Option<Label>,
    #[command(flatten)]
    selection: selection::SelectionArgs,
    #[command(flatten)]
    hosts: selection::LimitArgs,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Arguments of `promote`.
#[derive(Debug, clap::Args)]
pub(super) struct PromoteArgs {
    /// The plan file; optional if the folder has only one: deploy.yml, pawl.yml or *.pawl.yml
    #[arg(long = "plan", value_name = "FILE", env = "PAWL_PLAN", hide_env = true)]
    plan: Option<std::path::PathBuf>,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    /// The environment where the release is live and verified
    #[arg(long, value_name = "NAME")]
    from: String,
    /// The environment to deploy it to
    #[arg(long, value_name = "NAME")]
    to: String,
    /// A release that is verified there; by default the live one
    #[arg(long, value_name = "LABEL")]
    release: Option<Label>,
    #[command(flatten)]
    selection: selection::SelectionArgs,
    #[command(flatten)]
    hosts: selection::LimitArgs,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Goes back to a verified release.
///
/// # Errors
/// P0217 when there is no release to go back to; otherwise as `deploy_release`.
pub(super) async fn rollback(args: &RollbackArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let ended = roll_back(args, screen).await;
    if let Err(problems) = &ended {
        let tell = screen.notifier();
        ci::record_nothing_begun(&args.plan, problems, &*tell).await;
    }
    ended
}

async fn roll_back(args: &RollbackArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    guards::require_local_flag(args.local, "rollback")?;
    ci::download_journals(&args.plan, args.wait.wait()).await.map_err(one)?;
    let store = args.plan.store()?;
    let state = attempts::load_state(&store).map_err(one)?;
    let chosen = args.hosts.limit.as_deref().map(|limit| chosen_hosts(&args.plan, limit)).transpose()?;
    let release = release_to_restore(&state, args.to.as_ref(), chosen.as_ref(), &store);
    let release = release.map_err(|error| one(with_unrecorded_release(error, &args.plan, &state)))?;
    let commit = state.commit_of(&release).map(str::to_owned);
    if args.to.is_none()
        && let Some(warning) = forward_warning(&state, &release, chosen.as_ref())
    {
        screen.notifier()(Notice::warning(warning));
    }
    let mut again = deploy::command_line("rollback", args.local, &args.plan);
    again += &format!(" --to {}{}", release.label, args.hosts.as_argument());
    // A deployment that was running then may have changed what is live, even if none began since.
    let expected_last_line = state.last_line_hash;
    let limit = args.hosts.limit.clone();
    let orders = DeployOverrides { command: Some(ROLLBACK), limit, expected_last_line, ..args.selection.overrides() };
    deploy_release(&args.plan, (release, commit), (orders, None), &args.wait, &again, screen).await
}

/// Deploys a release that was verified in one environment to another.
///
/// # Errors
/// P0216 when the environments are in the wrong order; P0222 when it was not verified there, P0250 when a file that a step reads is
/// another one since; otherwise as `deploy_release`.
pub(super) async fn promote(args: &PromoteArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    guards::require_local_flag(args.local, "promote")?;
    let of = |environment: &str| PlanSourceArgs {
        plan: args.plan.clone(),
        environment: Some(environment.to_owned()),
        ..PlanSourceArgs::default()
    };
    let (from, to) = (of(&args.from), of(&args.to));
    check_order(args)?;
    let store = from.store()?;
    let state = attempts::load_state(&store).map_err(one)?;
    let head = &state.head;
    let verified = head.verified.iter();
    let release = match &args.release {
        Some(label) => verified.rev().find(|release| release.label == *label).cloned(),
        None => head.live.clone().filter(|_| head.is_live_verified()),
    };
    let release = release.ok_or_else(|| one(unverified_error(args, head.live.as_ref())))?;
    let verified_deployment =
        VerifiedDeployment::read(&store, &args.from, from.plan_for(&release.label).ok(), &release).map_err(one)?;
    let commit = state.commit_of(&release).map(str::to_owned);
    let again = format!(
        "{} --from {} --to {} --release {}{}",
        deploy::command_line("promote", args.local, &PlanSourceArgs { environment: None, ..to.clone() }),
        args.from,
        args.to,
        release.label,
        args.hosts.as_argument()
    );
    let limit = args.hosts.limit.clone();
    let orders = DeployOverrides { command: Some("promote"), limit, ..args.selection.overrides() };
    deploy_release(&to, (release, commit), (orders, Some(verified_deployment)), &args.wait, &again, screen).await
}

/// The hosts that `--limit` chooses.
fn chosen_hosts(plan: &PlanSourceArgs, limit: &str) -> Result<BTreeSet<TargetName>, Vec<Diagnostic>> {
    plan.plan_for(&source::placeholder_label())?.limited_hosts(limit).map_err(|error| vec![error])
}

/// Refuses a promotion to the same environment, or to one that comes before.
fn check_order(args: &PromoteArgs) -> Result<(), Vec<Diagnostic>> {
    let PromoteArgs { from, to, .. } = args;
    let location = |environment: &str| {
        PlanSourceArgs {
            plan: args.plan.clone(),
            environment: Some(environment.to_owned()),
            ..PlanSourceArgs::default()
        }
        .location()
    };
    // The plan has no circle.
    let mut preceding = Some(location(from)?);
    while let Some(environment) = preceding {
        if environment.environment.as_str() == to {
            let message = if from == to {
                format!("`--from` and `--to` are both `{to}`")
            } else {
                format!("`{to}` comes before `{from}`, so nothing is promoted from `{from}` to it")
            };
            let hint = "name an environment that comes `after:` the first one; to go back to an earlier release, run `runner rollback`";
            return Err(vec![Diagnostic::new(ErrorCode::EnvironmentOutOfOrder, message).with_hint(hint)]);
        }
        preceding = environment.after.as_ref().map(|after| location(after.as_str())).transpose()?;
    }
    Ok(())
}

async fn deploy_release(
    args: &PlanSourceArgs,
    (release, commit): (Release, Option<String>),
    (orders, verified_deployment): (DeployOverrides, Option<VerifiedDeployment>),
    wait: &LockWaitArgs,
    again: &str,
    screen: &CommandOutput,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let Release { label, digest } = release;
    let plan = args.plan_for(&label)?;
    let scope = orders.preflight_scope();
    let job = DeployRequest {
        plan,
        release: RequestedRelease { label, digest },
        commit,
        preflight: PreflightOptions {
            scope,
            limit: orders.limit.clone(),
            ..xdg_dirs::preflight_options(screen.notifier())
        },
        overrides: orders,
        verified_deployment,
        wait: wait.wait(),
        resume_command: again,
        resolve_command: Some(deploy::command_line("resolve", !source::is_ci(), args)),
    };
    deploy::deploy(job, screen).await
}

/// The requested verified release, or the rollback target of the chosen hosts; none: of all.
fn release_to_restore(
    state: &JournalState,
    asked: Option<&Label>,
    chosen: Option<&BTreeSet<TargetName>>,
    store: &StateStore,
) -> Result<Release, Diagnostic> {
    let head = &state.head;
    let is_live = |release: &Release| head.live.as_ref().is_some_and(|live| live.is_same(release));
    let name =
        |release: &Release| format!("`{}`{}", release.label, if is_live(release) { ", which is live" } else { "" });
    let names = || match head.verified.iter().map(name).collect::<Vec<_>>() {
        names if names.is_empty() => "no release is verified here yet".to_owned(),
        names => format!("verified here, oldest first: {}", names.join(", ")),
    };
    let none = |message: String| {
        let hint = "deploy a release that passes its checks: `runner deploy --release LABEL`";
        Err(Diagnostic::new(ErrorCode::NoRollbackTarget, message).with_cause(names()).with_hint(hint))
    };
    if let Some(label) = asked {
        return match head.verified.iter().rfind(|release| release.label == *label) {
            Some(release) => Ok(release.clone()),
            None => {
                let is_known = state.attempts.iter().any(|attempt| attempt.header.release.label == *label);
                let labels = || head.verified.iter().filter(|release| !is_live(release)).map(|it| it.label.as_str());
                let refused = none(format!("{label} was not verified in {}", store.resource()));
                let misspelled = labels().filter(|other| !is_other_number(label.as_str(), other));
                let near = plan::closest_match(label.as_str(), misspelled).filter(|_| !is_known);
                let hint = match (near, labels().next_back()) {
                    (Some(near), _) => {
                        format!("did you mean `{near}`? `runner {ROLLBACK} --to {near}` goes back to it")
                    }
                    (None, Some(last)) if labels().count() == 1 => {
                        format!("use `{last}`: `runner {ROLLBACK} --to {last}`")
                    }
                    (None, Some(last)) => {
                        format!("use one of {}: `runner {ROLLBACK} --to {last}`", plan::quoted_list(labels()))
                    }
                    (None, None) => return refused,
                };
                refused.map_err(|error| error.with_hint(hint))
            }
        };
    }
    let live = chosen.map_or(head.live.as_ref(), |hosts| head.agreed_on(hosts));
    if let Some(release) = unfinished_rollback(state, live) {
        return Ok(release.clone());
    }
    match head.rollback_target_from(live) {
        Some(release) => Ok(release.clone()),
        None => none(format!("{} has no verified release to go back to", store.resource())),
    }
}

/// Says which hosts a rollback does not lead back: those that show a release from before its target.
fn forward_warning(state: &JournalState, release: &Release, chosen: Option<&BTreeSet<TargetName>>) -> Option<String> {
    let shown = state.head.showing_earlier_than(release);
    let shown = shown.filter(|(target, _)| chosen.is_none_or(|hosts| hosts.contains(target)));
    let shown: Vec<_> = shown.map(|(target, shown)| format!("{target} shows {}", shown.label)).collect();
    if shown.is_empty() {
        return None;
    }
    let (label, shown) = (&release.label, shown.join(", "));
    Some(format!("{shown}: this rollback goes forward to {label} there; `--limit` leaves hosts out"))
}

/// Whether two labels have other digits in the same places: that names another release, and is no misspelling.
fn is_other_number(one: &str, other: &str) -> bool {
    let is_same_kind = |(one, other): (char, char)| one == other || one.is_ascii_digit() && other.is_ascii_digit();
    one.len() == other.len() && one.chars().zip(other.chars()).all(is_same_kind)
}

/// The target of the last rollback, if that was interrupted, or has left out hosts that do not show it yet.
fn unfinished_rollback<'s>(state: &'s JournalState, live: Option<&Release>) -> Option<&'s Release> {
    let last = state.attempts.last().filter(|last| last.command.as_deref() == Some(ROLLBACK))?;
    let target = &last.header.release;
    let is_interrupted = matches!(last.exit, None | Some(ExitKind::Interrupted));
    let is_partial = last.exit == Some(ExitKind::Success) && !last.verified;
    let is_shown = live.is_some_and(|live| live.is_same(target));
    (is_interrupted || is_partial && !is_shown).then_some(target)
}

/// Adds what is live without a record.
fn with_unrecorded_release(error: Diagnostic, plan: &PlanSourceArgs, state: &JournalState) -> Diagnostic {
    let plan = plan.plan_without_inventories(&source::placeholder_label());
    match plan.and_then(|plan| UnrecordedRelease::find(&plan, state)) {
        Some(found) => error
            .with_cause(found.description())
            .with_hint("`runner import --local --release LABEL` adds the live release to the history"),
        None => error,
    }
}

fn unverified_error(args: &PromoteArgs, live: Option<&Release>) -> Diagnostic {
    let from = &args.from;
    let (message, why) = match (&args.release, live) {
        (Some(label), _) => (
            format!("{label} is not verified in `{from}`"),
            "no deployment of it there passed all its checks".to_owned(),
        ),
        (None, Some(live)) => (
            format!("{} is live in `{from}`, but not verified", live.label),
            "its deployment did not pass all its checks".to_owned(),
        ),
        (None, None) => (format!("nothing is live in `{from}`"), "no deployment exposed a release there".to_owned()),
    };
    let again = format!("deploy to `{from}` until all checks pass, then promote again");
    Diagnostic::new(ErrorCode::NotVerifiedUpstream, message).with_cause(why).with_hint(again)
}
