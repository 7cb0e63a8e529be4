//! Turns modules into code: official ones are embedded and precompiled; others are compiled once and cached.
//!
//! Deliberately absent: running precompiled code (see [`precompiled`](super::precompiled)), and the modules' grants.

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
    componentize::{self, ComponentError},
    contract_mismatch::{self, ContractMismatch},
    host::HostState,
    modules::{ModuleCache, NoticeHandler, RegistryError, UserPaths},
    precompiled::{self, PrecompiledCode},
};
use contract::{
    Digest,
    diagnostic::{Diagnostic, ErrorCode},
};
use hostio::dir_snapshot::DirSnapshotCache;
use official::{OFFICIAL_MODULES, OfficialModule};
use plan::{ModuleRef, ModuleSchema, Plan, PlanStep, closest_match};

/// The interval at which a running guest can be interrupted.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// The names of the embedded modules.
pub fn official_module_names() -> impl Iterator<Item = &'static str> {
    OFFICIAL_MODULES.iter().map(|module| module.name)
}

/// The names of the embedded modules, with the schemas of their configurations.
///
/// # Panics
/// Never: the build script has read each description.
#[must_use]
pub fn official_schemas() -> Vec<ModuleSchema> {
    let schema = |module: &OfficialModule| {
        let description: serde_json::Value = serde_json::from_str(module.description).expect("a description is JSON");
        ModuleSchema { name: module.name.to_owned(), config: description["config"].clone() }
    };
    OFFICIAL_MODULES.iter().map(schema).collect()
}

/// Compiles and links modules.
pub struct ModuleRuntime {
    engine: Engine,
    linker: Linker<HostState>,
    cache: ModuleCache,
    /// Snapshots of granted directories.
    pub(super) dir_snapshots: DirSnapshotCache,
}

/// Instantiable code and its digest.
pub struct LoadedModule {
    pub(super) instance_pre: ModulePre<HostState>,
    /// The SHA-256 of the module file.
    pub digest: Digest,
    /// The description of an official module, read at build time; others are asked.
    pub(super) built_in_description: Option<&'static str>,
}

/// Why a module can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleLoadError {
    #[error("`{name}` is not an official module")]
    UnknownOfficial { name: String },
    #[error("can't read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("can't fetch the module {module}")]
    Registry { module: String, source: RegistryError },
    #[error("{module} is not a step module")]
    NotAComponent { module: String, source: ComponentError },
    #[error("{module} is not compatible with this runner")]
    ContractMismatch { module: String, reason: String, hint: String },
    #[error("{module} is not a step module")]
    InvalidComponent { module: String, reason: String },
    #[error("can't set up the sandbox: {0}")]
    EngineSetup(String),
}

impl ModuleLoadError {
    /// The diagnostic, with the step's position in the plan.
    #[must_use]
    pub fn diagnostic(&self, plan: &Plan, step: &PlanStep) -> Diagnostic {
        let known: Vec<_> = official_module_names().collect();
        let (code, hint) = match self {
            Self::UnknownOfficial { name } => (
                ErrorCode::UnknownModule,
                match closest_match(name, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if name == step.id.as_str() => format!(
                        "add `uses:` with one of {}, or `program: [PROGRAM, ARGUMENT]`; a step without them uses the module of its own name",
                        known.join(", ")
                    ),
                    None => format!(
                        "the official modules are {}; use your own module with `uses: ./path.wasm`",
                        known.join(", ")
                    ),
                },
            ),
            Self::Read { .. } => {
                (ErrorCode::UnknownModule, "check the path; it is relative to the plan's folder".to_owned())
            }
            Self::Registry { source, .. } => (ErrorCode::ModuleUnavailable, source.hint()),
            Self::NotAComponent { source, .. } => (ErrorCode::NotAModule, source.hint().to_owned()),
            Self::ContractMismatch { hint, .. } => (ErrorCode::ContractMismatch, hint.clone()),
            Self::InvalidComponent { .. } => (ErrorCode::NotAModule, "build it as docs/steps.md describes".to_owned()),
            Self::EngineSetup(_) => (ErrorCode::RunnerFault, "report this as a bug in the runner".to_owned()),
        };
        let mut diagnostic =
            plan.error_at(code, step.span.clone(), self.to_string(), "this step uses it".to_owned(), Some(hint));
        match self {
            Self::Read { source, .. } => diagnostic = diagnostic.with_cause(source),
            Self::Registry { source, .. } => diagnostic = diagnostic.with_cause(source),
            Self::NotAComponent { source, .. } => diagnostic = diagnostic.with_cause(source),
            Self::InvalidComponent { reason: why, .. } | Self::ContractMismatch { reason: why, .. } => {
                diagnostic = diagnostic.with_cause(why)
            }
            Self::EngineSetup(_) | Self::UnknownOfficial { .. } => {}
        }
        diagnostic
    }
}

impl ModuleRuntime {
    /// Creates an engine with everything that a module may import, and a thread that ticks during its lifetime.
    /// `notify` gets a notice when cached code is not used.
    ///
    /// # Errors
    /// [`ModuleLoadError::EngineSetup`].
    pub fn new(paths: UserPaths, notify: NoticeHandler) -> Result<Self, ModuleLoadError> {
        let fault = |error: wasmtime::Error| ModuleLoadError::EngineSetup(format!("{error:#}"));
        let mut config = wasm_config::engine_config().map_err(fault)?;
        precompiled::set_code_memory(&mut config);
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
                    std::thread::sleep(EPOCH_TICK);
                }
            })
            .map_err(|error| ModuleLoadError::EngineSetup(error.to_string()))?;
        Ok(Self { engine, linker, cache: ModuleCache::new(paths, notify), dir_snapshots: DirSnapshotCache::default() })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads the module that a step uses.
    ///
    /// # Errors
    /// [`ModuleLoadError`].
    pub async fn load(&self, uses: &ModuleRef) -> Result<LoadedModule, ModuleLoadError> {
        match uses {
            ModuleRef::Official(name) => {
                let module = OFFICIAL_MODULES.iter().find(|module| module.name == *name);
                let module = module.ok_or_else(|| ModuleLoadError::UnknownOfficial { name: name.clone() })?;
                let component = PrecompiledCode::Official(module).into_component(&self.engine);
                let component =
                    component.map_err(|error| ModuleLoadError::EngineSetup(format!("{name}: {error:#}")))?;
                let digest = module
                    .digest
                    .parse()
                    .map_err(|_| ModuleLoadError::EngineSetup("its built-in digest is not a digest".into()))?;
                Ok(LoadedModule {
                    built_in_description: Some(module.description),
                    ..self.link(&component, digest, name)?
                })
            }
            ModuleRef::File(path) => {
                let name = path.display().to_string();
                let digest = file_digest(path)?;
                match self.cached_component(&digest, &name) {
                    Some(component) => self.link(&component, digest, &name),
                    None => self.compile_and_cache(&read_module_file(path)?, &name),
                }
            }
            ModuleRef::Registry(reference) => {
                let name = reference.to_string();
                let error = |source| ModuleLoadError::Registry { module: name.clone(), source };
                let layer = self.cache.resolve_layer(reference).await.map_err(error)?;
                match self.cached_component(&layer.digest, &name) {
                    Some(component) => self.link(&component, layer.digest, &name),
                    None => {
                        self.compile_and_cache(&self.cache.module_bytes(reference, &layer).await.map_err(error)?, &name)
                    }
                }
            }
        }
    }

    /// The trusted cached code of a third-party module, if any.
    fn cached_component(&self, digest: &Digest, name: &str) -> Option<Component> {
        let code = self.cache.verified_code(&self.cache_entry_name(digest, "cwasm"), name)?;
        let loaded = PrecompiledCode::Cached(code).into_component(&self.engine);
        loaded.map_err(|error| self.cache.warn_code_unused(name, &format!("{error:#}"))).ok()
    }

    /// Compiles a third-party module and caches the code if possible.
    fn compile_and_cache(&self, bytes: &[u8], name: &str) -> Result<LoadedModule, ModuleLoadError> {
        let digest = Digest::from_bytes(Sha256::digest(bytes).into());
        let component = self.compile(bytes, name)?;
        let module = self.link(&component, digest.clone(), name)?;
        if let Some(ContractMismatch { reason: why, hint }) =
            contract_mismatch::signature_mismatch(&self.engine, &component)
        {
            return Err(ModuleLoadError::ContractMismatch { module: name.to_owned(), reason: why, hint });
        }
        if let Ok(code) = component.serialize() {
            self.cache.store_entry(&self.cache_entry_name(&digest, "cwasm"), &code);
        }
        Ok(module)
    }

    /// The cached description of a third-party module. By the contract it never changes, and asking a Python module
    /// takes longer than everything else.
    pub(super) fn cached_description(&self, module: &LoadedModule, name: &str) -> Option<String> {
        self.cache.description(&self.cache_entry_name(&module.digest, "description"), name)
    }

    pub(super) fn cache_description(&self, module: &LoadedModule, description: &str) {
        self.cache.store_entry(&self.cache_entry_name(&module.digest, "description"), description.as_bytes());
    }

    /// The name of a module's cache entries, from all that they depend on. Only plans with third-party modules pay for
    /// the hash.
    fn cache_entry_name(&self, digest: &Digest, kind: &str) -> String {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        // Another version of the runner may compile other code.
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        format!("{}-{:016x}.{kind}", digest.hex(), hasher.finish())
    }

    fn compile(&self, bytes: &[u8], name: &str) -> Result<Component, ModuleLoadError> {
        let component_bytes = componentize::to_component(bytes)
            .map_err(|source| ModuleLoadError::NotAComponent { module: name.to_owned(), source })?;
        Component::new(&self.engine, &component_bytes).map_err(|error| ModuleLoadError::InvalidComponent {
            module: name.to_owned(),
            reason: format!("{error:#}"),
        })
    }

    fn link(&self, component: &Component, digest: Digest, name: &str) -> Result<LoadedModule, ModuleLoadError> {
        let code = self.linker.instantiate_pre(component).and_then(ModulePre::new);
        let code = code.map_err(|error| {
            let ContractMismatch { reason: why, hint } =
                contract_mismatch::explain_link_error(&self.engine, component, &error);
            ModuleLoadError::ContractMismatch { module: name.to_owned(), reason: why, hint }
        })?;
        Ok(LoadedModule { instance_pre: code, digest, built_in_description: None })
    }
}

fn read_module_file(path: &Path) -> Result<Vec<u8>, ModuleLoadError> {
    fs::read(path).map_err(|source| ModuleLoadError::Read { path: path.display().to_string(), source })
}

/// Hashes without holding the whole file, which is needed only for compiling.
fn file_digest(path: &Path) -> Result<Digest, ModuleLoadError> {
    let error = |source| ModuleLoadError::Read { path: path.display().to_string(), source };
    let mut file = fs::File::open(path).map_err(error)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut piece).map_err(error)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            length => hasher.update(&piece[..length]),
        }
    }
}
