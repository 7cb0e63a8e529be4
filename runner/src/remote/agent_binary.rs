//! The runner's binary, as hosts get it: without its symbols, compressed, and for their architecture.
//!
//! A host of another architecture gets `agents/runner-ARCH` beside this binary, ARCH as `uname -m` says it; so does one of the same, if there
//! is such a file. Invariant: it is known by the digest of what arrives, which the agent computes too. What is known of a file is remembered, so
//! that it is read only if a host needs it. Deliberately absent: how it is sent.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use contract::hash::Blake3Hash;
use hostio::atomic_file::replace_unsynced_file;
use serde::{Deserialize, Serialize};

/// The level of zstd. Level 9 saves a tenth and takes a second more, level 19 saves a fifth and takes half a minute.
const ZSTD_LEVEL: i32 = 3;

/// The binaries for hosts, each read when it is needed first.
pub(super) struct AgentBinaries {
    /// Where the facts about them are kept.
    cache_dir: Option<PathBuf>,
    known: Mutex<BTreeMap<String, Arc<AgentBinary>>>,
}

/// A binary for hosts of one architecture.
pub(super) struct AgentBinary {
    pub(super) facts: BinaryFacts,
    source: PathBuf,
    plain: OnceLock<Vec<u8>>,
    zstd: OnceLock<Vec<u8>>,
    gzip: OnceLock<Vec<u8>>,
}

/// What there is to know of a binary without its symbols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BinaryFacts {
    pub(super) digest: Blake3Hash,
    bytes: usize,
    /// The program that loads it; none for a static one.
    pub(super) loader: Option<String>,
    /// The version of the C library that it needs at least; none for a static one.
    pub(super) needed_glibc: Option<GlibcVersion>,
}

/// The facts about a file that has not changed since.
#[derive(Serialize, Deserialize)]
struct RememberedFacts {
    file: String,
    facts: BinaryFacts,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct GlibcVersion {
    major: u32,
    minor: u32,
}

impl AgentBinaries {
    /// None is read yet. What is found out about them is kept in `cache_dir`.
    pub(super) fn new(cache_dir: Option<PathBuf>) -> Self {
        Self { cache_dir, known: Mutex::default() }
    }

    /// The binary for hosts like this machine.
    pub(super) fn own(&self) -> io::Result<Arc<AgentBinary>> {
        self.for_arch(&own_arch()).transpose().expect("there is at least this binary")
    }

    /// The binary for an architecture; none if there is no such file.
    pub(super) fn for_arch(&self, arch: &str) -> io::Result<Option<Arc<AgentBinary>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(binary) = known.get(arch) {
            return Ok(Some(Arc::clone(binary)));
        }
        let path = AgentBinary::path(arch)?;
        let binary = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && arch == own_arch() => {
                let own = PathBuf::from("/proc/self/exe");
                self.read(arch, &File::open(&own)?, own)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => self.read(arch, &file?, path)?,
        };
        let binary = Arc::new(binary);
        known.insert(arch.to_owned(), Arc::clone(&binary));
        Ok(Some(binary))
    }

    fn read(&self, arch: &str, file: &File, source: PathBuf) -> io::Result<AgentBinary> {
        let kept_at = self.cache_dir.as_ref().map(|dir| dir.join(format!("agent-binary-{arch}.json")));
        let is_this = |facts: &RememberedFacts| file_identity(file).is_ok_and(|identity| facts.file == identity);
        let kept = kept_at.as_ref().and_then(|path| serde_json::from_slice(&fs::read(path).ok()?).ok());
        if let Some(RememberedFacts { facts, .. }) = kept.filter(is_this) {
            return Ok(AgentBinary::known(facts, source));
        }
        let mut bytes = Vec::new();
        (&mut &*file).read_to_end(&mut bytes)?;
        let binary = AgentBinary::new(bytes, source);
        if let Some(path) = kept_at {
            let remembered = RememberedFacts { file: file_identity(file)?, facts: binary.facts.clone() };
            let json = serde_json::to_vec(&remembered).expect("plain fields");
            // Otherwise it is read again next time.
            let _ = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| replace_unsynced_file(&path, &json));
        }
        Ok(binary)
    }
}

/// Differs for another file, and for one that was written to.
fn file_identity(file: &File) -> io::Result<String> {
    let data = file.metadata()?;
    let times = (data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec());
    Ok(format!("{} {} {} {times:?}", data.dev(), data.ino(), data.size()))
}

impl AgentBinary {
    /// Where the binary for an architecture lies, beside this one.
    pub(super) fn path(arch: &str) -> io::Result<PathBuf> {
        let own = fs::read_link("/proc/self/exe")?;
        // It is what a host says: a name, or nothing that is there.
        let is_name = arch.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let name = if is_name { arch } else { "unknown" };
        Ok(own.parent().unwrap_or(Path::new("/")).join("agents").join(format!("runner-{name}")))
    }

    fn new(bytes: Vec<u8>, source: PathBuf) -> Self {
        let (plain, facts) = examine(bytes);
        Self { plain: plain.into(), ..Self::known(facts, source) }
    }

    fn known(facts: BinaryFacts, source: PathBuf) -> Self {
        Self { facts, source, plain: OnceLock::new(), zstd: OnceLock::new(), gzip: OnceLock::new() }
    }

    /// Its bytes, without symbols.
    fn plain(&self) -> io::Result<&[u8]> {
        made_once(&self.plain, || {
            let (plain, facts) = examine(fs::read(&self.source)?);
            if facts == self.facts { Ok(plain) } else { Err(io::Error::other("it was replaced meanwhile")) }
        })
    }

    /// What is sent to a host. Blocks, if it is the first.
    pub(super) fn packed(&self, unpacker: Unpacker) -> io::Result<&[u8]> {
        let plain = self.plain()?;
        match unpacker {
            Unpacker::Cat => Ok(plain),
            Unpacker::Zstd => made_once(&self.zstd, || zstd::bulk::compress(plain, ZSTD_LEVEL)),
            Unpacker::Gzip => made_once(&self.gzip, || {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                io::Write::write_all(&mut encoder, plain)?;
                encoder.finish()
            }),
        }
    }

    /// Its size on the host, in megabytes.
    pub(super) fn megabytes(&self) -> usize {
        self.facts.bytes.div_ceil(1_000_000)
    }
}

/// A program without its symbols, and the facts about it.
fn examine(mut bytes: Vec<u8>) -> (Vec<u8>, BinaryFacts) {
    let layout = ElfLayout::read(&bytes);
    if let Some(layout) = &layout {
        layout.strip(&mut bytes);
    }
    let ElfLayout { loader, names, .. } = layout.unwrap_or_default();
    let names = bytes.get(names).filter(|_| loader.is_some());
    let needed_glibc = names.and_then(newest_glibc);
    let facts = BinaryFacts { digest: Blake3Hash::of(&bytes), bytes: bytes.len(), loader, needed_glibc };
    (bytes, facts)
}

/// The newest version of the C library among the names that a program looks for.
fn newest_glibc(names: &[u8]) -> Option<GlibcVersion> {
    let names = names.split(|byte| *byte == 0);
    let versions = names.filter_map(|name| std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_"));
    versions.filter_map(GlibcVersion::parse).max()
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

    fn binary(bytes: Vec<u8>) -> AgentBinary {
        AgentBinary::new(bytes, PathBuf::new())
    }

    #[test]
    fn file_is_read_again_only_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let read = || {
            let binaries = AgentBinaries::new(Some(folder.path().join("cache")));
            binaries.read("x86_64", &File::open(&path).unwrap(), path.clone()).unwrap()
        };
        fs::write(&path, "one").unwrap();
        let first = read();
        assert!(first.plain.get().is_some());
        let second = read();
        assert!(second.plain.get().is_none(), "it is not read");
        assert_eq!((second.facts.clone(), second.plain().unwrap()), (first.facts, &b"one"[..]));
        let third = read();
        fs::write(&path, "two").unwrap();
        assert!(third.plain().unwrap_err().to_string().contains("replaced"));
        assert_eq!(read().plain().unwrap(), b"two");
        fs::write(folder.path().join("cache/agent-binary-x86_64.json"), "{").unwrap();
        assert_eq!(read().plain().unwrap(), b"two");
    }

    #[test]
    fn program_runs_without_its_symbols() {
        let own = fs::read("/proc/self/exe").unwrap();
        let binary = binary(own.clone());
        let plain = binary.plain().unwrap();
        assert!(plain.len() < own.len());
        assert_eq!(super::examine(plain.to_vec()).1, binary.facts, "nothing is left to strip");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, plain).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Command::new(&path).arg("--list").output().unwrap().status.success());
    }

    #[test]
    fn what_is_packed_can_be_unpacked_by_the_hosts_own_programs() {
        let binary = binary(b"not a program\n".repeat(1000));
        let folder = tempfile::tempdir().unwrap();
        for (unpacker, program) in [(Unpacker::Zstd, "zstd"), (Unpacker::Gzip, "gzip")] {
            assert_eq!(Unpacker::parse(program), unpacker);
            let packed = binary.packed(unpacker).unwrap();
            assert!(packed.len() < 200, "{program}: {}", packed.len());
            let path = folder.path().join(program);
            fs::write(&path, packed).unwrap();
            let input = fs::File::open(&path).unwrap();
            let output = Command::new(program).arg("-dc").stdin(input).output().unwrap();
            assert_eq!(output.stdout, binary.plain().unwrap(), "{program}");
        }
        assert_eq!(binary.packed(Unpacker::Cat).unwrap(), binary.plain().unwrap());
    }

    #[test]
    fn damaged_programs_are_sent_as_they_are() {
        let own = fs::read("/proc/self/exe").unwrap();
        let mut far = own[..4096].to_vec();
        far[32..40].fill(0xff);
        for bytes in [&own[..100], &far, b"#!/bin/sh\n", b"\x7fELF\x02\x01", b""] {
            assert_eq!(binary(bytes.to_vec()).plain().unwrap(), bytes);
        }
    }

    #[test]
    fn newest_needed_version_of_the_c_library_is_found() {
        assert_eq!(
            newest_glibc(b"\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_2.3.4\0GLIBC_PRIVATE\0GLIBC_\0").unwrap().to_string(),
            "2.34"
        );
        assert_eq!(newest_glibc(b"\0GLIBC_PRIVATE\0"), None);
        let own = binary(fs::read("/proc/self/exe").unwrap());
        assert!(own.facts.needed_glibc.unwrap() > GlibcVersion::parse("2.1").unwrap());
        let newer = GlibcVersion::parse("2.40").unwrap();
        assert!(GlibcVersion::parse("2.34").unwrap() < newer && GlibcVersion::parse("2.9").unwrap() < newer);
        assert_eq!(GlibcVersion::parse("unknown"), None);
    }
}
