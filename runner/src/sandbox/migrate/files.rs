//! A directory of migrations, in the form of the tool that it was written for.
//!
//! Invariant: a file's identity is what its tool says it is (its version), and so is its checksum. A further form is one more
//! [`Format`]. Pure but for [`read`]. Deliberately absent: what is applied.

use std::{borrow::Cow, io::Read as _, ops::Range};

use cap_std::fs::Dir;
use sha2::{Digest as _, Sha256, Sha384};

use super::{
    super::{
        failure,
        places::regular,
        sql::{Position, hex},
    },
    format::Format,
};
use crate::journal::event::Failure;

/// The largest file that is read, bytes.
const LARGEST: u64 = 256 << 20;

/// A file as it lies there.
pub(super) struct Raw {
    pub(super) name: String,
    pub(super) text: String,
}

/// One migration.
#[derive(Clone, Debug)]
pub(super) struct Migration {
    /// As the tool writes it into its table.
    pub(super) version: String,
    /// What it is about, in the tool's words.
    pub(super) description: String,
    /// `0002_add_stock.sql`.
    pub(super) file_name: String,
    /// The whole file.
    pub(super) text: String,
    /// What of it is run.
    pub(super) up: Range<usize>,
    /// What undoes it: in the same text, or another file's.
    pub(super) down: Option<Down>,
    /// Whether it asks to be run outside of a transaction.
    pub(super) alone: bool,
}

/// What undoes a migration.
#[derive(Clone, Debug)]
pub(super) struct Down {
    pub(super) file_name: String,
    pub(super) text: String,
    pub(super) range: Range<usize>,
    pub(super) alone: bool,
}

impl Migration {
    pub(super) fn sql(&self) -> &str {
        &self.text[self.up.clone()]
    }

    /// SHA-256 of the file, line ends and byte order mark taken out.
    pub(super) fn normal(&self) -> String {
        hex(&Sha256::digest(normal(&self.text).as_bytes()))
    }

    /// SHA-256 of the file as it is.
    pub(super) fn raw(&self) -> String {
        hex(&Sha256::digest(self.text.as_bytes()))
    }

    /// SHA-384 of the file as it is.
    pub(super) fn sha384(&self) -> String {
        hex(&Sha384::digest(self.text.as_bytes()))
    }

    /// What SHA-384 would be with other line ends, or another byte order mark.
    pub(super) fn sha384_of_kin(&self) -> Vec<String> {
        let plain = normal(&self.text);
        let crlf = plain.replace('\n', "\r\n");
        let with_mark = |text: &str| format!("\u{feff}{text}");
        let kin = [with_mark(&plain), with_mark(&crlf), crlf, plain.into_owned()];
        kin.iter().map(|text| hex(&Sha384::digest(text.as_bytes()))).collect()
    }
}

/// The text without byte order mark, with line feeds only.
pub(super) fn normal(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.contains('\r') { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) }
}

/// Versions by number; texts of equal numbers by themselves.
pub(super) fn order(version: &str) -> (u128, String) {
    (version.parse().unwrap_or(u128::MAX), version.to_owned())
}

/// The `.sql` files of a directory, by name.
pub(super) fn read(dir: &Dir, place: &str) -> Result<Vec<Raw>, Failure> {
    let unreadable = |name: &str, error: &std::io::Error| {
        failure("permanent", format!("`{place}{name}` can't be read: {error}"))
            .with_detail("file", format!("{place}{name}"))
    };
    let mut names = Vec::new();
    for entry in dir.entries().map_err(|error| unreadable("", &error))? {
        let entry = entry.map_err(|error| unreadable("", &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = || entry.file_type().is_ok_and(|kind| kind.is_dir());
        if name.to_ascii_lowercase().ends_with(".sql") && !name.starts_with('.') && !is_folder() {
            names.push(name);
        }
    }
    names.sort();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let file = regular(dir, &name).map_err(|error| unreadable(&name, &error))?;
        let size = file.metadata().map_err(|error| unreadable(&name, &error))?.len();
        if size > LARGEST {
            let message = format!("the file is {} MiB large; {} are read", size >> 20, LARGEST >> 20);
            return Err(failure("limit", message)
                .with_detail("file", format!("{place}{name}"))
                .with_hint("load that much data by a program of its own, not by a migration"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| unreadable(&name, &error))?;
        let text = text(bytes).map_err(|(why, line)| {
            failure("bad-content", why)
                .with_hint("save the file as UTF-8 text")
                .with_detail("file", format!("{place}{name}"))
                .with_detail("line", line)
        })?;
        found.push(Raw { name, text });
    }
    Ok(found)
}

fn text(bytes: Vec<u8>) -> Result<String, (String, u64)> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..at]).into_owned();
        (format!("the file is no UTF-8 text: byte {} is invalid", at + 1), Position::at(&before, before.len()).line)
    })?;
    match text.find('\0') {
        Some(at) => {
            Err(("the file has a NUL character, which no SQL text has".to_owned(), Position::at(&text, at).line))
        }
        None => Ok(text),
    }
}

/// The migrations of a directory, in order.
///
/// # Errors
/// A name without a version, a version twice, an up without its file.
pub(super) fn migrations(format: &dyn Format, raw: Vec<Raw>, place: &str) -> Result<Vec<Migration>, Failure> {
    let mut found = format.migrations(raw, place)?;
    found.sort_by_cached_key(|migration| order(&migration.version));
    for pair in found.windows(2) {
        if order(&pair[0].version).0 == order(&pair[1].version).0 {
            let (one, other) = (&pair[0].file_name, &pair[1].file_name);
            let message = format!("`{one}` and `{other}` have the same number {}", pair[1].version);
            return Err(failure("invalid-config", message)
                .with_hint("give the one that is applied nowhere yet a higher number")
                .with_detail("file", format!("{place}{other}"))
                .with_detail("line", 1));
        }
    }
    Ok(found)
}
