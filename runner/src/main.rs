//! The binary: parse, run, render the error, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::cli::main()
}
