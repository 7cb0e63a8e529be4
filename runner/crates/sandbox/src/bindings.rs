//! The contract in Rust, generated from wit/, with conversions of its records. It checks nothing.

use wasmtime::component::{HasSelf, Linker, bindgen};

use super::host::HostState;
use contract::step::{Receipt, StepFailure};

bindgen!({
    path: "../../../wit",
    world: "pawl:step/module",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "pawl:step/blobs.blob": super::blobs::OpenBlob,
        "pawl:step/database.connection": super::database::DatabaseConnection,
        "pawl:step/database.transaction": super::database::DatabaseTransaction,
        "pawl:step/secrets.secret": super::secrets::SecretHandle,
    },
    trappable_error_type: { "pawl:step/types.failure" => HostError },
});

pub(super) use self::{
    exports::pawl::step::step as exported,
    pawl::step::{blobs, database, files, http, log, migrations, process, secrets, socket, tcp, types},
};

/// An unsuccessful end of a host call.
#[derive(Debug)]
pub enum HostError {
    /// The guest gets the failure.
    Failed(StepFailure),
    /// The guest is stopped.
    Trap(wasmtime::Error),
}

impl From<StepFailure> for HostError {
    fn from(failure: StepFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<wasmtime::component::ResourceTableError> for HostError {
    fn from(error: wasmtime::component::ResourceTableError) -> Self {
        Self::Trap(error.into())
    }
}

impl types::Host for HostState {
    fn convert_failure(&mut self, error: HostError) -> wasmtime::Result<types::Failure> {
        match error {
            HostError::Failed(failure) => Ok(failure.into()),
            HostError::Trap(trap) => Err(trap),
        }
    }
}

/// Adds the runner's imports; WASI is added separately.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    Module::add_to_linker::<_, HasSelf<_>>(linker, |host| host)
}

fn parse_json_object(text: &str) -> serde_json::Map<String, serde_json::Value> {
    serde_json::from_str(text).unwrap_or_default()
}

impl From<StepFailure> for types::Failure {
    fn from(failure: StepFailure) -> Self {
        Self {
            kind: failure.kind.into(),
            message: failure.message,
            hint: failure.hint,
            retryable: failure.retryable,
            details: serde_json::Value::Object(failure.details).to_string(),
        }
    }
}

impl From<types::Failure> for StepFailure {
    fn from(failure: types::Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            message: failure.message,
            hint: failure.hint,
            retryable: failure.retryable,
            details: parse_json_object(&failure.details),
        }
    }
}

impl From<&Receipt> for types::Receipt {
    fn from(receipt: &Receipt) -> Self {
        let text = |map: &serde_json::Map<_, _>| serde_json::Value::Object(map.clone()).to_string();
        Self { outputs: text(&receipt.outputs), notes: text(&receipt.notes) }
    }
}
