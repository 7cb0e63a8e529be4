//! The files that a step depends on, by content, and the digest of the release. Read by the host, through the same gate
//! as a step's own calls. Deliberately absent: times and names of owners; only paths and bytes count.

use std::{collections::BTreeMap, io};

use cap_std::fs::Dir;
use serde_json::Value;

use super::{
    Runtime, blobs,
    description::{Description, InputKind},
    gate::{Gate, Purpose, Source},
};
use contract::{Digest, hash::Hash, step::Failure};
use hostio::{
    confined_path::regular_sized,
    dir_snapshot::{self, Folders},
};
use plan::Step;

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

impl Runtime {
    /// The hashes of all files that a configuration makes inputs, by the name that the configuration has for them. What a migration
    /// is then given is what they are of.
    ///
    /// # Errors
    /// [`InputError`] when one can't be read.
    pub fn watched(
        &self,
        step: &Step,
        description: &Description,
        config: &Value,
    ) -> Result<BTreeMap<String, Hash>, InputError> {
        let gate = Gate::open(step, Purpose::Probe, &self.folders)?;
        let unread = |(path, source)| InputError::Read { path, source };
        let mut hashes = BTreeMap::new();
        for (kind, text) in description.inputs(config) {
            let hash = match kind {
                // The release's digest, a component of its own, stands for the content.
                InputKind::Source => continue,
                InputKind::Path => {
                    let (dir, path) = gate.place(&text)?;
                    file(dir, path, &text)?
                }
                InputKind::Dir if step.uses.is_official("migrate") => gate.folder(&text)?.map_err(unread)?.hash(),
                InputKind::Dir => dir_snapshot::hash(gate.dir(&text)?).map_err(unread)?,
            };
            hashes.insert(text, hash);
        }
        Ok(hashes)
    }
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
            let gate = Gate::open(step, Purpose::Probe, &Folders::default())?;
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
    let read = regular_sized(dir, path).and_then(|(file, size)| dir_snapshot::slurp(file, size));
    let bytes = read.map_err(|source| InputError::Read { path: shown.to_owned(), source })?;
    Ok(Hash::of(&bytes))
}
