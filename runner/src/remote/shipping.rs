//! The files of the runner's machine that a step on another host reads, and third-party modules.
//!
//! They are those that the step's configuration names as inputs, in directories that the plan writes relative to its folder. A source's
//! checksum files go with it. Invariant: nothing else leaves this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use contract::{GrantName, hash::Blake3Hash};
use plan::{ModuleRef, PlanStep, split_dir_path};
use sandbox::{InputKind, ModuleDescription};

use super::FileHashes;
use crate::agent::wire::{FileKind, OfferedFile, dir_id};

/// The most files that a step may get.
const MAX_FILES: usize = 100_000;

/// A directory that a step gets: its files by their paths, and where they are here.
#[derive(Default)]
pub(super) struct Shipment {
    pub(super) files: BTreeMap<String, OfferedFile>,
    pub(super) sources: BTreeMap<OfferedFile, PathBuf>,
}

impl Shipment {
    /// The name of the directory among those that a host has.
    pub(super) fn id(&self) -> Blake3Hash {
        dir_id(&self.files)
    }
}

/// Third-party modules, by their names in steps.
pub type ThirdPartyModules = BTreeMap<String, ThirdPartyModule>;

/// A third-party module, as hosts get it.
pub struct ThirdPartyModule {
    pub(super) offered: OfferedFile,
    pub(super) bytes: Vec<u8>,
}

impl ThirdPartyModule {
    /// The module with this content.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let offered = OfferedFile { hash: Blake3Hash::of(&bytes), size: bytes.len() as u64, kind: FileKind::Plain };
        Self { offered, bytes }
    }
}

/// Collects the files of a step with this configuration, by directory. Blocks while it reads them.
///
/// # Errors
/// A file that can't be read, with its path.
pub(super) fn collect(
    step: &PlanStep,
    description: &ModuleDescription,
    config: &Value,
    hashes: &FileHashes,
) -> Result<BTreeMap<GrantName, Shipment>, (PathBuf, io::Error)> {
    let mut shipments = BTreeMap::new();
    for (name, grant) in step.grants.dirs.iter().filter(|(_, grant)| grant.is_relative) {
        fs::read_dir(&grant.path).map_err(|error| (grant.path.clone(), error))?;
        shipments.insert(name.clone(), Shipment::default());
    }
    if shipments.is_empty() {
        return Ok(shipments);
    }
    for (kind, text) in description.inputs(config) {
        let path = match kind {
            InputKind::Source => match text.strip_prefix("file:") {
                Some(path) => path,
                None => continue,
            },
            InputKind::Dir | InputKind::Path | InputKind::FileOrDir => text.as_str(),
            InputKind::Program | InputKind::Argument | InputKind::WorkingDir => continue,
        };
        for inside in named_files(step, kind, path)? {
            let is_archive = is_only_unpacked(step, description, kind) && inside == Path::new(split_dir_path(path).1);
            add(step, path, (&inside, is_archive), hashes, &mut shipments)?;
        }
    }
    Ok(shipments)
}

/// Whether a step does nothing with a source but to unpack it.
fn is_only_unpacked(step: &PlanStep, description: &ModuleDescription, kind: InputKind) -> bool {
    let is_ours = matches!(step.uses, ModuleRef::Official(_)) && description.behaviors.installs_releases.is_some();
    kind == InputKind::Source && is_ours
}

/// The relative directories of a step that would be empty on the host, or incomplete: its configuration names no file there as an input,
/// or it works in there and does not name the whole.
pub(super) fn unsent_dirs<'s>(step: &'s PlanStep, description: &ModuleDescription) -> Vec<&'s GrantName> {
    let inputs = description.inputs(&step.with);
    let is_named = |name: &&GrantName| {
        inputs.iter().any(|(kind, text)| {
            let path = match kind {
                InputKind::Source => text.strip_prefix("file:").unwrap_or_default(),
                InputKind::Dir | InputKind::Path | InputKind::FileOrDir => text,
                InputKind::Program | InputKind::Argument | InputKind::WorkingDir => "",
            };
            split_dir_path(path).0 == name.as_str()
        })
    };
    // A program may read anything in its working directory.
    let is_named_whole = |dir: &str| inputs.iter().any(|(kind, text)| *kind == InputKind::FileOrDir && text == dir);
    let works_in = |name: &GrantName| {
        inputs.iter().find(|(kind, text)| *kind == InputKind::WorkingDir && split_dir_path(text).0 == name.as_str())
    };
    let is_complete = |name: &&GrantName| works_in(name).map_or(is_named(name), |(_, dir)| is_named_whole(dir));
    let relative = step.grants.dirs.iter().filter(|(_, grant)| grant.is_relative).map(|(name, _)| name);
    relative.filter(|name| !is_complete(name)).collect()
}

/// The working directory of a step in a relative directory that the host gets only a part of, or nothing: an input must name the whole.
pub(super) fn partly_sent_dir(step: &PlanStep, description: &ModuleDescription, name: &GrantName) -> Option<String> {
    let inputs = description.inputs(&step.with);
    let works_in =
        |(kind, text): &(InputKind, String)| *kind == InputKind::WorkingDir && split_dir_path(text).0 == name.as_str();
    inputs.into_iter().find(works_in).map(|(_, dir)| dir)
}

/// The path of a directory of this machine that a text of a step names; none if it is one of the host.
pub(super) fn dir_of_this_machine(step: &PlanStep, text: &str) -> Option<PathBuf> {
    step.grants.dir_of(text).filter(|(grant, _)| grant.is_relative)?;
    step.grants.host_path(text)
}

/// The paths below the granted directory that an input means.
fn named_files(step: &PlanStep, kind: InputKind, text: &str) -> Result<BTreeSet<PathBuf>, (PathBuf, io::Error)> {
    let Some((grant, path)) = step.grants.dir_of(text).filter(|(grant, _)| grant.is_relative) else {
        return Ok(BTreeSet::new());
    };
    let whole = grant.path.join(path);
    let mut found = BTreeSet::new();
    if whole.is_dir() {
        walk(&whole, Path::new(path), &mut found)?;
    } else if whole.is_file() {
        found.insert(PathBuf::from(path));
    } else if !path.contains("${{") {
        return Err((whole, io::ErrorKind::NotFound.into()));
    }
    if kind == InputKind::Source {
        let beside = Path::new(path).with_file_name("SHA256SUMS");
        let own = PathBuf::from(format!("{path}.sha256"));
        found.extend([beside, own].into_iter().filter(|file| grant.path.join(file).is_file()));
    }
    Ok(found)
}

fn walk(folder: &Path, inside: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
    let at = |error| (folder.to_owned(), error);
    for entry in fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let kind = entry.file_type().map_err(at)?;
        let inside = inside.join(entry.file_name());
        if kind.is_dir() {
            walk(&entry.path(), &inside, found)?;
        } else if kind.is_file() {
            found.insert(inside);
        } else {
            let what = "only files and directories can be sent to a host, not links";
            return Err((entry.path(), io::Error::other(what)));
        }
        if found.len() > MAX_FILES {
            return Err(at(io::Error::other(format!("it has more than {MAX_FILES} files"))));
        }
    }
    Ok(())
}

fn add(
    step: &PlanStep,
    text: &str,
    (inside, is_archive): (&Path, bool),
    hashes: &FileHashes,
    shipments: &mut BTreeMap<GrantName, Shipment>,
) -> Result<(), (PathBuf, io::Error)> {
    let (name, _) = split_dir_path(text);
    let granted = step.grants.dirs.iter().find(|(granted, _)| granted.as_str() == name);
    let Some((grant, shipment)) = granted.and_then(|(name, grant)| Some((grant, shipments.get_mut(name)?))) else {
        return Ok(());
    };
    let path = grant.path.join(inside);
    let at = |error| (path.clone(), error);
    let file = fs::File::open(&path).map_err(at)?;
    let metadata = file.metadata().map_err(at)?;
    let kind = match metadata.permissions().mode() & 0o111 {
        _ if is_archive => FileKind::Archive,
        0 => FileKind::Plain,
        _ => FileKind::Program,
    };
    let offered = OfferedFile { hash: hashes.hash(file, &metadata).map_err(at)?, size: metadata.len(), kind };
    let Some(inside) = inside.to_str() else {
        return Err(at(io::Error::other("its name is not UTF-8")));
    };
    shipment.files.insert(inside.to_owned(), offered);
    shipment.sources.insert(offered, path);
    Ok(())
}
