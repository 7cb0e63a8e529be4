//! `tidy`, a part of `check`: rules of this repository that no compiler knows.
//!
//! The rules are pure: they read a [`SourceTree`] that is loaded once, so that their tests need no files.

mod cross_refs;
mod layering;
mod text;
mod type_names;

use std::{fmt, fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::workspace::{self, output};

/// What git knows or would add, in memory.
#[derive(Debug, Default)]
struct SourceTree {
    files: Vec<SourceFile>,
}

#[derive(Debug)]
struct SourceFile {
    /// From the root, with `/`.
    path: String,
    /// Empty when the file is not UTF-8: the rules are about text.
    text: String,
}

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TidyFinding {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl fmt::Display for TidyFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

type TidyRule = fn(&SourceTree) -> Vec<TidyFinding>;

const RULES: [TidyRule; 11] = [
    text::file_lengths,
    text::unfinished_work,
    text::machine_paths,
    text::missing_headers,
    text::terminal_output,
    layering::modules,
    type_names::unique,
    cross_refs::dependencies,
    cross_refs::workspace_dependencies,
    cross_refs::links,
    cross_refs::registries,
];

/// Prints what it finds.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = SourceTree::load(root)?;
    let mut findings: Vec<TidyFinding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings.extend(layering::crates(&workspace::metadata()?, root));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} finding(s)"),
    }
}

impl SourceTree {
    fn load(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let mut paths: Vec<String> = output(&mut git)?.split_terminator('\0').map(str::to_owned).collect();
        paths.sort();
        paths.dedup();
        let mut files = Vec::new();
        for path in paths {
            // A file that was deleted and not yet committed is listed too.
            if let Ok(bytes) = fs::read(root.join(&path)) {
                files.push(SourceFile { path, text: String::from_utf8(bytes).unwrap_or_default() });
            }
        }
        Ok(Self { files })
    }

    fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    fn with_extension<'a>(&'a self, extensions: &'a [&str]) -> impl Iterator<Item = &'a SourceFile> {
        self.files.iter().filter(|file| extensions.contains(&file.extension()))
    }
}

impl SourceFile {
    fn extension(&self) -> &str {
        Path::new(&self.path).extension().and_then(|extension| extension.to_str()).unwrap_or_default()
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> TidyFinding {
        TidyFinding { path: self.path.clone(), line, message: message.into() }
    }
}

#[cfg(test)]
fn source_tree(files: &[(&str, &str)]) -> SourceTree {
    let file = |&(path, text): &(&str, &str)| SourceFile { path: path.to_owned(), text: text.to_owned() };
    SourceTree { files: files.iter().map(file).collect() }
}

/// The findings as text, for comparison.
#[cfg(test)]
fn finding_texts(findings: &[TidyFinding]) -> Vec<String> {
    findings.iter().map(TidyFinding::to_string).collect()
}
