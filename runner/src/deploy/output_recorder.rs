//! Records what the programs of one call write: each line in the log as it comes, the first and last ones in the journal at the end.

use contract::step::{MessageLevel, StepProgress};
use journal::{
    Journal, JournalError, OutputChunk, OutputExcerpt, OutputLine, OutputRedactor, Redactor, StepTarget,
    file::JournalNote,
};

/// The output of the programs of one call.
pub(super) struct OutputRecorder {
    redactor: OutputRedactor,
    excerpt: OutputExcerpt,
}

impl OutputRecorder {
    pub(super) fn new(redactor: &Redactor) -> Self {
        Self { redactor: OutputRedactor::new(redactor), excerpt: OutputExcerpt::default() }
    }

    pub(super) fn push(
        &mut self,
        chunk: OutputChunk,
        journal: &mut Journal,
        step_target: &StepTarget,
    ) -> Result<(), JournalError> {
        let lines = self.redactor.push(chunk);
        self.record(lines, journal, step_target)
    }

    /// Whether lines wait for what follows them.
    pub(super) fn has_pending(&self) -> bool {
        self.redactor.has_pending()
    }

    pub(super) fn flush(&mut self, journal: &mut Journal, step_target: &StepTarget) -> Result<(), JournalError> {
        let lines = self.redactor.flush();
        self.record(lines, journal, step_target)
    }

    /// Writes the rest, and the journal's part.
    pub(super) fn finish(mut self, journal: &mut Journal, step_target: &StepTarget) -> Result<(), JournalError> {
        let lines = self.redactor.finish();
        self.record(lines, journal, step_target)?;
        self.excerpt.into_notes(step_target).into_iter().try_for_each(|note| journal.record_note(note))
    }

    fn record(
        &mut self,
        lines: Vec<OutputLine>,
        journal: &mut Journal,
        step_target: &StepTarget,
    ) -> Result<(), JournalError> {
        if let Err(error) = journal.log_output(step_target, &lines) {
            let message =
                format!("can't write the log of this attempt: {error}; the journal has the first and last lines");
            let progress = StepProgress::Log { level: MessageLevel::Warn, message, fields: Default::default() };
            journal.record_note(JournalNote::Progress { step_target: step_target.clone(), progress })?;
        }
        self.excerpt.push(lines);
        Ok(())
    }
}
