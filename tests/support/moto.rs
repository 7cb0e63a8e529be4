//! moto, an S3 server that keeps conditions, on a free port.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{sha256, wait_until};

/// A server with the bucket `acme-state`, which ends with its value.
pub struct MotoServer {
    port: u16,
    process: Child,
}

impl MotoServer {
    pub fn start() -> Self {
        let port = super::ports::free_port();
        let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
        let mut command = Command::new(target.join("tools/moto/bin/python"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/support/moto_server.py")).arg(port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("moto can't be started; `cargo xtask setup` installs it");
        let moto = Self { port, process };
        wait_until("moto answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        moto.send_put("/acme-state", &[]);
        moto
    }

    /// Writes an object to the bucket.
    pub fn put(&self, key: &str, content: &[u8]) {
        self.send_put(&format!("/acme-state/{key}"), content);
    }

    /// Reads an object that is text.
    pub fn get(&self, key: &str) -> String {
        let answer = self.send("GET", &format!("/acme-state/{key}"), &[]);
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The digest of an object, in hex.
    pub fn digest(&self, key: &str) -> String {
        let answer = self.send_for_bytes("GET", &format!("/acme-state/{key}"), &[]);
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        sha256(&answer[head + 4..])
    }

    /// How many uploads in parts were neither completed nor aborted.
    pub fn unfinished_uploads(&self) -> usize {
        self.send("GET", "/acme-state?uploads", &[]).matches("<UploadId>").count()
    }

    fn send_put(&self, path: &str, content: &[u8]) {
        self.send("PUT", path, content);
    }

    /// Returns the answer to a request, which must succeed.
    fn send(&self, method: &str, path: &str, content: &[u8]) -> String {
        String::from_utf8(self.send_for_bytes(method, path, content)).unwrap()
    }

    fn send_for_bytes(&self, method: &str, path: &str, content: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = content.len();
        // Who does not say who they are gets nothing; nobody checks it.
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: AWS ann:any\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), content].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        answer
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the environment of a runner says of an S3 server.
pub fn aws_variables(address: &str) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "ann".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "not-a-real-key".to_owned()),
        ("AWS_REGION", "eu-central-1".to_owned()),
    ]
}
