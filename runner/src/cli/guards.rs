//! Checks before anything happens. They refuse a change that is accidental (from a laptop), not allowed for this user, out of
//! order, or inside a deployment of the same environment.
//!
//! The user's name comes from the CI or the operating system, and can be forged: `allow:` is a guard-rail, not a wall
//! (docs/environments.md). Deliberately absent: the lock itself.

use std::{fs, process::Command};

use serde_json::Value;

use super::{
    attempts, github_team,
    plan_file::command_of_process,
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

/// Checks that a command outside a CI has `--local`, which prevents accidents from a laptop.
pub(super) fn require_local_flag(local: bool, command: &str) -> Result<(), Vec<Diagnostic>> {
    if local || source::is_ci() {
        return Ok(());
    }
    let message = format!("`runner {command}` changes an environment, and this is not a CI job");
    let hint = format!("to run it from this machine, add `--local`: `{} --local`", command_of_process());
    Err(vec![Diagnostic::new(ErrorCode::LocalNotConfirmed, message).with_hint(hint)])
}

/// Checks that the plan allows the current user to change the environment.
pub(super) async fn check_allowed_user(plan: &Plan) -> Result<(), Diagnostic> {
    check_fork()?;
    check_allowed(&plan.allow, &plan.environment).await
}

/// Refuses to change an environment in a job that runs for a fork's pull request: its author chose what would be deployed.
fn check_fork() -> Result<(), Diagnostic> {
    if env_variable("PAWL_ALLOW_FORKS").as_deref() == Some("true") {
        return Ok(());
    }
    let event = env_variable("GITHUB_EVENT_PATH").filter(|path| !path.is_empty()).and_then(|path| fs::read(path).ok());
    let event: Option<Value> = event.and_then(|event| serde_json::from_slice(&event).ok());
    let Some(fork) = event.as_ref().and_then(fork_of_event) else { return Ok(()) };
    Err(Diagnostic::new(ErrorCode::ForkNotAllowed, "this job runs for a pull request of a fork, and may not deploy")
        .with_cause(format!("the commits are those of {fork}"))
        .with_hint("deploy after the merge; if the fork is trusted, or for previews without secrets, set the input `allow-forks: true`"))
}

/// The repository whose commits an event is about, if it is not the one that the workflow runs in.
fn fork_of_event(event: &Value) -> Option<String> {
    let here = event.pointer("/repository/full_name")?.as_str()?;
    let is_pull_request = event.get("pull_request").is_some();
    let head = event.pointer("/pull_request/head/repo").or_else(|| event.pointer("/workflow_run/head_repository"));
    match head.and_then(|head| head.get("full_name")).and_then(Value::as_str) {
        Some(head) => (head != here).then(|| head.to_owned()),
        // The fork was deleted meanwhile.
        None => is_pull_request.then(|| "a deleted fork".to_owned()),
    }
}

/// Checks that a list of users, if it is not empty, contains the current one.
pub(super) async fn check_allowed(allow: &[AllowedOperator], environment: &EnvironmentName) -> Result<(), Diagnostic> {
    if allow.is_empty() {
        return Ok(());
    }
    // The user who started this attempt: for a re-run, not the one who pushed.
    let actor = ["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"].iter().find_map(|name| env_variable(name));
    let actor = actor.filter(|actor| !actor.is_empty() && source::is_ci());
    let is_user = |allowed: &AllowedOperator| matches!(allowed, AllowedOperator::User(_));
    let user = if allow.iter().any(is_user) { os_user() } else { None };
    let is_allowed = |allowed: &AllowedOperator| match allowed {
        AllowedOperator::GitHub(login) => actor.as_ref().is_some_and(|actor| actor.eq_ignore_ascii_case(login)),
        AllowedOperator::User(name) => user.as_ref() == Some(name),
        AllowedOperator::GitHubTeam { .. } => false,
    };
    if allow.iter().any(is_allowed) {
        return Ok(());
    }
    let mut unanswered = Vec::new();
    for allowed in allow {
        if let (AllowedOperator::GitHubTeam { organization, team }, Some(actor)) = (allowed, &actor) {
            match github_team::is_member(organization, team, actor).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => unanswered.push(format!("can't ask GitHub who is in {organization}/{team}: {why}")),
            }
        }
    }
    let names = allow.iter().map(|allowed| format!("`{allowed}`")).collect::<Vec<_>>().join(", ");
    let who = actor.or(user).unwrap_or_else(source::user_at_host);
    let message = format!("{who} is not allowed to change environment `{environment}`");
    let diagnostic = Diagnostic::new(ErrorCode::UserNotAllowed, message).with_cause(format!("`allow` lists {names}"));
    let diagnostic = unanswered.into_iter().fold(diagnostic, Diagnostic::with_cause);
    Err(diagnostic.with_hint("ask one of them to deploy, or add an entry to `allow` in the plan and have it reviewed"))
}

/// The operating system's name for the user of this process.
fn os_user() -> Option<String> {
    let id = Command::new("id").arg("-un").output().ok().filter(|id| id.status.success())?;
    String::from_utf8(id.stdout).ok().map(|name| name.trim().to_owned())
}

/// Checks that a release was verified in the environment that `after:` names.
pub(super) fn check_promotion_order(plan: &Plan, release: &Release) -> Result<(), Diagnostic> {
    let Some(after) = &plan.after else { return Ok(()) };
    let location = plan::locate_history(&plan.source, Some(after.as_str()), &env_variable);
    let refused = |why: String| {
        let message =
            format!("{} must be verified in `{after}` before it goes to `{}`", release.label, plan.environment);
        Diagnostic::new(ErrorCode::EnvironmentOutOfOrder, message).with_cause(why).with_hint(format!(
            "deploy it to `{after}`; after its checks pass there, run `runner promote --from {after} --to {}`",
            plan.environment
        ))
    };
    let location = location.map_err(|_| refused(format!("the state of `{after}` cannot be located")))?;
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    let head = attempts::load_state(&store)?.head;
    if head.is_verified(release) {
        return Ok(());
    }
    Err(refused(match head.verified.iter().find(|verified| verified.label == release.label) {
        Some(_) => "the release that was verified there under this label has different content".to_owned(),
        None => "it was not verified there".to_owned(),
    }))
}

/// Checks a command that a deployment started: it must not deploy the same environment, and the outer deployment must still
/// hold its lock.
pub(super) fn check_nesting(store: &StateStore) -> Result<(), Diagnostic> {
    let Some(text) = env_variable("PAWL_LOCK") else { return Ok(()) };
    let stale = |why: &'static str| Diagnostic::from(&LockError::InvalidToken { resource: text.clone(), why });
    let token: LockToken = text.parse().map_err(|_| stale("PAWL_LOCK is not a lock token"))?;
    let is_ours =
        token.resource == store.resource() && env_variable("PAWL_STATE").is_none_or(|at| at == store.address());
    let enclosing = if is_ours {
        store.clone()
    } else {
        enclosing_store(&token).ok_or_else(|| stale("PAWL_STATE does not locate its lock"))?
    };
    enclosing.verify_inherited_lock(token).map_err(|error| Diagnostic::from(&error))?;
    let ours = format!("{} {}", store.resource(), store.address());
    if is_ours || enclosing_deployments().contains(&ours) {
        let message =
            format!("this command is part of a deployment of {}, and cannot start another one", store.resource());
        return Err(Diagnostic::new(ErrorCode::NestedDeployment, message)
            .with_cause("the outer deployment holds the lock until this command ends, so each would wait for the other")
            .with_hint("in a hook, run a single step (`runner step …`), or deploy another environment"));
    }
    Ok(())
}

/// The deployments that this process is part of, the outermost first.
pub(super) fn enclosing_deployments() -> Vec<String> {
    env_variable("PAWL_WITHIN").iter().flat_map(|text| text.lines()).map(str::to_owned).collect()
}

/// The state that a lock token belongs to.
fn enclosing_store(token: &LockToken) -> Option<StateStore> {
    let (app, environment) = token.resource.split_once('/')?;
    let (app, environment): (AppName, EnvironmentName) = (app.parse().ok()?, environment.parse().ok()?);
    let location = StateLocation::from_address(&env_variable("PAWL_STATE")?, &env_variable)?;
    Some(StateStore::new(&location, &app, &environment))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn forks_are_recognized() {
        let event = |head: Value| json!({ "repository": { "full_name": "acme/shop" }, "pull_request": { "head": { "repo": head } } });
        assert_eq!(fork_of_event(&event(json!({ "full_name": "acme/shop" }))), None);
        assert_eq!(fork_of_event(&event(json!({ "full_name": "eve/shop" }))), Some("eve/shop".to_owned()));
        assert_eq!(fork_of_event(&event(Value::Null)), Some("a deleted fork".to_owned()));
        assert_eq!(
            fork_of_event(&json!({ "repository": { "full_name": "acme/shop" }, "ref": "refs/heads/main" })),
            None
        );
        let run = json!({ "repository": { "full_name": "acme/shop" }, "workflow_run": { "head_repository": { "full_name": "eve/shop" } } });
        assert_eq!(fork_of_event(&run), Some("eve/shop".to_owned()));
    }
}
