//! Refuses directories through which a step could write what decides about it: the state folder, the plan, its lock file, and the
//! key of the module cache.
//!
//! Paths are compared after all links are resolved. Deliberately absent: programs and sockets, which the plan marks with
//! `trust: host`, and a bind mount that shows a folder under two paths.

use std::path::{Path, PathBuf};

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{DirAccess, Plan, PlanStep, StateLocation};
use sandbox::UserPaths;

/// A file or folder that no step may write to.
struct ProtectedPath {
    /// Its name in messages.
    name: String,
    path: PathBuf,
    /// It itself, and what it leads to.
    resolved_paths: Vec<PathBuf>,
}

/// How a granted directory reaches a protected path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overlap {
    /// The directory contains it.
    Contains,
    /// The directory lies in it.
    LiesIn,
}

/// The writable directories that reach a protected path, each with its location in the plan.
pub(super) fn writable_grant_problems(plan: &Plan, user_paths: &UserPaths) -> Vec<Diagnostic> {
    let protected = protected_paths(plan, user_paths);
    let mut problems = Vec::new();
    // For `runner setup`, its steps are among the others.
    let is_setup_only = |step: &&PlanStep| plan.all_steps().all(|other| other.id != step.id);
    let is_here = |step: &&PlanStep| step.remote_host().is_none();
    for step in plan.setup.iter().filter(is_setup_only).chain(plan.all_steps()).filter(is_here) {
        for (name, grant) in step.grants.dirs.iter().filter(|(_, grant)| grant.access == DirAccess::ReadWrite) {
            let span = step.dir_spans.get(name).unwrap_or(&step.span).clone();
            let reached = ReachedPaths::of(&grant.path, &protected);
            problems.extend(reached.map(|reached| reached.diagnostic(plan, step, name.as_str(), span)));
        }
        for (name, dir) in &step.grants.renders {
            let reached = ReachedPaths::of(&dir.path, &protected);
            problems.extend(reached.map(|reached| reached.diagnostic(plan, step, name.as_str(), step.span.clone())));
        }
    }
    problems
}

fn protected_paths(plan: &Plan, user_paths: &UserPaths) -> Vec<ProtectedPath> {
    let folder = &plan.source.folder;
    let (state_name, state) = match &plan.state {
        StateLocation::Dir(path) => ("the state folder", path.join(plan.app.as_str())),
        StateLocation::Remote(remote) => ("the local copy of the state", remote.cache.clone()),
    };
    let file = |path: &Path| path.file_name().map(|name| folder.join(name));
    let plan_file = file(&plan.source.path).map(|path| ("the plan".to_owned(), path));
    // `runner step` has no plan file; the lock file is that of the folder's plan then.
    let has_file = plan_file.as_ref().is_some_and(|(_, path)| path.exists());
    let lock_file = if has_file { file(&plan.source.lockfile_path()) } else { Some(folder.join("deploy.lock")) };
    let lock_file = lock_file.map(|path| (file_name(&path), path));
    let key_folder = user_paths.state_dir.clone().map(|path| ("the runner's own files".to_owned(), path));
    let all = plan_file.into_iter().chain(lock_file).chain([(state_name.to_owned(), state)]);
    let protected = |(name, path): (String, PathBuf)| ProtectedPath {
        name,
        resolved_paths: vec![resolve_parent(&path), resolve(&path)],
        path,
    };
    all.chain(key_folder).map(protected).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The protected paths that one writable directory reaches.
struct ReachedPaths<'a> {
    reached: Vec<(&'a ProtectedPath, Overlap)>,
}

impl<'a> ReachedPaths<'a> {
    fn of(granted: &Path, protected: &'a [ProtectedPath]) -> Option<Self> {
        let granted = resolve(granted);
        let overlap = |protected: &'a ProtectedPath| {
            let paths = &protected.resolved_paths;
            if paths.iter().any(|path| path.starts_with(&granted)) {
                Some((protected, Overlap::Contains))
            } else if paths.iter().any(|path| granted.starts_with(path)) {
                Some((protected, Overlap::LiesIn))
            } else {
                None
            }
        };
        let reached: Vec<_> = protected.iter().filter_map(overlap).collect();
        (!reached.is_empty()).then_some(Self { reached })
    }

    fn diagnostic(&self, plan: &Plan, step: &PlanStep, name: &str, span: std::ops::Range<usize>) -> Diagnostic {
        let names: Vec<_> = self.reached.iter().map(|(protected, _)| protected.name.as_str()).collect();
        let message = format!("directory `{name}` lets step `{}` write to {}", step.id, join(&names));
        let (first, overlap) = self.reached[0];
        let shown = super::relative_to(&plan.source.folder, &first.path);
        let (label, hint) = match overlap {
            Overlap::Contains => (
                format!("contains {shown}"),
                "grant a folder that the step has for itself, such as `./work`, or add `:ro` to grant it for reading",
            ),
            Overlap::LiesIn => (
                format!("lies in {shown}"),
                "grant a folder outside of it, such as `./work`, or add `:ro` to grant it for reading",
            ),
        };
        plan.error_at(ErrorCode::InvalidGrant, span, message, label, Some(hint.to_owned()))
    }
}

/// `a`, `a and b`, `a, b and c`.
fn join(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// The path without links, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(resolved), ..) => resolved,
        (Err(_), Some(parent), Some(name)) => resolve(parent).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

/// The path whose folder has no links: where the file itself lies, even if it is a link.
fn resolve_parent(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path.to_owned(),
    }
}
