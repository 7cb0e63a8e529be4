//! Which steps of the plan an attempt works on: what `--start-from`, `--until` and `--only` say of each.

use contract::StepId;

/// Which steps the operator selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All.
    #[default]
    All,
    /// `--start-from`: what comes before is taken as the operator's word.
    StartFrom(StepId),
    /// `--until`: what comes after is left.
    Until(StepId),
    /// `--only`: before is the operator's word, after is left.
    Only(StepId),
}

/// What the selection says of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDisposition {
    /// It is taken as done.
    AssumeDone,
    /// It is decided as usual; `true` when it is the one that was named and must not be skipped.
    Evaluate { selected_by_name: bool },
    /// It is left alone.
    Exclude,
}

impl Selection {
    /// The option of the command line and the step that it names.
    #[must_use]
    pub fn option(&self) -> Option<(&'static str, &StepId)> {
        match self {
            Self::All => None,
            Self::StartFrom(step) => Some(("start-from", step)),
            Self::Until(step) => Some(("until", step)),
            Self::Only(step) => Some(("only", step)),
        }
    }

    /// What is said of the step at `index`, when the named one is at `selected_by_name`.
    #[must_use]
    pub fn disposition_of(&self, index: usize, named_index: Option<usize>) -> StepDisposition {
        let order = named_index.map(|named| index.cmp(&named));
        match (self, order) {
            (Self::All, _) | (_, None) => StepDisposition::Evaluate { selected_by_name: false },
            (Self::StartFrom(_) | Self::Only(_), Some(std::cmp::Ordering::Less)) => StepDisposition::AssumeDone,
            (Self::StartFrom(_) | Self::Only(_), Some(std::cmp::Ordering::Equal)) => {
                StepDisposition::Evaluate { selected_by_name: true }
            }
            (Self::StartFrom(_), Some(std::cmp::Ordering::Greater)) => {
                StepDisposition::Evaluate { selected_by_name: false }
            }
            (Self::Until(_), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) => {
                StepDisposition::Evaluate { selected_by_name: false }
            }
            (Self::Until(_) | Self::Only(_), Some(std::cmp::Ordering::Greater)) => StepDisposition::Exclude,
        }
    }
}
