//! A real PHP-FPM, with the pool of an example.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Serves at its socket until it is dropped.
pub struct PhpFpmServer {
    folder: TempDir,
    child: Child,
}

impl PhpFpmServer {
    /// Where its socket lies in a pool's file.
    const SOCKET: &str = "/run/php/shop.sock";

    /// One with this pool, whose processes run as who runs the test.
    pub fn start(pool: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display().to_string();
        let own = |option: &str| {
            let output = Command::new("id").arg(option).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let pool = pool
            .replace("user = www-data", &format!("user = {}", own("-un")))
            .replace("group = www-data", &format!("group = {}", own("-gn")))
            .replace("listen.owner = www-data", &format!("listen.owner = {}", own("-un")))
            .replace(Self::SOCKET, &format!("{root}/shop.sock"));
        let configuration = folder.path().join("php-fpm.conf");
        fs::write(&configuration, format!("[global]\nerror_log = {root}/error.log\n{pool}")).unwrap();
        let mut command = Command::new(program());
        command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]).arg(configuration);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { folder, child };
        super::wait_until("PHP-FPM listens", || UnixStream::connect(server.socket()).is_ok());
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("shop.sock")
    }

    /// What `systemctl reload` does.
    pub fn reload_command(&self) -> String {
        format!("kill -USR2 {}", self.child.id())
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap()
    }
}

impl Drop for PhpFpmServer {
    fn drop(&mut self) {
        // It ends its processes first.
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Debian has its version in its name.
fn program() -> PathBuf {
    let programs = fs::read_dir(Path::new("/usr/sbin")).unwrap().flatten().map(|entry| entry.path());
    let found = programs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("php-fpm")).max();
    found.expect("PHP-FPM is missing: `cargo xtask setup` installs it")
}
