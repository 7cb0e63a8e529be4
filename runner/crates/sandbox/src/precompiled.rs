//! Precompiled code becomes something that runs: the one place that is unsafe.
//!
//! Invariant: such code comes from this binary's own build, or from this user's runner and unchanged ([`VerifiedCode`]), and from
//! nowhere else, since it has no integrity check and runs as native code. That of official modules runs where it lies in
//! the executable, since a copy of it would be a tenth of the time that a small deployment takes. Deliberately absent: where kept code comes from,
//! and what a module may reach.
#![expect(unsafe_code, reason = "precompiled code is believed, and its pages are made executable")]

use std::{ptr::NonNull, sync::Arc};

use memmap2::Mmap;
use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::{Config, CustomCodeMemory, Engine, Result, component::Component};

use super::modules::VerifiedCode;
use official::OfficialModule;

/// Precompiled code that may be run.
pub(super) enum PrecompiledCode {
    /// A part of this executable.
    Official(&'static OfficialModule),
    /// Kept by this user's runner.
    Cached(VerifiedCode),
}

/// The settings of an engine that loads such code.
pub(super) fn set_code_memory(config: &mut Config) {
    config.with_custom_code_memory(Some(Arc::new(ExecutablePages)));
}

impl PrecompiledCode {
    /// The component that the code is of.
    ///
    /// # Errors
    /// When it was made by another version or for other settings.
    pub(super) fn into_component(self, engine: &Engine) -> Result<Component> {
        // SAFETY: each function runs the bytes as native code, so they must be what wasmtime made. `Official` ones are a
        // part of this executable, made by our own build.rs with the same engine settings; whoever can change them can
        // change the executable. `Kept` ones were copied into memory of this process before they were looked at (`VerifiedCode`), and
        // carry a MAC under a key that only this user can read: a runner of this user made them, under a name that holds
        // the hash of the engine's version and settings. Whoever can read that key can run any code as this user already.
        // Both live as long as the process, the ones as constants, the others because they are leaked, and nobody writes to them.
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

/// Makes pages executable, also those that wasmtime did not map itself.
struct ExecutablePages;

impl CustomCodeMemory for ExecutablePages {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, code: *const u8, length: usize) -> Result<()> {
        // SAFETY: wasmtime names whole pages of code that it holds and that nobody writes to any more.
        unsafe { mprotect(code.cast_mut().cast(), length, MprotectFlags::READ | MprotectFlags::EXEC) }?;
        Ok(())
    }

    fn unpublish_executable(&self, code: *const u8, length: usize) -> Result<()> {
        // SAFETY: wasmtime names pages that it published before; nothing runs in them, and nothing writes to them.
        unsafe { mprotect(code.cast_mut().cast(), length, MprotectFlags::READ) }?;
        Ok(())
    }
}
