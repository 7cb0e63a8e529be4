//! Migrations on real servers: PostgreSQL, MariaDB, and SQLite's file. Each test has a database of its own; the servers are started
//! here, on free ports in temporary folders, and stopped with the last test that uses them. Beside the runner stand the clients
//! of the servers, so that nothing is believed that the runner says of itself.
//!
//! `PAWL_SEED=…` repeats the points of the kills, `PAWL_POINTS=300` takes as many (`cargo xtask bench faults`).

#![expect(clippy::unwrap_used, reason = "what a test is made of is well formed, or it fails")]

#[path = "databases/afternoon.rs"]
mod afternoon;
#[path = "databases/concurrency.rs"]
mod concurrency;
#[path = "support/doc_blocks.rs"]
#[expect(dead_code, reason = "the cases use all of it")]
mod doc_blocks;
#[path = "databases/edge_cases.rs"]
mod edge_cases;
#[path = "databases/error_pages.rs"]
mod error_pages;
#[path = "databases/faults.rs"]
mod faults;
#[path = "support/guest.rs"]
mod guest;
#[path = "databases/interop.rs"]
mod interop;
#[path = "databases/killed.rs"]
mod killed;
#[path = "databases/migration_fixture.rs"]
mod migration_fixture;
#[path = "support/normalize.rs"]
mod normalize;
#[path = "databases/operator.rs"]
mod operator;
#[path = "support/ports.rs"]
mod ports;
#[path = "kills/rng.rs"]
mod rng;
#[path = "databases/secrecy.rs"]
mod secrecy;
#[path = "databases/server.rs"]
mod server;
#[path = "databases/tls.rs"]
mod tls;
