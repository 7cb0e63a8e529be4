//! Two hosts behind links that can fail, and a machine that deploys to them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    HostLink, LinkDirection, RunnerOutput, SshHost, TestEnvironment, init_bare_repository, kill_children, wait_until,
    write_ssh_config_at,
};

/// `restart` must not run twice. It says something before its effect and after it, so that a connection can be cut meanwhile.
const STEPS: &str = r#"steps:
  pull:
    on: web
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: [app, dist] }
  migrate:
    on: { hosts: web, once: true }
    with: { dir: migrations, database: main }
    grants: { dirs: [migrations], databases: { main: "sqlite:/srv/shop/shop.db" } }
  switch: { on: web, with: { link: current }, grants: { dirs: [app] } }
  restart:
    on: web
    program: [/bin/sh, -c, "w() { for i in 1 2 3 4 5 6 7 8; do echo $1 $i; sleep 0.02; done; }; w before; echo ${{ release }} >> restarts; w after"]
    trust: host
    with: { dir: app }
    grants: { dirs: [app] }
  verify:
    on: web
    with: { files: [{ path: current/VERSION, equals: "${{ release }}" }] }
    grants: { dirs: ["app:ro"] }
"#;

/// How long a run may take to reach its point.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// A byte of the connection with a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkPoint {
    pub(super) host: usize,
    direction: LinkDirection,
    byte: u64,
}

pub(super) struct FaultyFleet {
    pub(super) hosts: [SshHost; 2],
    pub(super) links: [HostLink; 2],
    machine: TestEnvironment,
    /// How many bytes an undisturbed run sends to each host and gets from it.
    bytes: [[u64; 2]; 2],
    number: usize,
    pub(super) release: String,
    _state: TempDir,
    /// Ssh's configuration and keys, for every machine.
    _ssh: TempDir,
}

/// A run that is held, or has ended.
pub(super) struct HeldRun<'f> {
    machine: &'f TestEnvironment,
    child: Child,
    /// What it was at; none if it came to its end before.
    pub(super) moment: Option<String>,
}

impl FaultyFleet {
    /// Two hosts with the first releases. `state` is `git`, or empty for a folder of the machine.
    pub(super) fn new(state: &str) -> Result<Self> {
        let hosts = [SshHost::with_root(), SshHost::with_root()];
        let links = [HostLink::to_port(hosts[0].port()), HostLink::to_port(hosts[1].port())];
        let (repository, ssh) = (tempfile::tempdir()?, tempfile::tempdir()?);
        init_bare_repository(repository.path());
        let state = match state {
            "git" => format!("state: git:{}\nlock: {{ ttl: 5s }}\n", repository.path().display()),
            _ => String::new(),
        };
        let user = hosts[0].address().split(['/', '@']).nth(2).context("the address has a user")?.to_owned();
        let listed: String = (1..)
            .zip(&links)
            .map(|(number, link)| {
                format!("        - {{ at: \"ssh://{user}@127.0.0.1:{}\", name: web-{number} }}\n", link.port())
            })
            .collect();
        let plan = format!(
            "version: 1\napp: shop\n{state}dirs: {{ app: /srv/shop, dist: \"./dist:ro\", migrations: \"./migrations:ro\" }}\n\
             environments:\n  test:\n    ssh: {{ config: {}/ssh_config }}\n    hosts:\n      web:\n{listed}{STEPS}",
            ssh.path().display()
        );
        write_ssh_config_at(ssh.path(), &[(&hosts[0], links[0].port()), (&hosts[1], links[1].port())]);
        let machine = TestEnvironment::with_plan(&plan);
        machine.write("migrations/0003_marks.sql", "CREATE TABLE mark (release TEXT NOT NULL);\n");
        let (bytes, number, release) = ([[0; 2]; 2], 0, String::new());
        let mut fleet = Self { hosts, links, machine, bytes, number, release, _state: repository, _ssh: ssh };
        // The first run sends the agent; the second one is as all that follow.
        for _ in 0..2 {
            fleet.begin_release();
            fleet.links.iter().map(HostLink::take_passed).for_each(|_| ());
            let output = fleet.deploy();
            ensure!(output.code == Some(0), "undisturbed, it ended with {:?}:\n{}", output.code, output.stderr);
            fleet.bytes = [fleet.links[0].take_passed(), fleet.links[1].take_passed()];
        }
        Ok(fleet)
    }

    /// The byte at this part of all that go in a direction.
    pub(super) fn point(&self, host: usize, direction: LinkDirection, part: f64) -> LinkPoint {
        LinkPoint { host, direction, byte: (part * self.bytes[host][direction as usize] as f64) as u64 }
    }

    /// Makes the next release, with a migration.
    pub(super) fn begin_release(&mut self) {
        self.number += 1;
        self.release = format!("r{}", self.number);
        self.machine.pack(&self.release);
        let mark = format!("INSERT INTO mark (release) VALUES ('{}');\n", self.release);
        self.machine.write(&format!("migrations/{:04}_mark.sql", self.number + 3), mark);
    }

    /// Deploys it once more, up to what is not made again by each run.
    pub(super) fn deploy_again(&self) -> RunnerOutput {
        self.machine.deploy(&self.release, &["--until", "switch"])
    }

    pub(super) fn deploy(&self) -> RunnerOutput {
        self.machine.deploy(&self.release, &[])
    }

    /// Starts a run, and waits until it is held at the point, or has ended.
    pub(super) fn start_and_hold(&self, point: LinkPoint) -> HeldRun<'_> {
        let link = &self.links[point.host];
        link.hold_after(point.direction, point.byte);
        let mut command = self.machine.command(&["--local", "--release", &self.release]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let began = Instant::now();
        let is_held = loop {
            assert!(began.elapsed() < RUN_TIMEOUT, "it neither came to its point nor ended");
            if link.wait_until_held(Duration::from_millis(20)) {
                break true;
            }
            if child.try_wait().unwrap().is_some() {
                break false;
            }
        };
        let moment = is_held.then(|| self.moment(point.host));
        if !is_held {
            link.end(crate::support::LinkEnd::Restored);
        }
        HeldRun { machine: &self.machine, child, moment }
    }

    /// What the run is at on a host, by the records of both sides.
    fn moment(&self, host: usize) -> String {
        let journals = [self.machine.path(".pawl"), self.machine.home("")].map(|folder| newest_journal(&folder));
        let events = journals.into_iter().flatten().map(|path| events(&path)).find(|events| self.is_of_release(events));
        let Some(ours) = events else { return "before the attempt".to_owned() };
        let targets = if host == 0 { &["web-1", "web"][..] } else { &["web-2"] };
        let is_here = |event: &&Value| targets.iter().any(|target| event["target"] == *target);
        let of_kind = |events: &[Value], kind: &str, intent: &Value| {
            events.iter().any(|event| {
                event["type"] == kind && event["step"] == intent["step"] && event["target"] == intent["target"]
            })
        };
        let mut intents = ours.iter().filter(is_here).filter(|event| event["type"] == "intent");
        let Some(open) = intents.rfind(|intent| !of_kind(&ours, "outcome", intent)) else {
            return "between calls".to_owned();
        };
        let theirs = self.host_journal(host).map(|path| self::events(&path)).unwrap_or_default();
        let theirs = if self.is_of_release(&theirs) { theirs } else { Vec::new() };
        let step = open["step"].as_str().unwrap_or_default();
        match (of_kind(&theirs, "intent", open), of_kind(&theirs, "outcome", open)) {
            (false, _) => format!("before {step}"),
            (true, false) => format!("during {step}"),
            (true, true) => format!("after {step}"),
        }
    }

    fn is_of_release(&self, events: &[Value]) -> bool {
        events.first().is_some_and(|started| started["release"]["label"] == *self.release)
    }

    /// The newest journal of a host's agent.
    pub(super) fn host_journal(&self, host: usize) -> Option<PathBuf> {
        let home = if rustix::process::geteuid().is_root() { "root" } else { "home/deploy" };
        newest_journal(&self.hosts[host].path(home).join(".local/state"))
    }

    /// What the agents recorded of this release, for the message of a failure.
    pub(super) fn host_records(&self) -> String {
        let shown = |host: usize| {
            let folder = self.host_journal(host).and_then(|path| Some(path.parent()?.to_owned()));
            let mut journals: Vec<PathBuf> = fs::read_dir(folder.unwrap_or_default())
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            journals.sort();
            let of_release = journals.iter().map(|path| events(path)).filter(|events| self.is_of_release(events));
            let line = |event: &Value| match event["type"].as_str() {
                Some("started") => format!("attempt {} of {}", event["attempt"], event["run"]),
                Some(kind @ ("intent" | "outcome")) => format!("{kind} {} {}", event["step"], event["target"]),
                _ => String::new(),
            };
            let lines: Vec<String> =
                of_release.flatten().map(|event| line(&event)).filter(|line| !line.is_empty()).collect();
            format!("host {host}: {}\n", lines.join(", "))
        };
        shown(0) + &shown(1)
    }

    /// The processes of agents on both hosts.
    pub(super) fn agents(&self) -> Vec<u32> {
        self.hosts.iter().flat_map(SshHost::agents).collect()
    }

    /// Waits until these agents have ended.
    pub(super) fn wait_until_gone(&self, agents: &[u32]) -> Result<()> {
        wait_until("the agents have ended", || !self.agents().iter().any(|agent| agents.contains(agent)));
        Ok(())
    }

    /// What a host's agent recorded as done for this release in a journal, as `switch web-1`, once it has ended.
    pub(super) fn wait_for_records(&self, host: usize, journal: Option<&Path>) -> Result<Vec<String>> {
        let Some(journal) = journal else { return Ok(Vec::new()) };
        let agents = self.hosts[host].agents();
        self.wait_until_gone(&agents)?;
        let events = events(journal);
        if !self.is_of_release(&events) {
            return Ok(Vec::new());
        }
        // A check that held is made again.
        let done = events.iter().filter(|event| {
            event["type"] == "outcome" && event["result"]["result"] == "succeeded" && event["step"] != "verify"
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(done.map(|event| format!("{} {}", text(&event["step"]), text(&event["target"]))).collect())
    }

    /// A machine that has nothing of what this one did.
    pub(super) fn another_machine(&self) -> TestEnvironment {
        self.machine.another_machine()
    }

    /// Deploys from that machine, or from this one.
    pub(super) fn deploy_from(&self, machine: Option<&TestEnvironment>) -> RunnerOutput {
        machine.unwrap_or(&self.machine).deploy(&self.release, &[])
    }

    pub(super) fn go_on_with(&mut self, machine: TestEnvironment) {
        self.machine = machine;
    }

    /// The release is there, and what must not happen twice has happened once.
    pub(super) fn check_effects(&self) -> Result<()> {
        for (number, host) in (1..).zip(&self.hosts) {
            let version = fs::read_to_string(host.path("srv/shop/current/VERSION"))?;
            ensure!(version == self.release, "web-{number} shows {version}");
            let restarts = fs::read_to_string(host.path("srv/shop/restarts"))?;
            let count = restarts.lines().filter(|line| *line == self.release).count();
            ensure!(count == 1, "web-{number} was restarted {count} times");
        }
        let database = rusqlite::Connection::open(self.hosts[0].path("srv/shop/shop.db"))?;
        let count: i64 =
            database.query_row("SELECT count(*) FROM mark WHERE release = ?", [&self.release], |row| row.get(0))?;
        ensure!(count == 1, "the migration was applied {count} times");
        ensure!(!self.hosts[1].path("srv/shop/shop.db").exists(), "web-2 migrated too");
        Ok(())
    }
}

impl HeldRun<'_> {
    /// Waits for its end.
    pub(super) fn wait(self) -> RunnerOutput {
        self.machine.output_of(self.child)
    }

    /// Kills it.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills its ssh to this port. Returns whether there was one.
    pub(super) fn kill_ssh(&self, port: u16) -> bool {
        kill_children(self.child.id(), |command| command.contains(&format!("-p {port} "))) == 1
    }
}

/// The journal that was written last below a folder.
fn newest_journal(folder: &Path) -> Option<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(path),
                Ok(metadata) if name.starts_with("attempt-") && name.ends_with(".journal") => {
                    found.push((metadata.modified().ok(), path));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    found.into_iter().max().map(|(_, path)| path)
}

/// The events of a journal, without a line that is being written.
fn events(journal: &Path) -> Vec<Value> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.split_once(' ')?.1).ok());
    lines.map(|mut line| line["event"].take()).collect()
}
