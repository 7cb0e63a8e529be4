//! End-to-end: the runner as a process, on the example plan, in a folder of its own. Each case looks at the exit code, at what was
//! decided, and at the world. `UPDATE_EXPECT=1` rewrites the snapshots.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

mod support;

mod cases {
    mod archives;
    mod authors;
    mod bad_plans;
    mod commands;
    mod denials;
    mod doubt;
    mod downloads;
    mod environments;
    mod escapes;
    mod foreign;
    mod github_deployments;
    mod github_log;
    mod handles;
    mod hangs;
    mod hooks;
    mod hostile;
    mod kept_modules;
    mod leaks;
    mod limits;
    mod lock;
    mod migrations;
    mod misfits;
    mod pinned_modules;
    mod places;
    mod preview;
    mod readme;
    mod registries;
    mod resume;
    mod rollback;
    mod secrets;
    mod selection;
    mod shared_lock;
    mod shared_state;
    mod verify;
}
