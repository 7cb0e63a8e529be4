//! `growth`: what commands cost after 10, 1,000 and 10,000 attempts, with each kind of state.
//!
//! Shops with histories of each length lie side by side, and rounds are interleaved between them, so that all see the same machine.
//! Remotes are on the same disk; what goes to them and comes from them is counted by a proxy, in a round that is not timed.
//! Deliberately absent: thousands of real deployments. An example of the runner's writes the journals, and the runner does the rest.

mod shop;
mod table;
mod traffic;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use self::{
    shop::{BenchedRunner, GrownShop, StateServer},
    table::{GrowthAim, GrowthRow, Measured},
    traffic::Traffic,
};
use super::median;
use crate::{
    setup::{self, STATE_AND_ACT, SetupNeed, TOOLS},
    workspace,
};

/// How many attempts the histories have.
const LENGTHS: [u64; 3] = [10, 1_000, 10_000];
/// The same for `--quick`: with two archives at most.
const QUICK_LENGTHS: [u64; 3] = [10, 300, 600];
const ROUNDS: usize = 11;
/// So many where one round of all histories takes longer than [`SLOW`].
const FEW_ROUNDS: usize = 3;
const SLOW: Duration = Duration::from_secs(2);
/// The most that a command may cost after the longest history, beside its cost after the shortest.
const MAX_GROWTH: f64 = 1.5;
/// The most that a deployment may push to a git host.
const MAX_PUSHED_BYTES: u64 = 64 * 1024;
/// The most requests of a new machine to a bucket.
const MAX_REQUESTS: u64 = 6;

/// Where the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StateKind {
    Folder,
    Git,
    Bucket,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GrowthCommand {
    Status,
    History,
    Why,
    SkippedDeployment,
    NewRelease,
    StatusOnNewMachine,
}

impl StateKind {
    const ALL: [Self; 3] = [Self::Folder, Self::Git, Self::Bucket];

    fn prefix(self) -> &'static str {
        match self {
            Self::Folder => "dir:",
            Self::Git => "git:",
            Self::Bucket => "s3:",
        }
    }
}

impl GrowthCommand {
    const ALL: [Self; 6] =
        [Self::Status, Self::History, Self::Why, Self::SkippedDeployment, Self::NewRelease, Self::StatusOnNewMachine];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::History => "history",
            Self::Why => "why",
            Self::SkippedDeployment => "deploy, all skipped",
            Self::NewRelease => "deploy of a new release",
            Self::StatusOnNewMachine => "status on a new machine",
        }
    }

    fn aim(self, kind: StateKind) -> GrowthAim {
        match (kind, self) {
            (StateKind::Folder | StateKind::Bucket, _) => GrowthAim::Ratio(MAX_GROWTH),
            (StateKind::Git, Self::SkippedDeployment | Self::NewRelease) => GrowthAim::Time(Duration::from_millis(300)),
            (StateKind::Git, Self::StatusOnNewMachine) => GrowthAim::Time(Duration::from_secs(1)),
            (StateKind::Git, Self::Status | Self::History | Self::Why) => GrowthAim::Ratio(MAX_GROWTH),
        }
    }
}

/// Measures this runner, or another one, and puts the table into docs/benchmarks.md, if asked.
pub(crate) fn run(other: Option<&Path>, is_quick: bool, write: bool) -> Result<()> {
    let needs: Vec<SetupNeed> = [SetupNeed::GuestToolchain].into_iter().chain(TOOLS).chain(STATE_AND_ACT).collect();
    setup::ensure(&needs)?;
    let runner = match other {
        Some(other) => other.to_owned(),
        None => build()?,
    };
    let writer = runner.with_file_name("examples").join("history");
    ensure!(
        writer.is_file(),
        "{} is missing: this checkout's `cargo build --release --examples` makes it",
        writer.display()
    );
    let tools = BenchedRunner { runner, writer };
    let lengths = if is_quick { QUICK_LENGTHS } else { LENGTHS };
    let mut rows = Vec::new();
    for kind in StateKind::ALL {
        rows.extend(measure(kind, &tools, &lengths)?);
    }
    let table = table::render(&lengths, &rows);
    println!("\n{table}");
    if write {
        let path = workspace::root().join("docs/benchmarks.md");
        let old = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        fs::write(&path, table::update(&old, &table)).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// Builds the runner and the example that makes histories. Returns the runner.
fn build() -> Result<PathBuf> {
    let runner = workspace::target_dir()?.join(workspace::RUNNER);
    workspace::announce("the runner (release)", workspace::FIRST_BUILD, &runner);
    workspace::run(workspace::cargo().args(["build", "--release", "--workspace", "--bins", "--examples"]))?;
    Ok(runner)
}

fn measure(kind: StateKind, tools: &BenchedRunner, lengths: &[u64]) -> Result<Vec<GrowthRow>> {
    let server = StateServer::start(kind)?;
    let mut shops = Vec::new();
    for length in lengths {
        println!("{} {length} attempts", kind.prefix());
        shops.push(GrownShop::grow(&server, tools, *length)?);
    }
    let mut rows = Vec::new();
    for command in GrowthCommand::ALL {
        if kind == StateKind::Folder && command == GrowthCommand::StatusOnNewMachine {
            continue;
        }
        let name = format!("{} {}", kind.prefix(), command.name());
        println!("measuring {name}");
        let values = interleaved(&mut shops, |shop| shop.time(command))?.into_iter().map(Measured::Time).collect();
        let row = GrowthRow { name, values, aim: command.aim(kind) };
        println!("{row}");
        rows.push(row);
    }
    if kind != StateKind::Folder {
        rows.extend(traffic_rows(kind, &mut shops)?);
    }
    Ok(rows)
}

/// The median of each shop. One round is not counted.
fn interleaved(
    shops: &mut [GrownShop],
    mut time: impl FnMut(&mut GrownShop) -> Result<Duration>,
) -> Result<Vec<Duration>> {
    let mut first = Duration::ZERO;
    for shop in shops.iter_mut() {
        first += time(shop)?;
    }
    let rounds = if first > SLOW { FEW_ROUNDS } else { ROUNDS };
    let mut times = vec![Vec::new(); shops.len()];
    for _ in 0..rounds {
        for (shop, times) in shops.iter_mut().zip(&mut times) {
            times.push(time(shop)?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

/// What a deployment and a new machine exchange with the remote.
fn traffic_rows(kind: StateKind, shops: &mut [GrownShop]) -> Result<Vec<GrowthRow>> {
    let mut counted =
        |command: GrowthCommand| -> Result<Vec<Traffic>> { shops.iter_mut().map(|shop| shop.count(command)).collect() };
    let (deployments, machines) = (counted(GrowthCommand::NewRelease)?, counted(GrowthCommand::StatusOnNewMachine)?);
    let row = |name: &str, from: &[Traffic], value: &dyn Fn(&Traffic) -> Measured, aim: GrowthAim| GrowthRow {
        name: format!("{} {name}", kind.prefix()),
        values: from.iter().map(value).collect(),
        aim,
    };
    let sent = |traffic: &Traffic| Measured::Bytes(traffic.sent);
    let received = |traffic: &Traffic| Measured::Bytes(traffic.received);
    Ok(match kind {
        StateKind::Folder => Vec::new(),
        StateKind::Git => vec![
            row("pushed by a deployment of a new release", &deployments, &sent, GrowthAim::Bytes(MAX_PUSHED_BYTES)),
            row("objects in it", &deployments, &|traffic| Measured::Count(traffic.objects), GrowthAim::None),
            row("pushes in it", &deployments, &|traffic| Measured::Count(traffic.packs), GrowthAim::None),
            row("received by a new machine", &machines, &received, GrowthAim::None),
        ],
        StateKind::Bucket => vec![
            row("sent by a deployment of a new release", &deployments, &sent, GrowthAim::None),
            row("requests of it", &deployments, &|traffic| Measured::Count(traffic.requests), GrowthAim::None),
            row(
                "requests of a new machine",
                &machines,
                &|traffic| Measured::Count(traffic.requests),
                GrowthAim::Count(MAX_REQUESTS),
            ),
            row("received by a new machine", &machines, &received, GrowthAim::None),
        ],
    })
}
