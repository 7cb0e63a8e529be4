//! The folder that is being filled, and the memory of what is in it.
//!
//! Every path is made once. Nothing is created behind a link: links are made last, when each is known to stay inside,
//! so no step of the extraction can follow one. Directories get their own modes last, since they may be read-only.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::{
    Job,
    entry::{self, Attributes, EntryPath, Kind, Modified},
    error::{ArchiveError, Limit, Refusal},
    folders::Folders,
    list::{self, Listed},
};

/// Links that are followed for one path, as the kernel does.
const MAX_HOPS: usize = 40;
/// Components that are looked at for one link. Real ones have a dozen.
const MAX_STEPS: usize = 4096;

/// A folder that is being filled.
pub(super) struct Tree<'a> {
    job: &'a Job<'a>,
    folders: Folders,
    /// By [`entry::folded`] path.
    nodes: HashMap<String, Node>,
    directories: Vec<(EntryPath, Attributes)>,
    links: Vec<Link>,
    listed: Vec<Listed>,
    /// The directory whose existence was checked last.
    near: Option<String>,
    bytes: u64,
}

struct Node {
    spelled: String,
    kind: Kind,
}

struct Link {
    path: EntryPath,
    target: String,
    modified: Modified,
}

/// A file that is being written.
pub(super) struct NewFile {
    file: File,
    path: EntryPath,
    attributes: Attributes,
}

impl NewFile {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.file.write_all(bytes).map_err(ArchiveError::disk("written", self.path.as_str()))
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(folder: OwnedFd, job: &'a Job<'a>) -> Self {
        Self {
            job,
            folders: Folders::new(folder),
            nodes: HashMap::new(),
            directories: Vec::new(),
            links: Vec::new(),
            listed: Vec::new(),
            near: None,
            bytes: 0,
        }
    }

    pub(super) fn job(&self) -> &'a Job<'a> {
        self.job
    }

    /// Makes a directory, or notes the attributes of one that is there.
    pub(super) fn directory(&mut self, path: EntryPath, attributes: Attributes) -> Result<(), ArchiveError> {
        if !path.is_root() {
            self.need_directory(path.as_str(), path.as_str())?;
        }
        self.directories.push((path, attributes));
        Ok(())
    }

    /// Begins a file of `size` bytes.
    pub(super) fn create(
        &mut self,
        path: EntryPath,
        size: u64,
        attributes: Attributes,
    ) -> Result<NewFile, ArchiveError> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.job.limits.max_bytes {
            return Err(ArchiveError::limit(Limit::Bytes, self.job.limits.max_bytes, path.as_str()));
        }
        self.claim(&path, Kind::File)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(attributes.mode);
        let failed = |error: io::Error| ArchiveError::disk("created", path.as_str())(error);
        let parent = self.folders.at(path.parent()).map_err(failed)?;
        let file = rustix::fs::openat(parent, path.name(), flags, mode).map_err(|error| failed(error.into()))?;
        Ok(NewFile { file: file.into(), path, attributes })
    }

    /// Ends a file.
    pub(super) fn close(&mut self, new: NewFile) -> Result<(), ArchiveError> {
        let NewFile { file, path, attributes } = new;
        let listed = finish(&file, attributes).map_err(ArchiveError::disk("written", path.as_str()))?;
        self.listed.push(Listed { path: path.into_string(), ..listed });
        Ok(())
    }

    /// Notes a symlink, to be made at the end.
    pub(super) fn symlink(&mut self, path: EntryPath, raw: &[u8], modified: Modified) -> Result<(), ArchiveError> {
        let target = entry::target(&path, raw, self.job.limits)?.to_owned();
        self.claim(&path, Kind::Link)?;
        self.links.push(Link { path, target, modified });
        Ok(())
    }

    /// Makes a hard link to a file that is there.
    pub(super) fn hard_link(&mut self, path: EntryPath, raw: &[u8]) -> Result<(), ArchiveError> {
        let shown = String::from_utf8_lossy(raw).into_owned();
        let target = EntryPath::parse(raw, self.job.limits).map_err(|error| match error {
            ArchiveError::Refused { refusal: Refusal::Absolute, .. } => {
                ArchiveError::refused(path.as_str(), Refusal::AbsoluteTarget(shown.clone()))
            }
            ArchiveError::Refused { refusal: Refusal::Parent, .. } => {
                ArchiveError::refused(path.as_str(), Refusal::TargetOutside(shown.clone()))
            }
            other => other,
        })?;
        let node = self.nodes.get(&entry::folded(target.as_str()));
        if !node.is_some_and(|node| node.kind == Kind::File && node.spelled == target.as_str()) {
            return Err(ArchiveError::refused(path.as_str(), Refusal::NoLinkTarget(shown)));
        }
        self.claim(&path, Kind::File)?;
        let failed = |error: io::Error| ArchiveError::disk("linked", path.as_str())(error);
        let from = self.folders.at(target.parent()).and_then(|parent| parent.try_clone_to_owned()).map_err(failed)?;
        let to = self.folders.at(path.parent()).map_err(failed)?;
        rustix::fs::linkat(&from, target.name(), to, path.name(), AtFlags::empty())
            .and_then(|()| rustix::fs::statat(to, path.name(), AtFlags::SYMLINK_NOFOLLOW))
            .map(|stat| self.listed.push(Listed { path: path.as_str().to_owned(), ..Listed::file(&stat) }))
            .map_err(|error| failed(error.into()))
    }

    /// Makes the links, writes the list of files, and gives the directories their attributes. Returns the number of
    /// files and links, and the bytes of content.
    pub(super) fn finish(mut self) -> Result<(u64, u64), ArchiveError> {
        self.make_links()?;
        let files = self.listed.len() as u64;
        let attributes: HashMap<&str, &Attributes> =
            self.directories.iter().map(|(path, attributes)| (path.as_str(), attributes)).collect();
        self.listed.extend(
            self.nodes
                .values()
                .filter(|node| node.kind == Kind::Directory)
                .map(|node| Listed::directory(node.spelled.clone(), attributes.get(node.spelled.as_str()).copied())),
        );
        list::write(self.folders.root(), &mut self.listed)?;
        // Children before parents: a parent may lock its children away. Of entries for the same directory the last
        // counts.
        self.directories.reverse();
        self.directories.sort_by(|(a, _), (b, _)| b.as_str().cmp(a.as_str()));
        self.directories.dedup_by(|(a, _), (b, _)| a == b);
        for (path, attributes) in &self.directories {
            let attributes = match path.is_root() {
                // The caller renames the folder, and the list in it is to be read.
                true => Attributes { mode: attributes.mode | 0o700, ..*attributes },
                false => *attributes,
            };
            self.folders
                .at(path.as_str())
                .and_then(|handle| {
                    rustix::fs::fchmod(handle, Mode::from_raw_mode(attributes.mode))?;
                    Ok(rustix::fs::futimens(handle, &times(attributes.modified))?)
                })
                .map_err(ArchiveError::disk("completed", path.as_str()))?;
        }
        Ok((files, self.bytes))
    }

    /// Makes sure that nothing has this path yet, that its parents exist, and that all are directories.
    fn claim(&mut self, path: &EntryPath, kind: Kind) -> Result<(), ArchiveError> {
        if path.is_root() {
            return Err(ArchiveError::refused(".", Refusal::NoName));
        }
        if self.near.as_deref() != Some(path.parent()) {
            if !path.parent().is_empty() {
                self.need_directory(path.parent(), path.as_str())?;
            }
            self.near = Some(path.parent().to_owned());
        }
        self.add(path.as_str(), kind)
    }

    fn add(&mut self, path: &str, kind: Kind) -> Result<(), ArchiveError> {
        if self.nodes.len() as u64 >= self.job.limits.max_files {
            return Err(ArchiveError::limit(Limit::Files, self.job.limits.max_files, path));
        }
        let node = Node { spelled: path.to_owned(), kind };
        match self.nodes.entry(entry::folded(path)) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(node);
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(other) => {
                let spelled = &other.get().spelled;
                Err(ArchiveError::refused(
                    path,
                    if spelled == path { Refusal::Duplicate } else { Refusal::collision(spelled, path) },
                ))
            }
        }
    }

    /// Makes the directory `path` and its parents, where they are missing, for the sake of `entry`.
    fn need_directory(&mut self, path: &str, entry: &str) -> Result<(), ArchiveError> {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            let part = &path[..end];
            if let Some(node) = self.nodes.get(&entry::folded(part)) {
                let refusal = match node.kind {
                    Kind::Directory if node.spelled == part => continue,
                    _ if node.spelled != part => Refusal::collision(&node.spelled, part),
                    Kind::Directory | Kind::File | Kind::Link if part == entry => Refusal::Duplicate,
                    Kind::Directory | Kind::File => Refusal::BelowFile(part.to_owned()),
                    Kind::Link => Refusal::BehindLink(part.to_owned()),
                };
                return Err(ArchiveError::refused(entry, refusal));
            }
            self.add(part, Kind::Directory)?;
            let (parent, name) = entry::split(part);
            self.folders
                .at(parent)
                .and_then(|parent| Ok(rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?))
                .map_err(ArchiveError::disk("created", part))?;
        }
        Ok(())
    }

    fn make_links(&mut self) -> Result<(), ArchiveError> {
        let targets: HashMap<String, &str> =
            self.links.iter().map(|link| (entry::folded(link.path.as_str()), link.target.as_str())).collect();
        for link in &self.links {
            self.job.check()?;
            if leaves(link, &targets) {
                let refusal = Refusal::TargetOutside(link.target.clone());
                return Err(ArchiveError::refused(link.path.as_str(), refusal));
            }
        }
        for Link { path, target, modified } in self.links.drain(..) {
            self.folders
                .at(path.parent())
                .and_then(|parent| {
                    rustix::fs::symlinkat(&target, parent, path.name())?;
                    Ok(rustix::fs::utimensat(parent, path.name(), &times(modified), AtFlags::SYMLINK_NOFOLLOW)?)
                })
                .map_err(ArchiveError::disk("linked", path.as_str()))?;
            self.listed.push(Listed::link(path.into_string(), target, modified));
        }
        Ok(())
    }
}

/// Whether following `link` leads out of the folder at any point, given all links in it by [`entry::folded`] path. A path that is too long to be
/// sure counts as leading out; one that the kernel would not follow to its end does not.
fn leaves(link: &Link, targets: &HashMap<String, &str>) -> bool {
    let mut here = link.path.parent().to_owned();
    let mut ahead: Vec<&str> = link.target.rsplit('/').collect();
    let (mut hops, mut steps) = (0, 0);
    while let Some(component) = ahead.pop() {
        steps += 1;
        if steps > MAX_STEPS {
            return true;
        }
        match component {
            "" | "." => {}
            ".." if here.is_empty() => return true,
            ".." => here.truncate(entry::split(&here).0.len()),
            name => {
                let above = here.len();
                if above > 0 {
                    here.push('/');
                }
                here.push_str(name);
                if let Some(target) = targets.get(&entry::folded(&here)) {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return false;
                    }
                    here.truncate(above);
                    ahead.extend(target.rsplit('/'));
                }
            }
        }
    }
    false
}

fn times(modified: Modified) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanos.into() },
    }
}

/// Sets what writing would have changed, and tells what the filesystem made of it (not all keep nanoseconds).
fn finish(file: &File, attributes: Attributes) -> rustix::io::Result<Listed> {
    rustix::fs::futimens(file, &times(attributes.modified))?;
    let mut stat = rustix::fs::fstat(file.as_fd())?;
    if stat.st_mode & 0o7777 != attributes.mode {
        // The process' umask took something away.
        rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        stat = rustix::fs::fstat(file)?;
    }
    Ok(Listed::file(&stat))
}
