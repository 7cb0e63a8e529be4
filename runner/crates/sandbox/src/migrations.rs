//! The capability `migrations`: what a module says by names is looked up in its grants here; the work is [`migrate`]'s.
//!
//! Deliberately absent: SQL.

use std::{path::Path, sync::Arc};

use super::{
    Runtime,
    bindings::{HostError, migrations},
    failure,
    gate::{Gate, Purpose},
    host::Host,
    options,
};
use contract::{
    Secret,
    step::{Failure, Level, Progress},
};
use db::migrate::{self, Address, Database, Desk, Directory, Job, Options};
use hostio::dir_snapshot::{Folder, Folders};
use plan::Step;
use serde_json::Value;

async fn job(gate: &Gate, database: &str, dir: &str, asked: &str) -> Result<Job, Failure> {
    let asked: Value = options("migrations", asked)?;
    open(gate, database, dir, Options::read(&asked, gate.timeout())?).await
}

/// Opens the database and reads the directory, both as granted.
async fn open(gate: &Gate, database: &str, dir: &str, options: Options) -> Result<Job, Failure> {
    let (url, access) = gate.database(database)?;
    // The directory is as it was when its fingerprint was made, if it was.
    let files = match gate.known_folder(dir) {
        Some(folder) => Ok(folder),
        None => Folder::flat(gate.dir(dir)?, &migrate::is_sql).map(Arc::new),
    };
    let address = address(gate, &url.value)?;
    Job::open(Database { name: database, address, access }, Directory { name: dir, files }, options).await
}

fn address<'a>(gate: &Gate, url: &'a Secret) -> Result<Address<'a>, Failure> {
    match url.reveal().strip_prefix("sqlite:") {
        Some(path) => Ok(Address::File(gate.file(Path::new(path))?)),
        None => Ok(Address::Server(url)),
    }
}

/// Opens a step's migrations and their database: to look, or to write.
///
/// # Errors
/// What can't be read or reached.
pub async fn open_migrations(step: &Step, config: &Value, purpose: Purpose) -> Result<Desk, Failure> {
    open_desk(step, config, purpose, &Folders::default()).await
}

async fn open_desk(step: &Step, config: &Value, purpose: Purpose, folders: &Folders) -> Result<Desk, Failure> {
    let gate = Gate::open(step, purpose, folders)?;
    let text = |name: &str| config[name].as_str().unwrap_or_default();
    let options = Options::read(config, step.timeout)?;
    let folder = gate.host_path(text("dir")).cloned().unwrap_or_default();
    Ok(Desk::new(open(&gate, text("database"), text("dir"), options).await?, folder))
}

impl Runtime {
    /// A step's migrations as the step will find them, to look at.
    ///
    /// # Errors
    /// What can't be read or reached.
    pub async fn migrations(&self, step: &Step) -> Result<Desk, Failure> {
        open_desk(step, &step.with, Purpose::Probe, &self.folders).await
    }
}

impl migrations::Host for Host {
    async fn status(&mut self, database: String, dir: String, options: String) -> Result<String, HostError> {
        let gate = Arc::clone(&self.gate);
        Ok(job(&gate, &database, &dir, &options).await?.status().await?.to_string())
    }

    async fn apply(&mut self, database: String, dir: String, options: String) -> Result<String, HostError> {
        self.gate.database(&database)?;
        if self.gate.purpose() != Purpose::Act {
            return Err(failure("denied", "a preview or a probe may not migrate: they only look").into());
        }
        let (gate, log, fence) = (Arc::clone(&self.gate), self.log.clone(), self.fence.clone());
        let job = job(&gate, &database, &dir, &options).await?;
        // The host's own words are not counted as the guest's.
        let tell =
            |level: Level, message: String| log.send(Progress::Log { level, message, fields: Default::default() });
        let progress = |done, total| {
            log.send(Progress::Meter {
                task: "migrations".to_owned(),
                done,
                total: Some(total),
                unit: "files".to_owned(),
            });
        };
        Ok(job.apply(&fence, &tell, &progress).await?.to_string())
    }
}
