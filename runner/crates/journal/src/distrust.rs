//! The state of journals that anybody could have written: what is left of a state that nobody vouches for.
//!
//! Invariant: such a state has no more power than the untrusted journals that it stands for. It makes no step count as done, no
//! release live or verified, and causes no undo (docs/adr/0010). Deliberately absent: the decision whom to trust, which the `state`
//! crate makes.

use super::state::{AttemptSummary, JournalState, JournalTrust, StepRecord};

impl JournalState {
    /// This state, as if its journals were untrusted, except for what `known` has from authentic ones. For a state without any
    /// known one, it equals the fold of the same journals as untrusted ones, apart from an operator's resolutions: the untrusted
    /// journals would not have them, and here they are part of the untrusted records.
    #[must_use]
    pub fn distrusted(self, known: &Self) -> Self {
        let mut records: std::collections::BTreeMap<_, _> = self
            .records
            .into_iter()
            .map(|(step_target, record)| match known.records.get(&step_target) {
                Some(ours) if is_same_record(ours, &record) => (step_target, ours.clone()),
                Some(_) | None => {
                    let live_before =
                        known.live_before(&step_target.target, &record.intent.run, &record.intent.release).cloned();
                    (step_target, StepRecord { trust: JournalTrust::Untrusted, live_before, ..record })
                }
            })
            .collect();
        for (step_target, record) in &known.records {
            records.entry(step_target.clone()).or_insert_with(|| record.clone());
        }
        let attempts = self.attempts.into_iter().map(|attempt| {
            let ours = known.attempts.iter().find(|ours| ours.header == attempt.header);
            ours.cloned().unwrap_or_else(|| distrusted_attempt(attempt))
        });
        Self {
            trust: JournalTrust::Untrusted,
            records,
            attempts: attempts.collect(),
            head: known.head.clone(),
            first_attempt: known.first_attempt.clone().or(self.first_attempt),
            lost_records: self.lost_records.union(&known.lost_records).cloned().collect(),
            in_progress: self.in_progress,
            statuses: self.statuses,
            reached_exposure: self.reached_exposure,
            verified_intents: known.verified_intents.clone(),
            commits: self.commits,
            last_line_hash: self.last_line_hash,
            line_count: self.line_count,
            newer_format: self.newer_format,
        }
    }
}

/// An operator's word counts only in an authentic journal.
fn distrusted_attempt(attempt: AttemptSummary) -> AttemptSummary {
    AttemptSummary { trust: JournalTrust::Untrusted, command: None, resolved_step: None, ..attempt }
}

/// Whether two records say the same, whoever wrote them.
fn is_same_record(ours: &StepRecord, theirs: &StepRecord) -> bool {
    ours.intent == theirs.intent && ours.status == theirs.status
}
