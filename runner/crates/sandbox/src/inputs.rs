//! Hashes of the files that a step depends on, and the release's digest. The host reads them through the same gate as
//! the step's own calls. Deliberately absent: times and owners; only paths and bytes count.

use std::{collections::BTreeMap, io};

use cap_std::fs::Dir;
use serde_json::Value;

use super::{
    ModuleRuntime, blobs,
    description::{InputKind, ModuleDescription},
    gate::{CallPurpose, CapabilityGate, ContentSource},
};
use contract::{
    Digest,
    hash::Blake3Hash,
    step::{FailureKind, StepFailure},
};
use hostio::{
    confined_path::open_regular_file_with_size,
    dir_snapshot::{self, DirSnapshotCache},
};
use plan::PlanStep;

/// Why an input can't be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("{}", .0.message)]
    Denied(StepFailure),
    #[error("can't read {path}: {source}")]
    Read { path: String, source: io::Error },
}

impl InputError {
    /// The hint.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Denied(failure) => failure.hint.clone(),
            Self::Read { .. } => None,
        }
        .unwrap_or_else(|| "check that the file exists and is readable".to_owned())
    }
}

impl From<StepFailure> for InputError {
    fn from(failure: StepFailure) -> Self {
        Self::Denied(failure)
    }
}

impl ModuleRuntime {
    /// Hashes all input files of a configuration, by their names in it. A migration later gets the hashed content.
    ///
    /// # Errors
    /// [`InputError`] when one can't be read.
    pub fn input_hashes(
        &self,
        step: &PlanStep,
        description: &ModuleDescription,
        config: &Value,
    ) -> Result<BTreeMap<String, Blake3Hash>, InputError> {
        let gate = CapabilityGate::open(step, CallPurpose::Probe, &self.dir_snapshots)?;
        let read_error = |(path, source)| InputError::Read { path, source };
        let mut hashes = BTreeMap::new();
        for (kind, text) in description.inputs(config) {
            let hash = match kind {
                // The release's digest, a separate component, represents this content.
                InputKind::Source => continue,
                InputKind::Path => {
                    let (dir, path) = gate.split_dir_path(&text)?;
                    hash_file(dir, path, &text)?
                }
                InputKind::Dir if description.behaviors.migrates.as_ref().is_some_and(|it| it.dir(config) == text) => {
                    gate.dir_snapshot(&text)?.map_err(read_error)?.hash()
                }
                InputKind::Dir => dir_snapshot::hash_dir(gate.dir(&text)?).map_err(read_error)?,
            };
            hashes.insert(text, hash);
        }
        Ok(hashes)
    }
}

/// The release's digest in a configuration; `None` if there is no release.
///
/// # Errors
/// [`StepFailure`] when it is neither stated nor found.
pub async fn release_digest(
    step: &PlanStep,
    description: &ModuleDescription,
    config: &Value,
) -> Result<Option<Digest>, StepFailure> {
    match description.release_source_and_digest(config) {
        (_, Some(stated)) => {
            let digest =
                stated.parse().map_err(|error| StepFailure::new(FailureKind::InvalidConfig, format!("{error}")))?;
            Ok(Some(digest))
        }
        (Some(source), None) => {
            let gate = CapabilityGate::open(step, CallPurpose::Probe, &DirSnapshotCache::default())?;
            if let ContentSource::File { dir, path } = gate.parse_source(&source)?
                && let Err(error) = dir.metadata(&path)
            {
                let missing = StepFailure::new(
                    FailureKind::NotFound,
                    format!("can't read the release archive {source}: {error}"),
                );
                return Err(missing.with_hint("check that `--release` names a release whose archive is there"));
            }
            blobs::resolve_digest(&gate, &source).await.map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn hash_file(dir: &Dir, path: &str, display_path: &str) -> Result<Blake3Hash, InputError> {
    let read = open_regular_file_with_size(dir, path).and_then(|(file, size)| dir_snapshot::read_sized(file, size));
    let bytes = read.map_err(|source| InputError::Read { path: display_path.to_owned(), source })?;
    Ok(Blake3Hash::of(&bytes))
}
