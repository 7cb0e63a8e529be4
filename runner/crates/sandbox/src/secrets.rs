//! The capability `secrets`: a step holds handles; values go from here into headers and environments.
//!
//! Invariant: a value crosses into the module only where the plan says `reveal`. Deliberately absent: what a server or a
//! program does with a value that a step was allowed to give it; it may answer with it.

use wasmtime::component::Resource;

use super::{
    bindings::{HostError, secrets},
    host::Host,
};
use contract::{Secret, step::Failure};
use plan::SecretAccess;

/// What a handle stands for.
pub struct Handle {
    name: String,
    value: Secret,
    access: SecretAccess,
}

impl Host {
    /// The value behind a handle, for the host's own use.
    pub(super) fn secret(&self, handle: &Resource<Handle>) -> Result<Secret, HostError> {
        Ok(self.table.get(handle)?.value.clone())
    }
}

impl secrets::Host for Host {}

impl secrets::HostSecret for Host {
    async fn open(&mut self, name: String) -> Result<Resource<Handle>, HostError> {
        let grant = self.gate.secret(&name)?;
        let handle = Handle { value: grant.value.clone(), access: grant.access, name };
        Ok(self.table.push(handle)?)
    }

    async fn reveal(&mut self, handle: Resource<Handle>) -> Result<String, HostError> {
        let handle = self.table.get(&handle)?;
        match handle.access {
            SecretAccess::Reveal => Ok(handle.value.reveal().to_owned()),
            SecretAccess::Use => Err(Failure::into(self.gate.not_revealed(&handle.name))),
        }
    }

    async fn drop(&mut self, handle: Resource<Handle>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}
