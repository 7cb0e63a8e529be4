//! `secrets:`: their names, and the environment variables that contain them.
//!
//! A secret without a value is an error only where the chosen environment uses it.

use std::collections::BTreeMap;

use super::{
    document::check_identifier,
    environments::DeclaredEnvironment,
    error::{PlanError, PlanErrorCollector},
    fields::{self, MappingFields},
    scope::DeclaredSecret,
    yaml::{YamlKey, YamlNode},
};
use contract::{Secret, error_code::ErrorCode};

/// Reads the secrets of the chosen environment: those of the top level, overridden by its own. The others are only checked.
pub(super) fn read(
    fields: &MappingFields<'_>,
    environments: &[DeclaredEnvironment<'_>],
    chosen: &DeclaredEnvironment<'_>,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut PlanErrorCollector,
) -> BTreeMap<String, DeclaredSecret> {
    let shared = fields.get("secrets").and_then(|node| fields::mapping(node, "`secrets`", problems));
    let mut secrets = BTreeMap::new();
    for (key, node) in shared.unwrap_or_default().iter().chain(chosen.secrets) {
        secrets.insert(key.text.clone(), secret(key, node, env, problems));
    }
    for other in environments.iter().filter(|other| other.name != chosen.name) {
        for (key, node) in other.secrets {
            source(key, node, problems);
        }
    }
    secrets
}

/// The other environments that declare a secret of their own, by its name.
pub(super) fn declared_elsewhere(
    environments: &[DeclaredEnvironment<'_>],
    chosen: &DeclaredEnvironment<'_>,
) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for other in environments.iter().filter(|other| other.name != chosen.name) {
        for (key, _) in other.secrets {
            names.entry(key.text.clone()).or_default().push(other.name.to_string());
        }
    }
    names
}

/// The environment variable of a secret.
fn source<'n>(key: &YamlKey, node: &'n YamlNode, problems: &mut PlanErrorCollector) -> Option<&'n str> {
    check_identifier(&key.text, "secret name", &key.span, problems);
    let text = fields::literal(node, &format!("secret `{}`", key.text), problems)?;
    let variable = text.strip_prefix("env:").filter(|name| !name.is_empty() && !name.contains(['=', '\0']));
    if variable.is_none() {
        // The text and its line are not shown: they may be the secret itself.
        let error = PlanError::new(ErrorCode::InvalidValue, format!("secret `{}` has no valid source", key.text));
        problems.push(error.hint(format!("write `{}: env:VARIABLE`", key.text)));
    }
    variable
}

fn secret(
    key: &YamlKey,
    node: &YamlNode,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut PlanErrorCollector,
) -> DeclaredSecret {
    let Some(variable) = source(key, node, problems) else { return DeclaredSecret::Invalid };
    // CI systems set an empty variable when its secret does not exist.
    if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
        return DeclaredSecret::Set { value: Secret::new(value), variable: variable.to_owned() };
    }
    let message = format!("secret `{}`: the environment variable `{variable}` is empty or not set", key.text);
    let hint = format!("set it: `export {variable}=…`; in CI, under `env:` of the job");
    let error = PlanError::new(ErrorCode::MissingSecret, message).at(&node.span, "no value").hint(hint);
    DeclaredSecret::Unset { error, variable: variable.to_owned() }
}
