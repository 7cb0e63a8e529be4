//! Paths, modes, owners and free room of granted directories, and files that the host renders from templates.
//!
//! A place is `<directory>/<path>`, in a directory of the grant `dirs` or `renders`. A step can't read what is in `renders`, so templates may
//! write secrets there. Deliberately absent: reading and writing files, for which there is [`fs`](crate::fs).

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::bindings::pawl::step::files as host;
use crate::secrets::Secret;
use crate::{Failure, json};

/// What is at a place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FileStatus {
    /// `file`, `dir`, `link`, `socket` or `other`.
    pub kind: String,
    /// The size in bytes.
    pub size: u64,
    /// The mode in octal digits, such as `0644`.
    pub mode: String,
    /// The name of its owner; none if the host has no name for the number.
    pub owner: Option<String>,
    /// The number of its owner.
    pub uid: u32,
    /// The name of its group; none if the host has no name for the number.
    pub group: Option<String>,
    /// The number of its group.
    pub gid: u32,
}

/// Mode and owner to set; what is none is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ownership {
    /// The mode of files, in octal digits.
    pub mode: Option<String>,
    /// The mode of directories; by default, that of files, with search permission for who may read.
    pub dir_mode: Option<String>,
    /// The owner, by name or number.
    pub owner: Option<String>,
    /// The group, by name or number.
    pub group: Option<String>,
}

/// The free room of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Room {
    /// In bytes.
    pub bytes: u64,
    /// How many files fit; none where the file system has no limit.
    pub files: Option<u64>,
}

/// A template with its values.
#[derive(Debug)]
pub struct Template<'t> {
    /// Its place, in a directory of `dirs`.
    pub place: &'t str,
    /// The values that it sees.
    pub values: &'t Map<String, Value>,
    /// The secrets that it may write, as `secrets.NAME`: name and handle.
    pub secrets: &'t [(String, Secret)],
}

/// The path of a place on the host.
///
/// # Errors
/// Not granted.
pub fn path(place: &str) -> Result<String, Failure> {
    host::path(place).map_err(Failure::from)
}

/// What is at a place; none if there is nothing.
///
/// # Errors
/// Not granted, or it can't be inspected.
pub fn status(place: &str) -> Result<Option<FileStatus>, Failure> {
    parse("status", &host::status(place).map_err(Failure::from)?)
}

/// Whether anything is at a place, a link that leads nowhere too.
///
/// # Errors
/// Not granted, or it can't be inspected.
pub fn exists(place: &str) -> Result<bool, Failure> {
    host::status(place).map(|status| status != "null").map_err(Failure::from)
}

/// Sets mode and owner at a place, and below it if `recursive`.
///
/// # Errors
/// Not granted, not permitted, or no such user or group.
pub fn set(place: &str, ownership: &Ownership, recursive: bool) -> Result<(), Failure> {
    let mut options = options_of(ownership);
    options.insert("recursive".to_owned(), recursive.into());
    host::set(place, &json::text(&Value::Object(options))).map_err(Failure::from)
}

/// The free room on the disk of a granted directory.
///
/// # Errors
/// Not granted.
pub fn room(dir: &str) -> Result<Room, Failure> {
    parse("room", &host::room(dir).map_err(Failure::from)?)
}

impl Template<'_> {
    /// Renders it to a file in a directory of `renders`. Returns whether the file changed.
    ///
    /// # Errors
    /// Not granted, a template with an error, or a file that can't be written.
    pub fn render(&self, to: &str, ownership: &Ownership) -> Result<bool, Failure> {
        let options = json::text(&Value::Object(options_of(ownership)));
        let values = json::text(&Value::Object(self.values.clone()));
        let answer = host::render(self.place, to, &values, &self.handles(), &options).map_err(Failure::from)?;
        Ok(parse::<Value>("render", &answer)?["changed"] == Value::Bool(true))
    }

    /// Whether a file has exactly the content that it would give.
    ///
    /// # Errors
    /// Not granted, or a template with an error.
    pub fn is_rendered(&self, to: &str) -> Result<bool, Failure> {
        let values = json::text(&Value::Object(self.values.clone()));
        host::same(self.place, to, &values, &self.handles()).map_err(Failure::from)
    }

    fn handles(&self) -> Vec<(String, &crate::bindings::pawl::step::secrets::Secret)> {
        self.secrets.iter().map(|(name, secret)| (name.clone(), secret.handle())).collect()
    }
}

/// Whether two files of `renders` have the same content. Two missing ones have, too.
///
/// # Errors
/// Not granted, or not readable.
pub fn are_equal(one: &str, other: &str) -> Result<bool, Failure> {
    host::equal(one, other).map_err(Failure::from)
}

/// The names of what is in a directory of `renders`, sorted; of a missing one, none.
///
/// # Errors
/// Not granted, or not readable.
pub fn names(place: &str) -> Result<Vec<String>, Failure> {
    host::names(place).map_err(Failure::from)
}

/// Renames a file of `renders`. With `keep`, what was at `to` keeps that name too, or the name gets a link to nothing if nothing was
/// there; what has the name already stays.
///
/// # Errors
/// Not granted, or not possible.
pub fn rename(place: &str, to: &str, keep: Option<&str>) -> Result<(), Failure> {
    let options: Map<String, Value> = keep.map(|keep| ("keep".to_owned(), keep.into())).into_iter().collect();
    host::move_(place, to, &json::text(&Value::Object(options))).map_err(Failure::from)
}

/// Removes a file or directory of `renders`; a missing one is fine.
///
/// # Errors
/// Not granted, or not permitted.
pub fn remove(place: &str) -> Result<(), Failure> {
    host::remove(place).map_err(Failure::from)
}

fn options_of(ownership: &Ownership) -> Map<String, Value> {
    let Ownership { mode, dir_mode, owner, group } = ownership;
    let mut options = Map::new();
    for (name, value) in [("mode", mode), ("dir-mode", dir_mode), ("owner", owner), ("group", group)] {
        if let Some(value) = value {
            options.insert(name.to_owned(), value.as_str().into());
        }
    }
    options
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::permanent(format!("the host's answer to `{what}`: {error}")))
}
