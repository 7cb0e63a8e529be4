//! The official step modules, precompiled by the build script and embedded in the executable.
//!
//! Deliberately absent: running compiled code (see `sandbox`), and the modules' grants.

/// An embedded module.
pub struct OfficialModule {
    /// Its name in a plan: `pull`.
    pub name: &'static str,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: &'static str,
    /// The JSON that its `describe` returns.
    pub description: &'static str,
    /// Machine code for this platform.
    pub compiled: &'static PageAligned<[u8]>,
}

/// Every official module, sorted by name.
pub static OFFICIAL_MODULES: &[OfficialModule] = include!(concat!(env!("OUT_DIR"), "/official.rs"));

/// Page-aligned bytes. A page is 4 KiB on x86-64, and up to 64 KiB on ARM.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
pub struct PageAligned<T: ?Sized>(pub T);
