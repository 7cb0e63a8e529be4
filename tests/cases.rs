//! End-to-end: the runner as a process, on the example plan, in a folder of its own. Each case looks at the exit code, at what was
//! decided, and at the world. `UPDATE_EXPECT=1` rewrites the snapshots.

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test that meets another variant fails")]

mod support;

mod cases {
    mod agent;
    mod archives;
    mod authors;
    mod bad_plans;
    mod commands;
    mod compose;
    mod configure;
    mod container;
    mod content;
    mod denials;
    mod documented_blocks;
    mod documented_commands;
    mod downloads;
    mod drift;
    mod editor;
    mod environments;
    mod error_pages;
    mod escapes;
    mod fleet_example;
    mod found_early;
    mod github_deployments;
    mod github_log;
    mod handles;
    mod hangs;
    mod hooks;
    mod host_faults;
    mod host_output;
    mod host_secrets;
    mod host_upkeep;
    mod host_users;
    mod hosts;
    mod images;
    mod imports;
    mod init;
    mod init_containers;
    mod invalid_modules;
    mod inventories;
    mod leaks;
    mod left_behind;
    mod limited_hosts;
    mod limits;
    mod live_again;
    mod locations;
    mod lock;
    mod long_programs;
    mod lying_hosts;
    mod machines;
    mod malicious_archives;
    mod migrations;
    mod module_cache;
    mod module_requirements;
    mod oci_pulls;
    mod other_ci;
    mod pasted_commands;
    mod pinned_modules;
    mod plan_files;
    mod preview;
    mod promotion;
    mod pull_faults;
    mod readme;
    mod registries;
    mod remote_hosts;
    mod rendered_files;
    mod repeated_steps;
    mod reports;
    mod resolve;
    mod resume;
    mod rollback;
    mod run_inputs;
    mod run_phases;
    mod secrets;
    mod selection;
    mod shared_lock;
    mod shared_state;
    mod shared_storage;
    mod short_plans;
    mod ssh_recipes;
    mod staged_steps;
    mod state_repair;
    mod supervisord;
    mod surveyed_hosts;
    mod switch_traffic;
    mod systemd;
    mod upgrade;
    mod venv;
    mod verify;
    mod verify_traffic;
}
