//! The threads between source and folder, connected by bounded channels of chunks.
//!
//! A stage that fails drops its end of the channel; its neighbors see the end of the stream and finish. Only [`run`]
//! decides which failure is the cause. Empty chunks travel back, so that none is allocated twice.

use std::{
    io::{self, BufRead, Read},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use contract::{Digest, step::FailureKind};

use super::{
    UnpackJob,
    error::{ArchiveError, ArchiveLimitKind},
};

/// The size of a chunk in bytes.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Chunks in flight between two stages.
const CHANNEL_DEPTH: usize = 4;
/// After bad content, the most bytes that are still read for the digest.
const MAX_DRAIN_BYTES: u64 = 64 << 20;

/// A buffer with a filled beginning.
pub(super) struct StreamChunk {
    buffer: Box<[u8]>,
    filled: usize,
}

impl StreamChunk {
    fn empty() -> Self {
        Self { buffer: vec![0; CHUNK_BYTES].into_boxed_slice(), filled: 0 }
    }

    /// The first chunk of a source.
    pub(super) fn first_of(source: &mut impl Read, job: &UnpackJob<'_>) -> Result<Self, ArchiveError> {
        let mut chunk = Self::empty();
        chunk.refill(source, || job.check_stop())?;
        Ok(chunk)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Fills it up; it stays short only at the end of the source.
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
pub(super) struct ChunkSender {
    full: SyncSender<StreamChunk>,
    empty: Receiver<StreamChunk>,
}

/// The stage after this one has finished or failed.
pub(super) struct ReceiverGone;

impl ChunkSender {
    fn empty_chunk(&self) -> StreamChunk {
        self.empty.try_recv().unwrap_or_else(|_| StreamChunk::empty())
    }

    fn send(&self, chunk: StreamChunk) -> Result<(), ReceiverGone> {
        self.full.send(chunk).map_err(|_| ReceiverGone)
    }

    /// Reads one chunk from a decoder and sends it. Returns its size, 0 at the end.
    pub(super) fn send_from(&self, decoder: &mut impl Read) -> Result<io::Result<usize>, ReceiverGone> {
        let mut chunk = self.empty_chunk();
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

/// The receiving end of a channel of chunks. It never fails: if an earlier stage fails, the stream ends.
pub(super) struct ChunkReader {
    full: Receiver<StreamChunk>,
    empty: Sender<StreamChunk>,
    current: Option<StreamChunk>,
    position: usize,
    consumed: u64,
}

impl ChunkReader {
    /// Bytes consumed so far.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|chunk| self.position >= chunk.filled) {
            if let Some(done) = self.current.take() {
                // If the previous stage has ended, it does not need the chunk.
                let _ = self.empty.send(done);
            }
            self.position = 0;
            self.current = self.full.recv().ok();
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk.bytes()[self.position..]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
        self.consumed += count as u64;
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Creates a channel of chunks.
pub(super) fn chunk_channel() -> (ChunkSender, ChunkReader) {
    let (full, filled) = sync_channel(CHANNEL_DEPTH);
    let (emptied, empty) = channel();
    (ChunkSender { full, empty }, ChunkReader { full: filled, empty: emptied, current: None, position: 0, consumed: 0 })
}

/// Reads and hashes `first` and then `source` on another thread, while `consume` takes the bytes on this one. Returns
/// the number of bytes after the digest was verified.
pub(super) fn run_pipeline(
    first: StreamChunk,
    source: impl Read + Send,
    job: &UnpackJob<'_>,
    consume: impl FnOnce(ChunkReader) -> Result<(), ArchiveError>,
) -> Result<u64, ArchiveError> {
    let (sink, chunks) = chunk_channel();
    let abandon = AtomicBool::new(false);
    let (intake, consumed) = thread::scope(|scope| {
        let intake = scope.spawn(|| SourceIntake::new(job, &abandon).run(first, source, Some(sink)));
        let consumed = consume(chunks);
        // A wrong digest matters only if the content is bad.
        if consumed.as_ref().is_err_and(|error| error.kind() != FailureKind::BadContent) {
            abandon.store(true, Ordering::Relaxed);
        }
        (join_thread(intake), consumed)
    });
    match (intake?, consumed) {
        (IntakeResult::Complete { digest, .. }, _) if digest != *job.expected => {
            Err(ArchiveError::WrongDigest { expected: job.expected.clone(), actual: digest })
        }
        (_, Err(error)) => Err(error),
        (IntakeResult::Complete { bytes, .. }, Ok(())) => Ok(bytes),
        // The consumer takes everything unless it fails.
        (IntakeResult::Abandoned, Ok(())) => Err(ArchiveError::Truncated),
    }
}

/// Reads the rest of a source with an unknown format, to check its digest.
pub(super) fn wrong_digest_of_rest(
    first: StreamChunk,
    source: impl Read,
    job: &UnpackJob<'_>,
) -> Result<Option<ArchiveError>, ArchiveError> {
    match SourceIntake::new(job, &AtomicBool::new(false)).run(first, source, None)? {
        IntakeResult::Complete { digest, .. } if digest != *job.expected => {
            Ok(Some(ArchiveError::WrongDigest { expected: job.expected.clone(), actual: digest }))
        }
        IntakeResult::Complete { .. } | IntakeResult::Abandoned => Ok(None),
    }
}

/// The result of a thread; its panic continues in this one.
pub(super) fn join_thread<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

enum IntakeResult {
    Complete { digest: Digest, bytes: u64 },
    Abandoned,
}

struct SourceIntake<'a> {
    job: &'a UnpackJob<'a>,
    abandon: &'a AtomicBool,
    hasher: Sha256,
    bytes: u64,
}

impl<'a> SourceIntake<'a> {
    fn new(job: &'a UnpackJob<'a>, abandon: &'a AtomicBool) -> Self {
        Self { job, abandon, hasher: Sha256::new(), bytes: 0 }
    }

    fn run(
        mut self,
        first: StreamChunk,
        mut source: impl Read,
        sink: Option<ChunkSender>,
    ) -> Result<IntakeResult, ArchiveError> {
        let mut sink = sink;
        let mut chunk = first;
        let mut drained = 0;
        while chunk.filled > 0 {
            self.hash_and_count(&chunk)?;
            let next = match sink.take() {
                Some(open) => match open.send(chunk) {
                    Ok(()) => {
                        let next = open.empty_chunk();
                        sink = Some(open);
                        next
                    }
                    Err(ReceiverGone) => StreamChunk::empty(),
                },
                None => {
                    drained += chunk.filled as u64;
                    chunk
                }
            };
            if drained > MAX_DRAIN_BYTES || self.abandon.load(Ordering::Relaxed) {
                return Ok(IntakeResult::Abandoned);
            }
            chunk = next;
            chunk.refill(&mut source, || self.job.check_stop())?;
        }
        Ok(IntakeResult::Complete { digest: Digest::from_bytes(self.hasher.finalize().into()), bytes: self.bytes })
    }

    fn hash_and_count(&mut self, chunk: &StreamChunk) -> Result<(), ArchiveError> {
        self.hasher.update(chunk.bytes());
        self.bytes += chunk.filled as u64;
        (self.job.progress)(self.bytes);
        if self.bytes > self.job.limits.max_bytes {
            let most = self.job.limits.max_bytes;
            return Err(ArchiveError::Limit { limit: ArchiveLimitKind::Bytes, max: most, entry: None });
        }
        Ok(())
    }
}
