//! TCP connections to granted addresses, to check that a server listens.

use core::time::Duration;

use crate::Failure;
use crate::bindings::pawl::step::tcp as host;

/// Connects to `host:port` and closes the connection without sending anything.
///
/// # Errors
/// Not granted, refused, or timed out.
pub fn connect(address: &str, timeout: Duration) -> Result<(), Failure> {
    host::connect(address, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)).map_err(Failure::from)
}
