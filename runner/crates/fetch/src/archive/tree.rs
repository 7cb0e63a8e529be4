//! The folder during an extraction, and the record of its content.
//!
//! Every path is created once. Nothing is created through a link: links are created last, when each is known to stay
//! inside, so no step of the extraction can follow one. Directories get their modes last, because they may be
//! read-only.

mod layered;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};

use super::{
    UnpackJob,
    dir_cursor::DirCursor,
    entry::{self, ArchiveEntryKind, EntryAttributes, EntryPath, ModifiedTime},
    error::{ArchiveError, ArchiveLimitKind, EntryRefusal},
    file_list::{self, ContentHash, FileListEntry},
};

/// The most links to follow for one path, as in the kernel.
const MAX_LINK_HOPS: usize = 40;
/// The most components to check for one link. Real ones have a dozen.
const MAX_LINK_COMPONENTS: usize = 4096;

/// A folder during an extraction.
pub(super) struct ExtractionTree<'a> {
    job: &'a UnpackJob<'a>,
    cursor: DirCursor,
    /// By their paths' [`key`](Self::key).
    nodes: HashMap<String, ExtractedNode>,
    directories: Vec<(EntryPath, EntryAttributes)>,
    links: Vec<PendingSymlink>,
    list_entries: Vec<FileListEntry>,
    /// The last directory that was checked to exist.
    checked_parent: Option<String>,
    bytes: u64,
    /// The number of the layer; none for an archive.
    layer: Option<u32>,
    /// Equal for paths that are the same.
    key: fn(&str) -> String,
}

struct ExtractedNode {
    path: String,
    /// The last layer that has it.
    layer: u32,
    kind: ArchiveEntryKind,
    /// The hash of a finished file.
    content: Option<ContentHash>,
}

struct PendingSymlink {
    path: EntryPath,
    target: String,
    modified: ModifiedTime,
}

/// A file that is being written.
pub(super) struct ExtractedFile {
    file: File,
    hasher: Box<blake3::Hasher>,
    path: EntryPath,
    attributes: EntryAttributes,
}

impl ExtractedFile {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(ArchiveError::filesystem("written", self.path.as_str()))
    }
}

impl<'a> ExtractionTree<'a> {
    pub(super) fn new(folder: OwnedFd, job: &'a UnpackJob<'a>) -> Self {
        Self {
            job,
            cursor: DirCursor::new(folder),
            nodes: HashMap::new(),
            directories: Vec::new(),
            links: Vec::new(),
            list_entries: Vec::new(),
            checked_parent: None,
            bytes: 0,
            layer: None,
            key: entry::fold_path,
        }
    }

    pub(super) fn job(&self) -> &'a UnpackJob<'a> {
        self.job
    }

    /// Creates a directory, or records the attributes of an existing one.
    pub(super) fn directory(&mut self, path: EntryPath, attributes: EntryAttributes) -> Result<(), ArchiveError> {
        if !path.is_root() {
            self.make_way(path.as_str(), ArchiveEntryKind::Directory)?;
            self.ensure_directory(path.as_str(), path.as_str())?;
        }
        self.directories.push((path, attributes));
        Ok(())
    }

    /// Begins a file of `size` bytes.
    pub(super) fn create(
        &mut self,
        path: EntryPath,
        size: u64,
        attributes: EntryAttributes,
    ) -> Result<ExtractedFile, ArchiveError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.job.limits.max_bytes {
            return Err(ArchiveError::over_limit(ArchiveLimitKind::Bytes, self.job.limits.max_bytes, path.as_str()));
        }
        self.claim_path(&path, ArchiveEntryKind::File)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(attributes.mode);
        let failed = |error: io::Error| ArchiveError::filesystem("created", path.as_str())(error);
        let parent = self.cursor.move_to(path.parent()).map_err(failed)?;
        let file = rustix::fs::openat(parent, path.name(), flags, mode).map_err(|error| failed(error.into()))?;
        Ok(ExtractedFile { file: file.into(), hasher: Box::default(), path, attributes })
    }

    /// Finishes a file.
    pub(super) fn close(&mut self, new: ExtractedFile) -> Result<(), ArchiveError> {
        let ExtractedFile { file, hasher, path, attributes } = new;
        let content = ContentHash::of(&hasher);
        let stat = finish_file(&file, attributes).map_err(ArchiveError::filesystem("written", path.as_str()))?;
        if let Some(node) = self.nodes.get_mut(&(self.key)(path.as_str())) {
            node.content = Some(content);
        }
        let listed = FileListEntry::file(&stat, content);
        self.list_entries.push(FileListEntry { path: path.into_string(), ..listed });
        Ok(())
    }

    /// Records a symlink to create at the end.
    pub(super) fn symlink(&mut self, path: EntryPath, raw: &[u8], modified: ModifiedTime) -> Result<(), ArchiveError> {
        let in_image = layered::target_below_root(&path, raw);
        let raw = if self.is_layered() { in_image.as_ref() } else { raw };
        let target = entry::check_link_target(&path, raw, self.job.limits)?.to_owned();
        self.claim_path(&path, ArchiveEntryKind::Symlink)?;
        self.links.push(PendingSymlink { path, target, modified });
        Ok(())
    }

    /// Creates a hard link to an earlier file.
    pub(super) fn hard_link(&mut self, path: EntryPath, raw: &[u8]) -> Result<(), ArchiveError> {
        let shown = String::from_utf8_lossy(raw).into_owned();
        let target = EntryPath::parse(raw, self.job.limits).map_err(|error| {
            if matches!(error, ArchiveError::Refused { refusal: EntryRefusal::Absolute, .. }) {
                ArchiveError::refused_entry(path.as_str(), EntryRefusal::AbsoluteTarget(shown.clone()))
            } else if matches!(error, ArchiveError::Refused { refusal: EntryRefusal::ParentComponent, .. }) {
                ArchiveError::refused_entry(path.as_str(), EntryRefusal::TargetOutside(shown.clone()))
            } else {
                error
            }
        })?;
        if let Some((text, modified)) = self.pending_target(&path, &target) {
            return self.symlink(path, text.as_bytes(), modified);
        }
        let node = self.nodes.get(&(self.key)(target.as_str()));
        let Some(content) = node.filter(|node| node.path == target.as_str()).and_then(|node| node.content) else {
            return Err(ArchiveError::refused_entry(path.as_str(), EntryRefusal::HardLinkTargetMissing(shown)));
        };
        self.claim_path(&path, ArchiveEntryKind::File)?;
        if let Some(node) = self.nodes.get_mut(&(self.key)(path.as_str())) {
            node.content = Some(content);
        }
        let failed = |error: io::Error| ArchiveError::filesystem("linked", path.as_str())(error);
        let from =
            self.cursor.move_to(target.parent()).and_then(|parent| parent.try_clone_to_owned()).map_err(failed)?;
        let to = self.cursor.move_to(path.parent()).map_err(failed)?;
        rustix::fs::linkat(&from, target.name(), to, path.name(), AtFlags::empty())
            .and_then(|()| rustix::fs::statat(to, path.name(), AtFlags::SYMLINK_NOFOLLOW))
            .map(|stat| {
                let listed = FileListEntry::file(&stat, content);
                self.list_entries.push(FileListEntry { path: path.as_str().to_owned(), ..listed });
            })
            .map_err(|error| failed(error.into()))
    }

    /// Creates the links, writes the list of files, and sets the directories' attributes. Returns the number of files
    /// and links, and the bytes of content.
    pub(super) fn finish(mut self) -> Result<(u64, u64), ArchiveError> {
        if self.is_layered() {
            self.settle_layers();
        }
        self.make_links()?;
        let files = self.list_entries.len() as u64;
        let attributes: HashMap<&str, &EntryAttributes> =
            self.directories.iter().map(|(path, attributes)| (path.as_str(), attributes)).collect();
        self.list_entries.extend(
            self.nodes
                .values()
                .filter(|node| node.kind == ArchiveEntryKind::Directory)
                .map(|node| FileListEntry::directory(node.path.clone(), attributes.get(node.path.as_str()).copied())),
        );
        file_list::write(self.cursor.root(), &mut self.list_entries)?;
        // Children before parents, because a parent's mode may block access to them. Of several entries for a
        // directory, the last counts.
        self.directories.reverse();
        self.directories.sort_by(|(a, _), (b, _)| b.as_str().cmp(a.as_str()));
        self.directories.dedup_by(|(a, _), (b, _)| a == b);
        for (path, attributes) in &self.directories {
            let attributes = match path.is_root() {
                // The caller renames the folder, and the list in it must be readable.
                true => EntryAttributes { mode: attributes.mode | 0o700, ..*attributes },
                false => *attributes,
            };
            self.cursor
                .move_to(path.as_str())
                .and_then(|handle| {
                    rustix::fs::fchmod(handle, Mode::from_raw_mode(attributes.mode))?;
                    Ok(rustix::fs::futimens(handle, &timestamps(attributes.modified))?)
                })
                .map_err(ArchiveError::filesystem("completed", path.as_str()))?;
        }
        Ok((files, self.bytes))
    }

    /// Checks that nothing has this path yet, and that all its parents exist and are directories.
    fn claim_path(&mut self, path: &EntryPath, kind: ArchiveEntryKind) -> Result<(), ArchiveError> {
        if path.is_root() {
            return Err(ArchiveError::refused_entry(".", EntryRefusal::NoName));
        }
        if self.checked_parent.as_deref() != Some(path.parent()) {
            if !path.parent().is_empty() {
                self.ensure_directory(path.parent(), path.as_str())?;
            }
            self.checked_parent = Some(path.parent().to_owned());
        }
        self.make_way(path.as_str(), kind)?;
        self.add_node(path.as_str(), kind)
    }

    fn add_node(&mut self, path: &str, kind: ArchiveEntryKind) -> Result<(), ArchiveError> {
        if self.nodes.len() as u64 >= self.job.limits.max_files {
            return Err(ArchiveError::over_limit(ArchiveLimitKind::Files, self.job.limits.max_files, path));
        }
        let layer = self.layer.unwrap_or_default();
        let node = ExtractedNode { path: path.to_owned(), layer, kind, content: None };
        match self.nodes.entry((self.key)(path)) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(node);
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(other) => {
                let spelled = &other.get().path;
                Err(ArchiveError::refused_entry(
                    path,
                    if spelled == path { EntryRefusal::Duplicate } else { EntryRefusal::collision(spelled, path) },
                ))
            }
        }
    }

    /// Creates the directory `path` and its missing parents for `entry`.
    fn ensure_directory(&mut self, path: &str, entry: &str) -> Result<(), ArchiveError> {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            if let Some(node) = self.nodes.get_mut(&(self.key)(part)) {
                node.layer = self.layer.unwrap_or_default();
                let refusal = match node.kind {
                    ArchiveEntryKind::Directory if node.path == part => continue,
                    _ if node.path != part => EntryRefusal::collision(&node.path, part),
                    ArchiveEntryKind::Directory | ArchiveEntryKind::File | ArchiveEntryKind::Symlink
                        if part == entry =>
                    {
                        EntryRefusal::Duplicate
                    }
                    ArchiveEntryKind::Directory | ArchiveEntryKind::File => EntryRefusal::BelowFile(part.to_owned()),
                    ArchiveEntryKind::Symlink => EntryRefusal::BelowLink(part.to_owned()),
                };
                return Err(ArchiveError::refused_entry(entry, refusal));
            }
            self.add_node(part, ArchiveEntryKind::Directory)?;
            let (parent, name) = entry::split_path(part);
            self.cursor
                .move_to(parent)
                .and_then(|parent| Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?))
                .map_err(ArchiveError::filesystem("created", part))?;
        }
        Ok(())
    }

    fn make_links(&mut self) -> Result<(), ArchiveError> {
        let targets: HashMap<String, &str> =
            self.links.iter().map(|link| ((self.key)(link.path.as_str()), link.target.as_str())).collect();
        for link in &self.links {
            self.job.check_stop()?;
            if leaves_folder(&link.path, &link.target, &targets, self.key) {
                let refusal = EntryRefusal::TargetOutside(link.target.clone());
                return Err(ArchiveError::refused_entry(link.path.as_str(), refusal));
            }
        }
        for PendingSymlink { path, target, modified } in self.links.drain(..) {
            self.cursor
                .move_to(path.parent())
                .and_then(|parent| {
                    rustix::fs::symlinkat(&target, parent, path.name())?;
                    Ok(rustix::fs::utimensat(parent, path.name(), &timestamps(modified), AtFlags::SYMLINK_NOFOLLOW)?)
                })
                .map_err(ArchiveError::filesystem("linked", path.as_str()))?;
            self.list_entries.push(FileListEntry::link(path.into_string(), target, modified));
        }
        Ok(())
    }
}

/// Whether following `link` leads out of the folder at any point, given all links by the keys of their paths. A
/// path too long to check counts as leading out; one that the kernel would not follow to its end does not.
pub(super) fn leaves_folder(
    link: &EntryPath,
    target: &str,
    targets: &HashMap<String, &str>,
    key: fn(&str) -> String,
) -> bool {
    let mut current = link.parent().to_owned();
    let mut remaining: Vec<&str> = target.rsplit('/').collect();
    let (mut hops, mut steps) = (0, 0);
    while let Some(component) = remaining.pop() {
        steps += 1;
        if steps > MAX_LINK_COMPONENTS {
            return true;
        }
        match component {
            "" | "." => {}
            ".." if current.is_empty() => return true,
            ".." => current.truncate(entry::split_path(&current).0.len()),
            name => {
                let parent_length = current.len();
                if parent_length > 0 {
                    current.push('/');
                }
                current.push_str(name);
                if let Some(target) = targets.get(&key(&current)) {
                    hops += 1;
                    if hops > MAX_LINK_HOPS {
                        return false;
                    }
                    current.truncate(parent_length);
                    remaining.extend(target.rsplit('/'));
                }
            }
        }
    }
    false
}

fn timestamps(modified: ModifiedTime) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanos.into() },
    }
}

/// Sets the attributes that writing has changed, and returns what the file system stored (not all keep nanoseconds).
fn finish_file(file: &File, attributes: EntryAttributes) -> rustix::io::Result<Stat> {
    rustix::fs::futimens(file, &timestamps(attributes.modified))?;
    let mut stat = rustix::fs::fstat(file.as_fd())?;
    if stat.st_mode & 0o7777 != attributes.mode {
        // The process's umask removed some bits.
        rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        stat = rustix::fs::fstat(file)?;
    }
    Ok(stat)
}
