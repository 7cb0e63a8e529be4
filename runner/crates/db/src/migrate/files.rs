//! A directory of migrations in the format of its tool.
//!
//! Invariant: a file's identity (its version) and checksum are those of its tool. A new format is one more
//! [`MigrationFormat`]. Pure, except [`read_sql_files`]. Deliberately absent: what is applied.

use std::{
    borrow::Cow,
    ops::Range,
    sync::{Arc, OnceLock},
};

use sha2::{Digest as _, Sha256, Sha384};

use super::{
    super::sql::{SqlPosition, hex},
    format::MigrationFormat,
};
use crate::failure;
use contract::step::{FailureKind, StepFailure};
use hostio::dir_snapshot::{DirSnapshot, MAX_SNAPSHOT_TEXT_BYTES, PathReadError, SnapshotContent, SnapshotFile};

/// A file in the directory.
pub(super) struct MigrationSource {
    pub(super) name: String,
    pub(super) text: Arc<String>,
}

/// A migration.
#[derive(Clone, Debug)]
pub(super) struct Migration {
    /// Its version, as the tool records it.
    pub(super) version: String,
    /// Its description, as the tool derives it.
    pub(super) description: String,
    /// `0002_add_stock.sql`.
    pub(super) file_name: String,
    /// The whole text of the file.
    pub(super) text: Arc<String>,
    /// The range that applies it.
    pub(super) up_range: Range<usize>,
    /// What undoes it, in the same or another file.
    pub(super) down: Option<DownMigration>,
    /// Whether it must run outside a transaction.
    pub(super) no_transaction: bool,
    pub(super) checksums: MigrationChecksums,
}

/// Hashes of a file in hex, each computed on first use.
#[derive(Clone, Debug, Default)]
pub(super) struct MigrationChecksums {
    normalized_sha256: OnceLock<String>,
    raw_sha256: OnceLock<String>,
    sha384: OnceLock<String>,
}

/// The part that undoes a migration.
#[derive(Clone, Debug)]
pub(super) struct DownMigration {
    pub(super) file_name: String,
    pub(super) text: Arc<String>,
    pub(super) range: Range<usize>,
    pub(super) no_transaction: bool,
}

impl Migration {
    pub(super) fn up_sql(&self) -> &str {
        &self.text[self.up_range.clone()]
    }

    /// The SHA-256 of the file with normalized line endings and byte order mark.
    pub(super) fn normalized_sha256(&self) -> &str {
        self.checksums.normalized_sha256.get_or_init(|| hex(&Sha256::digest(normalize_text(&self.text).as_bytes())))
    }

    /// The SHA-256 of the file.
    pub(super) fn raw_sha256(&self) -> &str {
        match normalize_text(&self.text) {
            Cow::Borrowed(text) if text.len() == self.text.len() => self.normalized_sha256(),
            Cow::Borrowed(_) | Cow::Owned(_) => {
                self.checksums.raw_sha256.get_or_init(|| hex(&Sha256::digest(self.text.as_bytes())))
            }
        }
    }

    /// The SHA-384 of the file.
    pub(super) fn sha384(&self) -> &str {
        self.checksums.sha384.get_or_init(|| hex(&Sha384::digest(self.text.as_bytes())))
    }

    /// The SHA-384 hashes of the file with other line endings or another byte order mark.
    pub(super) fn sha384_variants(&self) -> Vec<String> {
        let normalized = normalize_text(&self.text);
        let crlf = normalized.replace('\n', "\r\n");
        let with_mark = |text: &str| format!("\u{feff}{text}");
        let variants = [with_mark(&normalized), with_mark(&crlf), crlf, normalized.into_owned()];
        variants.iter().map(|text| hex(&Sha384::digest(text.as_bytes()))).collect()
    }
}

/// The text without a byte order mark and with LF line endings.
pub(super) fn normalize_text(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\r') { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

/// Orders versions by number; equal numbers by text.
pub(super) fn version_order(version: &str) -> (u128, String) {
    (version_number(version), version.to_owned())
}

/// A version as a number; the largest number if it is not one.
pub(super) fn version_number(version: &str) -> u128 {
    // Most versions are short, and those parse faster.
    version.parse::<u64>().map(u128::from).or_else(|_| version.parse()).unwrap_or(u128::MAX)
}

/// The `.sql` files of a granted directory by name, as they were when the fingerprint was computed.
pub(super) fn read_sql_files(
    folder: Result<Arc<DirSnapshot>, PathReadError>,
    dir_prefix: &str,
) -> Result<Vec<MigrationSource>, StepFailure> {
    let unreadable = |(name, error): (String, std::io::Error)| {
        failure(FailureKind::Permanent, format!("can't read `{dir_prefix}{name}`: {error}"))
            .with_detail("file", format!("{dir_prefix}{name}"))
    };
    let folder = folder.map_err(unreadable)?;
    if let Some(irregular) = folder.irregular_entries().find(|name| is_sql_file(name)) {
        return Err(unreadable((
            irregular.to_owned(),
            std::io::Error::other("it is not a regular file or a link to one"),
        )));
    }
    let one = |file: &SnapshotFile| {
        let size = file.size;
        let text = match &file.content {
            SnapshotContent::Text(text) => nul_error(text).map_or_else(|| Ok(Arc::clone(text)), Err),
            SnapshotContent::Bytes(bytes) => Err(utf8_error(bytes)),
            SnapshotContent::NotKept => {
                let message =
                    format!("the file is {} MiB; the limit is {} MiB", size >> 20, MAX_SNAPSHOT_TEXT_BYTES >> 20);
                return Err(failure(FailureKind::Limit, message)
                    .with_detail("file", format!("{dir_prefix}{}", file.path))
                    .with_hint("load that much data with a separate program, not with a migration"));
            }
        };
        let text = text.map_err(|(why, line)| {
            failure(FailureKind::BadContent, why)
                .with_hint("save the file as UTF-8 text")
                .with_detail("file", format!("{dir_prefix}{}", file.path))
                .with_detail("line", line)
        })?;
        Ok(MigrationSource { name: file.path.clone(), text })
    };
    folder.top_level_files(is_sql_file).map(one).collect()
}

/// Whether a file name is a migration's.
#[must_use]
pub fn is_sql_file(name: &str) -> bool {
    let (name, ending) = (name.as_bytes(), b".sql");
    name.first() != Some(&b'.')
        && name.len() >= ending.len()
        && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
}

fn utf8_error(bytes: &[u8]) -> (String, u64) {
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let before = String::from_utf8_lossy(&bytes[..valid]);
    (format!("the file is not UTF-8 text: byte {} is invalid", valid + 1), SqlPosition::at(&before, before.len()).line)
}

fn nul_error(text: &str) -> Option<(String, u64)> {
    let at = text.find('\0')?;
    Some(("the file contains a NUL character, which SQL does not allow".to_owned(), SqlPosition::at(text, at).line))
}

/// Parses the migrations of a directory, in order.
///
/// # Errors
/// A name without a version, a duplicate version, or a down file without its up file.
pub(super) fn parse_migrations(
    format: &dyn MigrationFormat,
    sources: Vec<MigrationSource>,
    dir_prefix: &str,
) -> Result<Vec<Migration>, StepFailure> {
    let mut found = format.parse_files(sources, dir_prefix)?;
    found.sort_by_cached_key(|migration| version_order(&migration.version));
    for pair in found.windows(2) {
        if version_number(&pair[0].version) == version_number(&pair[1].version) {
            let (one, other) = (&pair[0].file_name, &pair[1].file_name);
            let message = format!("`{one}` and `{other}` have the same number {}", pair[1].version);
            return Err(failure(FailureKind::InvalidConfig, message)
                .with_hint("give a higher number to the one that was not applied to any database yet")
                .with_detail("file", format!("{dir_prefix}{other}"))
                .with_detail("line", 1));
        }
    }
    Ok(found)
}
