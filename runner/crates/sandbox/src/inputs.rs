//! Hashes of the files that a step depends on, and the release's digest. The host reads them through the same gate as
//! the step's own calls. Deliberately absent: times and owners; only paths and bytes count.

use std::{collections::BTreeMap, io};

use cap_std::fs::Dir;
use serde_json::Value;

use super::{
    ModuleRuntime, blobs,
    description::{InputKind, ModuleDescription},
    gate::{CallPurpose, CapabilityGate, ContentSource},
    program_inputs,
};
use contract::{
    Digest,
    hash::{Blake3Hash, InputHash},
    step::{FailureKind, StepFailure},
};
use hostio::{
    confined_path::open_regular_file_with_size,
    dir_snapshot::{self, DirSnapshotCache},
};
use plan::{DirAccess, PlanStep};

/// The largest number of files in a directory that a configuration lists as an input.
const MAX_INPUT_DIR_FILES: usize = 100_000;

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
    ) -> Result<BTreeMap<String, InputHash>, InputError> {
        let gate = CapabilityGate::open(step, CallPurpose::Probe, &self.dir_snapshots)?;
        let read_error = |(path, source)| InputError::Read { path, source };
        let mut hashes = BTreeMap::new();
        let inputs = description.inputs(config);
        let working_dir = inputs.iter().find(|(kind, _)| *kind == InputKind::WorkingDir).map(|(_, dir)| dir.clone());
        for (kind, text) in inputs {
            let hash = match kind {
                // The release's digest, a separate component, represents this content.
                InputKind::Source | InputKind::WorkingDir => continue,
                InputKind::Program => match program_inputs::hash_program(step, &text) {
                    Some(hash) => hash.into(),
                    None => continue,
                },
                InputKind::Argument => {
                    let named = program_inputs::hash_named_files(&gate, step, working_dir.as_deref(), &text)?;
                    hashes.extend(named.into_iter().map(|(name, hash)| (name, hash.into())));
                    continue;
                }
                InputKind::FileOrDir => hash_file_or_dir(&gate, step, &text)?,
                InputKind::Path => {
                    let (dir, path) = gate.split_dir_path(&text)?;
                    hash_file(dir, path, &text)?.into()
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
    let (sources, stated) = description.release_sources_and_digest(config);
    if let Some(stated) = stated {
        let digest =
            stated.parse().map_err(|error| StepFailure::new(FailureKind::InvalidConfig, format!("{error}")))?;
        return Ok(Some(digest));
    }
    if sources.is_empty() {
        return Ok(None);
    }
    let gate = CapabilityGate::open(step, CallPurpose::Probe, &DirSnapshotCache::default())?;
    let mut failures = Vec::new();
    for source in &sources {
        match published_digest(&gate, source).await {
            Ok(digest) => return Ok(Some(digest)),
            Err(failure) => failures.push((source.as_str(), failure)),
        }
    }
    Err(failure_of_all(failures))
}

async fn published_digest(gate: &CapabilityGate, source: &str) -> Result<Digest, StepFailure> {
    if let ContentSource::File { dir, path } = gate.parse_source(source)?
        && let Err(error) = dir.metadata(&path)
    {
        let missing =
            StepFailure::new(FailureKind::NotFound, format!("can't read the release archive {source}: {error}"));
        return Err(missing.with_hint("check that `--release` names a release whose archive is there"));
    }
    blobs::resolve_digest(gate, source).await
}

/// The failure of all mirrors: what each of them says, and the help of the first.
fn failure_of_all(mut failures: Vec<(&str, StepFailure)>) -> StepFailure {
    if failures.len() == 1 {
        return failures.remove(0).1;
    }
    let said: Vec<_> = failures.iter().map(|(source, failure)| format!("`{source}`: {}", failure.message)).collect();
    let (_, first) = failures.swap_remove(0);
    StepFailure {
        message: format!("none of the {} mirrors states the digest: {}", said.len(), said.join("; ")),
        retryable: first.retryable || failures.iter().any(|(_, failure)| failure.retryable),
        ..first
    }
}

/// The hash of a file, or of all files of a directory. In a directory that the step may write to, it may be missing: the hash
/// then says so.
fn hash_file_or_dir(gate: &CapabilityGate, step: &PlanStep, text: &str) -> Result<InputHash, InputError> {
    let is_writable = step.grants.dir_of(text).is_some_and(|(grant, _)| grant.access == DirAccess::ReadWrite);
    let read_error = |source| InputError::Read { path: text.to_owned(), source };
    let (dir, path) = match gate.split_dir_path(text) {
        Ok(found) => found,
        Err(failure) if failure.kind == FailureKind::NotFound && is_writable => return Ok(missing_input().into()),
        Err(failure) => return Err(failure.into()),
    };
    match dir.metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let inner = dir.open_dir(path).map_err(read_error)?;
            dir_snapshot::hash_dir_within(&inner, MAX_INPUT_DIR_FILES)
                .map_err(|(path, source)| InputError::Read { path: format!("{text}/{path}"), source })
        }
        Ok(_) => hash_file(dir, path, text).map(InputHash::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_writable => Ok(missing_input().into()),
        Err(error) => Err(read_error(error)),
    }
}

fn missing_input() -> Blake3Hash {
    Blake3Hash::of(b"missing")
}

fn hash_file(dir: &Dir, path: &str, display_path: &str) -> Result<Blake3Hash, InputError> {
    let hash = open_regular_file_with_size(dir, path).and_then(|(file, _)| Blake3Hash::of_reader(file));
    hash.map_err(|source| InputError::Read { path: display_path.to_owned(), source })
}
