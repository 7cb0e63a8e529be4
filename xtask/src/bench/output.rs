//! `output`: how soon the lines of a program of a minute are seen, in each place that shows them; and what 100 MB of output cost.
//!
//! Each line says when it was printed, and the reader compares that with its clock: the largest difference counts. Beside it is the
//! same program, read directly. Deliberately absent: what a terminal draws at the bottom; it is drawn twenty times a second.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{BenchRow, BenchTarget, interleaved_medians, wall_time};

/// The longest time from a line's print to its reader.
const MAX_LATENCY: Duration = Duration::from_millis(200);

/// The lines of the program, one each 100 ms, for a minute.
const LINES: usize = 600;

/// Python's own print loop: in a pipe it would hold lines back, on a terminal it does not.
const PRINT_LOOP: &str = "import time\nfor _ in range(600):\n    print('tick', time.time())\n    time.sleep(0.1)\n";

/// A shell's, which holds nothing back.
const SHELL_LOOP: &str = "i=0; while [ $i -lt 600 ]; do date '+tick %s.%N'; sleep 0.1; i=$((i+1)); done\n";

/// 100 MB in lines of 80 bytes, over 10 s.
const FLOOD: &str = "import sys, time\nstart, part = time.time(), ('x' * 79 + '\\n') * 12500\nfor i in range(100):\n    \
                     sys.stdout.write(part)\n    sys.stdout.flush()\n    time.sleep(max(0, start + (i + 1) * 0.1 - time.time()))\n";

/// 5 % of the time that it takes to a file.
const MAX_FLOOD_OVERHEAD: Duration = Duration::from_millis(500);

/// The most memory of the runner meanwhile, in bytes.
const MAX_MEMORY_BYTES: u64 = 64 << 20;

const FLOOD_ROUNDS: usize = 3;

pub(super) fn rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let mut rows = latency_rows(runner)?;
    let folder = plan("flood.py", FLOOD, "")?;
    let to_file = || {
        let file = fs::File::create(folder.path().join("output"))?;
        let mut child = Command::new(python()?).arg("flood.py").current_dir(folder.path()).stdout(file).spawn()?;
        let began = Instant::now();
        ensure!(child.wait()?.success(), "the program failed");
        Ok(began.elapsed())
    };
    rows.push(BenchRow {
        name: "100 MB of output over 10 s · to a file".to_owned(),
        ours: Duration::ZERO,
        theirs: Duration::ZERO,
        target: BenchTarget::Overhead(MAX_FLOOD_OVERHEAD),
    });
    let flooded = interleaved_medians(FLOOD_ROUNDS, || wall_time(&mut deploy(runner, folder.path(), &[])), to_file)?;
    if let Some(row) = rows.last_mut() {
        (row.ours, row.theirs) = flooded;
    }
    rows.push(BenchRow {
        name: "100 MB of output, most memory of the runner".to_owned(),
        ours: Duration::ZERO,
        theirs: Duration::ZERO,
        target: BenchTarget::Bytes {
            largest: peak_memory(&mut deploy(runner, folder.path(), &[]))?,
            limit: MAX_MEMORY_BYTES,
        },
    });
    Ok(rows)
}

fn latency_rows(runner: &Path) -> Result<Vec<BenchRow>> {
    let mut direct = Command::new("/bin/sh").args(["-c", SHELL_LOOP]).stdout(Stdio::piped()).spawn()?;
    let theirs = largest_latency(direct.stdout.take().context("it is piped")?)?;
    direct.wait()?;
    let row = |place: &str, ours: Duration| BenchRow {
        name: format!("a line of a program of a minute, {place} · read directly"),
        ours,
        theirs,
        target: BenchTarget::WallTime(MAX_LATENCY),
    };

    let shell = plan("loop.sh", SHELL_LOOP, "")?;
    let mut piped = deploy(runner, shell.path(), &[]).stderr(Stdio::piped()).spawn()?;
    let stderr = piped.stderr.take().context("it is piped")?;
    let reading = thread::spawn(move || largest_latency(stderr));
    let follower = follow(runner, shell.path())?;
    let followed = largest_latency(follower)?;
    let in_pipe = joined(reading)?;
    ensure!(piped.wait()?.success(), "the deployment failed");

    let python = plan("loop.py", PRINT_LOOP, ", tty: true")?;
    let mut job = deploy(runner, python.path(), &[]);
    let mut job = job.env("GITHUB_ACTIONS", "true").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let in_group = largest_latency(job.stdout.take().context("it is piped")?)?;
    ensure!(job.wait()?.success(), "the deployment failed");

    let terminal = plan("loop.py", PRINT_LOOP, ", tty: true")?;
    let mut on_terminal = on_terminal(runner, terminal.path())?;
    let drawn = largest_latency(on_terminal.stdout.take().context("it is piped")?)?;
    ensure!(on_terminal.wait()?.success(), "the deployment failed");
    Ok(vec![
        row("in a pipe", in_pipe),
        row("in `logs --follow`", followed),
        row("python with `tty`, in a job's group", in_group),
        row("python with `tty`, on a terminal", drawn),
    ])
}

fn joined<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?
}

/// Starts to follow a deployment, once it has begun.
fn follow(runner: &Path, folder: &Path) -> Result<ChildStdout> {
    let began = Instant::now();
    while !folder.join(".pawl/output/default/attempt-000001.log").exists() {
        ensure!(began.elapsed() < Duration::from_secs(30), "the program printed nothing");
        thread::sleep(Duration::from_millis(10));
    }
    let mut command = Command::new(runner);
    let follower = command.args(["logs", "--follow"]).current_dir(folder).stdout(Stdio::piped()).spawn()?;
    follower.stdout.context("it is piped")
}

/// The runner on a terminal of Python's, which passes on what it shows.
fn on_terminal(runner: &Path, folder: &Path) -> Result<Child> {
    let mut command = Command::new(python()?);
    command.args(["-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"]).arg(runner);
    command.args(["--local", "--release", "r1", "-v"]).current_dir(folder).env("TERM", "xterm");
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

/// The largest time from a line's print to its arrival here.
fn largest_latency(stream: impl Read) -> Result<Duration> {
    let (mut largest, mut count) = (Duration::ZERO, 0);
    for line in BufReader::new(stream).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        let Some(printed) = line.rsplit_once("tick ").and_then(|(_, time)| time.trim().parse::<f64>().ok()) else {
            continue;
        };
        #[expect(clippy::disallowed_methods, reason = "the program that is measured reads the same clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        largest = largest.max(now.saturating_sub(Duration::from_secs_f64(printed)));
        count += 1;
    }
    ensure!(count == LINES, "{count} of {LINES} lines came");
    Ok(largest)
}

/// The largest resident memory of a process, which must succeed.
pub(super) fn peak_memory(command: &mut Command) -> Result<u64> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = peak.max(kilobytes.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) << 10);
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(peak > 0, "the runner's memory can't be read");
    Ok(peak)
}

fn deploy(runner: &Path, folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(runner);
    command.args(["--local", "--release", "r1"]).args(more).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn python() -> Result<&'static str> {
    let known = ["/usr/bin/python3", "/usr/local/bin/python3"];
    known.into_iter().find(|path| Path::new(path).exists()).context("python3 is missing: `cargo xtask setup`")
}

/// A plan whose one step runs a script.
fn plan(name: &str, script: &str, with: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let program = if name.ends_with(".py") { python()? } else { "/bin/sh" };
    fs::write(folder.path().join(name), script)?;
    fs::write(
        folder.path().join("deploy.yml"),
        format!(
            "version: 1\napp: output\nsteps:\n  run:\n    uses: run\n    trust: host\n    with: {{ program: {program}, args: [{name}], \
             dir: work, repeatable: true{with} }}\n    grants: {{ dirs: {{ work: \".:ro\" }}, programs: [[{program}, {name}]], \
             env: {{ PATH: /usr/bin:/bin }} }}\n"
        ),
    )?;
    Ok(folder)
}
