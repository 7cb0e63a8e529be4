//! What was received of a release, kept in the user's cache until the release is unpacked: the next attempt downloads only the rest.
//!
//! Invariants: a file is named by the digest of its content, of which it has the first bytes. Nothing of it is used before the digest of the
//! whole content is verified. Two runners never write the same file. If nothing can be kept, the download works without. Deliberately absent:
//! durability. After a power loss, the digest may not match; then the file is removed, and the next attempt downloads everything.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use contract::Digest;

/// The folder in the user's cache.
const FOLDER: &str = "downloads";
/// How long a file that nobody goes on with is kept.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many times its size must be free on the disk: the release is unpacked meanwhile, and may be on the same one.
const ROOM_FACTOR: u64 = 10;

/// The downloads that can go on; none without a cache.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptDownloads(Option<PathBuf>);

impl KeptDownloads {
    pub(super) fn new(cache_dir: Option<&Path>) -> Self {
        Self(cache_dir.map(|dir| dir.join(FOLDER)))
    }

    /// What is there of a content, to go on with; `None` if it can't be kept, or another runner receives it now.
    pub(super) fn open(&self, digest: &Digest) -> Option<KeptDownload> {
        let dir = self.0.as_deref()?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).ok()?;
        let path = dir.join(digest.hex());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = options.custom_flags(no_link).open(&path).ok()?;
        file.try_lock().ok()?;
        let len = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
        Some(KeptDownload { path, file, len, read: 0, is_growing: true })
    }

    /// Removes what nobody has gone on with for a week.
    pub(super) fn remove_old(&self) {
        let Some(Ok(entries)) = self.0.as_ref().map(fs::read_dir) else { return };
        for entry in entries.flatten() {
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            if changed.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MAX_AGE)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes what is kept of a content.
    pub(super) fn remove(&self, digest: &Digest) {
        if let Some(dir) = &self.0 {
            // It is only a cache: a file that can't be removed now is removed by its age.
            let _ = fs::remove_file(dir.join(digest.hex()));
        }
    }
}

/// The first bytes of a content, and the file that gets the rest.
#[derive(Debug)]
pub(super) struct KeptDownload {
    path: PathBuf,
    file: File,
    /// The bytes of an earlier attempt.
    len: u64,
    /// How many of them were read.
    read: u64,
    is_growing: bool,
}

impl KeptDownload {
    /// How many bytes an earlier attempt received.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Keeps no more of a content of this size if the disk has little room.
    pub(super) fn fit_to_room(&mut self, size: Option<u64>) {
        let Ok(room) = rustix::fs::fstatvfs(&self.file) else { return };
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let missing = size.unwrap_or_default().saturating_sub(self.len);
        self.is_growing = missing.saturating_mul(ROOM_FACTOR) <= free;
    }

    /// Reads the bytes of the earlier attempt; 0 after the last.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.len - self.read).unwrap_or(usize::MAX);
        let most = buffer.len().min(rest);
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read += read as u64;
        Ok(read)
    }

    /// Keeps the bytes that follow. A disk without room gets it back.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.is_growing && self.file.write_all(bytes).is_err() {
            self.is_growing = false;
            // Otherwise, its bytes stay until its age removes it, and are verified like the others.
            let _ = self.file.rewind().and_then(|()| self.file.set_len(0));
        }
    }
}

impl Drop for KeptDownload {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest::from_bytes([7; 32])
    }

    fn read_all(kept: &mut KeptDownload) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; 3]);
        loop {
            match kept.read(&mut buffer).unwrap() {
                0 => return all,
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn download_goes_on_after_the_bytes_of_the_attempt_before() {
        let cache = tempfile::tempdir().unwrap();
        let downloads = KeptDownloads::new(Some(cache.path()));
        let mut first = downloads.open(&digest()).unwrap();
        assert!(downloads.open(&digest()).is_none(), "another runner receives it");
        first.append(b"one ");
        first.append(b"two");
        drop(first);
        let mut second = downloads.open(&digest()).unwrap();
        assert_eq!((second.len(), read_all(&mut second)), (7, b"one two".to_vec()));
        second.append(b" three");
        drop(second);
        assert_eq!(read_all(&mut downloads.open(&digest()).unwrap()), b"one two three");
        downloads.remove(&digest());
        assert_eq!(downloads.open(&digest()).unwrap().len(), 0);
        assert_eq!(fs::read_dir(cache.path().join(FOLDER)).unwrap().count(), 0, "an empty file does not stay");
    }

    #[test]
    fn file_that_nobody_goes_on_with_is_removed_after_a_week() {
        let cache = tempfile::tempdir().unwrap();
        let downloads = KeptDownloads::new(Some(cache.path()));
        let other = Digest::from_bytes([8; 32]);
        for (digest, days) in [(&digest(), 8), (&other, 6)] {
            let mut kept = downloads.open(digest).unwrap();
            kept.append(b"x");
            let now = kept.file.metadata().unwrap().modified().unwrap();
            let changed = now - Duration::from_secs(days * 24 * 60 * 60);
            kept.file.set_modified(changed).unwrap();
        }
        downloads.remove_old();
        let names: Vec<_> =
            fs::read_dir(cache.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [other.hex().as_str()]);
    }

    #[test]
    fn little_room_keeps_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let mut kept = KeptDownloads::new(Some(cache.path())).open(&digest()).unwrap();
        kept.fit_to_room(Some(u64::MAX / 2));
        kept.append(b"x");
        drop(kept);
        assert_eq!(fs::read_dir(cache.path().join(FOLDER)).unwrap().count(), 0);
        assert!(KeptDownloads::default().open(&digest()).is_none(), "there is no cache");
    }
}
