//! Structured log and progress. Never denied; the host bounds its size and hides secrets.

use serde_json::{Map, Value};

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// It will not work.
    Error,
    /// It works, but somebody should look.
    Warn,
    /// What a person following along wants to read.
    Info,
    /// What somebody searching a fault wants to read.
    Debug,
    /// Everything.
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

/// Writes a message.
pub fn info(message: impl AsRef<str>) {
    write(LogLevel::Info, message.as_ref(), &Map::new());
}

/// Writes a message for somebody searching a fault.
pub fn debug(message: impl AsRef<str>) {
    write(LogLevel::Debug, message.as_ref(), &Map::new());
}

/// Writes a message with fields. On a native target it goes nowhere.
#[cfg_attr(not(target_arch = "wasm32"), expect(unused_variables, reason = "no host, no log"))]
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

/// Reports that `done` of `total` `unit`s of `task` are done. On a native target it goes nowhere.
#[cfg_attr(not(target_arch = "wasm32"), expect(unused_variables, reason = "no host, no log"))]
pub fn progress(task: &str, done: u64, total: Option<u64>, unit: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::pawl::step::log::progress(task, done, total, unit);
}
