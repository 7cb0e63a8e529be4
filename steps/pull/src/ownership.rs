//! Owner, group and modes of a release, for an application that runs as another user.
//!
//! Everything in the release gets `owner` and `group`. With `mode`, files get it, and those that could be executed still can. What is
//! `writable` can also be written by the group. Of a shared path, only the folder itself is changed: the files in it are the
//! application's.

use pawl_step::files::{self, Ownership};
use pawl_step::fs::{self, FileType};
use pawl_step::{Failure, log};

use crate::PullConfig;
use crate::shared_paths::SharedPaths;

/// The modes of what the group may write, if the plan says no other.
const WRITABLE: u32 = 0o664;
/// The bits for the group to write.
const GROUP_WRITES: u32 = 0o060;
/// New files in a writable folder get its group.
const SETGID: u32 = 0o2000;

/// What a step says of the owner and the modes of a release.
#[derive(Debug)]
pub(crate) struct ReleaseOwnership {
    owner: Option<String>,
    group: Option<String>,
    mode: Option<u32>,
    writable: Vec<String>,
}

impl ReleaseOwnership {
    pub(crate) fn parse(config: &PullConfig) -> Result<Self, Failure> {
        let PullConfig { owner, group, mode, writable, .. } = config;
        let mode = mode.as_deref().map(|text| {
            u32::from_str_radix(text, 8)
                .map_err(|_| Failure::invalid_config(format!("`mode: {text}` is not a mode in octal digits")))
        });
        let writable = writable.iter().map(|path| fs::relative("writable", path)).collect::<Result<_, _>>()?;
        Ok(Self { owner: owner.clone(), group: group.clone(), mode: mode.transpose()?, writable })
    }

    /// Gives the folder `release` to its owner and group.
    pub(crate) fn give(&self, dir: &str, release: &str) -> Result<(), Failure> {
        match self.owner_and_group() {
            Some(ownership) => files::set(&format!("{dir}/{release}"), &ownership, true),
            None => Ok(()),
        }
    }

    /// Gives folders that were just created in `shared/`.
    pub(crate) fn give_shared(&self, created: &[String]) -> Result<(), Failure> {
        let Some(ownership) = self.owner_and_group() else { return Ok(()) };
        created.iter().try_for_each(|place| files::set(place, &ownership, false))
    }

    /// Sets the modes in the folder `release`, whose shared paths are linked.
    pub(crate) fn set_modes(&self, dir: &str, release: &str, shared: &SharedPaths) -> Result<(), Failure> {
        if let Some(mode) = self.mode {
            set_mode(&format!("{dir}/{release}"), mode, 0)?;
        }
        let mode = self.mode.map_or(WRITABLE, |mode| mode | GROUP_WRITES);
        for path in &self.writable {
            let place = match shared.location_of(dir, path) {
                Some(place) => place,
                None => format!("{dir}/{release}/{path}"),
            };
            let is_new = fs::metadata_of_link(&place)?.is_none();
            if is_new {
                fs::create_dir_all(&place)?;
            }
            if shared.location_of(dir, path).is_some() {
                let ownership =
                    Ownership { mode: Some(octal(mode)), dir_mode: Some(dir_mode(mode, SETGID)), ..self.owners() };
                files::set(&place, &ownership, false)?;
            } else {
                if let Some(ownership) = self.owner_and_group().filter(|_| is_new) {
                    files::set(&place, &ownership, true)?;
                }
                set_mode(&place, mode, SETGID)?;
            }
        }
        Ok(())
    }

    /// Does all of it to a release that is there, such as after a change of the plan.
    pub(crate) fn renew(&self, dir: &str, release: &str, shared: &SharedPaths) -> Result<(), Failure> {
        if let Some(difference) = self.difference(&format!("{dir}/{release}"))? {
            log::info(difference);
            self.give(dir, release)?;
        }
        if self.mode.is_some() || !self.writable.is_empty() {
            self.set_modes(dir, release, shared)?;
        }
        Ok(())
    }

    /// Says whether the folder belongs to somebody else. The files in it are not looked at.
    pub(crate) fn difference(&self, place: &str) -> Result<Option<String>, Failure> {
        if self.owner_and_group().is_none() {
            return Ok(None);
        }
        let Some(found) = files::status(place)? else { return Ok(None) };
        let differs = |wanted: &Option<String>, name: &Option<String>, number: u32| {
            let found = name.clone().unwrap_or_else(|| number.to_string());
            let wanted = wanted.clone().filter(|wanted| *wanted != found && *wanted != number.to_string())?;
            Some(format!("{place} belongs to {found}, not {wanted}"))
        };
        Ok(differs(&self.owner, &found.owner, found.uid).or_else(|| differs(&self.group, &found.group, found.gid)))
    }

    fn owners(&self) -> Ownership {
        Ownership { owner: self.owner.clone(), group: self.group.clone(), ..Ownership::default() }
    }

    fn owner_and_group(&self) -> Option<Ownership> {
        (self.owner.is_some() || self.group.is_some()).then(|| self.owners())
    }
}

/// Sets the mode of all files at a place. Who may read an executable file may execute it.
fn set_mode(place: &str, mode: u32, dir_bits: u32) -> Result<(), Failure> {
    let executables = executables(place)?;
    let ownership =
        Ownership { mode: Some(octal(mode)), dir_mode: Some(dir_mode(mode, dir_bits)), ..Ownership::default() };
    files::set(place, &ownership, true)?;
    let executable = Ownership { mode: Some(octal(searchable(mode))), ..Ownership::default() };
    executables.iter().try_for_each(|file| files::set(file, &executable, false))
}

/// Returns the places of the files that their owner may execute.
fn executables(place: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let mut folders = match fs::metadata_of_link(place)?.map(|found| found.file_type) {
        Some(FileType::Directory) => vec![place.to_owned()],
        Some(FileType::File) => {
            found.extend(is_executable(place)?.then(|| place.to_owned()));
            Vec::new()
        }
        Some(FileType::Link | FileType::Other) | None => Vec::new(),
    };
    while let Some(folder) = folders.pop() {
        for entry in fs::list(&folder)? {
            let path = format!("{folder}/{}", entry.name);
            match entry.file_type {
                FileType::Directory => folders.push(path),
                FileType::File => found.extend(is_executable(&path)?.then_some(path)),
                FileType::Link | FileType::Other => {}
            }
        }
    }
    Ok(found)
}

fn is_executable(place: &str) -> Result<bool, Failure> {
    let mode = files::status(place)?.and_then(|status| u32::from_str_radix(&status.mode, 8).ok());
    Ok(mode.is_some_and(|mode| mode & 0o100 != 0))
}

/// Adds the right to search or execute for everybody who may read.
const fn searchable(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

fn dir_mode(mode: u32, bits: u32) -> String {
    octal(searchable(mode) | bits)
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

#[cfg(test)]
#[test]
fn modes_are_searchable_where_they_are_readable() {
    assert_eq!(dir_mode(0o640, 0), "0750");
    assert_eq!(dir_mode(0o640 | GROUP_WRITES, SETGID), "2770");
    assert_eq!((dir_mode(WRITABLE, SETGID), octal(searchable(0o600))), ("2775".to_owned(), "0700".to_owned()));
}
