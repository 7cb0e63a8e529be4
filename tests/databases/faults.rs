//! What is no kill of the runner: servers that restart, sessions that are ended, cut connections, full disks, poolers, and writers
//! who must not wait.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    migration_fixture::{MigrationFixture, run_process, wait_until},
    ports::free_port,
    server::{PASSWORD, TestDatabase, TestDbEngine, TestDbServer},
};

fn slow_migration(engine: TestDbEngine) -> &'static str {
    match engine {
        TestDbEngine::Postgres => "create table a (id integer);\nselect pg_sleep(20);\ncreate table b (id integer);\n",
        TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
            "create table a (id integer);\nselect sleep(20);\ncreate table b (id integer);\n"
        }
    }
}

fn fast_migration() -> &'static str {
    "create table a (id integer);\nselect 1;\ncreate table b (id integer);\n"
}

/// The runner's session, as the server sees it.
fn migration_session(database: &TestDatabase) -> Option<String> {
    let sql = match database.engine {
        TestDbEngine::Postgres => {
            "select pid from pg_stat_activity where query like '%pg_sleep(20)%' and pid <> pg_backend_pid() and datname = current_database()"
        }
        TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
            "select id from information_schema.processlist where info = 'select sleep(20)' and db = database()"
        }
    };
    database.try_sql(sql).ok().filter(|answer| !answer.is_empty())
}

/// Begins a migration that takes long, disturbs it, and says how it ended; then it is run again, and is complete.
fn check_disturbed_migration(engine: TestDbEngine, database: &TestDatabase, disturb: impl FnOnce(&str)) {
    let shop = MigrationFixture::new(database, "");
    shop.write_migration("1_slow.sql", slow_migration(engine));
    let mut child = shop.start("state");
    wait_until("the migration is under way", || migration_session(database).is_some());
    disturb(&migration_session(database).unwrap_or_default());
    let began = Instant::now();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{engine:?}: it ends as a failure");
    assert!(began.elapsed() < Duration::from_secs(10), "{engine:?}: it noticed after {:?}", began.elapsed());
    // What was done of a file may not change, so the slow statement stays where it would be looked for.
    if engine == TestDbEngine::Postgres {
        shop.write_migration("1_slow.sql", fast_migration());
    } else {
        shop.write_migration("1_slow.sql", slow_migration(engine).replace("sleep(20)", "sleep(0)"));
    }
    shop.deploy().assert_exit(0);
    assert_eq!(database.sql("select count(*) from a"), "0");
    assert_eq!(database.sql("select count(*) from b"), "0");
    assert_eq!(database.sql("select count(*) from _pawl_migrations"), "1");
}

#[test]
fn migration_recovers_from_a_terminated_session() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        let database = TestDatabase::new(engine);
        check_disturbed_migration(engine, &database, |session| {
            let sql = match engine {
                TestDbEngine::Postgres => format!("select pg_terminate_backend({session})"),
                TestDbEngine::Mariadb | TestDbEngine::Sqlite => format!("kill {session}"),
            };
            database.sql(&sql);
        });
    }
}

#[test]
fn migration_recovers_from_a_server_restart() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        let server = Arc::new(TestDbServer::start(engine));
        let database = TestDatabase::on_server(engine, Some(Arc::clone(&server)));
        check_disturbed_migration(engine, &database, |_| {
            server.stop(true);
            server.run();
        });
    }
}

/// A way to the server that can be cut.
struct CuttableTcpProxy {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl CuttableTcpProxy {
    fn to_port(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = Arc::clone(&cut);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let is_cut = Arc::clone(&is_cut);
                    thread::spawn(move || {
                        from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                        let mut buffer = [0; 4096];
                        while !is_cut.load(Ordering::Relaxed) {
                            match from.read(&mut buffer) {
                                Ok(0) => break,
                                Ok(count) => to.write_all(&buffer[..count]).unwrap_or_default(),
                                Err(error)
                                    if matches!(
                                        error.kind(),
                                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                                    ) => {}
                                Err(_) => break,
                            }
                        }
                        to.shutdown(std::net::Shutdown::Both).ok();
                        from.shutdown(std::net::Shutdown::Both).ok();
                    });
                }
            }
        });
        Self { port: own, cut }
    }
}

#[test]
fn migration_recovers_from_a_cut_connection() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        let database = TestDatabase::new(engine);
        let proxy = CuttableTcpProxy::to_port(database.server.as_ref().unwrap().port());
        let shop = MigrationFixture::with_url(&database.url_at(proxy.port, "${{ secrets.PASSWORD }}"), "", "");
        shop.write_migration("1_slow.sql", slow_migration(engine));
        let mut child = shop.start("state");
        wait_until("the migration is under way", || migration_session(&database).is_some());
        proxy.cut.store(true, Ordering::Relaxed);
        assert_eq!(child.wait().unwrap().code(), Some(1), "{engine:?}");
        if engine == TestDbEngine::Mariadb {
            // It goes on with the statement, and holds the lock until then; nobody needs to wait for the whole of it.
            database.sql(&format!("kill query {}", migration_session(&database).unwrap()));
        }
        proxy.cut.store(false, Ordering::Relaxed);
        let (from, to) =
            if engine == TestDbEngine::Postgres { ("pg_sleep(20)", "1") } else { ("sleep(20)", "sleep(0)") };
        shop.write_migration("1_slow.sql", slow_migration(engine).replace(from, to));
        shop.deploy().assert_exit(0);
        assert_eq!(database.sql("select count(*) from _pawl_migrations"), "1");
    }
}

#[test]
fn migration_recovers_from_a_full_disk() {
    let database = TestDatabase::new(TestDbEngine::Sqlite);
    let folder = tempfile::tempdir().unwrap();
    let shop = MigrationFixture::with_url(&format!("sqlite:{}/shop.db", folder.path().display()), "", "");
    shop.write_migration("1_a.sql", "create table a (id integer);\ninsert into a values (1);\n");
    // The runner wants 32 MiB of room before it begins; the rows need more than there is then.
    let rows = "insert into big values (zeroblob(1000000));\n".repeat(50);
    shop.write_migration("2_big.sql", format!("create table big (t blob);\n{rows}"));
    drop(database);
    let script = r#"mount -t tmpfs -o size=36m tmpfs "$1" && "$2" --local --release r1; echo "first $?"; mount -o remount,size=300m "$1"
        "$2" --local --release r1; echo "second $?"; sqlite3 "$1/shop.db" "select count(*) from big; select count(*) from a; select count(*) from _pawl_migrations""#;
    let mut command = Command::new("unshare");
    let namespaces: &[&str] = if rustix::process::geteuid().is_root() { &["--mount"] } else { &["--mount", "-Ur"] };
    command.args(namespaces).args(["sh", "-c", script, "sh"]).arg(folder.path()).arg(env!("CARGO_BIN_EXE_runner"));
    let output = run_process(shop.command_under(command, "state", &[]));
    assert!(output.text.contains("first 1") && output.text.contains("second 0"), "{}", output.text);
    assert!(output.text.contains("disk is full") && output.text.contains("50\n1\n2"), "{}", output.text);
}

/// A pooler in front of the database's server, until it is dropped.
pub(crate) struct Pooler {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    pub(crate) fn start(database: &TestDatabase, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let server = database.server.as_ref().unwrap().port();
        fs::write(folder.path().join("users"), format!("\"postgres\" \"{PASSWORD}\"\n")).unwrap();
        fs::write(
            folder.path().join("ini"),
            format!(
                "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = plain\n\
                 auth_file = {0}/users\npool_mode = {mode}\nunix_socket_dir =\n",
                folder.path().display()
            ),
        )
        .unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        if rustix::process::geteuid().is_root() {
            for path in [folder.path().to_owned(), folder.path().join("ini"), folder.path().join("users")] {
                rustix::fs::chown(
                    &path,
                    Some(rustix::fs::Uid::from_raw(65534)),
                    Some(rustix::fs::Gid::from_raw(65534)),
                )
                .unwrap();
            }
            command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/sbin/pgbouncer"]);
        }
        command
            .arg("-q")
            .arg(folder.path().join("ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| panic!("pgbouncer: {error}; run `cargo xtask setup`"));
        wait_until("the pooler listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { process, port, _folder: folder }
    }

    /// The URL of the database through the pooler.
    pub(crate) fn url(&self, database: &TestDatabase) -> String {
        database.url_at(self.port, "${{ secrets.PASSWORD }}")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn transaction_pooler_is_rejected() {
    let database = TestDatabase::new(TestDbEngine::Postgres);
    for (mode, exit) in [("transaction", 2), ("session", 0)] {
        let pooler = Pooler::start(&database, mode);
        let shop = MigrationFixture::with_url(&pooler.url(&database), "", "");
        shop.write_migration("1_a.sql", "create table if not exists a (id integer);\n");
        let said = shop.deploy().assert_exit(exit);
        if exit == 2 {
            said.assert_contains("error[P0322]");
        }
    }
}

/// Writes rows until it is told to stop; the longest that one took.
fn start_writers(
    database: &TestDatabase,
    stop: &Arc<AtomicBool>,
    longest: &Arc<AtomicU64>,
) -> Vec<thread::JoinHandle<()>> {
    let url = (database.server.as_ref().unwrap().port(), database.name.clone());
    (0..2)
        .map(|_| {
            let (stop, longest, url) = (Arc::clone(stop), Arc::clone(longest), url.clone());
            thread::spawn(move || {
                let (port, name) = url;
                let mut psql = Command::new(crate::server::postgres_program("psql"))
                    .args([
                        "-X",
                        "-q",
                        "-A",
                        "-t",
                        "-h",
                        "127.0.0.1",
                        "-U",
                        "postgres",
                        "-p",
                        &port.to_string(),
                        "-d",
                        &name,
                    ])
                    .env("PGPASSWORD", PASSWORD)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let mut answers = std::io::BufReader::new(psql.stdout.take().unwrap());
                let mut input = psql.stdin.take().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    writeln!(input, "insert into load (t) values (md5(random()::text)) returning 1;").unwrap();
                    input.flush().unwrap();
                    let mut line = String::new();
                    std::io::BufRead::read_line(&mut answers, &mut line).unwrap();
                    longest.fetch_max(u64::try_from(began.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
                }
                drop(input);
                psql.wait().unwrap();
            })
        })
        .collect()
}

/// Acceptance: a holder killed while it builds an index under write load.
#[test]
fn killed_index_build_frees_the_lock_and_is_repeated() {
    let server = Arc::new(TestDbServer::start(TestDbEngine::Postgres));
    let database = TestDatabase::on_server(TestDbEngine::Postgres, Some(server));
    database.sql("create table load (id bigserial primary key, t text)");
    database.sql("insert into load (t) select md5(i::text) from generate_series(1, 600000) i");
    let shop = MigrationFixture::new(&database, "");
    shop.write_migration("1_i.sql", "-- no-transaction\ncreate index concurrently load_t on load (t);\n");
    shop.write_migration("2_c.sql", "alter table load add column more integer;\n");
    let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads = start_writers(&database, &stop, &longest);
    // A transaction that stays open makes the build wait: so the kill meets it.
    let mut blocker = database.start_client("begin; insert into load (t) values ('x'); select pg_sleep(3); commit");
    wait_until("the transaction is open", || {
        database
            .sql("select count(*) from pg_stat_activity where query like '%pg_sleep(3)%' and pid <> pg_backend_pid()")
            != "0"
    });
    let mut holder = shop.start("state");
    wait_until("the index is being built", || {
        database.sql("select count(*) from pg_index where indexrelid = to_regclass('load_t')") == "1"
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the lock is free", || database.sql("select count(*) from pg_locks where locktype = 'advisory'") == "0");
    let valid = "select indisvalid from pg_index where indexrelid = to_regclass('load_t')";
    assert_ne!(database.sql(valid), "t", "the kill met the build");
    blocker.wait().unwrap();
    shop.deploy().assert_exit(0);
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(database.sql(valid), "t");
    let longest = longest.load(Ordering::Relaxed);
    println!("the longest that a writer waited: {longest} ms");
}

/// DDL that can't have its lock gives way to those behind it, and is tried again.
#[test]
fn ddl_yields_to_other_sessions_and_is_retried() {
    for engine in [TestDbEngine::Postgres, TestDbEngine::Mariadb] {
        let database = TestDatabase::new(engine);
        database.sql("create table stock (id integer)");
        let shop = MigrationFixture::new(&database, ", lock-timeout: 1s");
        shop.write_migration("1_c.sql", "alter table stock add column more integer;\n");
        let hold = match engine {
            TestDbEngine::Postgres => "begin; insert into stock values (1); select pg_sleep(3); commit",
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                "begin; insert into stock values (1); select sleep(3); commit"
            }
        };
        let mut holder = database.start_client(hold);
        wait_until("the row is written", || match engine {
            TestDbEngine::Postgres => database.sql(
                "select count(*) from pg_stat_activity where query like '%pg_sleep(3)%' and pid <> pg_backend_pid()",
            ) != "0",
            TestDbEngine::Mariadb | TestDbEngine::Sqlite => {
                database.sql("select count(*) from information_schema.processlist where info = 'select sleep(3)'")
                    != "0"
            }
        });
        shop.run(&["--local", "--release", "r1", "--verbose"])
            .assert_exit(0)
            .assert_contains("is waiting for another session's lock");
        holder.wait().unwrap();
        assert_eq!(database.sql("select count(more) from stock"), "0");
    }
}
