//! The file that is published. What comes through a pipe is kept in an unnamed file first, because a target is asked for the content
//! by its digest before anything is sent.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::PublishError;
use crate::{listed_version, parse_checksum};
use contract::Digest;

const BUFFER_BYTES: usize = 1 << 20;

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
    /// It can't be read, is empty, or there is no room for it.
    pub fn spool(mut pipe: impl Read) -> Result<Self, PublishError> {
        let failed = || PublishError::io("keep what comes from standard input");
        let mut file = tempfile::tempfile().map_err(failed())?;
        let (digest, size) = copy_hashed(&mut pipe, &mut file).map_err(failed())?;
        // A program that failed before the pipe wrote nothing.
        if size == 0 {
            return Err(PublishError::Invalid("standard input is empty".to_owned()));
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
