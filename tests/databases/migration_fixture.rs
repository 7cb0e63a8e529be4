//! A plan with one step that migrates, and the runner as a process on it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::server::{PASSWORD, TestDatabase};

pub struct MigrationFixture {
    folder: TempDir,
}

#[derive(Debug)]
pub struct ProcessOutput {
    pub code: Option<i32>,
    pub text: String,
}

impl ProcessOutput {
    #[track_caller]
    pub fn assert_exit(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }

    #[track_caller]
    pub fn assert_contains(self, words: &str) -> Self {
        assert!(self.text.contains(words), "it does not say {words:?}: {}", self.text);
        self
    }
}

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "it did not come true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl MigrationFixture {
    /// A plan for a database; `with` is more of the step's configuration.
    pub fn new(database: &TestDatabase, with: &str) -> Self {
        Self::with_url(&database.url(), with, "")
    }

    pub fn with_url(url: &str, with: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("home")).unwrap();
        fs::create_dir_all(folder.path().join("plan/migrations")).unwrap();
        let shop = Self { folder };
        shop.write(
            "deploy.yml",
            format!(
                "version: 1\napp: shop\nstate: \"dir:${{{{ env.STATE }}}}\"\nsecrets: {{ PASSWORD: env:PASSWORD }}\nsteps:\n  migrate:\n    \
                 uses: migrate\n    with: {{ dir: migrations, database: main{with} }}\n    grants:\n      \
                 dirs: {{ migrations: \"./migrations:ro\" }}\n      databases: {{ main: \"{url}\" }}\n{more}"
            ),
        );
        shop
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("plan").join(path)
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(path), content).unwrap();
    }

    pub fn write_migration(&self, name: &str, content: impl AsRef<[u8]>) {
        self.write(&format!("migrations/{name}"), content);
    }

    /// A command of the runner, with a state of its own.
    pub fn command(&self, state: &str, arguments: &[&str]) -> Command {
        self.command_under(Command::new(env!("CARGO_BIN_EXE_runner")), state, arguments)
    }

    /// The same under a program that comes before it.
    pub fn command_under(&self, mut command: Command, state: &str, arguments: &[&str]) -> Command {
        #[expect(clippy::disallowed_methods, reason = "all that a run gets of this process")]
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.args(arguments).env_clear().env("PATH", path).env("HOME", self.folder.path().join("home"));
        command.env("PASSWORD", PASSWORD).env("STATE", self.folder.path().join(state));
        command.current_dir(self.path("")).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> ProcessOutput {
        run_process(self.command("state", arguments))
    }

    pub fn deploy(&self) -> ProcessOutput {
        self.run(&["--local", "--release", "r1"])
    }

    pub fn start(&self, state: &str) -> Child {
        let mut command = self.command(state, &["--local", "--release", "r1"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Every file of plan, state and home, with its content.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut left) = (BTreeMap::new(), vec![self.folder.path().to_owned()]);
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    left.push(path);
                } else {
                    files.insert(path.clone(), fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

pub fn run_process(mut command: Command) -> ProcessOutput {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ProcessOutput { code: output.status.code(), text }
}
