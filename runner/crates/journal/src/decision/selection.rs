//! The steps that an attempt works on: the effect of `--start-from`, `--until` and `--only` on each step.

use contract::StepId;

/// The steps that the operator selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All steps.
    #[default]
    All,
    /// `--start-from`: the steps before it are assumed to be done.
    StartFrom(StepId),
    /// `--until`: the steps after it are excluded.
    Until(StepId),
    /// `--only`: the steps before it are assumed to be done, those after it are excluded.
    Only(StepId),
}

/// The effect of the selection on one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDisposition {
    /// The step is assumed to be done.
    AssumeDone,
    /// The step is decided as usual; `true` if it is the named step, which must not be skipped.
    Evaluate { selected_by_name: bool },
    /// The step is excluded.
    Exclude,
}

impl Selection {
    /// The command-line option and the step that it names.
    #[must_use]
    pub fn option(&self) -> Option<(&'static str, &StepId)> {
        match self {
            Self::All => None,
            Self::StartFrom(step) => Some(("start-from", step)),
            Self::Until(step) => Some(("until", step)),
            Self::Only(step) => Some(("only", step)),
        }
    }

    /// The effect on the step at `index`, if the named step is at `named_index`.
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
