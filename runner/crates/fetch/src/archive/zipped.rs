//! Zip: spooled to a file without a name, checked against the digest, then extracted.
//!
//! A zip is read from its end, so it can't be streamed. Only stored and deflated entries are supported; encrypted
//! entries, several disks, and data before or after the archive are refused. Format: PKWARE APPNOTE 6.3.10.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
};

use contract::text::escape_line;
use rustix::{
    fd::BorrowedFd,
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use zip::{ExtraField, ZipArchive, result::ZipError};

use super::{
    decode::decode_error,
    entry::{EntryAttributes, EntryPath, ModifiedTime},
    error::{ArchiveError, ArchiveLimitKind, EntryRefusal},
    pipeline::{CHUNK_BYTES, ChunkReader},
    tree::ExtractionTree,
};

/// The size of the record that ends a zip, without its comment.
const END_RECORD_BYTES: usize = 22;
/// The spool's temporary name on file systems without `O_TMPFILE`.
const SPOOL_NAME: &str = ".pawl-spool";

/// Creates an unnamed file in the file system of `folder`. It disappears with the process.
pub(super) fn create_spool(folder: BorrowedFd<'_>) -> Result<File, ArchiveError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = match rustix::fs::openat(folder, ".", flags | OFlags::TMPFILE, mode) {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
            rustix::fs::openat(folder, SPOOL_NAME, flags | OFlags::CREATE | OFlags::EXCL, mode).and_then(|file| {
                rustix::fs::unlinkat(folder, SPOOL_NAME, rustix::fs::AtFlags::empty())?;
                Ok(file)
            })
        }
        other => other,
    };
    file.map(File::from).map_err(ArchiveError::filesystem("created", SPOOL_NAME))
}

/// Writes everything in `chunks` to the spool.
pub(super) fn fill_spool(mut spool: &File, mut chunks: ChunkReader) -> Result<(), ArchiveError> {
    loop {
        let bytes = chunks.fill_buf().map_err(|error| decode_error(&error))?;
        if bytes.is_empty() {
            return Ok(());
        }
        spool.write_all(bytes).map_err(ArchiveError::filesystem("written", SPOOL_NAME))?;
        let count = bytes.len();
        chunks.consume(count);
    }
}

/// Extracts the zip of `length` bytes in the spool.
pub(super) fn extract(spool: &File, length: u64, tree: &mut ExtractionTree<'_>) -> Result<(), ArchiveError> {
    let comment = check_end_record(spool, length, tree.job().limits.max_files)?;
    let mut archive = ZipArchive::new(BufReader::new(spool)).map_err(archive_error)?;
    if archive.comment().len() != comment || archive.offset() != 0 {
        return Err(ArchiveError::TrailingBytes);
    }
    check_central_directory(spool, archive.central_directory_start(), archive.len())?;
    if archive.has_overlapping_entries().map_err(archive_error)? {
        return Err(ArchiveError::Damaged("two entries share the same bytes".to_owned()));
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut total = 0;
    for index in 0..archive.len() {
        tree.job().check_stop()?;
        total = extract_entry(&mut archive, index, &mut buffer, ZipContentState { spool, total, length }, tree)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct ZipContentState<'a> {
    spool: &'a File,
    /// Bytes extracted so far.
    total: u64,
    /// Bytes of the archive.
    length: u64,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rustix")]
fn extract_entry(
    archive: &mut ZipArchive<BufReader<&File>>,
    index: usize,
    buffer: &mut [u8],
    ZipContentState { spool, mut total, length }: ZipContentState<'_>,
    tree: &mut ExtractionTree<'_>,
) -> Result<u64, ArchiveError> {
    let limits = tree.job().limits;
    let meta = archive.metadata();
    let entry_data = meta.entry(index).map_err(archive_error)?;
    let raw = entry_data.name_raw();
    let path = EntryPath::parse(raw, limits)?;
    let refused = |refusal| ArchiveError::refused_entry(path.as_str(), refusal);
    if raw.contains(&b'\\') {
        return Err(refused(EntryRefusal::Backslash));
    }
    let mut source = archive.by_index(index).map_err(|error| match error {
        ZipError::UnsupportedArchive(what) => refused(EntryRefusal::Unsupported(what.to_owned())),
        ZipError::CompressionMethodNotSupported(method) => {
            refused(EntryRefusal::Unsupported(format!("its compression method {method} is not supported")))
        }
        other => archive_error(other),
    })?;
    if !matches_local_header(spool, &source)? {
        return Err(ArchiveError::Damaged(format!(
            "the header of `{}` differs from the central directory",
            escape_line(path.as_str())
        )));
    }
    let modified = modified_time(&source);
    // The upper half holds a Unix mode if the writer had one.
    let mode = source.external_attributes() >> 16;
    let kind = entry_type(mode, raw.ends_with(b"/"));
    let attributes = |default| EntryAttributes::parse(&path, if mode == 0 { default } else { mode & 0o7777 }, modified);
    match kind {
        FileType::Directory => {
            tree.directory(path.clone(), attributes(0o755)?)?;
            return Ok(total);
        }
        FileType::Symlink => {
            let mut target = Vec::new();
            let most = limits.max_path_bytes as u64 + 1;
            source.by_ref().take(most).read_to_end(&mut target).map_err(|error| decode_error(&error))?;
            tree.symlink(path.clone(), &target, modified)?;
            return Ok(total);
        }
        FileType::RegularFile => {}
        special => return Err(refused(EntryRefusal::SpecialFile(special_file_name(special)))),
    }
    let size = source.size();
    let mut remaining = size;
    let mut file = tree.create(path.clone(), size, attributes(0o644)?)?;
    loop {
        tree.job().check_stop()?;
        let count = source.read(buffer).map_err(|error| decode_error(&error))?;
        if count == 0 {
            break;
        }
        total += count as u64;
        remaining = remaining.checked_sub(count as u64).ok_or_else(|| wrong_size(&path))?;
        limits.check_compression_ratio(total, length)?;
        file.write(&buffer[..count])?;
    }
    if remaining != 0 {
        return Err(wrong_size(&path));
    }
    tree.close(file)?;
    Ok(total)
}

/// The type of an entry by its Unix mode; without one, a name that ends with `/` is a directory.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of rustix")]
fn entry_type(mode: u32, ends_with_slash: bool) -> FileType {
    match FileType::from_raw_mode(mode) {
        FileType::Unknown if mode & 0o170_000 == 0 && ends_with_slash => FileType::Directory,
        FileType::Unknown if mode & 0o170_000 == 0 => FileType::RegularFile,
        FileType::RegularFile if ends_with_slash => FileType::Directory,
        kind => kind,
    }
}

fn special_file_name(kind: FileType) -> &'static str {
    match kind {
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::Unknown | FileType::RegularFile | FileType::Directory | FileType::Symlink => {
            "something of an unknown type"
        }
    }
}

/// Checks that an entry's local header agrees with the central directory, because programs differ in which one they
/// use.
fn matches_local_header<R: Read>(spool: &File, entry: &zip::read::ZipFile<'_, R>) -> Result<bool, ArchiveError> {
    /// Size and checksum follow the content.
    const SIZES_DEFERRED: u16 = 1 << 3;
    /// The size is in an extra field.
    const SIZE_IN_EXTRA_FIELD: u32 = u32::MAX;
    let mut header = [0; 30];
    spool.read_exact_at(&mut header, entry.header_start()).map_err(|error| decode_error(&error))?;
    let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut name = vec![0; short(26).into()];
    spool.read_exact_at(&mut name, entry.header_start() + 30).map_err(|error| decode_error(&error))?;
    let is_stored = entry.compression() == zip::CompressionMethod::Stored;
    let size_is = |at: usize, size: u64| long(at) == SIZE_IN_EXTRA_FIELD || u64::from(long(at)) == size;
    let sizes = || long(14) == entry.crc32() && size_is(18, entry.compressed_size()) && size_is(22, entry.size());
    Ok(name == entry.name_raw() && (short(8) == 0) == is_stored && (short(6) & SIZES_DEFERRED != 0 || sizes()))
}

fn wrong_size(path: &EntryPath) -> ArchiveError {
    ArchiveError::Damaged(format!("the size of `{}` differs from the declared size", escape_line(path.as_str())))
}

/// Finds the end record at the end of the file, and checks the number of entries before the zip crate loads them into
/// memory. Returns the length of the archive's comment.
fn check_end_record(spool: &File, length: u64, max_files: u64) -> Result<usize, ArchiveError> {
    let read = |at: u64, count: u64| {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
        spool.read_exact_at(&mut bytes, at).map_err(|error| decode_error(&error))?;
        Ok::<_, ArchiveError>(bytes)
    };
    let begin = length.saturating_sub((END_RECORD_BYTES + usize::from(u16::MAX)) as u64);
    let tail = read(begin, length - begin)?;
    // The end of the archive according to a record at this position.
    let end = |at: usize| at + END_RECORD_BYTES + usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]]));
    let mut places = (0..(tail.len() + 1).saturating_sub(END_RECORD_BYTES))
        .rev()
        .filter(|at| tail[*at..].starts_with(b"PK\x05\x06"));
    let Some(at) = places.clone().find(|at| end(*at) == tail.len()) else {
        return Err(match places.any(|at| end(at) < tail.len()) {
            true => ArchiveError::TrailingBytes,
            false => ArchiveError::Truncated,
        });
    };
    let mut entries = u64::from(u16::from_le_bytes([tail[at + 10], tail[at + 11]]));
    let locator = at.checked_sub(20).map(|locator| &tail[locator..at]).filter(|bytes| bytes.starts_with(b"PK\x06\x07"));
    if let Some(record) = locator.and_then(|bytes| bytes[8..].first_chunk()).map(|bytes| u64::from_le_bytes(*bytes)) {
        let record = read(record.min(length), 40)?;
        entries = record.last_chunk().map_or(entries, |bytes| u64::from_le_bytes(*bytes));
    }
    if entries > max_files {
        return Err(ArchiveError::Limit { limit: ArchiveLimitKind::Files, max: max_files, entry: None });
    }
    Ok(tail.len() - at - END_RECORD_BYTES)
}

/// Walks the central directory: the zip crate silently keeps the last of equal names, and ignores entries beyond the
/// number in the end record.
fn check_central_directory(spool: &File, start: u64, entries: usize) -> Result<(), ArchiveError> {
    let mut reader = BufReader::new(spool);
    reader.seek(SeekFrom::Start(start)).map_err(|error| decode_error(&error))?;
    let mut names = std::collections::HashSet::new();
    let mut found = 0;
    loop {
        let mut signature = [0; 4];
        reader.read_exact(&mut signature).map_err(|error| decode_error(&error))?;
        match &signature {
            b"PK\x01\x02" => {}
            // The end, or that of zip64.
            b"PK\x05\x06" | b"PK\x06\x06" if found == entries => return Ok(()),
            _ => {
                return Err(ArchiveError::Damaged(
                    "the central directory does not have the declared length".to_owned(),
                ));
            }
        }
        let mut fields = [0; 42];
        reader.read_exact(&mut fields).map_err(|error| decode_error(&error))?;
        let length = |at: usize| u16::from_le_bytes([fields[at], fields[at + 1]]);
        let mut name = vec![0; length(24).into()];
        reader.read_exact(&mut name).map_err(|error| decode_error(&error))?;
        reader.seek_relative(i64::from(length(26)) + i64::from(length(28))).map_err(|error| decode_error(&error))?;
        found += 1;
        if names.contains(&name) {
            return Err(ArchiveError::refused_entry(&String::from_utf8_lossy(&name), EntryRefusal::Duplicate));
        }
        if found > entries {
            return Err(ArchiveError::Damaged("the central directory is longer than declared".to_owned()));
        }
        names.insert(name);
    }
}

/// The modification time: UTC if the archive has it, else the writer's local time, taken as UTC.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of zip")]
fn modified_time<R: Read>(file: &zip::read::ZipFile<'_, R>) -> ModifiedTime {
    let exact = file.extra_data_fields().find_map(|field| match field {
        ExtraField::ExtendedTimestamp(times) => times.mod_time(),
        // The zip crate's enum, which may grow.
        _ => None,
    });
    let seconds = match (exact, file.last_modified()) {
        (Some(seconds), _) => i64::from(seconds),
        (None, Some(time)) => {
            days_since_epoch(time.year().into(), time.month().into(), time.day().into()) * 86_400
                + i64::from(time.hour()) * 3600
                + i64::from(time.minute()) * 60
                + i64::from(time.second())
        }
        (None, None) => 0,
    };
    ModifiedTime { seconds, nanos: 0 }
}

/// Days from 1970 to a Gregorian date. Years begin in March here, so that the leap day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of zip")]
fn archive_error(error: ZipError) -> ArchiveError {
    match error {
        ZipError::Io(error) => decode_error(&error),
        other => ArchiveError::damaged(&other),
    }
}

#[cfg(test)]
#[test]
fn days_since_1970_are_computed() {
    assert_eq!(days_since_epoch(1970, 1, 1), 0);
    assert_eq!(days_since_epoch(1980, 1, 1), 3652);
    assert_eq!(days_since_epoch(2000, 2, 29), 11_016);
    assert_eq!(days_since_epoch(2024, 12, 31), 20_088);
}
