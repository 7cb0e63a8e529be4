//! The file that is published. What comes through a pipe is kept in an unnamed file first, because a target is asked for the content
//! by its digest before anything is sent.

use std::{
    fs::File,
    io::{self, Read, Seek as _},
    path::Path,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::PublishError;
use crate::{listed_version, parse_checksum};
use contract::Digest;

const BUFFER_BYTES: usize = 1 << 20;

/// How a frame of zstd begins (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// A file with its digest.
#[derive(Debug)]
pub struct PublishSource {
    pub(super) file: Arc<File>,
    pub digest: Digest,
    pub size: u64,
    /// The name of the file; none for what came through a pipe.
    pub name: Option<String>,
    /// The version, if the list beside the archive has it.
    pub version: Option<String>,
}

impl PublishSource {
    /// Reads a file. A checksum beside it must be right.
    ///
    /// # Errors
    /// It can't be read, or is not what its checksum says.
    pub fn open(path: &Path) -> Result<Self, PublishError> {
        let failed = |action: &str| PublishError::io(format!("{action} {}", path.display()));
        let mut file = File::open(path).map_err(failed("open"))?;
        if !file.metadata().map_err(failed("read"))?.is_file() {
            return Err(PublishError::Invalid(format!("{} is not a file", path.display())));
        }
        let (digest, size) = copy_hashed(&mut file, &mut io::sink()).map_err(failed("read"))?;
        let beside = |ending: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            (name.to_string_lossy().into_owned(), std::fs::read_to_string(name).ok())
        };
        let (checksum_file, checksum) = beside(".sha256");
        if let Some(expected) = checksum.as_deref().and_then(parse_checksum).filter(|expected| *expected != digest) {
            return Err(PublishError::WrongChecksum { checksum_file, expected, found: digest });
        }
        let version = beside(".cdx.json").1.and_then(|text| listed_version(&text, &digest));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Self { file: file.into(), digest, size, name, version })
    }

    /// Reads a pipe to its end.
    ///
    /// # Errors
    /// It can't be read, is empty, ends in the middle of an archive, or there is no room for it.
    pub fn spool(mut pipe: impl Read) -> Result<Self, PublishError> {
        let failed = || PublishError::io("keep what comes from standard input");
        let mut file = tempfile::tempfile().map_err(failed())?;
        let (digest, size) = copy_hashed(&mut pipe, &mut file).map_err(failed())?;
        // A program that failed before the pipe wrote nothing, or a part.
        if size == 0 {
            return Err(PublishError::BrokenPipe("standard input is empty"));
        }
        if !is_complete(&mut file).map_err(failed())? {
            return Err(PublishError::BrokenPipe("standard input ends in the middle of an archive"));
        }
        Ok(Self { file: file.into(), digest, size, name: None, version: None })
    }

    /// A text with a lookup of the plan for the version, if that is in what follows the last `separator`.
    pub(super) fn with_release(&self, text: &str, separator: char) -> String {
        let tail = text.rfind(separator).map_or(0, |index| index + 1);
        let version = self.version.as_deref().unwrap_or_default();
        match text[tail..].rfind(version).filter(|_| !version.is_empty()) {
            Some(start) => {
                let (before, after) = text.split_at(tail + start);
                format!("{before}${{{{ release }}}}{}", &after[version.len()..])
            }
            None => text.to_owned(),
        }
    }
}

/// Whether an archive that zstd has compressed has its end. What is compressed in another way counts as complete.
fn is_complete(file: &mut File) -> io::Result<bool> {
    file.rewind()?;
    let mut begin = Vec::new();
    Read::by_ref(file).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut begin)?;
    if begin != ZSTD_MAGIC {
        return Ok(true);
    }
    file.rewind()?;
    match io::copy(&mut zstd::Decoder::new(file)?, &mut io::sink()) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn copy_hashed(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<(Digest, u64)> {
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_BYTES]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hasher.finalize().into()), size)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                to.write_all(&buffer[..count])?;
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_ends_in_the_middle_of_an_archive_is_refused() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let archive = zstd::encode_all(content.as_slice(), 3).unwrap();
        assert_eq!(PublishSource::spool(archive.as_slice()).unwrap().size, archive.len() as u64);
        for length in [5, archive.len() / 2, archive.len() - 1] {
            let error = PublishSource::spool(&archive[..length]).unwrap_err();
            assert!(error.to_string().contains("ends in the middle of an archive"), "{length}: {error}");
        }
        assert!(PublishSource::spool(&content[..7]).is_ok());
        assert!(PublishSource::spool(io::empty()).unwrap_err().to_string().contains("is empty"));
    }
}
