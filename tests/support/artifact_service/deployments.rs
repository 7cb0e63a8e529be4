//! GitHub's REST API, as far as it is about deployments and their statuses.

use serde_json::{Value, json};

use super::{FakeServiceCall, FakeServiceState, REPOSITORY, REST_TOKEN, http_server::FakeServiceRequest};
use crate::support::HttpReply;

/// A deployment: what was asked for, and its statuses, oldest first.
pub(super) struct FakeDeployment {
    request: Value,
    pub(super) statuses: Vec<Value>,
}

/// `path` is what follows the API's URL.
pub(super) fn call_of(method: &str, path: &str) -> Option<FakeServiceCall> {
    let path = path.strip_prefix("/repos/")?.strip_prefix(REPOSITORY)?.strip_prefix("/deployments")?;
    match (method, &path.split('/').collect::<Vec<_>>()[..]) {
        ("GET", [""]) => Some(FakeServiceCall::DeploymentList),
        ("POST", [""]) => Some(FakeServiceCall::DeploymentCreate),
        ("GET", ["", _, "statuses"]) => Some(FakeServiceCall::StatusList),
        ("POST", ["", _, "statuses"]) => Some(FakeServiceCall::StatusCreate),
        _ => None,
    }
}

pub(super) fn answer(
    world: &mut FakeServiceState,
    call: FakeServiceCall,
    request: &FakeServiceRequest,
    body: &[u8],
) -> HttpReply {
    if request.header("authorization") != format!("Bearer {REST_TOKEN}") {
        return HttpReply::status(401);
    }
    let created = |value: Value| HttpReply { status: 201, ..HttpReply::ok(value.to_string()) };
    // Ids count from 1.
    let place = request.path.split('/').find_map(|part| part.parse::<usize>().ok()).unwrap_or_default();
    let newest_first = |all: Vec<Value>| {
        let number = |name: &str, default: usize| request.query(name).parse().unwrap_or(default);
        let (size, page) = (number("per_page", 30).min(100), number("page", 1).max(1));
        let shown: Vec<_> = all.into_iter().rev().skip((page - 1) * size).take(size).collect();
        HttpReply::ok(Value::Array(shown).to_string())
    };
    match call {
        FakeServiceCall::DeploymentCreate => {
            world
                .deployments
                .push(FakeDeployment { request: serde_json::from_slice(body).unwrap(), statuses: Vec::new() });
            created(json!({ "id": world.deployments.len() }))
        }
        FakeServiceCall::DeploymentList => {
            let environment = request.query("environment");
            let all = world.deployments.iter().enumerate().filter(|(_, one)| one.request["environment"] == environment);
            let shown = |(at, one): (usize, &FakeDeployment)| json!({ "id": at + 1, "environment": one.request["environment"], "payload": one.request["payload"] });
            newest_first(all.map(shown).collect())
        }
        FakeServiceCall::StatusCreate => match world.deployments.get_mut(place.wrapping_sub(1)) {
            Some(deployment) => {
                deployment.statuses.push(serde_json::from_slice(body).unwrap());
                created(json!({ "id": deployment.statuses.len() }))
            }
            None => HttpReply::status(404),
        },
        FakeServiceCall::StatusList => match world.deployments.get(place.wrapping_sub(1)) {
            Some(deployment) => newest_first(deployment.statuses.clone()),
            None => HttpReply::status(404),
        },
        other => unreachable!("{other:?} is no call about deployments"),
    }
}
