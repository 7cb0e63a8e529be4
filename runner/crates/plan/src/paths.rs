//! Paths by their text alone: relative ones resolve against the plan's folder, `.` and `..` are taken out.
//!
//! Deliberately absent: symlinks. Whether a path stays where it should is checked where it is opened.

use std::path::{Component, Path, PathBuf};

/// An absolute path without `.` and `..`; `..` at the root stays there.
pub(super) fn resolve(folder: &Path, path: &str) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in folder.join(path).components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => resolved.push(component),
            Component::CurDir => {}
            Component::ParentDir => drop(resolved.pop()),
        }
    }
    resolved
}

/// Why a text cannot be a path.
pub(super) fn path_error(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("it is empty")
    } else if path.contains('\0') {
        Some("it holds a NUL character")
    } else if path == "~" || path.starts_with("~/") {
        Some("`~` is not expanded; use `${{ env.HOME }}`")
    } else {
        None
    }
}
