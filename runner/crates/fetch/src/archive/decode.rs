//! Decompression on its own thread, between intake and extraction.
//!
//! Both formats may consist of several members or frames. After the last one, gzip allows zeros (unlike RFC 1952, but
//! like tapes and `gzip`), zstd nothing.

use std::{
    cell::Cell,
    io::{self, BufRead as _, Read},
    thread,
};

use super::{
    UnpackJob, compression_ratio,
    error::ArchiveError,
    format::ArchiveFormat,
    pipeline::{self, ChunkReader, ChunkSender, ReceiverGone},
    tarball,
    tree::ExtractionTree,
};

/// Extracts the tar in `chunks` with the compression of `format`, which is not zip.
pub(super) fn extract(
    format: ArchiveFormat,
    chunks: ChunkReader,
    job: &UnpackJob<'_>,
    tree: &mut ExtractionTree<'_>,
) -> Result<(), ArchiveError> {
    consume(format, chunks, job, |plain| tarball::extract(plain, tree)).map(|_| ())
}

/// Passes the tar in `chunks` with the compression of `format`, which is not zip, to `take`. Returns the highest compression ratio of
/// any of its beginnings, as [`super::ArchiveLimits::max_ratio`] counts it.
pub(super) fn consume(
    format: ArchiveFormat,
    chunks: ChunkReader,
    job: &UnpackJob<'_>,
    take: impl FnOnce(ChunkReader) -> Result<(), ArchiveError>,
) -> Result<u64, ArchiveError> {
    let decoder = match format {
        ArchiveFormat::Tar | ArchiveFormat::Zip => return take(chunks).map(|()| 0),
        ArchiveFormat::TarGzip => gunzip,
        ArchiveFormat::TarZstd => unzstd,
    };
    let (sink, plain) = pipeline::chunk_channel();
    let (decoded, taken) = thread::scope(|scope| {
        let decoding = scope.spawn(|| {
            let output = DecodeOutput { sink, job, bytes: Cell::new(0), ratio: Cell::new(0) };
            match decoder(chunks, &output) {
                Ok(()) | Err(DecodeStop::ReceiverGone) => Ok(output.ratio.get()),
                Err(DecodeStop::Failed(error)) => Err(error),
            }
        });
        let taken = take(plain);
        (pipeline::join_thread(decoding), taken)
    });
    match (decoded, taken) {
        // A failed decoder ends the stream early, so it is the cause.
        (Err(cause), Ok(()) | Err(ArchiveError::Truncated)) => Err(cause),
        (_, Err(error)) => Err(error),
        (Ok(ratio), Ok(())) => Ok(ratio),
    }
}

enum DecodeStop {
    /// The extraction has finished or failed.
    ReceiverGone,
    Failed(ArchiveError),
}

impl From<ReceiverGone> for DecodeStop {
    fn from(_: ReceiverGone) -> Self {
        Self::ReceiverGone
    }
}

struct DecodeOutput<'a> {
    sink: ChunkSender,
    job: &'a UnpackJob<'a>,
    bytes: Cell<u64>,
    ratio: Cell<u64>,
}

impl DecodeOutput<'_> {
    /// Passes on the output of `decoder`; `taken` counts the consumed bytes of the archive.
    fn pump_all<D: Read>(&self, decoder: &mut D, consumed: impl Fn(&D) -> u64) -> Result<(), DecodeStop> {
        loop {
            let count = self.sink.send_from(decoder)?.map_err(|error| DecodeStop::Failed(decode_error(&error)))?;
            if count == 0 {
                return Ok(());
            }
            self.bytes.set(self.bytes.get() + count as u64);
            let consumed = consumed(decoder);
            self.job.limits.check_compression_ratio(self.bytes.get(), consumed).map_err(DecodeStop::Failed)?;
            self.ratio.set(self.ratio.get().max(compression_ratio(self.bytes.get(), consumed)));
        }
    }
}

fn gunzip(mut input: ChunkReader, output: &DecodeOutput<'_>) -> Result<(), DecodeStop> {
    loop {
        let mut decoder = flate2::bufread::GzDecoder::new(&mut input);
        output.pump_all(&mut decoder, |decoder| decoder.get_ref().consumed())?;
        match peek_byte(&mut input)? {
            None => return Ok(()),
            Some(0x1f) => {}
            Some(0) => return expect_zero_padding(&mut input).map_err(DecodeStop::Failed),
            Some(_) => return Err(DecodeStop::Failed(ArchiveError::TrailingBytes)),
        }
    }
}

fn unzstd(mut input: ChunkReader, output: &DecodeOutput<'_>) -> Result<(), DecodeStop> {
    loop {
        let decoder = zstd::stream::read::Decoder::with_buffer(&mut input);
        let mut decoder = decoder.map_err(|error| DecodeStop::Failed(decode_error(&error)))?.single_frame();
        output.pump_all(&mut decoder, |decoder| decoder.get_ref().consumed())?;
        drop(decoder);
        match peek_byte(&mut input)? {
            None => return Ok(()),
            // A frame, or a skippable one.
            Some(0x28 | 0x50..=0x5f) => {}
            Some(_) => return Err(DecodeStop::Failed(ArchiveError::TrailingBytes)),
        }
    }
}

fn peek_byte(input: &mut ChunkReader) -> Result<Option<u8>, DecodeStop> {
    input.fill_buf().map(|bytes| bytes.first().copied()).map_err(|error| DecodeStop::Failed(decode_error(&error)))
}

/// Reads the rest of a stream, which must be padding.
pub(super) fn expect_zero_padding(input: &mut ChunkReader) -> Result<(), ArchiveError> {
    loop {
        let bytes = input.fill_buf().map_err(|error| decode_error(&error))?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::TrailingBytes);
        }
        let count = bytes.len();
        input.consume(count);
    }
}

/// Converts a decoder's error.
pub(super) fn decode_error(error: &io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ArchiveError::Truncated } else { ArchiveError::damaged(error) }
}
