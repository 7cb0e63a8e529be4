//! Git's own `http-backend` behind a small server: a remote that is reached by HTTP, as at any git host.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use tempfile::TempDir;

/// A bare repository, served until it is dropped.
pub struct GitHttpServer {
    folder: TempDir,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    traffic: Arc<GitTraffic>,
    thread: Option<JoinHandle<()>>,
}

/// What went through a server, and what it rejects.
struct GitTraffic {
    pushes: AtomicU64,
    pushed_bytes: AtomicU64,
    fetched_bytes: AtomicU64,
    /// The numbers of the pushes that are rejected, from 0.
    first_rejected: AtomicU64,
    last_rejected: AtomicU64,
}

impl GitHttpServer {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        init_bare_repository(&folder.path().join("state.git"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (over, root) = (Arc::clone(&stop), folder.path().to_owned());
        let traffic = Arc::new(GitTraffic {
            pushes: AtomicU64::new(0),
            pushed_bytes: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            first_rejected: AtomicU64::new(u64::MAX),
            last_rejected: AtomicU64::new(u64::MAX),
        });
        let counted = Arc::clone(&traffic);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (root, traffic) = (root.clone(), Arc::clone(&counted));
                // Who went away needs no answer.
                std::thread::spawn(move || stream.and_then(|stream| serve(&stream, &root, &traffic)));
            }
        });
        Self { folder, address, stop, traffic, thread: Some(thread) }
    }

    /// How many pushes came so far, with the bytes of their packs, and how many bytes were fetched.
    pub fn traffic(&self) -> (u64, u64, u64) {
        let GitTraffic { pushes, pushed_bytes, fetched_bytes, .. } = &*self.traffic;
        let [pushes, pushed, fetched] = [pushes, pushed_bytes, fetched_bytes].map(|count| count.load(Ordering::SeqCst));
        (pushes, pushed, fetched)
    }

    /// Counts pushes anew, and rejects the ones with these numbers.
    pub fn reject_pushes(&self, numbers: std::ops::RangeInclusive<u64>) {
        self.traffic.pushes.store(0, Ordering::SeqCst);
        self.traffic.first_rejected.store(*numbers.start(), Ordering::SeqCst);
        self.traffic.last_rejected.store(*numbers.end(), Ordering::SeqCst);
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The repository on disk.
    pub fn repository(&self) -> PathBuf {
        self.folder.path().join("state.git")
    }
}

impl Drop for GitHttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Makes a bare repository.
pub fn init_bare_repository(path: &Path) {
    let made = Command::new("git").args(["init", "--quiet", "--bare"]).arg(path).status();
    assert!(made.expect("git can't be run; `cargo xtask setup` installs it").success());
}

/// Removes all refs of a bare repository.
pub fn delete_refs(path: &Path) {
    let git = |arguments: &[&str]| Command::new("git").arg("-C").arg(path).args(arguments).output().unwrap();
    let refs = String::from_utf8(git(&["for-each-ref", "--format=%(refname)"]).stdout).unwrap();
    for name in refs.lines() {
        assert!(git(&["update-ref", "-d", name]).status.success(), "{name}");
    }
}

impl GitTraffic {
    /// Counts a push. Returns whether it is rejected.
    fn rejects_push(&self, bytes: usize) -> bool {
        let number = self.pushes.fetch_add(1, Ordering::SeqCst);
        self.pushed_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        (self.first_rejected.load(Ordering::SeqCst)..=self.last_rejected.load(Ordering::SeqCst)).contains(&number)
    }
}

fn serve(stream: &TcpStream, root: &Path, traffic: &GitTraffic) -> std::io::Result<()> {
    let request = GitHttpRequest::read(stream)?;
    let path = request.path();
    // A body of four bytes is git's question whether it must authenticate.
    if path.ends_with("/git-receive-pack") && request.body.len() > 4 && traffic.rejects_push(request.body.len()) {
        let mut stream = stream;
        return stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    }
    let is_fetch = path.ends_with("/git-upload-pack");
    let answer = request.ask_backend(root)?;
    if is_fetch {
        traffic.fetched_bytes.fetch_add(answer.len() as u64, Ordering::SeqCst);
    }
    write_backend_answer(stream, &answer)
}

/// A request of git, with its whole body.
pub(super) struct GitHttpRequest {
    pub(super) method: String,
    /// With the query.
    pub(super) target: String,
    /// By lower-case names.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl GitHttpRequest {
    pub(super) fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, target) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
                None => break,
            };
        }
        let mut body = Vec::new();
        if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size)?;
                let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
                (&mut reader).take(size).read_to_end(&mut body)?;
                reader.read_line(&mut String::new())?;
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            (&mut reader).take(length).read_to_end(&mut body)?;
        }
        Ok(Self { method, target, headers, body })
    }

    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// What `git http-backend` says about the repositories in a folder.
    pub(super) fn ask_backend(self, root: &Path) -> std::io::Result<Vec<u8>> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let mut backend = Command::new("git");
        backend.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
        backend.env("REMOTE_USER", "ann").env("REQUEST_METHOD", &self.method);
        backend.env("PATH_INFO", self.path()).env("QUERY_STRING", query);
        backend.env("CONTENT_LENGTH", self.body.len().to_string());
        for (header, variable) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
            ("git-protocol", "GIT_PROTOCOL"),
        ] {
            self.headers.get(header).map(|value| backend.env(variable, value));
        }
        let mut backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdin = backend.stdin.take().unwrap();
        let body = self.body;
        let writing = std::thread::spawn(move || stdin.write_all(&body));
        let answer = backend.wait_with_output()?.stdout;
        let _ = writing.join();
        Ok(answer)
    }
}

/// Writes what `git http-backend` said.
pub(super) fn write_backend_answer(mut stream: &TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let text = String::from_utf8_lossy(&answer[..head]).into_owned();
    let status = text.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{text}", answer.len() - head)?;
    stream.write_all(&answer[head..])
}
