//! Switches under load: a few, or as many and as long as `PAWL_MEASURE_SWITCHES=<seconds>` asks for (`cargo xtask bench switches`).
//!
//! What is measured is shown as the row of a table. First comes the same load for as long without a switch.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use crate::support::{ConstantTraffic, TrafficRate, TrafficReport};

/// How many switches are made in a test, and in a measurement.
const SWITCHES: (usize, usize) = (6, 50);
/// The least requests of a second that count as a load.
const REQUESTS: usize = 100;

/// How often the traffic is switched, and under which load.
#[derive(Clone, Copy)]
pub(in crate::cases) struct SwitchLoad {
    switches: usize,
    /// How long a measurement takes.
    over: Option<Duration>,
    rate: TrafficRate,
}

/// A way to move the traffic, for the table.
pub(in crate::cases) struct SwitchWay<'a> {
    /// The server in front and what is done to it.
    pub(in crate::cases) name: &'a str,
    /// Where the server listens.
    pub(in crate::cases) address: &'a str,
    /// What is answered before the first switch and after it.
    pub(in crate::cases) answers: [&'a str; 2],
}

impl SwitchLoad {
    pub(in crate::cases) fn from_env() -> Self {
        match measured_seconds() {
            Some(seconds) => Self {
                switches: SWITCHES.1,
                over: Some(Duration::from_secs(seconds)),
                rate: TrafficRate { clients: 2, pause: Duration::from_millis(2) },
            },
            None => Self {
                switches: SWITCHES.0,
                over: None,
                rate: TrafficRate { clients: 1, pause: Duration::from_millis(1) },
            },
        }
    }

    /// At most so many switches, when they take long.
    pub(in crate::cases) fn at_most(self, switches: usize) -> Self {
        Self { switches: self.switches.min(switches), ..self }
    }

    /// Whether other ways are measured too.
    pub(in crate::cases) fn is_measured(&self) -> bool {
        self.over.is_some()
    }

    /// Switches there and back, and shows what that costs. Fails if a request is lost, or if another release answers than should.
    #[track_caller]
    pub(in crate::cases) fn check(&self, way: &SwitchWay<'_>, switch: impl FnMut(&str)) {
        self.run(way, switch).assert_complete(REQUESTS);
    }

    /// Switches there and back, and shows what that costs.
    pub(in crate::cases) fn run(&self, way: &SwitchWay<'_>, mut switch: impl FnMut(&str)) -> TrafficReport {
        let [first, second] = way.answers;
        let undisturbed = self.over.map(|over| {
            let traffic = ConstantTraffic::start(way.address, self.rate, first);
            thread::sleep(over);
            traffic.stop()
        });
        let mut traffic = ConstantTraffic::start(way.address, self.rate, first);
        let (began, mut switches) = (Instant::now(), 0);
        // The last one leads back.
        while switches < self.switches && (switches % 2 == 1 || self.over.is_none_or(|over| began.elapsed() < over)) {
            let answer = [second, first][switches % 2];
            traffic.move_to(answer, || switch(answer));
            switches += 1;
            if let Some(over) = self.over {
                let due = over.mul_f64(switches as f64 / self.switches as f64);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        }
        let report = traffic.stop();
        if let Some(undisturbed) = undisturbed {
            undisturbed.assert_complete(REQUESTS);
            show(way.name, switches, &undisturbed, &report);
        }
        report
    }
}

/// A row of the table, for `cargo xtask bench switches`.
fn show(name: &str, switches: usize, undisturbed: &TrafficReport, report: &TrafficReport) {
    let times = [(&undisturbed.times, 50), (&undisturbed.times, 99), (&report.times, 99), (&report.times_in_moves, 99)];
    let times = times.map(|(times, percent)| {
        let at = times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        at.map_or_else(|| "–".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1000.0))
    });
    let (requests, lost, wrong) = (report.requests, report.lost.len(), report.wrong.len());
    let mut terminal = std::io::stderr().lock();
    for line in report.lost.iter().chain(&report.wrong).take(5) {
        writeln!(terminal, "{name}: {line}").unwrap();
    }
    writeln!(terminal, "switches: | {name} | {switches} | {requests} | {lost} | {wrong} | {} |", times.join(" | "))
        .unwrap();
}

#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
fn measured_seconds() -> Option<u64> {
    std::env::var("PAWL_MEASURE_SWITCHES").ok().map(|seconds| seconds.parse().expect("a number of seconds"))
}
