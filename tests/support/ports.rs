//! Ports for the servers of the tests, and ports at which nothing listens.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// Above the ports of common services.
const FIRST: u16 = 10_000;
/// Together with [`FIRST`], below the ports that Linux gives to connections and to listeners at port 0.
const COUNT: u16 = 22_000;

/// Ports of the loopback at which nothing listens. No other test gets them, and no connection: so a port is still free when its server starts,
/// and when it starts again.
pub fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| free_port())
}

/// One such port.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Another process of tests, in another checkout, begins elsewhere.
    let start = std::process::id() % u32::from(COUNT);
    loop {
        let offset = start + u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(offset % u32::from(COUNT)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
