//! The capability `migrations`: what a module says by names is looked up in its grants here; the work is [`migrate`]'s.
//!
//! Deliberately absent: SQL.

use std::sync::Arc;

use super::{
    bindings::{HostError, migrations},
    failure,
    gate::{Gate, Purpose},
    host::Host,
    migrate::{Job, Options},
    options,
};
use crate::journal::event::{Failure, Level, Progress};

async fn job(gate: &Gate, database: &str, dir: &str, asked: &str) -> Result<Job, Failure> {
    let asked: serde_json::Value = options("migrations", asked)?;
    Job::open(gate, database, dir, Options::read(&asked, gate.timeout())?).await
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
