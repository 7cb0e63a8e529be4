//! Debian's `docker-registry`, the reference implementation of the distribution specification, on a free port.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tempfile::TempDir;

use super::{sha256, wait_until};

/// User `ann`, password `secret`, as htpasswd writes them.
const USERS: &str = "ann:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";
/// The same for an Authorization header and for Docker's config.json.
pub const ANN_CREDENTIALS: &str = "YW5uOnNlY3JldA==";

/// Whom the registry answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestRegistryAuth {
    Anonymous,
    /// Only ann.
    Basic,
}

/// A registry that ends with its value.
pub struct DockerRegistry {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl DockerRegistry {
    pub fn start(door: TestRegistryAuth) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = super::ports::free_port();
        let place = folder.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {place}/data }} }}\n\
             http: {{ addr: 127.0.0.1:{port} }}\n"
        );
        if door == TestRegistryAuth::Basic {
            fs::write(folder.path().join("users"), USERS).unwrap();
            config += &format!("auth: {{ htpasswd: {{ realm: test, path: {place}/users }} }}\n");
        }
        fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("docker-registry can't be started; `cargo xtask setup` installs it");
        let registry = Self { folder, port, process };
        wait_until("the registry answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        registry
    }

    /// `127.0.0.1:<port>`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes layers as one artifact; returns what a plan's `uses` says.
    pub fn push(&self, repository: &str, layers: &[(&str, &[u8])]) -> String {
        let descriptors: Vec<_> = layers
            .iter()
            .map(|(kind, bytes)| {
                json!({"mediaType": kind, "digest": self.push_blob(repository, bytes), "size": bytes.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/wasm",
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": self.push_blob(repository, b"{}"), "size": 2,
            },
            "layers": descriptors,
        })
        .to_string();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        self.request("PUT", &format!("/v2/{repository}/manifests/v1"), kind, manifest.as_bytes());
        format!("oci://{}/{repository}@sha256:{}", self.authority(), sha256(manifest.as_bytes()))
    }

    /// Copies an image of an OCI layout, as `skopeo copy` does; returns what a plan's `from` says.
    pub fn push_image(&self, layout: &Path, tag: &str, repository: &str) -> String {
        let target = format!("{}/{repository}:{tag}", self.authority());
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds=ann:secret"]);
        command.arg(format!("oci:{}:{tag}", layout.display())).arg(format!("docker://{target}"));
        let output = command.output().expect("skopeo can't be started; `cargo xtask setup` installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        format!("oci://{target}")
    }

    /// Where the registry keeps a content.
    pub fn blob_path(&self, bytes: &[u8]) -> PathBuf {
        self.content_path(&sha256(bytes))
    }

    /// Where the registry keeps what has this digest, in hexadecimal digits.
    pub fn content_path(&self, hex: &str) -> PathBuf {
        self.folder.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = format!("sha256:{}", sha256(bytes));
        let begun = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "application/json", b"");
        let is_location = |line: &&str| line.to_ascii_lowercase().starts_with("location:");
        let location = begun.lines().find(is_location).unwrap().split_once(':').unwrap().1.trim();
        let path = location.find("/v2/").map(|start| &location[start..]).unwrap();
        self.request("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes);
        digest
    }

    /// The head of the answer, which must be a good one.
    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Basic {ANN_CREDENTIALS}\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            self.authority(),
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        answer
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
