//! Tests of sessions with real files.

use std::{path::PathBuf, process::Command, time::Instant};

use contract::step::FailureKind;
use tempfile::TempDir;
use tokio::time::timeout;

use super::{error::SqlPosition, *};

/// A folder with a database.
struct TempDatabase {
    folder: TempDir,
}

impl TempDatabase {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn open(&self) -> SqliteSession {
        SqliteSession::open(&self.path(), DirAccess::ReadWrite).await.unwrap()
    }

    /// Another process's view: a connection that waits for no lock.
    fn query_from_outside(&self, sql: &str) -> rusqlite::Result<i64> {
        let connection = rusqlite::Connection::open(self.path())?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.query_row(sql, [], |row| row.get(0))
    }
}

async fn run(session: &SqliteSession, sql: &str) -> Result<u64, SqliteError> {
    session.execute(sql.to_owned(), Vec::new()).await
}

async fn query(session: &SqliteSession, sql: &str) -> Result<SqlRows, SqliteError> {
    session.query(sql.to_owned(), Vec::new()).await
}

async fn script(session: &SqliteSession, sql: &str) -> Result<(), SqliteError> {
    session.run_script(sql.to_owned()).await
}

async fn query_number(session: &SqliteSession, sql: &str) -> i64 {
    match query(session, sql).await.unwrap().rows.as_slice() {
        [row] => match row.as_slice() {
            [SqlValue::Integer(number)] => *number,
            other => panic!("{sql}: {other:?}"),
        },
        other => panic!("{sql}: {other:?}"),
    }
}

/// How often a test looks whether the database is free again, 5 ms apart.
const WAITS: u32 = 2000;

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

#[tokio::test]
async fn values_round_trip() {
    let place = TempDatabase::new();
    let session = place.open().await;
    assert_eq!(place.files(), ["shop.db"]);
    run(&session, "CREATE TABLE t (id INTEGER PRIMARY KEY, v)").await.unwrap();
    let values = [
        SqlValue::Null,
        SqlValue::Boolean(true),
        SqlValue::Integer(i64::MIN),
        SqlValue::Real(0.5),
        SqlValue::Text("ü'; DROP TABLE t".to_owned()),
        SqlValue::Blob(vec![0, 255]),
    ];
    for value in &values {
        let inserted = session.execute("INSERT INTO t (v) VALUES (?)".to_owned(), vec![value.clone()]).await;
        assert_eq!(inserted, Ok(1));
    }
    let rows = query(&session, "SELECT id, v AS value FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows.columns, ["id", "value"]);
    let read: Vec<_> = rows.rows.into_iter().map(|mut row| row.remove(1)).collect();
    assert_eq!(read[1], SqlValue::Integer(1));
    assert_eq!((&read[0], &read[2..]), (&values[0], &values[2..]));
    let text_of_bytes = query(&session, "SELECT CAST(x'ff' AS TEXT)").await.unwrap();
    assert_eq!(text_of_bytes.rows, [[SqlValue::Blob(vec![255])]]);

    assert_eq!(run(&session, "UPDATE t SET v = 1 WHERE id < 4").await, Ok(3));
    assert_eq!(run(&session, "CREATE TABLE u (a)").await, Ok(0));
    assert_eq!(run(&session, "SELECT * FROM t").await, Ok(0));
    assert_eq!(run(&session, "DELETE FROM t WHERE id > 4 RETURNING id").await, Ok(2));
    let returned = query(&session, "INSERT INTO u VALUES (7) RETURNING a").await.unwrap();
    assert_eq!(returned.rows, [[SqlValue::Integer(7)]]);
}

#[tokio::test]
async fn call_holds_one_statement_and_its_values() {
    let place = TempDatabase::new();
    let session = place.open().await;
    for sql in ["", " -- nothing", "SELECT 1; SELECT 2"] {
        assert_eq!(query(&session, sql).await.unwrap_err().fault, SqliteFault::NotOneStatement, "{sql}");
    }
    assert_eq!(query_number(&session, "SELECT 1; -- and no more").await, 1);
    let error = session.query("SELECT ?, ?".to_owned(), vec![SqlValue::Null]).await.unwrap_err();
    assert_eq!(error.fault, SqliteFault::ParameterCount { expected: 2, given: 1 });
    let error = query(&session, "SELECT\n  1, '\0'").await.unwrap_err();
    assert_eq!((error.fault, error.position), (SqliteFault::NulCharacter, Some(SqlPosition { line: 2, column: 7 })));
}

#[tokio::test]
async fn error_keeps_sqlites_message() {
    let place = TempDatabase::new();
    let session = place.open().await;
    script(&session, "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p (id))").await.unwrap();
    let error = query(&session, "SELECT *\nFROM \"p\" WHERE wrong = 1").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.kind()), ("no such column: wrong", FailureKind::Permanent));
    assert_eq!(error.position, Some(SqlPosition { line: 2, column: 16 }));
    let error = run(&session, "INSERT INTO c VALUES (1)").await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.kind()), ("FOREIGN KEY constraint failed", FailureKind::Conflict));
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn result_size_is_limited() {
    let place = TempDatabase::new();
    let session = place.open().await;
    let counted = |n: usize| {
        format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n}) SELECT i FROM n")
    };
    assert_eq!(query(&session, &counted(MAX_RESULT_ROWS)).await.unwrap().rows.len(), MAX_RESULT_ROWS);
    let error = query(&session, &counted(MAX_RESULT_ROWS + 1)).await.unwrap_err();
    assert_eq!((error.fault.clone(), error.kind()), (SqliteFault::TooManyRows, FailureKind::Limit));
    let sized = |n: usize| format!("SELECT zeroblob({n})");
    assert_eq!(query(&session, &sized(MAX_RESULT_BYTES - 16)).await.unwrap().rows.len(), 1);
    assert_eq!(query(&session, &sized(MAX_RESULT_BYTES - 15)).await.unwrap_err().fault, SqliteFault::ResultTooLarge);
    assert_eq!(query(&session, "SELECT length(zeroblob(900000000))").await.unwrap_err().kind(), FailureKind::Limit);
    assert_eq!(query_number(&session, "SELECT 1").await, 1);
}

#[tokio::test]
async fn opening_says_what_is_not_there() {
    let place = TempDatabase::new();
    let open = |path: PathBuf, access| async move { SqliteSession::open(&path, access).await.err().unwrap() };
    let error = open(place.path(), DirAccess::ReadOnly).await;
    assert_eq!((error.fault.clone(), error.kind()), (SqliteFault::FileMissing(place.path()), FailureKind::NotFound));
    assert!(place.files().is_empty());
    let folder = place.folder.path().join("none");
    assert_eq!(open(folder.join("shop.db"), DirAccess::ReadWrite).await.fault, SqliteFault::FileMissing(folder));
    for relative in ["shop.db", ":memory:", "file:shop.db?mode=memory", ""] {
        let error = open(relative.into(), DirAccess::ReadWrite).await;
        assert_eq!(error.fault, SqliteFault::RelativePath(relative.into()));
    }
    assert_eq!(open(place.folder.path().to_owned(), DirAccess::ReadWrite).await.kind(), FailureKind::Permanent);
    std::fs::write(place.path(), "this is a text that is no database, long enough for a header").unwrap();
    let error = open(place.path(), DirAccess::ReadWrite).await;
    assert_eq!((error.to_string().as_str(), error.kind()), ("file is not a database", FailureKind::BadContent));
}

#[tokio::test]
async fn read_only_session_changes_nothing() {
    let place = TempDatabase::new();
    run(&place.open().await, "CREATE TABLE t (a)").await.unwrap();
    let before = std::fs::read(place.path()).unwrap();
    let session = SqliteSession::open(&place.path(), DirAccess::ReadOnly).await.unwrap();
    assert_eq!(query_number(&session, "SELECT count(*) FROM t").await, 0);
    let error = run(&session, "INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Denied);
    drop(session);
    assert_eq!((std::fs::read(place.path()).unwrap(), place.files()), (before, vec!["shop.db".to_owned()]));
}

#[tokio::test]
async fn other_files_and_code_are_denied() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a)").await.unwrap();
    let other = place.folder.path().join("other.db");
    let other = other.display();
    for (sql, named) in [
        (format!("ATTACH '{other}' AS o"), "ATTACH"),
        (format!("ATTACH DATABASE 'file:{other}?mode=rwc' AS o"), "ATTACH"),
        ("ATTACH ':memory:' AS o".to_owned(), "ATTACH"),
        ("DETACH main".to_owned(), "DETACH"),
        (format!("VACUUM INTO '{other}'"), "VACUUM"),
        ("VACUUM".to_owned(), "VACUUM"),
        ("SELECT load_extension('libm.so.6')".to_owned(), "load_extension"),
        ("SELECT LOAD_EXTENSION('libm.so.6', 'x')".to_owned(), "load_extension"),
        ("SELECT fts3_tokenizer('simple', x'00')".to_owned(), "fts3_tokenizer"),
        ("PRAGMA writable_schema = ON".to_owned(), "writable_schema"),
        ("PRAGMA main.Writable_Schema(1)".to_owned(), "schema"),
        (format!("PRAGMA temp_store_directory = '{other}'"), "temp_store_directory"),
        ("PRAGMA temp_store = FILE".to_owned(), "temp_store"),
        ("PRAGMA busy_timeout = 100000000".to_owned(), "busy_timeout"),
        ("PRAGMA journal_mode = 'OFF'".to_owned(), "journal_mode"),
        ("PRAGMA journal_mode(memory)".to_owned(), "journal_mode"),
        ("PRAGMA synchronous = 0".to_owned(), "synchronous"),
    ] {
        let error = run(&session, &sql).await.expect_err(&sql);
        assert_eq!(error.kind(), FailureKind::Denied, "{sql}: {error}");
        assert!(error.to_string().contains(named), "{sql}: {error}");
    }
    let error = run(&session, "UPDATE sqlite_schema SET sql = ''").await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent, "{error}");
    for sql in ["PRAGMA user_version = 3", "PRAGMA journal_mode = DELETE", "PRAGMA table_info(t)", "REINDEX", "ANALYZE"]
    {
        run(&session, sql).await.unwrap();
    }
    assert_eq!(query_number(&session, "PRAGMA synchronous").await, 2);
    assert_eq!(query_number(&session, "PRAGMA foreign_keys").await, 1);
    drop(session);
    assert_eq!(place.files(), ["shop.db"]);
}

#[tokio::test]
async fn transaction_is_all_or_nothing() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a UNIQUE)").await.unwrap();
    assert_eq!(session.commit().await.unwrap_err().fault, SqliteFault::NoTransaction);
    session.begin("immediate".parse().unwrap()).await.unwrap();
    assert_eq!(session.begin(TransactionMode::Deferred).await.unwrap_err().fault, SqliteFault::TransactionOpen);
    script(&session, "INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); ROLLBACK TO s; RELEASE s;")
        .await
        .unwrap();
    assert_eq!(place.query_from_outside("SELECT count(*) FROM t").unwrap(), 0);
    session.commit().await.unwrap();
    assert_eq!(place.query_from_outside("SELECT count(*) FROM t").unwrap(), 1);

    session.begin(TransactionMode::Exclusive).await.unwrap();
    run(&session, "DELETE FROM t").await.unwrap();
    session.rollback();
    session.rollback();
    session.begin(TransactionMode::Deferred).await.unwrap();
    run(&session, "DELETE FROM t").await.unwrap();
    drop(session);
    assert_eq!(place.query_from_outside("SELECT count(*) FROM t").unwrap(), 1);
    assert!("weekly".parse::<TransactionMode>().is_err());
}

#[tokio::test]
async fn failed_commit_keeps_nothing() {
    let place = TempDatabase::new();
    let session = place.open().await;
    script(&session, "CREATE TABLE p (id PRIMARY KEY); CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
        .await
        .unwrap();
    session.begin(TransactionMode::Immediate).await.unwrap();
    run(&session, "INSERT INTO c VALUES (1)").await.unwrap();
    assert_eq!(session.commit().await.unwrap_err().kind(), FailureKind::Conflict);
    assert_eq!(query_number(&session, "SELECT count(*) FROM c").await, 0);
    session.begin(TransactionMode::Immediate).await.unwrap();
    session.commit().await.unwrap();
}

#[tokio::test]
async fn sql_text_cannot_end_or_begin_the_transaction() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a UNIQUE)").await.unwrap();
    for sql in ["BEGIN", "SAVEPOINT s"] {
        let error = run(&session, sql).await.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Denied, "{error}");
    }
    session.begin(TransactionMode::Immediate).await.unwrap();
    for sql in ["COMMIT", "END", "ROLLBACK", "BEGIN"] {
        let text = format!("INSERT INTO t VALUES ('{sql}');\n\n  {sql};\nINSERT INTO t VALUES ('after {sql}')");
        let error = script(&session, &text).await.unwrap_err();
        let name = if sql == "END" { "COMMIT" } else { sql };
        assert_eq!(
            error.to_string(),
            format!("{name} inside SQL text is denied: the runner controls the transaction; leave {name} out")
        );
        assert_eq!(error.position, Some(SqlPosition { line: 3, column: 3 }));
    }
    assert_eq!(query_number(&session, "SELECT count(*) FROM t").await, 4);

    // Statements after SQLite's own rollback must not run outside the transaction.
    let error = script(&session, "INSERT INTO t VALUES (1);\nINSERT OR ROLLBACK INTO t VALUES (1);").await.unwrap_err();
    assert_eq!((error.kind(), error.position.map(|at| at.line)), (FailureKind::Conflict, Some(2)));
    let error = run(&session, "INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!(error.fault, SqliteFault::TransactionLost);
    assert_eq!(session.commit().await.unwrap_err().fault, SqliteFault::TransactionLost);
    session.rollback();
    assert_eq!(query_number(&session, "SELECT count(*) FROM t").await, 0);
}

#[tokio::test]
async fn script_error_has_its_position() {
    let place = TempDatabase::new();
    let session = place.open().await;
    let trigger = "CREATE TRIGGER r AFTER INSERT ON t BEGIN\n  UPDATE t SET a = 1; -- ;\n  SELECT ';';\nEND;\n";
    let good = format!(
        "\u{feff}CREATE TABLE t (a UNIQUE); -- ä;\r\nINSERT INTO t VALUES ('ü;\n');\nSELECT * FROM t;\n{trigger}"
    );
    script(&session, &good).await.unwrap();
    assert_eq!(query_number(&session, "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").await, 1);

    for (text, message, line, column) in [
        ("SELECT 1;\r\nSELECT 'äö', wrong;", "no such column: wrong", 2, 14),
        ("\u{feff}SELEC 1;", "near \"SELEC\": syntax error", 1, 1),
        ("SELECT 1;\n\n  CREATE TABLE x (a,,b);\n", "near \",\": syntax error", 3, 21),
        ("SELECT 1; /* ö\n */ INSERT INTO none\nVALUES (1)", "no such table: none", 2, 5),
        ("\n-- first\n  INSERT INTO t VALUES (5),\n  (5);", "UNIQUE constraint failed: t.a", 3, 3),
        ("SELECT 1;\nSELECT (1", "incomplete input", 2, 1),
        ("SELECT 1;\nSELECT 'open;\n", "unrecognized token: \"'open;\n\"", 2, 8),
        ("SELECT 1;\n SELECT :name", "the call passed 0 values for 1 parameters", 2, 2),
        ("SELECT 1;\nSELECT '\0'", "the SQL text contains a NUL character", 2, 9),
    ] {
        let error = script(&session, text).await.unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.position),
            (message, Some(SqlPosition { line, column })),
            "{text:?}"
        );
    }
    script(&session, "").await.unwrap();
    script(&session, "\u{feff}").await.unwrap();
}

#[tokio::test]
async fn long_script_takes_linear_time() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a)").await.unwrap();
    session.begin(TransactionMode::Immediate).await.unwrap();
    let lines = 20_000;
    let line = format!("INSERT INTO t VALUES ('{}'); -- {}\n", "x".repeat(10), "y".repeat(460));
    let mut text = line.repeat(lines);
    text.push_str("oops");
    assert!(text.len() > 10_000_000);
    let error = timeout(Duration::from_secs(30), session.run_script(text)).await.expect("linear").unwrap_err();
    assert_eq!(error.position, Some(SqlPosition { line: lines as u64 + 1, column: 1 }));
    assert_eq!(query_number(&session, "SELECT count(*) FROM t").await, lines as i64);
}

#[tokio::test]
async fn cancelled_call_stops_at_once() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a)").await.unwrap();
    let short = Duration::from_millis(30);
    assert!(timeout(short, query(&session, ENDLESS)).await.is_err());
    assert_eq!(query_number(&session, "SELECT 1").await, 1, "the endless query was interrupted");

    // Its transaction is rolled back, and its statements do not run outside it.
    session.begin(TransactionMode::Immediate).await.unwrap();
    run(&session, "INSERT INTO t VALUES (1)").await.unwrap();
    assert!(timeout(short, script(&session, &format!("INSERT INTO t VALUES (2); {ENDLESS}"))).await.is_err());
    assert_eq!(run(&session, "INSERT INTO t VALUES (3)").await.unwrap_err().fault, SqliteFault::TransactionLost);
    assert_eq!(place.query_from_outside("SELECT count(*) FROM t").unwrap(), 0);
    session.begin(TransactionMode::Immediate).await.unwrap();

    // A cancelled `begin` leaves no lock either, whether it had started or not.
    session.rollback();
    for _ in 0..50 {
        if timeout(Duration::ZERO, session.begin(TransactionMode::Exclusive)).await.is_ok() {
            session.rollback();
        }
        // This call comes after the cleanup of the cancelled one, whether it is refused or not.
        query(&session, "SELECT 1").await.ok();
        assert_eq!(place.query_from_outside("SELECT count(*) FROM t").unwrap(), 0);
        session.rollback();
    }
}

#[tokio::test]
async fn dropping_a_session_releases_the_database() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a)").await.unwrap();
    session.begin(TransactionMode::Exclusive).await.unwrap();
    assert!(place.query_from_outside("SELECT count(*) FROM t").is_err());
    assert!(timeout(Duration::from_millis(30), query(&session, ENDLESS)).await.is_err());
    drop(session);
    let mut count = place.query_from_outside("SELECT count(*) FROM t");
    for _ in 0..WAITS {
        if count.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        count = place.query_from_outside("SELECT count(*) FROM t");
    }
    assert_eq!(count.unwrap(), 0, "the database is free again");
    assert_eq!(place.files(), ["shop.db"]);
}

#[tokio::test]
async fn waiting_for_another_lock_times_out() {
    let place = TempDatabase::new();
    let session = place.open().await;
    run(&session, "CREATE TABLE t (a)").await.unwrap();
    let other = rusqlite::Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();

    // Cancels it while it waits.
    assert!(timeout(Duration::from_millis(30), session.begin(TransactionMode::Immediate)).await.is_err());
    session.rollback();
    assert!(
        timeout(Duration::from_millis(30), SqliteSession::open(&place.path(), DirAccess::ReadWrite)).await.is_err()
    );

    let since = Instant::now();
    let error = session.begin(TransactionMode::Immediate).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.kind()), ("database is locked", FailureKind::Transient));
    assert!(error.is_retryable());
    assert!((4_900..20_000).contains(&since.elapsed().as_millis()), "{:?}", since.elapsed());

    let (waited, released) = tokio::join!(session.begin(TransactionMode::Immediate), async {
        tokio::task::yield_now().await;
        other.execute_batch("COMMIT")
    });
    assert_eq!((waited, released.is_ok()), (Ok(()), true));
}

#[tokio::test]
async fn another_program_reads_committed_rows() {
    let place = TempDatabase::new();
    let session = place.open().await;
    session.begin(TransactionMode::Immediate).await.unwrap();
    script(&session, "CREATE TABLE t (a); INSERT INTO t VALUES (42)").await.unwrap();
    session.commit().await.unwrap();
    let output = Command::new("sqlite3").arg(place.path()).arg("SELECT a FROM t").output();
    let output = output.expect("this test needs the sqlite3 program: install the package sqlite3");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n");
}
