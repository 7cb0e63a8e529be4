//! The threads between source and folder, and the bounded channels of chunks between them.
//!
//! A stage that fails drops its end of the channel; the stages beside it see the end of the stream and finish. Which of
//! the failures is the cause is decided in one place, [`run`]. Chunks travel back empty, so that none is allocated
//! twice.

use std::{
    io::{self, BufRead, Read},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use contract::Digest;

use super::{
    Job,
    error::{ArchiveError, Limit},
};

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 256 << 10;
/// Chunks under way between two stages.
const DEPTH: usize = 4;
/// Bytes that are still read for the digest alone, after the content has turned out to be bad.
const DRAIN: u64 = 64 << 20;

/// A buffer with a filled beginning.
pub(super) struct Chunk {
    buffer: Box<[u8]>,
    filled: usize,
}

impl Chunk {
    fn empty() -> Self {
        Self { buffer: vec![0; CHUNK].into_boxed_slice(), filled: 0 }
    }

    /// The first chunk of a source.
    pub(super) fn fill(source: &mut impl Read, job: &Job<'_>) -> Result<Self, ArchiveError> {
        let mut chunk = Self::empty();
        chunk.refill(source, || job.check())?;
        Ok(chunk)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Fills it up; it stays short at the end of the source only.
    fn refill(
        &mut self,
        source: &mut impl Read,
        check: impl Fn() -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        self.filled = 0;
        while self.filled < self.buffer.len() {
            check()?;
            match source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::Source(error)),
            }
        }
        Ok(())
    }
}

/// The sending end of a channel of chunks.
pub(super) struct Sink {
    full: SyncSender<Chunk>,
    empty: Receiver<Chunk>,
}

/// The stage after this one has finished or failed.
pub(super) struct Gone;

impl Sink {
    fn take(&self) -> Chunk {
        self.empty.try_recv().unwrap_or_else(|_| Chunk::empty())
    }

    fn send(&self, chunk: Chunk) -> Result<(), Gone> {
        self.full.send(chunk).map_err(|_| Gone)
    }

    /// Reads one chunk from a decoder and sends it. Returns its size, 0 at the end.
    pub(super) fn pass(&self, decoder: &mut impl Read) -> Result<io::Result<usize>, Gone> {
        let mut chunk = self.take();
        chunk.filled = 0;
        while chunk.filled < chunk.buffer.len() {
            match decoder.read(&mut chunk.buffer[chunk.filled..]) {
                Ok(0) => break,
                Ok(count) => chunk.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        let filled = chunk.filled;
        if filled > 0 {
            self.send(chunk)?;
        }
        Ok(Ok(filled))
    }
}

/// The receiving end of a channel of chunks. It never fails: a stage before it that fails ends the stream.
pub(super) struct Chunks {
    full: Receiver<Chunk>,
    empty: Sender<Chunk>,
    current: Option<Chunk>,
    position: usize,
    taken: u64,
}

impl Chunks {
    /// Bytes consumed so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|chunk| self.position >= chunk.filled) {
            if let Some(done) = self.current.take() {
                // The stage before may have ended; then the chunk is of no use to it.
                let _ = self.empty.send(done);
            }
            self.position = 0;
            self.current = self.full.recv().ok();
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk.bytes()[self.position..]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
        self.taken += count as u64;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Makes a channel of chunks.
pub(super) fn chunks() -> (Sink, Chunks) {
    let (full, filled) = sync_channel(DEPTH);
    let (emptied, empty) = channel();
    (Sink { full, empty }, Chunks { full: filled, empty: emptied, current: None, position: 0, taken: 0 })
}

/// Reads and hashes `first` and then `source` in a thread of its own, while `consume` takes the bytes in this one.
/// Returns the number of bytes once the digest is known to be right.
pub(super) fn run(
    first: Chunk,
    source: impl Read + Send,
    job: &Job<'_>,
    consume: impl FnOnce(Chunks) -> Result<(), ArchiveError>,
) -> Result<u64, ArchiveError> {
    let (sink, chunks) = chunks();
    let abandon = AtomicBool::new(false);
    let (intake, consumed) = thread::scope(|scope| {
        let intake = scope.spawn(|| Intake::new(job, &abandon).run(first, source, Some(sink)));
        let consumed = consume(chunks);
        // Only of bad content it is worth knowing whether it is the wrong one.
        if consumed.as_ref().is_err_and(|error| error.kind() != "bad-content") {
            abandon.store(true, Ordering::Relaxed);
        }
        (joined(intake), consumed)
    });
    match (intake?, consumed) {
        (Intaken::Complete { digest, .. }, _) if digest != *job.expected => {
            Err(ArchiveError::WrongDigest { expected: job.expected.clone(), actual: digest })
        }
        (_, Err(error)) => Err(error),
        (Intaken::Complete { bytes, .. }, Ok(())) => Ok(bytes),
        // The consumer takes everything unless it fails.
        (Intaken::Abandoned, Ok(())) => Err(ArchiveError::Truncated),
    }
}

/// Reads the rest of a source that is of no known format, to tell whether it is the wrong one.
pub(super) fn wrong_digest(
    first: Chunk,
    source: impl Read,
    job: &Job<'_>,
) -> Result<Option<ArchiveError>, ArchiveError> {
    match Intake::new(job, &AtomicBool::new(false)).run(first, source, None)? {
        Intaken::Complete { digest, .. } if digest != *job.expected => {
            Ok(Some(ArchiveError::WrongDigest { expected: job.expected.clone(), actual: digest }))
        }
        Intaken::Complete { .. } | Intaken::Abandoned => Ok(None),
    }
}

/// The result of a thread; its panic goes on in this one.
pub(super) fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

enum Intaken {
    Complete { digest: Digest, bytes: u64 },
    Abandoned,
}

struct Intake<'a> {
    job: &'a Job<'a>,
    abandon: &'a AtomicBool,
    hasher: Sha256,
    bytes: u64,
}

impl<'a> Intake<'a> {
    fn new(job: &'a Job<'a>, abandon: &'a AtomicBool) -> Self {
        Self { job, abandon, hasher: Sha256::new(), bytes: 0 }
    }

    fn run(mut self, first: Chunk, mut source: impl Read, sink: Option<Sink>) -> Result<Intaken, ArchiveError> {
        let mut sink = sink;
        let mut chunk = first;
        let mut drained = 0;
        while chunk.filled > 0 {
            self.note(&chunk)?;
            let next = match sink.take() {
                Some(open) => match open.send(chunk) {
                    Ok(()) => {
                        let next = open.take();
                        sink = Some(open);
                        next
                    }
                    Err(Gone) => Chunk::empty(),
                },
                None => {
                    drained += chunk.filled as u64;
                    chunk
                }
            };
            if drained > DRAIN || self.abandon.load(Ordering::Relaxed) {
                return Ok(Intaken::Abandoned);
            }
            chunk = next;
            chunk.refill(&mut source, || self.job.check())?;
        }
        Ok(Intaken::Complete { digest: Digest::from_bytes(self.hasher.finalize().into()), bytes: self.bytes })
    }

    fn note(&mut self, chunk: &Chunk) -> Result<(), ArchiveError> {
        self.hasher.update(chunk.bytes());
        self.bytes += chunk.filled as u64;
        (self.job.progress)(self.bytes);
        if self.bytes > self.job.limits.max_bytes {
            let most = self.job.limits.max_bytes;
            return Err(ArchiveError::Limit { limit: Limit::Bytes, most, entry: None });
        }
        Ok(())
    }
}
