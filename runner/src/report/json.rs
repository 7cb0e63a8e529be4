//! `--json` during a deployment: each journal entry as a JSON object on its own line, and the result as the last line.

use std::io::Write;

use serde_json::{Value, json};

use super::{CommandConclusion, DeploymentReporter};
use contract::diagnostic::Notice;
use journal::event::{JournalEntry, OutputLine, StepTarget};

/// Writes JSON lines.
///
/// Each line is a [`JournalEntry`], `{"seq", "prev", "at", "event": {"type", …}}`, or a line of a program, see [`output_line`]; the
/// last is `{"type": "result", …}`, see [`result`].
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
        // A closed reader must not end the deployment: the journal has every entry.
        let _ = writeln!(self.out, "{}", line(value)).and_then(|()| self.out.flush());
    }
}

impl DeploymentReporter for JsonLinesReporter {
    fn on_event(&mut self, entry: &JournalEntry) {
        self.write_line(entry);
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        for line in lines {
            self.write_line(&output_line(step_target, line));
        }
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.write_line(&result(conclusion));
    }
}

/// One JSON line, without its end.
///
/// GitHub executes a `##[command]` anywhere in a line, so the mark is escaped.
#[must_use]
pub fn line(value: &impl serde::Serialize) -> String {
    let line = serde_json::to_string(value).expect("reported values have only text keys and finite numbers");
    line.replace("##[", "#\\u0023[")
}

/// A notice from before the attempt: `{"type": "notice", "severity": "warning", "message"}`.
#[must_use]
pub fn notice(notice: &Notice) -> Value {
    json!({"type": "notice", "severity": notice.severity, "message": notice.message})
}

/// A line of a program: `{"type": "output", "step", "target", "at", "stream": "stdout", "text"}`; `stream` is `stdout`, `stderr` or
/// `terminal`.
#[must_use]
pub fn output_line(step_target: &StepTarget, line: &OutputLine) -> Value {
    let StepTarget { step, target } = step_target;
    let OutputLine { at, stream, text } = line;
    json!({"type": "output", "step": step, "target": target, "at": at, "stream": stream, "text": text})
}

/// The result: `{"type": "result", "exit": "failed", "status": 1, "code": "P0301", "message", "causes": […], "hint"}`.
///
/// Without an error, `code`, `message` and `hint` are null, and `causes` is empty.
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
