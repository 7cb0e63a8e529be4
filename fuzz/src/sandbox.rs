//! Of the sandbox, the archives.

#[path = "../../runner/src/sandbox/archive/mod.rs"]
pub mod archive;
