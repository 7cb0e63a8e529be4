//! Loads precompiled code: the only unsafe code, besides that of the runner's environment (`cli::hidden_environment`).
//!
//! Invariant: precompiled code comes only from this binary's build or, unchanged, from this user's runner
//! ([`VerifiedCode`]), because it has no integrity check and runs as native code. Official modules run in place in the
//! executable, because a copy would take a tenth of a small deployment's time. Deliberately absent: the cache, and the
//! modules' grants.
#![expect(unsafe_code, reason = "precompiled code is believed, and its pages are made executable")]

use std::{ptr::NonNull, sync::Arc};

use memmap2::Mmap;
use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::{Config, CustomCodeMemory, Engine, Result, component::Component};

use super::modules::VerifiedCode;
use official::OfficialModule;

/// Precompiled code that is trusted.
pub(super) enum PrecompiledCode {
    /// A part of this executable.
    Official(&'static OfficialModule),
    /// Cached by this user's runner.
    Cached(VerifiedCode),
}

/// The settings of an engine that loads precompiled code.
pub(super) fn set_code_memory(config: &mut Config) {
    config.with_custom_code_memory(Some(Arc::new(ExecutablePages)));
}

impl PrecompiledCode {
    /// Deserializes a component.
    ///
    /// # Errors
    /// The code is from another version or for other settings.
    pub(super) fn into_component(self, engine: &Engine) -> Result<Component> {
        // SAFETY: the functions run the bytes as native code, so they must be wasmtime's output. `Official` bytes are
        // part of this executable, made by its build.rs with the same engine settings; whoever can change them can
        // change the executable. `Cached` bytes were copied into this process's memory before they were verified
        // (`VerifiedCode`), and carry a MAC under a key that only this user can read: a runner of this user made them,
        // under a name with the hash of the engine's version and settings. Whoever can read that key can already run
        // any code as this user. Both live as long as the process, the former as constants, the latter because they are
        // leaked, and nobody writes to them.
        unsafe {
            match self {
                Self::Official(official) => Component::deserialize_raw(engine, NonNull::from(&official.compiled.0)),
                Self::Cached(VerifiedCode(code)) => {
                    let code: &'static Mmap = Box::leak(Box::new(code));
                    Component::deserialize_raw(engine, NonNull::from(&**code))
                }
            }
        }
    }
}

/// Makes pages executable, including those that wasmtime did not map itself.
struct ExecutablePages;

impl CustomCodeMemory for ExecutablePages {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, code: *const u8, length: usize) -> Result<()> {
        // SAFETY: wasmtime names whole pages of its own code, which nobody writes to anymore.
        unsafe { mprotect(code.cast_mut().cast(), length, MprotectFlags::READ | MprotectFlags::EXEC) }?;
        Ok(())
    }

    fn unpublish_executable(&self, code: *const u8, length: usize) -> Result<()> {
        // SAFETY: wasmtime names pages that it published before; nothing runs in them or writes to them.
        unsafe { mprotect(code.cast_mut().cast(), length, MprotectFlags::READ) }?;
        Ok(())
    }
}
