//! Files of the coordinator's machine on their way into the [store](super::store) of this host.
//!
//! Deliberately absent: which files a step reads, which the coordinator knows.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use contract::hash::Blake3Hash;
use plan::{ModuleRef, PlanStep};
use sandbox::{DecodedArchives, module_display_name};

use super::{
    cleanup::{StoreLock, clean_up},
    rebuild::ArchiveRebuild,
    seeds::Seeds,
    server::store_problem,
    store::{ContentStore, permissions},
    wire::{AgentAnswer, CallId, OfferedFile, ShippedDirs, ToAgent},
};
use crate::content::Bitmap;

/// What arrives for the store.
pub(super) struct FileStore {
    store: ContentStore,
    /// Held since something was offered or used, so that nobody removes it.
    lock: Option<StoreLock>,
    /// The files of modules, by the names of those in steps.
    modules: BTreeMap<String, OfferedFile>,
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
    /// Nothing has arrived for a store in this folder.
    pub(super) fn new(root: PathBuf) -> Self {
        let (store, modules, listings) = (ContentStore::new(root), BTreeMap::new(), BTreeMap::new());
        let (incoming, seeds) = (Incoming::Nothing, Arc::default());
        Self { store, lock: None, modules, listings, incoming, seeds, failed: None }
    }

    /// What has arrived.
    pub(super) fn store(&self) -> &ContentStore {
        &self.store
    }

    /// Keeps others from removing what is here.
    fn hold(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            self.lock = Some(StoreLock::share(self.store.made_folder()?)?);
        }
        Ok(())
    }

    /// Removes what nobody has used for long.
    pub(super) fn clean_up(&self) {
        clean_up(self.store.folder(), self.lock.as_ref());
    }

    /// Lets a step's grants lead to its directories that come from the coordinator.
    pub(super) fn use_dirs(
        &mut self,
        step: &mut PlanStep,
        shipped: &ShippedDirs,
        archives: &DecodedArchives,
    ) -> io::Result<()> {
        self.take_failure()?;
        if !shipped.is_empty() {
            self.hold()?;
        }
        self.store.use_dirs(step, shipped, archives)
    }

    /// The module of a step, as it is found on this host.
    ///
    /// # Errors
    /// It was not sent, or is another one now.
    pub(super) fn module(&self, uses: &ModuleRef) -> io::Result<ModuleRef> {
        match uses {
            ModuleRef::Official(_) => Ok(uses.clone()),
            ModuleRef::File(_) | ModuleRef::Registry(_) => {
                let file = self.modules.get(&module_display_name(uses));
                let file = file.ok_or_else(|| io::Error::other("it was not sent to the host"))?;
                let path = self.store.file_path(file);
                if Blake3Hash::of_reader(fs::File::open(&path)?)? != file.hash {
                    // The next attempt sends it again.
                    fs::remove_file(&path)?;
                    return Err(io::Error::other("its file on the host was changed"));
                }
                Ok(ModuleRef::File(path))
            }
        }
    }

    /// Takes a message about files. Returns the answer, if it has one.
    pub(super) async fn take(&mut self, message: ToAgent) -> Option<(CallId, AgentAnswer)> {
        match message {
            ToAgent::Module { call, name, file } => {
                self.modules.insert(name, file);
                let missing = self.hold().and_then(|()| self.store.missing_files([&file]));
                Some((call, self.missing(missing)))
            }
            ToAgent::Dirs { call, dirs } => {
                let missing = self.hold().map(|()| Bitmap::of(&dirs, |dir| !self.store.has_dir(dir)));
                Some((call, self.missing(missing)))
            }
            ToAgent::Listing { dir, files } => {
                self.listings.entry(dir).or_default().extend(files);
                None
            }
            ToAgent::Offer { call, dir } => {
                let files = self.listings.get(&dir).cloned().unwrap_or_default();
                let store = self.store.clone();
                let missing = blocking(move || store.missing_files(files.values())).await;
                Some((call, self.missing(missing)))
            }
            ToAgent::File { file } => {
                let begun = self.begin_file(file);
                self.note_failure(begun);
                None
            }
            ToAgent::LayOut { call, dir } => {
                let laid_out = self.lay_out(dir).await.map(|()| AgentAnswer::Stored { is_stored: true });
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
                Some((
                    call,
                    which.map_or(AgentAnswer::Stored { is_stored: false }, |which| AgentAnswer::Missing { which }),
                ))
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
            | ToAgent::Prune { .. }
            | ToAgent::Recall { .. }
            | ToAgent::Confirm { .. }
            | ToAgent::Stop
            | ToAgent::Ping => None,
        }
    }

    fn missing(&self, missing: io::Result<Bitmap>) -> AgentAnswer {
        missing.map_or_else(|error| self.refusal(&error), |which| AgentAnswer::Missing { which })
    }

    fn refusal(&self, error: &io::Error) -> AgentAnswer {
        AgentAnswer::Refused { problem: store_problem(error, &self.store) }
    }

    /// Takes bytes of what is being received. Who lays it out or uses it hears of an error.
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
        let folder = self.store.folder().join("seeds");
        self.seeds = Arc::new(blocking(move || Seeds::find(&dir, &folder)).await);
        self.seeds.bytes()
    }

    async fn lay_out(&mut self, dir: Blake3Hash) -> io::Result<()> {
        let (store, files) = (self.store.clone(), self.listings.remove(&dir).unwrap_or_default());
        self.take_failure()?;
        blocking(move || store.lay_out(&dir, &files)).await
    }

    /// Fails if something that was sent could not be stored, once.
    fn take_failure(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), |why| Err(io::Error::other(why)))
    }

    /// Runs blocking work on the archive that is being rebuilt. None if it can't be.
    async fn work_on_archive<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut ArchiveRebuild, &Path) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let folder = self.store.files_folder().ok()?;
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
        let path = self.store.files_folder()?.join(format!(".tmp-{}", std::process::id()));
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
        fs::rename(path, self.store.file_path(offered))?;
        self.incoming = Incoming::Nothing;
        Ok(())
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        // A file begins anew; of an archive, the next connection needs the rest only.
        if matches!(self.incoming, Incoming::File(_)) {
            self.drop_incoming();
        }
    }
}

/// Runs blocking work while the agent says that it is there.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("work on files does not panic")
}
