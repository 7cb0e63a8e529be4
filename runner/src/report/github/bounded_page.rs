//! A page of at most a number of bytes, cut between blocks.

/// A text of at most `max_bytes`.
pub(super) struct BoundedPage {
    pub(super) text: String,
    pub(super) max_bytes: usize,
}

impl BoundedPage {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes }
    }

    /// Adds the whole text or nothing of it.
    pub(super) fn push_if_fits(&mut self, text: &str) -> bool {
        let fits = self.text.len() + text.len() <= self.max_bytes;
        if fits {
            self.text.push_str(text);
        }
        fits
    }
}
