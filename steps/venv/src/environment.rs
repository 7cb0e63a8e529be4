//! The environment of a release: the link `.venv`, the folder that it leads to, and the marker in it.
//!
//! An environment can't be renamed, because its scripts hold their own path. So it is made under a name of its own, and the link moves.

use pawl_step::fs::{self, FileType};
use pawl_step::{Failure, Input, Release, blobs, files};
use serde_json::{Value, json};

use crate::VenvConfig;

/// The name of the link.
pub(crate) const LINK: &str = ".venv";
/// What the environments are called: this, and a number.
const PREFIX: &str = ".venv-";
/// The new link, which is renamed.
const NEW_LINK: &str = ".venv.new";
/// The file that says whose environment it is.
const MARKER: &str = "pawl-venv.json";
/// The end of the folders that name the installed packages.
const INSTALLED: &str = ".dist-info";

/// The environment of a release.
#[derive(Debug)]
pub(crate) struct ReleaseEnvironment {
    dir: String,
    /// The folder of the release, below `dir`; empty for `dir` itself.
    path: String,
}

/// What an environment was made for, and what was installed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EnvironmentMarker {
    release: Value,
    inputs: String,
    /// The version of Python, such as `3.11`.
    pub(crate) python: String,
    /// The packages with their versions, such as `flask-3.1.0`.
    pub(crate) packages: Vec<String>,
}

impl ReleaseEnvironment {
    /// That of the folder that the configuration names, or of the release that an earlier step has put somewhere; none if there is no folder yet.
    pub(crate) fn of_input(input: &Input<VenvConfig>) -> Result<Option<Self>, Failure> {
        let environment = match &input.config.dir {
            Some(setting) => {
                let (dir, path) = setting.split_once('/').unwrap_or((setting, ""));
                let path = if path.is_empty() { String::new() } else { fs::relative("dir", path)? };
                Self { dir: input.dir("dir", Some(dir), &[])?, path }
            }
            None => Self::of_earlier_step(input)?,
        };
        let is_there = fs::metadata(&environment.folder())?.is_some_and(|found| found.file_type == FileType::Directory);
        Ok(is_there.then_some(environment))
    }

    fn of_earlier_step(input: &Input<VenvConfig>) -> Result<Self, Failure> {
        let granted = fs::dirs();
        let mut found = input.outputs.values().filter_map(|outputs| {
            let (dir, path) = (outputs.get("dir")?.as_str()?, outputs.get("path")?.as_str()?);
            granted.iter().any(|granted| granted == dir).then(|| Self { dir: dir.to_owned(), path: path.to_owned() })
        });
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => {
                Err(Failure::invalid_config("no earlier step put a release into a directory that this step is granted")
                    .hint("add a pull step before it, grant its directory, or name the folder: `dir: app/…`"))
            }
            (Some(_), Some(_)) => Err(Failure::invalid_config("several earlier steps put a release somewhere")
                .hint("name the folder: `dir: app/${{ steps.pull.path }}`")),
        }
    }

    /// The folder of the release, with the name of the granted directory.
    pub(crate) fn folder(&self) -> String {
        if self.path.is_empty() { self.dir.clone() } else { format!("{}/{}", self.dir, self.path) }
    }

    /// The place of the link.
    pub(crate) fn link(&self) -> String {
        format!("{}/{LINK}", self.folder())
    }

    /// The path of an environment on the machine.
    pub(crate) fn host_path(&self, name: &str) -> Result<String, Failure> {
        files::path(&format!("{}/{name}", self.folder()))
    }

    /// The name of the environment that the link leads to.
    pub(crate) fn current(&self) -> Result<Option<String>, Failure> {
        let link = self.link();
        let refused = || {
            Failure::conflict(format!("`{link}` was not made by this step"))
                .hint("leave `.venv` out of the release; if somebody created it on this machine, move it away")
        };
        match fs::metadata_of_link(&link)?.map(|found| found.file_type) {
            None => Ok(None),
            Some(FileType::Link) => {
                let name = fs::read_link(&link).map_err(|_| refused())?;
                if number(&name).is_none() { Err(refused()) } else { Ok(Some(name)) }
            }
            Some(FileType::File | FileType::Directory | FileType::Other) => Err(refused()),
        }
    }

    /// A name that no complete environment has. What a killed call left may have it.
    pub(crate) fn new_name(&self) -> Result<String, Failure> {
        let last = self.current()?.and_then(|name| number(&name)).unwrap_or(0);
        Ok(format!("{PREFIX}{}", last + 1))
    }

    /// The marker of the environment that the link leads to.
    pub(crate) fn marker(&self) -> Result<Option<EnvironmentMarker>, Failure> {
        let Some(name) = self.current()? else { return Ok(None) };
        let text = fs::read_text_if_exists(&format!("{}/{name}/{MARKER}", self.folder()))?;
        Ok(text.and_then(|text| EnvironmentMarker::parse(&text)))
    }

    /// Says of an environment that it is complete.
    pub(crate) fn mark(&self, name: &str, marker: &EnvironmentMarker) -> Result<(), Failure> {
        let text = format!("{}\n", marker.to_json());
        fs::write_atomic(&format!("{}/{name}/{MARKER}", self.folder()), text.as_bytes())
    }

    /// Lets the link lead to an environment.
    pub(crate) fn expose(&self, name: &str) -> Result<(), Failure> {
        let new = format!("{}/{NEW_LINK}", self.folder());
        fs::remove(&new)?;
        fs::symlink(name, &new)?;
        fs::rename(&new, &self.link())
    }

    /// Removes an environment; a missing one is fine.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        blobs::remove(&self.dir, &path)
    }

    /// The packages in an environment, sorted: the names of the folders that say what is installed, as `pip freeze` reads them.
    pub(crate) fn packages(&self, name: &str, python: &str) -> Result<Vec<String>, Failure> {
        let folder = format!("{}/{name}/lib/python{python}/site-packages", self.folder());
        if fs::metadata(&folder)?.is_none() {
            return Ok(Vec::new());
        }
        let names = fs::list(&folder)?.into_iter();
        Ok(names.filter_map(|entry| entry.name.strip_suffix(INSTALLED).map(str::to_owned)).collect())
    }
}

impl EnvironmentMarker {
    pub(crate) fn new(input: &Input<VenvConfig>, python: String, packages: Vec<String>) -> Self {
        Self { release: release_json(&input.release), inputs: input.input_hash.clone(), python, packages }
    }

    /// Whether it is of this release and these inputs.
    pub(crate) fn is_for(&self, input: &Input<VenvConfig>) -> bool {
        self.release == release_json(&input.release) && self.inputs == input.input_hash
    }

    fn to_json(&self) -> Value {
        json!({ "release": self.release, "inputs": self.inputs, "python": self.python, "packages": self.packages })
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let packages = value.get("packages")?.as_array()?.iter();
        Some(Self {
            release: value.get("release")?.clone(),
            inputs: text("inputs")?,
            python: text("python")?,
            packages: packages.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        })
    }
}

/// The failure of a step without a release.
pub(crate) fn no_release(input: &Input<VenvConfig>) -> Failure {
    let setting = input.config.dir.as_deref().unwrap_or("the folder of the release");
    Failure::not_found(format!("{setting} does not exist")).hint("let a pull step make it, or correct `dir`")
}

/// What of the packages is missing or was added, the first one.
pub(crate) fn difference(expected: &[String], found: &[String]) -> Option<String> {
    if let Some(missing) = expected.iter().find(|name| !found.contains(name)) {
        return Some(format!("{missing} is missing"));
    }
    found.iter().find(|name| !expected.contains(name)).map(|added| format!("{added} was added"))
}

/// The release by its digest; a label names content only where nothing has a digest.
fn release_json(release: &Release) -> Value {
    match &release.digest {
        Some(digest) => json!({ "digest": digest.to_string() }),
        None => json!({ "label": release.label }),
    }
}

/// The number of an environment.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}
