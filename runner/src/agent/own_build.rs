//! Which build of the runner this process is.
//!
//! An agent is asked for that at each start, and its binary is large: what was hashed once is remembered beside it. Invariant: a binary that
//! was replaced is hashed again. Deliberately absent: a binary that somebody changed in place, whose host can say anything anyway.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_unsynced_file;

use super::cleanup;

/// Which build of the runner a binary with this digest is.
#[must_use]
pub fn build(digest: &Blake3Hash) -> String {
    format!("{} {digest}", env!("CARGO_PKG_VERSION"))
}

/// The build of this process.
pub(super) fn own_build() -> String {
    own_digest().map_or_else(|_| "?".to_owned(), |digest| build(&digest))
}

fn own_digest() -> io::Result<Blake3Hash> {
    let binary = File::open("/proc/self/exe")?;
    let known =
        fs::read_link("/proc/self/exe").ok().filter(|path| cleanup::is_agent(path)).map(|path| KnownDigest::of(&path));
    let known = known.map(|path| KnownDigest { path, file: file_identity(&binary) });
    if let Some(digest) = known.as_ref().and_then(KnownDigest::read) {
        return Ok(digest);
    }
    let digest = Blake3Hash::of_reader(binary)?;
    if let Some(known) = known {
        known.write(&digest);
    }
    Ok(digest)
}

/// The file that has the digest of an agent's binary.
struct KnownDigest {
    path: PathBuf,
    /// Which file the binary is.
    file: String,
}

impl KnownDigest {
    fn of(binary: &Path) -> PathBuf {
        let name = binary.file_name().unwrap_or_default().to_string_lossy();
        binary.with_file_name(format!("{}{name}", cleanup::DIGEST_PREFIX))
    }

    fn read(&self) -> Option<Blake3Hash> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (digest, file) = text.trim_end().split_once(' ')?;
        if file == self.file { digest.parse().ok() } else { None }
    }

    /// If it can't be written, the binary is hashed again.
    fn write(&self, digest: &Blake3Hash) {
        let _ = replace_unsynced_file(&self.path, format!("{digest} {}\n", self.file).as_bytes());
    }
}

/// Differs for another file at the same path.
fn file_identity(file: &File) -> String {
    file.metadata().map_or_else(|_| String::new(), |data| format!("{} {} {}", data.dev(), data.ino(), data.size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_known_until_its_binary_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("agent-1");
        let known =
            || KnownDigest { path: KnownDigest::of(&binary), file: file_identity(&File::open(&binary).unwrap()) };
        fs::write(&binary, "one").unwrap();
        assert_eq!(known().read(), None);
        known().write(&Blake3Hash::of(b"one"));
        assert_eq!(known().read(), Some(Blake3Hash::of(b"one")));
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &binary).unwrap();
        assert_eq!(known().read(), None, "another file is there now");
        for damaged in ["", "\0\0\0", "blake3", " "] {
            fs::write(&known().path, damaged).unwrap();
            assert_eq!(known().read(), None, "{damaged:?}");
        }
    }
}
