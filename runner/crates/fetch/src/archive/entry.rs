//! The checked path, link target and attributes of an archive's entry.
//!
//! The text of an [`EntryPath`] stays in the folder. Whether a link of the same archive leads it elsewhere is checked
//! by the tree.

use super::{
    ArchiveLimits,
    error::{ArchiveError, ArchiveLimitKind, EntryRefusal},
    file_list,
};

/// The deepest nesting of directories: each level may cost an open handle.
const MAX_DEPTH: usize = 128;

/// The longest component of a path in bytes, as Unix file systems allow.
const MAX_NAME_BYTES: usize = 255;

/// The names in the unpacked folder that are not the archive's: the list of files, and the file that says of which release the folder is
/// (docs/steps.md).
const RESERVED_NAMES: [&str; 2] = [file_list::FILE_LIST_NAME, ".pawl-digest"];

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArchiveEntryKind {
    Directory,
    File,
    Symlink,
}

/// A path below the unpacked folder, without an empty, `.` or `..` component and without control characters. Empty for
/// the folder itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryPath(String);

impl EntryPath {
    /// Checks the name of an entry.
    pub(super) fn parse(raw: &[u8], limits: &ArchiveLimits) -> Result<Self, ArchiveError> {
        let text = check_text(raw, raw, limits)?;
        let refused = |refusal| Err(ArchiveError::refused_entry(text, refusal));
        if text.starts_with('/') {
            return refused(EntryRefusal::Absolute);
        }
        let mut path = String::with_capacity(text.len());
        for (depth, component) in text.split('/').filter(|part| !matches!(*part, "" | ".")).enumerate() {
            if component == ".." {
                return refused(EntryRefusal::ParentComponent);
            }
            if component.len() > MAX_NAME_BYTES {
                return Err(ArchiveError::over_limit(ArchiveLimitKind::Path, MAX_NAME_BYTES as u64, text));
            }
            if depth > MAX_DEPTH {
                return Err(ArchiveError::over_limit(ArchiveLimitKind::Depth, MAX_DEPTH as u64, text));
            }
            if depth > 0 {
                path.push('/');
            }
            path.push_str(component);
        }
        // In any case, and with anything below it, because the folder may move to a file system that ignores case.
        let first = path.split('/').next().unwrap_or_default();
        if RESERVED_NAMES.iter().any(|reserved| first.eq_ignore_ascii_case(reserved)) {
            return refused(EntryRefusal::Reserved);
        }
        Ok(Self(path))
    }

    /// The path of its directory, empty at the top.
    pub(super) fn parent(&self) -> &str {
        split_path(&self.0).0
    }

    pub(super) fn name(&self) -> &str {
        split_path(&self.0).1
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
pub(super) fn split_path(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A normalized path, equal for paths that are the same on some file system: one that ignores case, or one that treats
/// a composed and a decomposed accent alike (Unicode's canonical equivalence, as in APFS).
pub(super) fn fold_path(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    let form = icu_normalizer::DecomposingNormalizer::new_nfd();
    form.normalize(&form.normalize(path).to_lowercase()).into_owned()
}

/// Checks the text of a symlink's target. Whether it leaves the folder also depends on other links.
pub(super) fn check_link_target<'a>(
    entry: &EntryPath,
    raw: &'a [u8],
    limits: &ArchiveLimits,
) -> Result<&'a str, ArchiveError> {
    let text = check_text(raw, entry.as_str().as_bytes(), limits)?;
    if text.is_empty() {
        return Err(ArchiveError::refused_entry(entry.as_str(), EntryRefusal::EmptyTarget));
    }
    if text.starts_with('/') {
        return Err(ArchiveError::refused_entry(entry.as_str(), EntryRefusal::AbsoluteTarget(text.to_owned())));
    }
    Ok(text)
}

fn check_text<'a>(raw: &'a [u8], entry: &[u8], limits: &ArchiveLimits) -> Result<&'a str, ArchiveError> {
    let entry = || String::from_utf8_lossy(entry);
    if raw.len() > limits.max_path_bytes {
        return Err(ArchiveError::over_limit(ArchiveLimitKind::Path, limits.max_path_bytes as u64, &entry()));
    }
    let text = str::from_utf8(raw).map_err(|_| ArchiveError::refused_entry(&entry(), EntryRefusal::NotUtf8))?;
    if text.chars().any(char::is_control) {
        return Err(ArchiveError::refused_entry(&entry(), EntryRefusal::ControlCharacter));
    }
    Ok(text)
}

/// A modification time since 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ModifiedTime {
    pub(super) seconds: i64,
    /// Below 1 000 000 000.
    pub(super) nanos: u32,
}

/// The kept attributes of an entry, without owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryAttributes {
    /// At most `0o777`.
    pub(super) mode: u32,
    pub(super) modified: ModifiedTime,
}

impl EntryAttributes {
    /// Refuses mode bits that grant another user's rights.
    pub(super) fn parse(entry: &EntryPath, mode: u32, modified: ModifiedTime) -> Result<Self, ArchiveError> {
        if mode & 0o7000 != 0 {
            return Err(ArchiveError::refused_entry(entry.as_str(), EntryRefusal::SpecialMode(mode & 0o7777)));
        }
        Ok(Self { mode: mode & 0o777, modified })
    }
}
