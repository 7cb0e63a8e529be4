//! Tar: v7, ustar, pax and GNU headers, read strictly.
//!
//! The stream is walked here, not by the tar crate (whose `Header` decodes the fields), because its walk keeps extended
//! headers of any length in memory and accepts a stream without an end marker. Deliberately absent: sparse files,
//! several volumes, extended attributes (skipped). Format: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax
//! Header Block"; GNU tar manual, "Basic Tar Format".

use std::io::BufRead as _;

use tar::{EntryType, Header};

use super::{
    decode::{decode_error, expect_zero_padding},
    entry::{EntryAttributes, EntryPath, ModifiedTime},
    error::{ArchiveError, ArchiveLimitKind, EntryRefusal},
    pipeline::ChunkReader,
    tree::ExtractionTree,
};

const BLOCK_BYTES: usize = 512;
/// The largest extended header in bytes; real ones have a few hundred.
const MAX_EXTENDED_BYTES: u64 = 1 << 20;

/// Extracts the tar in `input` and reads the stream to its end.
pub(super) fn extract(mut input: ChunkReader, tree: &mut ExtractionTree<'_>) -> Result<(), ArchiveError> {
    let mut extended = TarExtendedHeader::default();
    while let Some(header) = next_header(&mut input)? {
        tree.job().check_stop()?;
        let kind = header.entry_type();
        if matches!(
            kind,
            EntryType::XHeader | EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink
        ) {
            extended.read_header(kind, &header, &mut input)?;
        } else {
            extract_entry(&header, std::mem::take(&mut extended), &mut input, tree)?;
        }
    }
    if extended.is_pending {
        return Err(ArchiveError::Damaged("it ends with an extended header without an entry".to_owned()));
    }
    expect_zero_padding(&mut input)
}

/// The next header; `None` at the end marker.
fn next_header(input: &mut ChunkReader) -> Result<Option<Header>, ArchiveError> {
    let mut header = Header::new_old();
    let mut filled = 0;
    pass_bytes(input, BLOCK_BYTES as u64, |bytes| {
        header.as_mut_bytes()[filled..filled + bytes.len()].copy_from_slice(bytes);
        filled += bytes.len();
        Ok(())
    })?;
    let block = header.as_bytes();
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    // The checksum field itself, bytes 148 to 155, counts as spaces.
    let sum = block.iter().map(|byte| u32::from(*byte)).sum::<u32>()
        - block[148..156].iter().map(|byte| u32::from(*byte)).sum::<u32>()
        + 8 * u32::from(b' ');
    match header.cksum() {
        Ok(written) if written == sum => Ok(Some(header)),
        _ => Err(ArchiveError::Damaged("the checksum of a tar header is wrong".to_owned())),
    }
}

/// Passes on the next `count` bytes without copying.
fn pass_bytes(
    input: &mut ChunkReader,
    mut count: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    while count > 0 {
        let bytes = input.fill_buf().map_err(|error| decode_error(&error))?;
        if bytes.is_empty() {
            return Err(ArchiveError::Truncated);
        }
        let part = bytes.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        take(&bytes[..part])?;
        input.consume(part);
        count -= part as u64;
    }
    Ok(())
}

fn skip_padding(input: &mut ChunkReader, size: u64) -> Result<(), ArchiveError> {
    pass_bytes(input, size.next_multiple_of(BLOCK_BYTES as u64) - size, |_| Ok(()))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is that of tar")]
fn extract_entry(
    header: &Header,
    extended: TarExtendedHeader,
    input: &mut ChunkReader,
    tree: &mut ExtractionTree<'_>,
) -> Result<(), ArchiveError> {
    let limits = tree.job().limits;
    let raw = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let path = EntryPath::parse(&raw, limits)?;
    let refused = |refusal| Err(ArchiveError::refused_entry(path.as_str(), refusal));
    let is_layered = tree.is_layered();
    let field = |error: std::io::Error| ArchiveError::damaged(&error);
    if extended.is_sparse {
        return refused(EntryRefusal::Sparse);
    }
    let size = match extended.size {
        Some(size) => size,
        None => header.entry_size().map_err(field)?,
    };
    let modified = match extended.modified {
        Some(modified) => modified,
        // A time before 1970 is GNU's negative number, in two's complement.
        None => ModifiedTime { seconds: header.mtime().map_err(field)?.cast_signed(), nanos: 0 },
    };
    let link = || extended.link.clone().or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
    let attributes = || {
        let mode = header.mode().map_err(field)?;
        EntryAttributes::parse(&path, if is_layered { mode & 0o777 } else { mode }, modified)
    };
    let kind = match header.entry_type() {
        // Before ustar, a directory was a file with such a name.
        EntryType::Regular if raw.ends_with(b"/") => EntryType::Directory,
        EntryType::Continuous => EntryType::Regular,
        kind => kind,
    };
    if size > 0 && matches!(kind, EntryType::Directory | EntryType::Symlink | EntryType::Link) {
        // Programs differ in whether content follows, and so in where the next entry begins.
        return refused(EntryRefusal::Unsupported("it is a directory or link with content".to_owned()));
    }
    if tree.white_out(&path)? {
        return pass_bytes(input, size, |_| Ok(())).and_then(|()| skip_padding(input, size));
    }
    match kind {
        EntryType::Regular => {
            let mut file = tree.create(path.clone(), size, attributes()?)?;
            pass_bytes(input, size, |bytes| file.write(bytes))?;
            tree.close(file)?;
            skip_padding(input, size)
        }
        EntryType::Directory => tree.directory(path.clone(), attributes()?),
        EntryType::Symlink => tree.symlink(path.clone(), &link().unwrap_or_default(), modified),
        EntryType::Link => {
            attributes()?;
            tree.hard_link(path.clone(), &link().unwrap_or_default())
        }
        EntryType::GNUSparse => refused(EntryRefusal::Sparse),
        EntryType::Char | EntryType::Block | EntryType::Fifo if is_layered => Ok(()),
        EntryType::Char => refused(EntryRefusal::SpecialFile("a character device")),
        EntryType::Block => refused(EntryRefusal::SpecialFile("a block device")),
        EntryType::Fifo => refused(EntryRefusal::SpecialFile("a pipe")),
        // The tar crate's enum, which may grow.
        _ => refused(EntryRefusal::SpecialFile("something of an unknown type")),
    }
}

/// The extended headers for the next entry.
#[derive(Default)]
struct TarExtendedHeader {
    is_pending: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<ModifiedTime>,
    is_sparse: bool,
}

impl TarExtendedHeader {
    /// Reads the content of one extended header.
    fn read_header(&mut self, kind: EntryType, header: &Header, input: &mut ChunkReader) -> Result<(), ArchiveError> {
        let size = header.entry_size().map_err(|error| ArchiveError::damaged(&error))?;
        if size > MAX_EXTENDED_BYTES {
            let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            return Err(ArchiveError::over_limit(ArchiveLimitKind::Header, MAX_EXTENDED_BYTES, &name));
        }
        let mut content = Vec::new();
        pass_bytes(input, size, |bytes| {
            content.extend_from_slice(bytes);
            Ok(())
        })?;
        skip_padding(input, size)?;
        if kind == EntryType::XGlobalHeader {
            // `git archive` writes a comment. A header that would change every entry is refused, not ignored.
            let mut global = Self::default();
            global.parse_pax_records(&content)?;
            if global.path.is_some() || global.link.is_some() || global.size.is_some() || global.is_sparse {
                let what = "a global header sets the path or size of every entry";
                return Err(ArchiveError::Damaged(what.to_owned()));
            }
            return Ok(());
        }
        self.is_pending = true;
        if kind == EntryType::XHeader {
            return self.parse_pax_records(&content);
        }
        let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
        content.truncate(end);
        // A pax header takes precedence over GNU's, wherever it is.
        let long = if kind == EntryType::GNULongName { &mut self.path } else { &mut self.link };
        long.get_or_insert(content);
        Ok(())
    }

    /// Reads pax records, `<length> <key>=<value>\n`, by their lengths, because a value may contain newlines.
    fn parse_pax_records(&mut self, mut content: &[u8]) -> Result<(), ArchiveError> {
        let damaged = || ArchiveError::Damaged("a record of a pax header is malformed".to_owned());
        while !content.is_empty() {
            let space = content.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length: usize = parse_number(&content[..space]).ok_or_else(damaged)?;
            let record = content.get(space + 1..length).ok_or_else(damaged)?;
            let record = record.strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                // An empty value cancels an earlier one.
                b"path" => self.path = Some(value.to_owned()).filter(|value| !value.is_empty()),
                b"linkpath" => self.link = Some(value.to_owned()).filter(|value| !value.is_empty()),
                b"size" => self.size = Some(parse_number(value).ok_or_else(damaged)?),
                b"mtime" => self.modified = Some(parse_pax_time(value).ok_or_else(damaged)?),
                _ if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                _ => {}
            }
            content = &content[length..];
        }
        Ok(())
    }
}

fn parse_number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let digits = str::from_utf8(digits).ok()?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Parses a pax time, such as `-1.25`.
fn parse_pax_time(text: &[u8]) -> Option<ModifiedTime> {
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, whole) = whole.strip_prefix('-').map_or((false, whole), |whole| (true, whole));
    let seconds: i64 = parse_number(whole.as_bytes())?;
    let digits = fraction.get(..fraction.len().min(9))?;
    let nanos: u32 = parse_number(format!("{digits:0<9}").as_bytes())?;
    Some(match (negative, nanos) {
        (false, nanos) => ModifiedTime { seconds, nanos },
        (true, 0) => ModifiedTime { seconds: -seconds, nanos: 0 },
        (true, nanos) => ModifiedTime { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
#[test]
fn pax_times() {
    let modified = |seconds, nanos| Some(ModifiedTime { seconds, nanos });
    assert_eq!(parse_pax_time(b"12"), modified(12, 0));
    assert_eq!(parse_pax_time(b"12.5"), modified(12, 500_000_000));
    assert_eq!(parse_pax_time(b"12.1234567891"), modified(12, 123_456_789));
    assert_eq!(parse_pax_time(b"-1.25"), modified(-2, 750_000_000));
    assert_eq!(parse_pax_time(b"-3"), modified(-3, 0));
    for bad in ["", "x", "1.x", "--1", "1.\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", "99999999999999999999"] {
        assert_eq!(parse_pax_time(bad.as_bytes()), None, "{bad:?}");
    }
}
