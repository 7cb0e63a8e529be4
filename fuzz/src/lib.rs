//! The rooms of the runner that read what others wrote, compiled from the runner's own files.
//!
//! The runner itself is not a dependency: it brings wasmtime, SQLite and the step modules, none of which is under test here, and
//! all of which would be built with coverage. The paths of modules are the runner's, so that `crate::plan` means the same.

#![allow(dead_code, reason = "only a part of each room is used")]

#[path = "../../runner/src/clock.rs"]
pub mod clock;
#[path = "../../runner/src/diagnose.rs"]
pub mod diagnose;
#[path = "../../runner/src/journal/mod.rs"]
pub mod journal;
#[path = "../../runner/src/plan/mod.rs"]
pub mod plan;
pub mod report;
pub mod sandbox;
