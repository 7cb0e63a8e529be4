//! A real Caddy with a given Caddyfile.

use std::{
    fs,
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Runs until it is dropped.
pub struct CaddyServer {
    _folder: TempDir,
    port: u16,
    child: Child,
}

impl CaddyServer {
    /// Serves as this Caddyfile says, which is given its port.
    pub fn new(caddyfile: impl FnOnce(u16) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = super::ports::free_port();
        let path = folder.path().join("Caddyfile");
        fs::write(&path, format!("{{\n\tadmin off\n\tauto_https off\n}}\n{}", caddyfile(port))).unwrap();
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&path);
        command.env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("caddy: {error}; run `cargo xtask setup`"));
        super::wait_until("Caddy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { _folder: folder, port, child }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for CaddyServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
