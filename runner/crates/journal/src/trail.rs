//! Messages of one call in their order, so that a secret which is split over several of them is found.
//!
//! A message that may end in the midst of a secret waits for the next one. Invariant: none waits for long (whoever uses a trail
//! releases it when it has been quiet for a moment) and none is lost or overtaken by another. Deliberately absent: joining what
//! other messages come between; a step that wants to give a secret away can always find a spelling that nobody knows.

use super::redact::Redactor;
use contract::step::Progress;

/// The longest run of messages that wait, and their bytes.
const MOST: usize = 1000;
const MOST_BYTES: usize = 1 << 20;

/// Messages on their way to the journal.
#[derive(Debug)]
pub struct Trail {
    redactor: Redactor,
    waiting: Vec<Progress>,
    bytes: usize,
    /// The texts that wait, one after the other, as far as a secret may reach back.
    joined: String,
}

impl Trail {
    /// A trail for one call.
    #[must_use]
    pub fn new(redactor: &Redactor) -> Self {
        Self { redactor: redactor.clone(), waiting: Vec::new(), bytes: 0, joined: String::new() }
    }

    /// Takes a message and returns those that may be written now.
    pub fn take(&mut self, progress: Progress) -> Vec<Progress> {
        if let Progress::Log { message, .. } = &progress {
            self.joined.push_str(message);
            self.bytes += message.len();
        }
        self.waiting.push(progress);
        if self.waiting.len() < MOST && self.bytes < MOST_BYTES && self.redactor.is_open(&self.joined) {
            return Vec::new();
        }
        self.release()
    }

    /// Whether any wait.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All that wait, without secrets.
    pub fn release(&mut self) -> Vec<Progress> {
        self.joined.clear();
        self.bytes = 0;
        let mut released = std::mem::take(&mut self.waiting);
        let mut messages: Vec<&mut String> = released.iter_mut().filter_map(message).collect();
        if messages.len() > 1 {
            let texts: Vec<&str> = messages.iter().map(|message| message.as_str()).collect();
            let clean = self.redactor.texts(&texts);
            for (message, clean) in messages.iter_mut().zip(clean) {
                **message = clean;
            }
        }
        released
    }
}

fn message(progress: &mut Progress) -> Option<&mut String> {
    match progress {
        Progress::Log { message, .. } => Some(message),
        Progress::Meter { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{Secret, step::Level};

    /// What is written of these messages, one line each time something is.
    fn told(messages: &[&str]) -> Vec<String> {
        let mut trail = Trail::new(&Redactor::new([&Secret::new("hunter2-correct-horse".to_owned())]));
        let texts = |some: Vec<Progress>| {
            some.into_iter().map(|mut one| message(&mut one).unwrap().clone()).collect::<Vec<_>>().join("|")
        };
        let log =
            |text: &str| Progress::Log { level: Level::Info, message: text.to_owned(), fields: Default::default() };
        let mut told: Vec<String> = messages.iter().map(|text| texts(trail.take(log(text)))).collect();
        told.push(texts(trail.release()));
        told
    }

    #[test]
    fn a_secret_in_two_messages_is_masked_in_both() {
        assert_eq!(told(&["it is hunter2-", "correct-horse!", "so!"]), ["", "it is ***|***!", "so!", ""]);
    }

    #[test]
    fn a_secret_letter_by_letter_is_masked() {
        let letters: Vec<String> = "hunter2-correct-horse".chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert!(told(&letters).concat().chars().all(|c| "*|".contains(c)));
    }

    #[test]
    fn what_only_looks_like_a_beginning_is_told_unchanged() {
        assert_eq!(told(&["gone to hunt", "in the wood!"]), ["", "gone to hunt|in the wood!", ""]);
        assert_eq!(told(&["gone to hunt"]), ["", "gone to hunt"]);
    }
}
