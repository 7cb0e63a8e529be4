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

/// The folder of the release, or why a plan with these steps has none: a message and a hint.
pub(super) fn locate<'s>(steps: impl Iterator<Item = &'s PlanStep>) -> Result<PulledRelease, (String, String)> {
    let pulls: Vec<_> = steps.filter(|step| step.uses == ModuleRef::Official(PULL.to_owned())).collect();
    let step = match pulls.as_slice() {
        [step] => step,
        [] => {
            return Err((
                "no step uses `pull`, so the release has no folder".to_owned(),
                "add a `pull` step".to_owned(),
            ));
        }
        several => {
            let names = quoted_list(several.iter().map(|step| step.id.as_str()));
            let hint = "write `${{ steps.STEP.path }}`, below the directory of that step".to_owned();
            return Err((format!("several steps use `pull`: {names}"), hint));
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
        None => Err((
            format!("step `{}` does not say which directory it stores releases in", step.id),
            "set its `into` to the name of a granted directory".to_owned(),
        )),
    }
}

/// Replaces `release.path` in the values of a step.
pub(super) fn substitute(
    step: &mut PlanStep,
    folder: &Result<PulledRelease, (String, String)>,
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
                Err((message, hint)) => {
                    let error = PlanError::new(ErrorCode::UndefinedLookup, message.clone());
                    problems.push(error.at(&span, "undefined").hint(hint.clone()));
                }
            }
        }
        pending.parts = parts;
    }
}
