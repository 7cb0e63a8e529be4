//! Lexical paths: relative ones resolve against the plan's folder, and `.` and `..` are removed.
//!
//! Deliberately absent: symlinks. The code that opens a path checks that it stays where it should.

use std::path::{Component, Path, PathBuf};

/// Resolves a path to an absolute one without `.` and `..`; `..` at the root stays at the root.
pub(super) fn resolve(folder: &Path, path: &str) -> PathBuf {
    normalize(&folder.join(path))
}

/// The path without `.` and `..`.
#[must_use]
pub fn normalize(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normalized.push(component),
            Component::CurDir => {}
            Component::ParentDir => drop(normalized.pop()),
        }
    }
    normalized
}

/// The reason for which a text is not a valid path.
pub(super) fn path_error(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("it is empty")
    } else if path.contains('\0') {
        Some("it contains a NUL character")
    } else if path == "~" || path.starts_with("~/") {
        Some("`~` is not expanded; use `${{ env.HOME }}`")
    } else {
        None
    }
}
