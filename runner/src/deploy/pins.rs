//! Compares the modules of a plan with `deploy.lock`, the lock file next to it.
//!
//! It works like Cargo.lock: a deployment from a laptop creates the file and adds new modules, a CI only reads it, and
//! a module that differs from its pin stops both before anything is changed. Deliberately absent: the file format
//! (`plan::lockfile`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use contract::diagnostic::{Diagnostic, ErrorCode, Notice};
use hostio::atomic_file::replace_file;
use plan::{
    Plan, PlanStep,
    lockfile::{Lockfile, LockfileError, ModulePin, PinChange, PinStatus, PinnedNeed},
};
use sandbox::{LoadedModule, ModuleDescription, NoticeHandler};

/// Whether modules are compared with a lock file, and who may add to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinPolicy {
    /// Modules are not compared, because there is no plan file.
    Disabled,
    /// A deployment adds the modules that the file does not list.
    AddNew,
    /// In a CI: if there is a lock file, it must list every module.
    Frozen,
}

/// The modules of a plan, and their pins in the lock file.
pub struct ModulePins {
    policy: PinPolicy,
    path: PathBuf,
    /// The content of the lock file; none if there is no file.
    lockfile: Option<Lockfile>,
    current: Lockfile,
}

/// One module, compared with its pin in the lock file.
pub struct PinnedModule<'a> {
    /// Its name in the lock file.
    pub name: &'a str,
    /// The pin of the module as it is now.
    pub pin: &'a ModulePin,
    /// Whether it is unchanged, changed or new.
    pub status: PinStatus,
}

impl ModulePins {
    /// Reads the lock file next to a plan. `module` returns the loaded module of a step, if it could be loaded.
    ///
    /// # Errors
    /// P0128 when the file exists and can't be read.
    pub(super) fn read<'m>(
        plan: &Plan,
        pinning: PinPolicy,
        module: impl Fn(&PlanStep) -> Option<&'m (LoadedModule, ModuleDescription)>,
    ) -> Result<Self, Diagnostic> {
        let path = plan.source.lockfile_path();
        let found = match pinning {
            PinPolicy::Disabled => None,
            PinPolicy::AddNew | PinPolicy::Frozen => read_lockfile(&path)?,
        };
        let loaded = plan.all_steps().filter_map(|step| {
            let (module, description) = module(step)?;
            Some((step.uses.lock_name(&plan.source.folder), module_pin(module, description)))
        });
        Ok(Self { policy: pinning, path, lockfile: found, current: Lockfile { modules: loaded.collect() } })
    }

    /// The mismatches that keep a deployment from beginning, each with its location in the plan.
    pub(super) fn problems(&self, plan: &Plan) -> Vec<Diagnostic> {
        let Some(found) = &self.lockfile else { return Vec::new() };
        let mut first_use: BTreeMap<String, &PlanStep> = BTreeMap::new();
        for step in plan.all_steps() {
            first_use.entry(step.uses.lock_name(&plan.source.folder)).or_insert(step);
        }
        let problem =
            |(name, step): (String, &PlanStep)| match found.pin_status(&name, self.current.modules.get(&name)?) {
                PinStatus::Unchanged => None,
                PinStatus::Changed(change) => Some(self.changed_error(plan, step, &name, &change)),
                PinStatus::New => match self.policy {
                    PinPolicy::Frozen => Some(self.missing_error(plan, step, &name)),
                    PinPolicy::Disabled | PinPolicy::AddNew => None,
                },
            };
        first_use.into_iter().filter_map(problem).collect()
    }

    /// A warning that the lock file is missing in a CI, where the deployment runs without it.
    pub(super) fn missing_lockfile_notice(&self) -> Option<Notice> {
        (self.policy == PinPolicy::Frozen && self.lockfile.is_none()).then(|| {
            let file = self.display_path();
            Notice::warning(format!(
                "modules are not pinned: {file} is missing; run `runner modules --accept` and commit it"
            ))
        })
    }

    /// The modules, sorted by name.
    pub fn list(&self) -> impl Iterator<Item = PinnedModule<'_>> {
        self.current.modules.iter().map(|(name, pin)| PinnedModule {
            name,
            pin,
            status: self.lockfile.as_ref().map_or(PinStatus::New, |found| found.pin_status(name, pin)),
        })
    }

    /// The names in the lock file that the plan does not use.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let locked = self.lockfile.iter().flat_map(|found| found.modules.keys());
        locked.filter(|name| !self.current.modules.contains_key(*name)).map(String::as_str)
    }

    /// Adds new modules to the lock file, if the policy allows it, while the caller goes on.
    pub fn add_new(&self, notify: NoticeHandler) -> Option<LockfileWrite> {
        if self.policy != PinPolicy::AddNew {
            return None;
        }
        let is_new = |listed: &PinnedModule<'_>| listed.status == PinStatus::New;
        let new: Vec<_> =
            self.list().filter(is_new).map(|listed| (listed.name.to_owned(), listed.pin.clone())).collect();
        if new.is_empty() {
            return None;
        }
        let names = new.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let file = self.display_path();
        let written = match &self.lockfile {
            None => format!("wrote {file}, which pins the modules; commit it"),
            Some(_) => format!("added {names} to {file}; commit it"),
        };
        let mut grown = self.lockfile.clone().unwrap_or_default();
        grown.modules.extend(new);
        let path = self.path.clone();
        let writer = thread::spawn(move || match write_lockfile(&path, &grown) {
            Ok(()) => Notice::note(written),
            Err(error) => Notice::warning(format!("could not pin {names}: can't write {file}: {error}")),
        });
        Some(LockfileWrite { writer: Some(writer), notify })
    }

    /// Writes the current modules to the lock file.
    ///
    /// # Errors
    /// P0128 when it can't be written.
    pub fn accept(&self) -> Result<(), Diagnostic> {
        write_lockfile(&self.path, &self.current).map_err(|error| {
            Diagnostic::new(ErrorCode::LockFileIo, format!("can't write {}", self.display_path()))
                .with_cause(error)
                .with_hint("make its folder writable, then run `runner modules --accept` again")
        })
    }

    /// The path of the lock file for messages, relative if the path of the plan is.
    #[must_use]
    pub fn display_path(&self) -> String {
        self.path.display().to_string()
    }

    fn changed_error(&self, plan: &Plan, step: &PlanStep, name: &str, change: &PinChange) -> Diagnostic {
        let file = self.display_path();
        let message = format!("module `{name}` differs from {file}");
        let hint = format!("if the change is intended, run `runner modules --accept` and commit {file}");
        let mut diagnostic = plan.error_at(ErrorCode::PinMismatch, step.span.clone(), message, "used here", Some(hint));
        if let Some(now) = self.current.modules.get(name) {
            diagnostic.causes.extend(describe_change(change, now));
        }
        diagnostic
    }

    fn missing_error(&self, plan: &Plan, step: &PlanStep, name: &str) -> Diagnostic {
        let file = self.display_path();
        let message = format!("module `{name}` is missing from {file}");
        let hint = format!("run `runner modules --accept` on your machine and commit {file}");
        plan.error_at(ErrorCode::ModuleNotPinned, step.span.clone(), message, "used here", Some(hint))
    }
}

/// A running write of the lock file. Dropping it waits for the end of the write and shows the notice about it: which modules
/// were added, or why they could not be.
#[must_use]
pub struct LockfileWrite {
    writer: Option<thread::JoinHandle<Notice>>,
    notify: NoticeHandler,
}

impl Drop for LockfileWrite {
    fn drop(&mut self) {
        if let Some(Ok(notice)) = self.writer.take().map(thread::JoinHandle::join) {
            (self.notify)(notice);
        }
    }
}

fn write_lockfile(path: &Path, lockfile: &Lockfile) -> io::Result<()> {
    replace_file(path, lockfile.text().as_bytes())
}

/// The differences from a pin, one per line.
#[must_use]
pub fn describe_change(change: &PinChange, now: &ModulePin) -> Vec<String> {
    let mut lines = Vec::new();
    let locked = &change.locked;
    if locked.digest != now.digest {
        lines.push(format!("locked {} (version {})", locked.digest, locked.version));
        lines.push(format!("now    {} (version {})", now.digest, now.version));
    }
    lines.extend(change.added.iter().map(|ask| format!("it now also needs {}", ask.describe())));
    lines.extend(change.removed.iter().map(|ask| format!("it no longer needs {}", ask.describe())));
    lines
}

fn module_pin(module: &LoadedModule, description: &ModuleDescription) -> ModulePin {
    let ask = |need: &sandbox::CapabilityNeed| PinnedNeed {
        capability: need.capability.name(),
        access: need.access.clone(),
        config: need.config.clone(),
        reason: need.reason.clone(),
    };
    ModulePin::new(description.version.clone(), module.digest.clone(), description.needs.iter().map(ask).collect())
}

fn read_lockfile(path: &std::path::Path) -> Result<Option<Lockfile>, Diagnostic> {
    let unreadable = |why: &dyn std::fmt::Display, hint: &str| {
        Diagnostic::new(ErrorCode::LockFileIo, format!("can't read {}", path.display())).with_cause(why).with_hint(hint)
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(unreadable(&error, "give this user read access to it, then run the same command again"));
        }
    };
    let hint = |error: &LockfileError| match error {
        LockfileError::Malformed(_) => "restore it, or delete it and run `runner modules --accept`",
        LockfileError::NewerVersion(_) => "use the runner version that wrote it, or a newer one",
    };
    Lockfile::parse(&text).map(Some).map_err(|error| unreadable(&error, hint(&error)))
}
