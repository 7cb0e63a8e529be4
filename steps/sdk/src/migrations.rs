//! A granted directory of SQL files, brought into a granted database. The host does it: what a kill leaves is found out there.

use crate::Failure;
#[cfg(target_arch = "wasm32")]
use crate::bindings::pawl::step::migrations as host;

/// What the host answers: a JSON object.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// How files and database stand: `format`, `version`, `applied`, `pending`, `problem`.
///
/// # Errors
/// The files', or the database's.
#[cfg(target_arch = "wasm32")]
pub fn status(database: &str, dir: &str, options: &JsonObject) -> Result<JsonObject, Failure> {
    let options = crate::json::text(&serde_json::Value::Object(options.clone()));
    host::status(database, dir, &options).map(|answer| crate::json::object(&answer)).map_err(Failure::from)
}

/// Applies what is not applied: `outputs` and `notes`.
///
/// # Errors
/// The files', or the database's; the details give `file` and `line`.
#[cfg(target_arch = "wasm32")]
pub fn apply(database: &str, dir: &str, options: &JsonObject) -> Result<JsonObject, Failure> {
    let options = crate::json::text(&serde_json::Value::Object(options.clone()));
    host::apply(database, dir, &options).map(|answer| crate::json::object(&answer)).map_err(Failure::from)
}

/// How files and database stand.
///
/// # Errors
/// Always: databases exist only in the runner.
#[cfg(not(target_arch = "wasm32"))]
pub fn status(_: &str, _: &str, _: &JsonObject) -> Result<JsonObject, Failure> {
    Err(Failure::permanent("databases exist only in the runner"))
}

/// Applies what is not applied.
///
/// # Errors
/// Always: databases exist only in the runner.
#[cfg(not(target_arch = "wasm32"))]
pub fn apply(_: &str, _: &str, _: &JsonObject) -> Result<JsonObject, Failure> {
    Err(Failure::permanent("databases exist only in the runner"))
}
