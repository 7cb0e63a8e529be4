//! Texts of another host, without what a terminal would obey.
//!
//! Invariant: no text that an agent or ssh says has an escape sequence or a control character, other than tabs and line breaks; receipts
//! alone are as the host returned them, since decisions compare them, and whoever shows one escapes it. Deliberately absent: the output of
//! programs, which the journal's own redactor cleans as it does here.

use std::io;

use serde_json::Value;
use tokio::io::AsyncRead;

use crate::agent::wire::{Frame, ToCoordinator, read_frame_with};

/// The key of what stays as it is.
const RECEIPT: &str = "receipt";

/// The text without escape sequences and control characters.
pub(super) fn plain_text(text: &str) -> String {
    let stripped = anstream::adapter::strip_str(text).to_string();
    stripped.chars().filter(|char| matches!(char, '\n' | '\t') || !char.is_control()).collect()
}

/// Reads a frame of an agent, with plain texts.
///
/// # Errors
/// Those of [`read_frame`](crate::agent::wire::read_frame).
pub(super) async fn read_plain_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame<ToCoordinator>>> {
    read_frame_with(from, plain_message).await
}

fn plain_message(body: &[u8]) -> serde_json::Result<ToCoordinator> {
    // In JSON, control characters are written as `\u00…`, but for C1 ones.
    let is_suspicious = |pair: &[u8]| pair == b"\\u" || matches!(pair, [0x7f, _] | [0xc2, ..0xa0]);
    if !body.windows(2).any(is_suspicious) {
        return serde_json::from_slice(body);
    }
    let mut message = serde_json::from_slice(body)?;
    clean(&mut message);
    serde_json::from_value(message)
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = plain_text(text),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(map) => map.iter_mut().filter(|(key, _)| *key != RECEIPT).for_each(|(_, value)| clean(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use contract::step::{FailureKind, Receipt, StepFailure, StepOutcome};

    use super::*;
    use crate::agent::wire::{AgentAnswer, Problem, message_frame};

    const RED: &str = "\u{1b}[31mred\u{1b}[0m\u{1b}]0;title\u{7} \u{9b}2Jé\tx\ny\u{7}";
    const PLAIN: &str = "red 2Jé\tx\ny";

    async fn heard(message: &ToCoordinator) -> ToCoordinator {
        match read_plain_frame(&mut &*message_frame(message)).await {
            Ok(Some(Frame::Message(message))) => message,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn texts_of_an_agent_are_plain_and_receipts_as_they_are() {
        let problem = Problem {
            code: "P0202".to_owned(),
            message: RED.to_owned(),
            causes: vec![RED.to_owned()],
            hint: Some(RED.to_owned()),
        };
        let ToCoordinator::Refused(problem) = heard(&ToCoordinator::Refused(problem)).await else { panic!() };
        assert_eq!((problem.message.as_str(), problem.causes[0].as_str()), (PLAIN, PLAIN));
        assert_eq!(problem.hint.as_deref(), Some(PLAIN));
        let answer = |outcome| ToCoordinator::Answer { call: 1, answer: AgentAnswer::Outcome { outcome } };
        let failure = StepFailure::new(FailureKind::Other(RED.to_owned()), RED).with_detail("file", RED);
        let ToCoordinator::Answer { answer: AgentAnswer::Outcome { outcome: StepOutcome::Failed { failure } }, .. } =
            heard(&answer(StepOutcome::Failed { failure })).await
        else {
            panic!("another message")
        };
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), (PLAIN, PLAIN));
        assert_eq!(failure.details["file"], PLAIN);
        let receipt =
            Receipt { outputs: [("path".to_owned(), RED.into())].into_iter().collect(), ..Receipt::default() };
        let ToCoordinator::Answer {
            answer: AgentAnswer::Outcome { outcome: StepOutcome::Succeeded { receipt: heard } },
            ..
        } = heard(&answer(StepOutcome::Succeeded { receipt: receipt.clone() })).await
        else {
            panic!("another message")
        };
        assert_eq!(heard, receipt);
    }
}
