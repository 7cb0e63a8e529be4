//! The finding of a probe, summarized for the reason of a decision.
//!
//! Invariant: the serialized form is the text of format 1.0: `held`, `absent`, `drifted: <why>`, `unknown: <why>`. Any other
//! text is kept, so that a record that was read is written again byte for byte.

use std::fmt;

use serde::{Deserialize, Serialize};

const HELD: &str = "held";
const ABSENT: &str = "absent";
const DRIFTED: &str = "drifted: ";
const UNKNOWN: &str = "unknown: ";

/// The finding of a probe about a step whose outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum FindingSummary {
    /// The effect holds.
    Held,
    /// The effect is absent.
    Absent,
    /// Something else is in its place.
    Drifted { why: String },
    /// The probe cannot decide.
    Unknown { why: String },
    /// Any other text, such as one with a masked secret.
    Other { text: String },
}

impl fmt::Display for FindingSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str(HELD),
            Self::Absent => f.write_str(ABSENT),
            Self::Drifted { why } => write!(f, "{DRIFTED}{why}"),
            Self::Unknown { why } => write!(f, "{UNKNOWN}{why}"),
            Self::Other { text } => f.write_str(text),
        }
    }
}

impl From<FindingSummary> for String {
    fn from(finding: FindingSummary) -> Self {
        finding.to_string()
    }
}

impl From<String> for FindingSummary {
    fn from(text: String) -> Self {
        if let Some(why) = text.strip_prefix(DRIFTED) {
            return Self::Drifted { why: why.to_owned() };
        }
        if let Some(why) = text.strip_prefix(UNKNOWN) {
            return Self::Unknown { why: why.to_owned() };
        }
        match text.as_str() {
            HELD => Self::Held,
            ABSENT => Self::Absent,
            _ => Self::Other { text },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::DecisionReason;

    #[test]
    fn the_texts_of_every_format_are_read_and_written_unchanged() {
        let drifted = FindingSummary::Drifted { why: "`current` points to: 1.3.9".to_owned() };
        let unknown = FindingSummary::Unknown { why: String::new() };
        let masked = FindingSummary::Other { text: "***: it".to_owned() };
        for (text, finding) in [
            ("held", FindingSummary::Held),
            ("absent", FindingSummary::Absent),
            ("drifted: `current` points to: 1.3.9", drifted),
            ("unknown: ", unknown),
            ("***: it", masked),
        ] {
            for because in ["interrupted", "unconfirmed"] {
                let written = json!({ "because": because, "finding": text });
                let reason: DecisionReason = serde_json::from_value(written.clone()).unwrap();
                let (DecisionReason::Interrupted { finding: read } | DecisionReason::Unconfirmed { finding: read }) =
                    &reason
                else {
                    panic!("{reason:?}")
                };
                assert_eq!(read.as_ref(), Some(&finding));
                assert_eq!(serde_json::to_value(&reason).unwrap(), written);
            }
        }
    }

    #[test]
    fn a_reason_without_a_finding_stays_without() {
        let written = json!({ "because": "interrupted", "finding": null });
        let reason: DecisionReason = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(reason, DecisionReason::Interrupted { finding: None });
        assert_eq!(serde_json::to_value(&reason).unwrap(), written);
    }
}
