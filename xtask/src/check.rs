//! `check`: everything that can be said about the sources without running them. All checks run; the failed ones are named
//! at the end.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    setup::{self, LINTERS, SetupNeed},
    tidy, workflows,
    workspace::{self, GUESTS, cargo, run as run_command},
};

pub(crate) fn run() -> Result<()> {
    setup::ensure(&[SetupNeed::GuestToolchain, SetupNeed::CargoDeny].into_iter().chain(LINTERS).collect::<Vec<_>>())?;
    let mut failed = Vec::new();
    let mut check = |name: String, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    };
    check("tidy".to_owned(), tidy::run(workspace::root()));
    check("workflows".to_owned(), workflows::run());
    check("fmt".to_owned(), run_command(cargo().args(["fmt", "--all", "--check"])));
    for guests in GUESTS {
        check(format!("fmt of {guests}"), run_command(cargo_in(guests).args(["fmt", "--all", "--check"])));
    }
    let deny = ["bans", "licenses", "sources"];
    check("deny".to_owned(), run_command(cargo().args(["deny", "check", "--hide-inclusion-graph"]).args(deny)));
    for guests in GUESTS {
        let mut cargo = cargo_in(guests);
        // The configuration in the root is found from here. Its list is the host's; guests need only a part of it.
        cargo.args(["deny", "check", "--hide-inclusion-graph", "--allow", "license-not-encountered"]).args(deny);
        check(format!("deny of {guests}"), run_command(&mut cargo));
    }
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets"];
    check("clippy".to_owned(), run_command(cargo().args(clippy).args(["--release", "--", "-D", "warnings"])));
    let native = workspace::native_guests_dir()?;
    for guests in GUESTS {
        let mut cargo = cargo_in(guests);
        cargo.args(clippy).arg("--target-dir").arg(&native).args(["--", "-D", "warnings"]);
        check(format!("clippy of {guests}"), run_command(&mut cargo));
    }
    if failed.is_empty() {
        println!("check: all is well");
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "));
}

fn cargo_in(folder: &str) -> Command {
    let mut cargo = cargo();
    cargo.current_dir(workspace::root().join(folder));
    cargo
}
