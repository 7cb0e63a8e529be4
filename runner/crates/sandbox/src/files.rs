//! The capability `files`: paths, modes, owners and room of granted directories, and files that the host renders.
//!
//! Invariant: what is in a directory of the grant `renders` never enters the module; it learns only whether contents are equal.
//! Deliberately absent: the template language (see [`templates`](super::templates)).

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cap_std::fs::Dir;
use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wasmtime::component::Resource;

use super::{
    bindings::{HostError, files},
    failure,
    gate::CallPurpose,
    host::HostState,
    parse_options,
    secrets::SecretHandle,
    templates::{self, MAX_TEMPLATE_BYTES},
};
use contract::{
    Secret,
    step::{FailureKind, StepFailure},
};
use hostio::{
    accounts::AccountKind,
    atomic_file::{StagedFile, remove_staged},
    blocking::run_blocking,
    confined_path,
    file_owner::{FileOwner, open_place, searchable, status},
};

/// The mode of a rendered file.
const RENDERED_MODE: u32 = 0o644;
/// The same with secrets in it.
const CONFIDENTIAL_MODE: u32 = 0o600;
/// Where the link leads that says that there was no file.
const NOTHING_BEFORE: &str = "nothing-was-here";
/// The most names of a listing.
const MAX_NAMES: usize = 10_000;

/// A place in a directory of the host.
pub(super) struct FilePlace {
    /// The directory of the grant.
    pub(super) root: Dir,
    /// The path from there; `.` for the directory itself.
    pub(super) path: String,
    /// The host's path.
    pub(super) host_path: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct OwnerOptions {
    mode: Option<String>,
    dir_mode: Option<String>,
    owner: Option<String>,
    group: Option<String>,
    recursive: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct MoveOptions {
    keep: Option<String>,
}

impl OwnerOptions {
    fn file_owner(&self) -> Result<FileOwner, StepFailure> {
        let mode = self.mode.as_deref().map(|text| parse_mode("mode", text)).transpose()?;
        let dir_mode = self.dir_mode.as_deref().map(|text| parse_mode("dir-mode", text)).transpose()?;
        let number = |kind: AccountKind, account: &Option<String>| {
            let number = account.as_deref().map(|account| kind.number_of(account)).transpose();
            number.map_err(|error| {
                failure(FailureKind::NotFound, error.to_string())
                    .with_hint(format!("create the {}, or name another one", kind.noun()))
            })
        };
        Ok(FileOwner {
            mode,
            dir_mode: dir_mode.or(mode.map(searchable)),
            uid: number(AccountKind::User, &self.owner)?,
            gid: number(AccountKind::Group, &self.group)?,
        })
    }
}

/// Parses `0644` or `644`.
fn parse_mode(name: &str, text: &str) -> Result<u32, StepFailure> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    u32::from_str_radix(text, 8).ok().filter(|_| is_octal).ok_or_else(|| {
        failure(FailureKind::InvalidConfig, format!("`{name}: {}` is not a mode", contract::text::escape_line(text)))
            .with_hint("write three or four octal digits in quotes, such as \"0640\"")
    })
}

impl FilePlace {
    /// Its folder, and its name there. Links within the granted directory are followed on the way, none at the end.
    fn folder(&self) -> io::Result<(Dir, &Path)> {
        let path = Path::new(&self.path);
        match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) if folder != Path::new("") => Ok((self.root.open_dir(folder)?, Path::new(name))),
            _ => Ok((self.root.try_clone()?, path)),
        }
    }

    fn create_folder(&self) -> io::Result<()> {
        match Path::new(&self.path).parent() {
            Some(folder) if folder != Path::new("") => self.root.create_dir_all(folder),
            Some(_) | None => Ok(()),
        }
    }

    /// The names in a directory, sorted.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match self.root.read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.take(MAX_NAMES).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let (folder, name) = self.folder()?;
        open_place(&folder, name)
    }

    /// The content of a regular file; none if nothing is there.
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let (folder, name) = match self.folder() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let is_link = folder.symlink_metadata(name).is_ok_and(|metadata| metadata.is_symlink());
        if is_link {
            return Err(io::Error::other("it is a link"));
        }
        match confined_path::open_regular_file_with_size(&folder, name) {
            Ok((_, size)) if size > MAX_TEMPLATE_BYTES as u64 => {
                Err(io::Error::other(format!("it has {size} bytes; the limit is {MAX_TEMPLATE_BYTES}")))
            }
            Ok((mut file, size)) => {
                let mut content = Vec::with_capacity(size as usize);
                io::Read::read_to_end(&mut io::Read::take(&mut file, MAX_TEMPLATE_BYTES as u64 + 1), &mut content)?;
                Ok(Some(content))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn failure(&self, verb: &str, error: &io::Error) -> StepFailure {
        let message = format!("can't {verb} {}: {error}", self.host_path.display());
        let kind = error.kind();
        if kind == io::ErrorKind::NotFound {
            return failure(FailureKind::NotFound, message);
        }
        if kind == io::ErrorKind::PermissionDenied {
            return failure(FailureKind::Denied, message)
                .with_hint("run the step as a user who may do that: only root gives files to other users");
        }
        failure(FailureKind::Permanent, message)
    }
}

impl HostState {
    /// The content of a template, and what it gives.
    fn rendered(
        &self,
        template: &str,
        values: &str,
        secrets: Vec<(String, Resource<SecretHandle>)>,
    ) -> Result<Vec<u8>, HostError> {
        let (dir, path) = self.gate.split_dir_path(template)?;
        let (mut file, size) = confined_path::open_regular_file_with_size(dir, path)
            .map_err(|error| self.gate.open_failure(template, &error))?;
        if size > MAX_TEMPLATE_BYTES as u64 {
            let message = format!("template {template} has {size} bytes; the limit is {MAX_TEMPLATE_BYTES}");
            return Err(failure(FailureKind::Limit, message).into());
        }
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(&mut file, size), &mut text).map_err(|error| {
            failure(FailureKind::BadContent, format!("can't read template {template}: {error}"))
                .with_detail("file", template)
        })?;
        let values: Map<String, Value> = parse_options("a template", if values.is_empty() { "{}" } else { values })?;
        let mut known: Vec<(String, Secret)> = Vec::new();
        for (name, handle) in secrets {
            known.push((name, self.secret_value(&handle)?));
        }
        Ok(templates::render(template, &text, values, &known)?)
    }

    fn writable_render(&self, text: &str, verb: &str) -> Result<FilePlace, StepFailure> {
        self.gate.check_writes(&format!("{verb} files"))?;
        self.gate.render_place(text)
    }

    /// Where a file is rendered to: in a rehearsal, a copy that is gone afterwards.
    fn place_to_render(&self, text: &str) -> Result<FilePlace, StepFailure> {
        match self.gate.purpose() {
            CallPurpose::Rehearse => self.gate.rehearsed_place(text),
            CallPurpose::Preview | CallPurpose::Probe | CallPurpose::Check | CallPurpose::Mutate => {
                self.writable_render(text, "render")
            }
        }
    }
}

fn status_json(place: &OwnedFd) -> io::Result<Value> {
    let stat = status(place)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "link",
        FileType::Socket => "socket",
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => "other",
    };
    Ok(json!({
        "kind": kind,
        "size": stat.st_size,
        "mode": format!("{:04o}", stat.st_mode & 0o7777),
        "owner": AccountKind::User.name_of(stat.st_uid),
        "uid": stat.st_uid,
        "group": AccountKind::Group.name_of(stat.st_gid),
        "gid": stat.st_gid,
    }))
}

/// Writes a rendered file unless it is there already, with this mode and owner. Returns whether it changed. What a killed runner left of
/// it is removed.
fn place_content(place: &FilePlace, content: &[u8], owner: &FileOwner) -> io::Result<bool> {
    place.create_folder()?;
    let (folder, name) = place.folder()?;
    let folder = open_for_sync(&folder)?;
    remove_staged(&folder, name)?;
    let before = place.read();
    if let (Ok(Some(before)), Ok(at)) = (&before, place.open()) {
        let stat = status(&at)?;
        let is_owned = owner.uid.is_none_or(|uid| uid == stat.st_uid) && owner.gid.is_none_or(|gid| gid == stat.st_gid);
        if before == content && is_owned && owner.mode.is_none_or(|mode| mode == stat.st_mode & 0o7777) {
            return Ok(false);
        }
    }
    let staged = StagedFile::write_in(&folder, name, &[content], Mode::RUSR | Mode::WUSR)?;
    staged.set_owner(owner)?;
    staged.replace()?;
    Ok(true)
}

fn move_file(from: &FilePlace, to: &FilePlace, keep: Option<&FilePlace>) -> io::Result<()> {
    let ((from_dir, from_name), (to_dir, to_name)) = (from.folder()?, to.folder()?);
    if let Some(keep) = keep {
        keep.create_folder()?;
        let (keep_dir, keep_name) = keep.folder()?;
        // A second name first, so that there is always a file at `to`.
        let kept = match to_dir.hard_link(to_name, &keep_dir, keep_name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => keep_dir.symlink(NOTHING_BEFORE, keep_name),
            kept => kept,
        };
        kept.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
        sync_dir(&keep_dir)?;
    }
    from_dir.rename(from_name, &to_dir, to_name)?;
    sync_dir(&to_dir)
}

/// A directory of cap-std is open as a place only, which can't be synced.
fn open_for_sync(dir: &Dir) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

fn sync_dir(dir: &Dir) -> io::Result<()> {
    Ok(rustix::fs::fsync(open_for_sync(dir)?)?)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

impl files::Host for HostState {
    async fn path(&mut self, place: String) -> Result<String, HostError> {
        let place = self.gate.place(&place)?;
        let path = place.host_path.to_str().map(str::to_owned);
        Ok(path.ok_or_else(|| failure(FailureKind::Permanent, "the path is not UTF-8"))?)
    }

    async fn status(&mut self, place: String) -> Result<String, HostError> {
        let place = self.gate.place(&place)?;
        let found = match place.open() {
            Ok(open) => status_json(&open),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Value::Null),
            Err(error) => Err(error),
        };
        Ok(found.map_err(|error| place.failure("inspect", &error))?.to_string())
    }

    async fn set(&mut self, place: String, options: String) -> Result<(), HostError> {
        let options: OwnerOptions = parse_options("a file", &options)?;
        self.gate.check_writes("change modes or owners")?;
        let place = self.gate.writable_place(&place)?;
        let owner = options.file_owner()?;
        let open = place.open().map_err(|error| place.failure("open", &error))?;
        let set = run_blocking(move |stop| match options.recursive {
            true => owner.set_recursively(&open, &stop),
            false => owner.set(&open),
        });
        Ok(set.await?.map_err(|error| place.failure("set mode or owner of", &error))?)
    }

    async fn room(&mut self, dir: String) -> Result<String, HostError> {
        let place = self.gate.place(&dir)?;
        let room = rustix::fs::fstatvfs(&place.root)
            .map_err(|error| place.failure("find out the free room of", &error.into()))?;
        let files = (room.f_files > 0).then_some(room.f_favail);
        Ok(json!({ "bytes": room.f_bavail.saturating_mul(room.f_frsize), "files": files }).to_string())
    }

    async fn render(
        &mut self,
        template: String,
        to: String,
        values: String,
        secrets: Vec<(String, Resource<SecretHandle>)>,
        options: String,
    ) -> Result<String, HostError> {
        let options: OwnerOptions = parse_options("a rendered file", &options)?;
        let place = self.place_to_render(&to)?;
        let default = if secrets.is_empty() { RENDERED_MODE } else { CONFIDENTIAL_MODE };
        let owner = options.file_owner()?;
        let owner = match self.gate.purpose() {
            // A copy for the runner's user, who may not be allowed to give it away.
            CallPurpose::Rehearse => FileOwner { mode: Some(CONFIDENTIAL_MODE), ..FileOwner::default() },
            CallPurpose::Preview | CallPurpose::Probe | CallPurpose::Check | CallPurpose::Mutate => {
                FileOwner { mode: owner.mode.or(Some(default)), ..owner }
            }
        };
        let content = self.rendered(&template, &values, secrets)?;
        let changed = place_content(&place, &content, &owner).map_err(|error| place.failure("write", &error))?;
        Ok(json!({ "changed": changed, "bytes": content.len() }).to_string())
    }

    async fn same(
        &mut self,
        template: String,
        to: String,
        values: String,
        secrets: Vec<(String, Resource<SecretHandle>)>,
    ) -> Result<bool, HostError> {
        let place = self.gate.render_place(&to)?;
        let content = self.rendered(&template, &values, secrets)?;
        let found = place.read().map_err(|error| place.failure("read", &error))?;
        Ok(found.is_some_and(|found| found == content))
    }

    async fn equal(&mut self, one: String, other: String) -> Result<bool, HostError> {
        let places = [self.gate.render_place(&one)?, self.gate.render_place(&other)?];
        let read = |place: &FilePlace| place.read().map_err(|error| place.failure("read", &error));
        Ok(read(&places[0])? == read(&places[1])?)
    }

    async fn names(&mut self, place: String) -> Result<Vec<String>, HostError> {
        let place = self.gate.render_place(&place)?;
        Ok(place.names().map_err(|error| place.failure("list", &error))?)
    }

    async fn move_(&mut self, place: String, to: String, options: String) -> Result<(), HostError> {
        let options: MoveOptions = parse_options("a rename", &options)?;
        let (from, to) = (self.writable_render(&place, "rename")?, self.writable_render(&to, "rename")?);
        let keep = options.keep.map(|keep| self.writable_render(&keep, "rename")).transpose()?;
        Ok(move_file(&from, &to, keep.as_ref()).map_err(|error| from.failure("rename", &error))?)
    }

    async fn remove(&mut self, place: String) -> Result<(), HostError> {
        let place = self.writable_render(&place, "remove")?;
        let removed = place.folder().and_then(|(folder, name)| {
            remove_staged(&open_for_sync(&folder)?, name)?;
            match folder.symlink_metadata(name)?.is_dir() {
                true => folder.remove_dir_all(name)?,
                false => folder.remove_file(name)?,
            }
            sync_dir(&folder)
        });
        Ok(removed.or_else(ignore_missing).map_err(|error| place.failure("remove", &error))?)
    }
}
