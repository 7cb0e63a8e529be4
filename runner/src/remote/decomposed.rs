//! The archives of this machine, taken apart: each once for all hosts of a deployment.
//!
//! Invariant: what is taken apart are the bytes of that hash. The tar and the chunks that a host lacks are in files without names, which
//! end with the process, and in memory is what grows with the number of files. An archive that can't be taken apart is no error: it is
//! sent as it is.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufWriter, Read, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use contract::hash::{Blake3Hash, Blake3Hasher};
use fetch::archive::{self, ArchiveFormat, ArchiveLimits, UnpackJob};
use tokio::sync::{Mutex, OnceCell};
use zstd::stream::write::Encoder;

use crate::{
    agent::wire::{OfferedArchive, OfferedFile},
    content::{self, Bitmap, MAX_CHUNK_BYTES, PlacedChunk, Recipe},
};

/// How well the missing chunks are compressed: once for all hosts that lack the same ones.
const LEVEL: i32 = 6;
/// For how many sets of missing chunks their content is kept.
const MAX_KEPT: usize = 8;

/// The archives so far.
pub struct DecomposedArchives {
    /// Where files without names can be; none if nothing can be taken apart.
    folder: Option<PathBuf>,
    known: Mutex<BTreeMap<Blake3Hash, DecomposedOnce>>,
}

/// An archive that is taken apart when it is needed; none if it can't be.
type DecomposedOnce = Arc<OnceCell<Option<Arc<DecomposedArchive>>>>;

/// An archive, taken apart.
pub(super) struct DecomposedArchive {
    pub(super) offered: OfferedArchive,
    pub(super) recipe: Recipe,
    pub(super) chunks: Vec<PlacedChunk>,
    tar: fs::File,
    folder: PathBuf,
    /// The content of missing chunks, by which they are.
    missing: Mutex<Vec<(Bitmap, Arc<fs::File>)>>,
}

impl DecomposedArchives {
    /// An empty collection that keeps large content in a folder.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, known: Mutex::default() }
    }

    /// An archive, taken apart now unless it was before. None if it can't be.
    pub(super) async fn get(&self, file: &OfferedFile, path: &Path) -> Option<Arc<DecomposedArchive>> {
        let folder = self.folder.clone()?;
        let cell = Arc::clone(self.known.lock().await.entry(file.hash).or_default());
        let (hash, path) = (file.hash, path.to_owned());
        let decomposed = cell.get_or_init(|| async move {
            let work = move || DecomposedArchive::read(hash, &path, folder);
            tokio::task::spawn_blocking(work).await.ok().flatten().map(Arc::new)
        });
        decomposed.await.clone()
    }
}

impl DecomposedArchive {
    /// Takes an archive apart. None if it can't be, or has another hash. Blocks.
    fn read(hash: Blake3Hash, path: &Path, folder: PathBuf) -> Option<Self> {
        let expected = archive::digest(fs::File::open(path).ok()?).ok()?;
        let (limits, stop) = (ArchiveLimits::default(), AtomicBool::new(false));
        let (name, progress) = (path.to_string_lossy(), |_| {});
        let job = UnpackJob {
            name: &name,
            expected: &expected,
            decoded: None,
            limits: &limits,
            stop: &stop,
            progress: &progress,
        };
        let mut source = HashedFile { file: fs::File::open(path).ok()?, hasher: Blake3Hasher::default() };
        let spool = spool(&folder).ok()?;
        let taken_apart = archive::decode_tar(&mut source, &job, |plain| {
            let mut copied =
                CopiedTar { plain, to: BufWriter::with_capacity(256 << 10, &spool), hasher: Blake3Hasher::default() };
            let decomposed = content::decompose(&mut copied)?;
            copied.to.flush()?;
            Ok(decomposed.map(|decomposed| (decomposed, copied.hasher.finish())))
        });
        let (decoded, taken_apart) = taken_apart.ok().flatten()?;
        let ((recipe, chunks, tar_bytes), tar) = taken_apart.filter(|_| source.hasher.finish() == hash)?;
        let decoded = (decoded.format != ArchiveFormat::Tar).then_some(decoded);
        let offered = OfferedArchive { hash, tar, tar_bytes, decoded };
        Some(Self { offered, recipe, chunks, tar: spool, folder, missing: Mutex::default() })
    }

    /// How much of its content some chunks are, in percent.
    pub(super) fn percent_of(&self, which: &Bitmap) -> u64 {
        let bytes = |chunk: &PlacedChunk| u64::from(chunk.length);
        let chosen = self.chunks.iter().enumerate().filter(|(position, _)| which.contains(*position));
        let part: u64 = chosen.map(|(_, chunk)| bytes(chunk)).sum();
        part * 100 / self.chunks.iter().map(bytes).sum::<u64>().max(1)
    }

    /// The content of some chunks, compressed: made now unless another host lacked the same.
    ///
    /// # Errors
    /// It can't be read or written.
    pub(super) async fn content_of(self: &Arc<Self>, which: Bitmap) -> io::Result<Arc<fs::File>> {
        let mut missing = self.missing.lock().await;
        if let Some((_, content)) = missing.iter().find(|(known, _)| *known == which) {
            return Ok(Arc::clone(content));
        }
        let (this, chosen) = (Arc::clone(self), which.clone());
        let made = tokio::task::spawn_blocking(move || this.compress(&chosen)).await;
        let content = Arc::new(made.map_err(io::Error::other)??);
        if missing.len() >= MAX_KEPT {
            missing.remove(0);
        }
        missing.push((which, Arc::clone(&content)));
        Ok(content)
    }

    fn compress(&self, which: &Bitmap) -> io::Result<fs::File> {
        let spool = spool(&self.folder)?;
        let mut encoder = Encoder::new(BufWriter::new(&spool), LEVEL)?;
        let mut buffer = vec![0; MAX_CHUNK_BYTES];
        for (_, chunk) in self.chunks.iter().enumerate().filter(|(position, _)| which.contains(*position)) {
            let buffer = &mut buffer[..chunk.length as usize];
            self.tar.read_exact_at(buffer, chunk.offset)?;
            encoder.write_all(buffer)?;
        }
        encoder.finish()?.flush()?;
        Ok(spool)
    }
}

/// A file without a name.
fn spool(folder: &Path) -> io::Result<fs::File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(folder)?;
    let name = format!(".spool-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = folder.join(name);
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

struct HashedFile {
    file: fs::File,
    hasher: Blake3Hasher,
}

impl Read for HashedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A tar that is copied and hashed while it is read.
struct CopiedTar<'t> {
    plain: &'t mut dyn Read,
    to: BufWriter<&'t fs::File>,
    hasher: Blake3Hasher,
}

impl Read for CopiedTar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.plain.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.to.write_all(&buffer[..count])?;
        Ok(count)
    }
}
