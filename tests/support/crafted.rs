//! Archives made byte by byte: no tool that packs releases makes these.

use std::io::Write as _;

/// An entry of a tar, all of it as it shall be.
#[derive(Clone)]
pub struct CraftedTarEntry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub mode: u32,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    /// What the header says, if it is not the truth.
    pub size: Option<u64>,
}

/// A regular file.
pub fn file(name: &str, content: &[u8]) -> CraftedTarEntry {
    CraftedTarEntry {
        name: name.into(),
        kind: b'0',
        mode: 0o644,
        link: Vec::new(),
        content: content.to_vec(),
        size: None,
    }
}

/// A folder.
pub fn folder(name: &str) -> CraftedTarEntry {
    CraftedTarEntry { kind: b'5', mode: 0o755, ..file(name, b"") }
}

/// A symbolic link.
pub fn symlink(name: &str, target: &str) -> CraftedTarEntry {
    CraftedTarEntry { kind: b'2', mode: 0o777, link: target.into(), ..file(name, b"") }
}

/// A hard link.
pub fn hard_link(name: &str, target: &str) -> CraftedTarEntry {
    CraftedTarEntry { kind: b'1', link: target.into(), ..file(name, b"") }
}

/// An extended header of pax with one record.
pub fn pax(key: &str, value: &str) -> CraftedTarEntry {
    let rest = format!(" {key}={value}\n");
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
    CraftedTarEntry { kind: b'x', ..file("pax", format!("{length}{rest}").as_bytes()) }
}

/// A header of GNU's with a name longer than its field.
pub fn gnu_name(name: &str) -> CraftedTarEntry {
    CraftedTarEntry { kind: b'L', ..file("././@LongLink", format!("{name}\0").as_bytes()) }
}

/// A tar of POSIX.1-1988 headers.
pub fn tar(entries: &[CraftedTarEntry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &entry.name);
        put(100, format!("{:07o}\0", entry.mode).as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{:011o}\0", entry.size.unwrap_or(entry.content.len() as u64)).as_bytes());
        put(136, b"14524770400\0");
        put(148, b"        ");
        put(156, &[entry.kind]);
        put(157, &entry.link);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
        tar.extend(&entry.content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// An entry of a zip: name, Unix mode with its type, content. It is stored.
pub struct CraftedZipEntry<'a>(pub &'a [u8], pub u32, pub &'a [u8]);

/// A zip as Unix makes it.
pub fn zip(entries: &[CraftedZipEntry<'_>]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for CraftedZipEntry(name, mode, content) in entries {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let (at, size) = (archive.len() as u32, (content.len() as u32).to_le_bytes());
        // Version, flags, method, time and date, check sum, sizes, lengths of name and extra.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend([size, size].concat());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        archive.extend([b"PK\x03\x04", &common[..], name, content].concat());
        directory.extend([b"PK\x01\x02\x14\x03", &common[..], &[0; 6], &(mode << 16).to_le_bytes()].concat());
        directory.extend([&at.to_le_bytes(), *name].concat());
    }
    let (at, count) = (archive.len() as u32, (entries.len() as u16).to_le_bytes());
    archive.extend(&directory);
    archive.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count].concat());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend([&at.to_le_bytes()[..], &[0, 0]].concat());
    archive
}

/// Packed with gzip.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Packed with zstd.
pub fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}
