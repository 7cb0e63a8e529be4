//! The capability `database`: granted names become sessions; URLs and passwords stay in the host.
//!
//! Invariant: a transaction dropped without a commit is rolled back, even after a trap or a timeout. Deliberately
//! absent: the engines; see [`sql`](db::sql).

use std::{path::Path, sync::Arc};

use wasmtime::component::Resource;

use super::{
    bindings::{HostError, database},
    host::HostState,
};
use contract::step::StepFailure;
use db::{
    migrate,
    sql::{SqlSession, TransactionMode},
    sqlite,
};

/// One session.
pub struct DatabaseConnection {
    session: Arc<SqlSession>,
}

/// An open transaction of a session.
pub struct DatabaseTransaction {
    session: Arc<SqlSession>,
    state: CommitState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommitState {
    Open,
    Committed,
}

impl Drop for DatabaseTransaction {
    fn drop(&mut self) {
        if self.state == CommitState::Open {
            self.session.rollback();
        }
    }
}

fn to_sql_values(values: Vec<database::Value>) -> Vec<sqlite::SqlValue> {
    let one = |value| match value {
        database::Value::Null => sqlite::SqlValue::Null,
        database::Value::Boolean(value) => sqlite::SqlValue::Boolean(value),
        database::Value::Integer(value) => sqlite::SqlValue::Integer(value),
        database::Value::Real(value) => sqlite::SqlValue::Real(value),
        database::Value::Text(value) => sqlite::SqlValue::Text(value),
        database::Value::Blob(value) => sqlite::SqlValue::Blob(value),
    };
    values.into_iter().map(one).collect()
}

fn to_wit_rows(rows: sqlite::SqlRows) -> database::Rows {
    let one = |value| match value {
        sqlite::SqlValue::Null => database::Value::Null,
        sqlite::SqlValue::Boolean(value) => database::Value::Boolean(value),
        sqlite::SqlValue::Integer(value) => database::Value::Integer(value),
        sqlite::SqlValue::Real(value) => database::Value::Real(value),
        sqlite::SqlValue::Text(value) => database::Value::Text(value),
        sqlite::SqlValue::Blob(value) => database::Value::Blob(value),
    };
    let row = |row: Vec<_>| row.into_iter().map(one).collect();
    database::Rows { columns: rows.columns, rows: rows.rows.into_iter().map(row).collect() }
}

impl database::Host for HostState {}

impl database::HostConnection for HostState {
    async fn open(&mut self, name: String) -> Result<Resource<DatabaseConnection>, HostError> {
        let (url, access) = self.gate.database_grant(&name)?;
        let session = match url.value.reveal().strip_prefix("sqlite:") {
            Some(path) => {
                let path = self.gate.database_path(Path::new(path))?;
                SqlSession::open(&path, access).await.map_err(StepFailure::from)?
            }
            None => migrate::connect_server(&name, url.value.reveal(), access).await?,
        };
        Ok(self.table.push(DatabaseConnection { session: Arc::new(session) })?)
    }

    async fn engine(&mut self, connection: Resource<DatabaseConnection>) -> wasmtime::Result<String> {
        Ok(self.table.get(&connection)?.session.engine().as_str().to_owned())
    }

    async fn query(
        &mut self,
        connection: Resource<DatabaseConnection>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<database::Rows, HostError> {
        let session = Arc::clone(&self.table.get(&connection)?.session);
        Ok(to_wit_rows(session.query(sql, to_sql_values(parameters)).await.map_err(StepFailure::from)?))
    }

    async fn execute(
        &mut self,
        connection: Resource<DatabaseConnection>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<u64, HostError> {
        let session = Arc::clone(&self.table.get(&connection)?.session);
        Ok(session.execute(sql, to_sql_values(parameters)).await.map_err(StepFailure::from)?)
    }

    async fn begin(
        &mut self,
        connection: Resource<DatabaseConnection>,
        mode: String,
    ) -> Result<Resource<DatabaseTransaction>, HostError> {
        let mode: TransactionMode = mode.parse().map_err(StepFailure::from)?;
        let session = Arc::clone(&self.table.get(&connection)?.session);
        session.begin(mode).await.map_err(StepFailure::from)?;
        Ok(self.table.push(DatabaseTransaction { session, state: CommitState::Open })?)
    }

    async fn drop(&mut self, connection: Resource<DatabaseConnection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl database::HostTransaction for HostState {
    async fn query(
        &mut self,
        transaction: Resource<DatabaseTransaction>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<database::Rows, HostError> {
        let session = Arc::clone(&self.table.get(&transaction)?.session);
        Ok(to_wit_rows(session.query(sql, to_sql_values(parameters)).await.map_err(StepFailure::from)?))
    }

    async fn execute(
        &mut self,
        transaction: Resource<DatabaseTransaction>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<u64, HostError> {
        let session = Arc::clone(&self.table.get(&transaction)?.session);
        Ok(session.execute(sql, to_sql_values(parameters)).await.map_err(StepFailure::from)?)
    }

    async fn script(&mut self, transaction: Resource<DatabaseTransaction>, sql: String) -> Result<(), HostError> {
        let session = Arc::clone(&self.table.get(&transaction)?.session);
        Ok(session.run_script(sql).await.map_err(StepFailure::from)?)
    }

    async fn commit(&mut self, transaction: Resource<DatabaseTransaction>) -> Result<(), HostError> {
        let mut transaction = self.table.delete(transaction)?;
        transaction.session.commit().await.map_err(StepFailure::from)?;
        transaction.state = CommitState::Committed;
        Ok(())
    }

    async fn drop(&mut self, transaction: Resource<DatabaseTransaction>) -> wasmtime::Result<()> {
        self.table.delete(transaction)?;
        Ok(())
    }
}
