//! The capability `secrets`: a step holds handles; values go from here into headers and environments.
//!
//! Invariant: a value crosses into the module only where the plan says `reveal`. Deliberately absent: what a server or a
//! program does with a value that a step was allowed to give it; it may answer with it.

use wasmtime::component::Resource;

use super::{
    bindings::{HostError, secrets},
    host::HostState,
};
use contract::{Secret, step::StepFailure};
use plan::SecretAccess;

/// What a handle stands for.
pub struct SecretHandle {
    name: String,
    value: Secret,
    access: SecretAccess,
}

impl HostState {
    /// The value behind a handle, for the host's own use.
    pub(super) fn secret_value(&self, handle: &Resource<SecretHandle>) -> Result<Secret, HostError> {
        Ok(self.table.get(handle)?.value.clone())
    }
}

impl secrets::Host for HostState {}

impl secrets::HostSecret for HostState {
    async fn open(&mut self, name: String) -> Result<Resource<SecretHandle>, HostError> {
        let grant = self.gate.secret_grant(&name)?;
        let handle = SecretHandle { value: grant.value.clone(), access: grant.access, name };
        Ok(self.table.push(handle)?)
    }

    async fn reveal(&mut self, handle: Resource<SecretHandle>) -> Result<String, HostError> {
        let handle = self.table.get(&handle)?;
        match handle.access {
            SecretAccess::Reveal => Ok(handle.value.reveal().to_owned()),
            SecretAccess::Use => Err(StepFailure::into(self.gate.reveal_denied_failure(&handle.name))),
        }
    }

    async fn drop(&mut self, handle: Resource<SecretHandle>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}
