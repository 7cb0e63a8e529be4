//! Files of the coordinator's machine that steps read on this host: kept by their hash, and laid out as folders.
//!
//! Invariant: a file in the store has the hash that it is named by; it is complete before it has its name. Deliberately absent: which
//! files a step reads, which the coordinator knows.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use contract::hash::Blake3Hash;
use plan::{ModuleRef, PlanStep};
use sandbox::module_display_name;

use super::{
    cleanup::{StoreLock, clean_up, mark_as_used},
    wire::{OfferedFile, ShippedDirs},
};

/// The mode of a file that is no program.
const MODE: u32 = 0o400;
const EXECUTABLE_MODE: u32 = 0o500;

/// The store of a user.
pub(super) struct FileStore {
    root: PathBuf,
    /// Held since something was offered or laid out, so that nobody removes it.
    lock: Option<StoreLock>,
    /// The files of modules, by the names of those in steps.
    modules: BTreeMap<String, Blake3Hash>,
    /// The file that is being received.
    receiving: Option<Receiving>,
    /// Why a file that was sent is not here.
    failed: Option<String>,
}

struct Receiving {
    hash: Blake3Hash,
    left: u64,
    file: fs::File,
    path: PathBuf,
}

impl FileStore {
    /// A store in a folder, which is made when something is put there.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, lock: None, modules: BTreeMap::new(), receiving: None, failed: None }
    }

    /// The offered files that are missing. The mode of the others is set.
    pub(super) fn missing(&mut self, offered: &[OfferedFile]) -> io::Result<Vec<Blake3Hash>> {
        self.hold()?;
        let mut missing = Vec::new();
        for file in offered {
            let path = self.path(&file.hash);
            match fs::set_permissions(&path, permissions(file.executable)).and_then(|()| mark_as_used(&path)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(file.hash),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }

    /// Keeps others from removing what is here.
    fn hold(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            fs::create_dir_all(&self.root)?;
            fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
            self.lock = Some(StoreLock::share(&self.root)?);
        }
        Ok(())
    }

    /// Removes what nobody has used for long.
    pub(super) fn clean_up(&self) {
        clean_up(&self.root, self.lock.as_ref());
    }

    /// The folder that it is in.
    pub(super) fn folder(&self) -> &Path {
        &self.root
    }

    /// Notes which file a module is.
    pub(super) fn name_module(&mut self, name: String, hash: Blake3Hash) {
        self.modules.insert(name, hash);
    }

    /// The module of a step, as it is found on this host.
    ///
    /// # Errors
    /// It was not sent, or is another one now.
    pub(super) fn module(&self, uses: &ModuleRef) -> io::Result<ModuleRef> {
        match uses {
            ModuleRef::Official(_) => Ok(uses.clone()),
            ModuleRef::File(_) | ModuleRef::Registry(_) => {
                let hash = self.modules.get(&module_display_name(uses));
                let hash = hash.ok_or_else(|| io::Error::other("it was not sent to the host"))?;
                let path = self.path(hash);
                if Blake3Hash::of_reader(fs::File::open(&path)?)? != *hash {
                    // The next attempt sends it again.
                    fs::remove_file(&path)?;
                    return Err(io::Error::other("its file on the host was changed"));
                }
                Ok(ModuleRef::File(path))
            }
        }
    }

    /// Begins to receive a file. Who lays it out hears of an error.
    pub(super) fn begin(&mut self, hash: Blake3Hash, size: u64) {
        let begun = self.try_begin(hash, size);
        self.note_failure(begun);
    }

    /// Takes bytes of the file that is being received.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            let received = self.try_receive(bytes);
            self.note_failure(received);
        }
    }

    fn note_failure(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            if let Some(receiving) = self.receiving.take() {
                let _ = fs::remove_file(receiving.path);
            }
            self.failed.get_or_insert_with(|| error.to_string());
        }
    }

    fn try_begin(&mut self, hash: Blake3Hash, size: u64) -> io::Result<()> {
        let folder = self.root.join("files");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!(".tmp-{}", std::process::id()));
        self.receiving = Some(Receiving { hash, left: size, file: fs::File::create(&path)?, path });
        self.end_if_complete()
    }

    fn try_receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(receiving) = &mut self.receiving else {
            return Err(io::Error::other("content arrived without a file"));
        };
        io::Write::write_all(&mut receiving.file, bytes)?;
        receiving.left = receiving
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("a file is longer than announced"))?;
        self.end_if_complete()
    }

    fn end_if_complete(&mut self) -> io::Result<()> {
        let Some(Receiving { hash, path, .. }) = self.receiving.take_if(|receiving| receiving.left == 0) else {
            return Ok(());
        };
        if Blake3Hash::of_reader(fs::File::open(&path)?)? != hash {
            fs::remove_file(&path)?;
            return Err(io::Error::other("a file was damaged in transfer"));
        }
        fs::set_permissions(&path, permissions(false))?;
        fs::rename(&path, self.path(&hash))
    }

    /// Lays out the directories of a step that come from the coordinator, and lets the step's grants lead there.
    pub(super) fn lay_out(&mut self, step: &mut PlanStep, shipped: &ShippedDirs) -> io::Result<()> {
        if let Some(why) = self.failed.take() {
            return Err(io::Error::other(why));
        }
        if !shipped.is_empty() {
            self.hold()?;
        }
        for (name, files) in shipped {
            let Some(grant) = step.grants.dirs.get_mut(name) else { continue };
            let listing: String = files.iter().map(|(path, hash)| format!("{hash:?} {path}\n")).collect();
            let folder = self.root.join("dirs").join(Blake3Hash::of(listing.as_bytes()).hex_prefix(32));
            if folder.exists() {
                mark_as_used(&folder)?;
            } else {
                let unfinished = folder.with_extension(format!("tmp-{}", std::process::id()));
                fs::create_dir_all(&unfinished)?;
                for (path, hash) in files {
                    let inside = confined(path)?;
                    let to = unfinished.join(inside);
                    fs::create_dir_all(to.parent().unwrap_or(&unfinished))?;
                    fs::hard_link(self.path(hash), to)?;
                }
                match fs::rename(&unfinished, &folder) {
                    Err(_) if folder.exists() => fs::remove_dir_all(&unfinished)?,
                    renamed => renamed?,
                }
            }
            grant.path = folder;
        }
        Ok(())
    }

    fn path(&self, hash: &Blake3Hash) -> PathBuf {
        self.root.join("files").join(hash.hex_prefix(32))
    }
}

fn permissions(executable: bool) -> fs::Permissions {
    fs::Permissions::from_mode(if executable { EXECUTABLE_MODE } else { MODE })
}

/// A path that stays inside its folder.
fn confined(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    let is_inside = path.components().all(|component| matches!(component, Component::Normal(_)));
    if is_inside { Ok(path) } else { Err(io::Error::other("a path leads out of its folder")) }
}
