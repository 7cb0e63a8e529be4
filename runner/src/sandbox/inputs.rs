//! The files that a step depends on, by content, and the digest of the release. Read by the host, through the same gate
//! as a step's own calls. Deliberately absent: times and names of owners; only paths and bytes count.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
};

use cap_std::fs::Dir;
use serde_json::Value;

use super::{
    blobs,
    description::{Description, InputKind},
    gate::{Gate, Purpose, Source},
    places::regular,
};
use crate::{
    journal::event::{Failure, Hash},
    plan::{Digest, Step},
};

/// Why an input can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("{}", .0.message)]
    Refused(Failure),
    #[error("can't read {path}: {source}")]
    Read { path: String, source: io::Error },
}

impl InputError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Refused(failure) => failure.hint.clone(),
            Self::Read { .. } => None,
        }
        .unwrap_or_else(|| "see that the file is there and can be read".to_owned())
    }
}

impl From<Failure> for InputError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// The hashes of all files that a configuration makes inputs, by the name that the configuration has for them.
///
/// # Errors
/// [`InputError`] when one can't be read.
pub fn watched(step: &Step, description: &Description, config: &Value) -> Result<BTreeMap<String, Hash>, InputError> {
    let gate = Gate::open(step, Purpose::Probe)?;
    let mut hashes = BTreeMap::new();
    for (kind, text) in description.inputs(config) {
        match kind {
            // The release's digest, a component of its own, stands for the content.
            InputKind::Source => {}
            InputKind::Path => {
                let (dir, path) = gate.place(&text)?;
                hashes.insert(text.clone(), file(dir, path, &text)?);
            }
            InputKind::Dir => {
                let mut lines = Vec::new();
                folder(gate.dir(&text)?, "", &mut lines)?;
                lines.sort();
                let all: String = lines.iter().map(|(path, hash)| format!("{hash} {path}\n")).collect();
                hashes.insert(text.clone(), Hash::of(all.as_bytes()));
            }
        }
    }
    Ok(hashes)
}

/// The digest of the release that a configuration tells of; none when it tells of none.
///
/// # Errors
/// [`Failure`] when it is not stated and can't be found out.
pub async fn release_digest(step: &Step, description: &Description, config: &Value) -> Result<Option<Digest>, Failure> {
    match description.release(config) {
        (_, Some(stated)) => {
            let digest = stated.parse().map_err(|error| Failure::new("invalid-config", format!("{error}")))?;
            Ok(Some(digest))
        }
        (Some(source), None) => {
            let gate = Gate::open(step, Purpose::Probe)?;
            if let Source::File { dir, path } = gate.source(&source)?
                && let Err(error) = dir.metadata(&path)
            {
                let missing =
                    Failure::new("not-found", format!("the release's archive {source} can't be read: {error}"));
                return Err(missing.with_hint("see that `--release` names what was packed, and that it lies there"));
            }
            blobs::resolve(&gate, &source).await.map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn file(dir: &Dir, path: &str, shown: &str) -> Result<Hash, InputError> {
    read(regular(dir, path), shown)
}

fn read(opened: io::Result<cap_std::fs::File>, shown: &str) -> Result<Hash, InputError> {
    let mut bytes = Vec::new();
    let read = opened.and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| InputError::Read { path: shown.to_owned(), source })?;
    Ok(Hash::of(&bytes))
}

fn folder(dir: &Dir, prefix: &str, lines: &mut Vec<(String, Hash)>) -> Result<(), InputError> {
    let error = |path: &str| {
        let path = path.to_owned();
        move |source| InputError::Read { path, source }
    };
    for entry in dir.entries().map_err(error(prefix))? {
        let entry = entry.map_err(error(prefix))?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(error(&path))?;
        if kind.is_dir() {
            folder(&entry.open_dir().map_err(error(&path))?, &format!("{path}/"), lines)?;
        } else if kind.is_file()
            || kind.is_symlink() && dir.metadata(entry.file_name()).is_ok_and(|target| target.is_file())
        {
            lines.push((path.clone(), read(regular(dir, entry.file_name()), &path)?));
        }
    }
    Ok(())
}
