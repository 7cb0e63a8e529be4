//! Files of the coordinator's machine that steps read on this host: kept by their hash, and laid out as directories.
//!
//! Invariant: a file in the store has the hash that it is named by, or is the tar of the archive of that hash; it is complete before it
//! has its name, and so is a directory. Deliberately absent: which files a step reads, which the coordinator knows.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use contract::hash::Blake3Hash;
use fetch::archive::DecodedArchive;
use plan::PlanStep;
use sandbox::DecodedArchives;

use super::{
    rebuild::ArchiveRebuild,
    seeds::Seeds,
    server::store_problem,
    wire::{AgentAnswer, CallId, FileKind, OfferedFile, ShippedDirs, ToAgent, dir_id},
};
use crate::content::Bitmap;

/// The mode of a file that is no program.
const MODE: u32 = 0o400;
const EXECUTABLE_MODE: u32 = 0o500;

/// The store of a user.
pub(super) struct FileStore {
    root: PathBuf,
    /// The directories that are being listed.
    listings: BTreeMap<Blake3Hash, BTreeMap<String, OfferedFile>>,
    incoming: Incoming,
    /// What the host has of earlier releases.
    seeds: Arc<Seeds>,
    /// Why something that was sent is not here.
    failed: Option<String>,
}

/// What the next bytes are.
enum Incoming {
    Nothing,
    File(IncomingFile),
    Archive(Box<ArchiveRebuild>),
}

struct IncomingFile {
    offered: OfferedFile,
    left: u64,
    file: fs::File,
    path: PathBuf,
}

impl FileStore {
    /// A store in a folder, which is made when something is put there.
    pub(super) fn new(root: PathBuf) -> Self {
        let (listings, seeds) = (BTreeMap::new(), Arc::default());
        Self { root, listings, incoming: Incoming::Nothing, seeds, failed: None }
    }

    /// The folder that it is in.
    pub(super) fn folder(&self) -> &Path {
        &self.root
    }

    /// Takes a message about files. Returns the answer, if it has one.
    pub(super) async fn take(&mut self, message: ToAgent) -> Option<(CallId, AgentAnswer)> {
        match message {
            ToAgent::Dirs { call, dirs } => {
                let which = Bitmap::of(&dirs, |dir| archives_of(&self.dir_path(dir)).is_err());
                Some((call, AgentAnswer::Missing { which }))
            }
            ToAgent::Listing { dir, files } => {
                self.listings.entry(dir).or_default().extend(files);
                None
            }
            ToAgent::Offer { call, dir } => {
                let missing = self.missing_files(&dir).map(|which| AgentAnswer::Missing { which });
                Some((call, missing.unwrap_or_else(|error| self.refusal(&error))))
            }
            ToAgent::File { file } => {
                let begun = self.begin_file(file);
                self.note_failure(begun);
                None
            }
            ToAgent::LayOut { call, dir } => {
                let laid_out = self.lay_out(&dir).map(|()| AgentAnswer::Stored { is_stored: true });
                Some((call, laid_out.unwrap_or_else(|error| self.refusal(&error))))
            }
            ToAgent::Recipe { archive, sizes } => {
                self.drop_incoming();
                self.incoming = Incoming::Archive(Box::new(ArchiveRebuild::new(*archive, sizes)));
                None
            }
            ToAgent::FindChunks { call } => {
                let seeds = Arc::clone(&self.seeds);
                let which = self.work_on_archive(move |archive, folder| archive.find_chunks(&seeds, folder)).await;
                // Without any of them, the archive is sent as it is.
                Some((call, which.map_or(AgentAnswer::Stored { is_stored: false }, |which| AgentAnswer::Missing { which })))
            }
            ToAgent::FinishArchive { call } => {
                let is_stored = self.work_on_archive(ArchiveRebuild::finish).await.is_some();
                self.drop_incoming();
                Some((call, AgentAnswer::Stored { is_stored }))
            }
            ToAgent::Chunks
            | ToAgent::FindSeeds { .. }
            | ToAgent::Begin(_)
            | ToAgent::Call { .. }
            | ToAgent::Check { .. }
            | ToAgent::Stop
            | ToAgent::Ping => None,
        }
    }

    fn refusal(&self, error: &io::Error) -> AgentAnswer {
        AgentAnswer::Refused { problem: store_problem(error, self) }
    }

    /// Takes bytes of what is being received. Who lays it out hears of an error.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        let received = match &mut self.incoming {
            Incoming::File(_) => self.receive_file(bytes),
            Incoming::Archive(archive) => {
                archive.receive(bytes);
                Ok(())
            }
            // What began to arrive could not be stored.
            Incoming::Nothing => Ok(()),
        };
        self.note_failure(received);
    }

    /// Looks for content of earlier releases in the directory that a step installs them into. Returns its size in bytes.
    pub(super) async fn find_seeds(&mut self, dir: PathBuf) -> u64 {
        let folder = self.root.join("seeds");
        self.seeds = Arc::new(blocking(move || Seeds::find(&dir, &folder)).await);
        self.seeds.bytes()
    }

    fn missing_files(&self, dir: &Blake3Hash) -> io::Result<Bitmap> {
        let files = self.listings.get(dir).ok_or_else(|| io::Error::other("a directory was not listed"))?;
        let is_missing = |file: &OfferedFile| -> io::Result<bool> {
            match fs::set_permissions(self.file_path(file), permissions(file.kind)) {
                Ok(()) => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self.decoded(file).is_none()),
                Err(error) => Err(error),
            }
        };
        let missing: Vec<bool> = files.values().map(is_missing).collect::<io::Result<_>>()?;
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

    /// Runs blocking work on the archive that is being rebuilt. None if it can't be.
    async fn work_on_archive<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut ArchiveRebuild, &Path) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let folder = self.files_folder().ok()?;
        let Incoming::Archive(mut archive) = std::mem::replace(&mut self.incoming, Incoming::Nothing) else {
            return None;
        };
        let (archive, result) = blocking(move || {
            let result = work(&mut archive, &folder);
            (archive, result)
        })
        .await;
        self.incoming = Incoming::Archive(archive);
        result.ok()
    }

    /// Forgets what is being received, and what there is of it.
    fn drop_incoming(&mut self) {
        match std::mem::replace(&mut self.incoming, Incoming::Nothing) {
            Incoming::Nothing => {}
            Incoming::File(file) => drop(fs::remove_file(file.path)),
            Incoming::Archive(archive) => archive.remove(),
        }
    }

    fn note_failure(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.drop_incoming();
            self.failed.get_or_insert_with(|| error.to_string());
        }
    }

    fn begin_file(&mut self, offered: OfferedFile) -> io::Result<()> {
        self.drop_incoming();
        let path = self.files_folder()?.join(format!(".tmp-{}", std::process::id()));
        let file = fs::File::create(&path)?;
        self.incoming = Incoming::File(IncomingFile { left: offered.size, offered, file, path });
        self.end_if_complete()
    }

    fn receive_file(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Incoming::File(incoming) = &mut self.incoming else { return Ok(()) };
        io::Write::write_all(&mut incoming.file, bytes)?;
        let left = incoming.left.checked_sub(bytes.len() as u64);
        incoming.left = left.ok_or_else(|| io::Error::other("a file is longer than announced"))?;
        self.end_if_complete()
    }

    fn end_if_complete(&mut self) -> io::Result<()> {
        let Incoming::File(IncomingFile { offered, left: 0, path, .. }) = &self.incoming else { return Ok(()) };
        if Blake3Hash::of_reader(fs::File::open(path)?)? != offered.hash {
            return Err(io::Error::other("a file was damaged in transfer"));
        }
        fs::set_permissions(path, permissions(offered.kind))?;
        fs::rename(path, self.file_path(offered))?;
        self.incoming = Incoming::Nothing;
        Ok(())
    }

    /// Lays out a directory whose files are there.
    fn lay_out(&mut self, dir: &Blake3Hash) -> io::Result<()> {
        if let Some(why) = self.failed.take() {
            return Err(io::Error::other(why));
        }
        let files = self.listings.remove(dir).unwrap_or_default();
        if dir_id(&files) != *dir {
            return Err(io::Error::other("the list of a directory's files is incomplete"));
        }
        let folder = self.dir_path(dir);
        let unfinished = folder.with_extension(format!("tmp-{}", std::process::id()));
        fs::create_dir_all(&unfinished)?;
        let mut decoded = BTreeMap::new();
        for (path, file) in &files {
            let to = unfinished.join(confined(path)?);
            fs::create_dir_all(to.parent().unwrap_or(&unfinished))?;
            match (link(&self.file_path(file), &to), self.decoded(file)) {
                (Err(_), Some((tar, archive))) => {
                    link(&tar, &to)?;
                    decoded.insert(path.clone(), archive);
                }
                (linked, _) => linked?,
            }
        }
        let json = serde_json::to_vec(&decoded).map_err(io::Error::other)?;
        hostio::atomic_file::replace_unsynced_file(&decoded_list(&folder), &json)?;
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
            for (path, archive) in archives_of(&folder)? {
                archives.insert(folder.join(path), archive);
            }
            grant.path = folder;
        }
        Ok(())
    }

    /// The folder of the files, which is made.
    fn files_folder(&self) -> io::Result<PathBuf> {
        let folder = self.root.join("files");
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))?;
        Ok(folder)
    }

    fn file_path(&self, file: &OfferedFile) -> PathBuf {
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
    fs::metadata(folder)?;
    Ok(serde_json::from_slice(&fs::read(decoded_list(folder))?)?)
}

/// The file that says it.
fn decoded_list(folder: &Path) -> PathBuf {
    folder.with_extension("json")
}

fn permissions(kind: FileKind) -> fs::Permissions {
    fs::Permissions::from_mode(if kind == FileKind::Program { EXECUTABLE_MODE } else { MODE })
}

/// A path that stays inside its folder.
fn confined(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    let is_inside = path.components().all(|component| matches!(component, Component::Normal(_)));
    if is_inside { Ok(path) } else { Err(io::Error::other("a path leads out of its folder")) }
}

/// Runs blocking work while the agent says that it is there.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("work on files does not panic")
}
