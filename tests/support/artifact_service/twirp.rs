//! The service itself.

use serde_json::{Map, Value, json};

use super::{Artifact, Call, World, token, wire::Request};
use crate::support::{Reply, sha256};

pub(super) const PREFIX: &str = "/twirp/github.actions.results.api.v1.ArtifactService/";

pub(super) fn call_of(method: &str) -> Option<Call> {
    match method {
        "CreateArtifact" => Some(Call::Create),
        "FinalizeArtifact" => Some(Call::Finalize),
        "ListArtifacts" => Some(Call::List),
        "GetSignedArtifactURL" => Some(Call::Sign),
        "DeleteArtifact" => Some(Call::Delete),
        _ => None,
    }
}

pub(super) fn answer(world: &mut World, call: Call, request: &Request, body: &[u8]) -> Reply {
    let is_known = request.header("authorization") == format!("Bearer {}", token());
    if world.is_expired || !is_known {
        return fault(401, "unauthenticated", "the token has expired");
    }
    if request.method != "POST" || !request.header("content-type").starts_with("application/json") {
        return fault(400, "bad_route", "POST and JSON, please");
    }
    let Ok(fields) = serde_json::from_slice::<Value>(body) else { return fault(400, "malformed", "no JSON") };
    let text = |name: &str| fields[name].as_str().unwrap_or_default();
    let (run, job, name) = (text("workflow_run_backend_id"), text("workflow_job_run_backend_id"), text("name"));
    if run != super::RUN || matches!(call, Call::Create | Call::Finalize | Call::List) && job != super::JOB {
        return fault(403, "permission_denied", "not the ids of the token");
    }
    let is_there = |artifact: &&mut Artifact| artifact.is_final && artifact.job == job;
    let value = match call {
        Call::Create => {
            if world.artifacts.contains_key(name) {
                return fault(409, "already_exists", "an artifact with this name already exists on the workflow run");
            }
            if name.is_empty() || !fields["version"].is_number() {
                return fault(400, "invalid_argument", "no name or version");
            }
            let artifact = world.begin(run, job);
            let url = world.signed(artifact.id, "service");
            world.artifacts.insert(name.to_owned(), artifact);
            json!({ "ok": true, "signed_upload_url": url })
        }
        Call::Finalize => {
            let Some(artifact) = world.artifacts.get_mut(name).filter(|artifact| !artifact.is_final) else {
                return fault(404, "not_found", "no such artifact");
            };
            let digest = format!("sha256:{}", sha256(&artifact.content));
            if text("size") != artifact.content.len().to_string() || text("hash") != digest {
                return fault(400, "invalid_argument", "the content is not what its size and hash say");
            }
            (artifact.size, artifact.digest, artifact.is_final) = (artifact.content.len(), Some(digest), true);
            json!({ "ok": true, "artifact_id": artifact.id.to_string() })
        }
        Call::List => {
            let is_asked_for = |name: &str, artifact: &Artifact| {
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
        Call::Sign => {
            let Some(id) = world.artifacts.get_mut(name).filter(is_there).map(|artifact| artifact.id) else {
                return fault(404, "not_found", "no such artifact");
            };
            json!({ "signed_url": world.signed(id, "service") })
        }
        Call::Delete => {
            let Some(id) = world.artifacts.get_mut(name).filter(is_there).map(|artifact| artifact.id) else {
                return fault(404, "not_found", "no such artifact");
            };
            world.artifacts.remove(name);
            json!({ "ok": true, "artifact_id": id.to_string() })
        }
        other => unreachable!("{other:?} is no call of the service"),
    };
    let value = if world.is_camel { camel(value) } else { value };
    Reply { headers: vec![("content-type".to_owned(), "application/json".to_owned())], ..Reply::ok(value.to_string()) }
}

fn fault(status: u16, code: &str, msg: &str) -> Reply {
    Reply { status, ..Reply::ok(json!({ "code": code, "msg": msg }).to_string()) }
}

/// The same with other names.
fn camel(value: Value) -> Value {
    let renamed = |name: &str| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (renamed(&name), camel(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(camel).collect()),
        plain => plain,
    }
}
