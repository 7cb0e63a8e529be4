//! The capability `secrets`: a step holds handles; the host puts the values into headers and environments.
//!
//! Invariant: a value enters the module only with `reveal` in the plan. Deliberately absent: what a server or program
//! does with a value that a step gives it; it may echo it.

use wasmtime::component::Resource;

use super::{
    bindings::{HostError, secrets},
    host::HostState,
};
use contract::{Secret, step::StepFailure};
use plan::SecretAccess;

/// The secret of a handle.
pub struct SecretHandle {
    name: String,
    value: Secret,
    access: SecretAccess,
}

impl HostState {
    /// The value of a handle, for the host's own use.
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
