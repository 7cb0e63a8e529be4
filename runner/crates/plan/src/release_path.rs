//! `release.path`: the absolute path of the folder that `pull` unpacked.
//!
//! It is short for the directory that `pull` stores releases in, and the output `path` of that step.

use std::path::PathBuf;

use serde_json::Value;

use super::{
    DirAccess, ModuleRef, PlanStep,
    error::{PlanError, PlanErrorCollector, quoted_list},
    expression::{DeferredLookup, PendingPart},
};
use contract::{StepId, error_code::ErrorCode};

/// The module that unpacks releases.
const PULL: &str = "pull";
const PATH_OUTPUT: &str = "path";

/// The step that unpacks the release, and the directory that it does so in.
pub(super) struct PulledRelease {
    step: StepId,
    dir: PathBuf,
}

/// The folder of the release, or why a plan with these steps has none.
pub(super) fn locate<'s>(steps: impl Iterator<Item = &'s PlanStep>) -> Result<PulledRelease, PlanError> {
    let mut pulls: Vec<_> = steps.filter(|step| step.uses == ModuleRef::Official(PULL.to_owned())).collect();
    // A step that pulls on several hosts is one step.
    pulls.dedup_by(|later, earlier| later.id == earlier.id);
    let step = match pulls.as_slice() {
        [step] => step,
        [] => return Err(undefined("no step uses `pull`, so the release has no folder").hint("add a `pull` step")),
        several => {
            let names = quoted_list(several.iter().map(|step| step.id.as_str()));
            let error = undefined(format!("several steps use `pull`: {names}"));
            return Err(error.hint("write `${{ steps.STEP.path }}`, below the directory of that step"));
        }
    };
    let writable = || step.grants.dirs.values().filter(|grant| grant.access == DirAccess::ReadWrite);
    let dir = match step.with.get("into") {
        Some(Value::String(name)) => {
            step.grants.dirs.iter().find(|(granted, _)| granted.as_str() == name).map(|(_, grant)| grant)
        }
        Some(_) => None,
        None => writable().next().filter(|_| writable().count() == 1),
    };
    match dir {
        Some(grant) => Ok(PulledRelease { step: step.id.clone(), dir: grant.path.clone() }),
        None => {
            let error = undefined(format!("step `{}` does not say which directory it stores releases in", step.id));
            Err(error.hint("set its `into` to the name of a granted directory"))
        }
    }
}

/// Why `release.path` has no value in the setup steps, which run before the release is pulled.
pub(super) fn unpulled() -> PlanError {
    undefined("the release has no folder yet when `setup` runs").hint("use `release.path` in `steps`")
}

fn undefined(message: impl Into<String>) -> PlanError {
    PlanError::new(ErrorCode::UndefinedLookup, message)
}

/// Replaces `release.path` in the values of a step.
pub(super) fn substitute(
    step: &mut PlanStep,
    folder: &Result<PulledRelease, PlanError>,
    problems: &mut PlanErrorCollector,
) {
    for pending in step.pending.values_mut() {
        let mut parts = Vec::with_capacity(pending.parts.len());
        for part in pending.parts.drain(..) {
            let PendingPart::ReleasePath { span } = part else {
                parts.push(part);
                continue;
            };
            match folder {
                Ok(folder) => {
                    let lookup = DeferredLookup::Output { step: folder.step.clone(), name: PATH_OUTPUT.to_owned() };
                    parts.push(PendingPart::Text(format!("{}/", folder.dir.display())));
                    parts.push(PendingPart::Deferred { lookup, span });
                }
                Err(error) => problems.push(error.clone().at(&span, "undefined")),
            }
        }
        pending.parts = parts;
    }
}
