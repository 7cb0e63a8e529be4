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

use super::{BenchRow, BenchTarget, interleaved_medians, wall_time};
use crate::workspace;

const ROUNDS: usize = 5;
const FILES: usize = 200;
const MAX_RATIO: f64 = 1.5;

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

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let ours = || {
        let folder = fresh_folder()?;
        fs::write(folder.path().join("deploy.yml"), PLAN)?;
        fs::create_dir(folder.path().join("migrations"))?;
        for number in 1..=FILES {
            fs::write(folder.path().join("migrations").join(file_name(number)), migration_text(number))?;
        }
        wall_time(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder.path()))
    };
    let script = sqlite_script()?;
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
    let (ours, theirs) = interleaved_medians(ROUNDS, ours, theirs)?;
    Ok(vec![BenchRow {
        name: format!("migrate, {FILES} files · `sqlite3`"),
        ours,
        theirs,
        target: BenchTarget::Ratio(MAX_RATIO),
    }])
}

/// On the disk of the target directory: what is compared is dominated by its syncs.
fn fresh_folder() -> Result<TempDir> {
    Ok(tempfile::tempdir_in(workspace::target_dir()?)?)
}

fn file_name(number: usize) -> String {
    format!("{number:04}_table.sql")
}

fn migration_text(number: usize) -> String {
    format!(
        "CREATE TABLE t{number} (id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n\
         CREATE INDEX t{number}_name ON t{number} (name);\n\
         INSERT INTO t{number} (name) VALUES ('first'), ('second');\n"
    )
}

fn sqlite_script() -> Result<String> {
    let mut script = "CREATE TABLE history (name TEXT PRIMARY KEY, checksum TEXT, at TEXT);\n".to_owned();
    for number in 1..=FILES {
        let (name, text) = (file_name(number), migration_text(number));
        let sum = crate::pack::sha256(text.as_bytes());
        writeln!(script, "BEGIN;\n{text}INSERT INTO history VALUES ('{name}', '{sum}', datetime());\nCOMMIT;")?;
    }
    Ok(script)
}
