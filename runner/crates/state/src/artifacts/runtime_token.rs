//! Reads the ids of run and job from the runtime token; the service expects them in each call.
//!
//! The token is a JWT. It is not verified here, because it goes back to its issuer. Deliberately absent: its expiry,
//! which the service's clock decides.

use base64::{Engine as _, alphabet, engine::GeneralPurpose, engine::general_purpose};
use serde::Deserialize;

use contract::Secret;

/// The backend ids of a job in a workflow run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobBackendIds {
    pub(super) run: String,
    pub(super) job: String,
}

/// URL-safe, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    general_purpose::NO_PAD.with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// Reads the ids from `Actions.Results:<run>:<job>`, one of the scopes in the payload's `scp`.
pub(super) fn job_backend_ids(token: &Secret) -> Result<JobBackendIds, &'static str> {
    #[derive(Deserialize)]
    struct RuntimeTokenPayload {
        scp: String,
    }
    let payload = token.reveal().split('.').nth(1).ok_or("it is not a JWT")?;
    let payload = BASE64.decode(payload).map_err(|_| "its payload is not base64")?;
    let payload: RuntimeTokenPayload = serde_json::from_slice(&payload).map_err(|_| "its payload has no `scp`")?;
    let ids = payload.scp.split(' ').find_map(|scope| scope.strip_prefix("Actions.Results:"));
    let ids = ids.ok_or("it has no scope `Actions.Results`, so it is not for artifacts")?;
    match ids.split(':').collect::<Vec<_>>()[..] {
        [run, job] if !run.is_empty() && !job.is_empty() => {
            Ok(JobBackendIds { run: run.to_owned(), job: job.to_owned() })
        }
        [..] => Err("its scope `Actions.Results` does not have two ids"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str, engine: &GeneralPurpose) -> Secret {
        Secret::new(format!("e30.{}.c2ln", engine.encode(payload)))
    }

    #[test]
    fn ids_are_read_from_the_scopes() {
        let payload = r#"{"scp":"Actions.GenericRead:x Actions.Results:run-1:job-2","iat":1,"x":"???>>>"}"#;
        let ids = JobBackendIds { run: "run-1".to_owned(), job: "job-2".to_owned() };
        for engine in [general_purpose::URL_SAFE_NO_PAD, general_purpose::URL_SAFE] {
            assert_eq!(job_backend_ids(&token(payload, &engine)), Ok(ids.clone()));
        }
    }

    #[test]
    fn invalid_tokens_are_reported() {
        for (payload, why) in [
            (r#"{"scp":"Actions.Results:only-one"}"#, "two ids"),
            (r#"{"scp":"Actions.Results:a:b:c"}"#, "two ids"),
            (r#"{"scp":"Actions.Results::b"}"#, "two ids"),
            (r#"{"scp":"Actions.ResultsX:a:b"}"#, "no scope"),
            (r#"{"sub":"x"}"#, "no `scp`"),
        ] {
            assert!(
                job_backend_ids(&token(payload, &general_purpose::URL_SAFE_NO_PAD)).unwrap_err().contains(why),
                "{payload}"
            );
        }
        assert_eq!(job_backend_ids(&Secret::new("ghs_plain".to_owned())), Err("it is not a JWT"));
        assert_eq!(job_backend_ids(&Secret::new("a.%%%.c".to_owned())), Err("its payload is not base64"));
    }
}
