//! The storage: Azure's, as far as it is used.

use super::{FakeServiceCall, FakeServiceState, SIGNATURE, http_server::FakeServiceRequest};
use crate::support::HttpReply;

pub(super) const PREFIX: &str = "/devstore/artifacts/";

pub(super) fn call_of(request: &FakeServiceRequest) -> Option<FakeServiceCall> {
    match (request.method.as_str(), request.query("comp")) {
        // A single PUT leaves nothing under act, and is no call here.
        ("PUT", "block") => Some(FakeServiceCall::Block),
        ("PUT", "blocklist") => Some(FakeServiceCall::BlockList),
        ("GET", "") if request.query("via") == "rest" => Some(FakeServiceCall::RestContent),
        ("GET", "") => Some(FakeServiceCall::Content),
        _ => None,
    }
}

pub(super) fn answer(
    world: &mut FakeServiceState,
    call: FakeServiceCall,
    request: &FakeServiceRequest,
    body: Vec<u8>,
) -> HttpReply {
    let fault = |status, code: &str| HttpReply {
        headers: vec![("x-ms-error-code".to_owned(), code.to_owned())],
        ..HttpReply::status(status)
    };
    // What the signature allows, a token beside it forbids.
    if !request.header("authorization").is_empty() {
        return fault(400, "InvalidAuthenticationInfo");
    }
    if request.query("sig") != SIGNATURE {
        return fault(403, "AuthenticationFailed");
    }
    let id = request.path[PREFIX.len()..].trim_end_matches(".zip").parse().unwrap_or_default();
    let Some(artifact) = world.artifact_by_id(id) else { return fault(404, "BlobNotFound") };
    match call {
        FakeServiceCall::Block => {
            let id = request.query("blockid").to_owned();
            if id.is_empty() || artifact.blocks.keys().any(|other| other.len() != id.len()) {
                return fault(400, "InvalidBlobOrBlock");
            }
            artifact.blocks.insert(id, body);
            HttpReply::status(201)
        }
        FakeServiceCall::BlockList => {
            let list = String::from_utf8(body).unwrap();
            let ids: Vec<_> = list
                .split("<Latest>")
                .skip(1)
                .filter_map(|rest| rest.split_once("</Latest>"))
                .map(|(id, _)| id)
                .collect();
            let Some(blocks) = ids.iter().map(|id| artifact.blocks.get(*id).cloned()).collect::<Option<Vec<_>>>()
            else {
                return fault(400, "InvalidBlockList");
            };
            (artifact.block_count, artifact.content) = (blocks.len(), blocks.concat());
            artifact.kind = request.header("x-ms-blob-content-type").to_owned();
            artifact.blocks.clear();
            HttpReply::status(201)
        }
        FakeServiceCall::Content | FakeServiceCall::RestContent => HttpReply {
            headers: vec![("content-type".to_owned(), artifact.kind.clone())],
            ..HttpReply::ok(artifact.content.clone())
        },
        other => unreachable!("{other:?} is no call of the storage"),
    }
}
