//! `tidy`, a part of `check`: rules of this repository that no compiler knows.
//!
//! The rules are pure: they read a [`Tree`] that is loaded once, so that their tests need no files.

mod cross_refs;
mod layering;
mod text;
mod type_names;

use std::{fmt, fs, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::workspace::{self, output};

/// What git knows or would add, in memory.
#[derive(Debug, Default)]
struct Tree {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    /// From the root, with `/`.
    path: String,
    /// Empty when the file is not UTF-8: the rules are about text.
    text: String,
}

/// Something to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: [Rule; 12] = [
    text::lengths,
    text::unfinished_work,
    text::machine_paths,
    text::headers,
    text::terminal_output,
    layering::modules,
    type_names::unique,
    cross_refs::error_pages,
    cross_refs::dependencies,
    cross_refs::workspace_dependencies,
    cross_refs::links,
    cross_refs::registries,
];

/// Prints what it finds.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = Tree::load(root)?;
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings.extend(layering::crates(&workspace::metadata()?, root));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} finding(s)"),
    }
}

impl Tree {
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
                files.push(File { path, text: String::from_utf8(bytes).unwrap_or_default() });
            }
        }
        Ok(Self { files })
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    fn with_extension<'a>(&'a self, extensions: &'a [&str]) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(|file| extensions.contains(&file.extension()))
    }
}

impl File {
    fn extension(&self) -> &str {
        Path::new(&self.path).extension().and_then(|extension| extension.to_str()).unwrap_or_default()
    }

    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, message: message.into() }
    }
}

#[cfg(test)]
fn tree(files: &[(&str, &str)]) -> Tree {
    let file = |&(path, text): &(&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
    Tree { files: files.iter().map(file).collect() }
}

/// The findings as text, for comparison.
#[cfg(test)]
fn shown(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(Finding::to_string).collect()
}
