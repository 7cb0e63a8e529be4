//! The capability `database`: granted names become sessions; URL and password stay here.
//!
//! Invariant: a transaction that is dropped without a commit rolls back, after a trap and a time-out too. Deliberately
//! absent: what engines can do; that is in [`sql`](db::sql).

use std::{path::Path, sync::Arc};

use wasmtime::component::Resource;

use super::{
    bindings::{HostError, database},
    host::Host,
};
use contract::step::Failure;
use db::{
    migrate,
    sql::{Mode, Session},
    sqlite,
};

/// One session.
pub struct Connection {
    session: Arc<Session>,
}

/// An open transaction of a session.
pub struct Transaction {
    session: Arc<Session>,
    state: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    Committed,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.state == Progress::Open {
            self.session.rollback();
        }
    }
}

fn values(values: Vec<database::Value>) -> Vec<sqlite::Value> {
    let one = |value| match value {
        database::Value::Null => sqlite::Value::Null,
        database::Value::Boolean(value) => sqlite::Value::Boolean(value),
        database::Value::Integer(value) => sqlite::Value::Integer(value),
        database::Value::Real(value) => sqlite::Value::Real(value),
        database::Value::Text(value) => sqlite::Value::Text(value),
        database::Value::Blob(value) => sqlite::Value::Blob(value),
    };
    values.into_iter().map(one).collect()
}

fn rows(rows: sqlite::Rows) -> database::Rows {
    let one = |value| match value {
        sqlite::Value::Null => database::Value::Null,
        sqlite::Value::Boolean(value) => database::Value::Boolean(value),
        sqlite::Value::Integer(value) => database::Value::Integer(value),
        sqlite::Value::Real(value) => database::Value::Real(value),
        sqlite::Value::Text(value) => database::Value::Text(value),
        sqlite::Value::Blob(value) => database::Value::Blob(value),
    };
    let row = |row: Vec<_>| row.into_iter().map(one).collect();
    database::Rows { columns: rows.columns, rows: rows.rows.into_iter().map(row).collect() }
}

impl database::Host for Host {}

impl database::HostConnection for Host {
    async fn open(&mut self, name: String) -> Result<Resource<Connection>, HostError> {
        let (url, access) = self.gate.database(&name)?;
        let session = match url.value.reveal().strip_prefix("sqlite:") {
            Some(path) => {
                let path = self.gate.file(Path::new(path))?;
                Session::open(&path, access).await.map_err(Failure::from)?
            }
            None => migrate::server_session(&name, url.value.reveal(), access).await?,
        };
        Ok(self.table.push(Connection { session: Arc::new(session) })?)
    }

    async fn engine(&mut self, connection: Resource<Connection>) -> wasmtime::Result<String> {
        Ok(self.table.get(&connection)?.session.engine().as_str().to_owned())
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<database::Rows, HostError> {
        let session = Arc::clone(&self.table.get(&connection)?.session);
        Ok(rows(session.query(sql, values(parameters)).await.map_err(Failure::from)?))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<u64, HostError> {
        let session = Arc::clone(&self.table.get(&connection)?.session);
        Ok(session.execute(sql, values(parameters)).await.map_err(Failure::from)?)
    }

    async fn begin(
        &mut self,
        connection: Resource<Connection>,
        mode: String,
    ) -> Result<Resource<Transaction>, HostError> {
        let mode: Mode = mode.parse().map_err(Failure::from)?;
        let session = Arc::clone(&self.table.get(&connection)?.session);
        session.begin(mode).await.map_err(Failure::from)?;
        Ok(self.table.push(Transaction { session, state: Progress::Open })?)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl database::HostTransaction for Host {
    async fn query(
        &mut self,
        transaction: Resource<Transaction>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<database::Rows, HostError> {
        let session = Arc::clone(&self.table.get(&transaction)?.session);
        Ok(rows(session.query(sql, values(parameters)).await.map_err(Failure::from)?))
    }

    async fn execute(
        &mut self,
        transaction: Resource<Transaction>,
        sql: String,
        parameters: Vec<database::Value>,
    ) -> Result<u64, HostError> {
        let session = Arc::clone(&self.table.get(&transaction)?.session);
        Ok(session.execute(sql, values(parameters)).await.map_err(Failure::from)?)
    }

    async fn script(&mut self, transaction: Resource<Transaction>, sql: String) -> Result<(), HostError> {
        let session = Arc::clone(&self.table.get(&transaction)?.session);
        Ok(session.script(sql).await.map_err(Failure::from)?)
    }

    async fn commit(&mut self, transaction: Resource<Transaction>) -> Result<(), HostError> {
        let mut transaction = self.table.delete(transaction)?;
        transaction.session.commit().await.map_err(Failure::from)?;
        transaction.state = Progress::Committed;
        Ok(())
    }

    async fn drop(&mut self, transaction: Resource<Transaction>) -> wasmtime::Result<()> {
        self.table.delete(transaction)?;
        Ok(())
    }
}
