//! 1,000 small migrations on PostgreSQL beside one psql session with the same statements, sqlx-cli and dbmate; a directory of which all is
//! applied; and eight runs at once on a fresh database, with the number of those that failed.
//!
//! The server is the bench's own, with its usual settings: what is compared is dominated by its syncs.

use std::{
    fmt::Write,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{BenchRow, BenchTarget, interleaved_medians, wall_time};
use crate::{setup, workspace};

const FILES: usize = 1000;
const ROUNDS: usize = 3;
/// Rounds of a process that finds nothing to do.
const NOOP_ROUNDS: usize = 21;
const CONCURRENT_RUNS: usize = 8;
const REPETITIONS: usize = 5;
const PASSWORD: &str = "bench-word";

struct BenchPostgres {
    folder: TempDir,
    process: Child,
    port: u16,
    programs: PathBuf,
}

impl BenchPostgres {
    fn start() -> Result<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs = versions.map(|entry| entry.path().join("bin")).find(|path| path.join("initdb").is_file());
        let programs = programs.context("PostgreSQL is not installed: run `cargo xtask setup`")?;
        let folder = tempfile::tempdir_in(workspace::target_dir()?)?;
        // The server refuses to run as root; whoever it runs as must get to its folder.
        let data = Path::new("/var/tmp").join(format!("pawl-bench-{}", std::process::id()));
        fs::create_dir_all(&data)?;
        fs::write(data.join("word"), PASSWORD)?;
        workspace::output(Command::new("chown").args(["-R", "65534:65534"]).arg(&data)).ok();
        let as_other = |program: &str| {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(programs.join(program))
                .current_dir(&data);
            command
        };
        let mut init = as_other("initdb");
        init.args(["-U", "postgres", "--auth=scram-sha-256", "-E", "UTF8", "--pwfile=word", "-D", "data"]);
        workspace::output(&mut init)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = as_other("postgres");
        server.args(["-D", "data", "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]);
        server
            .arg("-k")
            .arg(&data)
            .args(["-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = server.spawn()?;
        let server = Self { folder, process, port, programs };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() || server.psql("postgres", &["-c", "select 1"]).is_err()
        {
            ensure!(began.elapsed() < Duration::from_secs(60), "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn client(&self, database: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-p", &self.port.to_string(), "-d", database]).env("PGPASSWORD", PASSWORD);
        psql
    }

    fn psql(&self, database: &str, arguments: &[&str]) -> Result<String> {
        workspace::output(self.client(database).args(arguments))
    }

    fn recreate_database(&self) -> Result<()> {
        self.psql("postgres", &["-c", "drop database if exists bench", "-c", "create database bench"]).map(drop)
    }

    fn url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/bench?sslmode=disable", self.port)
    }
}

impl Drop for BenchPostgres {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        // SIGINT: it stops without waiting for its clients.
        Command::new("kill").args(["-INT", &pid]).status().ok();
        self.process.wait().ok();
        fs::remove_dir_all(Path::new("/var/tmp").join(format!("pawl-bench-{}", std::process::id()))).ok();
    }
}

/// The same migrations in each tool's form.
struct BenchMigrations {
    root: PathBuf,
}

impl BenchMigrations {
    fn write(root: &Path, files: usize) -> Result<Self> {
        let folders = Self { root: root.to_owned() };
        for form in ["plain", "dbmate", "refinery"] {
            fs::create_dir_all(folders.folder_of(form))?;
        }
        let mut script =
            "create table history (name text primary key, checksum text, at timestamptz default now());\n".to_owned();
        for number in 1..=files {
            let text = format!(
                "CREATE TABLE t{number} (id integer PRIMARY KEY, name text NOT NULL);\nCREATE INDEX t{number}_name ON t{number} (name);\n\
                 INSERT INTO t{number} (id, name) VALUES (1, 'first'), (2, 'second');\n"
            );
            let name = format!("{number:04}_t{number}.sql");
            fs::write(folders.folder_of("plain").join(&name), &text)?;
            fs::write(folders.folder_of("dbmate").join(&name), format!("-- migrate:up\n{text}\n-- migrate:down\n"))?;
            fs::write(folders.folder_of("refinery").join(format!("V{number}__t{number}.sql")), &text)?;
            writeln!(
                script,
                "BEGIN;\n{text}INSERT INTO history (name, checksum) VALUES ('{name}', md5('{name}'));\nCOMMIT;"
            )?;
        }
        fs::write(root.join("all.sql"), script)?;
        Ok(folders)
    }

    fn folder_of(&self, form: &str) -> PathBuf {
        self.root.join(form)
    }
}

fn write_plan(folders: &BenchMigrations, server: &BenchPostgres, state: &str) -> Result<PathBuf> {
    let folder = folders.root.join(state);
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder)?;
    let text = format!(
        "version: 1\napp: bench\nsteps:\n  migrate:\n    uses: migrate\n    timeout: 30m\n    with: {{ dir: migrations, database: main, lint: off }}\n    \
         grants:\n      dirs: {{ migrations: \"{}:ro\" }}\n      databases: {{ main: \"{}\" }}\n",
        folders.folder_of("plain").display(),
        server.url()
    );
    fs::write(folder.join("deploy.yml"), text)?;
    Ok(folder)
}

fn peer_commands(folders: &BenchMigrations, server: &BenchPostgres) -> Result<Vec<(&'static str, Command)>> {
    let tools = setup::tools_dir()?;
    let mut sqlx = Command::new(tools.join("bin/sqlx"));
    sqlx.args(["migrate", "run", "--source"]).arg(folders.folder_of("plain")).arg("--database-url").arg(server.url());
    let mut dbmate = Command::new(tools.join("node_modules/.bin/dbmate"));
    dbmate
        .args(["--no-dump-schema", "--url"])
        .arg(server.url())
        .arg("--migrations-dir")
        .arg(folders.folder_of("dbmate"))
        .arg("migrate");
    let mut refinery = Command::new(tools.join("bin/refinery"));
    refinery
        .args(["migrate", "-e", "BENCH_URL", "-p"])
        .arg(folders.folder_of("refinery"))
        .env("BENCH_URL", server.url());
    let mut all = vec![("sqlx-cli", sqlx), ("dbmate", dbmate), ("refinery", refinery)];
    for (_, command) in &mut all {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    }
    Ok(all)
}

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let server = BenchPostgres::start()?;
    let folders = BenchMigrations::write(server.folder.path(), FILES)?;
    let mut rows = Vec::new();
    let ours = || {
        server.recreate_database()?;
        let folder = write_plan(&folders, &server, "ours")?;
        wall_time(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder))
    };
    let script = folders.root.join("all.sql");
    let psql = || {
        server.recreate_database()?;
        let mut command = server.client("bench");
        command.arg("-f").arg(&script);
        wall_time(&mut command)
    };
    let (time, theirs) = interleaved_medians(ROUNDS, ours, psql)?;
    rows.push(BenchRow {
        name: format!("migrate, {FILES} files on PostgreSQL · `psql`"),
        ours: time,
        theirs,
        target: BenchTarget::Ratio(1.3),
    });
    rows.push(all_applied_row(runner, &server, &folders)?);
    for (name, mut command) in peer_commands(&folders, &server)?.into_iter().filter(|(name, _)| *name != "refinery") {
        let theirs = || {
            server.recreate_database()?;
            wall_time(&mut command)
        };
        let (ours, theirs) = interleaved_medians(ROUNDS, ours, theirs)?;
        rows.push(BenchRow {
            name: format!("migrate, {FILES} files on PostgreSQL · {name}"),
            ours,
            theirs,
            target: BenchTarget::Ratio(1.0),
        });
    }
    report_concurrent_runs(runner, &server)?;
    Ok(rows)
}

/// What a directory costs of which all is applied: a whole process that finds that out, less the same with one file. The rest
/// (the start of the process, the session, the journal) is what any deployment costs.
fn all_applied_row(runner: &Path, server: &BenchPostgres, folders: &BenchMigrations) -> Result<BenchRow> {
    let few = BenchMigrations::write(&folders.root.join("one"), 1)?;
    let deploy =
        |folder: &Path| wall_time(Command::new(runner).args(["--local", "--release", "r1"]).current_dir(folder));
    let mut plans = Vec::new();
    for (folders, name) in [(folders, "bench_many"), (&few, "bench_one")] {
        server.psql("postgres", &["-c", &format!("create database {name}")])?;
        let folder = write_plan(folders, server, name)?;
        let text = fs::read_to_string(folder.join("deploy.yml"))?;
        fs::write(folder.join("deploy.yml"), text.replace("/bench?", &format!("/{name}?")))?;
        deploy(&folder)?;
        plans.push(folder);
    }
    let (many, one) = interleaved_medians(NOOP_ROUNDS, || deploy(&plans[0]), || deploy(&plans[1]))?;
    Ok(BenchRow {
        name: format!("{FILES} applied files, more than one costs · the same process with one"),
        ours: many.saturating_sub(one),
        theirs: one,
        target: BenchTarget::WallTime(Duration::from_millis(10)),
    })
}

/// Eight runs at once on a fresh database, five times: how many of the forty fail.
fn report_concurrent_runs(runner: &Path, server: &BenchPostgres) -> Result<()> {
    let root = server.folder.path().join("at-once");
    let folders = BenchMigrations::write(&root, 10)?;
    let ours = |run: usize| -> Result<Command> {
        let mut command = Command::new(runner);
        command.args(["--local", "--release", "r1"]).current_dir(write_plan(&folders, server, &format!("run{run}"))?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    };
    let mut lines = Vec::new();
    for name in ["ours", "sqlx-cli", "dbmate", "refinery"] {
        let mut failed = 0;
        for _ in 0..REPETITIONS {
            server.recreate_database()?;
            let mut runs = Vec::new();
            for run in 0..CONCURRENT_RUNS {
                let mut command = match name {
                    "ours" => ours(run)?,
                    _ => {
                        peer_commands(&folders, server)?
                            .into_iter()
                            .find(|(tool, _)| *tool == name)
                            .context("a tool")?
                            .1
                    }
                };
                runs.push(command.spawn()?);
            }
            for mut run in runs {
                failed += usize::from(!run.wait()?.success());
            }
        }
        lines.push(format!(
            "{CONCURRENT_RUNS} runs at once on a fresh PostgreSQL database, {REPETITIONS} times, {name}: {failed} of {} failed",
            CONCURRENT_RUNS * REPETITIONS
        ));
    }
    println!("{}", lines.join("\n"));
    Ok(())
}
