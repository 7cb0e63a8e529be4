//! What becomes of lines that the remote does not have.

use journal::StepTarget;

/// What becomes of lines beyond the acknowledged ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailDecision {
    /// They are not uploaded yet.
    Keep,
    /// They had no effect.
    Cut,
    /// These steps may have begun.
    Quarantine { begun: Vec<StepTarget> },
}

/// Decides about whole lines beyond the acknowledged ones.
#[must_use]
pub fn tail_decision(tail: &[u8], is_newest: bool) -> TailDecision {
    let _ = tail;
    if is_newest { TailDecision::Keep } else { TailDecision::Cut }
}
