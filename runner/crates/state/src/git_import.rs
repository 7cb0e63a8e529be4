//! The input of `git fast-import`: commits, each with a few files. The command prints the name of each.
//!
//! Deliberately absent: refs that stay. Git needs one for each commit during an import; the last commands delete them.

use std::fmt::Write as _;

/// Commits that are created together.
pub(super) struct ImportStream<'a> {
    bytes: Vec<u8>,
    /// A name that only this process uses.
    scratch: &'a str,
    message: &'a str,
    /// Seconds since 1970.
    at: i64,
    marks: usize,
    commits: Vec<usize>,
}

/// What a commit begins with.
enum ImportBase<'a> {
    Empty,
    Parent(&'a str),
    /// The files of a tree; the commit has no parent.
    Tree(&'a str),
}

impl<'a> ImportStream<'a> {
    pub(super) fn new(scratch: &'a str, message: &'a str, at: i64) -> Self {
        Self { bytes: Vec::new(), scratch, message, at, marks: 0, commits: Vec::new() }
    }

    /// Adds a commit with the files of its parent, without the removed ones, and with new ones.
    pub(super) fn commit(&mut self, parent: Option<&str>, removed: &[String], files: &[(&str, &[u8])]) {
        self.add(&parent.map_or(ImportBase::Empty, ImportBase::Parent), removed, files);
    }

    /// Adds a commit without a parent, which begins with the files of a tree.
    pub(super) fn commit_on_tree(&mut self, tree: &str, removed: &[String], files: &[(&str, &[u8])]) {
        self.add(&ImportBase::Tree(tree), removed, files);
    }

    fn add(&mut self, base: &ImportBase<'_>, removed: &[String], files: &[(&str, &[u8])]) {
        let first = self.marks + 1;
        for (_, bytes) in files {
            self.marks += 1;
            self.line(&format!("blob\nmark :{}", self.marks));
            self.data(bytes);
        }
        self.marks += 1;
        let (commit, number) = (self.marks, self.commits.len());
        self.line(&format!("commit refs/import/{}/{number}\nmark :{commit}", self.scratch));
        self.line(&format!("committer Pawl <pawl@localhost> {} +0000", self.at));
        self.data(self.message.as_bytes());
        match base {
            ImportBase::Empty => {}
            ImportBase::Parent(parent) => self.line(&format!("from {parent}")),
            ImportBase::Tree(tree) => self.line(&format!("M 040000 {tree} ")),
        }
        for name in removed {
            self.line(&format!("D {name}"));
        }
        for (index, (name, _)) in files.iter().enumerate() {
            self.line(&format!("M 100644 :{} {name}", first + index));
        }
        self.line("");
        self.commits.push(commit);
    }

    /// The whole stream. Git prints a line for each commit, in order.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let nothing = "0".repeat(40);
        let mut tail = String::new();
        for (number, commit) in self.commits.iter().enumerate() {
            let _ = write!(tail, "get-mark :{commit}\nreset refs/import/{}/{number}\nfrom {nothing}\n\n", self.scratch);
        }
        tail.push_str("done\n");
        self.bytes.extend_from_slice(tail.as_bytes());
        self.bytes
    }

    fn line(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(b'\n');
    }

    fn data(&mut self, bytes: &[u8]) {
        self.line(&format!("data {}", bytes.len()));
        self.bytes.extend_from_slice(bytes);
        self.bytes.push(b'\n');
    }
}
