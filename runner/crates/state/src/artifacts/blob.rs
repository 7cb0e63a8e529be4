//! Uploads and downloads the content of an artifact by its signed URL in Azure's blob storage, or a compatible one.
//!
//! Uploads always use blocks: a single PUT works at GitHub, but loses the content under act. A block may be sent again,
//! because its id names its position. Invariant: no request here carries a token, and no error contains the URL.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::{StatusCode, header::CONTENT_TYPE};
use tokio::time::Instant;
use url::Url;

use super::{
    ArtifactError,
    http_client::{ServiceCall, ServiceHttpClient, ServiceResponse},
};

/// The block size of the official client.
const BLOCK_BYTES: usize = 8 << 20;

/// Uploads the content.
pub(super) async fn upload_blocks(
    calls: &ServiceHttpClient,
    until: Instant,
    url: &Url,
    content: &Bytes,
) -> Result<(), ArtifactError> {
    let action = "store an artifact";
    let mut list = String::from(r#"<?xml version="1.0" encoding="utf-8"?><BlockList>"#);
    for (number, start) in (0..content.len()).step_by(BLOCK_BYTES).enumerate() {
        let block = content.slice(start..content.len().min(start + BLOCK_BYTES));
        // The storage requires ids of equal length.
        let id = STANDARD.encode(format!("block-{number:06}"));
        let place = with_query(url, &[("comp", "block"), ("blockid", &id)]);
        let call = calls.transfer_call(action, until, 64 << 10);
        let put = || calls.client.put(place.clone()).body(block.clone()).send();
        let answer = calls.send_with_retries(call, put).await?;
        expect_status(calls, call, &answer, StatusCode::CREATED)?;
        list.push_str(&format!("<Latest>{id}</Latest>"));
    }
    list.push_str("</BlockList>");
    let place = with_query(url, &[("comp", "blocklist")]);
    let call = calls.api_call(action, until);
    let put = || {
        let put = calls.client.put(place.clone()).header("x-ms-blob-content-type", "application/zip");
        put.header(CONTENT_TYPE, "application/xml").body(list.clone()).send()
    };
    let answer = calls.send_with_retries(call, put).await?;
    expect_status(calls, call, &answer, StatusCode::CREATED)
}

/// Downloads the content.
pub(super) async fn download(
    calls: &ServiceHttpClient,
    until: Instant,
    url: &Url,
    max: u64,
) -> Result<Vec<u8>, ArtifactError> {
    let call = calls.transfer_call("read an artifact", until, max);
    let answer = calls.send_with_retries(call, || calls.client.get(url.clone()).send()).await?;
    expect_status(calls, call, &answer, StatusCode::OK)?;
    Ok(answer.body)
}

fn with_query(url: &Url, pairs: &[(&str, &str)]) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(pairs);
    url
}

fn expect_status(
    calls: &ServiceHttpClient,
    call: ServiceCall,
    answer: &ServiceResponse,
    status: StatusCode,
) -> Result<(), ArtifactError> {
    if answer.status == status {
        return Ok(());
    }
    let said = answer.headers.get("x-ms-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
    let why = format!("the blob storage rejected the request: {}", calls.redacted_line(said));
    let why = why.trim_end_matches([':', ' ']).to_owned();
    Err(ArtifactError::Refused { action: call.action, status: answer.status, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_parameters_keep_the_signature() {
        let url = Url::parse("https://blob.example/c/x?se=2026-01-01T00%3A00%3A00Z&sig=a%2Bb%2F%3D").unwrap();
        let with = with_query(&url, &[("comp", "block"), ("blockid", "YQ==")]);
        assert_eq!(with.as_str(), format!("{url}&comp=block&blockid=YQ%3D%3D"));
    }
}
