//! `hosts`: a release on 1, 8 and 100 hosts, beside what people deploy to hosts with; and on 1,000 that are doubles.
//!
//! Each tool unpacks the same archive on each host, switches a link and checks a file. Rounds are interleaved; wall times are medians. What
//! else a tool takes is measured in one more run, since measuring it takes time too. Deliberately absent: a network with latency.

pub(crate) mod double;
mod meter;
mod network;
mod peers;
mod releases;
mod table;

#[path = "../../../../tests/support/host_root.rs"]
#[expect(
    clippy::unwrap_used,
    dead_code,
    reason = "the tests use all of it; what they make is well formed, or they fail"
)]
mod host_root;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use self::{
    meter::{RunCost, metered, timed},
    network::BenchHosts,
    peers::{FleetTool, FleetWork, ToolsFolder},
    table::{HostAim, HostRow},
};
use super::{BenchOptions, median};
use crate::{
    setup::{self, FLEET_TOOLS},
    workspace,
};

/// How often each tool is timed, when its first run is fast, and when it is slow.
const ROUNDS: usize = 9;
const SLOW_ROUNDS: usize = 3;
const SLOW: Duration = Duration::from_secs(3);
/// The hosts of a small fleet, and of a large one; the doubles.
const SMALL: usize = 8;
const LARGE: (usize, usize) = (100, 20);
const DOUBLES: (usize, usize) = (1_000, 100);
/// What a double waits before each answer.
const LATENCY: Duration = Duration::from_millis(20);

const MAX_MEMORY: u64 = 256 << 20;
const MAX_CPU: Duration = Duration::from_secs(60);

/// Fleets of hosts, and what is measured on them.
struct HostsBench {
    runner: PathBuf,
    quick: bool,
    rows: Vec<HostRow>,
}

/// Hosts with the tools that deploy to them.
struct BenchedFleet {
    hosts: BenchHosts,
    tools: ToolsFolder,
    folder: tempfile::TempDir,
    /// How many releases there were.
    number: u64,
}

pub(super) fn run(runner: &Path, BenchOptions { write, quick, .. }: BenchOptions) -> Result<()> {
    setup::ensure(&FLEET_TOOLS)?;
    let mut bench = HostsBench { runner: runner.to_owned(), quick, rows: Vec::new() };
    bench.measure_small_fleets()?;
    bench.measure_large_fleet()?;
    bench.measure_doubles()?;
    let table = table::render(&bench.rows);
    println!("\n{table}");
    if write {
        let path = workspace::root().join("docs/benchmarks.md");
        let old = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        fs::write(&path, table::update(&old, &table)).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

impl BenchedFleet {
    fn start(count: usize, runner: &Path) -> Result<Self> {
        println!("starting {count} hosts");
        let (hosts, folder) = (BenchHosts::start(count)?, tempfile::tempdir()?);
        let tools = ToolsFolder::new(folder.path(), runner, &hosts)?;
        Ok(Self { hosts, tools, folder, number: 0 })
    }

    /// Makes the next release.
    fn next_release(&mut self, is_large: bool) -> Result<String> {
        self.number += 1;
        let release = format!("r{}", self.number);
        if is_large {
            releases::pack_large(self.folder.path(), &release, self.number)?;
        } else {
            releases::pack_small(self.folder.path(), &release)?;
        }
        Ok(release)
    }

    /// Fails unless the tool has deployed the release to every host.
    fn check(&self, tool: FleetTool, release: &str) -> Result<()> {
        for index in 0..self.hosts.hosts.len() {
            let current = self.hosts.path_on(index, tool.folder()).join("current");
            let folder = fs::read_link(&current).with_context(|| format!("{} has no release", tool.name()))?;
            // It may lead to the host's own root.
            let name = folder.file_name().context("the link leads to a folder")?;
            let version = current.with_file_name("releases").join(name).join("VERSION");
            let shown = fs::read_to_string(&version).with_context(|| version.display().to_string())?;
            ensure!(shown == release, "{} shows {shown} on host {index}, not {release}", tool.name());
        }
        Ok(())
    }

    /// Each tool does the work in turn; its costs.
    fn compare(&mut self, tools: &[FleetTool], work: FleetWork, is_large: bool, quick: bool) -> Result<Vec<RunCost>> {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); tools.len()];
        let most = if quick { SLOW_ROUNDS } else { ROUNDS };
        let mut release = format!("r{}", self.number);
        let mut costs = vec![RunCost::default(); tools.len()];
        for round in 0..=most {
            if work == FleetWork::NewRelease {
                release = self.next_release(is_large)?;
            }
            for ((tool, times), cost) in tools.iter().zip(&mut times).zip(&mut costs) {
                let is_enough = times.len() >= SLOW_ROUNDS && times.iter().sum::<Duration>() > SLOW * 3;
                let mut command = self.tools.command(*tool, work, &release)?;
                // The first round warms up, the second one is metered.
                match round {
                    0 => drop(timed(&mut command)?),
                    _ if is_enough => continue,
                    1 => *cost = metered(&command, Some(&self.hosts))?,
                    _ => times.push(timed(&mut command)?),
                }
                self.check(*tool, &release)?;
            }
        }
        for (cost, times) in costs.iter_mut().zip(times) {
            cost.wall = median(times);
        }
        Ok(costs)
    }
}

impl HostsBench {
    fn add(&mut self, work: &str, tool: FleetTool, cost: RunCost, aims: Vec<HostAim>) {
        let row = HostRow { work: work.to_owned(), tool, cost, aims };
        println!("{row}");
        self.rows.push(row);
    }

    /// Adds a row for each tool; `aims` are ours.
    fn add_all(&mut self, work: &str, tools: &[FleetTool], costs: &[RunCost], aims: &[HostAim]) {
        for (tool, cost) in tools.iter().zip(costs) {
            let aims = if *tool == FleetTool::Ours { aims.to_vec() } else { Vec::new() };
            self.add(work, *tool, *cost, aims);
        }
    }

    fn measure_small_fleets(&mut self) -> Result<()> {
        let (all, few) = (FleetTool::ALL, [FleetTool::Ours, FleetTool::Floor]);
        let mut one = BenchedFleet::start(1, &self.runner)?;
        let release = one.next_release(false)?;
        let first = metered(&one.tools.command(FleetTool::Ours, FleetWork::NewRelease, &release)?, Some(&one.hosts))?;
        self.add("the first of all, 1 host: it gets the agent", FleetTool::Ours, first, Vec::new());
        let costs = one.compare(&all, FleetWork::NewRelease, false, self.quick)?;
        self.add_all("a small release, 1 host", &all, &costs, &release_aims(&costs));
        drop(one);

        let mut fleet = BenchedFleet::start(SMALL, &self.runner)?;
        let costs = fleet.compare(&all, FleetWork::NewRelease, false, self.quick)?;
        self.add_all(&format!("a small release, {SMALL} hosts"), &all, &costs, &release_aims(&costs));
        let costs = fleet.compare(&all, FleetWork::NothingToDo, false, self.quick)?;
        let aims = [HostAim::Times(1.0, "bash", costs[1].wall), HostAim::WithinTime(Duration::from_secs(1))];
        self.add_all(&format!("all skipped, {SMALL} hosts"), &all, &costs, &aims);

        let tools = if self.quick { &few[..] } else { &all[..] };
        let costs = fleet.compare(tools, FleetWork::NewRelease, true, true)?;
        let whole = fs::metadata(fleet.folder.path().join(format!("dist/shop-r{}.tar.gz", fleet.number)))?.len();
        let aims = [HostAim::Times(0.5, "bash", costs[1].wall), HostAim::Part(0.05, whole)];
        let work = format!("50 MB, of which 2 % changed, {SMALL} hosts");
        self.add_all(&work, tools, &costs, &aims);
        Ok(())
    }

    fn measure_large_fleet(&mut self) -> Result<()> {
        let count = if self.quick { LARGE.1 } else { LARGE.0 };
        let mut fleet = BenchedFleet::start(count, &self.runner)?;
        self.share_agent(&fleet)?;
        let tools = [FleetTool::Ours, FleetTool::Floor, FleetTool::Ansible];
        let costs = fleet.compare(&tools, FleetWork::NewRelease, false, true)?;
        self.add_all(&format!("a small release, {count} hosts"), &tools, &costs, &[HostAim::WithinMemory(MAX_MEMORY)]);
        let skipped = fleet.compare(&tools[..2], FleetWork::NothingToDo, false, true)?;
        self.add_all(&format!("all skipped, {count} hosts"), &tools[..2], &skipped, &[]);
        Ok(())
    }

    /// Puts the agent on all hosts, as a deployment to the first one has put it there: the disk is to have it once.
    fn share_agent(&self, fleet: &BenchedFleet) -> Result<()> {
        let (one, release) = (tempfile::tempdir()?, "r0".to_owned());
        let tools = ToolsFolder::for_first(one.path(), &self.runner, &fleet.hosts, 1)?;
        releases::pack_small(one.path(), &release)?;
        timed(&mut tools.command(FleetTool::Ours, FleetWork::NewRelease, &release)?)?;
        let folder = fleet.hosts.path_on(0, "root").join(".cache/pawl");
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
            for host in (1..fleet.hosts.hosts.len()).filter(|_| name.starts_with("agent-")) {
                let to = fleet.hosts.path_on(host, "root").join(".cache/pawl");
                fs::create_dir_all(&to)?;
                fs::hard_link(&path, to.join(&name))?;
            }
        }
        // What it deployed there is no part of any history.
        fs::remove_dir_all(fleet.hosts.path_on(0, "root").join(".local"))?;
        Ok(())
    }

    fn measure_doubles(&mut self) -> Result<()> {
        let all = if self.quick { DOUBLES.1 } else { DOUBLES.0 };
        for count in [all / 10, all] {
            let folder = tempfile::tempdir()?;
            fs::write(folder.path().join("deploy.yml"), double::plan(count))?;
            let mut command = double::command(&self.runner, folder.path(), LATENCY)?;
            command.args(["--local", "--release", "r1"]).current_dir(folder.path()).env("HOME", folder.path());
            let cost = metered(&command, None)?;
            let name = format!("a step on {count} doubles, which answer after {} ms", LATENCY.as_millis());
            self.add(&name, FleetTool::Ours, cost, vec![HostAim::WithinCpu(MAX_CPU)]);
        }
        Ok(())
    }
}

/// Of a small release: as fast as bash, and 15 times as fast as ansible.
fn release_aims(costs: &[RunCost]) -> [HostAim; 2] {
    let [_, floor, ansible, ..] = costs else { unreachable!("all tools are compared") };
    [HostAim::Times(1.0, "bash", floor.wall), HostAim::Times(1.0 / 15.0, "ansible", ansible.wall)]
}
