//! The marker file: the module's own word that the program ran for a release and inputs.
//!
//! It is written before the program starts and again after it has succeeded, so a program that was killed has left a marker
//! that says so. Deliberately absent: what the program itself left.

use pawl_step::{Failure, Finding, Input, Receipt, Release, fs};
use serde_json::{Value, json};

use crate::RunConfig;

/// How far the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgramState {
    /// It was started.
    Started,
    /// It has succeeded.
    Finished,
}

/// Writes the marker of this release and these inputs.
pub(crate) fn write(path: &str, input: &Input<RunConfig>, state: ProgramState) -> Result<(), Failure> {
    // The first name is that of the granted directory.
    if let Some((folder, _)) = path.rsplit_once('/')
        && folder.trim_start_matches('/').contains('/')
    {
        fs::create_dir_all(folder)?;
    }
    let marker = json!({
        "release": release_json(&input.release),
        "inputs": input.input_hash,
        "key": input.key,
        "finished": state == ProgramState::Finished,
    });
    fs::write_atomic(path, format!("{marker}\n").as_bytes())
}

/// Removes the marker of a program that failed: nothing is known of its effect, and it may run again.
pub(crate) fn remove(path: &str) -> Result<(), Failure> {
    if fs::exists(path)? { fs::remove(path) } else { Ok(()) }
}

/// What the marker tells about this release and these inputs.
pub(crate) fn probe(path: &str, input: &Input<RunConfig>) -> Result<Finding, Failure> {
    let Some(text) = fs::read_text_if_exists(path)? else {
        return Ok(Finding::Absent);
    };
    let Ok(marker) = serde_json::from_str::<Value>(&text) else {
        return Ok(Finding::Unknown(format!("`{path}` is not a marker of this module")));
    };
    if marker["release"] != release_json(&input.release) || marker["inputs"] != input.input_hash {
        return Ok(Finding::Absent);
    }
    Ok(match marker["finished"].as_bool() {
        Some(true) => Finding::Held(Receipt::new().output("status", 0)),
        Some(false) | None => {
            Finding::Unknown(format!("`{path}` says that the program was started, and not that it finished"))
        }
    })
}

/// The release by its digest; a label names content only where nothing has a digest.
fn release_json(release: &Release) -> Value {
    match &release.digest {
        Some(digest) => json!({ "digest": digest.to_string() }),
        None => json!({ "label": release.label }),
    }
}
