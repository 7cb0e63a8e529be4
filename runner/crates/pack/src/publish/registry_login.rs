//! Who we are to a registry: its challenge, its token server, and the credentials of Docker's `config.json`.

use fetch::registry::{AuthChallenge, basic_authorization, docker_credentials, parse_challenge, parse_token};
use reqwest::Method;
use url::Url;

use super::{
    PublishError, PublishSource, Publisher,
    transfer::{Transfer, TransferAnswer, TransferRequest},
};
use contract::Secret;
use plan::OciRef;

/// The header `authorization` that an answer with status 401 asks for.
pub(super) async fn authorize(
    publisher: &Publisher,
    source: &PublishSource,
    transfer: &Transfer,
    reference: &OciRef,
    answer: &TransferAnswer,
) -> Result<Option<Secret>, PublishError> {
    let own = match &publisher.authorization {
        Some(own) => Some(own.clone()),
        None => stored(publisher, reference)?,
    };
    let challenges =
        answer.headers.iter().filter(|(name, _)| name == "www-authenticate").map(|(_, value)| value.as_str());
    let Some(AuthChallenge::Bearer { realm, service }) = parse_challenge(challenges) else { return Ok(own) };
    // A token needs no token server.
    if own.as_ref().is_some_and(|own| !own.reveal().starts_with("Basic ")) {
        return Ok(own);
    }
    let peer = reference.authority();
    let protocol = |why: &str| PublishError::Protocol { peer: peer.clone(), why: why.to_owned() };
    let mut url = Url::parse(&realm).map_err(|_| protocol("the address of its token server is invalid"))?;
    if url.scheme() != "https" && reference.scheme == "https" {
        return Err(protocol("its token server does not use https"));
    }
    url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
    url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull,push", reference.repository));
    let has_credentials = own.is_some();
    let request = TransferRequest::new(Method::GET, url).authorization(own);
    let answer = transfer.send(source, &request).await?;
    if !answer.is_success() {
        return Err(answer.error(&request.url, "the request of a token", has_credentials));
    }
    parse_token(&answer.body).map(Some).map_err(|_| protocol("its token server sent no token"))
}

fn stored(publisher: &Publisher, reference: &OciRef) -> Result<Option<Secret>, PublishError> {
    let Some(path) = &publisher.docker_config else { return Ok(None) };
    let found = docker_credentials(path, &reference.authority());
    let found = found.map_err(|error| PublishError::Credentials(error.to_string()))?;
    Ok(found.map(|credentials| basic_authorization(&credentials)))
}
