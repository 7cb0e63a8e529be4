//! How much memory a guest may take. An error that names the limit, where stock limits end in a bare `unreachable`.

use wasmtime::{Error, ResourceLimiter, Result};

/// Linear memory of all of a module's memories together, in bytes.
pub const MAX_MEMORY_BYTES: usize = 256 << 20;

/// Elements of all its tables together.
const MAX_TABLE_ELEMENTS: usize = 200_000;

/// The limiter of one call.
#[derive(Debug, Default)]
pub(super) struct GuestLimits {
    memory_bytes: usize,
    table_elements: usize,
}

/// A guest asked for more than it may have.
#[derive(Debug, thiserror::Error)]
#[error("it exceeded the {resource} limit of {limit}")]
pub(super) struct GuestLimitExceeded {
    pub(super) resource: &'static str,
    pub(super) limit: String,
}

impl ResourceLimiter for GuestLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.memory_bytes += desired.saturating_sub(current);
        if self.memory_bytes > MAX_MEMORY_BYTES {
            return Err(Error::new(GuestLimitExceeded {
                resource: "memory",
                limit: format!("{} MiB", MAX_MEMORY_BYTES >> 20),
            }));
        }
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        self.table_elements += desired.saturating_sub(current);
        if self.table_elements > MAX_TABLE_ELEMENTS {
            return Err(Error::new(GuestLimitExceeded {
                resource: "table element",
                limit: MAX_TABLE_ELEMENTS.to_string(),
            }));
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
