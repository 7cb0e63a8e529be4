//! What the runner says to GitHub's services, and what it makes of their answers. The services are in this process.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

#[path = "support/artifact_service.rs"]
mod artifact_service;
#[expect(dead_code, unused_imports, reason = "the cases use all of it")]
mod support;

mod github {
    mod artifacts;
    mod faults;
    mod official;
}
