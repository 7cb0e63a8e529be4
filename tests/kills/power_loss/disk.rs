//! A disk as a file system sees it: files, folders and links, what changes them, and what is durable when.
//!
//! Deliberately weaker than real file systems: a sync of a file says nothing about its name, one of a folder nothing about what the
//! names lead to, and folders lose their changes independently of each other.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

pub(crate) type InodeId = usize;

/// The folder that everything is in.
pub(crate) const ROOT: InodeId = 0;

/// All files, folders and links that ever were; those that no name leads to are not there.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
}

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) mode: u32,
    /// In nanoseconds since 1970; `None` where nothing depends on it.
    pub(crate) modified: Option<u64>,
    pub(crate) content: InodeContent,
}

#[derive(Clone, Debug)]
pub(crate) enum InodeContent {
    File(Arc<FileContent>),
    Folder(BTreeMap<String, InodeId>),
    Link(String),
}

#[derive(Debug, Default)]
pub(crate) struct FileContent {
    bytes: Vec<u8>,
    hash: OnceLock<blake3::Hash>,
}

/// A change of a disk.
#[derive(Clone, Debug)]
pub(crate) enum DiskChange {
    Write {
        file: InodeId,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: InodeId,
        length: usize,
    },
    SetModified {
        inode: InodeId,
        modified: u64,
    },
    SetMode {
        inode: InodeId,
        mode: u32,
    },
    /// Names that appear, disappear or change, all at once. They are lost with the last one's folder.
    Names(Vec<NameChange>),
    /// All earlier changes of this file's content, or of the names in this folder, are durable.
    Sync(InodeId),
    /// All earlier changes are durable.
    SyncAll,
}

#[derive(Clone, Debug)]
pub(crate) struct NameChange {
    pub(crate) folder: InodeId,
    pub(crate) name: String,
    pub(crate) inode: Option<InodeId>,
}

/// What is left of a write that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tear {
    /// Nothing.
    Absent,
    /// Its first half.
    Half,
    /// Its length, but zeros.
    Zeros,
}

impl FileContent {
    fn hash(&self) -> &blake3::Hash {
        self.hash.get_or_init(|| blake3::hash(&self.bytes))
    }
}

impl DiskChange {
    /// Whose changes are lost from some point on, this one among them; `None` for a sync.
    pub(crate) fn queue(&self) -> Option<InodeId> {
        match self {
            Self::Write { file: inode, .. }
            | Self::Truncate { file: inode, .. }
            | Self::SetModified { inode, .. }
            | Self::SetMode { inode, .. } => Some(*inode),
            Self::Names(names) => names.last().map(|change| change.folder),
            Self::Sync(_) | Self::SyncAll => None,
        }
    }
}

impl Disk {
    /// A disk with what is in a folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut disk = Self { inodes: Vec::new() };
        disk.read_inode(folder)?;
        Ok(disk)
    }

    fn read_inode(&mut self, path: &Path) -> Result<InodeId> {
        let metadata = fs::symlink_metadata(path).with_context(|| format!("read {}", path.display()))?;
        let since_1970 = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH)?;
        let mode = metadata.permissions().mode() & 0o7777;
        let modified = Some(u64::try_from(since_1970.as_nanos())?);
        let id = self.add(Inode { mode, modified, content: InodeContent::Folder(BTreeMap::new()) });
        self.inodes[id].content = if metadata.is_symlink() {
            InodeContent::Link(fs::read_link(path)?.to_string_lossy().into_owned())
        } else if metadata.is_dir() {
            let mut names = BTreeMap::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                names.insert(entry.file_name().to_string_lossy().into_owned(), self.read_inode(&entry.path())?);
            }
            InodeContent::Folder(names)
        } else {
            InodeContent::File(Arc::new(FileContent { bytes: fs::read(path)?, hash: OnceLock::new() }))
        };
        Ok(id)
    }

    /// Adds what no name leads to yet.
    pub(crate) fn add(&mut self, inode: Inode) -> InodeId {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    pub(crate) fn file_length(&self, file: InodeId) -> usize {
        match &self.inodes[file].content {
            InodeContent::File(content) => content.bytes.len(),
            InodeContent::Folder(_) | InodeContent::Link(_) => 0,
        }
    }

    /// What a path below the root leads to, links not followed.
    pub(crate) fn find(&self, path: &Path) -> Option<InodeId> {
        let mut inode = ROOT;
        for name in path {
            let InodeContent::Folder(names) = &self.inodes[inode].content else { return None };
            inode = *names.get(name.to_str()?)?;
        }
        Some(inode)
    }

    pub(crate) fn apply(&mut self, change: &DiskChange) {
        match change {
            DiskChange::Write { file, offset, bytes } => self.write(*file, *offset, bytes),
            DiskChange::Truncate { file, length } => self.edit(*file, |content| content.resize(*length, 0)),
            DiskChange::SetModified { inode, modified } => self.inodes[*inode].modified = Some(*modified),
            DiskChange::SetMode { inode, mode } => self.inodes[*inode].mode = *mode,
            DiskChange::Names(names) => {
                for NameChange { folder, name, inode } in names {
                    let InodeContent::Folder(known) = &mut self.inodes[*folder].content else { continue };
                    match inode {
                        Some(inode) => drop(known.insert(name.clone(), *inode)),
                        None => drop(known.remove(name)),
                    }
                }
            }
            DiskChange::Sync(_) | DiskChange::SyncAll => {}
        }
    }

    /// Applies what is left of a write; of other changes, nothing is.
    pub(crate) fn apply_torn(&mut self, change: &DiskChange, tear: Tear) {
        let DiskChange::Write { file, offset, bytes } = change else { return };
        match tear {
            Tear::Absent => {}
            Tear::Half => self.write(*file, *offset, &bytes[..bytes.len() / 2]),
            Tear::Zeros => self.write(*file, *offset, &vec![0; bytes.len()]),
        }
    }

    fn write(&mut self, file: InodeId, offset: usize, bytes: &[u8]) {
        self.edit(file, |content| {
            content.resize(content.len().max(offset + bytes.len()), 0);
            content[offset..offset + bytes.len()].copy_from_slice(bytes);
        });
    }

    fn edit(&mut self, file: InodeId, work: impl FnOnce(&mut Vec<u8>)) {
        if let InodeContent::File(content) = &mut self.inodes[file].content {
            let mut bytes = content.bytes.clone();
            work(&mut bytes);
            *content = Arc::new(FileContent { bytes, hash: OnceLock::new() });
        }
    }

    /// A hash of all that names lead to.
    pub(crate) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        self.hash_inode(ROOT, &mut hasher);
        hasher.finalize()
    }

    fn hash_inode(&self, id: InodeId, hasher: &mut blake3::Hasher) {
        let Inode { mode, modified, content } = &self.inodes[id];
        hasher.update(&mode.to_le_bytes()).update(&modified.unwrap_or(0).to_le_bytes());
        match content {
            InodeContent::File(content) => drop(hasher.update(b"f").update(content.hash().as_bytes())),
            InodeContent::Link(target) => drop(hasher.update(b"l").update(blake3::hash(target.as_bytes()).as_bytes())),
            InodeContent::Folder(names) => {
                hasher.update(b"d").update(&names.len().to_le_bytes());
                for (name, inode) in names {
                    hasher.update(&name.len().to_le_bytes()).update(name.as_bytes());
                    self.hash_inode(*inode, hasher);
                }
            }
        }
    }

    /// Writes all that names lead to into a folder that is not there yet.
    pub(crate) fn write_to(&self, folder: &Path) -> Result<()> {
        self.write_inode(ROOT, folder)
    }

    fn write_inode(&self, id: InodeId, path: &Path) -> Result<()> {
        let Inode { mode, modified, content } = &self.inodes[id];
        match content {
            InodeContent::Link(target) => return Ok(symlink(target, path)?),
            InodeContent::File(content) => {
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(*mode).open(path)?;
                std::io::Write::write_all(&mut file, &content.bytes)?;
            }
            InodeContent::Folder(names) => {
                fs::DirBuilder::new().mode(0o700).create(path)?;
                for (name, inode) in names {
                    self.write_inode(*inode, &path.join(name))?;
                }
            }
        }
        fs::set_permissions(path, fs::Permissions::from_mode(*mode))?;
        if let Some(modified) = modified {
            fs::File::open(path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(*modified))?;
        }
        Ok(())
    }

    /// What names lead to, for messages: paths with the lengths of files.
    pub(crate) fn list(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.list_inode(ROOT, ".", &mut lines);
        lines
    }

    fn list_inode(&self, id: InodeId, path: &str, lines: &mut Vec<String>) {
        match &self.inodes[id].content {
            InodeContent::File(content) => lines.push(format!("{path}: {} bytes", content.bytes.len())),
            InodeContent::Link(target) => lines.push(format!("{path} → {target}")),
            InodeContent::Folder(names) => {
                names.iter().for_each(|(name, inode)| self.list_inode(*inode, &format!("{path}/{name}"), lines));
            }
        }
    }

    /// The folder of a name, which must be there.
    pub(crate) fn find_parent<'p>(&self, path: &'p Path) -> Result<(InodeId, &'p str)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let folder = path.parent().and_then(|folder| self.find(folder));
        match (folder, name) {
            (Some(folder), Some(name)) => Ok((folder, name)),
            (_, _) => bail!("{} is in no folder of the disk", path.display()),
        }
    }
}
