//! What a runner changed on a disk, in order, by strace.
//!
//! A call that would change a file in a way that is not modelled fails the test: nothing is left out silently.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};

use super::disk::{Disk, DiskChange, FileContent, Inode, InodeContent, InodeId, NameChange};
use crate::example_shop::ExampleShop;

/// All calls that change a file or its name, or sync it, and those that say where a write goes.
const TRACED_CALLS: &str = "open,openat,openat2,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,\
                     copy_file_range,sendfile,splice,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat,unlink,\
                     unlinkat,rmdir,fsync,fdatasync,sync,syncfs,sync_file_range,utimensat,chmod,fchmod,fchmodat";
/// What the counted program makes, in a folder that loses nothing.
pub(crate) const COUNTED_PREFIX: &str = "ran-";

/// A disk, and all that happened to it.
pub(crate) struct DiskTrace {
    /// With all inodes that the changes mention.
    pub(crate) initial: Disk,
    pub(crate) changes: Vec<DiskChange>,
    /// The effects of the counted program: before which change each one happened.
    pub(crate) effects: Vec<(usize, String)>,
    /// After all changes.
    current: Disk,
    root: PathBuf,
    /// Where the next write without an offset goes; `None` is the end.
    positions: BTreeMap<InodeId, Option<usize>>,
    umask: u32,
}

/// Where a traced runner is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TraceKill {
    Never,
    /// At its n-th `fdatasync`, which is not done.
    AtDataSync(usize),
}

impl DiskTrace {
    pub(crate) fn new(shop: &ExampleShop) -> Result<Self> {
        let initial = Disk::read(shop.folder())?;
        let status = fs::read_to_string("/proc/self/status")?;
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).context("the umask")?;
        Ok(Self {
            current: initial.clone(),
            initial,
            changes: Vec::new(),
            effects: Vec::new(),
            root: fs::canonicalize(shop.folder())?,
            positions: BTreeMap::new(),
            umask: u32::from_str_radix(umask.trim(), 8)?,
        })
    }

    /// Runs the runner, and adds what it changes.
    pub(crate) fn run(&mut self, shop: &ExampleShop, words: &[&str], kill: TraceKill) -> Result<ExitStatus> {
        let folder = tempfile::tempdir()?;
        let output = folder.path().join("trace");
        let mut command = Command::new("strace");
        shop.make_hermetic(&mut command);
        let calls = TRACED_CALLS.replace(',', ",?");
        command.args([
            "-f",
            "-qq",
            "-y",
            "-v",
            "-s",
            "33554432",
            "-e",
            &format!("trace=?{calls}"),
            "-e",
            "signal=none",
        ]);
        if let TraceKill::AtDataSync(number) = kill {
            command.args(["-e", &format!("inject=fdatasync:signal=SIGKILL:when={number}")]);
        }
        command.arg("-o").arg(&output).arg(env!("CARGO_BIN_EXE_runner")).args(words);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.context("strace can't be run: `cargo xtask setup` installs it")?;
        let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
        let text = fs::read(&output)?;
        let text = String::from_utf8_lossy(&text);
        for line in text.lines() {
            let (thread, call) = line.split_once(' ').context("a line of strace's without a thread")?;
            let call = call.trim_start();
            if let Some(begun) = call.strip_suffix("<unfinished ...>") {
                unfinished.insert(thread, begun.trim_end());
            } else if let Some(rest) = call.strip_prefix("<... ") {
                let begun = unfinished.remove(thread).context("a resumed call that did not begin")?;
                let (_, rest) = rest.split_once("resumed>").context("a resumed call")?;
                self.add_call(&format!("{begun}{rest}")).with_context(|| shorten(line))?;
            } else {
                self.add_call(call).with_context(|| shorten(line))?;
            }
        }
        Ok(status)
    }

    fn push(&mut self, change: DiskChange) {
        self.current.apply(&change);
        self.changes.push(change);
    }

    /// Adds an inode that the changes after it give a name.
    fn create(&mut self, mode: u32, content: InodeContent) -> InodeId {
        let inode = Inode { mode: mode & !self.umask, modified: None, content };
        self.initial.add(inode.clone());
        self.current.add(inode)
    }

    fn add_call(&mut self, call: &str) -> Result<()> {
        let Some(call) = TracedCallText::parse(call)? else { return Ok(()) };
        match call.name {
            "open" | "openat" | "openat2" | "creat" => self.add_open(&call),
            "lseek" => {
                if let Some(file) = self.inode(call.fd_path(0)) {
                    ensure!(call.arguments.get(2).is_some_and(|whence| *whence == "SEEK_SET" || *whence == "SEEK_CUR"));
                    self.positions.insert(file, Some(usize::try_from(call.result)?));
                }
                Ok(())
            }
            "write" | "writev" | "pwrite64" => self.add_write(&call),
            "ftruncate" => {
                if let Some(file) = self.inode(call.fd_path(0)) {
                    self.push(DiskChange::Truncate { file, length: call.number(1)? });
                }
                Ok(())
            }
            "mkdir" | "mkdirat" => self.add_folder(&call),
            "symlink" | "symlinkat" => {
                let at = usize::from(call.name == "symlinkat");
                let Some(path) = self.inside(&call.path(at + 1, (at == 1).then_some(1))?) else { return Ok(()) };
                let target = String::from_utf8(call.text(0)?)?;
                let link = self.create(0o777, InodeContent::Link(target));
                self.set_names(&[(path, Some(link))])
            }
            "unlink" | "rmdir" | "unlinkat" => {
                let at = usize::from(call.name == "unlinkat");
                match self.inside(&call.path(at, (at == 1).then_some(0))?) {
                    Some(path) => self.set_names(&[(path, None)]),
                    None => Ok(()),
                }
            }
            "rename" | "renameat" | "renameat2" => self.add_rename(&call),
            "fsync" | "fdatasync" => {
                if let Some(inode) = self.inode(call.fd_path(0)) {
                    self.push(DiskChange::Sync(inode));
                }
                Ok(())
            }
            "sync" | "syncfs" => {
                self.push(DiskChange::SyncAll);
                Ok(())
            }
            "utimensat" => {
                if let Some(inode) = self.inode(call.fd_path(0)) {
                    ensure!(call.arguments.get(1) == Some(&"NULL"), "times of a path are not modelled");
                    let modified =
                        call.arguments.get(2).and_then(|times| times.rsplit_once("{tv_sec=")).context("times")?;
                    let (seconds, nanos) = modified.1.split_once(", tv_nsec=").context("nanoseconds")?;
                    let nanos: u64 = nanos.split('}').next().context("nanoseconds")?.parse()?;
                    self.push(DiskChange::SetModified {
                        inode,
                        modified: seconds.parse::<u64>()? * 1_000_000_000 + nanos,
                    });
                }
                Ok(())
            }
            "fchmod" => {
                if let Some(inode) = self.inode(call.fd_path(0)) {
                    let mode = call.arguments.get(1).context("a mode")?;
                    self.push(DiskChange::SetMode { inode, mode: u32::from_str_radix(mode, 8)? });
                }
                Ok(())
            }
            _ => {
                let is_inside = call.arguments.iter().any(|argument| argument.contains(&*self.root.to_string_lossy()));
                ensure!(!is_inside, "`{}` is not modelled", call.name);
                Ok(())
            }
        }
    }

    fn add_open(&mut self, call: &TracedCallText<'_>) -> Result<()> {
        let at = usize::from(call.name != "open" && call.name != "creat");
        let flags = call.arguments[at + 1..].join(", ");
        let Some(path) = self.inside(&call.path(at, (at == 1).then_some(0))?) else { return Ok(()) };
        ensure!(!flags.contains("O_TMPFILE") && call.name != "creat", "it is not modelled");
        let known = self.current.find(&path);
        let file = match known {
            None if flags.contains("O_CREAT") => {
                let mode = match flags.split_once("mode=") {
                    Some((_, mode)) => mode.split([',', '}']).next().context("a mode")?,
                    None => call.arguments.last().context("a mode")?,
                };
                let file =
                    self.create(u32::from_str_radix(mode, 8)?, InodeContent::File(Arc::new(FileContent::default())));
                self.set_names(&[(path, Some(file))])?;
                file
            }
            Some(file) => file,
            None => return Ok(()),
        };
        if flags.contains("O_TRUNC") && known.is_some() {
            self.push(DiskChange::Truncate { file, length: 0 });
        }
        if flags.contains("O_WRONLY") || flags.contains("O_RDWR") {
            self.positions.insert(file, (!flags.contains("O_APPEND")).then_some(0));
        }
        Ok(())
    }

    fn add_write(&mut self, call: &TracedCallText<'_>) -> Result<()> {
        let Some(file) = self.inode(call.fd_path(0)) else { return Ok(()) };
        let mut bytes = if call.name == "writev" { unescape_all(call.arguments[1])? } else { call.text(1)? };
        bytes.truncate(usize::try_from(call.result)?);
        let offset = if call.name == "pwrite64" {
            call.number(3)?
        } else {
            let end = self.current.file_length(file);
            let position = self.positions.get(&file).context("a write to a file that was not opened")?;
            let offset = position.unwrap_or(end);
            if position.is_some() {
                self.positions.insert(file, Some(offset + bytes.len()));
            }
            offset
        };
        self.push(DiskChange::Write { file, offset, bytes });
        Ok(())
    }

    fn add_folder(&mut self, call: &TracedCallText<'_>) -> Result<()> {
        let at = usize::from(call.name == "mkdirat");
        let path = call.path(at, (at == 1).then_some(0))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(COUNTED_PREFIX) {
            self.effects.push((self.changes.len(), name.to_owned()));
            return Ok(());
        }
        let Some(path) = self.inside(&path) else { return Ok(()) };
        let mode = call.arguments.get(at + 1).context("a mode")?;
        let folder = self.create(u32::from_str_radix(mode, 8)?, InodeContent::Folder(BTreeMap::new()));
        self.set_names(&[(path, Some(folder))])
    }

    fn add_rename(&mut self, call: &TracedCallText<'_>) -> Result<()> {
        let (from, to) = if call.name == "rename" {
            (call.path(0, None)?, call.path(1, None)?)
        } else {
            (call.path(1, Some(0))?, call.path(3, Some(2))?)
        };
        ensure!(
            call.name != "renameat2"
                || call.arguments.last().is_some_and(|flags| *flags == "0" || *flags == "RENAME_NOREPLACE")
        );
        let (Some(from), Some(to)) = (self.inside(&from), self.inside(&to)) else { return Ok(()) };
        let inode = self.current.find(&from).context("what is renamed is not there")?;
        self.set_names(&[(from, None), (to, Some(inode))])
    }

    fn set_names(&mut self, names: &[(PathBuf, Option<InodeId>)]) -> Result<()> {
        let changes = names.iter().map(|(path, inode)| {
            let (folder, name) = self.current.find_parent(path)?;
            Ok(NameChange { folder, name: name.to_owned(), inode: *inode })
        });
        let changes = changes.collect::<Result<Vec<_>>>()?;
        self.push(DiskChange::Names(changes));
        Ok(())
    }

    /// The path below the root, if it is there.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        let path = self.root.join(path);
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                Component::CurDir => {}
                part @ (Component::Prefix(_) | Component::RootDir | Component::Normal(_)) => plain.push(part),
            }
        }
        plain.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// What a descriptor is open for, if it is on the disk and has a name.
    fn inode(&self, path: Option<&str>) -> Option<InodeId> {
        self.current.find(&self.inside(Path::new(path?))?)
    }
}

/// A call that succeeded, in its parts.
struct TracedCallText<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    result: u64,
}

impl<'a> TracedCallText<'a> {
    /// `None` for a call that failed or did not end, and for anything else.
    fn parse(call: &'a str) -> Result<Option<Self>> {
        let Some((name, rest)) = call.split_once('(') else { return Ok(None) };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { return Ok(None) };
        let Some(arguments) = arguments.trim_end().strip_suffix(')') else { return Ok(None) };
        let digits: String = result.chars().take_while(char::is_ascii_digit).collect();
        let Ok(result) = digits.parse() else { return Ok(None) };
        Ok(Some(Self { name, arguments: split_arguments(arguments), result }))
    }

    fn number(&self, index: usize) -> Result<usize> {
        Ok(self.arguments.get(index).context("a number")?.parse()?)
    }

    /// The bytes of a string.
    fn text(&self, index: usize) -> Result<Vec<u8>> {
        unescape_all(self.arguments.get(index).context("a text")?)
    }

    /// `5</path>` is open for `/path`.
    fn fd_path(&self, index: usize) -> Option<&'a str> {
        self.arguments.get(index)?.split_once('<')?.1.strip_suffix('>')
    }

    /// A path, below the folder that argument `folder` is open for.
    fn path(&self, index: usize, folder: Option<usize>) -> Result<PathBuf> {
        let path = PathBuf::from(String::from_utf8(self.text(index)?)?);
        let folder = folder.and_then(|folder| self.fd_path(folder));
        Ok(folder.map_or_else(|| path.clone(), |folder| Path::new(folder).join(&path)))
    }
}

/// Splits at the commas that are in no string, bracket or path.
fn split_arguments(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut is_text, mut is_escaped) = (Vec::new(), 0, 0_u32, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'[' | b'{' | b'<' => depth += 1,
            b']' | b'}' | b'>' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

/// The bytes of all strings in a text, one after the other.
fn unescape_all(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((_, inside)) = rest.split_once('"') {
        rest = unescape(inside, &mut bytes)?;
        ensure!(!rest.starts_with("..."), "strace has cut a text");
    }
    Ok(bytes)
}

/// Takes a string up to its end; returns what is behind.
fn unescape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Result<&'a str> {
    let raw = text.as_bytes();
    let mut at = 0;
    loop {
        match raw.get(at).context("a text without an end")? {
            b'"' => return Ok(&text[at + 1..]),
            b'\\' => {
                let escape = *raw.get(at + 1).context("an escape")?;
                at += 2;
                match escape {
                    b'n' => bytes.push(b'\n'),
                    b't' => bytes.push(b'\t'),
                    b'r' => bytes.push(b'\r'),
                    b'v' => bytes.push(0x0b),
                    b'f' => bytes.push(0x0c),
                    b'0'..=b'7' => {
                        let length = raw[at..].iter().take(2).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                        bytes.push(u8::try_from(u16::from_str_radix(&text[at - 1..at + length], 8)?)?);
                        at += length;
                    }
                    b'"' | b'\\' => bytes.push(escape),
                    other => bail!("an escape that strace does not write: {other}"),
                }
            }
            byte => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
}

fn shorten(line: &str) -> String {
    line.chars().take(300).collect()
}

#[test]
fn call_is_parsed_into_its_parts() {
    let call = TracedCallText::parse(r#"write(5</a, b>, "x\0\1\1234\"\n\\", 8) = 8"#).unwrap().unwrap();
    assert_eq!((call.name, call.fd_path(0), call.result), ("write", Some("/a, b"), 8));
    assert_eq!(call.text(1).unwrap(), b"x\0\x01S4\"\n\\");
    let call = TracedCallText::parse(r#"writev(5</a>, [{iov_base="a", iov_len=1}, {iov_base="b", iov_len=1}], 2) = 2"#);
    assert_eq!(call.unwrap().unwrap().text(1).unwrap(), b"ab");
    let call = TracedCallText::parse(r#"openat(4</a>, "b", O_WRONLY|O_CREAT, 0644) = 5</a/b>"#).unwrap().unwrap();
    assert_eq!(call.path(1, Some(0)).unwrap(), Path::new("/a/b"));
    for other in [r#"mkdir("/a", 0777) = -1 EEXIST (File exists)"#, "+++ exited with 0 +++", "fsync(4</a>) = ?"] {
        assert!(TracedCallText::parse(other).unwrap().is_none(), "{other}");
    }
}
