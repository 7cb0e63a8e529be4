//! 200 migrations into a new SQLite database on disk. The shell gets the same files, each in one transaction with a row of
//! history, in one process and with SQLite's defaults.

use std::{
    fmt::Write,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::{Aim, Row, interleaved, timed};
use crate::workspace;

const ROUNDS: usize = 5;
const FILES: usize = 200;
const AIM: f64 = 1.5;

const PLAN: &str = "version: 1
app: bench
environments: { bench: {} }
steps:
  migrate:
    uses: migrate
    with: { dir: migrations, database: main }
    grants:
      dirs: { migrations: \"./migrations:ro\" }
      databases: { main: \"sqlite:./bench.db\" }
";

pub(super) fn rows(runner: &Path) -> Result<Vec<Row>> {
    let ours = || {
        let folder = fresh_folder()?;
        fs::write(folder.path().join("deploy.yml"), PLAN)?;
        fs::create_dir(folder.path().join("migrations"))?;
        for number in 1..=FILES {
            fs::write(folder.path().join("migrations").join(file_name(number)), migration(number))?;
        }
        timed(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder.path()))
    };
    let script = script()?;
    let theirs = || {
        let folder = fresh_folder()?;
        fs::write(folder.path().join("all.sql"), &script)?;
        let mut shell = Command::new("sqlite3");
        shell.args(["-bail", "bench.db"]).current_dir(folder.path());
        shell.stdin(File::open(folder.path().join("all.sql"))?).stdout(Stdio::null());
        let began = Instant::now();
        let status = shell.status()?;
        let took = began.elapsed();
        ensure!(status.success(), "sqlite3: {status}");
        Ok(took)
    };
    let (ours, theirs) = interleaved(ROUNDS, ours, theirs)?;
    Ok(vec![Row { name: format!("migrate, {FILES} files · `sqlite3`"), ours, theirs, aim: Aim::Ratio(AIM) }])
}

/// On the disk of the target directory: what is compared is dominated by its syncs.
fn fresh_folder() -> Result<TempDir> {
    Ok(tempfile::tempdir_in(workspace::target_dir()?)?)
}

fn file_name(number: usize) -> String {
    format!("{number:04}_table.sql")
}

fn migration(number: usize) -> String {
    format!(
        "CREATE TABLE t{number} (id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n\
         CREATE INDEX t{number}_name ON t{number} (name);\n\
         INSERT INTO t{number} (name) VALUES ('first'), ('second');\n"
    )
}

fn script() -> Result<String> {
    let mut script = "CREATE TABLE history (name TEXT PRIMARY KEY, checksum TEXT, at TEXT);\n".to_owned();
    for number in 1..=FILES {
        let (name, text) = (file_name(number), migration(number));
        let sum = crate::pack::sha256(text.as_bytes());
        writeln!(script, "BEGIN;\n{text}INSERT INTO history VALUES ('{name}', '{sum}', datetime());\nCOMMIT;")?;
    }
    Ok(script)
}
