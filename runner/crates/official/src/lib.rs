//! The official step modules, as the build script compiled them: a part of the executable.
//!
//! Deliberately absent: what makes compiled code run (`sandbox` does), and what a module may reach.

/// A module that the binary carries.
pub struct OfficialModule {
    /// As a plan says it: `pull`.
    pub name: &'static str,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: &'static str,
    /// What the module says of itself, JSON.
    pub description: &'static str,
    /// Machine code for this platform.
    pub compiled: &'static PageAligned<[u8]>,
}

/// Every official module, sorted by name.
pub static OFFICIAL_MODULES: &[OfficialModule] = include!(concat!(env!("OUT_DIR"), "/official.rs"));

/// Bytes that begin a page, and share none with others before them: 4 KiB on x86-64, up to 64 KiB on ARM.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
pub struct PageAligned<T: ?Sized>(pub T);
