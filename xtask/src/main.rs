//! The project's own commands: `cargo xtask setup | steps | pack | demo | test | check | tidy | workflows | fuzz | bench`.
//!
//! One small file a command; what several need (cargo, git, a tiny HTTP server) has a file of its own. Exit codes: 0,
//! 1 for a failure, 2 when only the operator can go on. Deliberately absent: the runner's code. Its binary is built and
//! run as users run it.

mod bench;
mod check;
mod demo;
mod fuzz;
mod http;
mod pack;
mod setup;
mod steps;
mod test;
mod tidy;
mod workflows;
mod workspace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's own commands")]
struct XtaskCli {
    #[command(subcommand)]
    command: XtaskCommand,
}

#[derive(Subcommand)]
enum XtaskCommand {
    /// Install what building and testing need, and say what
    Setup,
    /// Build the step modules for wasm
    Steps,
    /// Pack the example app as a release
    Pack {
        /// What people call the release, such as r1
        label: String,
        /// The folder with `app/` in it; the archive goes to its `dist/`
        #[arg(long, default_value = "examples/shop")]
        dir: PathBuf,
    },
    /// Write the runner's manual pages
    Man {
        /// Where they go
        #[arg(long, value_name = "DIR", default_value = "target/man")]
        dir: PathBuf,
    },
    /// Deploy the example app, break a migration, fix it, and resume
    Demo {
        /// Work in this new folder and leave it there
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// Run every test; the last line is the sum
    Test,
    /// Formatting, clippy, tidy, cargo-deny and the workflows
    Check,
    /// The part of check that needs no compiler
    Tidy,
    /// The part of check about action.yml, workflows, and workflows in documents
    Workflows,
    /// Run the fuzz targets, which panic on what must not be
    Fuzz {
        /// Which one; all, one after the other, when none is named
        target: Option<String>,
        /// How long each runs
        #[arg(long, default_value_t = 600)]
        seconds: u32,
    },
    /// Measure side by side with the tools people use today
    Bench {
        /// Which ones; all when none is named
        names: Vec<bench::BenchmarkName>,
        /// Put the figures into docs/benchmarks.md
        #[arg(long)]
        write: bool,
        /// Compare `resume`, `append` and `steps` with this runner, at most 1.05 times its time, instead of with other programs. Next to
        /// it lies `examples/append`, as `cargo build --release --package runner --bins --examples` leaves them. `growth` measures it alone, and
        /// needs `examples/history`
        #[arg(long, value_name = "RUNNER", conflicts_with = "write")]
        against: Option<PathBuf>,
        /// With `growth`, after 10, 300 and 600 attempts; with `hosts`, on fewer hosts and in fewer rounds
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    if bench::hosts::double::is_asked_for() {
        return if bench::hosts::double::run().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let result = match XtaskCli::parse().command {
        XtaskCommand::Setup => setup::run(),
        XtaskCommand::Steps => steps::run(),
        XtaskCommand::Pack { label, dir } => pack::run(&dir, &label),
        XtaskCommand::Man { dir } => workspace::build_runner()
            .and_then(|runner| workspace::run(std::process::Command::new(runner).arg("man").arg(&dir))),
        XtaskCommand::Demo { keep } => demo::run(keep),
        XtaskCommand::Test => match test::run() {
            // The sum is the last line, so nothing more is said.
            Ok(sum) if sum.failed > 0 => return ExitCode::FAILURE,
            result => result.map(drop),
        },
        XtaskCommand::Check => check::run(),
        XtaskCommand::Tidy => tidy::run(workspace::root()),
        XtaskCommand::Workflows => setup::ensure(&setup::LINTERS).and_then(|()| workflows::run()),
        XtaskCommand::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        XtaskCommand::Bench { names, write: _, against: Some(old), quick } => bench::run_against(&names, &old, quick),
        XtaskCommand::Bench { names, write, against: None, quick } => {
            bench::run(&names, bench::BenchOptions { write, quick })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<setup::ManualSetupRequired>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// What the Markdown files of a folder have between backticks that begins with `cargo xtask`.
    fn commands_below(folder: &Path, found: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                commands_below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                let codes = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
                found.extend(codes.filter(|code| code.starts_with("cargo xtask ")).map(str::to_owned));
            }
        }
    }

    /// Each is asked for its help, which comes only if all before it is known.
    #[test]
    fn xtask_knows_every_command_that_a_page_names() {
        let mut commands =
            BTreeSet::from(["cargo xtask demo", "cargo xtask test", "cargo xtask pack r2"].map(str::to_owned));
        let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
        assert!(commands.iter().all(|command| readme.contains(&format!("`{command}`"))), "{commands:?}");
        commands_below(&workspace::root().join("docs"), &mut commands);
        for command in commands {
            let typed = command.replace(['[', ']'], "");
            let words = typed.split_whitespace().skip(1).map(|word| if word == "N" { "1" } else { word });
            let error = XtaskCli::try_parse_from(words.chain(["--help"])).err();
            let kind = error.as_ref().map(clap::Error::kind);
            assert_eq!(kind, Some(clap::error::ErrorKind::DisplayHelp), "{command}: {error:?}");
        }
    }
}
