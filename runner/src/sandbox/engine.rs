//! Modules become code: the official ones are carried inside, precompiled; others are compiled from their file.
//!
//! Invariant: precompiled code comes from this binary's own build and nowhere else, since it has no integrity check and runs
//! as native code. Deliberately absent: what a module may reach.

use std::{fs, path::Path, time::Duration};

use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use super::{
    bindings::{self, ModulePre},
    component::{self, NotAComponent},
    config,
    host::Host,
    misfit::{self, Misfit},
};
use crate::{
    diagnose::{Code, Diagnostic, Exit},
    journal::event::Hash,
    plan::{ModuleRef, Plan, Step},
};

/// How often a running guest can be interrupted.
const TICK: Duration = Duration::from_millis(10);

struct Official {
    name: &'static str,
    digest: &'static str,
    description: &'static str,
    compiled: &'static [u8],
}

static OFFICIAL: &[Official] = include!(concat!(env!("OUT_DIR"), "/official.rs"));

/// The names of the modules that the binary carries.
pub fn official() -> impl Iterator<Item = &'static str> {
    OFFICIAL.iter().map(|module| module.name)
}

/// Compiles and links modules.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Host>,
}

/// Code that can be instantiated, and its digest.
pub struct Module {
    pub(super) code: ModulePre<Host>,
    /// BLAKE3 of the component's bytes.
    pub digest: Hash,
    /// What it said of itself when this binary was built; others are asked.
    pub(super) description: Option<&'static str>,
}

/// Why a module can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("there is no official module `{name}`")]
    Unknown { name: String },
    #[error("can't read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{what} is not a step module")]
    NotAComponent { what: String, source: NotAComponent },
    #[error("{what} does not fit this runner")]
    Misfit { what: String, why: String, hint: String },
    #[error("{what} is not a step module")]
    NotAModule { what: String, why: String },
    #[error("the sandbox can't be set up: {0}")]
    Engine(String),
}

impl LoadError {
    /// The error, pointing at the step in the plan.
    #[must_use]
    pub fn diagnostic(&self, plan: &Plan, step: &Step) -> Diagnostic {
        let known: Vec<_> = official().collect();
        let (code, hint) = match self {
            Self::Unknown { .. } => (
                "P0120",
                format!("official modules are {}; a module of your own is `uses: ./path.wasm`", known.join(", ")),
            ),
            Self::Read { .. } => {
                ("P0120", "see that the path is right; it is relative to the plan's folder".to_owned())
            }
            Self::NotAComponent { source, .. } => ("P0125", source.hint().to_owned()),
            Self::Misfit { hint, .. } => ("P0126", hint.clone()),
            Self::NotAModule { .. } => ("P0125", "build it as docs/steps.md says".to_owned()),
            Self::Engine(_) => ("P0701", "please report this".to_owned()),
        };
        let mut diagnostic =
            plan.error_at(Code(code), step.span.clone(), self.to_string(), "this step uses it".to_owned(), Some(hint));
        match self {
            Self::Read { source, .. } => diagnostic = diagnostic.because(source),
            Self::NotAComponent { source, .. } => diagnostic = diagnostic.because(source),
            Self::NotAModule { why, .. } | Self::Misfit { why, .. } => diagnostic = diagnostic.because(why),
            Self::Engine(_) => diagnostic.exit = Exit::Bug,
            Self::Unknown { .. } => {}
        }
        diagnostic
    }
}

impl Runtime {
    /// An engine with everything that a module may import. A thread ticks as long as the engine is there.
    ///
    /// # Errors
    /// [`LoadError::Engine`].
    pub fn new() -> Result<Self, LoadError> {
        let fault = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let engine = Engine::new(&config::compiler().map_err(fault)?).map_err(fault)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(fault)?;
        bindings::add_to_linker(&mut linker).map_err(fault)?;
        let ticking = engine.weak();
        std::thread::Builder::new()
            .name("ticks".to_owned())
            .spawn(move || {
                while let Some(engine) = ticking.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            })
            .map_err(|error| LoadError::Engine(error.to_string()))?;
        Ok(Self { engine, linker })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads the module that a step uses.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(&self, uses: &ModuleRef) -> Result<Module, LoadError> {
        match uses {
            ModuleRef::Official(name) => {
                let module = OFFICIAL.iter().find(|module| module.name == *name);
                let module = module.ok_or_else(|| LoadError::Unknown { name: name.clone() })?;
                let component = self.precompiled(module)?;
                let digest =
                    module.digest.parse().map_err(|_| LoadError::Engine("a digest of ours is no hash".into()))?;
                Ok(Module { description: Some(module.description), ..self.link(&component, digest, name)? })
            }
            ModuleRef::File(path) => {
                let name = path.display().to_string();
                let bytes = read(path)?;
                let made = component::component(&bytes)
                    .map_err(|source| LoadError::NotAComponent { what: name.clone(), source })?;
                let component = Component::new(&self.engine, &made)
                    .map_err(|error| LoadError::NotAModule { what: name.clone(), why: format!("{error:#}") })?;
                let module = self.link(&component, Hash::of(&bytes), &name)?;
                match misfit::of_types(&self.engine, &component) {
                    Some(Misfit { why, hint }) => Err(LoadError::Misfit { what: name, why, hint }),
                    None => Ok(module),
                }
            }
        }
    }

    #[expect(unsafe_code, reason = "the one place that loads precompiled code")]
    fn precompiled(&self, module: &Official) -> Result<Component, LoadError> {
        // SAFETY: `deserialize` runs the bytes as native code. These are a part of this executable, made by our own
        // build.rs with the same engine settings; whoever can change them can change the executable.
        let component = unsafe { Component::deserialize(&self.engine, module.compiled) };
        component.map_err(|error| LoadError::Engine(format!("{}: {error:#}", module.name)))
    }

    fn link(&self, component: &Component, digest: Hash, name: &str) -> Result<Module, LoadError> {
        let code = self.linker.instantiate_pre(component).and_then(ModulePre::new);
        let code = code.map_err(|error| {
            let Misfit { why, hint } = misfit::explain(&self.engine, component, &error);
            LoadError::Misfit { what: name.to_owned(), why, hint }
        })?;
        Ok(Module { code, digest, description: None })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    fs::read(path).map_err(|source| LoadError::Read { path: path.display().to_string(), source })
}
