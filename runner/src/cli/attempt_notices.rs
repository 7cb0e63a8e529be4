//! What a deployment says of the record that it begins with: where it comes from, and what is missing.

use crate::{deploy::MissingJournalPolicy, report::github::JobContext};
use contract::diagnostic::Notice;
use journal::event::JournalHeader;
use state::checkpoints::CheckpointStatus;

/// The notice that a retry on a CI without artifacts of ours finds no journal.
pub(super) fn of_lost_journal(missing: MissingJournalPolicy) -> Notice {
    let then = then_of(missing);
    Notice::warning(format!("this is a retry, and the journal of the earlier attempts is not here; {then}"))
}

/// Notices about the source of the earlier attempts' journal in this CI run.
pub(super) fn of_checkpoints(shown: &CheckpointStatus, missing: MissingJournalPolicy) -> Vec<Notice> {
    let passed_over = shown.skipped_artifacts.iter();
    let mut notices: Vec<Notice> =
        passed_over.map(|why| Notice::warning(format!("ignored an artifact: {why}"))).collect();
    if let Some(name) = &shown.resumed_from {
        notices.push(Notice::note(format!("continues from the journal in artifact {name}")));
    }
    if let Some(why) = &shown.earlier_runs_unread {
        notices.push(Notice::warning(format!(
            "the journals of earlier workflow runs were not read: {why}; give the job `actions: read` to continue from them"
        )));
    }
    if shown.is_missing {
        let then = then_of(missing);
        notices.push(Notice::warning(format!(
            "the artifacts of this run contain no journal of the earlier attempts; {then}"
        )));
    }
    notices
}

/// What a deployment does without the journal of the earlier attempts.
fn then_of(missing: MissingJournalPolicy) -> &'static str {
    match missing {
        MissingJournalPolicy::Probe | MissingJournalPolicy::Fail => {
            "each step without a record is probed before it runs"
        }
        MissingJournalPolicy::Restart => "the deployment starts from the beginning (`missing_journal: restart`)",
    }
}

/// Says which attempt of the workflow run this is, where GitHub counts otherwise than the journal.
pub(super) fn of_attempt(context: &JobContext, header: &JournalHeader) -> Option<Notice> {
    let (ours, ci) = (header.attempt.0.get(), context.attempt?);
    let notice = || Notice::note(format!("attempt {ours} of run {}, attempt {ci} of the workflow run", header.run));
    (ours != ci).then(notice)
}
