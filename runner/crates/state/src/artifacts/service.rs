//! GitHub's artifact service, version 4: twirp, JSON by POST.
//!
//! The protocol is undocumented; this follows the official client (npm `@actions/artifact`). Requests use snake_case,
//! responses either that or camelCase; 64-bit numbers are strings. Deliberately absent: what to do when a call fails.

use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::{
    ArtifactAccess, ArtifactError, ArtifactInfo, ArtifactSource,
    http_client::{RetryPolicy, ServiceCall, ServiceHttpClient},
    runtime_token::{self, JobBackendIds},
};
use contract::{Digest, Secret};

/// The variable that holds the token.
const RUNTIME_TOKEN_VARIABLE: &str = "ACTIONS_RUNTIME_TOKEN";
/// The version of the artifacts that this client creates.
const ARTIFACT_VERSION: u32 = 4;

/// The service for one job.
#[derive(Debug)]
pub(super) struct ArtifactServiceClient {
    origin: String,
    token: Secret,
    own_job: JobBackendIds,
}

#[derive(Deserialize)]
struct CreateArtifactResponse {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
}

#[derive(Deserialize)]
struct FinalizeArtifactResponse {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "artifactId")]
    artifact_id: ProtoInt64,
}

#[derive(Deserialize)]
struct ListArtifactsResponse {
    #[serde(default)]
    artifacts: Vec<ServiceArtifact>,
}

#[derive(Deserialize)]
struct ServiceArtifact {
    #[serde(alias = "workflowRunBackendId")]
    workflow_run_backend_id: String,
    #[serde(alias = "workflowJobRunBackendId")]
    workflow_job_run_backend_id: String,
    #[serde(default, alias = "databaseId")]
    database_id: ProtoInt64,
    name: String,
    #[serde(default)]
    size: ProtoInt64,
    digest: Option<String>,
}

#[derive(Deserialize)]
struct SignedUrlResponse {
    #[serde(alias = "signedUrl")]
    signed_url: String,
}

#[derive(Deserialize)]
struct DeleteArtifactResponse {
    #[serde(default)]
    ok: bool,
}

/// An error response of twirp.
#[derive(Default, Deserialize)]
struct TwirpErrorBody {
    #[serde(default)]
    msg: String,
}

/// A 64-bit number, as a string (JSON of protocol buffers) or as a number.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(try_from = "Value")]
struct ProtoInt64(u64);

impl TryFrom<Value> for ProtoInt64 {
    type Error = &'static str;
    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.map(Self).ok_or("not a number")
    }
}

impl ArtifactServiceClient {
    pub(super) fn new(access: &ArtifactAccess) -> Result<Self, ArtifactError> {
        let wrong = |why: &str| ArtifactError::InvalidAccess { what: "ACTIONS_RESULTS_URL", why: why.to_owned() };
        let url = Url::parse(&access.results_url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("it is not an http or https URL"));
        }
        let wrong = |why: &str| ArtifactError::InvalidAccess { what: RUNTIME_TOKEN_VARIABLE, why: why.to_owned() };
        if !access.runtime_token.reveal().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it has characters that are invalid in a token"));
        }
        let own = runtime_token::job_backend_ids(&access.runtime_token).map_err(wrong)?;
        Ok(Self { origin: url.origin().ascii_serialization(), token: access.runtime_token.clone(), own_job: own })
    }

    /// Creates an artifact and returns its upload URL. An existing name is a 409.
    pub(super) async fn create(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        name: &str,
    ) -> Result<Url, ArtifactError> {
        let call = calls.api_call("store an artifact", until);
        let fields = json!({ "name": name, "version": ARTIFACT_VERSION });
        let created: CreateArtifactResponse =
            self.call_method(calls, call, "CreateArtifact", &self.own_job, fields).await?;
        ensure_ok(call, created.ok)?;
        parse_content_url(call, &created.signed_upload_url)
    }

    /// Finalizes an artifact and returns its id. Never retried, because without a response its outcome is unknown.
    pub(super) async fn finalize(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        name: &str,
        size: usize,
        digest: &Digest,
    ) -> Result<ArtifactInfo, ArtifactError> {
        let call =
            ServiceCall { retry_policy: RetryPolicy::OnlyIfUnprocessed, ..calls.api_call("store an artifact", until) };
        let fields = json!({ "name": name, "size": size.to_string(), "hash": digest });
        let finalized: FinalizeArtifactResponse =
            self.call_method(calls, call, "FinalizeArtifact", &self.own_job, fields).await?;
        ensure_ok(call, finalized.ok)?;
        Ok(ArtifactInfo {
            name: name.to_owned(),
            id: finalized.artifact_id.0,
            size: size as u64,
            digest: Some(digest.clone()),
            source: ArtifactSource::Service(self.own_job.clone()),
        })
    }

    /// Lists all artifacts that this job sees, or those of one name.
    pub(super) async fn list(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        name: Option<&str>,
    ) -> Result<Vec<ArtifactInfo>, ArtifactError> {
        let call = calls.api_call("list artifacts", until);
        let fields = name.map_or_else(|| json!({}), |name| json!({ "name_filter": name }));
        let found: ListArtifactsResponse =
            self.call_method(calls, call, "ListArtifacts", &self.own_job, fields).await?;
        let listed = |entry: ServiceArtifact| ArtifactInfo {
            name: entry.name,
            id: entry.database_id.0,
            size: entry.size.0,
            // A digest of another algorithm can't be checked.
            digest: entry.digest.and_then(|digest| digest.parse().ok()),
            source: ArtifactSource::Service(JobBackendIds {
                run: entry.workflow_run_backend_id,
                job: entry.workflow_job_run_backend_id,
            }),
        };
        Ok(found.artifacts.into_iter().map(listed).collect())
    }

    /// A download URL of an artifact, valid for some minutes.
    pub(super) async fn signed_url(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        of: &JobBackendIds,
        name: &str,
    ) -> Result<Url, ArtifactError> {
        let call = calls.api_call("read an artifact", until);
        let signed: SignedUrlResponse =
            self.call_method(calls, call, "GetSignedArtifactURL", of, json!({ "name": name })).await?;
        parse_content_url(call, &signed.signed_url)
    }

    pub(super) async fn delete(
        &self,
        calls: &ServiceHttpClient,
        until: Instant,
        of: &JobBackendIds,
        name: &str,
    ) -> Result<(), ArtifactError> {
        let call = calls.api_call("delete an artifact", until);
        let deleted: DeleteArtifactResponse =
            self.call_method(calls, call, "DeleteArtifact", of, json!({ "name": name })).await?;
        ensure_ok(call, deleted.ok)
    }

    async fn call_method<T: DeserializeOwned>(
        &self,
        calls: &ServiceHttpClient,
        call: ServiceCall,
        method: &str,
        of: &JobBackendIds,
        mut fields: Value,
    ) -> Result<T, ArtifactError> {
        fields["workflow_run_backend_id"] = of.run.clone().into();
        fields["workflow_job_run_backend_id"] = of.job.clone().into();
        let body = fields.to_string();
        let url = format!("{}/twirp/github.actions.results.api.v1.ArtifactService/{method}", self.origin);
        let request = || {
            let request = calls.client.post(&url).bearer_auth(self.token.reveal());
            request.header(CONTENT_TYPE, "application/json").body(body.clone()).send()
        };
        let answer = calls.send_with_retries(call, request).await?;
        match answer.status {
            StatusCode::OK => serde_json::from_slice(&answer.body).map_err(|_| {
                let why = format!("the answer to {method} does not match the protocol");
                ArtifactError::Refused { action: call.action, status: answer.status, why }
            }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(ArtifactError::Unauthorized { action: call.action, token: RUNTIME_TOKEN_VARIABLE, status })
            }
            status => {
                let said: TwirpErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
                Err(ArtifactError::Refused { action: call.action, status, why: calls.redacted_line(&said.msg) })
            }
        }
    }
}

fn ensure_ok(call: ServiceCall, ok: bool) -> Result<(), ArtifactError> {
    let why = "the service answered that it failed".to_owned();
    if ok { Ok(()) } else { Err(ArtifactError::Refused { action: call.action, status: StatusCode::OK, why }) }
}

fn parse_content_url(call: ServiceCall, url: &str) -> Result<Url, ArtifactError> {
    // An invalid URL is not shown, because it may be part of a signed one.
    let why = "the service returned no URL for the content".to_owned();
    Url::parse(url).map_err(|_| ArtifactError::Refused { action: call.action, status: StatusCode::OK, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_field_spellings_and_number_forms_are_read() {
        for text in [
            r#"{"artifacts":[{"workflow_run_backend_id":"r","workflow_job_run_backend_id":"j","database_id":"7","name":"n","size":"8"}]}"#,
            r#"{"artifacts":[{"workflowRunBackendId":"r","workflowJobRunBackendId":"j","databaseId":7,"name":"n","size":8,"digest":null,"x":1}]}"#,
        ] {
            let found: ListArtifactsResponse = serde_json::from_str(text).unwrap();
            let [entry] = &found.artifacts[..] else { panic!("{text}") };
            assert_eq!((entry.database_id.0, entry.size.0, entry.workflow_job_run_backend_id.as_str()), (7, 8, "j"));
        }
        assert!(serde_json::from_str::<ListArtifactsResponse>("{}").unwrap().artifacts.is_empty());
        let text = r#"{"ok":true,"artifactId":"99999999999999999999"}"#;
        assert!(serde_json::from_str::<FinalizeArtifactResponse>(text).is_err(), "more than 64 bits");
    }
}
