//! How much memory a guest may take. An error that names the limit, where stock limits end in a bare `unreachable`.

use wasmtime::{Error, ResourceLimiter, Result};

/// Linear memory of all of a module's memories together, in bytes.
pub const MEMORY: usize = 256 << 20;

/// Elements of all its tables together.
const TABLE: usize = 200_000;

/// The limiter of one call.
#[derive(Debug, Default)]
pub(super) struct Limits {
    memory: usize,
    table: usize,
}

/// A guest asked for more than it may have.
#[derive(Debug, thiserror::Error)]
#[error("it asked for more than {limit} of {what}")]
pub(super) struct Exceeded {
    pub(super) what: &'static str,
    pub(super) limit: String,
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.memory += desired.saturating_sub(current);
        if self.memory > MEMORY {
            return Err(Error::new(Exceeded { what: "memory", limit: format!("{} MiB", MEMORY >> 20) }));
        }
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.table += desired.saturating_sub(current);
        if self.table > TABLE {
            return Err(Error::new(Exceeded { what: "table elements", limit: TABLE.to_string() }));
        }
        Ok(true)
    }

    // Steps in Python come as more than thirty core modules.
    fn instances(&self) -> usize {
        256
    }

    fn memories(&self) -> usize {
        16
    }

    fn tables(&self) -> usize {
        256
    }
}
