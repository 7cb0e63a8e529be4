//! Checks that the programs, working directories and input files of steps are on this machine before anything runs.
//!
//! Invariant: nothing is refused that an earlier step may still make: what lies below a directory that the plan can write to, and, if a
//! program runs before, what lies below the plan's folder or below a directory that is granted to that program's step. Values that are
//! known only later are not checked. Deliberately absent: the grants, which [`declared`](super::declared) checks.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use contract::{
    StepId,
    diagnostic::{Diagnostic, ErrorCode},
};
use plan::{DEFAULT_PROGRAM_PATH, DirAccess, EnvGrant, Plan, PlanStep, WrittenGrants, normalize};
use sandbox::{DeclaredValue, ProgramFault, ValueKind, argv_may_match, find_program, resolve_in_plan, usual_path};

use super::{
    PlannedStep,
    declared::{DeclaredStep, KnownText, env_line_hint},
    span_of,
};

/// The check of this machine for one step.
pub(super) struct MachineCheck<'a> {
    pub(super) plan: &'a Plan,
    pub(super) planned: &'a PlannedStep,
    pub(super) declared: DeclaredStep<'a>,
    /// Where the programs of earlier steps may write; none if no program runs before.
    earlier_programs: Option<Vec<PathBuf>>,
}

impl<'a> MachineCheck<'a> {
    pub(super) fn new(plan: &'a Plan, planned: &'a PlannedStep) -> Self {
        let declared = DeclaredStep::new(plan, &planned.step, &planned.description);
        let earlier_programs = earlier_programs(plan, &planned.step, &planned.upstream);
        Self { plan, planned, declared, earlier_programs }
    }

    /// What is missing or unusable.
    pub(super) fn problems(&self) -> Vec<Diagnostic> {
        let check = |value: &DeclaredValue| {
            if matches!(value.kind, ValueKind::Program | ValueKind::Command) {
                self.check_program(value)
            } else if value.kind == ValueKind::WorkingDir {
                self.check_working_dir(value)
            } else if value.is_input {
                self.check_input(value)
            } else {
                None
            }
        };
        self.declared.values.iter().filter_map(check).collect()
    }

    /// The programs of a step that are there and can't be run, whatever runs before. Only for a deployment that is refused anyway: otherwise
    /// a program that runs before may change them.
    pub(super) fn unusable_programs(plan: &Plan, planned: &PlannedStep) -> Vec<Diagnostic> {
        let upstream: Vec<_> = plan.steps.iter().filter(|other| planned.upstream.contains(&other.id)).collect();
        let check = MachineCheck { earlier_programs: None, ..MachineCheck::new(plan, planned) };
        let is_there = |fault: &ProgramFault| match fault {
            ProgramFault::NotExecutable { .. } | ProgramFault::CarriageReturn { .. } | ProgramFault::Format { .. } => {
                true
            }
            ProgramFault::NotOnPath { .. }
            | ProgramFault::Missing
            | ProgramFault::Directory
            | ProgramFault::Interpreter { .. } => false,
        };
        let is_unusable = |value: &&DeclaredValue| {
            let program = check.declared.argv(value).and_then(|argv| argv.first().copied().flatten());
            // Who names it may be about to make it executable.
            let is_named = |program: &str| upstream.iter().any(|other| other.with.to_string().contains(program));
            matches!(value.kind, ValueKind::Program | ValueKind::Command)
                && program.is_some_and(|program| !is_named(program))
                && check.program(value).is_some_and(|(found, _)| found.is_err_and(|fault| is_there(&fault)))
        };
        check.declared.values.iter().filter(is_unusable).filter_map(|value| check.check_program(value)).collect()
    }

    /// The file of a program that is known now, and its arguments; none if it is not to be checked or not granted.
    pub(super) fn program(&self, value: &DeclaredValue) -> Option<(Result<PathBuf, ProgramFault>, Vec<String>)> {
        let argv = self.declared.argv(value)?;
        let programs = &self.planned.step.grants.programs;
        if !programs.iter().any(|grant| argv_may_match(&grant.arguments, &argv)) || self.is_installed_later(value) {
            return None;
        }
        let (program, arguments) = argv.split_first()?;
        let program = &*resolve_in_plan(&self.planned.step.plan_dir, (*program)?);
        let search_path = self.search_path(value)?;
        let found = find_program(program, search_path);
        if found.as_ref().is_err_and(|fault| self.may_appear(fault, search_path)) {
            return None;
        }
        let looked_at = match &found {
            Ok(path) | Err(ProgramFault::NotExecutable { path } | ProgramFault::CarriageReturn { path }) => {
                path.as_path()
            }
            Err(ProgramFault::Interpreter { path, .. } | ProgramFault::Format { path, .. }) => path.as_path(),
            Err(ProgramFault::NotOnPath { .. } | ProgramFault::Missing | ProgramFault::Directory) => Path::new(program),
        };
        if looked_at.is_absolute() && self.may_be_made(&normalize(looked_at)) {
            return None;
        }
        Some((found, arguments.iter().filter_map(|argument| argument.map(str::to_owned)).collect()))
    }

    fn check_program(&self, value: &DeclaredValue) -> Option<Diagnostic> {
        let (Err(fault), _) = self.program(value)? else { return None };
        let step = &self.planned.step;
        let program = self.declared.argv(value)?.first().copied().flatten()?.to_owned();
        let message = format!("step `{}` can't run `{program}`: {fault}", step.id);
        let in_plan = self.in_plan_hint(&program).filter(|_| matches!(fault, ProgramFault::NotOnPath { .. }));
        let is_in_plan = in_plan.is_some();
        let mut hint = match fault {
            ProgramFault::NotOnPath { .. } => in_plan.unwrap_or_else(|| self.path_hint(&program)),
            ProgramFault::Missing
            | ProgramFault::Directory
            | ProgramFault::NotExecutable { .. }
            | ProgramFault::Interpreter { .. }
            | ProgramFault::CarriageReturn { .. }
            | ProgramFault::Format { .. } => fault.hint(&program),
        };
        if matches!(fault, ProgramFault::NotOnPath { .. } | ProgramFault::Missing) && !is_in_plan {
            hint += &self.installer_hint(value);
        }
        let span = span_of(step, &value.pointer);
        Some(self.plan.error_at(ErrorCode::ProgramUnusable, span, message, "can't be run", Some(hint)))
    }

    /// What was meant by a name that is not on the `PATH`, if the plan's folder has such a program.
    fn in_plan_hint(&self, program: &str) -> Option<String> {
        let PlanStep { written_grants, plan_dir, .. } = &self.planned.step;
        let places = match written_grants {
            WrittenGrants::Keys(keys) if keys.contains_key("programs") => " Write it in `programs:` too.",
            WrittenGrants::Keys(_) | WrittenGrants::LeftOut | WrittenGrants::NoPlace => "",
        };
        let is_there = plan_dir.join(program).is_file();
        is_there.then(|| format!("did you mean `./{program}`, in the plan's folder?{places}"))
    }

    /// How a program that is not on the `PATH` can be named in this step.
    fn path_hint(&self, program: &str) -> String {
        let PlanStep { grants, written_grants, .. } = &self.planned.step;
        match (usual_path(program), written_grants) {
            (Some(path), WrittenGrants::Keys(keys)) if keys.contains_key("programs") => {
                format!("write its full path, `{}`, in `with` and in `programs:`", path.display())
            }
            (Some(path), _) => format!("write its full path, `{}`", path.display()),
            (None, WrittenGrants::NoPlace) => "install it, or write its full path".to_owned(),
            (None, _) if grants.env.contains_key("PATH") => {
                "install it, or add its folder to the `PATH` in the step's `grants: { env: … }`".to_owned()
            }
            (None, _) => {
                let line = env_line_hint("PATH: /opt/bin:/usr/bin:/bin").text(&self.planned.step);
                format!("install it, or name its folder: {line}")
            }
        }
    }

    /// How to say that the program is installed first.
    fn installer_hint(&self, value: &DeclaredValue) -> String {
        // The short form of a hook has no place for it.
        if self.planned.step.written_grants == WrittenGrants::NoPlace {
            return String::new();
        }
        if self.plan.setup.iter().any(|step| !step.grants.programs.is_empty()) {
            return "; if the setup steps install it, run `runner setup` first".to_owned();
        }
        let is_possible = self.declared.beside(value, ValueKind::EarlierStep).is_some();
        let installs = |step: &&PlanStep| self.planned.upstream.contains(&step.id) && !step.grants.programs.is_empty();
        match self.plan.steps.iter().rfind(installs).filter(|_| is_possible) {
            Some(step) => {
                format!("; if an earlier step installs it, name that step in `with`: `installed-by: {}`", step.id)
            }
            None => String::new(),
        }
    }

    /// Whether the plan says that an earlier step installs a program.
    fn is_installed_later(&self, value: &DeclaredValue) -> bool {
        // `installed-by` of a step counts for the programs that it requires too.
        let covers = |other: &&DeclaredValue| value.object.starts_with(&other.object);
        let installers = self.declared.values.iter().filter(|other| other.kind == ValueKind::EarlierStep);
        installers.filter(covers).any(|installer| installer.value.is_some())
    }

    /// The `PATH` of a program; none if it is not known now.
    fn search_path(&self, value: &DeclaredValue) -> Option<&str> {
        match self.planned.step.grants.env.get("PATH") {
            None => Some(DEFAULT_PROGRAM_PATH),
            // A message would show it.
            Some(EnvGrant::Set(path)) if path.written != path.value.reveal() => None,
            Some(EnvGrant::Set(path)) => Some(path.value.reveal()),
            Some(EnvGrant::SetByStep) => {
                let variables = self.declared.beside(value, ValueKind::ProgramEnvironment)?;
                let is_known = !self.planned.step.pending.contains_key(&format!("{}/PATH", variables.pointer));
                match variables.value.as_ref().and_then(|variables| variables.get("PATH")) {
                    Some(path) => path.as_str().filter(|_| is_known),
                    None => Some(DEFAULT_PROGRAM_PATH),
                }
            }
        }
    }

    fn check_working_dir(&self, value: &DeclaredValue) -> Option<Diagnostic> {
        let (text, path) = self.granted_path(value)?;
        let why = match path.metadata() {
            Ok(metadata) if metadata.is_dir() => return None,
            Ok(_) => "is not a directory",
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "does not exist",
            Err(_) => return None,
        };
        let step = &self.planned.step;
        let message = format!("the working directory `{text}` of step `{}` ({}) {why}", step.id, path.display());
        let hint = Some("create it, or correct the path".to_owned());
        let span = span_of(step, &value.pointer);
        Some(self.plan.error_at(ErrorCode::ResourceNotReady, span, message, why, hint))
    }

    fn check_input(&self, value: &DeclaredValue) -> Option<Diagnostic> {
        let (text, path) = self.granted_path(value)?;
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => return None,
        }
        let step = &self.planned.step;
        let message =
            format!("step `{}` can't read its input `{text}` ({}): it does not exist", step.id, path.display());
        let hint = Some("create it, or correct the path".to_owned());
        let span = span_of(step, &value.pointer);
        Some(self.plan.error_at(ErrorCode::InputUnreadable, span, message, "does not exist", hint))
    }

    /// The path of `DIR/PATH` in a directory that is there and that nothing can change before the step runs.
    fn granted_path<'v>(&'v self, value: &'v DeclaredValue) -> Option<(&'v str, PathBuf)> {
        let KnownText::Whole(text) = self.declared.text(value)? else { return None };
        Some((text, self.unchanging_path(text)?))
    }

    /// The path of `DIR/PATH`, under the same conditions.
    pub(super) fn unchanging_path(&self, dir_path: &str) -> Option<PathBuf> {
        let grants = &self.planned.step.grants;
        let ((grant, _), path) = (grants.dir_of(dir_path)?, grants.host_path(dir_path)?);
        // A missing directory is an error of its own.
        if grant.access == DirAccess::ReadWrite || !grant.path.is_dir() {
            return None;
        }
        // Whatever a program that runs before does, it may make this.
        (self.earlier_programs.is_none() && !self.may_be_made(&normalize(&path))).then_some(path)
    }

    /// Whether an earlier step may make what a program lacks.
    fn may_appear(&self, fault: &ProgramFault, search_path: &str) -> bool {
        match fault {
            // A relative folder depends on the working directory.
            ProgramFault::NotOnPath { .. } => {
                let mut folders = search_path.split(':').map(Path::new);
                folders.any(|folder| folder.is_relative() || self.may_be_made(&normalize(folder)))
            }
            ProgramFault::Interpreter { interpreter, fault, .. } => {
                self.may_be_made(&normalize(Path::new(interpreter))) || self.may_appear(fault, search_path)
            }
            ProgramFault::Missing
            | ProgramFault::Directory
            | ProgramFault::NotExecutable { .. }
            | ProgramFault::CarriageReturn { .. }
            | ProgramFault::Format { .. } => false,
        }
    }

    /// Whether an earlier step may make what is at a path.
    fn may_be_made(&self, path: &Path) -> bool {
        let is_below = |dir: &PathBuf| path.starts_with(dir);
        self.planned.step.writable_dirs.iter().any(is_below)
            || self.earlier_programs.as_ref().is_some_and(|dirs| dirs.iter().any(is_below))
    }
}

/// Where the programs that run before a step may write: the plan's folder, and the directories of their steps. `trust: host` lets them
/// write anywhere, but a program that installs others is named by `installed-by`.
fn earlier_programs(plan: &Plan, step: &PlanStep, upstream: &BTreeSet<StepId>) -> Option<Vec<PathBuf>> {
    let before_steps = plan.hooks.before.iter().take_while(|hook| hook.id != step.id);
    let upstream = plan.steps.iter().filter(|other| upstream.contains(&other.id));
    let with_programs: Vec<_> =
        upstream.chain(before_steps).filter(|other| !other.grants.programs.is_empty()).collect();
    let dirs = with_programs.iter().flat_map(|other| other.grants.dirs.values().map(|grant| grant.path.clone()));
    (!with_programs.is_empty()).then(|| dirs.chain([plan.source.folder.clone()]).collect())
}
