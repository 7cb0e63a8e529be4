//! What an entry of an archive says of itself, checked: its path, its link target, its attributes.
//!
//! An [`EntryPath`] that exists stays in the folder by its text. Whether a link of the same archive leads it elsewhere
//! is for the tree to know.

use super::{
    Limits,
    error::{ArchiveError, Limit, Refusal},
    list,
};

/// Deepest nesting of directories: each level may cost an open handle.
const MAX_DEPTH: usize = 128;

/// Longest component of a path in bytes: what filesystems of Unix take.
const MAX_NAME: usize = 255;

/// What an entry becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
}

/// A path below the unpacked folder: no empty, `.` or `..` component, no control character. Empty for the folder
/// itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryPath(String);

impl EntryPath {
    /// Checks the name of an entry.
    pub(super) fn parse(raw: &[u8], limits: &Limits) -> Result<Self, ArchiveError> {
        let text = readable(raw, raw, limits)?;
        let refused = |refusal| Err(ArchiveError::refused(text, refusal));
        if text.starts_with('/') {
            return refused(Refusal::Absolute);
        }
        let mut path = String::with_capacity(text.len());
        for (depth, component) in text.split('/').filter(|part| !matches!(*part, "" | ".")).enumerate() {
            if component == ".." {
                return refused(Refusal::Parent);
            }
            if component.len() > MAX_NAME {
                return Err(ArchiveError::limit(Limit::Path, MAX_NAME as u64, text));
            }
            if depth > MAX_DEPTH {
                return Err(ArchiveError::limit(Limit::Depth, MAX_DEPTH as u64, text));
            }
            if depth > 0 {
                path.push('/');
            }
            path.push_str(component);
        }
        // By any case, and with anything below: the folder may move to a filesystem that ignores case.
        if path.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case(list::NAME)) {
            return refused(Refusal::Reserved);
        }
        Ok(Self(path))
    }

    /// The path of the directory it lies in, empty at the top.
    pub(super) fn parent(&self) -> &str {
        split(&self.0).0
    }

    pub(super) fn name(&self) -> &str {
        split(&self.0).1
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

/// Splits a path into its parent (empty at the top) and its last component.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// What two paths have in common that are the same on some filesystem: one that ignores case, or one that takes a letter with
/// an accent for the same as the letter and the accent (Unicode's canonical equivalence, as APFS does).
pub(super) fn folded(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    let form = icu_normalizer::DecomposingNormalizer::new_nfd();
    form.normalize(&form.normalize(path).to_lowercase()).into_owned()
}

/// Checks the text of a symlink's target. Whether it leaves the folder depends on the other links.
pub(super) fn target<'a>(entry: &EntryPath, raw: &'a [u8], limits: &Limits) -> Result<&'a str, ArchiveError> {
    let text = readable(raw, entry.as_str().as_bytes(), limits)?;
    if text.is_empty() {
        return Err(ArchiveError::refused(entry.as_str(), Refusal::NoTarget));
    }
    if text.starts_with('/') {
        return Err(ArchiveError::refused(entry.as_str(), Refusal::AbsoluteTarget(text.to_owned())));
    }
    Ok(text)
}

fn readable<'a>(raw: &'a [u8], entry: &[u8], limits: &Limits) -> Result<&'a str, ArchiveError> {
    let entry = || String::from_utf8_lossy(entry);
    if raw.len() > limits.max_path {
        return Err(ArchiveError::limit(Limit::Path, limits.max_path as u64, &entry()));
    }
    let text = str::from_utf8(raw).map_err(|_| ArchiveError::refused(&entry(), Refusal::NotUtf8))?;
    if text.chars().any(char::is_control) {
        return Err(ArchiveError::refused(&entry(), Refusal::ControlCharacter));
    }
    Ok(text)
}

/// A time of modification, since 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modified {
    pub(super) seconds: i64,
    /// Below 1 000 000 000.
    pub(super) nanos: u32,
}

/// What is kept of an entry besides its content. No owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    /// At most `0o777`.
    pub(super) mode: u32,
    pub(super) modified: Modified,
}

impl Attributes {
    /// Refuses the mode bits that give somebody else's rights.
    pub(super) fn parse(entry: &EntryPath, mode: u32, modified: Modified) -> Result<Self, ArchiveError> {
        if mode & 0o7000 != 0 {
            return Err(ArchiveError::refused(entry.as_str(), Refusal::SpecialMode(mode & 0o7777)));
        }
        Ok(Self { mode: mode & 0o777, modified })
    }
}
