//! What a command and all its processes take: wall time, processor time, memory, and bytes on the network.
//!
//! Processor time is counted by a cgroup, so that a process that outlives the command, such as ssh's master, counts as well. Memory is
//! sampled: the proportional set sizes of all its processes, and what the first one has for itself.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::network::BenchHosts;
use crate::workspace::command_line;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Where cgroups are: of the second version, or of the first.
const UNIFIED: &str = "/sys/fs/cgroup";
const ACCOUNTING: &str = "/sys/fs/cgroup/cpuacct";

/// A cgroup that counts processor time.
pub(super) struct CpuAccount {
    folder: PathBuf,
}

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunCost {
    pub(super) wall: Duration,
    /// Of the command with all its processes, on this machine.
    pub(super) cpu: Duration,
    /// Of one host.
    pub(super) host_cpu: Duration,
    /// The most memory of all its processes at a time, in bytes.
    pub(super) memory: u64,
    /// The most memory of its first process.
    pub(super) own_memory: u64,
    /// To and from one host.
    pub(super) bytes: u64,
}

impl CpuAccount {
    pub(super) fn new(name: &str) -> Result<Self> {
        let parent =
            [ACCOUNTING, UNIFIED].map(PathBuf::from).into_iter().find(|path| path.join("cgroup.procs").exists());
        let folder = parent.context("there are no cgroups")?.join(format!("pawl-bench-{name}"));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder })
    }

    /// The same command, with its processes in here.
    pub(super) fn enter(&self, command: &Command) -> Command {
        // The command may have a `PATH` of its own.
        let mut inside = Command::new("/bin/sh");
        inside.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.folder);
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            inside.current_dir(folder);
        }
        // Cargo sets it for its own; nobody else's programs look for libraries in a dozen folders.
        inside.env_remove("LD_LIBRARY_PATH");
        inside
    }

    /// The processor time so far.
    pub(super) fn used(&self) -> Result<Duration> {
        if let Ok(nanoseconds) = fs::read_to_string(self.folder.join("cpuacct.usage")) {
            return Ok(Duration::from_nanos(nanoseconds.trim().parse()?));
        }
        let stat = fs::read_to_string(self.folder.join("cpu.stat"))?;
        let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(Duration::from_micros(used.context("cpu.stat has no usage_usec")?.trim().parse()?))
    }

    fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for CpuAccount {
    fn drop(&mut self) {
        // The kernel takes a moment to forget processes that have ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The wall time of a command that must succeed.
pub(super) fn timed(command: &mut Command) -> Result<Duration> {
    command.env_remove("LD_LIBRARY_PATH").stdin(Stdio::null());
    let began = Instant::now();
    let output = command.output().with_context(|| command_line(command))?;
    let took = began.elapsed();
    ensure!(
        output.status.success(),
        "`{}`: {}\n{}{}",
        command_line(command),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

/// All that a command takes. It is slower than [`timed`]: the memory is read all the time.
pub(super) fn metered(command: &Command, hosts: Option<&BenchHosts>) -> Result<RunCost> {
    let account = CpuAccount::new("tool")?;
    let before = hosts.map(|hosts| Ok::<_, anyhow::Error>((hosts.bytes()?, hosts.cpu.used()?))).transpose()?;
    let mut inside = account.enter(command);
    let began = Instant::now();
    let said = tempfile::NamedTempFile::new()?;
    let mut child = inside.stdin(Stdio::null()).stdout(said.reopen()?).stderr(said.reopen()?).spawn()?;
    let mut cost = RunCost::default();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let memory = |pid: u32| -> u64 {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
            kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) << 10
        };
        cost.own_memory = cost.own_memory.max(memory(child.id()));
        cost.memory = cost.memory.max(account.processes().into_iter().map(memory).sum());
        thread::sleep(SAMPLE_INTERVAL);
    };
    cost.wall = began.elapsed();
    ensure!(status.success(), "`{}`: {status}\n{}", command_line(command), fs::read_to_string(said.path())?);
    cost.cpu = account.used()?;
    if let (Some(hosts), Some((bytes, cpu))) = (hosts, before) {
        let count = hosts.hosts.len();
        cost.bytes = (hosts.bytes()? - bytes) / count as u64;
        cost.host_cpu = (hosts.cpu.used()? - cpu) / u32::try_from(count)?;
    }
    Ok(cost)
}
