//! Checks the granted resources: directories, the folders of SQLite databases, and free disk space.

use std::{ops::Range, path::Path};

use super::PlannedStep;
use contract::{
    GrantName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use plan::{DirAccess, Plan, PlanStep};

/// The free space that a writable directory must have, in bytes.
const MIN_FREE_BYTES: u64 = 32 << 20;

/// What helps where a directory can't be written to, such as one that is mounted for reading.
const READ_ONLY_HINT: &str =
    "give this user write access to it; or, if the step only reads it, add `:ro` to the directory";

/// Checks that granted directories and the folders of SQLite databases can be used and have free space. Creates the
/// writable ones.
///
/// # Errors
/// The resources that are missing or unusable, each with its location in the plan.
pub(super) fn check_resources<'p>(
    plan: &Plan,
    steps: impl Iterator<Item = &'p PlannedStep>,
) -> Result<(), Vec<Diagnostic>> {
    let mut problems = Vec::new();
    for PlannedStep { step, .. } in steps {
        for (name, grant) in &step.grants.dirs {
            let problem = match grant.access {
                DirAccess::ReadWrite => check_writable(&grant.path),
                DirAccess::ReadOnly => check_readable(&grant.path),
            };
            if let Err(why) = problem {
                let mut problem = dir_error(plan, step, name, &grant.path, &why);
                if grant.access == DirAccess::ReadWrite && !is_writable(&grant.path) {
                    problem.hint = Some(READ_ONLY_HINT.to_owned());
                }
                problems.push(problem);
            }
        }
        for (name, dir) in &step.grants.renders {
            if let Err(why) = check_writable(&dir.path) {
                problems.push(dir_error(plan, step, name, &dir.path, &why));
            }
        }
        for (name, grant) in &step.grants.databases {
            let parent = grant.url.value.reveal().strip_prefix("sqlite:").and_then(|path| Path::new(path).parent());
            if let Some(Err(why)) = parent.map(check_writable) {
                let what = format!("the folder of database `{name}` of step `{}`", step.id);
                problems.push(resource_error(plan, step, &format!("{what} {why}")));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The read-only directories that can't be read, and that no step of the plan creates. Creates nothing.
pub(super) fn unreadable_dirs<'p>(plan: &Plan, steps: impl Iterator<Item = &'p PlannedStep>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for PlannedStep { step, .. } in steps {
        let is_fixed = |path: &Path| !step.writable_dirs.iter().any(|writable| path.starts_with(writable));
        let read_only = step.grants.dirs.iter().filter(|(_, grant)| grant.access == DirAccess::ReadOnly);
        for (name, grant) in read_only.filter(|(_, grant)| is_fixed(&grant.path)) {
            if let Err(why) = check_readable(&grant.path) {
                problems.push(dir_error(plan, step, name, &grant.path, &why));
            }
        }
    }
    problems
}

fn dir_error(plan: &Plan, step: &PlanStep, name: &GrantName, path: &Path, why: &str) -> Diagnostic {
    let message = format!("directory `{name}` of step `{}` ({}) {why}", step.id, path.display());
    match step.dir_spans.get(name) {
        Some(span) => error_at(plan, span, &message, "this directory"),
        None => resource_error(plan, step, &message),
    }
}

/// The error for a granted resource that is missing or unusable.
pub(super) fn resource_error(plan: &Plan, step: &PlanStep, message: &str) -> Diagnostic {
    error_at(plan, &step.span, message, "this step needs it")
}

fn error_at(plan: &Plan, span: &Range<usize>, message: &str, label: &str) -> Diagnostic {
    let hint = Some("nothing was deployed; fix this, then run the same command again".to_owned());
    let mut diagnostic = plan.error_at(ErrorCode::ResourceNotReady, span.clone(), message, label, hint);
    diagnostic.exit = ExitKind::Refused;
    diagnostic
}

fn check_writable(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("can't be created: {error}"))?;
    access_for_writing(path).map_err(|error| format!("is not writable: {error}"))?;
    let room = rustix::fs::statvfs(path).map_err(|error| format!("can't be inspected: {error}"))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < MIN_FREE_BYTES {
        return Err(format!("has only {} MiB of free space", free >> 20));
    }
    Ok(())
}

fn access_for_writing(path: &Path) -> rustix::io::Result<()> {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
}

/// Whether a directory, or the one that it is to be created in, can be written to. What is no directory is another mistake.
fn is_writable(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    existing.is_none_or(|existing| !existing.is_dir() || access_for_writing(existing).is_ok())
}

fn check_readable(path: &Path) -> Result<(), String> {
    std::fs::read_dir(path).map(drop).map_err(|error| format!("can't be read: {error}"))
}
