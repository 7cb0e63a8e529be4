//! GitHub's REST API, as far as it is about artifacts, workflow runs and jobs.

use serde_json::json;

use super::{FakeServiceCall, FakeServiceState, REPOSITORY, REST_TOKEN, http_server::FakeServiceRequest};
use crate::support::HttpReply;

/// `path` is what follows the API's URL.
pub(super) fn call_of(method: &str, path: &str) -> Option<FakeServiceCall> {
    let path = path.strip_prefix("/repos/")?.strip_prefix(REPOSITORY)?.strip_prefix("/actions/")?;
    match (method, &path.split('/').collect::<Vec<_>>()[..]) {
        ("GET", ["runs", _, "artifacts"]) => Some(FakeServiceCall::RestList),
        ("GET", ["runs", _] | ["workflows", _, "runs"] | ["runs", _, "attempts", _, "jobs"]) => {
            Some(FakeServiceCall::RestRuns)
        }
        ("GET", ["artifacts", _, "zip"]) => Some(FakeServiceCall::RestZip),
        ("DELETE", ["artifacts", _]) => Some(FakeServiceCall::RestDelete),
        _ => None,
    }
}

pub(super) fn answer(world: &mut FakeServiceState, call: FakeServiceCall, request: &FakeServiceRequest) -> HttpReply {
    let fault =
        |status, message: &str| HttpReply { status, ..HttpReply::ok(json!({ "message": message }).to_string()) };
    if request.header("authorization") != format!("Bearer {REST_TOKEN}") {
        return fault(401, "Bad credentials");
    }
    if request.header("user-agent").is_empty() {
        return fault(403, "Request forbidden by administrative rules");
    }
    if world.is_rest_denied {
        return fault(403, "Resource not accessible by integration");
    }
    let id = request.path.split('/').find_map(|part| part.parse::<u64>().ok()).unwrap_or_default();
    match call {
        FakeServiceCall::RestList => {
            let number = |name: &str, default: usize| request.query(name).parse().unwrap_or(default);
            let (size, page) = (number("per_page", 30).min(100), number("page", 1).max(1));
            let earlier = || world.earlier_runs.iter().find(|run| run.id == id).map(|run| &run.artifacts);
            let Some(artifacts) = (if id == world.run { Some(&world.artifacts) } else { earlier() }) else {
                return fault(404, "Not Found");
            };
            let all: Vec<_> = artifacts.iter().filter(|(_, artifact)| artifact.is_final).collect();
            let shown = all.iter().skip((page - 1) * size).take(size).map(|(name, artifact)| {
                json!({
                    "id": artifact.id, "node_id": "x", "name": name, "size_in_bytes": artifact.size,
                    "expired": false, "digest": artifact.digest, "created_at": "2026-01-02T03:04:05Z",
                })
            });
            let shown: Vec<_> = shown.collect();
            HttpReply::ok(json!({ "total_count": all.len(), "artifacts": shown }).to_string())
        }
        FakeServiceCall::RestZip => {
            if world.artifact_by_id(id).is_none() {
                return fault(404, "Not Found");
            }
            HttpReply { headers: vec![("location".to_owned(), world.signed_url(id, "rest"))], ..HttpReply::status(302) }
        }
        FakeServiceCall::RestRuns => runs(world, request),
        FakeServiceCall::RestDelete => {
            let before = world.artifacts.len();
            world.artifacts.retain(|_, artifact| artifact.id != id);
            if world.artifacts.len() < before { HttpReply::status(204) } else { fault(404, "Not Found") }
        }
        other => unreachable!("{other:?} is no call of the REST API"),
    }
}

/// The workflow of all runs.
const WORKFLOW_ID: u64 = 161_335;

fn runs(world: &FakeServiceState, request: &FakeServiceRequest) -> HttpReply {
    let shown = |id: u64, number: usize, branch: &str, is_of_fork: bool| {
        json!({
            "id": id, "workflow_id": WORKFLOW_ID, "run_number": number, "head_branch": branch, "event": "push",
            "repository": { "id": 1 }, "head_repository": { "id": if is_of_fork { 2 } else { 1 } },
        })
    };
    let earlier = world.earlier_runs.iter().enumerate();
    let mut all: Vec<_> = earlier.map(|(number, run)| shown(run.id, number + 1, &run.branch, run.is_of_fork)).collect();
    all.push(shown(world.run, all.len() + 1, &world.branch, false));
    let parts: Vec<_> = request.path.split('/').skip_while(|part| *part != "actions").skip(1).collect();
    let answer = match parts[..] {
        ["runs", id] => all.into_iter().find(|run| run["id"].as_u64() == id.parse().ok()),
        ["workflows", id, "runs"] if id == WORKFLOW_ID.to_string() => {
            let branch = request.query("branch");
            let found: Vec<_> = all.into_iter().rev().filter(|run| run["head_branch"] == branch).collect();
            Some(json!({ "total_count": found.len(), "workflow_runs": found }))
        }
        ["runs", id, "attempts", attempt, "jobs"] if id == world.run.to_string() => {
            let jobs = world.jobs.get(&attempt.parse().unwrap_or_default());
            jobs.map(|jobs| json!({ "total_count": jobs.len(), "jobs": jobs }))
        }
        _ => None,
    };
    match answer {
        Some(answer) => HttpReply::ok(answer.to_string()),
        None => HttpReply { status: 404, ..HttpReply::ok(json!({ "message": "Not Found" }).to_string()) },
    }
}
