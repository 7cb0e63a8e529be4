//! `runner completions SHELL` and `runner man DIR`: what shells and `man` know of the commands, made from their definitions.

use std::{io::Write, path::PathBuf};

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;
use crate::report;
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder to write to; it is created
    dir: PathBuf,
}

/// Writes the completion script of a shell.
///
/// # Errors
/// P0214 when the script cannot be written.
pub(super) fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> Result<ExitKind, Diagnostic> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "runner", &mut script);
    report::write_answer(out, &String::from_utf8_lossy(&script))?;
    Ok(ExitKind::Success)
}

/// Writes a page for each command.
///
/// # Errors
/// P0214 when a page cannot be written.
pub(super) fn man(args: &ManArgs) -> Result<ExitKind, Diagnostic> {
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir));
    written.map(|()| ExitKind::Success).map_err(|error| {
        Diagnostic::new(ErrorCode::OutputFailed, format!("can't write the pages to {}", args.dir.display()))
            .with_cause(error)
            .with_hint("choose a folder that you may write to")
    })
}
