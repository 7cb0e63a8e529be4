//! The rules of extraction, for those who make an archive: what these accept, [`unpack`](super::unpack) unpacks.
//!
//! Deliberately absent: the compression ratio, which only the finished archive has.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    ArchiveLimits, compression_ratio,
    entry::{self, EntryPath, fold_path},
    error::{ArchiveError, ArchiveLimitKind, EntryRefusal},
    tree::leaves_folder,
};

/// The entries of an archive that is being made. A folder comes before what is in it.
pub struct EntryRules<'a> {
    limits: &'a ArchiveLimits,
    /// By what some file systems take for the same path.
    paths: HashMap<String, String>,
    links: Vec<(EntryPath, String)>,
    bytes: u64,
}

impl<'a> EntryRules<'a> {
    #[must_use]
    pub fn new(limits: &'a ArchiveLimits) -> Self {
        Self { limits, paths: HashMap::new(), links: Vec::new(), bytes: 0 }
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`], [`ArchiveError::Limit`].
    pub fn directory(&mut self, path: &[u8]) -> Result<(), ArchiveError> {
        self.claim(path).map(drop)
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`], [`ArchiveError::Limit`].
    pub fn file(&mut self, path: &[u8], size: u64) -> Result<(), ArchiveError> {
        let path = self.claim(path)?;
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.max_bytes {
            return Err(ArchiveError::over_limit(ArchiveLimitKind::Bytes, self.limits.max_bytes, path.as_str()));
        }
        Ok(())
    }

    /// Adds a symlink.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`], [`ArchiveError::Limit`].
    pub fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), ArchiveError> {
        let path = self.claim(path)?;
        let target = entry::check_link_target(&path, target, self.limits)?.to_owned();
        self.links.push((path, target));
        Ok(())
    }

    /// Checks what depends on all entries: no link leads out of the folder.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`].
    pub fn finish(&self) -> Result<(), ArchiveError> {
        let targets: HashMap<String, &str> =
            self.links.iter().map(|(path, target)| (fold_path(path.as_str()), target.as_str())).collect();
        for (path, target) in &self.links {
            if leaves_folder(path, target, &targets, fold_path) {
                return Err(ArchiveError::refused_entry(path.as_str(), EntryRefusal::TargetOutside(target.clone())));
            }
        }
        Ok(())
    }

    /// Checks the sizes of a finished archive, or of one so far: bytes of content, and bytes of the archive.
    ///
    /// # Errors
    /// [`ArchiveError::Limit`].
    pub fn check_ratio(&self, content: u64, archive: u64) -> Result<(), ArchiveError> {
        self.limits.check_ratio(compression_ratio(content, archive))?;
        if archive > self.limits.max_bytes {
            return Err(ArchiveError::Limit {
                limit: ArchiveLimitKind::Bytes,
                max: self.limits.max_bytes,
                entry: None,
            });
        }
        Ok(())
    }

    fn claim(&mut self, raw: &[u8]) -> Result<EntryPath, ArchiveError> {
        let path = EntryPath::parse(raw, self.limits)?;
        if self.paths.len() as u64 >= self.limits.max_files {
            return Err(ArchiveError::over_limit(ArchiveLimitKind::Files, self.limits.max_files, path.as_str()));
        }
        match self.paths.entry(fold_path(path.as_str())) {
            Entry::Vacant(place) => {
                place.insert(path.as_str().to_owned());
                Ok(path)
            }
            Entry::Occupied(other) => {
                let refusal = match other.get() {
                    same if same == path.as_str() => EntryRefusal::Duplicate,
                    spelled => EntryRefusal::collision(spelled, path.as_str()),
                };
                Err(ArchiveError::refused_entry(path.as_str(), refusal))
            }
        }
    }
}
