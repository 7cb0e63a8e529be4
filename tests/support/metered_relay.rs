//! A TCP proxy that forwards a number of bytes to the server, and then nothing more: what comes later waits, as on a line that is dead.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

#[derive(Default)]
struct Meter {
    forwarded: u64,
    limit: Option<u64>,
}

/// Forwards connections until it is dropped.
pub struct MeteredRelay {
    address: SocketAddr,
    meter: Arc<Mutex<Meter>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MeteredRelay {
    /// Forwards to `upstream`, `host:port`.
    pub fn new(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let meter = Arc::new(Mutex::new(Meter::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, over) = (Arc::clone(&meter), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&upstream)) else { continue };
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || forward(back_from, back_to, None));
                let meter = Arc::clone(&shared);
                std::thread::spawn(move || forward(client, server, Some(&meter)));
            }
        });
        Self { address, meter, stop, thread: Some(thread) }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Forwards so many bytes from now on.
    pub fn limit(&self, bytes: u64) {
        let mut meter = self.meter.lock().unwrap();
        *meter = Meter { forwarded: 0, limit: Some(bytes) };
    }

    /// Forwards everything, and counts from now on.
    pub fn unlimit(&self) {
        *self.meter.lock().unwrap() = Meter::default();
    }

    /// The bytes that were forwarded to the server.
    pub fn forwarded(&self) -> u64 {
        self.meter.lock().unwrap().forwarded
    }

    /// Whether all that may be forwarded is.
    pub fn is_dead(&self) -> bool {
        let meter = self.meter.lock().unwrap();
        meter.limit.is_some_and(|limit| meter.forwarded >= limit)
    }
}

/// Forwards until one side ends. What exceeds the meter's limit is lost, and the line with it.
fn forward(mut from: TcpStream, mut to: TcpStream, meter: Option<&Arc<Mutex<Meter>>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let allowed = meter.map_or(count, |meter| {
            let mut state = meter.lock().unwrap();
            let left = state.limit.map_or(u64::MAX, |limit| limit - state.forwarded);
            let allowed = count.min(usize::try_from(left).unwrap_or(usize::MAX));
            state.forwarded += allowed as u64;
            allowed
        });
        if to.write_all(&buffer[..allowed]).is_err() || allowed < count {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Drop for MeteredRelay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
