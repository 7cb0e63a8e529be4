//! Turns modules into code: official ones are embedded and precompiled; others are compiled once and cached.
//!
//! Of official modules, name, digest and description are constants. Their code is loaded beside what the caller does next
//! ([`official_code`](super::official_code)), and [`ModuleRuntime::check_code`] waits for it.
//!
//! Deliberately absent: running precompiled code (see [`precompiled`](super::precompiled)), and the modules' grants.

use std::{
    fs,
    hash::{Hash as _, Hasher as _},
    io::Read as _,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use super::{
    bindings::ModulePre,
    componentize::{self, ComponentError},
    contract_mismatch::{self, ContractMismatch},
    decoded::DecodedArchives,
    gate::module_display_name,
    host::HostState,
    kept_download::KeptDownloads,
    modules::{ModuleCache, NoticeHandler, RegistryError, UserPaths},
    official_code::OfficialCode,
    precompiled::{self, PrecompiledCode},
};
use contract::{
    Digest,
    diagnostic::{Diagnostic, ErrorCode},
};
use hostio::dir_snapshot::DirSnapshotCache;
use official::{OFFICIAL_MODULES, OfficialModule};
use plan::{ModuleRef, ModuleSchema, Plan, PlanStep, closest_match};

/// The version of the contract that the official modules are built for: this runner's.
pub const CONTRACT_VERSION: &str = "0.1.2";

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
    code: Arc<OfficialCode>,
    /// The official modules whose code the runtime's thread loads, by their position in [`OFFICIAL_MODULES`].
    wanted: mpsc::Sender<usize>,
    cache: ModuleCache,
    /// Snapshots of granted directories.
    pub(super) dir_snapshots: DirSnapshotCache,
    /// Files that stand for archives.
    pub decoded_archives: DecodedArchives,
}

/// A module and its digest.
pub struct LoadedModule {
    code: ModuleCode,
    /// The SHA-256 of the module file.
    pub digest: Digest,
    /// The version of the contract that it was built for, such as `0.1.1`.
    pub contract_version: String,
    /// The description of an official module, read at build time; others are asked.
    pub(super) built_in_description: Option<&'static str>,
}

/// What a module's instances are made of.
enum ModuleCode {
    /// An official module, by its position in [`OFFICIAL_MODULES`].
    Official(usize),
    Linked(ModulePre<HostState>),
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
                let hint =
                    "check the path; it is relative to the plan's folder; build the module first, if it is your own";
                (ErrorCode::UnknownModule, hint.to_owned())
            }
            Self::Registry { source, .. } => (ErrorCode::ModuleUnavailable, source.hint()),
            Self::NotAComponent { source, .. } => (ErrorCode::NotAModule, source.hint().to_owned()),
            Self::ContractMismatch { hint, .. } => (ErrorCode::ContractMismatch, hint.clone()),
            Self::InvalidComponent { .. } => (ErrorCode::NotAModule, "build it as docs/steps.md describes".to_owned()),
            Self::EngineSetup(_) => (ErrorCode::RunnerFault, "report this as a bug in the runner".to_owned()),
        };
        let mut diagnostic =
            plan.error_at(code, step.uses_span.clone(), self.to_string(), "this step uses it".to_owned(), Some(hint));
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
    /// Creates an engine, and a thread that loads official code and ticks during its lifetime. `notify` gets a notice when cached code is not used.
    ///
    /// # Errors
    /// [`ModuleLoadError::EngineSetup`].
    pub fn new(paths: UserPaths, notify: NoticeHandler) -> Result<Self, ModuleLoadError> {
        let fault = |error: wasmtime::Error| ModuleLoadError::EngineSetup(format!("{error:#}"));
        let mut config = wasm_config::engine_config().map_err(fault)?;
        precompiled::set_code_memory(&mut config);
        let engine = Engine::new(&config).map_err(fault)?;
        let code = Arc::new(OfficialCode::new(engine.clone()));
        let (wanted, asked) = mpsc::channel();
        let loading = Arc::downgrade(&code);
        let work = move || loop {
            match asked.recv_timeout(EPOCH_TICK) {
                // Whoever needs the code gets the error.
                Ok(index) => drop(loading.upgrade().map(|code| code.module(index).is_ok())),
                Err(mpsc::RecvTimeoutError::Timeout) => engine.increment_epoch(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        };
        let thread = std::thread::Builder::new().name("modules".to_owned()).spawn(work);
        thread.map_err(|error| ModuleLoadError::EngineSetup(error.to_string()))?;
        Ok(Self {
            code,
            wanted,
            cache: ModuleCache::new(paths, notify),
            dir_snapshots: DirSnapshotCache::default(),
            decoded_archives: DecodedArchives::default(),
        })
    }

    pub(super) fn kept_downloads(&self) -> KeptDownloads {
        KeptDownloads::new(self.cache.cache_dir())
    }

    pub(super) fn engine(&self) -> &Engine {
        self.code.engine()
    }

    /// The code of a module, once it is loaded.
    pub(super) fn instance_pre<'m>(
        &'m self,
        module: &'m LoadedModule,
    ) -> Result<&'m ModulePre<HostState>, ModuleLoadError> {
        match &module.code {
            ModuleCode::Official(index) => self.code.module(*index),
            ModuleCode::Linked(code) => Ok(code),
        }
    }

    /// Waits until the code of a module is loaded.
    ///
    /// # Errors
    /// [`ModuleLoadError::EngineSetup`].
    pub fn check_code(&self, module: &LoadedModule) -> Result<(), ModuleLoadError> {
        self.instance_pre(module).map(|_| ())
    }

    /// Loads the module that a step uses; of an official module, the code may come later.
    ///
    /// # Errors
    /// [`ModuleLoadError`].
    pub async fn load(&self, uses: &ModuleRef) -> Result<LoadedModule, ModuleLoadError> {
        match uses {
            ModuleRef::Official(name) => {
                let index = OFFICIAL_MODULES.iter().position(|module| module.name == *name);
                let index = index.ok_or_else(|| ModuleLoadError::UnknownOfficial { name: name.clone() })?;
                let module = &OFFICIAL_MODULES[index];
                let digest = module
                    .digest
                    .parse()
                    .map_err(|_| ModuleLoadError::EngineSetup("its built-in digest is not a digest".into()))?;
                // Without its thread, whoever needs the code loads it.
                let _ = self.wanted.send(index);
                let code = ModuleCode::Official(index);
                let contract_version = CONTRACT_VERSION.to_owned();
                Ok(LoadedModule { code, digest, contract_version, built_in_description: Some(module.description) })
            }
            ModuleRef::File(path) => {
                let name = path.display().to_string();
                let digest = file_digest(path)?;
                match self.cached_component(&digest, &name) {
                    Some(component) => self.link(&component, digest, &name),
                    None => self.compile_and_cache(read_module_file(path)?, &name).await,
                }
            }
            ModuleRef::Registry(reference) => {
                let name = reference.to_string();
                let error = |source| ModuleLoadError::Registry { module: name.clone(), source };
                let layer = self.cache.resolve_layer(reference).await.map_err(error)?;
                match self.cached_component(&layer.digest, &name) {
                    Some(component) => self.link(&component, layer.digest, &name),
                    None => {
                        let bytes = self.cache.module_bytes(reference, &layer).await.map_err(error)?;
                        self.compile_and_cache(bytes, &name).await
                    }
                }
            }
        }
    }

    /// The file of a third-party module that was loaded; none of an official one.
    ///
    /// # Errors
    /// [`ModuleLoadError`]: it can't be read, or is not the loaded one any more.
    pub async fn module_file(
        &self,
        uses: &ModuleRef,
        loaded: &LoadedModule,
    ) -> Result<Option<Vec<u8>>, ModuleLoadError> {
        let bytes = match uses {
            ModuleRef::Official(_) => return Ok(None),
            ModuleRef::File(path) => read_module_file(path)?,
            ModuleRef::Registry(reference) => {
                let error = |source| ModuleLoadError::Registry { module: reference.to_string(), source };
                let layer = self.cache.resolve_layer(reference).await.map_err(error)?;
                self.cache.module_bytes(reference, &layer).await.map_err(error)?
            }
        };
        if digest_of(&bytes) != loaded.digest {
            let source = std::io::Error::other("it was changed while the runner read it");
            return Err(ModuleLoadError::Read { path: module_display_name(uses), source });
        }
        Ok(Some(bytes))
    }

    /// The trusted cached code of a third-party module, if any.
    fn cached_component(&self, digest: &Digest, name: &str) -> Option<Component> {
        let code = self.cache.verified_code(&self.cache_entry_name(digest, "cwasm"), name)?;
        let loaded = PrecompiledCode::Cached(code).into_component(self.engine());
        loaded.map_err(|error| self.cache.warn_code_unused(name, &format!("{error:#}"))).ok()
    }

    /// Compiles a third-party module and caches the code if possible.
    async fn compile_and_cache(&self, bytes: Vec<u8>, name: &str) -> Result<LoadedModule, ModuleLoadError> {
        let digest = digest_of(&bytes);
        let (engine, shown) = (self.engine().clone(), name.to_owned());
        // It takes seconds for a large module, in which an agent must not seem dead.
        let compiling = tokio::task::spawn_blocking(move || compile(&engine, &bytes, &shown));
        let component = compiling.await.map_err(|error| ModuleLoadError::EngineSetup(error.to_string()))??;
        let module = self.link(&component, digest.clone(), name)?;
        if let Some(ContractMismatch { reason: why, hint }) =
            contract_mismatch::signature_mismatch(self.engine(), &component)
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
        self.engine().precompile_compatibility_hash().hash(&mut hasher);
        // Another version of the runner may compile other code.
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        format!("{}-{:016x}.{kind}", digest.hex(), hasher.finish())
    }

    fn link(&self, component: &Component, digest: Digest, name: &str) -> Result<LoadedModule, ModuleLoadError> {
        let code = self.code.linker()?.instantiate_pre(component).and_then(ModulePre::new);
        let code = code.map_err(|error| {
            let ContractMismatch { reason: why, hint } =
                contract_mismatch::explain_link_error(self.engine(), component, &error);
            ModuleLoadError::ContractMismatch { module: name.to_owned(), reason: why, hint }
        })?;
        let contract_version = contract_mismatch::contract_version(self.engine(), component).unwrap_or_default();
        Ok(LoadedModule { code: ModuleCode::Linked(code), digest, contract_version, built_in_description: None })
    }
}

fn compile(engine: &Engine, bytes: &[u8], name: &str) -> Result<Component, ModuleLoadError> {
    let component_bytes = componentize::to_component(bytes)
        .map_err(|source| ModuleLoadError::NotAComponent { module: name.to_owned(), source })?;
    Component::new(engine, &component_bytes)
        .map_err(|error| ModuleLoadError::InvalidComponent { module: name.to_owned(), reason: format!("{error:#}") })
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
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
