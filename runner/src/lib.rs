//! Pawl: a deployment runner that resumes instead of restarting.
//!
//! ```text
//!   deploy.yml ──► plan ──► decision ──► sandbox ──► journal ──► report
//!                   │          ▲            │           │          │
//!                   │          └── state ◄──┼───────────┘          ▼
//!                   └───────────────────  deploy  ─────────►  terminal, JSON
//! ```
//!
//! Start at [`deploy::run`]. For each step it asks [`decide`](journal::decision::decide) what to do, calls the step's
//! module in the [`sandbox`], and writes to the [`journal`] before and after. Dependencies point one way, and nothing
//! imports `cli`; `report` reads only the journal's events and statuses. docs/architecture.md describes every crate.

pub mod agent;
pub mod cli;
pub mod content;
pub mod deploy;
pub mod remote;
pub mod report;
