//! Write a deployment step for Pawl in Rust: one type, one trait, one macro.
//!
//! ```text
//! struct Hello;
//! impl pawl_step::Step for Hello { /* describe, preview, apply */ }
//! pawl_step::export!(Hello);
//! ```
//!
//! docs/steps.md shows a whole step and how to build it; [`Step`] states the duties of each function.
//!
//! Invariant: nothing here reaches beyond the grants of the step in the plan. Files go through WASI preopens,
//! everything else through the host, which checks each call.
//!
//! Deliberately absent: threads, `async`, environment variables, sockets, and `std::fs`, which fails in a sandbox.
//!
//! On a native target the crate compiles for tests: [`fs`], [`blobs`] and [`log`] work on the test's own folders (see
//! [`testing`]); the other capabilities exist only inside a host.

#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "pawl:sdk/sdk",
        path: ["../../wit", "wit"],
        pub_export_macro: true,
        export_macro_name: "export_bindings",
        default_bindings_module: "pawl_step::bindings",
        generate_all,
    });
}

pub mod blobs;
pub mod database;
mod describe;
mod digest;
mod failure;
pub mod files;
pub mod fs;
pub mod http;
mod input;
pub mod json;
pub mod log;
pub mod migrations;
mod outcome;
pub mod process;
pub mod releases;
pub mod secrets;
pub mod slots;
pub mod socket;
mod step;
pub mod tcp;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod time;

pub use describe::{
    Capability, CapabilityNeed, DirectoryAccess, ModuleBehavior, ModuleDescription, Phase, ProbeSupport, RerunSafety,
};
pub use digest::Digest;
pub use failure::{Failure, FailureKind};
pub use input::{EnvironmentHead, Input, Release};
pub use outcome::{Change, ChangeAction, Finding, Receipt};
pub use serde;
pub use serde_json;
pub use step::{Step, StepAdapter};

/// Exports the given [`Step`] from the component. Use it once in a crate; on native targets it only checks the type.
#[macro_export]
macro_rules! export {
    ($step:ty) => {
        // On native targets nothing else uses the step.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() -> $crate::ModuleDescription = <$step as $crate::Step>::describe;

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, missing_docs)]
        const _: () = {
            type ExportedStep = $crate::StepAdapter<$step>;
    $crate::bindings::export_bindings!(ExportedStep with_types_in $crate::bindings);
        };
    };
}
