//! The code of the official modules, and the linker of all modules: each is made when it is first needed.
//!
//! The runtime's thread asks for the modules of the plan while the caller takes the lock and reads the journals. Who comes second
//! waits for the first, so nothing is made twice. Deliberately absent: the thread, and other people's modules.

use std::sync::OnceLock;

use wasmtime::{Engine, component::Linker};

use super::{
    bindings::{self, ModulePre},
    engine::ModuleLoadError,
    host::HostState,
    precompiled::PrecompiledCode,
};
use official::{OFFICIAL_MODULES, OfficialModule};

/// What is made once; an error is kept as its message.
type MadeOnce<T> = OnceLock<Result<T, String>>;

/// The linker, and the official modules that are loaded.
pub(super) struct OfficialCode {
    engine: Engine,
    linker: MadeOnce<Linker<HostState>>,
    /// One for each of [`OFFICIAL_MODULES`].
    modules: Vec<MadeOnce<ModulePre<HostState>>>,
}

impl OfficialCode {
    pub(super) fn new(engine: Engine) -> Self {
        let modules = OFFICIAL_MODULES.iter().map(|_| OnceLock::new()).collect();
        Self { engine, linker: OnceLock::new(), modules }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Everything that a module may import.
    pub(super) fn linker(&self) -> Result<&Linker<HostState>, ModuleLoadError> {
        let made = self.linker.get_or_init(|| new_linker(&self.engine).map_err(|error| format!("{error:#}")));
        made.as_ref().map_err(|error| ModuleLoadError::EngineSetup(error.clone()))
    }

    /// A module, by its position in [`OFFICIAL_MODULES`].
    pub(super) fn module(&self, index: usize) -> Result<&ModulePre<HostState>, ModuleLoadError> {
        let made = self.modules[index].get_or_init(|| self.load(&OFFICIAL_MODULES[index]));
        made.as_ref().map_err(|error| ModuleLoadError::EngineSetup(error.clone()))
    }

    fn load(&self, module: &'static OfficialModule) -> Result<ModulePre<HostState>, String> {
        let linker = self.linker().map_err(|error| error.to_string())?;
        let load = || {
            let component = PrecompiledCode::Official(module).into_component(&self.engine)?;
            // Otherwise the first instance would wait for it.
            component.initialize_copy_on_write_image()?;
            ModulePre::new(linker.instantiate_pre(&component)?)
        };
        load().map_err(|error: wasmtime::Error| format!("{}: {error:#}", module.name))
    }
}

fn new_linker(engine: &Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    bindings::add_to_linker(&mut linker)?;
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contract_mismatch, engine::CONTRACT_VERSION};

    /// A deployment asks for its modules only, and after its preflight.
    #[test]
    fn every_official_module_loads_and_links() {
        let mut config = wasm_config::engine_config().unwrap();
        crate::precompiled::set_code_memory(&mut config);
        let code = OfficialCode::new(Engine::new(&config).unwrap());
        for (index, module) in OFFICIAL_MODULES.iter().enumerate() {
            let loaded = code.module(index);
            let loaded = loaded.unwrap_or_else(|error| panic!("{}: {error}", module.name));
            let built_for = contract_mismatch::contract_version(code.engine(), loaded.instance_pre().component());
            assert_eq!(built_for.as_deref(), Some(CONTRACT_VERSION), "{}", module.name);
        }
    }
}
