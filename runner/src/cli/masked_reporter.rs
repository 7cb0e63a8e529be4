//! Masks secrets in what a reporter for people shows of receipts.
//!
//! The journal has a receipt as the step returned it, since decisions read it; a secret that is too short to be refused there may be a part
//! of it, such as of a folder's name. All other texts of an entry are masked before it is written. Deliberately absent: answers for programs,
//! which get the receipt as it is.

use contract::step::{ProbeFinding, Receipt, StepOutcome};
use journal::{
    JournalEvent, OutputLine, Redactor, StepTarget,
    event::{Decision, JournalEntry},
};
use serde_json::{Map, Value};

use crate::report::{CommandConclusion, DeploymentReporter};

/// Passes entries on, with masked receipts.
pub(super) struct MaskedReporter<R> {
    redactor: Redactor,
    reporter: R,
}

impl<R: DeploymentReporter> MaskedReporter<R> {
    /// Masks for this reporter.
    pub(super) fn new(redactor: Redactor, reporter: R) -> Self {
        Self { redactor, reporter }
    }
}

impl<R: DeploymentReporter> DeploymentReporter for MaskedReporter<R> {
    fn on_event(&mut self, entry: &JournalEntry) {
        match self.masked_event(&entry.event) {
            Some(event) => self.reporter.on_event(&JournalEntry { event, ..entry.clone() }),
            None => self.reporter.on_event(entry),
        }
    }

    fn on_output(&mut self, step_target: &StepTarget, lines: &[OutputLine]) {
        self.reporter.on_output(step_target, lines);
    }

    fn finish(&mut self, conclusion: &CommandConclusion<'_>) {
        self.reporter.finish(conclusion);
    }
}

impl<R> MaskedReporter<R> {
    /// The event with a masked receipt, if it has one.
    fn masked_event(&self, event: &JournalEvent) -> Option<JournalEvent> {
        let masked = |receipt: &Receipt| masked_receipt(&self.redactor, receipt);
        let step_target = || event.step_target().expect("an event with a receipt is about a step").clone();
        Some(match event {
            JournalEvent::Outcome { took_ms, outcome: StepOutcome::Succeeded { receipt }, .. } => {
                let outcome = StepOutcome::Succeeded { receipt: masked(receipt) };
                JournalEvent::Outcome { step_target: step_target(), took_ms: *took_ms, outcome }
            }
            JournalEvent::Probe { probed_input, took_ms, finding: ProbeFinding::Held { receipt }, .. } => {
                let finding = ProbeFinding::Held { receipt: masked(receipt) };
                JournalEvent::Probe { step_target: step_target(), probed_input: *probed_input, took_ms: *took_ms, finding }
            }
            JournalEvent::Decision { decision: Decision::Skip { reason, receipt }, .. } => {
                let decision = Decision::Skip { reason: reason.clone(), receipt: masked(receipt) };
                JournalEvent::Decision { step_target: step_target(), decision }
            }
            JournalEvent::Decision { decision: Decision::Adopt { reason, receipt }, .. } => {
                let decision = Decision::Adopt { reason: reason.clone(), receipt: masked(receipt) };
                JournalEvent::Decision { step_target: step_target(), decision }
            }
            JournalEvent::Outcome { outcome: StepOutcome::Failed { .. } | StepOutcome::Unknown { .. }, .. }
            | JournalEvent::Probe {
                finding:
                    ProbeFinding::Absent
                    | ProbeFinding::Drifted { .. }
                    | ProbeFinding::Unknown { .. }
                    | ProbeFinding::Failed { .. },
                ..
            }
            | JournalEvent::Decision { decision: Decision::Run { .. } | Decision::Stop { .. }, .. }
            // Nobody shows the receipt of a resolution.
            | JournalEvent::Resolved { .. }
            | JournalEvent::Started(_)
            | JournalEvent::Plan { .. }
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::Intent { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::UndoIntent { .. }
            | JournalEvent::UndoOutcome { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Ended { .. }
            | JournalEvent::Unrecognized => return None,
        })
    }
}

fn masked_receipt(redactor: &Redactor, receipt: &Receipt) -> Receipt {
    let masked = |values: &Map<String, Value>| {
        values.iter().map(|(name, value)| (name.clone(), redactor.redact_json_values(value.clone()))).collect()
    };
    Receipt { outputs: masked(&receipt.outputs), notes: masked(&receipt.notes) }
}
