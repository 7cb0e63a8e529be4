//! Steps that run on many targets: a line for all of them, instead of one for each.
//!
//! ```text
//!   FAIL   switch@web-3  no space left on device                                 4 ms
//!   FAIL   switch        100/100  ran 98 · failed web-3, web-7                   1.2 s
//! ```
//!
//! Invariant: of a step, each failure text stands once, and at most [`MAX_TARGET_LINES`] of its targets have a line; the last line counts
//! them all. Deliberately absent: steps on few targets, which the formatter shows one by one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    formatter::{DisplayItem, DisplayLine, LineStyle},
    terminal::Verbosity,
};
use contract::{
    StepId, TargetName,
    text::{column_count, millis_between, truncate},
};
use journal::{
    StepStatus,
    event::{JournalEntry, JournalEvent, StepTarget},
};

/// The most targets of a step that have a line each.
pub const MAX_TARGET_LINES: usize = 8;

/// The most columns of the names of targets in a line.
const MAX_NAMES_COLUMNS: usize = 26;

/// The steps on many targets, and those of them that are going on.
#[derive(Debug, Default)]
pub(super) struct TargetFold {
    target_counts: BTreeMap<StepId, usize>,
    /// The targets on which a step has ended in this attempt, also in earlier batches.
    ended: BTreeSet<StepTarget>,
    open: Vec<FoldedStep>,
}

/// A step that is going on, or being undone, on many targets.
#[derive(Debug)]
struct FoldedStep {
    step: StepId,
    is_undo: bool,
    since: Timestamp,
    until: Timestamp,
    statuses: BTreeMap<TargetName, StepStatus>,
    /// Why targets were skipped or adopted.
    reasons: BTreeSet<String>,
    /// The lines of single targets, by keyword and text.
    said: BTreeSet<(&'static str, String)>,
}

impl TargetFold {
    /// The fold of a plan with these steps.
    pub(super) fn new<'p>(planned: impl Iterator<Item = &'p StepTarget>) -> Self {
        let mut target_counts = BTreeMap::new();
        for step_target in planned {
            *target_counts.entry(step_target.step.clone()).or_insert(0) += 1;
        }
        target_counts.retain(|_, count| *count > MAX_TARGET_LINES);
        Self { target_counts, ..Self::default() }
    }

    /// Whether the targets of a step share a line.
    pub(super) fn is_folded(&self, step: &StepId) -> bool {
        self.target_counts.contains_key(step)
    }

    /// The last lines of the steps that have ended if this event follows; of all, if none follows.
    pub(super) fn end_before(&mut self, next: Option<&JournalEvent>) -> Vec<DisplayItem> {
        let goes_on = |open: &FoldedStep| next.is_some_and(|event| open.goes_on_with(event));
        let (open, ended) = std::mem::take(&mut self.open).into_iter().partition(goes_on);
        self.open = open;
        let ended: Vec<FoldedStep> = ended;
        ended.iter().flat_map(|step| self.last_items(step)).collect()
    }

    /// Folds the items of an entry about a step on many targets. `reason`: why the target was skipped or adopted.
    pub(super) fn fold(
        &mut self,
        entry: &JournalEntry,
        step_target: &StepTarget,
        items: Vec<DisplayItem>,
    ) -> Vec<DisplayItem> {
        let StepTarget { step, target } = step_target;
        let is_undo = is_undo(&entry.event);
        let at = self.open.iter().position(|open| open.step == *step);
        let begins = changes_status(&entry.event) || matches!(entry.event, JournalEvent::Probe { .. });
        let at = match (at, begins) {
            (Some(at), _) => at,
            (None, false) => return items,
            (None, true) => {
                self.open.push(FoldedStep::new(step.clone(), is_undo, entry.at));
                self.open.len() - 1
            }
        };
        let open = &mut self.open[at];
        open.until = entry.at;
        if changes_status(&entry.event) {
            let status = open.statuses.get(target).copied().unwrap_or_default().after(&entry.event);
            open.statuses.insert(target.clone(), status);
            if is_ended(status) && !is_undo {
                self.ended.insert(step_target.clone());
            }
        }
        let open = &mut self.open[at];
        let mut folded: Vec<_> = items.into_iter().filter_map(|item| open.admit(item)).collect();
        let open = &self.open[at];
        folded.push(DisplayItem::Tally { step: step.to_string(), text: self.tally(open, None) });
        folded
    }

    fn last_items(&self, open: &FoldedStep) -> [DisplayItem; 2] {
        let (keyword, style) = open.keyword();
        let line = DisplayLine {
            min_verbosity: Verbosity::Normal,
            style,
            keyword,
            label: open.step.to_string(),
            reason: None,
            text: self.tally(open, Some("interrupted")),
            took_ms: Some(millis_between(open.since, open.until)),
        };
        [DisplayItem::StepEnded { label: open.step.to_string() }, DisplayItem::Line(line)]
    }

    /// `98/100  ran 96 · failed web-3, web-7`. `unended`: the word for targets that have begun and not ended, if they count.
    fn tally(&self, open: &FoldedStep, unended: Option<&str>) -> String {
        let counts = open.counts(unended);
        if open.is_undo {
            return counts;
        }
        let ended = self.ended.iter().filter(|ended| ended.step == open.step).count();
        let all = self.target_counts.get(&open.step).copied().unwrap_or_default();
        format!("{ended}/{all}  {counts}").trim_end().to_owned()
    }
}

impl FoldedStep {
    fn new(step: StepId, is_undo: bool, since: Timestamp) -> Self {
        Self {
            step,
            is_undo,
            since,
            until: since,
            statuses: BTreeMap::new(),
            reasons: BTreeSet::new(),
            said: BTreeSet::new(),
        }
    }

    /// Whether the step is still going on when an event follows. All steps of a rollback are undone together.
    fn goes_on_with(&self, event: &JournalEvent) -> bool {
        match event.step_target() {
            Some(step_target) if !changes_status(event) => self.is_undo || self.step == step_target.step,
            Some(step_target) => {
                let is_undo = is_undo(event);
                self.is_undo == is_undo && (is_undo || self.step == step_target.step)
            }
            None => !matches!(event, JournalEvent::SwitchedBack { .. } | JournalEvent::Ended { .. }),
        }
    }

    /// What is shown of an item of one target.
    fn admit(&mut self, item: DisplayItem) -> Option<DisplayItem> {
        match item {
            DisplayItem::Line(line) if matches!(line.keyword, "skip" | "adopt" | "ran" | "undid") => {
                if matches!(line.keyword, "skip" | "adopt") {
                    self.reasons.insert(line.text);
                }
                None
            }
            DisplayItem::Line(line) | DisplayItem::StepMessage(line) if line.min_verbosity == Verbosity::Verbose => {
                None
            }
            DisplayItem::Line(line) => self.is_new(line.keyword, &line.text).then_some(DisplayItem::Line(line)),
            DisplayItem::StepMessage(line) => {
                self.is_new(line.keyword, &line.text).then_some(DisplayItem::StepMessage(line))
            }
            DisplayItem::StepStarted { keyword, label, step, reason, .. } => {
                let is_repeated = !self.is_new(keyword, &reason);
                Some(DisplayItem::StepStarted {
                    keyword,
                    label,
                    step,
                    reason,
                    place: StartPlace::Folded { is_repeated },
                })
            }
            DisplayItem::Meter { .. } | DisplayItem::StepEnded { .. } => None,
            DisplayItem::Heading(_) | DisplayItem::Tally { .. } => Some(item),
        }
    }

    /// Whether nothing like it was said about the step, and there is room for it.
    fn is_new(&mut self, keyword: &'static str, text: &str) -> bool {
        let said = self.said.iter().filter(|(other, _)| *other == keyword).count();
        said < MAX_TARGET_LINES && self.said.insert((keyword, text.to_owned()))
    }

    /// The word and the colour of the last line.
    fn keyword(&self) -> (&'static str, LineStyle) {
        let any = |is_meant: fn(StepStatus) -> bool| self.statuses.values().any(|status| is_meant(*status));
        if any(|status| matches!(status, StepStatus::Failed | StepStatus::UndoFailed)) {
            ("FAIL", LineStyle::Failure)
        } else if any(|status| matches!(status, StepStatus::Unknown | StepStatus::Started | StepStatus::Undoing)) {
            ("LOST", LineStyle::Attention)
        } else if any(|status| status == StepStatus::Stopped) {
            ("STOP", LineStyle::Attention)
        } else if self.is_undo {
            ("undid", LineStyle::Success)
        } else if any(|status| status == StepStatus::Ran) {
            ("ran", LineStyle::Success)
        } else if any(|status| status == StepStatus::Adopted) {
            ("adopt", LineStyle::Success)
        } else {
            ("skip", LineStyle::Muted)
        }
    }

    /// `ran 96 · failed web-3, web-7`; if all were skipped for one reason, with that.
    fn counts(&self, unended: Option<&str>) -> String {
        let of = |is_meant: &dyn Fn(StepStatus) -> bool| {
            let meant = self.statuses.iter().filter(|(_, status)| is_meant(**status));
            meant.map(|(target, _)| target.as_str()).collect::<Vec<_>>()
        };
        let counted = [
            ("ran", StepStatus::Ran),
            ("skipped", StepStatus::Skipped),
            ("adopted", StepStatus::Adopted),
            ("undone", StepStatus::Undone),
        ];
        let mut parts: Vec<String> = Vec::new();
        for (word, status) in counted {
            let targets = of(&|other| other == status);
            let reason =
                self.reasons.first().filter(|_| self.reasons.len() == 1 && targets.len() == self.statuses.len());
            match (targets.len(), reason) {
                (0, _) => {}
                (count, Some(reason)) => parts.push(format!("{word} {count}: {reason}")),
                (count, None) => parts.push(format!("{word} {count}")),
            }
        }
        let failed = of(&|status| matches!(status, StepStatus::Failed | StepStatus::UndoFailed));
        let in_doubt = of(&|status| matches!(status, StepStatus::Unknown | StepStatus::Stopped));
        let named = [("failed", failed), ("in doubt", in_doubt)].into_iter().filter(|(_, targets)| !targets.is_empty());
        parts.extend(named.map(|(word, targets)| format!("{word} {}", name_targets(&targets, MAX_NAMES_COLUMNS))));
        let running = of(&|status| matches!(status, StepStatus::Started | StepStatus::Undoing)).len();
        parts.extend(unended.filter(|_| running > 0).map(|word| format!("{word} {running}")));
        parts.join(" · ")
    }
}

/// Where the start of a step on a target is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartPlace {
    /// On a line of its own.
    Own,
    /// On the line of all targets. `is_repeated`: its reason was said before.
    Folded { is_repeated: bool },
}

/// `web-3, web-7 and 2 more`: as many names as there is room for, at least one.
#[must_use]
pub fn name_targets(targets: &[&str], room: usize) -> String {
    let mut shown = String::new();
    for (index, target) in targets.iter().enumerate() {
        let next = if index == 0 { truncate(target, room) } else { format!("{shown}, {target}") };
        if column_count(&next) > room {
            return format!("{shown} and {} more", targets.len() - index);
        }
        shown = next;
    }
    shown
}

fn is_undo(event: &JournalEvent) -> bool {
    matches!(event, JournalEvent::UndoIntent { .. } | JournalEvent::UndoOutcome { .. })
}

/// Whether an event says how far a step is.
fn changes_status(event: &JournalEvent) -> bool {
    is_undo(event)
        || matches!(event, JournalEvent::Decision { .. } | JournalEvent::Intent { .. } | JournalEvent::Outcome { .. })
}

fn is_ended(status: StepStatus) -> bool {
    match status {
        StepStatus::NotReached | StepStatus::Started | StepStatus::Undoing => false,
        StepStatus::Skipped
        | StepStatus::Adopted
        | StepStatus::Ran
        | StepStatus::Failed
        | StepStatus::Unknown
        | StepStatus::Stopped
        | StepStatus::Undone
        | StepStatus::UndoFailed => true,
    }
}
