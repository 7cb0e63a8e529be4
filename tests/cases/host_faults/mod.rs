//! The connection with a host fails at a chosen byte, or the coordinator is killed there; then one more run must end where an undisturbed
//! one does. Nothing runs twice that must not, and what a host recorded is not lost.
//!
//! Points are chosen by a seed, which is printed: `PAWL_SEED=…` repeats a run, and `PAWL_POINTS=all` takes 100 and 40 points
//! (`cargo xtask bench faults`). Deliberately absent: hosts that die, whose programs have unknown outcomes.

mod fleet;
#[path = "../../kills/rng.rs"]
pub(super) mod rng;

use std::{
    collections::BTreeMap,
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    fleet::{FaultyFleet, LinkPoint},
    rng::SplitMix64,
};
use crate::support::{LinkDirection, LinkEnd, RunnerOutput};

/// How many cuts, and how many of them when not all are taken.
const CUTS: (usize, usize) = (100, 10);
/// How many kills.
const KILLS: (usize, usize) = (40, 6);
/// How many fleets are disturbed at the same time: most of the time, they wait.
const LANES: (usize, usize) = (4, 2);
/// Points are so fine.
const POINT_PARTS: usize = 1_000_000;
/// After the death of its coordinator, an agent has ended within 10 s; a busy machine takes a little longer to see that.
const MAX_AGENT_LIFE: Duration = Duration::from_millis(10_500);

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionCut {
    Closed,
    ClientKilled,
    ServerKilled,
    /// Closed, and nobody can connect until the coordinator has given up.
    ClosedForLong,
    /// Nothing arrives any more.
    Silent,
}

const CUT_KINDS: [ConnectionCut; 5] = [
    ConnectionCut::Closed,
    ConnectionCut::ClientKilled,
    ConnectionCut::ServerKilled,
    ConnectionCut::ClosedForLong,
    ConnectionCut::Silent,
];

/// What chance has chosen.
#[derive(Clone, Copy, Debug)]
struct FaultCase {
    number: usize,
    host: usize,
    direction: LinkDirection,
    /// Which part of the bytes of an undisturbed run have passed.
    part: f64,
    /// Whether the next run is on another machine.
    elsewhere: bool,
}

impl FaultCase {
    fn choose(number: usize, part: usize, rng: &mut SplitMix64) -> Self {
        let direction = if rng.below(2) == 0 { LinkDirection::ToHost } else { LinkDirection::FromHost };
        // Most points are in the second half: before it, nothing has begun.
        let part = 1.0 - (1.0 - part as f64 / POINT_PARTS as f64).powi(2);
        Self { number, host: rng.below(2), direction, part, elsewhere: rng.below(2) == 0 }
    }
}

/// Main property: wherever a connection is cut, at most one more run is needed, and each step ran once.
#[test]
fn a_cut_connection_needs_at_most_one_more_run() -> Result<()> {
    check_points("cuts of a host's connection", CUTS, "", |fleet, case, point| {
        cut(fleet, CUT_KINDS[case.number % CUT_KINDS.len()], point)
    })
}

/// Main property: wherever the coordinator is killed, its agents end or record, and the next run, on this machine or another, adopts.
#[test]
fn a_killed_coordinator_is_continued_by_the_next_run() -> Result<()> {
    check_points("kills of a coordinator", KILLS, "git", |fleet, case, point| {
        kill_coordinator(fleet, point, case.elsewhere)
    })
}

/// The connection ends before a call arrives that must not run twice, and nobody can connect again: the next run makes it.
#[test]
fn a_call_that_never_arrived_is_in_no_doubt() -> Result<()> {
    let mut fleet = FaultyFleet::new("")?;
    // Around where it was when this was written; a call is longer than these steps.
    for part in [0.82, 0.79, 0.85, 0.76, 0.88, 0.73, 0.91, 0.7, 0.94, 0.67, 0.97, 0.64] {
        let point = fleet.point(1, LinkDirection::ToHost, part);
        if cut(&mut fleet, ConnectionCut::ClosedForLong, point)? == "before restart" {
            return Ok(());
        }
    }
    bail!("no point was before the call")
}

/// Disturbs fleets at points that are chosen by a seed, each with a new release. All are tried before it fails.
fn check_points(
    what: &str,
    (all, sample): (usize, usize),
    state: &str,
    disturb: impl Fn(&mut FaultyFleet, &FaultCase, LinkPoint) -> Result<String> + Sync,
) -> Result<()> {
    let (began, seed) = (Instant::now(), rng::seed_from_env()?);
    let (count, lanes) = if wants_every_point() { (all, LANES.0) } else { (sample, LANES.1) };
    let mut rng = SplitMix64::new(seed);
    let points = rng.choose_distinct(count, POINT_PARTS).into_iter().enumerate();
    let cases: Vec<FaultCase> = points.map(|(number, part)| FaultCase::choose(number, part, &mut rng)).collect();
    let run_lane = |lane: usize| -> Result<Vec<Result<String>>> {
        let mut fleet = FaultyFleet::new(state)?;
        let run_case = |case: &FaultCase| {
            let point = fleet.point(case.host, case.direction, case.part);
            disturb(&mut fleet, case, point).with_context(|| format!("{case:?} at {point:?}"))
        };
        Ok(cases.iter().filter(|case| case.number % lanes == lane).map(run_case).collect())
    };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..lanes).map(|lane| scope.spawn(move || run_lane(lane))).collect();
        started.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let (mut moments, mut failures) = (BTreeMap::new(), Vec::new());
    for ended in ended.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        match ended {
            Ok(moment) => *moments.entry(moment).or_insert(0) += 1,
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let failed = failures.len();
    let moments: Vec<String> = moments.into_iter().map(|(moment, count)| format!("{count} {moment}")).collect();
    let took = began.elapsed().as_secs_f64();
    let mut terminal = std::io::stderr().lock();
    let shown = moments.join(", ");
    writeln!(terminal, "{what}: {count} cases, {failed} failed, {took:.1} s, PAWL_SEED={seed}; {shown}")?;
    ensure!(failed == 0, "{failed} {what} failed, PAWL_SEED={seed}:\n\n{}", failures.join("\n\n"));
    Ok(())
}

/// Cuts the connection with a host; returns the moment.
fn cut(fleet: &mut FaultyFleet, cut: ConnectionCut, point: LinkPoint) -> Result<String> {
    fleet.begin_release();
    let run = fleet.start_and_hold(point);
    let Some(moment) = run.moment.clone() else {
        check_end(fleet, &run.wait())?;
        return Ok("after the end".to_owned());
    };
    let journal = fleet.host_journal(point.host);
    let (host, link) = (&fleet.hosts[point.host], &fleet.links[point.host]);
    match cut {
        ConnectionCut::Closed => link.end(LinkEnd::Closed),
        ConnectionCut::ClientKilled => {
            ensure!(run.kill_ssh(link.port()), "there is no ssh to kill, {moment}");
            link.end(LinkEnd::Restored);
        }
        ConnectionCut::ServerKilled => {
            host.cut_connections();
            link.end(LinkEnd::Restored);
        }
        ConnectionCut::ClosedForLong => {
            link.set_down(true);
            link.end(LinkEnd::Closed);
        }
        ConnectionCut::Silent => link.end(LinkEnd::Silent),
    }
    let first = run.wait();
    if cut == ConnectionCut::ClosedForLong {
        link.set_down(false);
    }
    let what = || format!("{cut:?} {moment}");
    ensure!(matches!(first.code, Some(0..=2)), "{}: exit {:?}\n{}", what(), first.code, first.stderr);
    let last = if first.code == Some(0) {
        first
    } else {
        let recorded = fleet.wait_for_records(point.host, journal.as_deref())?;
        let second = fleet.deploy();
        check_nothing_lost(&recorded, &second).with_context(|| format!("{}\nfirst run:\n{}", what(), first.stderr))?;
        second
    };
    check_end(fleet, &last).with_context(what)?;
    Ok(moment)
}

/// Kills the coordinator; the next run is on another machine, or on the same one at once. Returns the moment.
fn kill_coordinator(fleet: &mut FaultyFleet, point: LinkPoint, elsewhere: bool) -> Result<String> {
    fleet.begin_release();
    let run = fleet.start_and_hold(point);
    let Some(moment) = run.moment.clone() else {
        check_end(fleet, &run.wait())?;
        return Ok("after the end".to_owned());
    };
    let what = || format!("killed {moment}, {}", if elsewhere { "continued elsewhere" } else { "continued here" });
    let journals = [fleet.host_journal(0), fleet.host_journal(1)];
    let agents = fleet.agents();
    run.kill();
    let killed = Instant::now();
    fleet.links[point.host].end(LinkEnd::Restored);
    let next = elsewhere.then(|| fleet.another_machine());
    let (second, recorded) = std::thread::scope(|scope| {
        let running = scope.spawn(|| fleet.deploy_from(next.as_ref()));
        let ended = fleet.wait_until_gone(&agents);
        let life = killed.elapsed();
        let recorded = ended.and_then(|()| {
            ensure!(life < MAX_AGENT_LIFE, "the agents ended after {life:?}");
            let both = (0..2).map(|host| fleet.wait_for_records(host, journals[host].as_deref()));
            Ok(both.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>())
        });
        (running.join().unwrap(), recorded)
    });
    let recorded = recorded.with_context(what)?;
    check_nothing_lost(&recorded, &second).with_context(what)?;
    next.into_iter().for_each(|next| fleet.go_on_with(next));
    check_end(fleet, &second).with_context(what)?;
    Ok(moment)
}

/// What a host recorded as done is not done again.
fn check_nothing_lost(recorded: &[String], output: &RunnerOutput) -> Result<()> {
    let again: Vec<String> = output.decisions_on_targets();
    let lost: Vec<_> = recorded.iter().filter(|step| again.contains(&format!("{step} run"))).collect();
    ensure!(lost.is_empty(), "done again: {lost:?}\n{again:#?}\n{}", output.stderr);
    Ok(())
}

/// The run has succeeded, each step ran once, and one more run has nothing to do.
fn check_end(fleet: &FaultyFleet, last: &RunnerOutput) -> Result<()> {
    let decisions = || last.decisions_on_targets().join(", ");
    ensure!(
        last.code == Some(0),
        "the last run ended with {:?}:\n{}\ndecisions: {}\n{}",
        last.code,
        last.stderr,
        decisions(),
        fleet.host_records()
    );
    fleet.check_effects()?;
    let again = fleet.deploy_again();
    ensure!(again.code == Some(0), "one more run ended with {:?}:\n{}", again.code, again.stderr);
    let ran: Vec<_> =
        again.decisions_on_targets().into_iter().filter(|decision| !decision.ends_with(" skip")).collect();
    ensure!(ran.is_empty(), "one more run had something to do: {ran:?}");
    fleet.check_effects()
}

/// Whether PAWL_POINTS asks for every point.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn wants_every_point() -> bool {
    std::env::var("PAWL_POINTS").is_ok_and(|points| points == "all")
}
