//! A real pypiserver, a package index on a free port, and packages to put into it.

use std::{
    fs,
    io::{Cursor, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::{machine::installed_tools, sha256, wait_until};

/// User `ann`, password `secret`, as htpasswd writes them.
const USERS: &str = "ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n";

/// Whom the index answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PypiAuth {
    Anonymous,
    /// Only ann.
    Basic,
}

/// An index that ends with its value.
pub struct PypiServer {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl PypiServer {
    /// One with gunicorn, Django, and setuptools, which builds packages.
    pub fn start(auth: PypiAuth) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = super::ports::free_port();
        fs::create_dir(folder.path().join("packages")).unwrap();
        for wheel in
            fs::read_dir(installed_tools().join("wheels")).expect("`cargo xtask setup` downloads the wheels").flatten()
        {
            fs::copy(wheel.path(), folder.path().join("packages").join(wheel.file_name())).unwrap();
        }
        fs::write(folder.path().join("users"), USERS).unwrap();
        let mut command = Command::new(installed_tools().join("pypiserver/bin/pypi-server"));
        command.args(["run", "--interface", "127.0.0.1", "--port", &port.to_string(), "--disable-fallback"]);
        match auth {
            PypiAuth::Anonymous => command.args(["--passwords", ".", "--authenticate", "."]),
            PypiAuth::Basic => {
                command.arg("--passwords").arg(folder.path().join("users"));
                command.args(["--authenticate", "list,download,update"])
            }
        };
        command.arg(folder.path().join("packages"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("pypiserver can't be started; `cargo xtask setup` installs it");
        let server = Self { folder, port, process };
        wait_until("the index answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    /// `127.0.0.1:<port>`.
    pub fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address for pip.
    pub fn url(&self) -> String {
        format!("http://{}/simple/", self.authority())
    }

    /// The folder of its packages.
    pub fn packages(&self) -> PathBuf {
        self.folder.path().join("packages")
    }

    /// Puts a package there, and returns its line for `requirements.txt`.
    pub fn add(&self, name: &str, version: &str, file: &str, bytes: &[u8]) -> String {
        fs::write(self.packages().join(file), bytes).unwrap();
        format!("{name}=={version} --hash=sha256:{}\n", sha256(bytes))
    }

    /// Puts a wheel there whose program says its version; returns its line.
    pub fn add_application(&self, name: &str, version: &str) -> String {
        let bytes = wheel(name, version, &format!("def main():\n    print(\"{name} {version}\")\n"));
        self.add(name, version, &format!("{name}-{version}-py3-none-any.whl"), &bytes)
    }

    /// The lines of what is there from the beginning: gunicorn, and what it needs.
    pub fn gunicorn(&self) -> String {
        let line = |name: &str, version: &str| {
            let bytes = fs::read(self.packages().join(format!("{name}-{version}-py3-none-any.whl"))).unwrap();
            format!("{name}=={version} --hash=sha256:{}\n", sha256(&bytes))
        };
        line("gunicorn", "23.0.0") + &line("packaging", "25.0")
    }
}

impl Drop for PypiServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A wheel of one file, with a program of its name.
fn wheel(name: &str, version: &str, code: &str) -> Vec<u8> {
    let info = format!("{name}-{version}.dist-info");
    let files = [
        (format!("{name}.py"), code.to_owned()),
        (format!("{info}/METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
        ),
        (format!("{info}/entry_points.txt"), format!("[console_scripts]\n{name} = {name}:main\n")),
    ];
    let record: String = files.iter().map(|(path, _)| format!("{path},,\n")).collect();
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, text) in files.iter().cloned().chain([(format!("{info}/RECORD"), format!("{record}{info}/RECORD,,\n"))])
    {
        writer.start_file(path, SimpleFileOptions::default()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
