//! A proxy on the way to a real server, which does to the connection what networks do.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// What is done to each answer.
#[derive(Clone, Copy)]
pub enum ProxyFault {
    /// It is cut off after so many bytes.
    Cut(usize),
    /// The first one that is longer is cut off after so many bytes.
    CutOnce(usize),
    /// After so many bytes nothing more comes, and the connection stays.
    Stall(usize),
    /// After so many bytes one comes at a time, with a pause between.
    Trickle(usize, Duration),
}

/// Passes on until it is dropped.
pub struct FaultyProxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FaultyProxy {
    /// A proxy to `upstream`, `host:port`.
    pub fn new(upstream: String, fault: ProxyFault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let answered = Arc::new(AtomicU64::new(0));
        let total = Arc::clone(&answered);
        let (count, over, has_cut) = (Arc::clone(&connections), Arc::clone(&stop), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn(move || {
            let mut passing = Vec::new();
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let (client, upstream, over) = (client.unwrap(), upstream.clone(), Arc::clone(&over));
                let (has_cut, total) = (Arc::clone(&has_cut), Arc::clone(&total));
                passing.push(std::thread::spawn(move || {
                    // One of both went away: that is what this is for.
                    let _ = forward(client, &upstream, fault, &over, &has_cut, &total);
                }));
            }
            for thread in passing {
                thread.join().unwrap();
            }
        });
        Self { address, connections, answered, stop, thread: Some(thread) }
    }

    /// How many bytes of answers it has passed on.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// `http://127.0.0.1:<port>`.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(
    mut client: TcpStream,
    upstream: &str,
    fault: ProxyFault,
    over: &AtomicBool,
    has_cut: &AtomicBool,
    total: &AtomicU64,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(upstream)?;
    let (mut asking, mut asked) = (client.try_clone()?, server.try_clone()?);
    let up = std::thread::spawn(move || {
        let copied = std::io::copy(&mut asking, &mut asked);
        // The client has gone: a server that keeps connections would wait for more.
        let _ = asked.shutdown(Shutdown::Both);
        copied
    });
    let mut buffer = [0; 4096];
    let mut passed = 0;
    let most = match fault {
        ProxyFault::CutOnce(_) if has_cut.load(Ordering::SeqCst) => usize::MAX,
        ProxyFault::Cut(most) | ProxyFault::CutOnce(most) | ProxyFault::Stall(most) | ProxyFault::Trickle(most, _) => {
            most
        }
    };
    let passing = (|| {
        while passed < most {
            let count = server.read(&mut buffer[..(most - passed).min(4096)])?;
            if count == 0 {
                return Ok(());
            }
            client.write_all(&buffer[..count])?;
            passed += count;
            total.fetch_add(count as u64, Ordering::SeqCst);
        }
        match fault {
            ProxyFault::Cut(_) => {}
            ProxyFault::CutOnce(_) => has_cut.store(true, Ordering::SeqCst),
            ProxyFault::Stall(_) => {
                while !over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            ProxyFault::Trickle(_, pause) => {
                while !over.load(Ordering::SeqCst) && server.read(&mut buffer[..1])? == 1 {
                    client.write_all(&buffer[..1])?;
                    std::thread::sleep(pause);
                }
            }
        }
        Ok(())
    })();
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = up.join();
    passing
}
