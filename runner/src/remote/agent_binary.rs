//! The runner's binary, as hosts get it: without its symbols, compressed, and for their architecture.
//!
//! A host of another architecture gets `agents/runner-ARCH` beside this binary, ARCH as `uname -m` says it; so does one of the same, if there
//! is such a file. Invariant: it is known by the digest of what arrives, which the agent computes too. Deliberately absent: how it is sent.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use contract::hash::Blake3Hash;

/// The level of zstd. Level 9 saves a tenth and takes a second more, level 19 saves a fifth and takes half a minute.
const ZSTD_LEVEL: i32 = 3;

/// A binary for hosts of one architecture.
pub(super) struct AgentBinary {
    pub(super) digest: Blake3Hash,
    /// The program that loads it; none for a static one.
    pub(super) loader: Option<String>,
    /// Where the names are that it looks for when it is loaded.
    names: Range<usize>,
    plain: Vec<u8>,
    zstd: OnceLock<Vec<u8>>,
    gzip: OnceLock<Vec<u8>>,
}

/// What a host unpacks the binary with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpacker {
    Zstd,
    Gzip,
    /// It has none of them.
    Cat,
}

/// A version of the GNU C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GlibcVersion {
    major: u32,
    minor: u32,
}

impl AgentBinary {
    /// The binary for this architecture, read once; none if there is no such file.
    pub(super) fn for_arch(arch: &str) -> io::Result<Option<&'static Self>> {
        static BINARIES: Mutex<BTreeMap<String, &'static AgentBinary>> = Mutex::new(BTreeMap::new());
        let mut binaries = BINARIES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(binary) = binaries.get(arch) {
            return Ok(Some(binary));
        }
        let bytes = match fs::read(Self::path(arch)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && arch == own_arch() => fs::read("/proc/self/exe")?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        // As long as the process lives, a host may need it.
        let binary: &'static Self = Box::leak(Box::new(Self::new(bytes)));
        binaries.insert(arch.to_owned(), binary);
        Ok(Some(binary))
    }

    /// Where the binary for an architecture lies, beside this one.
    pub(super) fn path(arch: &str) -> io::Result<PathBuf> {
        let own = fs::read_link("/proc/self/exe")?;
        // It is what a host says: a name, or nothing that is there.
        let is_name = arch.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let name = if is_name { arch } else { "unknown" };
        Ok(own.parent().unwrap_or(Path::new("/")).join("agents").join(format!("runner-{name}")))
    }

    fn new(mut plain: Vec<u8>) -> Self {
        let layout = ElfLayout::read(&plain);
        if let Some(layout) = &layout {
            layout.strip(&mut plain);
        }
        let ElfLayout { loader, names, .. } = layout.unwrap_or_default();
        Self { digest: Blake3Hash::of(&plain), loader, names, plain, zstd: OnceLock::new(), gzip: OnceLock::new() }
    }

    /// What is sent to a host. Blocks, if it is the first.
    pub(super) fn packed(&self, unpacker: Unpacker) -> io::Result<&[u8]> {
        match unpacker {
            Unpacker::Cat => Ok(&self.plain),
            Unpacker::Zstd => made_once(&self.zstd, || zstd::bulk::compress(&self.plain, ZSTD_LEVEL)),
            Unpacker::Gzip => made_once(&self.gzip, || {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                io::Write::write_all(&mut encoder, &self.plain)?;
                encoder.finish()
            }),
        }
    }

    /// Its size on the host, in megabytes.
    pub(super) fn megabytes(&self) -> usize {
        self.plain.len().div_ceil(1_000_000)
    }

    /// The version of the C library that it needs at least; none for a static one.
    pub(super) fn needed_glibc(&self) -> Option<GlibcVersion> {
        self.loader.as_ref()?;
        let names = self.plain.get(self.names.clone())?.split(|byte| *byte == 0);
        let versions = names.filter_map(|name| std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_"));
        versions.filter_map(GlibcVersion::parse).max()
    }
}

fn made_once(cell: &OnceLock<Vec<u8>>, make: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<&[u8]> {
    // Many hosts may need it at the same time.
    static MAKING: Mutex<()> = Mutex::new(());
    let _others_wait = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    match cell.get() {
        Some(packed) => Ok(packed),
        None => make().map(|packed| cell.get_or_init(|| packed).as_slice()),
    }
}

/// What `uname -m` says here.
pub(super) fn own_arch() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

impl Unpacker {
    /// By the word that the host says.
    pub(super) fn parse(word: &str) -> Self {
        match word {
            "zstd" => Self::Zstd,
            "gzip" => Self::Gzip,
            _ => Self::Cat,
        }
    }
}

impl GlibcVersion {
    /// Reads `2.36`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Self { major, minor })
    }
}

impl std::fmt::Display for GlibcVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What of an ELF file is loaded. What comes after it is symbols, and the table of sections.
#[derive(Default)]
struct ElfLayout {
    loaded_end: usize,
    loader: Option<String>,
    /// The names that the loader looks for, and their versions.
    names: Range<usize>,
}

impl ElfLayout {
    /// Reads the program headers (ELF-64, little-endian); none if it is another file.
    fn read(bytes: &[u8]) -> Option<Self> {
        const DYNAMIC: usize = 2;
        const INTERPRETER: usize = 3;
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (table, entry, count) = (number(bytes, 32, 8)?, number(bytes, 54, 2)?, number(bytes, 56, 2)?);
        let mut layout = Self { loaded_end: table.checked_add(entry * count)?, ..Self::default() };
        let (mut addresses, mut dynamic) = (Vec::new(), &[][..]);
        for header in (0..count).map(|index| table + index * entry) {
            let (begin, length) = (number(bytes, header + 8, 8)?, number(bytes, header + 32, 8)?);
            let end = begin.checked_add(length)?;
            let content = bytes.get(begin..end)?;
            layout.loaded_end = layout.loaded_end.max(end);
            addresses.push((number(bytes, header + 16, 8)?, begin, length));
            match number(bytes, header, 4)? {
                DYNAMIC => dynamic = content,
                INTERPRETER => {
                    let text = content.split(|byte| *byte == 0).next().unwrap_or_default();
                    layout.loader = Some(String::from_utf8_lossy(text).into_owned());
                }
                _ => {}
            }
        }
        layout.names = loaded_names(dynamic, &addresses).unwrap_or_default();
        Some(layout)
    }

    /// Leaves out what is not loaded.
    fn strip(&self, bytes: &mut Vec<u8>) {
        bytes.truncate(self.loaded_end);
        // The place, number and names of sections.
        bytes[40..48].fill(0);
        bytes[60..64].fill(0);
    }
}

/// An unsigned number in little-endian bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let digits = bytes.get(at..at.checked_add(length)?)?;
    usize::try_from(digits.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))).ok()
}

/// Where the string table is that a dynamic section names. `addresses` are those of the loaded parts, with their places and lengths in
/// the file.
fn loaded_names(dynamic: &[u8], addresses: &[(usize, usize, usize)]) -> Option<Range<usize>> {
    const STRING_TABLE: usize = 5;
    const STRING_TABLE_SIZE: usize = 10;
    let value = |tag: usize| {
        let mut entries = dynamic.chunks_exact(16);
        entries.find_map(|entry| (number(entry, 0, 8)? == tag).then(|| number(entry, 8, 8))?)
    };
    let (address, size) = (value(STRING_TABLE)?, value(STRING_TABLE_SIZE)?);
    let place = |(loaded, begin, length): &(usize, usize, usize)| {
        let inside = address.checked_sub(*loaded).filter(|inside| inside < length)?;
        begin.checked_add(inside)
    };
    let begin = addresses.iter().find_map(place)?;
    Some(begin..begin.checked_add(size)?)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    #[test]
    fn program_runs_without_its_symbols() {
        let own = fs::read("/proc/self/exe").unwrap();
        let binary = AgentBinary::new(own.clone());
        assert!(binary.plain.len() < own.len());
        assert_eq!(AgentBinary::new(binary.plain.clone()).digest, binary.digest, "nothing is left to strip");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, &binary.plain).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Command::new(&path).arg("--list").output().unwrap().status.success());
    }

    #[test]
    fn what_is_packed_can_be_unpacked_by_the_hosts_own_programs() {
        let binary = AgentBinary::new(b"not a program\n".repeat(1000));
        let folder = tempfile::tempdir().unwrap();
        for (unpacker, program) in [(Unpacker::Zstd, "zstd"), (Unpacker::Gzip, "gzip")] {
            assert_eq!(Unpacker::parse(program), unpacker);
            let packed = binary.packed(unpacker).unwrap();
            assert!(packed.len() < 200, "{program}: {}", packed.len());
            let path = folder.path().join(program);
            fs::write(&path, packed).unwrap();
            let input = fs::File::open(&path).unwrap();
            let output = Command::new(program).arg("-dc").stdin(input).output().unwrap();
            assert_eq!(output.stdout, binary.plain, "{program}");
        }
        assert_eq!(binary.packed(Unpacker::Cat).unwrap(), binary.plain);
    }

    #[test]
    fn damaged_programs_are_sent_as_they_are() {
        let own = fs::read("/proc/self/exe").unwrap();
        let mut far = own[..4096].to_vec();
        far[32..40].fill(0xff);
        for bytes in [&own[..100], &far, b"#!/bin/sh\n", b"\x7fELF\x02\x01", b""] {
            assert_eq!(AgentBinary::new(bytes.to_vec()).plain, bytes);
        }
    }

    #[test]
    fn newest_needed_version_of_the_c_library_is_found() {
        let mut binary = AgentBinary::new(b"\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.3.4\0GLIBC_PRIVATE\0GLIBC_\0".to_vec());
        assert_eq!(binary.needed_glibc(), None, "it is static");
        binary.loader = Some("/lib/ld.so".to_owned());
        assert_eq!(binary.needed_glibc(), None);
        binary.names = 0..binary.plain.len();
        assert_eq!(binary.needed_glibc().unwrap().to_string(), "2.34");
        let own = AgentBinary::new(fs::read("/proc/self/exe").unwrap());
        assert!(own.needed_glibc().unwrap() > GlibcVersion::parse("2.1").unwrap());
        let newer = GlibcVersion::parse("2.40").unwrap();
        assert!(GlibcVersion::parse("2.34").unwrap() < newer && GlibcVersion::parse("2.9").unwrap() < newer);
        assert_eq!(GlibcVersion::parse("unknown"), None);
    }
}
