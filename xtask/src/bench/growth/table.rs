//! The table of the growth bench, and its place in docs/benchmarks.md.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

const BEGIN: &str = "<!-- cargo xtask bench growth --write: begin -->";
const END: &str = "<!-- cargo xtask bench growth --write: end -->";

/// One line: what a command costs after each history.
pub(super) struct GrowthRow {
    pub(super) name: String,
    pub(super) values: Vec<Measured>,
    pub(super) aim: GrowthAim,
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Measured {
    Time(Duration),
    Bytes(u64),
    Count(u64),
}

/// What is to hold after the longest history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum GrowthAim {
    /// It costs at most so many times what it costs after the shortest.
    Ratio(f64),
    Time(Duration),
    Bytes(u64),
    Count(u64),
    None,
}

impl Measured {
    fn number(self) -> f64 {
        match self {
            Self::Time(time) => time.as_secs_f64(),
            Self::Bytes(count) | Self::Count(count) => count as f64,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Time(time) => match time.as_secs_f64() * 1000.0 {
                short @ ..10.0 => format!("{short:.2} ms"),
                middle @ 10.0..1000.0 => format!("{middle:.1} ms"),
                long => format!("{:.2} s", long / 1000.0),
            },
            Self::Bytes(bytes) => format!("{:.1} KiB", bytes as f64 / 1024.0),
            Self::Count(count) => count.to_string(),
        }
    }
}

impl fmt::Display for GrowthRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(|value| value.text()).collect();
        let growth = self.growth().map_or_else(|| "–".to_owned(), |growth| format!("{growth:.2}×"));
        let (aim, met) = (self.aim_text(), self.met_text());
        write!(f, "| {} | {} | {growth} | {aim} | {met} |", self.name, values.join(" | "))
    }
}

impl GrowthRow {
    fn growth(&self) -> Option<f64> {
        let (first, last) = (self.values.first()?.number(), self.values.last()?.number());
        (first > 0.0).then(|| last / first)
    }

    fn aim_text(&self) -> String {
        match self.aim {
            GrowthAim::Ratio(most) => format!("≤ {most}×"),
            GrowthAim::Time(most) => format!("≤ {}", Measured::Time(most).text()),
            GrowthAim::Bytes(most) => format!("≤ {}", Measured::Bytes(most).text()),
            GrowthAim::Count(most) => format!("≤ {most}"),
            GrowthAim::None => "–".to_owned(),
        }
    }

    fn met_text(&self) -> &'static str {
        let last = self.values.last().map_or(f64::INFINITY, |value| value.number());
        let is_met = match self.aim {
            GrowthAim::Ratio(most) => self.growth().is_some_and(|growth| growth <= most),
            GrowthAim::Time(most) => last <= most.as_secs_f64(),
            GrowthAim::Bytes(most) | GrowthAim::Count(most) => last <= most as f64,
            GrowthAim::None => return "–",
        };
        if is_met { "yes" } else { "no" }
    }
}

pub(super) fn render(lengths: &[u64], rows: &[GrowthRow]) -> String {
    let heads: Vec<String> = lengths.iter().map(|length| format!("{length} attempts")).collect();
    let mut table = format!(
        "| What | {} | Growth | Aim | Met |\n|---|{}---:|---:|---|\n",
        heads.join(" | "),
        "---:|".repeat(lengths.len())
    );
    for row in rows {
        writeln!(table, "{row}").expect("a String takes all");
    }
    table
}

/// The document with this table instead of the one before. The text around stays.
pub(super) fn update(document: &str, table: &str) -> String {
    let parts = document.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = match parts {
        Some((before, after)) => (before.to_owned(), after),
        None => (format!("{}\n\n## Growth\n\n", super::super::document_head(document)), "\n"),
    };
    format!("{before}{BEGIN}\n{table}{END}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: [u64; 2]) -> Vec<Measured> {
        milliseconds.map(|time| Measured::Time(Duration::from_millis(time))).to_vec()
    }

    #[test]
    fn rows_show_growth_and_whether_the_aim_is_met() {
        let rows = [
            GrowthRow { name: "a".to_owned(), values: times([8, 10]), aim: GrowthAim::Ratio(1.5) },
            GrowthRow { name: "b".to_owned(), values: times([8, 1600]), aim: GrowthAim::Time(Duration::from_secs(1)) },
            GrowthRow {
                name: "c".to_owned(),
                values: vec![Measured::Bytes(1024), Measured::Bytes(2048)],
                aim: GrowthAim::Bytes(2048),
            },
            GrowthRow {
                name: "d".to_owned(),
                values: vec![Measured::Count(0), Measured::Count(7)],
                aim: GrowthAim::Count(6),
            },
        ];
        let table = render(&[10, 1000], &rows);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "| What | 10 attempts | 1000 attempts | Growth | Aim | Met |");
        assert_eq!(lines[2], "| a | 8.00 ms | 10.0 ms | 1.25× | ≤ 1.5× | yes |");
        assert_eq!(lines[3], "| b | 8.00 ms | 1.60 s | 200.00× | ≤ 1.00 s | no |");
        assert_eq!(lines[4], "| c | 1.0 KiB | 2.0 KiB | 2.00× | ≤ 2.0 KiB | yes |");
        assert_eq!(lines[5], "| d | 0 | 7 | – | ≤ 6 | no |");
    }

    #[test]
    fn update_keeps_the_surrounding_text() {
        let first = update("# Benchmarks\n\nText.\n", "| a |\n");
        let second = update(&(first.replace("## Growth", "## Long histories") + "More.\n"), "| b |\n");
        assert!(second.starts_with("# Benchmarks\n\nText.\n\n## Long histories"), "{second}");
        assert!(second.contains("\n| b |\n") && !second.contains("| a |") && second.ends_with("More.\n"), "{second}");
    }
}
