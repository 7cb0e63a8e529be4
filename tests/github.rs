//! GitHub's side: what the runner says to GitHub's services and makes of their answers, the action's launcher, and the action
//! under `act`, which runs workflows without GitHub. The services are in this process. GitLab's jobs run beside them, under
//! `gitlab-ci-local`.
//!
//! Deliberately absent: GitHub and GitLab themselves. What only they can show is marked as untested in docs/github.md and
//! docs/elsewhere.md.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test that meets another variant fails")]

#[path = "support/artifact_service.rs"]
mod artifact_service;
#[expect(dead_code, unused_imports, reason = "the cases use all of it")]
mod support;

mod github {
    mod act;
    mod artifacts;
    mod built_from_source;
    mod cancel;
    mod documented_workflows;
    mod error_pages;
    mod faults;
    mod forged;
    mod freshness;
    mod gh;
    mod gitlab;
    mod launcher;
    mod long_history;
    mod official;
    mod resume;
    mod runs;
    mod template_workflows;
}
