//! Pawl: a deployment runner that resumes instead of restarting.
//!
//! ```text
//!   deploy.yml ──► plan ──► schedule ──► sandbox ──► journal ──► report
//!                   │          ▲            │           │          │
//!                   │          └── state ◄──┼───────────┘          ▼
//!                   └────────────────────  drive  ──────────►  terminal, JSON
//! ```
//!
//! Start at [`drive`], the only loop; it asks [`schedule`] what to do about each step, lets [`sandbox`] do it, and writes
//! to [`journal`] before and after. Dependencies point one way: `plan ← journal ← {schedule, sandbox} ← drive ← cli`;
//! `report` reads `journal::event` only; nothing imports `cli`. docs/architecture.md has the whole picture.

pub mod cli;
pub mod deploy;
pub mod report;
