//! `--json` while a deployment goes on: every entry as the journal has it, one JSON object a line, and the result last.

use std::io::Write;

use serde_json::{Value, json};

use super::{CommandConclusion, DeploymentReporter};
use contract::diagnostic::Notice;
use journal::event::JournalEntry;

/// Writes JSON lines.
///
/// Each line is an [`Entry`], `{"seq", "prev", "at", "event": {"type", …}}`; the last is `{"type": "result", …}`, see
/// [`result`].
pub struct JsonLinesReporter {
    out: Box<dyn Write>,
}

impl JsonLinesReporter {
    /// Writes to `out`.
    #[must_use]
    pub fn new(out: Box<dyn Write>) -> Self {
        Self { out }
    }

    fn write_line(&mut self, value: &impl serde::Serialize) {
        // A reader that went away must not end the deployment: what happened is in the journal.
        let _ = writeln!(self.out, "{}", line(value)).and_then(|()| self.out.flush());
    }
}

impl DeploymentReporter for JsonLinesReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        self.write_line(entry);
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.write_line(&result(conclusion));
    }
}

/// One JSON line, without its end. GitHub would obey a `##[command]` anywhere in it: the mark is escaped.
#[must_use]
pub fn line(value: &impl serde::Serialize) -> String {
    let line = serde_json::to_string(value).expect("what is reported has only text keys and finite numbers");
    line.replace("##[", "#\\u0023[")
}

/// `{"type": "notice", "weight": "warning", "message"}`: what was worth knowing before the attempt began.
#[must_use]
pub fn notice(notice: &Notice) -> Value {
    json!({"type": "notice", "weight": notice.severity, "message": notice.message})
}

/// `{"type": "result", "exit": "failed", "status": 1, "code": "P0301", "message", "causes": […], "hint"}`; without an error
/// the last four are null, and there are no causes.
#[must_use]
pub fn result(conclusion: &CommandConclusion<'_>) -> Value {
    let error = conclusion.error;
    json!({
        "type": "result",
        "exit": conclusion.exit,
        "status": conclusion.exit.status(),
        "code": error.map(|error| error.code.as_str()),
        "message": error.map(|error| &error.message),
        "causes": error.map_or(&[][..], |error| &error.causes),
        "hint": error.and_then(|error| error.hint.as_ref()),
    })
}
