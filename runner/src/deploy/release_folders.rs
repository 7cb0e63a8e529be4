//! The folders in `releases`, and which content each one has.
//!
//! A folder is called `<label>-<first 8 or more digits of the digest>`, and its file `.pawl-digest` has the whole digest and that name; a
//! name that is all 64 digits, as older runners gave it, needs no file (docs/steps.md; the SDK's `releases` is the same rule for steps).
//! Invariant: a folder whose name and file do not agree, such as a copy, is no release, so it is neither removed nor made live.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use contract::Digest;

/// The name of the folder of all releases, in a directory that a step installs them into.
pub(super) const RELEASES: &str = "releases";
/// The name of the file in a release's folder that has its digest.
const DIGEST_FILE: &str = ".pawl-digest";
/// The number of hex digits of a whole digest.
const ALL_DIGITS: usize = 64;
/// The fewest digits in a name that has a label.
const MIN_PREFIX_DIGITS: usize = 8;
/// The largest digest file, in bytes.
const MAX_DIGEST_FILE_BYTES: u64 = 256;

/// The folders of releases below a directory with the digest of each, sorted by path.
///
/// # Errors
/// When `releases` can't be read. If it is missing, there are none.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(PathBuf, Digest)>> {
    let entries = match fs::read_dir(dir.join(RELEASES)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Some(digest) = digest_of(&entry.path())
        {
            found.push((entry.path(), digest));
        }
    }
    found.sort();
    Ok(found)
}

/// The digest of a folder's content, if it is the folder of a release.
pub(super) fn digest_of(folder: &Path) -> Option<Digest> {
    let name = folder.file_name()?.to_str()?;
    let (digits, fewest) = match name.rsplit_once('-') {
        Some((label, digits)) if label.starts_with(|first: char| first.is_ascii_alphanumeric()) => {
            (digits, MIN_PREFIX_DIGITS)
        }
        Some(_) => return None,
        None => (name, ALL_DIGITS),
    };
    let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex || !(fewest..=ALL_DIGITS).contains(&digits.len()) {
        return None;
    }
    if name.len() == ALL_DIGITS && digits == name {
        return digits.parse().ok();
    }
    // A copy under another name has the name of what it is a copy of.
    let text = read_digest_file(&folder.join(DIGEST_FILE)).ok()?;
    let (stated, of) = text.trim_end().split_once(' ')?;
    let stated: Digest = stated.parse().ok()?;
    (of == name && stated.hex().starts_with(digits)).then_some(stated)
}

fn read_digest_file(path: &Path) -> io::Result<String> {
    // A later step may have put a link or a pipe there, which must not lead elsewhere or block.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let mut text = String::new();
    file.take(MAX_DIGEST_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes folders in `releases`, each with what its digest file says.
    fn directory(folders: &[(&str, Option<&str>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, stated) in folders {
            let folder = dir.path().join(RELEASES).join(name);
            fs::create_dir_all(&folder).unwrap();
            if let Some(stated) = stated {
                fs::write(folder.join(DIGEST_FILE), stated).unwrap();
            }
        }
        dir
    }

    #[test]
    fn only_folders_of_known_content_are_releases() {
        let (whole, other) = (format!("33bcc941{}", "a".repeat(56)), format!("44bcc941{}", "b".repeat(56)));
        let stated = |name: &str| format!("sha256:{whole} {name}\n");
        let (old, labelled) = ("c".repeat(64), format!("r9-{}", "d".repeat(64)));
        let dir = directory(&[
            (&old, None),
            (&labelled, None),
            ("r4-33bcc941", Some(&stated("r4-33bcc941"))),
            ("v1.0-rc-33bcc941aaaa", Some(&stated("v1.0-rc-33bcc941aaaa"))),
            ("a-backup-r4-33bcc941", Some(&stated("r4-33bcc941"))),
            ("no-file-33bcc941", None),
            ("other-content-33bcc941", Some(&other)),
            ("damaged-33bcc941", Some("sha256:33bcc941")),
            ("few-33bcc94", Some(&stated("few-33bcc94"))),
            ("33bcc941", Some(&stated("33bcc941"))),
            (".tmp-new-r4-33bcc941", Some(&stated("r4-33bcc941"))),
            ("by-hand", Some(&stated("by-hand"))),
        ]);
        let releases = dir.path().join(RELEASES);
        fs::create_dir(releases.join("linked-33bcc941")).unwrap();
        let link = |text: &str, path: &str| std::os::unix::fs::symlink(text, releases.join(path)).unwrap();
        link("../r4-33bcc941/.pawl-digest", "linked-33bcc941/.pawl-digest");
        link("r4-33bcc941", "latest-33bcc941");
        let found: Vec<_> = list(dir.path()).unwrap();
        let names: Vec<_> =
            found.iter().map(|(path, digest)| (path.file_name().unwrap().to_str().unwrap(), digest.hex())).collect();
        let expected = [(old.as_str(), old.clone()), ("r4-33bcc941", whole.clone()), ("v1.0-rc-33bcc941aaaa", whole)];
        assert_eq!(names, expected);
        assert_eq!(list(&dir.path().join("none")).unwrap(), []);
    }

    #[test]
    fn pipe_in_place_of_the_digest_blocks_nobody() {
        let dir = directory(&[("r4-33bcc941", None)]);
        let pipe = dir.path().join(RELEASES).join("r4-33bcc941").join(DIGEST_FILE);
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(list(dir.path()).unwrap(), []);
    }
}
