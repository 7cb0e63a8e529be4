//! GitHub's side: the action's launcher, and the action under `act`, which runs workflows without GitHub.
//!
//! Deliberately absent: GitHub itself. What only it can show is marked as untested in docs/github.md.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

#[path = "github/act.rs"]
mod act;
#[path = "github/cancel.rs"]
mod cancel;
#[path = "github/launcher.rs"]
mod launcher;
