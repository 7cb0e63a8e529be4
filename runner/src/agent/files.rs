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

use super::{
    rebuild::ArchiveRebuild,
    seeds::Seeds,
    server::store_problem,
    store::{ContentStore, permissions},
    wire::{AgentAnswer, CallId, OfferedFile, ToAgent},
};
use crate::content::Bitmap;

/// What arrives for the store.
pub(super) struct FileStore {
    store: ContentStore,
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
        let (store, listings, seeds) = (ContentStore::new(root), BTreeMap::new(), Arc::default());
        Self { store, listings, incoming: Incoming::Nothing, seeds, failed: None }
    }

    /// What has arrived.
    pub(super) fn store(&self) -> &ContentStore {
        &self.store
    }

    /// Takes a message about files. Returns the answer, if it has one.
    pub(super) async fn take(&mut self, message: ToAgent) -> Option<(CallId, AgentAnswer)> {
        match message {
            ToAgent::Dirs { call, dirs } => {
                let which = Bitmap::of(&dirs, |dir| !self.store.has_dir(dir));
                Some((call, AgentAnswer::Missing { which }))
            }
            ToAgent::Listing { dir, files } => {
                self.listings.entry(dir).or_default().extend(files);
                None
            }
            ToAgent::Offer { call, dir } => {
                let files = self.listings.get(&dir).cloned().unwrap_or_default();
                let store = self.store.clone();
                let missing = blocking(move || store.missing_files(&files)).await;
                let missing = missing.map(|which| AgentAnswer::Missing { which });
                Some((call, missing.unwrap_or_else(|error| self.refusal(&error))))
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
            | ToAgent::Stop
            | ToAgent::Ping => None,
        }
    }

    fn refusal(&self, error: &io::Error) -> AgentAnswer {
        AgentAnswer::Refused { problem: store_problem(error, &self.store) }
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
        let folder = self.store.folder().join("seeds");
        self.seeds = Arc::new(blocking(move || Seeds::find(&dir, &folder)).await);
        self.seeds.bytes()
    }

    async fn lay_out(&mut self, dir: Blake3Hash) -> io::Result<()> {
        let (store, files) = (self.store.clone(), self.listings.remove(&dir).unwrap_or_default());
        match self.failed.take() {
            Some(why) => Err(io::Error::other(why)),
            None => blocking(move || store.lay_out(&dir, &files)).await,
        }
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
