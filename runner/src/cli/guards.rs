//! What is refused before anything happens: a change from a laptop by accident, by somebody who may not, out of order, or
//! from inside a deployment of the same environment.
//!
//! Who somebody is comes from the CI or the operating system, and can be pretended: `allow:` is a guard-rail, no wall
//! (docs/environments.md). Deliberately absent: the lock itself.

use std::process::Command;

use super::{
    attempts,
    source::{self, env_variable},
};
use contract::{
    AppName, EnvironmentName,
    diagnostic::{Diagnostic, ErrorCode},
};
use journal::event::Release;
use plan;
use plan::{AllowedOperator, Plan, StateLocation};
use state::{LockError, LockToken, StateStore};

/// Outside a CI, a command that changes something says so: no accident from a laptop.
pub(super) fn require_local_flag(local: bool, command: &str) -> Result<(), Vec<Diagnostic>> {
    if local || source::is_ci() {
        return Ok(());
    }
    let message = format!("`runner {command}` changes things, and this is no CI");
    Err(vec![Diagnostic::new(ErrorCode::LocalNotConfirmed, message).with_hint("if you mean it, add `--local`")])
}

/// Whether the plan lets whoever this is change its environment.
pub(super) fn check_allowed_user(plan: &Plan) -> Result<(), Diagnostic> {
    if plan.allow.is_empty() {
        return Ok(());
    }
    // Who asked for this attempt: of a re-run, not who pushed.
    let actor = ["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"].iter().find_map(|name| env_variable(name));
    let actor = actor.filter(|actor| !actor.is_empty() && source::is_ci());
    let is_user = |allowed: &AllowedOperator| matches!(allowed, AllowedOperator::User(_));
    let user = if plan.allow.iter().any(is_user) { os_user() } else { None };
    let is_allowed = |allowed: &AllowedOperator| match allowed {
        AllowedOperator::GitHub(login) => actor.as_ref().is_some_and(|actor| actor.eq_ignore_ascii_case(login)),
        AllowedOperator::User(name) => user.as_ref() == Some(name),
    };
    if plan.allow.iter().any(is_allowed) {
        return Ok(());
    }
    let names = plan.allow.iter().map(|allowed| match allowed {
        AllowedOperator::GitHub(login) => format!("`github:{login}`"),
        AllowedOperator::User(name) => format!("`user:{name}`"),
    });
    let names = names.collect::<Vec<_>>().join(", ");
    let who = actor.or(user).unwrap_or_else(source::user_at_host);
    let message = format!("{who} may not change environment `{}`", plan.environment);
    let diagnostic = Diagnostic::new(ErrorCode::UserNotAllowed, message).with_cause(format!("`allow` names {names}"));
    Err(diagnostic
        .with_hint("ask one of them; or add to `allow` of that environment in the plan, and have that reviewed"))
}

/// The name of the user that this process runs as, as the operating system has it.
fn os_user() -> Option<String> {
    let id = Command::new("id").arg("-un").output().ok().filter(|id| id.status.success())?;
    String::from_utf8(id.stdout).ok().map(|name| name.trim().to_owned())
}

/// Whether a release was verified where the plan wants it to be verified first.
pub(super) fn check_promotion_order(plan: &Plan, release: &Release) -> Result<(), Diagnostic> {
    let Some(after) = &plan.after else { return Ok(()) };
    let location = plan::locate_history(&plan.source, Some(after.as_str()), &env_variable);
    let refused = |why: String| {
        let message = format!("{} may not go to `{}` before `{after}`", release.label, plan.environment);
        Diagnostic::new(ErrorCode::EnvironmentOutOfOrder, message).with_cause(why).with_hint(format!(
            "deploy it to `{after}` and have it verified there, then `runner promote --from {after} --to {}`",
            plan.environment
        ))
    };
    let location = location.map_err(|_| refused(format!("the state of `{after}` can't be found from here")))?;
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    let head = attempts::load_state(&store)?.head;
    if head.is_verified(release) {
        return Ok(());
    }
    Err(refused(match head.verified.iter().find(|verified| verified.label == release.label) {
        Some(_) => "what was verified there under this label is not the same content".to_owned(),
        None => "it was not verified there".to_owned(),
    }))
}

/// What a process that a deployment started may do: no deployment of the same environment; anything else, if that
/// deployment still holds its lock.
pub(super) fn check_nesting(store: &StateStore) -> Result<(), Diagnostic> {
    let Some(text) = env_variable("PAWL_LOCK") else { return Ok(()) };
    let stale = |why: &'static str| Diagnostic::from(&LockError::InvalidToken { resource: text.clone(), why });
    let token: LockToken = text.parse().map_err(|_| stale("PAWL_LOCK is no token"))?;
    let is_ours =
        token.resource == store.resource() && env_variable("PAWL_STATE").is_none_or(|at| at == store.address());
    let enclosing = if is_ours {
        store.clone()
    } else {
        enclosing_store(&token).ok_or_else(|| stale("PAWL_STATE does not say where its lock is"))?
    };
    enclosing.verify_inherited_lock(token).map_err(|error| Diagnostic::from(&error))?;
    let ours = format!("{} {}", store.resource(), store.address());
    if is_ours || enclosing_deployments().contains(&ours) {
        let message =
            format!("this is a part of a deployment of {}, which can't contain another one", store.resource());
        return Err(Diagnostic::new(ErrorCode::NestedDeployment, message)
            .with_cause("that deployment holds the lock until this ends, and each would wait for the other")
            .with_hint("in a hook, run a single step (`runner step …`), or deploy another environment"));
    }
    Ok(())
}

/// The deployments that this process is a part of, the outermost first.
pub(super) fn enclosing_deployments() -> Vec<String> {
    env_variable("PAWL_WITHIN").iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
}

/// The state that a token is of.
fn enclosing_store(token: &LockToken) -> Option<StateStore> {
    let (app, environment) = token.resource.split_once('/')?;
    let (app, environment): (AppName, EnvironmentName) = (app.parse().ok()?, environment.parse().ok()?);
    let location = StateLocation::from_address(&env_variable("PAWL_STATE")?, &env_variable)?;
    Some(StateStore::new(&location, &app, &environment))
}
