//! The example app with a long history, in a state of each kind, and the servers that hold it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{
    GrowthCommand, StateKind,
    traffic::{CountingProxy, Traffic, pushed_objects},
};
use crate::{bench::wall_time, demo::copy_folder, pack::pack, setup, workspace};

/// How many attempts are written between two deployments: a remote takes so many journals at once within a lease.
const MAX_WRITTEN: u64 = 500;
const BUCKET: &str = "acme-state";
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// The remote of all shops of a kind.
pub(super) struct StateServer {
    kind: StateKind,
    folder: TempDir,
    process: Option<(Child, SocketAddr)>,
}

impl StateServer {
    pub(super) fn start(kind: StateKind) -> Result<Self> {
        let folder = tempfile::tempdir_in(workspace::target_dir()?)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let port = address.port();
        let command = match kind {
            StateKind::Folder => None,
            // Only counted rounds go through it: timed ones use the repositories' paths.
            StateKind::Git => {
                let mut git = Command::new("git");
                git.args(["daemon", "--listen=127.0.0.1", "--export-all", "--enable=receive-pack"]);
                git.arg(format!("--port={port}")).arg(format!("--base-path={}", folder.path().display()));
                Some(git)
            }
            StateKind::Bucket => {
                let mut moto = Command::new(setup::tools_dir()?.join("moto/bin/moto_server"));
                moto.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
                Some(moto)
            }
        };
        let log = fs::File::create(folder.path().join("log"))?;
        let mut server = Self { kind, folder, process: None };
        if let Some(mut command) = command {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            server.process = Some((command.spawn().context("start the server of the remote state")?, address));
            let began = Instant::now();
            while TcpStream::connect(address).is_err() {
                ensure!(began.elapsed() < SERVER_TIMEOUT, "the server of the remote state does not answer");
                thread::sleep(Duration::from_millis(20));
            }
        }
        if kind == StateKind::Bucket {
            create_bucket(address)?;
        }
        Ok(server)
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.process.as_ref().context("the state has no server")?.1)
    }

    /// How many requests the server has logged.
    fn requests(&self) -> Result<u64> {
        let log = fs::read_to_string(self.folder.path().join("log"))?;
        Ok(log.lines().filter(|line| line.contains(" HTTP/1.1\"")).count() as u64)
    }

    /// The state of a shop, as its plan names it. A git repository is made.
    fn create_state(&self, name: &str) -> Result<String> {
        Ok(match self.kind {
            StateKind::Folder => "dir:.pawl".to_owned(),
            StateKind::Git => {
                let repository = self.folder.path().join(format!("{name}.git"));
                workspace::output(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&repository))?;
                format!("git:{}", repository.display())
            }
            StateKind::Bucket => format!("s3://{BUCKET}/{name}"),
        })
    }
}

impl Drop for StateServer {
    fn drop(&mut self) {
        if let Some((process, _)) = &mut self.process {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn create_bucket(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let head = format!("PUT /{BUCKET} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "the bucket was not made: {answer}");
    Ok(())
}

/// The runner that is measured, and the example that writes attempts.
pub(super) struct BenchedRunner {
    pub(super) runner: PathBuf,
    pub(super) writer: PathBuf,
}

/// A shop with a history.
pub(super) struct GrownShop<'a> {
    server: &'a StateServer,
    tools: &'a BenchedRunner,
    folder: TempDir,
    /// How many releases were packed.
    releases: u64,
    /// How many machines have asked for the status.
    machines: u64,
}

impl<'a> GrownShop<'a> {
    /// A shop after `length` attempts, the last of them a deployment by this runner.
    pub(super) fn grow(server: &'a StateServer, tools: &'a BenchedRunner, length: u64) -> Result<Self> {
        let folder = tempfile::tempdir_in(workspace::target_dir()?)?;
        let (shop, example) = (folder.path().join("shop"), workspace::root().join("examples/shop"));
        for part in ["app", "migrations"] {
            copy_folder(&example.join(part), &shop.join(part))?;
        }
        fs::create_dir(folder.path().join("home"))?;
        let plan = fs::read_to_string(example.join("deploy.yml"))?;
        // The lease outlasts the upload of many journals at once.
        let mut state = format!("app: shop\nstate: {}\n", server.create_state(&format!("after-{length}"))?);
        if server.kind != StateKind::Folder {
            state += "lock: { ttl: 10m }\n";
        }
        ensure!(plan.contains("app: shop\n"), "the example's plan names another app");
        fs::write(shop.join("deploy.yml"), plan.replace("app: shop\n", &state))?;
        let mut shop = Self { server, tools, folder, releases: 0, machines: 0 };
        shop.deploy_new_release()?;
        let mut attempts = 1;
        while attempts < length {
            let written = (length - attempts - 1).min(MAX_WRITTEN);
            shop.write_attempts(written)?;
            shop.deploy_new_release()?;
            attempts += written + 1;
        }
        Ok(shop)
    }

    /// The folder that attempts are written to.
    fn state_root(&self) -> Result<PathBuf> {
        if self.server.kind == StateKind::Folder {
            return Ok(self.shop().join(".pawl"));
        }
        let copies = self.folder.path().join("state-home/pawl/state");
        let mut entries = fs::read_dir(&copies).with_context(|| format!("read {}", copies.display()))?;
        Ok(entries.next().context("the runner has kept no local copy")??.path())
    }

    fn write_attempts(&self, count: u64) -> Result<()> {
        let mut command = Command::new(&self.tools.writer);
        command.arg(self.state_root()?).args(["shop", "test", &count.to_string()]);
        workspace::output(&mut command).map(drop)
    }

    fn shop(&self) -> PathBuf {
        self.folder.path().join("shop")
    }

    /// The runner as a user of this machine runs it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.tools.runner);
        command.env_clear().args(words).current_dir(self.shop());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", self.folder.path().join("home"));
        command.env("XDG_STATE_HOME", self.folder.path().join("state-home"));
        if let (StateKind::Bucket, Some((_, address))) = (self.server.kind, &self.server.process) {
            command.env("AWS_ENDPOINT_URL", format!("http://{address}")).env("AWS_ALLOW_HTTP", "true");
            command.env("AWS_ACCESS_KEY_ID", "ann").env("AWS_SECRET_ACCESS_KEY", "not-a-real-key");
            command.env("AWS_REGION", "eu-central-1");
        }
        command
    }

    fn deploy_new_release(&mut self) -> Result<()> {
        let mut command = self.prepare(GrowthCommand::NewRelease)?;
        workspace::output(&mut command).map(drop)
    }

    /// The command, with what it needs: a new release is packed, a new machine has nothing.
    fn prepare(&mut self, command: GrowthCommand) -> Result<Command> {
        match command {
            GrowthCommand::Status => Ok(self.command(&["status"])),
            GrowthCommand::History => Ok(self.command(&["history"])),
            GrowthCommand::Why => Ok(self.command(&["why", "migrate"])),
            GrowthCommand::SkippedDeployment => Ok(self.deploy_command()),
            GrowthCommand::NewRelease => {
                self.releases += 1;
                pack(&self.shop(), &format!("r{}", self.releases))?;
                Ok(self.deploy_command())
            }
            GrowthCommand::StatusOnNewMachine => {
                self.machines += 1;
                let mut status = self.command(&["status"]);
                status.env("XDG_STATE_HOME", self.folder.path().join(format!("machine-{}", self.machines)));
                Ok(status)
            }
        }
    }

    fn deploy_command(&self) -> Command {
        self.command(&["--local", "--quiet", "--release", &format!("r{}", self.releases)])
    }

    /// The wall time of a command.
    pub(super) fn time(&mut self, command: GrowthCommand) -> Result<Duration> {
        wall_time(&mut self.prepare(command)?)
    }

    /// What a command exchanges with the remote.
    pub(super) fn count(&mut self, command: GrowthCommand) -> Result<Traffic> {
        let proxy = CountingProxy::start(self.server.address()?)?;
        let before = self.server.requests()?;
        let trace = self.folder.path().join("git-trace.json");
        drop(fs::remove_file(&trace));
        let mut prepared = self.prepare(command)?;
        match self.server.kind {
            StateKind::Folder => {}
            StateKind::Git => {
                let home = self.folder.path().join("counted-home");
                fs::create_dir_all(&home)?;
                let (proxied, folder) = (proxy.address(), self.server.folder.path().display());
                fs::write(
                    home.join(".gitconfig"),
                    format!("[url \"git://{proxied}/\"]\n\tinsteadOf = \"{folder}/\"\n"),
                )?;
                prepared.env("HOME", home).env("GIT_TRACE2_EVENT", &trace).env("GIT_TRACE2_EVENT_NESTING", "9");
            }
            StateKind::Bucket => drop(prepared.env("AWS_ENDPOINT_URL", format!("http://{}", proxy.address()))),
        }
        workspace::output(&mut prepared)?;
        let traffic = proxy.finish();
        ensure!(traffic.sent > 0, "nothing went to the remote through the proxy");
        let (packs, objects) = if self.server.kind == StateKind::Git { pushed_objects(&trace)? } else { (0, 0) };
        Ok(Traffic { requests: self.server.requests()? - before, packs, objects, ..traffic })
    }
}
