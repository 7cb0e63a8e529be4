//! Registry credentials that `docker login`, `podman login` and CI actions store in Docker's `config.json`. Pure.
//!
//! Deliberately absent: credential helpers. The file names them, and a file must not decide which programs run.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use contract::Secret;

/// A registry's user and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryCredentials {
    pub user: String,
    pub password: Secret,
}

/// Why existing credentials can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryCredentialsError {
    /// The file is invalid.
    #[error("can't read the credentials in config.json: {0}")]
    InvalidConfig(String),
    /// A credential helper has them.
    #[error("its credentials are in the credential helper `{0}`, which the runner does not run")]
    HelperRequired(String),
    /// An OAuth token for Docker Hub's own clients.
    #[error("config.json has an identity token for it, which the runner does not support")]
    IdentityToken,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DockerConfig {
    auths: BTreeMap<String, DockerConfigAuth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfigAuth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The credentials for a registry in the text of a `config.json`, if any.
pub fn find_credentials(
    config: &str,
    authority: &str,
) -> Result<Option<RegistryCredentials>, RegistryCredentialsError> {
    let config: DockerConfig =
        serde_json::from_str(config).map_err(|error| RegistryCredentialsError::InvalidConfig(error.to_string()))?;
    if let Some(helper) = config.cred_helpers.get(authority) {
        return Err(RegistryCredentialsError::HelperRequired(helper.clone()));
    }
    let Some((_, auth)) = config.auths.iter().find(|(name, _)| registry_authority(name) == authority) else {
        return Ok(None);
    };
    if auth.identitytoken.as_ref().is_some_and(|token| !token.is_empty()) {
        return Err(RegistryCredentialsError::IdentityToken);
    }
    let Some(text) = auth.auth.as_ref().filter(|text| !text.is_empty()) else {
        // An empty entry refers to the credential store.
        return config.creds_store.map_or(Ok(None), |store| Err(RegistryCredentialsError::HelperRequired(store)));
    };
    let form =
        || RegistryCredentialsError::InvalidConfig(format!("`auth` of {authority} is not the base64 of user:password"));
    let decoded = BASE64_STANDARD.decode(text).map_err(|_| form())?;
    let decoded = String::from_utf8(decoded).map_err(|_| form())?;
    let (user, password) = decoded.split_once(':').ok_or_else(form)?;
    // Docker has written a NUL after the password.
    let password = Secret::new(password.trim_end_matches('\0').to_owned());
    Ok(Some(RegistryCredentials { user: user.to_owned(), password }))
}

/// `https://host:port/v1/` → `host:port`.
fn registry_authority(name: &str) -> &str {
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    name.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_host_and_port() {
        let config = r#"{
            "auths": {
                "r.example.com": {"auth": "YW5uOnNlY3I6ZXQ="},
                "https://old.example.com:5000/v1/": {"auth": "YW5uOng="},
                "stored.example.com": {},
                "hub.example.com": {"auth": "YW5uOng=", "identitytoken": "t"},
                "bad.example.com": {"auth": "%"}
            },
            "credHelpers": {"helped.example.com": "ecr-login"},
            "credsStore": "desktop", "HttpHeaders": {}
        }"#;
        let found = |authority: &str| find_credentials(config, authority);
        let ann = |password: &str| {
            Ok(Some(RegistryCredentials { user: "ann".into(), password: Secret::new(password.to_owned()) }))
        };
        assert_eq!(found("r.example.com"), ann("secr:et"));
        assert_eq!(found("old.example.com:5000"), ann("x"));
        assert_eq!(found("old.example.com"), Ok(None));
        assert_eq!(found("stored.example.com"), Err(RegistryCredentialsError::HelperRequired("desktop".into())));
        assert_eq!(found("helped.example.com"), Err(RegistryCredentialsError::HelperRequired("ecr-login".into())));
        assert_eq!(found("hub.example.com"), Err(RegistryCredentialsError::IdentityToken));
        assert!(matches!(found("bad.example.com"), Err(RegistryCredentialsError::InvalidConfig(_))));
        assert!(matches!(find_credentials("{", "r"), Err(RegistryCredentialsError::InvalidConfig(_))));
        assert_eq!(find_credentials("{}", "r"), Ok(None));
    }
}
