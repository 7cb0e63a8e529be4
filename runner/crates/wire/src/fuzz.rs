//! The entry point for the fuzz target (`fuzz/`): the properties of any frames from the other side. Compiled only for it and for tests.

use std::{
    io,
    pin::pin,
    task::{Context, Poll, Waker},
};

use serde::{Serialize, de::DeserializeOwned};

use contract::step::{ProbeFinding, StepOutcome};

use crate::{
    AgentAnswer, Frame, ToAgent, ToCoordinator, bytes_frame,
    limits::{Admission, CallQuota},
    message_frame, read_frame,
};

/// The longest receipt that a line of the journal has room for, in bytes of JSON.
const MAX_RECORDED_BYTES: usize = 60 << 10;

/// Where a frame has its kind: behind the length.
const KIND_OFFSET: usize = 4;

/// Reads `bytes` as what an agent and as what a coordinator sends: as they are, and with each line as the body of a frame.
///
/// # Panics
/// When a message that was read is another one after it was written, or when what the coordinator keeps of it is too long to record.
pub fn frames(bytes: &[u8]) {
    for stream in [bytes.to_vec(), framed(bytes)] {
        read_all::<ToAgent>(&stream, |_| {});
        let mut quota = CallQuota::default();
        read_all::<ToCoordinator>(&stream, |message| {
            if let ToCoordinator::Progress { progress, .. } = &message {
                assert_ne!(quota.admit(progress), Admission::TooMuch, "a short stream is not too much");
            }
            check_kept(message.within_limits());
        });
    }
}

/// What the coordinator keeps can be recorded, and a second look changes nothing.
fn check_kept(kept: ToCoordinator) {
    let mut outcomes = Vec::new();
    if let ToCoordinator::Begun(begun) = &kept {
        outcomes.extend(begun.records.iter().filter_map(|record| record.outcome.clone()));
    }
    if let ToCoordinator::Answer { answer: AgentAnswer::Outcome { outcome }, .. } = &kept {
        outcomes.push(outcome.clone());
    }
    if let ToCoordinator::Answer { answer: AgentAnswer::Finding { finding: ProbeFinding::Held { receipt } }, .. } =
        &kept
    {
        outcomes.push(StepOutcome::Succeeded { receipt: receipt.clone() });
    }
    for outcome in outcomes {
        if let StepOutcome::Succeeded { receipt } = outcome {
            assert!(json(&receipt).len() <= MAX_RECORDED_BYTES, "the journal has no room for it");
        }
    }
    let first = json(&kept);
    assert_eq!(json(&kept.within_limits()), first);
}

/// Each line that looks like a message as one, every other line as bytes of a file.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let frame = |line: &[u8]| {
        let mut frame = bytes_frame(line);
        if line.starts_with(b"{") {
            frame[KIND_OFFSET] = crate::MESSAGE;
        }
        frame
    };
    bytes.split(|byte| *byte == b'\n').flat_map(frame).collect()
}

fn read_all<T: Serialize + DeserializeOwned>(mut stream: &[u8], mut take: impl FnMut(T)) {
    while let Ok(Some(frame)) = ready(read_frame::<T>(&mut stream)) {
        match frame {
            Frame::Bytes(bytes) => assert_eq!(bytes_frame(&bytes).len(), bytes.len() + 5),
            Frame::Message(message) => {
                let again = message_frame(&message);
                let read = ready(read_frame::<T>(&mut &*again)).expect("a written message can be read");
                let Some(Frame::Message(read)) = read else { panic!("a message is read as something else") };
                assert_eq!(json(&read), json(&message), "it is the same");
                take(message);
            }
        }
    }
}

fn json(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("a message has only text keys and finite numbers")
}

/// The result of reading from memory, which never waits.
fn ready<T>(reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match pin!(reading).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("reading from memory waits"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        testing::corpus::replay("frames", super::frames);
    }
}
