//! The files that an agent keeps for steps, by their content, and the directories that are made of them.
//!
//! Invariant: a file has the hash that it is named by, or is the tar of the archive of that hash; it is complete before it has its name,
//! and so is a directory, which is a folder `content`, beside a list of which of its files are the tars of archives. What is needed is
//! marked as used, so that the [clean-up](super::cleanup) leaves it. Deliberately absent: how files arrive ([`super::files`]).

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use contract::hash::Blake3Hash;
use fetch::archive::DecodedArchive;
use plan::PlanStep;
use sandbox::DecodedArchives;

use super::{
    cleanup::mark_as_used,
    rebuild::{ArchiveRebuild, record_path},
    wire::{FileKind, OfferedFile, ShippedDirs, dir_id},
};
use crate::content::Bitmap;

/// The mode of a file that is no program.
const MODE: u32 = 0o400;
const EXECUTABLE_MODE: u32 = 0o500;
/// The folder of what a directory is, in that of the directory.
const CONTENT: &str = "content";
/// The list of its files that are the tars of archives, beside it.
const ARCHIVES: &str = "archives.json";

/// The store of a user, in a folder, which is made when something is put there.
#[derive(Clone)]
pub(super) struct ContentStore {
    root: PathBuf,
}

impl ContentStore {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder that it is in.
    pub(super) fn folder(&self) -> &Path {
        &self.root
    }

    /// The same, which is made.
    pub(super) fn made_folder(&self) -> io::Result<&Path> {
        fs::create_dir_all(&self.root)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        Ok(&self.root)
    }

    /// Which files are missing. The others are used now. Blocks.
    pub(super) fn missing_files<'f>(&self, files: impl IntoIterator<Item = &'f OfferedFile>) -> io::Result<Bitmap> {
        let is_missing = |file: &OfferedFile| -> io::Result<bool> {
            let path = self.file_path(file);
            match fs::set_permissions(&path, permissions(file.kind)).and_then(|()| mark_as_used(&path)) {
                Ok(()) => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(!self.has_decoded(file)),
                Err(error) => Err(error),
            }
        };
        let missing: Vec<bool> = files.into_iter().map(is_missing).collect::<io::Result<_>>()?;
        Ok(Bitmap::of(missing, |is_missing| is_missing))
    }

    /// The tar that stands for an archive, and what the archive was.
    fn decoded(&self, file: &OfferedFile) -> Option<(PathBuf, DecodedArchive)> {
        if file.kind != FileKind::Archive {
            return None;
        }
        let (tar, decoded) = ArchiveRebuild::stored(&self.root.join("files"), &file.hash)?;
        tar.exists().then_some((tar, decoded))
    }

    /// Whether a tar stands for an archive. It is used now.
    fn has_decoded(&self, file: &OfferedFile) -> bool {
        let marked = |(tar, _): (PathBuf, _)| {
            mark_as_used(&tar).and_then(|()| mark_as_used(&record_path(&self.root.join("files"), &file.hash)))
        };
        self.decoded(file).map(marked).is_some_and(|marked| marked.is_ok())
    }

    /// Whether a directory is laid out. It is used now.
    pub(super) fn has_dir(&self, dir: &Blake3Hash) -> bool {
        let folder = self.dir_path(dir);
        archives_of(&folder).is_ok() && mark_as_used(&folder).is_ok()
    }

    /// Lays out a directory whose files are there. Blocks.
    pub(super) fn lay_out(&self, dir: &Blake3Hash, files: &BTreeMap<String, OfferedFile>) -> io::Result<()> {
        if dir_id(files) != *dir {
            return Err(io::Error::other("the list of a directory's files is incomplete"));
        }
        let folder = self.dir_path(dir);
        let unfinished = folder.with_extension(format!("tmp-{}", std::process::id()));
        let content = unfinished.join(CONTENT);
        fs::create_dir_all(&content)?;
        let mut decoded = BTreeMap::new();
        for (path, file) in files {
            let to = content.join(confined(path)?);
            fs::create_dir_all(to.parent().unwrap_or(&content))?;
            match (link(&self.file_path(file), &to), self.decoded(file)) {
                (Err(_), Some((tar, archive))) => {
                    link(&tar, &to)?;
                    decoded.insert(path.clone(), archive);
                }
                (linked, _) => linked?,
            }
        }
        let json = serde_json::to_vec(&decoded).map_err(io::Error::other)?;
        fs::write(unfinished.join(ARCHIVES), json)?;
        match fs::rename(&unfinished, &folder) {
            Err(_) if folder.exists() => fs::remove_dir_all(&unfinished),
            renamed => renamed,
        }
    }

    /// Lets a step's grants lead to its directories that come from the coordinator.
    pub(super) fn use_dirs(
        &self,
        step: &mut PlanStep,
        shipped: &ShippedDirs,
        archives: &DecodedArchives,
    ) -> io::Result<()> {
        for (name, dir) in shipped {
            let Some(grant) = step.grants.dirs.get_mut(name) else { continue };
            let folder = self.dir_path(dir);
            mark_as_used(&folder)?;
            let content = folder.join(CONTENT);
            for (path, archive) in archives_of(&folder)? {
                archives.insert(content.join(path), archive);
            }
            grant.path = content;
        }
        Ok(())
    }

    /// The folder of the files, which is made.
    pub(super) fn files_folder(&self) -> io::Result<PathBuf> {
        let folder = self.root.join("files");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Where a file is, if it is there.
    pub(super) fn file_path(&self, file: &OfferedFile) -> PathBuf {
        let suffix = if file.kind == FileKind::Program { "-x" } else { "" };
        self.root.join("files").join(format!("{}{suffix}", file.hash.hex_prefix(32)))
    }

    fn dir_path(&self, dir: &Blake3Hash) -> PathBuf {
        self.root.join("dirs").join(dir.hex_prefix(32))
    }
}

/// Puts a stored file at a path. A file has a limited number of names.
fn link(stored: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(stored, to) {
        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => fs::copy(stored, to).map(|_| ()),
        linked => linked,
    }
}

/// Which files of a directory that is laid out are the tars of archives.
fn archives_of(folder: &Path) -> io::Result<BTreeMap<String, DecodedArchive>> {
    Ok(serde_json::from_slice(&fs::read(folder.join(ARCHIVES))?)?)
}

/// The permissions of a stored file.
pub(super) fn permissions(kind: FileKind) -> fs::Permissions {
    fs::Permissions::from_mode(if kind == FileKind::Program { EXECUTABLE_MODE } else { MODE })
}

/// A path that stays inside its folder.
fn confined(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    let is_inside = path.components().all(|component| matches!(component, Component::Normal(_)));
    if is_inside { Ok(path) } else { Err(io::Error::other("a path leads out of its folder")) }
}
