//! The files that a granted program depends on: the program, and the files that its arguments name in directories granted for
//! reading.
//!
//! Invariant: only files that the plan grants are read: programs by their grant, other files through the gate. A file that
//! the step may write to does not count, since a step must not change what it depends on. Deliberately absent: libraries, and
//! files that a program reads by itself; the plan lists those under `inputs`.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
};

use super::{gate::CapabilityGate, inputs::InputError};
use contract::hash::Blake3Hash;
use hostio::confined_path;
use plan::{ArgumentPattern, DEFAULT_PROGRAM_PATH, DirAccess, EnvGrant, PlanStep, normalize};

/// The hash of a program's file; none if it can't be read, or if the step may write to it.
pub(super) fn hash_program(step: &PlanStep, program: &str) -> Option<Blake3Hash> {
    let is_granted =
        |argument: Option<&ArgumentPattern>| matches!(argument, Some(ArgumentPattern::Exact(text)) if text == program);
    if !step.grants.programs.iter().any(|grant| is_granted(grant.arguments.first())) {
        return None;
    }
    let path = program_path(step, program)?.canonicalize().ok()?;
    if is_writable(step, &path) {
        return None;
    }
    let file = File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    Blake3Hash::of_reader(file).ok()
}

/// The path of a program: one that begins with `./` or `../` lies in the plan's folder, and any other text stays as it is.
#[must_use]
pub fn resolve_in_plan(plan_dir: &Path, program: &str) -> String {
    match program.starts_with("./") || program.starts_with("../") {
        true => normalize(&plan_dir.join(program)).to_string_lossy().into_owned(),
        false => program.to_owned(),
    }
}

fn program_path(step: &PlanStep, program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(resolve_in_plan(&step.plan_dir, program)));
    }
    let search_path = match step.grants.env.get("PATH") {
        Some(EnvGrant::Set(value)) => value.value.reveal(),
        Some(EnvGrant::SetByStep) | None => DEFAULT_PROGRAM_PATH,
    };
    search_path.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// The files that an argument names, by the text that names them: the whole argument, or what follows its `=`.
pub(super) fn hash_named_files(
    gate: &CapabilityGate,
    step: &PlanStep,
    working_dir: Option<&str>,
    argument: &str,
) -> Result<Vec<(String, Blake3Hash)>, InputError> {
    let Some(base) = base_folder(step, working_dir) else { return Ok(Vec::new()) };
    let value = argument.split_once('=').map(|(_, value)| value);
    let mut found = Vec::new();
    for text in std::iter::once(argument).chain(value).filter(|text| !text.is_empty()) {
        if let Some(hash) = hash_named_file(gate, step, &normalize(&base.join(text)))? {
            found.push((text.to_owned(), hash));
        }
    }
    Ok(found)
}

/// The folder that relative arguments start from.
fn base_folder(step: &PlanStep, working_dir: Option<&str>) -> Option<PathBuf> {
    let Some(working_dir) = working_dir else { return env::current_dir().ok() };
    step.grants.host_path(working_dir)
}

fn hash_named_file(gate: &CapabilityGate, step: &PlanStep, path: &Path) -> Result<Option<Blake3Hash>, InputError> {
    let readable = step.grants.dirs.iter().filter(|(_, grant)| grant.access == DirAccess::ReadOnly);
    let innermost = readable
        .filter_map(|(name, grant)| Some((name, path.strip_prefix(&grant.path).ok()?)))
        .min_by_key(|(_, inside)| inside.components().count());
    let Some((name, inside)) = innermost.filter(|(_, inside)| !inside.as_os_str().is_empty()) else { return Ok(None) };
    if is_writable(step, path) {
        return Ok(None);
    }
    // Whatever is not a file in there is a plain argument to the program.
    let Ok((file, _)) = confined_path::open_regular_file_with_size(gate.dir(name.as_str())?, inside) else {
        return Ok(None);
    };
    let read_error = |source| InputError::Read { path: format!("{name}/{}", inside.display()), source };
    Blake3Hash::of_reader(file).map(Some).map_err(read_error)
}

/// Whether a path lies in a directory that the step may write to.
fn is_writable(step: &PlanStep, path: &Path) -> bool {
    let mut writable = step.grants.dirs.values().filter(|grant| grant.access == DirAccess::ReadWrite);
    writable.any(|grant| path.starts_with(&grant.path))
}
