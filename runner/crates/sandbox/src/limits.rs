//! Memory limits of a guest, with an error that names the limit, unlike wasmtime's bare `unreachable`.

use wasmtime::{Error, ResourceLimiter, Result};

/// The most bytes of a module's linear memories together.
pub const MAX_MEMORY_BYTES: usize = 256 << 20;

/// The most elements of its tables together.
const MAX_TABLE_ELEMENTS: usize = 200_000;

/// The limiter of one call.
#[derive(Debug, Default)]
pub(super) struct GuestLimits {
    memory_bytes: usize,
    table_elements: usize,
}

/// A guest exceeded a limit.
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

    // Steps in Python consist of more than thirty core modules.
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
