//! The table of the bench of hosts, and its place in docs/benchmarks.md.

use std::{fmt, time::Duration};

use super::{meter::RunCost, peers::FleetTool};

const BEGIN: &str = "<!-- cargo xtask bench hosts --write: begin -->";
const END: &str = "<!-- cargo xtask bench hosts --write: end -->";
const HEADING: &str = "| Work | With | Time | CPU here | CPU of a host | Memory | Bytes of a host | Aim | Met |\n\
                       |---|---|---:|---:|---:|---:|---:|---|---|";

/// What a tool took for some work. The wall time is a median, the rest is of one run that is not timed.
pub(super) struct HostRow {
    pub(super) work: String,
    pub(super) tool: FleetTool,
    pub(super) cost: RunCost,
    pub(super) aims: Vec<HostAim>,
}

/// What is to hold of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum HostAim {
    /// It takes at most so many times as long as another tool takes.
    Times(f64, &'static str, Duration),
    WithinTime(Duration),
    /// The processor time here.
    WithinCpu(Duration),
    /// The memory of the coordinator itself, in bytes.
    WithinMemory(u64),
    /// The bytes of a host, as a part of these.
    Part(f64, u64),
}

impl HostAim {
    fn is_met(self, cost: &RunCost) -> bool {
        match self {
            Self::Times(most, _, theirs) => cost.wall.as_secs_f64() <= most * theirs.as_secs_f64(),
            Self::WithinTime(most) => cost.wall <= most,
            Self::WithinCpu(most) => cost.cpu <= most,
            Self::WithinMemory(most) => cost.own_memory <= most,
            Self::Part(most, whole) => cost.bytes as f64 <= most * whole as f64,
        }
    }
}

impl fmt::Display for HostAim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(most, name, _) => write!(f, "≤ {:.2}× {name}", most),
            Self::WithinTime(most) => write!(f, "≤ {}", time(*most)),
            Self::WithinCpu(most) => write!(f, "≤ {} of CPU", time(*most)),
            Self::WithinMemory(most) => write!(f, "the coordinator ≤ {}", bytes(*most)),
            Self::Part(most, whole) => write!(f, "≤ {:.0} % of {}", most * 100.0, bytes(*whole)),
        }
    }
}

impl fmt::Display for HostRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, tool, cost, aims } = self;
        let memory = match cost.own_memory {
            own if own < cost.memory && *tool == FleetTool::Ours => {
                format!("{}, {} of it its own", bytes(cost.memory), bytes(own))
            }
            _ => bytes(cost.memory),
        };
        write!(f, "| {work} | {} | {} | {} ", tool.name(), time(cost.wall), time(cost.cpu))?;
        write!(f, "| {} | {memory} | {} ", time(cost.host_cpu), bytes(cost.bytes))?;
        let shown: Vec<String> = aims.iter().map(HostAim::to_string).collect();
        let met: Vec<&str> = aims.iter().map(|aim| if aim.is_met(cost) { "yes" } else { "no" }).collect();
        match aims.as_slice() {
            [] => write!(f, "| – | – |"),
            _ => write!(f, "| {} | {} |", shown.join(", "), met.join(", ")),
        }
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        0.0 => "–".to_owned(),
        short @ ..1.0 => format!("{:.0} ms", short * 1000.0),
        long => format!("{long:.2} s"),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "–".to_owned(),
        few @ ..1_000_000 => format!("{:.1} kB", few as f64 / 1e3),
        many => format!("{:.1} MB", many as f64 / 1e6),
    }
}

pub(super) fn render(rows: &[HostRow]) -> String {
    let lines: Vec<String> = rows.iter().map(HostRow::to_string).collect();
    format!("{HEADING}\n{}", lines.join("\n"))
}

/// The document with a new table; the text around it stays.
pub(super) fn update(document: &str, table: &str) -> String {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = match parts {
        Some((before, after)) => (before.to_owned(), after),
        None => (format!("{}\n\n## Hosts\n\n", document.trim_end()), "\n"),
    };
    format!("{before}{BEGIN}\n{table}\n{END}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_shows_which_of_its_aims_are_met() {
        let cost = RunCost {
            wall: Duration::from_millis(900),
            cpu: Duration::from_millis(1500),
            memory: 30_000_000,
            own_memory: 20_000_000,
            bytes: 1_500,
            ..RunCost::default()
        };
        let aims = vec![HostAim::Times(1.0, "bash", Duration::from_millis(500)), HostAim::Part(0.05, 50_000_000)];
        let row = HostRow { work: "a".to_owned(), tool: FleetTool::Ours, cost, aims };
        assert_eq!(
            row.to_string(),
            "| a | ours | 900 ms | 1.50 s | – | 30.0 MB, 20.0 MB of it its own | 1.5 kB | ≤ 1.00× bash, ≤ 5 % of 50.0 MB | no, yes |"
        );
    }

    #[test]
    fn update_keeps_the_surrounding_text() {
        let first = update("# Benchmarks\n\nText.\n", "| a |");
        let second = update(&(first + "More.\n"), "| b |");
        assert!(second.starts_with("# Benchmarks\n\nText.\n\n## Hosts") && second.ends_with("More.\n"), "{second}");
        assert!(second.contains("\n| b |\n") && !second.contains("| a |"), "{second}");
    }
}
