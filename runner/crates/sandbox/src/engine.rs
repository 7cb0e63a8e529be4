//! Modules become code: the official ones are carried inside, precompiled; others are compiled once, and kept.
//!
//! Deliberately absent: what makes precompiled code run ([`code`]), and what a module may reach.

use std::{
    fs,
    hash::{Hash as _, Hasher as _},
    io::Read as _,
    path::Path,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use super::{
    bindings::{self, ModulePre},
    code::{self, Native},
    component::{self, NotAComponent},
    host::Host,
    misfit::{self, Misfit},
    modules::{Cache, Places, RegistryError, Tell},
};
use contract::{
    Digest,
    diagnostic::{Code, Diagnostic, Exit},
};
use hostio::dir_snapshot::Folders;
use official::OFFICIAL;
use plan::{ModuleRef, Plan, Step};

/// How often a running guest can be interrupted.
const TICK: Duration = Duration::from_millis(10);

/// The names of the modules that the binary carries.
pub fn official() -> impl Iterator<Item = &'static str> {
    OFFICIAL.iter().map(|module| module.name)
}

/// Compiles and links modules.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Host>,
    cache: Cache,
    /// What was read of granted directories.
    pub(super) folders: Folders,
}

/// Code that can be instantiated, and its digest.
pub struct Module {
    pub(super) code: ModulePre<Host>,
    /// SHA-256 of its bytes, as they lie in its file.
    pub digest: Digest,
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
    #[error("can't get the module {what}")]
    Registry { what: String, source: RegistryError },
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
            Self::Registry { source, .. } => ("P0129", source.hint()),
            Self::NotAComponent { source, .. } => ("P0125", source.hint().to_owned()),
            Self::Misfit { hint, .. } => ("P0126", hint.clone()),
            Self::NotAModule { .. } => ("P0125", "build it as docs/steps.md says".to_owned()),
            Self::Engine(_) => ("P0701", "please report this".to_owned()),
        };
        let mut diagnostic =
            plan.error_at(Code(code), step.span.clone(), self.to_string(), "this step uses it".to_owned(), Some(hint));
        match self {
            Self::Read { source, .. } => diagnostic = diagnostic.because(source),
            Self::Registry { source, .. } => diagnostic = diagnostic.because(source),
            Self::NotAComponent { source, .. } => diagnostic = diagnostic.because(source),
            Self::NotAModule { why, .. } | Self::Misfit { why, .. } => diagnostic = diagnostic.because(why),
            Self::Engine(_) => diagnostic.exit = Exit::Bug,
            Self::Unknown { .. } => {}
        }
        diagnostic
    }
}

impl Runtime {
    /// An engine with everything that a module may import. A thread ticks as long as the engine is there. `tell` hears when
    /// kept code is not used.
    ///
    /// # Errors
    /// [`LoadError::Engine`].
    pub fn new(places: Places, tell: Tell) -> Result<Self, LoadError> {
        let fault = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let mut config = wasm_config::compiler().map_err(fault)?;
        code::prepare(&mut config);
        let engine = Engine::new(&config).map_err(fault)?;
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
        Ok(Self { engine, linker, cache: Cache::new(places, tell), folders: Folders::default() })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads the module that a step uses.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, uses: &ModuleRef) -> Result<Module, LoadError> {
        match uses {
            ModuleRef::Official(name) => {
                let module = OFFICIAL.iter().find(|module| module.name == *name);
                let module = module.ok_or_else(|| LoadError::Unknown { name: name.clone() })?;
                let component = Native::Official(module).load(&self.engine);
                let component = component.map_err(|error| LoadError::Engine(format!("{name}: {error:#}")))?;
                let digest =
                    module.digest.parse().map_err(|_| LoadError::Engine("a digest of ours is no digest".into()))?;
                Ok(Module { description: Some(module.description), ..self.link(&component, digest, name)? })
            }
            ModuleRef::File(path) => {
                let name = path.display().to_string();
                let digest = digest_of(path)?;
                match self.kept(&digest, &name) {
                    Some(component) => self.link(&component, digest, &name),
                    None => self.made(&read(path)?, &name),
                }
            }
            ModuleRef::Registry(reference) => {
                let name = reference.to_string();
                let error = |source| LoadError::Registry { what: name.clone(), source };
                let layer = self.cache.find(reference).await.map_err(error)?;
                match self.kept(&layer.digest, &name) {
                    Some(component) => self.link(&component, layer.digest, &name),
                    None => self.made(&self.cache.fetch(reference, &layer).await.map_err(error)?, &name),
                }
            }
        }
    }

    /// The kept code of a module that is none of ours, if there is some that can be trusted.
    fn kept(&self, digest: &Digest, name: &str) -> Option<Component> {
        let kept = self.cache.get(&self.entry(digest, "cwasm"), name)?;
        let loaded = Native::Kept(kept).load(&self.engine);
        loaded.map_err(|error| self.cache.say_unused(name, &format!("{error:#}"))).ok()
    }

    /// A module that is none of ours, compiled. Its code is kept, if that can be.
    fn made(&self, bytes: &[u8], name: &str) -> Result<Module, LoadError> {
        let digest = Digest::from_bytes(Sha256::digest(bytes).into());
        let component = self.compile(bytes, name)?;
        let module = self.link(&component, digest.clone(), name)?;
        if let Some(Misfit { why, hint }) = misfit::of_types(&self.engine, &component) {
            return Err(LoadError::Misfit { what: name.to_owned(), why, hint });
        }
        if let Ok(code) = component.serialize() {
            self.cache.put(&self.entry(&digest, "cwasm"), &code);
        }
        Ok(module)
    }

    /// What such a module said of itself, if it was asked before. Always the same, the contract says; and asking one in
    /// Python takes longer than all the rest.
    pub(super) fn kept_words(&self, module: &Module, name: &str) -> Option<String> {
        self.cache.words(&self.entry(&module.digest, "description"), name)
    }

    pub(super) fn keep_words(&self, module: &Module, words: &str) {
        self.cache.put(&self.entry(&module.digest, "description"), words.as_bytes());
    }

    /// Names what is kept of a module by all that it depends on. Only plans with such modules pay for the hash.
    fn entry(&self, digest: &Digest, kind: &str) -> String {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        // Another version of ours may make other code of the same module.
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        format!("{}-{:016x}.{kind}", digest.hex(), hasher.finish())
    }

    fn compile(&self, bytes: &[u8], name: &str) -> Result<Component, LoadError> {
        let made =
            component::component(bytes).map_err(|source| LoadError::NotAComponent { what: name.to_owned(), source })?;
        Component::new(&self.engine, &made)
            .map_err(|error| LoadError::NotAModule { what: name.to_owned(), why: format!("{error:#}") })
    }

    fn link(&self, component: &Component, digest: Digest, name: &str) -> Result<Module, LoadError> {
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

/// Without holding the whole file: it is only needed when it must be compiled.
fn digest_of(path: &Path) -> Result<Digest, LoadError> {
    let error = |source| LoadError::Read { path: path.display().to_string(), source };
    let mut file = fs::File::open(path).map_err(error)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut piece).map_err(error)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            length => hasher.update(&piece[..length]),
        }
    }
}
