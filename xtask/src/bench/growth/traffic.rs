//! What passes between a runner and its remote: bytes and requests by a proxy, objects by git's own trace.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// What one command exchanged with its remote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    /// In bytes, to the remote.
    pub(super) sent: u64,
    /// In bytes, from the remote.
    pub(super) received: u64,
    /// HTTP requests.
    pub(super) requests: u64,
    /// Packs that were pushed.
    pub(super) packs: u64,
    /// Objects in them.
    pub(super) objects: u64,
}

/// Passes bytes on to a server and counts them, until it is dropped.
pub(super) struct CountingProxy {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CountingProxy {
    pub(super) fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on the loopback interface")?;
        let address = listener.local_addr()?;
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (up, down, seen) = (Arc::clone(&sent), Arc::clone(&received), Arc::clone(&is_stopping));
        let thread = thread::spawn(move || {
            let mut passing = Vec::new();
            for client in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else { continue };
                let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { continue };
                let (up, down) = (Arc::clone(&up), Arc::clone(&down));
                passing.push(thread::spawn(move || pass(client, server, &up)));
                passing.push(thread::spawn(move || pass(server_again, client_again, &down)));
            }
            passing.into_iter().for_each(|thread| drop(thread.join()));
        });
        Ok(Self { address, sent, received, is_stopping, thread: Some(thread) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until all connections are closed, and tells what went through them.
    pub(super) fn finish(mut self) -> Traffic {
        self.stop();
        let (sent, received) = (self.sent.load(Ordering::SeqCst), self.received.load(Ordering::SeqCst));
        Traffic { sent, received, ..Traffic::default() }
    }

    fn stop(&mut self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Passes one direction on until its end. A side that hangs up is no business of ours.
fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                count.fetch_add(length as u64, Ordering::SeqCst);
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

/// How many packs and objects git wrote to remotes, by the file that `GIT_TRACE2_EVENT` named.
pub(super) fn pushed_objects(trace: &Path) -> Result<(u64, u64)> {
    let text = fs::read_to_string(trace).with_context(|| format!("read git's trace, {}", trace.display()))?;
    parse_trace(&text)
}

fn parse_trace(text: &str) -> Result<(u64, u64)> {
    let (mut pushing, mut packs, mut objects) = (BTreeSet::new(), 0, 0);
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).context("a line of git's trace")?;
        let process = event["sid"].as_str().unwrap_or_default().to_owned();
        let argv = event["argv"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |word: &str| argv.iter().any(|argument| argument == word);
        if event["event"] == "start" && has("pack-objects") && has("--stdout") {
            pushing.insert(process);
        } else if event["key"] == "write_pack_file/wrote" && pushing.contains(&process) {
            let wrote = &event["value"];
            packs += 1;
            objects += wrote.as_u64().or_else(|| wrote.as_str()?.parse().ok()).context("a number of objects")?;
        }
    }
    Ok((packs, objects))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_counts_packs_for_remotes_only() {
        let trace = r#"{"event":"start","sid":"1","argv":["git","push"]}
{"event":"start","sid":"1/2","argv":["git","pack-objects","--all-progress-implied","--revs","--stdout","--thin"]}
{"event":"data","sid":"1/2","category":"pack-objects","key":"write_pack_file/wrote","value":"7"}
{"event":"start","sid":"3","argv":["git","pack-objects","--all"]}
{"event":"data","sid":"3","category":"pack-objects","key":"write_pack_file/wrote","value":"900"}"#;
        assert_eq!(parse_trace(trace).unwrap(), (1, 7));
    }

    #[test]
    fn proxy_counts_both_directions() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = CountingProxy::start(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            stream.write_all(b"answer").unwrap();
            asked
        });
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.write_all(b"ask").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((answer.as_str(), server.join().unwrap().as_slice()), ("answer", &b"ask"[..]));
        drop(client);
        assert_eq!(proxy.finish(), Traffic { sent: 3, received: 6, ..Traffic::default() });
    }
}
