//! `demo`: deploys the example app for real, breaks a migration, fixes it, and resumes only from there.
//!
//! Every expectation is checked on facts outside of the runner: exit codes, the running app's answers, and the inode of
//! the pulled release. Any that fails ends the demo with exit code 1.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};

use crate::{
    http::LoopbackServer,
    pack::pack,
    setup::{self, SetupNeed},
    workspace,
};

const MIGRATION: &str = "migrations/0003_orders.sql";
const BROKEN: &str =
    "CREATE TABLE order (\n    id INTEGER PRIMARY KEY,\n    product INTEGER NOT NULL REFERENCES product\n);\n";

/// `keep`: a folder to work in that is not there yet or empty; else a temporary one.
pub(crate) fn run(keep: Option<PathBuf>) -> Result<()> {
    setup::ensure(&[SetupNeed::GuestToolchain])?;
    let runner = workspace::build_runner()?;
    let temporary;
    let folder = match &keep {
        Some(folder) => folder.as_path(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    let shop = DemoShop::copy_example(folder, runner)?;
    let app = shop.serve_live_release()?;

    print_heading("The first release goes live");
    shop.pack("r1")?;
    shop.run_expecting(&["--local", "--env", "test", "--release", "r1"], 0)?;
    ensure_live(&app, "r1")?;

    print_heading("The second has a migration with an SQL error. The deployment stops there; users still see r1");
    fs::write(shop.folder.join(MIGRATION), BROKEN)?;
    println!("wrote {MIGRATION}: CREATE TABLE order (…)");
    shop.pack("r2")?;
    shop.run_expecting(&["--local", "--env", "test", "--release", "r2"], 1)?;
    ensure_live(&app, "r1")?;
    let pulled = shop.releases()?;
    ensure!(pulled.len() == 2, "expected both releases in the folder, found {}", pulled.len());

    print_heading("The migration is fixed, and the same command resumes: what was pulled stays");
    fs::write(shop.folder.join(MIGRATION), BROKEN.replace("TABLE order", "TABLE orders"))?;
    println!("wrote {MIGRATION}: CREATE TABLE orders (…)");
    shop.run_expecting(&["--local", "--env", "test", "--release", "r2"], 0)?;
    ensure!(shop.releases()? == pulled, "pull ran again: the release's folder is a new one");
    shop.run_expecting(&["why", "pull", "--env", "test"], 0)?;
    shop.run_expecting(&["why", "migrate", "--env", "test"], 0)?;
    ensure_live(&app, "r2")?;

    println!("\ndemo: r1 was deployed, r2 failed in migrate, resumed without a second pull, and is live");
    if keep.is_some() {
        println!("demo: left in {}", shop.folder.display());
    }
    Ok(())
}

/// A copy of the example app, and the runner that deploys it.
struct DemoShop {
    folder: PathBuf,
    runner: PathBuf,
}

impl DemoShop {
    fn copy_example(folder: &Path, runner: PathBuf) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        ensure!(fs::read_dir(folder)?.next().is_none(), "{} is not empty", folder.display());
        let example = workspace::root().join("examples/shop");
        for part in ["app", "migrations"] {
            copy_folder(&example.join(part), &folder.join(part))?;
        }
        fs::copy(example.join("deploy.yml"), folder.join("deploy.yml"))?;
        Ok(Self { folder: fs::canonicalize(folder)?, runner })
    }

    /// The app: a web server for the files of the live release. It says its release under `/health`.
    fn serve_live_release(&self) -> Result<LoopbackServer> {
        let current = self.folder.join("deploy/test/current");
        LoopbackServer::start(move |path| {
            let file = match path {
                "/" => "index.html",
                "/health" => "VERSION",
                other => other.trim_start_matches('/'),
            };
            let leaves = file.split('/').any(|part| part == "..");
            if leaves { None } else { fs::read(current.join(file)).ok().map(Arc::from) }
        })
    }

    fn pack(&self, label: &str) -> Result<()> {
        let archive = pack(&self.folder, label)?;
        let name = archive.strip_prefix(&self.folder).unwrap_or(&archive);
        println!("packed {}", name.display());
        Ok(())
    }

    /// Runs `run_expecting` in the shop's folder, with our terminal.
    fn run_expecting(&self, words: &[&str], expected: i32) -> Result<()> {
        let line = format!("runner {}", words.join(" "));
        println!("\n$ {line}");
        let status = Command::new(&self.runner).args(words).current_dir(&self.folder).status()?;
        ensure!(status.code() == Some(expected), "`{line}` ended with {status}, expected {expected}");
        println!("(exit code {expected}, as expected)");
        Ok(())
    }

    /// The pulled releases with their inodes: a folder that was pulled again has another one.
    fn releases(&self) -> Result<Vec<(PathBuf, u64)>> {
        let entries = fs::read_dir(self.folder.join("deploy/test/releases"))?.collect::<Result<Vec<_>, _>>()?;
        let mut found =
            entries.iter().map(|entry| Ok((entry.path(), entry.metadata()?.ino()))).collect::<Result<Vec<_>>>()?;
        found.sort();
        Ok(found)
    }
}

fn ensure_live(app: &LoopbackServer, label: &str) -> Result<()> {
    let health = app.get("/health")?;
    println!("\n$ curl {}/health\n{health}", app.origin());
    ensure!(health == label, "the live app says {health:?}, expected {label:?}");
    let page = app.get("/")?;
    ensure!(page.contains(&format!("Release {label}")), "the live page is not of {label}:\n{page}");
    Ok(())
}

fn print_heading(text: &str) {
    println!("\n── {text}");
}

/// Folders and files only: the example has nothing else.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
