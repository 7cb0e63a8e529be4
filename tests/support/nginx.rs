//! A real nginx that serves a folder.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Who says this as a bearer token may see `/private`.
pub const NGINX_TOKEN: &str = "hunter2-correct-horse";

/// Serves until it is dropped, on a port and on a unix socket.
pub struct NginxServer {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl NginxServer {
    /// Serves these files.
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("www")).unwrap();
        for (name, content) in files {
            fs::write(folder.path().join("www").join(name), content).unwrap();
        }
        Self::serving(folder, |root, port| {
            format!(
                "log_format told '$status $http_range'; access_log {root}/access.log told;
                 server {{
                     listen 127.0.0.1:{port}; listen unix:{root}/nginx.sock; root {root}/www;
                     location = /private {{
                         if ($http_authorization != \"Bearer {NGINX_TOKEN}\") {{ return 403; }}
                         return 204;
                     }}
                 }}"
            )
        })
    }

    /// Serves as these lines in its `http` say, which are given its port.
    pub fn with_configuration(lines: impl FnOnce(u16) -> String) -> Self {
        Self::serving(tempfile::tempdir().unwrap(), |root, port| {
            format!("access_log {root}/access.log;\n{}", lines(port))
        })
    }

    /// Serves its `www` over https, as these lines in its `server` say. It has signed its `certificate.pem` itself.
    pub fn with_tls(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::create_dir(folder.path().join("www")).unwrap();
        Self::serving(folder, |root, port| {
            format!(
                "log_format told '$status $http_range'; access_log {root}/access.log told;
                 server {{
                     listen 127.0.0.1:{port} ssl; root {root}/www;
                     ssl_certificate {root}/certificate.pem; ssl_certificate_key {root}/key.pem;
                     {lines}
                 }}"
            )
        })
    }

    fn serving(folder: TempDir, lines: impl FnOnce(&str, u16) -> String) -> Self {
        let port = super::ports::free_port();
        let root = folder.path().display().to_string();
        let lines = lines(&root, port);
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;
             events {{ worker_connections 64; }}
             http {{
                 client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
                 uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
                 {lines}
             }}"
        );
        fs::write(folder.path().join("nginx.conf"), configuration).unwrap();
        let child = start(folder.path(), port);
        Self { folder, port, child }
    }

    /// Ends it, until it is started again.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`Self::stop`].
    pub fn start_again(&mut self) {
        self.child = start(self.folder.path(), self.port);
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A path in its folder: `access.log`.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The path of its socket.
    pub fn socket(&self) -> String {
        self.folder.path().join("nginx.sock").display().to_string()
    }

    /// Of each request it answered, the status and the range asked for.
    pub fn access_log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("access.log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }
}

impl Drop for NginxServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(folder: &Path, port: u16) -> Child {
    let mut command = Command::new(nginx_program());
    command.arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(folder);
    command.arg("-e").arg(folder.join("error.log")).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    super::wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
}

/// Debian keeps it where only root's PATH looks.
fn nginx_program() -> &'static Path {
    let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx"];
    let found = places.into_iter().map(Path::new).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("nginx is missing: `cargo xtask setup` installs it"))
}
