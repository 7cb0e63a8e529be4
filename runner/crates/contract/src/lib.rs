//! The types that all parts of the runner share: names, digests, the values of the step contract, diagnostics, exit codes.
//!
//! Invariant: no IO, no clock, no environment. Deliberately absent: decisions.

pub mod diagnostic;
pub mod duration;
pub mod error_code;
pub mod hash;
mod names;
pub mod render;
pub mod step;
pub mod text;

pub use names::{
    AppName, AttemptNumber, Digest, EnvironmentName, GrantName, HostGroup, HostLabel, Label, MachineId, NameError,
    RunId, Secret, StepId, TargetName,
};
