//! Decompression, in a thread of its own, between the intake and the extraction.
//!
//! Both formats may consist of several members or frames. After the last one gzip allows zeros (RFC 1952 does not, but
//! tapes and `gzip` do), zstd nothing.

use std::{
    cell::Cell,
    io::{self, BufRead as _, Read},
    thread,
};

use super::{
    Job,
    error::ArchiveError,
    format::Format,
    pipeline::{self, Chunks, Gone, Sink},
    tarball,
    tree::Tree,
};

/// Extracts the tar in `chunks`, packed as `format` says (a zip is not for here).
pub(super) fn extract(format: Format, chunks: Chunks, job: &Job<'_>, tree: &mut Tree<'_>) -> Result<(), ArchiveError> {
    let decoder = match format {
        Format::Tar | Format::Zip => return tarball::extract(chunks, tree),
        Format::TarGzip => gunzip,
        Format::TarZstd => unzstd,
    };
    let (sink, plain) = pipeline::chunks();
    let (decoded, extracted) = thread::scope(|scope| {
        let decoding = scope.spawn(|| match decoder(chunks, &Output { sink, job, bytes: Cell::new(0) }) {
            Ok(()) | Err(Stop::Gone) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        });
        let extracted = tarball::extract(plain, tree);
        (pipeline::joined(decoding), extracted)
    });
    match (decoded, extracted) {
        // A decoder that fails ends the stream early: it is the cause.
        (Err(cause), Ok(()) | Err(ArchiveError::Truncated)) => Err(cause),
        (_, extracted) => extracted,
    }
}

enum Stop {
    /// The extraction has finished or failed.
    Gone,
    Failed(ArchiveError),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

struct Output<'a> {
    sink: Sink,
    job: &'a Job<'a>,
    bytes: Cell<u64>,
}

impl Output<'_> {
    /// Passes on all that `decoder` gives; `taken` tells how many bytes of the archive it has consumed.
    fn pump<D: Read>(&self, decoder: &mut D, taken: impl Fn(&D) -> u64) -> Result<(), Stop> {
        loop {
            let count = self.sink.pass(decoder)?.map_err(|error| Stop::Failed(damage(&error)))?;
            if count == 0 {
                return Ok(());
            }
            self.bytes.set(self.bytes.get() + count as u64);
            self.job.limits.check_ratio(self.bytes.get(), taken(decoder)).map_err(Stop::Failed)?;
        }
    }
}

fn gunzip(mut input: Chunks, output: &Output<'_>) -> Result<(), Stop> {
    loop {
        let mut decoder = flate2::bufread::GzDecoder::new(&mut input);
        output.pump(&mut decoder, |decoder| decoder.get_ref().taken())?;
        match first(&mut input)? {
            None => return Ok(()),
            Some(0x1f) => {}
            Some(0) => return only_zeros(&mut input).map_err(Stop::Failed),
            Some(_) => return Err(Stop::Failed(ArchiveError::TrailingBytes)),
        }
    }
}

fn unzstd(mut input: Chunks, output: &Output<'_>) -> Result<(), Stop> {
    loop {
        let decoder = zstd::stream::read::Decoder::with_buffer(&mut input);
        let mut decoder = decoder.map_err(|error| Stop::Failed(damage(&error)))?.single_frame();
        output.pump(&mut decoder, |decoder| decoder.get_ref().taken())?;
        drop(decoder);
        match first(&mut input)? {
            None => return Ok(()),
            // A frame, or one to be skipped.
            Some(0x28 | 0x50..=0x5f) => {}
            Some(_) => return Err(Stop::Failed(ArchiveError::TrailingBytes)),
        }
    }
}

fn first(input: &mut Chunks) -> Result<Option<u8>, Stop> {
    input.fill_buf().map(|bytes| bytes.first().copied()).map_err(|error| Stop::Failed(damage(&error)))
}

/// Takes the rest of a stream, which must be padding.
pub(super) fn only_zeros(input: &mut Chunks) -> Result<(), ArchiveError> {
    loop {
        let bytes = input.fill_buf().map_err(|error| damage(&error))?;
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

/// What an error of a decoder says of the archive.
pub(super) fn damage(error: &io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ArchiveError::Truncated } else { ArchiveError::damaged(error) }
}
