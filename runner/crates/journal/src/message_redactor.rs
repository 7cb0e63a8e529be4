//! Redacts the messages of one call in order, so that a secret that is split over several messages is found.
//!
//! A message that may end inside a secret waits for the next one. Invariant: no message waits for long (the caller flushes after
//! a moment without messages), is lost, or is overtaken by another. Deliberately absent: joining messages with others between
//! them; a step that wants to leak a secret can always encode it in an unknown way.

use super::redact::Redactor;
use contract::step::StepProgress;

/// The most messages that wait.
const MAX_PENDING_MESSAGES: usize = 1000;
/// The most bytes of messages that wait.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// The messages of one call on their way to the journal.
#[derive(Debug)]
pub struct MessageRedactor {
    redactor: Redactor,
    pending: Vec<StepProgress>,
    pending_bytes: usize,
    /// The waiting texts, joined.
    joined_text: String,
}

impl MessageRedactor {
    /// Creates a redactor for one call.
    #[must_use]
    pub fn new(redactor: &Redactor) -> Self {
        Self { redactor: redactor.clone(), pending: Vec::new(), pending_bytes: 0, joined_text: String::new() }
    }

    /// Adds a message, and returns the messages that may be written now.
    pub fn push(&mut self, progress: StepProgress) -> Vec<StepProgress> {
        if let StepProgress::Log { message, .. } = &progress {
            self.joined_text.push_str(message);
            self.pending_bytes += message.len();
        }
        self.pending.push(progress);
        if self.pending.len() < MAX_PENDING_MESSAGES
            && self.pending_bytes < MAX_PENDING_BYTES
            && self.redactor.may_end_in_secret(&self.joined_text)
        {
            return Vec::new();
        }
        self.flush()
    }

    /// Whether any messages wait.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns all waiting messages, without secrets.
    pub fn flush(&mut self) -> Vec<StepProgress> {
        self.joined_text.clear();
        self.pending_bytes = 0;
        let mut released = std::mem::take(&mut self.pending);
        let mut messages: Vec<&mut String> = released.iter_mut().filter_map(message_text_mut).collect();
        if messages.len() > 1 {
            let texts: Vec<&str> = messages.iter().map(|message| message.as_str()).collect();
            let clean = self.redactor.redact_all(&texts);
            for (message, clean) in messages.iter_mut().zip(clean) {
                **message = clean;
            }
        }
        released
    }
}

fn message_text_mut(progress: &mut StepProgress) -> Option<&mut String> {
    match progress {
        StepProgress::Log { message, .. } => Some(message),
        StepProgress::Meter { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{Secret, step::MessageLevel};

    /// The output after each of these messages.
    fn redact_each(messages: &[&str]) -> Vec<String> {
        let mut messages_redactor =
            MessageRedactor::new(&Redactor::new([&Secret::new("hunter2-correct-horse".to_owned())]));
        let texts = |some: Vec<StepProgress>| {
            some.into_iter().map(|mut one| message_text_mut(&mut one).unwrap().clone()).collect::<Vec<_>>().join("|")
        };
        let log = |text: &str| StepProgress::Log {
            level: MessageLevel::Info,
            message: text.to_owned(),
            fields: Default::default(),
        };
        let mut written: Vec<String> = messages.iter().map(|text| texts(messages_redactor.push(log(text)))).collect();
        written.push(texts(messages_redactor.flush()));
        written
    }

    #[test]
    fn a_secret_in_two_messages_is_masked_in_both() {
        assert_eq!(redact_each(&["it is hunter2-", "correct-horse!", "so!"]), ["", "it is ***|***!", "so!", ""]);
    }

    #[test]
    fn a_secret_in_single_letters_is_masked() {
        let letters: Vec<String> = "hunter2-correct-horse".chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert!(redact_each(&letters).concat().chars().all(|c| "*|".contains(c)));
    }

    #[test]
    fn a_text_that_only_begins_like_a_secret_is_unchanged() {
        assert_eq!(redact_each(&["gone to hunt", "in the wood!"]), ["", "gone to hunt|in the wood!", ""]);
        assert_eq!(redact_each(&["gone to hunt"]), ["", "gone to hunt"]);
    }
}
