//! The attempts of a run as a Mermaid gantt chart, with the duration and the result of each bar.
//!
//! Invariant: a label is plain words, so that nothing in it ends a task, starts a section or is taken for HTML. A chart is small:
//! Mermaid draws at most 50,000 characters.

use jiff::Timestamp;

/// A bar.
pub(super) struct GanttBar {
    pub(super) section: String,
    pub(super) label: String,
    pub(super) status: BarStatus,
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
}

/// The result of a bar, shown as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BarStatus {
    Done,
    Failed,
    Unfinished,
}

/// The most bars of a chart; more are unreadable.
const MAX_BARS: usize = 120;
/// The longest label, in characters.
const MAX_LABEL_CHARS: usize = 80;

/// The chart, without a fence; none without bars.
pub(super) fn gantt_chart(title: &str, bars: &[GanttBar]) -> Option<String> {
    let bars = &bars[bars.len().saturating_sub(MAX_BARS)..];
    if bars.is_empty() {
        return None;
    }
    let title = plain_label(title);
    let mut chart = format!("gantt\n    title {title}\n    dateFormat x\n    axisFormat %H:%M:%S\n");
    let mut section = None;
    for bar in bars {
        if section != Some(&bar.section) {
            chart.push_str(&format!("    section {}\n", plain_label(&bar.section)));
            section = Some(&bar.section);
        }
        let tag = match bar.status {
            BarStatus::Done => "done",
            BarStatus::Failed => "crit",
            BarStatus::Unfinished => "active",
        };
        let started = bar.started_at.as_millisecond();
        // Mermaid does not draw a bar without length.
        let ended = bar.ended_at.as_millisecond().max(started + 1);
        chart.push_str(&format!("    {} :{tag}, {started}, {ended}\n", plain_label(&bar.label)));
    }
    Some(chart)
}

/// Keeps letters, digits and characters without a meaning in Mermaid, up to a limit.
fn plain_label(text: &str) -> String {
    let fits = |char: char| char.is_alphanumeric() || matches!(char, ' ' | '.' | '_' | '+' | '-' | '@' | '(' | ')');
    let plain: String = text.chars().map(|char| if fits(char) { char } else { ' ' }).take(MAX_LABEL_CHARS).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_plain_words() {
        let at: Timestamp = "2025-11-23T03:00:00Z".parse().unwrap();
        let hostile = "a:crit, 0\n    section x %%{init}%% <b>;#quot; `b`";
        let bar = GanttBar {
            section: hostile.to_owned(),
            label: hostile.to_owned(),
            status: BarStatus::Unfinished,
            started_at: at,
            ended_at: at,
        };
        let chart = gantt_chart(hostile, &[bar]).unwrap();
        let words = "a crit 0 section x init b quot b";
        let lines: Vec<_> = chart.lines().map(str::trim).collect();
        let task = format!("{words} :active, 1763866800000, 1763866800001");
        assert_eq!(
            lines,
            [
                "gantt",
                &format!("title {words}"),
                "dateFormat x",
                "axisFormat %H:%M:%S",
                &format!("section {words}"),
                &task
            ]
        );
        assert_eq!(gantt_chart("nothing", &[]), None);
    }
}
