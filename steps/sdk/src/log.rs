//! Structured log and progress. They need no grant; the host limits their size and redacts secrets.

use serde_json::{Map, Value};

/// The severity of a log message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// The step fails.
    Error,
    /// The step works, but somebody should check.
    Warn,
    /// Normal progress.
    Info,
    /// Details for debugging.
    Debug,
    /// All details.
    Trace,
}

/// Writes an error.
pub fn error(message: impl AsRef<str>) {
    write(LogLevel::Error, message.as_ref(), &Map::new());
}

/// Writes a warning.
pub fn warn(message: impl AsRef<str>) {
    write(LogLevel::Warn, message.as_ref(), &Map::new());
}

/// Writes a message about normal progress.
pub fn info(message: impl AsRef<str>) {
    write(LogLevel::Info, message.as_ref(), &Map::new());
}

/// Writes a message for debugging.
pub fn debug(message: impl AsRef<str>) {
    write(LogLevel::Debug, message.as_ref(), &Map::new());
}

/// Writes a message with fields. On a native target it does nothing.
#[cfg_attr(not(target_arch = "wasm32"), expect(unused_variables, reason = "a native test has no host to log to"))]
pub fn write(level: LogLevel, message: &str, fields: &Map<String, Value>) {
    #[cfg(target_arch = "wasm32")]
    {
        let level = match level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        };
        let fields = crate::json::text(&Value::Object(fields.clone()));
        crate::bindings::pawl::step::log::write(level, message, &fields);
    }
}

/// Reports that `done` of `total` `unit`s of `task` are done. On a native target it does nothing.
#[cfg_attr(not(target_arch = "wasm32"), expect(unused_variables, reason = "a native test has no host to log to"))]
pub fn progress(task: &str, done: u64, total: Option<u64>, unit: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::pawl::step::log::progress(task, done, total, unit);
}
