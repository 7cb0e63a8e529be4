//! The job of a CI that this process is part of, as its environment tells: GitHub's, and those that speak as it does (Gitea, act).
//!
//! Deliberately absent: what is done with it.

use std::path::{Path, PathBuf};

use super::{github, source::variable};
use contract::{
    AppName, EnvironmentName, Secret,
    diagnostic::{Code, Diagnostic, Exit, Notice},
};
use state::{
    Store,
    artifacts::{Access, RestAccess},
    bundle::{Identity, Key},
    checkpoints::Job,
};

/// A variable that says something.
fn said(name: &str) -> Option<String> {
    variable(name).filter(|value| !value.trim().is_empty())
}

/// Whether the next attempt believes what this one writes, on another machine too.
pub(super) fn is_believed() -> bool {
    said("ACTIONS_RESULTS_URL").is_none() || said("PAWL_KEY").is_some()
}

/// What the job gives this process and nobody else may read.
pub(super) fn secrets() -> Vec<Secret> {
    ["PAWL_KEY", "PAWL_TOKEN", "ACTIONS_RUNTIME_TOKEN"].iter().filter_map(|name| said(name)).map(Secret::new).collect()
}

/// The same state with its journals among the artifacts of this job, if it is one that can keep them; otherwise as it is, and why.
///
/// # Errors
/// P0526 when the job's own variables make no sense.
pub(super) fn checkpointed(
    store: Store,
    plan: &Path,
    app: &AppName,
    environment: &EnvironmentName,
    tell: &dyn Fn(Notice),
) -> Result<Store, Diagnostic> {
    // A deployment that another started is told of by that one.
    if !github::is_job() || said("PAWL_LOCK").is_some() {
        return Ok(store);
    }
    let Some(job) = job(plan, app, environment)? else {
        if store.is_folder() {
            let why = "this step of the workflow has no access to the artifacts of its run (only a `uses:` step has)";
            tell(Notice::warning(format!("the journal is not kept for a re-run: {why}")));
        }
        return Ok(store);
    };
    if store.is_folder()
        && let Some(workspace) = said("GITHUB_WORKSPACE")
        && store.folder().starts_with(&workspace)
    {
        tell(Notice::warning(
            "`state: dir:` is in the workspace, which ends with this job: there is no lock against other machines, and nobody \
             remembers what is live (docs/github.md)",
        ));
    }
    store.checkpointed(job).map_err(|error| Diagnostic::from(&error))
}

fn job(plan: &Path, app: &AppName, environment: &EnvironmentName) -> Result<Option<Job>, Diagnostic> {
    let (Some(results_url), Some(runtime_token)) = (said("ACTIONS_RESULTS_URL"), said("ACTIONS_RUNTIME_TOKEN")) else {
        return Ok(None);
    };
    let needed = |name: &str| said(name).ok_or_else(|| wrong(name, "it is not set"));
    let number = |name: &str| {
        let text = needed(name)?;
        text.parse::<u64>().map_err(|_| wrong(name, &format!("{text:?} is no number")))
    };
    let (repository, run) = (needed("GITHUB_REPOSITORY")?, number("GITHUB_RUN_ID")?);
    let attempt = u32::try_from(number("GITHUB_RUN_ATTEMPT")?).ok().filter(|attempt| *attempt > 0);
    let attempt = attempt.ok_or_else(|| wrong("GITHUB_RUN_ATTEMPT", "attempts are numbered from 1"))?;
    let rest = said("PAWL_TOKEN").zip(said("GITHUB_API_URL")).map(|(token, api_url)| RestAccess {
        api_url,
        repository: repository.clone(),
        run,
        // A secret with a line break behind it is a common mistake.
        token: Secret::new(token.trim().to_owned()),
    });
    Ok(Some(Job {
        identity: Identity {
            repository,
            workflow_run: run.to_string(),
            job: leg(&needed("GITHUB_JOB")?, said("PAWL_MATRIX").as_deref())?,
            app: app.to_string(),
            environment: environment.to_string(),
            plan: in_repository(plan),
        },
        attempt,
        url: super::source::job(),
        commit: said("GITHUB_SHA"),
        key: said("PAWL_KEY").map(|key| Key::new(&Secret::new(key))),
        access: Access { results_url, runtime_token: Secret::new(runtime_token), rest },
    }))
}

/// The job's name, and eight digits for the leg of its matrix.
fn leg(job: &str, matrix: Option<&str>) -> Result<String, Diagnostic> {
    let matrix: serde_json::Value = match matrix {
        Some(matrix) => serde_json::from_str(matrix).map_err(|error| wrong("PAWL_MATRIX", &error.to_string()))?,
        None => serde_json::Value::Null,
    };
    let is_alone = matrix.is_null() || matrix.as_object().is_some_and(serde_json::Map::is_empty);
    if is_alone {
        return Ok(job.to_owned());
    }
    Ok(format!("{job}-{}", contract::hash::Hash::of_json(&matrix).short(8)))
}

/// The plan's path in the repository: the same on every machine.
fn in_repository(plan: &Path) -> String {
    let absolute = std::path::absolute(plan).unwrap_or_else(|_| plan.to_owned());
    let inside = said("GITHUB_WORKSPACE").map(PathBuf::from).and_then(|root| {
        let root = root.canonicalize().unwrap_or(root);
        let absolute = absolute.canonicalize().unwrap_or_else(|_| absolute.clone());
        absolute.strip_prefix(root).ok().map(Path::to_owned)
    });
    inside.unwrap_or(absolute).display().to_string()
}

fn wrong(name: &str, why: &str) -> Diagnostic {
    Diagnostic::new(Code("P0526"), Exit::Refused, format!("{name} of this CI job can't be used"))
        .because(why)
        .hint("the CI sets it for each job; see that no step overwrites it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_of_a_matrix_keep_apart() {
        let leg = |matrix| leg("deploy", matrix).unwrap();
        assert_eq!(leg(None), "deploy");
        assert_eq!(leg(Some("null")), "deploy");
        assert_eq!(leg(Some("{}")), "deploy");
        let (eu, us) = (leg(Some(r#"{"region": "eu"}"#)), leg(Some(r#"{"region": "us"}"#)));
        assert_ne!(eu, us);
        assert!(eu.starts_with("deploy-") && eu.len() == "deploy-".len() + 8, "{eu}");
        assert_eq!(leg(Some(r#"{"a": 1, "b": 2}"#)), leg(Some("{\n  \"b\": 2, \"a\": 1}")));
    }
}
