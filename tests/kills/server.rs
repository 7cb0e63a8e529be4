//! The shop's server as `verify` sees it: every request is answered with 200 or 500, as it is told.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

/// What the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// 200.
    Well,
    /// 500.
    Sick,
}

/// A running server; it ends when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_sick: AtomicBool,
    is_stopping: AtomicBool,
    healthy_answers: AtomicUsize,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Server {
    /// Serves on a free port.
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.is_stopping.load(SeqCst) {
                    return;
                }
                let own = Arc::clone(&own);
                // A runner that was killed hangs up: no business of the server's.
                thread::spawn(move || drop(answer(stream, &own)));
            }
        });
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Without a slash at the end.
    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, health: Health) {
        self.shared.is_sick.store(health == Health::Sick, SeqCst);
    }

    /// How many requests were answered with 200.
    pub(crate) fn healthy_answers(&self) -> usize {
        self.shared.healthy_answers.load(SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, SeqCst);
        // One last connection wakes the listener up.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            drop(thread.join());
        }
    }
}

fn answer(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // Up to the empty line: closing with unread bytes would reset the connection.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let status = if shared.is_sick.load(SeqCst) {
        "500 Internal Server Error"
    } else {
        shared.healthy_answers.fetch_add(1, SeqCst);
        "200 OK"
    };
    write!(reader.into_inner(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}
