//! The folders of releases: one folder for each content, in a folder such as `app/releases`.
//!
//! A folder is called `<label>-<prefix>`, where the prefix is the first 8 or more hex digits of the content's digest, and the file
//! [`DIGEST_FILE`] in it has the whole digest and that name: a copy that somebody made under another name is not a release. A name
//! that is all 64 digits needs no file. The runner finds releases by the same rule (docs/steps.md).
//!
//! Deliberately absent: a search by label. Several labels may have one content, which then has one folder.

use crate::fs::{self, FileType};
use crate::{Digest, Failure, FailureKind};

/// The name of the file in a release's folder that has its digest and its name: `sha256:<64 hex digits> <name>`.
pub const DIGEST_FILE: &str = ".pawl-digest";

/// The number of digits in a name that nothing else has.
const MIN_PREFIX_DIGITS: usize = 8;
/// The number of digits that a prefix grows by.
const MORE_DIGITS: usize = 4;
/// The longest name, in characters.
const MAX_NAME_LENGTH: usize = 79;
/// The largest [`DIGEST_FILE`], in bytes.
const MAX_DIGEST_FILE_BYTES: u64 = 256;

/// Returns the name of the entry of `folder` that has the content with this digest.
///
/// # Errors
/// When an entry that may be the one cannot be inspected.
pub fn find(folder: &str, digest: &Digest) -> Result<Option<String>, Failure> {
    let entries = match fs::list(folder) {
        Err(failure) if failure.kind == FailureKind::NotFound => return Ok(None),
        entries => entries?,
    };
    if entries.iter().any(|entry| entry.name == digest.hex()) {
        return Ok(Some(digest.hex().to_owned()));
    }
    for entry in entries {
        // Not a link: it may lead to the folder that is looked for.
        if entry.file_type != FileType::Directory {
            continue;
        }
        if is_name_for(&entry.name, digest) && states_release(folder, &entry.name, digest)? {
            return Ok(Some(entry.name));
        }
    }
    Ok(None)
}

/// Returns the name for a new entry of `folder`: `<label>-<8 digits>`, with more digits where that name is taken. A long label is cut.
///
/// # Errors
/// When the folder cannot be inspected.
pub fn new_name(folder: &str, label: &str, digest: &Digest) -> Result<String, Failure> {
    let hex = digest.hex();
    let mut digits = MIN_PREFIX_DIGITS;
    loop {
        let label: String = label.chars().take(MAX_NAME_LENGTH - 1 - digits).collect();
        let name = format!("{label}-{}", &hex[..digits]);
        if digits == hex.len() || fs::metadata_of_link(&format!("{folder}/{name}"))?.is_none() {
            return Ok(name);
        }
        digits += MORE_DIGITS;
    }
}

/// Returns whether a name is one for the content with this digest. Another content may have the same name.
#[must_use]
pub fn is_name_for(name: &str, digest: &Digest) -> bool {
    digits_in_name(name).is_some_and(|digits| digest.hex().starts_with(digits))
}

/// Writes the digest into a release's folder, which is or will be called `name`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_digest(folder: &str, name: &str, digest: &Digest) -> Result<(), Failure> {
    fs::write_atomic(&format!("{folder}/{DIGEST_FILE}"), format!("{digest} {name}\n").as_bytes())
}

/// Returns the digits of a digest that a name ends in.
fn digits_in_name(name: &str) -> Option<&str> {
    const ALL_DIGITS: usize = 64;
    let (digits, fewest) = match name.rsplit_once('-') {
        Some((label, digits)) if label.starts_with(|first: char| first.is_ascii_alphanumeric()) => {
            (digits, MIN_PREFIX_DIGITS)
        }
        Some(_) => return None,
        None => (name, ALL_DIGITS),
    };
    let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    ((fewest..=ALL_DIGITS).contains(&digits.len()) && is_hex).then_some(digits)
}

fn states_release(folder: &str, name: &str, digest: &Digest) -> Result<bool, Failure> {
    let path = format!("{folder}/{name}/{DIGEST_FILE}");
    // A later step may have put a pipe there, which would block.
    let is_readable = fs::metadata_of_link(&path)?
        .is_some_and(|found| found.file_type == FileType::File && found.size <= MAX_DIGEST_FILE_BYTES);
    Ok(is_readable && fs::read(&path)?.trim_ascii_end() == format!("{digest} {name}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DirectoryAccess;
    use crate::testing::TestSandbox;

    fn digest(hex: &str) -> Digest {
        Digest::try_from(format!("sha256:{hex:0<64}")).unwrap()
    }

    #[test]
    fn names_end_in_digits_of_the_digest() {
        let whole = digest("33bcc941aa");
        for (name, is_name) in [
            (whole.hex(), true),
            ("r4-33bcc941", true),
            ("v1.0-rc-33bcc941aa00", true),
            (&format!("r4-{}", whole.hex()), true),
            ("r4-33bcc942", false),
            ("r4-33bcc94", false),
            ("r4-33BCC941", false),
            ("33bcc941", false),
            ("-33bcc941", false),
            ("r4", false),
            (".tmp-new-r4-33bcc941", false),
            (&format!("r4-{}0", whole.hex()), false),
        ] {
            assert_eq!(is_name_for(name, &whole), is_name, "{name}");
        }
    }

    #[test]
    fn content_is_found_by_what_its_folder_states() {
        let sandbox = TestSandbox::new();
        let app = sandbox.grant("app", DirectoryAccess::Write);
        let (one, other) = (digest("33bcc941aa"), digest("33bcc941bb"));
        assert_eq!(find("app/releases", &one).unwrap(), None);
        for name in ["r1-33bcc941", "r2-33bcc941", "r3-33bcc941", "r4-33bcc941"] {
            fs::create_dir_all(&format!("app/releases/{name}")).unwrap();
        }
        write_digest("app/releases/r2-33bcc941", "r2-33bcc941", &other).unwrap();
        write_digest("app/releases/r3-33bcc941", "r3-33bcc941", &one).unwrap();
        // A copy that somebody made.
        fs::create_dir_all("app/releases/a-backup-r3-33bcc941").unwrap();
        write_digest("app/releases/a-backup-r3-33bcc941", "r3-33bcc941", &one).unwrap();
        let link = |text: &str, path: &str| std::os::unix::fs::symlink(text, app.join("releases").join(path)).unwrap();
        link("../r3-33bcc941/.pawl-digest", "r1-33bcc941/.pawl-digest");
        link("r3-33bcc941", "latest-33bcc941");
        assert_eq!(find("app/releases", &one).unwrap().as_deref(), Some("r3-33bcc941"));
        assert_eq!(find("app/releases", &other).unwrap().as_deref(), Some("r2-33bcc941"));
        assert_eq!(find("app/releases", &digest("33bcc941cc")).unwrap(), None);
        fs::create_dir_all(&format!("app/releases/{}", one.hex())).unwrap();
        assert_eq!(find("app/releases", &one).unwrap().as_deref(), Some(one.hex()), "an older runner made it");
    }

    #[test]
    fn new_names_differ_from_all_others() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        let whole = digest("33bcc941aa55");
        for expected in ["r4-33bcc941", "r4-33bcc941aa55", "r4-33bcc941aa550000"] {
            assert_eq!(new_name("app/releases", "r4", &whole).unwrap(), expected);
            fs::create_dir_all(&format!("app/releases/{expected}")).unwrap();
        }
        let name = new_name("app/releases", &"l".repeat(128), &whole).unwrap();
        assert_eq!(name, format!("{}-33bcc941", "l".repeat(70)));
        fs::create_dir_all(&format!("app/releases/{name}")).unwrap();
        assert_eq!(new_name("app/releases", &"l".repeat(128), &whole).unwrap().len(), 79);
    }
}
