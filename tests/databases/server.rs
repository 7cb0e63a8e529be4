//! The servers: started as a user who is not root, which they insist on, and stopped when nobody needs them any more.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::ports::free_port;

/// What the tests' accounts are let in with; it must appear nowhere.
pub const PASSWORD: &str = "pw-k3ep/Me@Hidden?";
const START_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestDbEngine {
    Postgres,
    Mariadb,
    Sqlite,
}

pub const ALL_ENGINES: [TestDbEngine; 3] = [TestDbEngine::Postgres, TestDbEngine::Mariadb, TestDbEngine::Sqlite];

pub struct TestDbServer {
    engine: TestDbEngine,
    folder: TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
    /// More arguments of the process.
    extra_arguments: Vec<String>,
}

static POSTGRES: Mutex<Weak<TestDbServer>> = Mutex::new(Weak::new());
static MARIADB: Mutex<Weak<TestDbServer>> = Mutex::new(Weak::new());
static NEXT_DATABASE: AtomicUsize = AtomicUsize::new(0);

/// Runs a program as somebody who is not root.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command
}

fn run_checked(command: &mut Command) -> std::process::Output {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Debian keeps PostgreSQL's programs away from the PATH.
pub fn postgres_program(name: &str) -> PathBuf {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(name))
        .collect();
    versions.sort();
    versions.pop().filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

impl TestDbServer {
    /// The server that all tests share.
    pub fn shared(engine: TestDbEngine) -> Arc<Self> {
        let slot = match engine {
            TestDbEngine::Postgres => &POSTGRES,
            TestDbEngine::Mariadb => &MARIADB,
            TestDbEngine::Sqlite => panic!("SQLite has no server"),
        };
        let mut place = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        place.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start(engine));
            *place = Arc::downgrade(&server);
            server
        })
    }

    /// A server of one test's own, which may be harmed.
    pub fn start(engine: TestDbEngine) -> Self {
        Self::start_with(engine, Vec::new())
    }

    /// The same with more arguments.
    pub fn start_with(engine: TestDbEngine, more: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let nobody = (rustix::fs::Uid::from_raw(65534), rustix::fs::Gid::from_raw(65534));
            rustix::fs::chown(folder.path(), Some(nobody.0), Some(nobody.1)).unwrap();
        }
        let data = folder.path().join("data");
        match engine {
            TestDbEngine::Postgres => {
                let word = folder.path().join("word");
                fs::write(&word, PASSWORD).unwrap();
                let mut initdb = unprivileged(&postgres_program("initdb"));
                initdb.args(["-U", "postgres", "--auth=scram-sha-256", "-E", "UTF8", "--no-sync", "-D"]).arg(&data);
                run_checked(initdb.arg(format!("--pwfile={}", word.display())));
            }
            TestDbEngine::Mariadb => {
                let mut install = unprivileged(Path::new("mariadb-install-db"));
                // A server that starts removes what it finds there of temporary tables, those of another too.
                install.env("TMPDIR", folder.path());
                install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                run_checked(install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]));
            }
            TestDbEngine::Sqlite => panic!("SQLite has no server"),
        }
        let server = Self { engine, folder, port: free_port(), process: Mutex::new(None), extra_arguments: more };
        server.run();
        if engine == TestDbEngine::Mariadb {
            let users = format!(
                "CREATE USER shop@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO shop@'127.0.0.1' WITH GRANT OPTION"
            );
            run_checked(server.client("mysql").args(["-e", &users]));
        }
        server
    }

    /// Starts the process, and waits until it answers.
    pub fn run(&self) {
        let data = self.folder.path().join("data");
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = match self.engine {
            TestDbEngine::Postgres => {
                let mut command = unprivileged(&postgres_program("postgres"));
                command.arg("-D").arg(&data).arg("-k").arg(self.folder.path()).args(["-p", &self.port.to_string()]);
                for setting in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=32MB", "max_connections=200"]
                {
                    command.args(["-c", setting]);
                }
                command
            }
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                let program = ["/usr/sbin/mariadbd", "mariadbd"]
                    .into_iter()
                    .map(Path::new)
                    .find(|path| path.is_file() || !path.is_absolute());
                let mut command = unprivileged(program.unwrap());
                command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                command.arg(format!("--socket={}", self.folder.path().join("s").display()));
                command.arg(format!("--pid-file={}", self.folder.path().join("pid").display()));
                command.arg(format!("--port={}", self.port));
                command.args([
                    "--bind-address=127.0.0.1",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-buffer-pool-size=32M",
                ]);
                command.args(["--max-connections=300", "--skip-name-resolve"]);
                command
            }
        };
        command.args(&self.extra_arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.current_dir(self.folder.path()).env("TMPDIR", self.folder.path());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
        *self.process.lock().unwrap() = Some(child);
        let began = Instant::now();
        loop {
            let mut client = self.client(if self.engine == TestDbEngine::Postgres { "postgres" } else { "mysql" });
            let asked = if self.engine == TestDbEngine::Postgres {
                client.args(["-c", "select 1"])
            } else {
                client.args(["-e", "select 1"])
            };
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && asked.output().is_ok_and(|output| output.status.success())
            {
                return;
            }
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < START_TIMEOUT, "{:?} does not answer: {log}", self.engine);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the process: at once, as a crash would, or in good order.
    pub fn stop(&self, crash: bool) {
        let Some(mut child) = self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() else {
            return;
        };
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let signal = match (self.engine, crash) {
            // SIGQUIT is how PostgreSQL stops without an orderly end, and takes its backends along.
            (TestDbEngine::Postgres, true) => rustix::process::Signal::QUIT,
            (TestDbEngine::Postgres, false) => rustix::process::Signal::INT,
            (TestDbEngine::Mariadb | TestDbEngine::Sqlite, true) => rustix::process::Signal::KILL,
            (TestDbEngine::Mariadb | TestDbEngine::Sqlite, false) => rustix::process::Signal::TERM,
        };
        rustix::process::kill_process(pid, signal).ok();
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > Duration::from_secs(20) {
                child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client of the server's own, on its socket.
    fn client(&self, database: &str) -> Command {
        match self.engine {
            TestDbEngine::Postgres => {
                let mut command = Command::new(postgres_program("psql"));
                command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
                command.args(["-p", &self.port.to_string(), "-d", database]).env("PGPASSWORD", PASSWORD);
                command
            }
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "-N", "-B", "-u", "root"]);
                command.arg(format!("--socket={}", self.folder.path().join("s").display())).args(["-D", database]);
                command
            }
        }
    }
}

impl Drop for TestDbServer {
    fn drop(&mut self) {
        self.stop(false);
    }
}

/// A database of one test.
pub struct TestDatabase {
    pub engine: TestDbEngine,
    pub server: Option<Arc<TestDbServer>>,
    pub name: String,
    folder: TempDir,
}

impl TestDatabase {
    pub fn new(engine: TestDbEngine) -> Self {
        let server = (engine != TestDbEngine::Sqlite).then(|| TestDbServer::shared(engine));
        Self::on_server(engine, server)
    }

    pub fn on_server(engine: TestDbEngine, server: Option<Arc<TestDbServer>>) -> Self {
        let name = format!("shop{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed));
        let database = Self { engine, server, name, folder: tempfile::tempdir().unwrap() };
        let create = format!("create database {}", database.name);
        match (&database.server, engine) {
            (Some(server), TestDbEngine::Postgres) => {
                drop(run_checked(server.client("postgres").args(["-c", &create])))
            }
            (Some(server), TestDbEngine::Mariadb | TestDbEngine::Sqlite) => {
                drop(run_checked(server.client("mysql").args(["-e", &create])))
            }
            (None, _) => {}
        }
        database
    }

    /// As the plan has it, with the password as a look-up.
    pub fn url(&self) -> String {
        self.url_at(self.server.as_ref().map_or(0, |server| server.port()), "${{ secrets.PASSWORD }}")
    }

    /// As other tools take it.
    pub fn plain_url(&self) -> String {
        let escaped = PASSWORD.replace('/', "%2F").replace('@', "%40").replace('?', "%3F");
        self.url_at(self.server.as_ref().map_or(0, |server| server.port()), &escaped)
    }

    pub fn url_at(&self, port: u16, password: &str) -> String {
        match self.engine {
            TestDbEngine::Postgres => {
                format!("postgres://postgres:{password}@127.0.0.1:{port}/{}?sslmode=disable", self.name)
            }
            TestDbEngine::Mariadb => format!("mysql://shop:{password}@127.0.0.1:{port}/{}", self.name),
            TestDbEngine::Sqlite => format!("sqlite:{}", self.file().display()),
        }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    /// The engine's own client, about to run this.
    fn client(&self, sql: &str) -> Command {
        let mut command = match &self.server {
            Some(server) => server.client(&self.name),
            None => Command::new("sqlite3"),
        };
        match self.engine {
            TestDbEngine::Postgres => command.args(["-c", sql]),
            TestDbEngine::Mariadb => command.args(["-e", sql]),
            TestDbEngine::Sqlite => command.arg("-bail").arg(self.file()).arg(sql),
        };
        command
    }

    /// What the engine's own client says: rows in lines, columns by `|`.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let mut command = self.client(sql);
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().replace('\t', "|"))
    }

    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A client that is left running.
    pub fn start_client(&self, sql: &str) -> Child {
        let mut command = self.client(sql);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}
