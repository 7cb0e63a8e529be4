//! A real supervisord, which runs what is in its folder `conf.d`.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Runs until it is dropped, and stops its programs then.
pub struct SupervisordServer {
    folder: TempDir,
    child: Child,
}

impl SupervisordServer {
    /// One without programs.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        let root = folder.path().display();
        let configuration = format!(
            "[unix_http_server]\nfile={root}/supervisor.sock\n[supervisord]\nnodaemon=true\nlogfile={root}/supervisord.log\n\
             pidfile={root}/pid\nchildlogdir={root}\n[rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{root}/supervisor.sock\n[include]\nfiles={root}/conf.d/*.conf\n"
        );
        fs::write(folder.path().join("supervisord.conf"), configuration).unwrap();
        let mut command = Command::new("/usr/bin/supervisord");
        command.arg("-c").arg(folder.path().join("supervisord.conf")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("supervisord: {error}; run `cargo xtask setup`"));
        let server = Self { folder, child };
        super::wait_until("supervisord listens", || UnixStream::connect(server.path("supervisor.sock")).is_ok());
        server
    }

    /// A path in its folder: `conf.d`, `supervisor.sock`.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The programs that it knows, each as `<name> <state>`, as people see them.
    pub fn programs(&self) -> Vec<String> {
        let mut command = Command::new("/usr/bin/supervisorctl");
        let output = command.arg("-c").arg(self.path("supervisord.conf")).arg("status").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    /// Its configuration files.
    pub fn configured(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("conf.d")).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".pawl");
        names.sort_unstable();
        names
    }
}

impl Drop for SupervisordServer {
    fn drop(&mut self) {
        // On this signal it ends its programs first.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
