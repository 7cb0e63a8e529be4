//! The CI job that this process is part of, by its environment: GitHub's, and compatible ones (Gitea, act).
//!
//! Deliberately absent: uploads and reports.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    github,
    source::{self, PlanSourceArgs, env_variable},
};
use crate::report::github::RecordReach;
use contract::{
    AppName, EnvironmentName, Secret,
    diagnostic::{Diagnostic, ErrorCode, Notice},
};
use state::{
    JOB_SECRET_VARIABLES, LockRequest, LockWait, StateStore,
    artifacts::{self, ArtifactAccess, RestApiAccess},
    bundle::{CheckpointIdentity, CheckpointKey},
    checkpoints::CheckpointConfig,
};

/// The longest time for the record that nothing was begun.
const NOTHING_BEGUN_TIMEOUT: Duration = Duration::from_secs(20);

/// An environment variable that is not blank.
fn nonblank_variable(name: &str) -> Option<String> {
    env_variable(name).filter(|value| !value.trim().is_empty())
}

/// Which later workflow runs find the record of this one.
pub(super) fn record_reach(store: &StateStore) -> RecordReach {
    if !store.is_folder() {
        return RecordReach::Outlives(store.display_location());
    }
    let reads_earlier_runs = nonblank_variable("PAWL_KEY").is_some() && nonblank_variable("PAWL_TOKEN").is_some();
    if store.checkpoints().is_some() && reads_earlier_runs { RecordReach::EarlierRuns } else { RecordReach::ThisRun }
}

/// Whether this job is a retry whose journal is not in its folder, on a CI where it can be nowhere else.
pub(super) fn is_retry_without_journal(store: &StateStore) -> bool {
    let is_retry = nonblank_variable("BUILDKITE_RETRY_COUNT").is_some_and(|count| count.trim() != "0")
        || nonblank_variable("PAWL_RETRY").as_deref() == Some("true");
    is_retry && store.is_folder() && !github::is_job() && !has_journal(store.folder())
}

/// Whether a folder contains a journal.
pub(super) fn has_journal(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".journal")))
    })
}

/// Whether the job has a key.
pub(super) fn has_key() -> bool {
    nonblank_variable("PAWL_KEY").is_some()
}

/// Downloads the journals that a command reads before it takes the lock. Does nothing if the state has them.
///
/// # Errors
/// When the lock is held, or the journals can't be read.
pub(super) async fn download_journals(args: &PlanSourceArgs, wait: LockWait) -> Result<(), Diagnostic> {
    let Ok(location) = args.location() else { return Ok(()) };
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    let store = with_checkpoints(store, &args.path()?, &location.app, &location.environment, &|_| {})?;
    if !store.is_folder() || store.checkpoints().is_none() {
        return Ok(());
    }
    let request = LockRequest { wait, url: source::job_url(), ..LockRequest::new(&source::user_at_host()) };
    store.acquire_lock(request).await.map(drop).map_err(|error| (&error).into())
}

/// Records in the artifacts that this attempt of the workflow run began nothing, so that the next one does not miss its journal.
pub(super) async fn record_nothing_begun(args: &PlanSourceArgs, problems: &[Diagnostic], tell: &dyn Fn(Notice)) {
    // What could not be read or stored a moment ago would only take more time.
    let is_about_artifacts = |problem: &Diagnostic| {
        problem.code.as_str().starts_with("P051") || problem.code == ErrorCode::JournalNotUploaded
    };
    if problems.iter().any(is_about_artifacts) {
        return;
    }
    let (Ok(plan), Ok(location)) = (args.path(), args.location()) else { return };
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    let Ok(store) = with_checkpoints(store, &plan, &location.app, &location.environment, &|_| {}) else { return };
    let Some(checkpoints) = store.checkpoints() else { return };
    checkpoints.record_nothing_begun(NOTHING_BEGUN_TIMEOUT).await;
    if let Some(why) = checkpoints.status().last_error {
        tell(Notice::warning(format!("could not record that nothing was begun: {why}")));
    }
}

/// The secrets that the job gives to this process, by their variables.
pub(super) fn job_secrets() -> BTreeMap<String, Secret> {
    let secret = |&name: &&str| Some((name.to_owned(), Secret::new(nonblank_variable(name)?)));
    JOB_SECRET_VARIABLES.iter().filter_map(secret).collect()
}

/// Adds checkpoints to a state, if this job can store artifacts; otherwise returns it unchanged, with a notice of the reason.
///
/// # Errors
/// P0526 when the job's own variables are invalid.
pub(super) fn with_checkpoints(
    store: StateStore,
    plan: &Path,
    app: &AppName,
    environment: &EnvironmentName,
    tell: &dyn Fn(Notice),
) -> Result<StateStore, Diagnostic> {
    // The outer deployment reports a deployment that it started.
    if !github::is_job() || nonblank_variable("PAWL_LOCK").is_some() {
        return Ok(store);
    }
    let Some(job) = checkpoint_config(plan, app, environment)? else {
        if store.is_folder() {
            let why = "only a `uses:` step of the workflow has access to the artifacts of its run";
            tell(Notice::warning(format!("the journal is not stored for a re-run: {why}")));
        }
        return Ok(store);
    };
    if store.is_folder()
        && let Some(workspace) = nonblank_variable("GITHUB_WORKSPACE")
        && store.folder().starts_with(&workspace)
    {
        tell(Notice::warning(
            "`state: dir:` is in the workspace, which this job deletes: no lock keeps other machines out, and later jobs do not \
             know what is live (docs/github.md)",
        ));
    }
    if store.is_folder() && job.key.is_none() && job.attempt == 1 {
        tell(Notice::note(
            "no `key`: the input is not given, or its secret is empty or misspelled; a re-run trusts no record: it probes each finished \
             step, or runs it again; a later workflow run does not find this journal (docs/github.md#the-key)",
        ));
    }
    store.with_checkpoints(job).map_err(|error| Diagnostic::from(&error))
}

fn checkpoint_config(
    plan: &Path,
    app: &AppName,
    environment: &EnvironmentName,
) -> Result<Option<CheckpointConfig>, Diagnostic> {
    let (Some(results_url), Some(runtime_token)) =
        (nonblank_variable("ACTIONS_RESULTS_URL"), nonblank_variable("ACTIONS_RUNTIME_TOKEN"))
    else {
        return Ok(None);
    };
    let needed = |name: &str| nonblank_variable(name).ok_or_else(|| invalid_variable_error(name, "it is not set"));
    let number = |name: &str| {
        let text = needed(name)?;
        text.parse::<u64>().map_err(|_| {
            invalid_variable_error(name, &format!("`{}` is not a number", contract::text::escape_line(&text)))
        })
    };
    let (repository, run) = (needed("GITHUB_REPOSITORY")?, number("GITHUB_RUN_ID")?);
    let attempt = u32::try_from(number("GITHUB_RUN_ATTEMPT")?).ok().filter(|attempt| *attempt > 0);
    let attempt =
        attempt.ok_or_else(|| invalid_variable_error("GITHUB_RUN_ATTEMPT", "attempts are numbered from 1"))?;
    let rest = nonblank_variable("PAWL_TOKEN").zip(nonblank_variable("GITHUB_API_URL")).map(|(token, api_url)| {
        RestApiAccess {
            api_url,
            repository: repository.clone(),
            run,
            // A secret with a trailing line break is a common mistake.
            token: Secret::new(token.trim().to_owned()),
        }
    });
    Ok(Some(CheckpointConfig {
        identity: CheckpointIdentity {
            repository,
            workflow_run: run.to_string(),
            job: instance_name(
                &job_name_with_matrix(
                    &valid_name("GITHUB_JOB", needed("GITHUB_JOB")?)?,
                    nonblank_variable("PAWL_MATRIX").as_deref(),
                )?,
                nonblank_variable("PAWL_INSTANCE"),
            )?,
            app: app.to_string(),
            environment: environment.to_string(),
            plan: path_in_repository(plan),
        },
        attempt,
        url: super::source::job_url(),
        commit: nonblank_variable("GITHUB_SHA"),
        key: nonblank_variable("PAWL_KEY").map(|key| CheckpointKey::new(&Secret::new(key))),
        runner_name: nonblank_variable("RUNNER_NAME"),
        access: ArtifactAccess { results_url, runtime_token: Secret::new(runtime_token), rest },
    }))
}

/// A text that is part of the artifacts' names.
fn valid_name(variable: &str, name: String) -> Result<String, Diagnostic> {
    if artifacts::is_valid_name(&name) {
        return Ok(name);
    }
    let why = "it contains one of \" : < > | * ? \\ / or a control character, which are invalid in an artifact's name";
    Err(invalid_variable_error(variable, why))
}

/// The job's name, and what distinguishes it from jobs that GitHub gives the same name and matrix.
fn instance_name(job: &str, instance: Option<String>) -> Result<String, Diagnostic> {
    let Some(instance) = instance else { return Ok(job.to_owned()) };
    Ok(format!("{job}-{}", valid_name("PAWL_INSTANCE", instance.trim().to_owned())?))
}

/// The job's name, with eight hex digits for its combination of the matrix.
fn job_name_with_matrix(job: &str, matrix: Option<&str>) -> Result<String, Diagnostic> {
    let matrix: serde_json::Value = match matrix {
        Some(matrix) => {
            serde_json::from_str(matrix).map_err(|error| invalid_variable_error("PAWL_MATRIX", &error.to_string()))?
        }
        None => serde_json::Value::Null,
    };
    let is_alone = matrix.is_null() || matrix.as_object().is_some_and(serde_json::Map::is_empty);
    if is_alone {
        return Ok(job.to_owned());
    }
    Ok(format!("{job}-{}", contract::hash::Blake3Hash::of_json(&matrix).hex_prefix(8)))
}

/// The plan's path in the repository, which is the same on every machine.
fn path_in_repository(plan: &Path) -> String {
    let absolute = std::path::absolute(plan).unwrap_or_else(|_| plan.to_owned());
    let inside = nonblank_variable("GITHUB_WORKSPACE").map(PathBuf::from).and_then(|root| {
        let root = root.canonicalize().unwrap_or(root);
        let absolute = absolute.canonicalize().unwrap_or_else(|_| absolute.clone());
        absolute.strip_prefix(root).ok().map(Path::to_owned)
    });
    inside.unwrap_or(absolute).display().to_string()
}

fn invalid_variable_error(name: &str, why: &str) -> Diagnostic {
    Diagnostic::new(ErrorCode::InvalidCiVariables, format!("{name} of this CI job is invalid"))
        .with_cause(why)
        .with_hint("check that no step of the workflow overwrites it; the CI system sets it for each job")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrix_jobs_have_distinct_names() {
        let leg = |matrix| job_name_with_matrix("deploy", matrix).unwrap();
        assert_eq!(leg(None), "deploy");
        assert_eq!(leg(Some("null")), "deploy");
        assert_eq!(leg(Some("{}")), "deploy");
        let (eu, us) = (leg(Some(r#"{"region": "eu"}"#)), leg(Some(r#"{"region": "us"}"#)));
        assert_ne!(eu, us);
        assert!(eu.starts_with("deploy-") && eu.len() == "deploy-".len() + 8, "{eu}");
        assert_eq!(leg(Some(r#"{"a": 1, "b": 2}"#)), leg(Some("{\n  \"b\": 2, \"a\": 1}")));
    }
}
