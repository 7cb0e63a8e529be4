//! The service itself.

use serde_json::{Map, Value, json};

use super::{FakeArtifact, FakeServiceCall, FakeServiceState, http_server::FakeServiceRequest, runtime_token};
use crate::support::{HttpReply, sha256};

pub(super) const PREFIX: &str = "/twirp/github.actions.results.api.v1.ArtifactService/";

pub(super) fn call_of(method: &str) -> Option<FakeServiceCall> {
    match method {
        "CreateArtifact" => Some(FakeServiceCall::Create),
        "FinalizeArtifact" => Some(FakeServiceCall::Finalize),
        "ListArtifacts" => Some(FakeServiceCall::List),
        "GetSignedArtifactURL" => Some(FakeServiceCall::Sign),
        "DeleteArtifact" => Some(FakeServiceCall::Delete),
        _ => None,
    }
}

pub(super) fn answer(
    world: &mut FakeServiceState,
    call: FakeServiceCall,
    request: &FakeServiceRequest,
    body: &[u8],
) -> HttpReply {
    let is_known = request.header("authorization") == format!("Bearer {}", runtime_token());
    if world.is_token_expired || !is_known {
        return error_reply(401, "unauthenticated", "the token has expired");
    }
    if request.method != "POST" || !request.header("content-type").starts_with("application/json") {
        return error_reply(400, "bad_route", "POST and JSON, please");
    }
    let Ok(fields) = serde_json::from_slice::<Value>(body) else { return error_reply(400, "malformed", "no JSON") };
    let text = |name: &str| fields[name].as_str().unwrap_or_default();
    let (run, job, name) = (text("workflow_run_backend_id"), text("workflow_job_run_backend_id"), text("name"));
    if run != super::BACKEND_RUN_ID
        || matches!(call, FakeServiceCall::Create | FakeServiceCall::Finalize | FakeServiceCall::List)
            && job != super::BACKEND_JOB_ID
    {
        return error_reply(403, "permission_denied", "not the ids of the token");
    }
    let is_there = |artifact: &&mut FakeArtifact| artifact.is_final && artifact.job == job;
    let value = match call {
        FakeServiceCall::Create => {
            if world.artifacts.contains_key(name) {
                return error_reply(
                    409,
                    "already_exists",
                    "an artifact with this name already exists on the workflow run",
                );
            }
            if name.is_empty() || !fields["version"].is_number() {
                return error_reply(400, "invalid_argument", "no name or version");
            }
            let artifact = world.new_artifact(run, job);
            let url = world.signed_url(artifact.id, "service");
            world.artifacts.insert(name.to_owned(), artifact);
            json!({ "ok": true, "signed_upload_url": url })
        }
        FakeServiceCall::Finalize => {
            let Some(artifact) = world.artifacts.get_mut(name).filter(|artifact| !artifact.is_final) else {
                return error_reply(404, "not_found", "no such artifact");
            };
            let digest = format!("sha256:{}", sha256(&artifact.content));
            if text("size") != artifact.content.len().to_string() || text("hash") != digest {
                return error_reply(400, "invalid_argument", "the content is not what its size and hash say");
            }
            (artifact.size, artifact.digest, artifact.is_final) = (artifact.content.len(), Some(digest), true);
            json!({ "ok": true, "artifact_id": artifact.id.to_string() })
        }
        FakeServiceCall::List => {
            let is_asked_for = |name: &str, artifact: &FakeArtifact| {
                let by_name = fields["name_filter"].as_str().is_none_or(|filter| filter == name);
                let by_id = fields["id_filter"].as_str().is_none_or(|filter| filter == artifact.id.to_string());
                artifact.is_final && by_name && by_id
            };
            let found = world.artifacts.iter().filter(|(name, artifact)| is_asked_for(name, artifact));
            let found: Vec<_> = found
                .map(|(name, artifact)| {
                    json!({
                        "workflow_run_backend_id": artifact.run, "workflow_job_run_backend_id": artifact.job,
                        "database_id": artifact.id.to_string(), "name": name, "size": artifact.size.to_string(),
                        "created_at": "2026-01-02T03:04:05Z", "digest": artifact.digest,
                    })
                })
                .collect();
            json!({ "artifacts": found })
        }
        FakeServiceCall::Sign => {
            let Some(id) = world.artifacts.get_mut(name).filter(is_there).map(|artifact| artifact.id) else {
                return error_reply(404, "not_found", "no such artifact");
            };
            json!({ "signed_url": world.signed_url(id, "service") })
        }
        FakeServiceCall::Delete => {
            let Some(id) = world.artifacts.get_mut(name).filter(is_there).map(|artifact| artifact.id) else {
                return error_reply(404, "not_found", "no such artifact");
            };
            world.artifacts.remove(name);
            json!({ "ok": true, "artifact_id": id.to_string() })
        }
        other => unreachable!("{other:?} is no call of the service"),
    };
    let value = if world.uses_camel_case { to_camel_case(value) } else { value };
    HttpReply {
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        ..HttpReply::ok(value.to_string())
    }
}

fn error_reply(status: u16, code: &str, msg: &str) -> HttpReply {
    HttpReply { status, ..HttpReply::ok(json!({ "code": code, "msg": msg }).to_string()) }
}

/// The same with other names.
fn to_camel_case(value: Value) -> Value {
    let renamed = |name: &str| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (renamed(&name), to_camel_case(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(to_camel_case).collect()),
        plain => plain,
    }
}
