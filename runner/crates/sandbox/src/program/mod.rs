//! Runs programs of steps, each under a guard.
//!
//! ```text
//!   runner ── socket ──► guard (this binary again) ──► program, in a process group of its own
//! ```
//! Invariants: a program does not outlive its runner: when the socket closes, the guard ends the program's whole group. A program
//! starts only after its guard is on record, so the next attempt finds what an earlier one left ([`records`]). Deliberately absent:
//! grants, which are checked before.

mod bounded;
mod capture;
mod file_format;
pub(crate) mod guard;
mod lookup;
mod process_identity;
mod protocol;
mod records;
mod running;
mod terminal;

pub use bounded::{BoundedProgram, run_bounded};
pub(crate) use capture::CapturedOutput;
pub use file_format::FileFormat;
pub use guard::{GUARD_ARGUMENT, run_program_guard};
pub use lookup::{ProgramFault, find_program, usual_path};
pub use process_identity::ProcessIdentity;
pub use records::{LeftoverProgram, end_leftover_programs};
pub(crate) use running::{ProgramExit, ProgramPipes, ProgramStart, RunningProgram, StartError};
