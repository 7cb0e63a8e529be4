//! GitHub's REST API, as far as it is about artifacts.

use serde_json::json;

use super::{FakeServiceCall, FakeServiceState, REPOSITORY, REST_TOKEN, RUN_ID, http_server::FakeServiceRequest};
use crate::support::HttpReply;

/// `path` is what follows the API's URL.
pub(super) fn call_of(method: &str, path: &str) -> Option<FakeServiceCall> {
    let path = path.strip_prefix("/repos/")?.strip_prefix(REPOSITORY)?.strip_prefix("/actions/")?;
    match (method, &path.split('/').collect::<Vec<_>>()[..]) {
        ("GET", ["runs", run, "artifacts"]) if *run == RUN_ID.to_string() => Some(FakeServiceCall::RestList),
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
    let id = request.path.split('/').find_map(|part| part.parse::<u64>().ok()).unwrap_or_default();
    match call {
        FakeServiceCall::RestList => {
            let number = |name: &str, default: usize| request.query(name).parse().unwrap_or(default);
            let (size, page) = (number("per_page", 30).min(100), number("page", 1).max(1));
            let all: Vec<_> = world.artifacts.iter().filter(|(_, artifact)| artifact.is_final).collect();
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
        FakeServiceCall::RestDelete => {
            let before = world.artifacts.len();
            world.artifacts.retain(|_, artifact| artifact.id != id);
            if world.artifacts.len() < before { HttpReply::status(204) } else { fault(404, "Not Found") }
        }
        other => unreachable!("{other:?} is no call of the REST API"),
    }
}
