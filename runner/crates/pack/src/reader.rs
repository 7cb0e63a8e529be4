//! Reads the files of a release ahead of the archive, on a thread of its own, and hashes them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::mpsc::SyncSender,
};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::{PackError, PackRequest, PackedEntry, PackedEntryKind};
use contract::{Digest, Label};

/// What stands for the version in a file that is rendered.
const PLACEHOLDER: &[u8] = b"@VERSION@";
const CHUNK_BYTES: u64 = 256 << 10;

/// A part of a file, or why there is none.
pub(crate) type ReadPart = Result<FilePart, PackError>;

/// Each file is its size, its content, and its end.
pub(crate) enum FilePart {
    Begin(u64),
    Content(Vec<u8>),
    End(Digest),
}

/// The files of a release, with their sizes.
pub(crate) fn files(entries: &[PackedEntry]) -> Vec<(String, u64)> {
    let file = |entry: &PackedEntry| match &entry.kind {
        PackedEntryKind::File { size, .. } => Some((entry.path.clone(), *size)),
        PackedEntryKind::Directory | PackedEntryKind::Symlink { .. } => None,
    };
    entries.iter().filter_map(file).collect()
}

/// Reads the files. Nobody may be left who wants them.
pub(crate) fn read(request: &PackRequest<'_>, files: Vec<(String, u64)>, sender: &SyncSender<ReadPart>) {
    for (path, size) in files {
        let place = request.folder.join(&path);
        let end = match request.rendered.contains(&path) {
            true => {
                open_file(&place, size).and_then(|file| rendered(file, &place, &path, request.version)).map(|content| {
                    let sum = Sha256::digest(&content);
                    let parts = [FilePart::Begin(content.len() as u64), FilePart::Content(content)];
                    parts.into_iter().try_for_each(|part| sender.send(Ok(part))).map(|()| sum).ok()
                })
            }
            false => open_file(&place, size).and_then(|file| content(file, &place, size, sender)),
        };
        let part = match end {
            Ok(Some(sum)) => Ok(FilePart::End(Digest::from_bytes(sum.into()))),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_over = part.is_err();
        if sender.send(part).is_err() || is_over {
            return;
        }
    }
}

/// Sends the content of a file of this size, which must not change meanwhile. None if nobody wants it.
fn content(
    mut file: File,
    path: &Path,
    size: u64,
    sender: &SyncSender<ReadPart>,
) -> Result<Option<sha2::digest::Output<Sha256>>, PackError> {
    if sender.send(Ok(FilePart::Begin(size))).is_err() {
        return Ok(None);
    }
    let changed = || PackError::Changed { path: path.to_owned() };
    let read = |source| PackError::Read { path: path.to_owned(), source };
    let (mut hasher, mut left) = (Sha256::new(), size);
    while left > 0 {
        let mut chunk = vec![0; usize::try_from(left.min(CHUNK_BYTES)).unwrap_or_default()];
        file.read_exact(&mut chunk).map_err(|error| match error.kind() == io::ErrorKind::UnexpectedEof {
            true => changed(),
            false => read(error),
        })?;
        left -= chunk.len() as u64;
        hasher.update(&chunk);
        if sender.send(Ok(FilePart::Content(chunk))).is_err() {
            return Ok(None);
        }
    }
    // What was added meanwhile would be missing.
    match file.read(&mut [0]).map_err(read)? {
        0 => Ok(Some(hasher.finalize())),
        _ => Err(changed()),
    }
}

/// Opens a file that had this size.
fn open_file(path: &Path, size: u64) -> Result<File, PackError> {
    let read = |source| PackError::Read { path: path.to_owned(), source };
    // What has become a link or a pipe meanwhile is neither followed nor waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let is_same = metadata.is_file() && metadata.len() == size;
    if is_same { Ok(file) } else { Err(PackError::Changed { path: path.to_owned() }) }
}

/// The content of a file, with the version.
fn rendered(mut file: File, place: &Path, path: &str, version: &Label) -> Result<Vec<u8>, PackError> {
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(|source| PackError::Read { path: place.to_owned(), source })?;
    let mut rest = &content[..];
    let mut rendered = Vec::with_capacity(content.len());
    while let Some(start) = rest.windows(PLACEHOLDER.len()).position(|window| window == PLACEHOLDER) {
        rendered.extend_from_slice(&rest[..start]);
        rendered.extend_from_slice(version.as_str().as_bytes());
        rest = &rest[start + PLACEHOLDER.len()..];
    }
    if rest.len() == content.len() {
        return Err(PackError::NoPlaceholder(path.to_owned()));
    }
    rendered.extend_from_slice(rest);
    Ok(rendered)
}
