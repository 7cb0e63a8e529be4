//! SQL migrations from a granted directory into a granted database. The host applies them, because it must find out
//! what a kill has left.

use crate::Failure;
#[cfg(target_arch = "wasm32")]
use crate::bindings::pawl::step::migrations as host;

/// A JSON object: the options and the answers of the host.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Returns the migration status: `format`, `version`, `applied`, `pending` and `problem`.
///
/// # Errors
/// An error of the files or of the database.
#[cfg(target_arch = "wasm32")]
pub fn status(database: &str, dir: &str, options: &JsonObject) -> Result<JsonObject, Failure> {
    let options = crate::json::text(&serde_json::Value::Object(options.clone()));
    host::status(database, dir, &options).map(|answer| crate::json::object(&answer)).map_err(Failure::from)
}

/// Applies the pending migrations and returns `outputs` and `notes`.
///
/// # Errors
/// An error of the files or of the database; the details give `file` and `line`.
#[cfg(target_arch = "wasm32")]
pub fn apply(database: &str, dir: &str, options: &JsonObject) -> Result<JsonObject, Failure> {
    let options = crate::json::text(&serde_json::Value::Object(options.clone()));
    host::apply(database, dir, &options).map(|answer| crate::json::object(&answer)).map_err(Failure::from)
}

/// Returns the migration status.
///
/// # Errors
/// Always, because databases exist only in the runner.
#[cfg(not(target_arch = "wasm32"))]
pub fn status(_: &str, _: &str, _: &JsonObject) -> Result<JsonObject, Failure> {
    Err(Failure::permanent("databases exist only in the runner"))
}

/// Applies the pending migrations.
///
/// # Errors
/// Always, because databases exist only in the runner.
#[cfg(not(target_arch = "wasm32"))]
pub fn apply(_: &str, _: &str, _: &JsonObject) -> Result<JsonObject, Failure> {
    Err(Failure::permanent("databases exist only in the runner"))
}
