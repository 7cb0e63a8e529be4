//! A part of docs/benchmarks.md that a benchmark writes, between two marks.

use super::document_head;

/// Its marks, and what stands above it when it is written for the first time.
pub(super) struct MarkedSection {
    pub(super) begin: &'static str,
    pub(super) end: &'static str,
    pub(super) introduction: &'static str,
}

impl MarkedSection {
    /// What stands between the marks.
    pub(super) fn body<'d>(&self, document: &'d str) -> Option<&'d str> {
        Some(document.split_once(self.begin)?.1.split_once(self.end)?.0)
    }

    /// The document with another text between the marks.
    pub(super) fn update(&self, document: &str, body: &str) -> String {
        let parts =
            document.split_once(self.begin).and_then(|(before, rest)| Some((before, rest.split_once(self.end)?.1)));
        let (before, after) = match parts {
            Some((before, after)) => (before.to_owned(), after),
            None => (format!("{}\n\n{}\n\n", document_head(document), self.introduction), "\n"),
        };
        format!("{before}{}\n{body}{}{after}", self.begin, self.end)
    }
}
