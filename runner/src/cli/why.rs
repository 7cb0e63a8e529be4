//! `runner why STEP`: the decision about a step, its reason, and its evidence.
//!
//! Everything is read from the journals: no probe runs, and nothing is decided again.

use std::{collections::BTreeSet, io::Write, iter};

use serde_json::{Value, json};

mod resolution;

use self::resolution::{RecordedResolution, resolution_before};
use super::{
    attempts::read_attempt,
    plan_file::CommandCompletion,
    source::{self, PlanSourceArgs},
};
use crate::report::{self, MAX_TARGET_LINES, OutputFormat, json, messages, name_targets, table::FieldLayout};
use contract::text::{format_duration, format_time};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    hash::Blake3Hash,
    step::{ProbeFinding, StepFailure, StepOutcome},
};
use journal::{
    JournalEvent, RecordStatus, Redactor, StepRecord, StepStatus, StepTarget,
    event::{Decision, Fingerprint, INPUT_PREFIX, JournalEntry, JournalHeader, ProbeInput, Release, file_component},
    state::AttemptSummary,
};
use state::{RecordedAttempt, StateStore};

/// The number of hex digits of a hash that people see.
const HASH_DIGITS: usize = 8;

/// The column of the values.
const INDENT: usize = 12;

/// The same, where the names are numbers of targets.
const MANY_INDENT: usize = 8;

/// The most columns of the names of targets in a line.
const MAX_NAMES_COLUMNS: usize = 60;

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub(super) struct WhyArgs {
    /// The step's name in the plan
    pub(super) step: String,
    /// Only this target of the step: a host, or the group that it runs once for
    #[arg(long, value_name = "HOST")]
    pub(super) target: Option<String>,
    /// The epoch of an attempt, from `runner history`; by default the last one
    #[arg(long, value_name = "EPOCH")]
    pub(super) attempt: Option<u64>,
}

/// Explains why a step ran, was skipped, was stopped or was not reached; for several targets, one after the other, and for many in
/// groups. The lines have at most `line_width` columns.
///
/// As JSON, one object a line and target: `{step, target, epoch, run, attempt, release, decision, because, words, changed:
/// [{component, old, new}], probe: {finding, question, took-ms, words}, record: {status, run, attempt, epoch, release,
/// began}, resolved: {as, by, message, epoch, at}, outcome: {result, took-ms, failure}, again: {release, outcome}, undone}`. A missing
/// value is null.
///
/// # Errors
/// P0210 when the attempt has no such step; otherwise as [`read_attempt`].
pub(super) fn run(
    args: &WhyArgs,
    plan: &PlanSourceArgs,
    store: &StateStore,
    form: OutputFormat,
    line_width: usize,
    out: &mut dyn Write,
) -> Result<ExitKind, Diagnostic> {
    let reading = read_attempt(store, args.attempt)?;
    let places = step_targets(&reading.entries);
    let asked: Vec<_> = places.iter().filter(|place| place.step.as_str() == args.step).collect();
    if asked.is_empty() {
        return Err(no_such_step_error(&args.step, &reading.summary, &places));
    }
    let is_asked = |place: &&&StepTarget| args.target.as_ref().is_none_or(|target| place.target.as_str() == target);
    let on_target: Vec<_> = asked.iter().filter(is_asked).copied().collect();
    if on_target.is_empty() {
        return Err(no_such_target_error(args, &reading.summary, &asked));
    }
    let asked = on_target;
    let commands = CommandCompletion::new(plan.plan.as_deref(), plan.environment.as_deref());
    let gather = |place| StepEvidence::gather(place, &reading, resolution_before(store, &reading, place));
    let evidence: Vec<_> = asked.into_iter().map(gather).collect();
    let answer: String = match form {
        OutputFormat::Text if evidence.len() > MAX_TARGET_LINES => many_text(&evidence, &commands, line_width),
        OutputFormat::Text => {
            let texts: Vec<_> = evidence.iter().map(|evidence| evidence.text(&commands, line_width)).collect();
            redactor(plan).redact(&texts.join("\n"))
        }
        OutputFormat::Json => evidence.iter().map(|evidence| json::line(&evidence.json()) + "\n").collect(),
    };
    report::write_answer(out, &answer)?;
    Ok(ExitKind::Success)
}

/// Masks the secrets that are known here: what a step returned is on record as it is, also with a short secret in it.
fn redactor(plan: &PlanSourceArgs) -> Redactor {
    let plan = plan.plan_without_inventories(&source::placeholder_label());
    plan.map(|plan| Redactor::of_plan(&plan.secrets)).unwrap_or_default()
}

/// The steps of an attempt: those of its plan, in order, then others with events.
pub(super) fn step_targets(entries: &[JournalEntry]) -> Vec<StepTarget> {
    let mut places: Vec<StepTarget> = Vec::new();
    let mut add = |place: &StepTarget| {
        if !places.contains(place) {
            places.push(place.clone());
        }
    };
    for entry in entries {
        match &entry.event {
            JournalEvent::Plan { steps, .. } => steps.iter().for_each(|step| add(&step.step_target)),
            JournalEvent::Decision { step_target: place, .. }
            | JournalEvent::Intent { step_target: place, .. }
            | JournalEvent::UndoIntent { step_target: place }
            | JournalEvent::Resolved { step_target: place, .. } => add(place),
            JournalEvent::Started(_)
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Outcome { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::UndoOutcome { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Ended { .. }
            | JournalEvent::Unrecognized => {}
        }
    }
    places
}

pub(super) fn no_such_step_error(step: &str, summary: &AttemptSummary, places: &[StepTarget]) -> Diagnostic {
    let epoch = summary.header.epoch;
    let known: BTreeSet<_> = places.iter().map(|place| place.step.as_str()).collect();
    let advice = "use one of its steps, or another attempt with `--attempt EPOCH`; `runner history` lists them";
    let hint = match plan::closest_match(step, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? otherwise {advice}"),
        None => advice.to_owned(),
    };
    let known = match known.len() {
        0 => "it ended before its plan was written".to_owned(),
        _ => format!("its steps are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::new(ErrorCode::StepNotInAttempt, format!("the attempt with epoch {epoch} has no step `{step}`"))
        .with_cause(known)
        .with_hint(hint)
}

fn no_such_target_error(args: &WhyArgs, summary: &AttemptSummary, asked: &[&StepTarget]) -> Diagnostic {
    let (step, epoch) = (&args.step, summary.header.epoch);
    let target = args.target.as_deref().unwrap_or_default();
    let names: Vec<&str> = asked.iter().map(|place| place.target.as_str()).collect();
    let hint = match plan::closest_match(target, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "use one of its targets".to_owned(),
    };
    let message = format!("in the attempt with epoch {epoch}, step `{step}` has no target `{target}`");
    Diagnostic::new(ErrorCode::StepNotInAttempt, message)
        .with_cause(format!("its targets are {}", name_targets(&names, MAX_NAMES_COLUMNS)))
        .with_hint(hint)
}

/// The step on many targets: those that went alike together, then the way to one of them.
fn many_text(evidence: &[StepEvidence<'_>], commands: &CommandCompletion, line_width: usize) -> String {
    let first = &evidence[0];
    let StepTarget { step, .. } = first.step_target;
    let mut answer = first.heading(&format!("`{step}` on {} targets", evidence.len()));
    let layout = FieldLayout { value_column: MANY_INDENT, line_width };
    let mut alike: Vec<(String, Vec<&str>)> = Vec::new();
    for one in evidence {
        let (course, target) = (one.course_text(), one.step_target.target.as_str());
        match alike.iter_mut().find(|(known, _)| *known == course) {
            Some((_, targets)) => targets.push(target),
            None => alike.push((course, vec![target])),
        }
    }
    for (course, targets) in &alike {
        layout.push(&mut answer, &targets.len().to_string(), course);
        if alike.len() > 1 {
            layout.push(&mut answer, "", &format!("on {}", name_targets(targets, MAX_NAMES_COLUMNS)));
        }
    }
    // The one that somebody will ask for is rather among the few.
    let example = alike.iter().min_by_key(|(_, targets)| targets.len()).map_or("", |(_, targets)| targets[0]);
    let all = commands.text(&format!("`runner why {step} --target {example}` has the evidence of one"));
    answer.push('\n');
    layout.push(&mut answer, "more", &all);
    answer
}

/// Everything that one attempt recorded about a step, and the record before it.
struct StepEvidence<'a> {
    step_target: &'a StepTarget,
    summary: &'a AttemptSummary,
    /// The last record before this attempt, and the attempt that made it.
    record: Option<&'a StepRecord>,
    /// What an operator said of the step after its record was made, or in this attempt.
    resolution: Option<RecordedResolution>,
    decisions: Vec<&'a Decision>,
    fingerprint: Option<&'a Fingerprint>,
    probe: Option<(ProbeInput, u64, &'a ProbeFinding)>,
    outcome: Option<(u64, &'a StepOutcome)>,
    /// How it went for the release that a rollback switched back to. The rest is about the release of the attempt.
    repetition: Option<StepRepetition<'a>>,
    /// Its status after the last event.
    status: StepStatus,
    undo_failure: Option<&'a StepFailure>,
}

/// The run of a step for another release than that of the attempt.
#[derive(Clone, Copy)]
struct StepRepetition<'a> {
    release: &'a Release,
    outcome: Option<(u64, &'a StepOutcome)>,
}

/// A component of the fingerprint that differs from the one on record.
struct FingerprintChange {
    component: String,
    old: Option<Blake3Hash>,
    new: Option<Blake3Hash>,
}

impl<'a> StepEvidence<'a> {
    fn gather(
        place: &'a StepTarget,
        reading: &'a RecordedAttempt,
        resolved_before: Option<RecordedResolution>,
    ) -> Self {
        let record = reading.before.records.get(place);
        let mut evidence = Self {
            step_target: place,
            summary: &reading.summary,
            record,
            resolution: resolved_before,
            decisions: Vec::new(),
            fingerprint: None,
            probe: None,
            outcome: None,
            repetition: None,
            status: StepStatus::NotReached,
            undo_failure: None,
        };
        for entry in &reading.entries {
            evidence.observe(&entry.event);
            let resolution = RecordedResolution::of_entry(entry, reading.summary.header.epoch, place);
            evidence.resolution = resolution.or(evidence.resolution);
        }
        evidence
    }

    fn observe(&mut self, event: &'a JournalEvent) {
        if event.step_target() == Some(self.step_target) {
            if let JournalEvent::Intent { release: Some(release), .. } = event {
                self.repetition = Some(StepRepetition { release, outcome: None });
            }
            if let Some(repetition) = &mut self.repetition {
                if let JournalEvent::Outcome { took_ms, outcome, .. } = event {
                    repetition.outcome = Some((*took_ms, outcome));
                }
                return;
            }
            self.status = self.status.after(event);
        }
        match event {
            JournalEvent::Decision { step_target: place, decision } if place == self.step_target => {
                self.decisions.push(decision)
            }
            JournalEvent::Intent { step_target: place, fingerprint, .. } if place == self.step_target => {
                self.fingerprint = Some(fingerprint);
                self.outcome = None;
            }
            JournalEvent::Outcome { step_target: place, took_ms, outcome: result } if place == self.step_target => {
                self.outcome = Some((*took_ms, result));
            }
            JournalEvent::Probe { step_target: place, probed_input: question, took_ms, finding }
                if place == self.step_target =>
            {
                self.probe = Some((*question, *took_ms, finding));
            }
            JournalEvent::UndoIntent { step_target: place } if place == self.step_target => self.undo_failure = None,
            JournalEvent::UndoOutcome { step_target: place, failure } if place == self.step_target => {
                self.undo_failure = failure.as_ref();
            }
            JournalEvent::Started(_)
            | JournalEvent::Plan { .. }
            | JournalEvent::Lock { .. }
            | JournalEvent::Torn { .. }
            | JournalEvent::SwitchedBack { .. }
            | JournalEvent::Decision { .. }
            | JournalEvent::Intent { .. }
            | JournalEvent::Progress { .. }
            | JournalEvent::Output { .. }
            | JournalEvent::Outcome { .. }
            | JournalEvent::Probe { .. }
            | JournalEvent::UndoIntent { .. }
            | JournalEvent::UndoOutcome { .. }
            | JournalEvent::Override { .. }
            | JournalEvent::HostLeftBehind { .. }
            | JournalEvent::Resolved { .. }
            | JournalEvent::RecordLost { .. }
            | JournalEvent::Ended { .. }
            | JournalEvent::Unrecognized => {}
        }
    }

    fn changes(&self) -> Vec<FingerprintChange> {
        let (Some(record), Some(new)) = (self.record, self.fingerprint) else { return Vec::new() };
        let old = &record.intent.fingerprint;
        let change = |component: String| FingerprintChange {
            old: old.0.get(&component).copied(),
            new: new.0.get(&component).copied(),
            component,
        };
        let components = old.difference(new).into_iter().flat_map(|component| {
            let input = component.strip_prefix(INPUT_PREFIX).unwrap_or_default();
            let files = old.changed_files(new, input);
            let files = files.into_iter().map(|path| file_component(input, &path)).collect::<Vec<_>>();
            iter::once(component).chain(files)
        });
        components.map(change).collect()
    }

    fn text(&self, commands: &CommandCompletion, line_width: usize) -> String {
        let mut answer = self.heading(&self.step_target.to_string());
        let layout = FieldLayout { value_column: INDENT, line_width };
        let mut row = |name: &str, value: &str| layout.push(&mut answer, name, value);
        match self.decisions.split_first() {
            None => row("decision", &format!("none: {}", self.not_reached_text())),
            Some((first, then)) => {
                row("decision", &format!("{}: {}", messages::decision(first), messages::decision_reason(first)));
                for decision in then {
                    row("", &format!("then {}: {}", messages::decision(decision), messages::decision_reason(decision)));
                }
            }
        }
        for (index, change) in self.changes().iter().enumerate() {
            let short =
                |hash: Option<Blake3Hash>| hash.map_or_else(|| "none".to_owned(), |hash| hash.hex_prefix(HASH_DIGITS));
            let change = format!("{}: {} to {}", change.component, short(change.old), short(change.new));
            row(if index == 0 { "changed" } else { "" }, &change);
        }
        row("record", &self.record_text());
        if let Some(resolution) = &self.resolution {
            row("resolved", &resolution.text());
        }
        row("probe", &self.probe_text());
        if let Some(outcome) = self.outcome_text() {
            row("outcome", &outcome);
        }
        if let Some(hint) = self.outcome.and_then(|(_, outcome)| failure(outcome)?.hint.as_ref()) {
            row("hint", &commands.text(hint));
        }
        if let Some(StepRepetition { release, outcome }) = self.repetition {
            let ended = outcome.map_or_else(|| self.no_outcome_text(), outcome_text);
            row("again", &format!("for {}: {ended}", release.label));
        }
        match (self.is_undone(), self.undo_failure) {
            (None, _) => {}
            (Some(true), _) => row("undo", "done"),
            (Some(false), None) => row("undo", "begun, not finished"),
            (Some(false), Some(failure)) => row("undo", &format!("failed: {}", messages::failure(failure))),
        }
        answer
    }

    fn heading(&self, what: &str) -> String {
        let JournalHeader { environment, run, attempt, epoch, release, .. } = &self.summary.header;
        format!("{what}, epoch {epoch}: {} to {environment} (run {run}, attempt {attempt})\n\n", release.label)
    }

    /// The decision and how it ended, without what differs on each target, such as times.
    fn course_text(&self) -> String {
        let Some(decision) = self.decisions.last() else { return self.not_reached_text() };
        let outcome = match (self.outcome, self.fingerprint) {
            (None, None) => String::new(),
            (None, Some(_)) => format!("; {}", self.no_outcome_text()),
            (Some((_, StepOutcome::Succeeded { .. })), _) => "; succeeded".to_owned(),
            (Some((_, StepOutcome::Failed { failure })), _) => format!("; failed: {}", messages::failure(failure)),
            (Some((_, StepOutcome::Unknown { failure })), _) => {
                format!("; outcome unknown: {}", messages::failure(failure))
            }
        };
        let undone = match self.is_undone() {
            None => "",
            Some(true) => "; undone",
            Some(false) => "; its undo is not finished",
        };
        format!("{}: {}{outcome}{undone}", messages::decision(decision), messages::decision_reason(decision))
    }

    fn not_reached_text(&self) -> String {
        if self.summary.resolved_step.is_some() {
            return "an operator resolved it; the attempt ran nothing".to_owned();
        }
        let ending =
            messages::result_at_step(self.summary.exit, self.summary.verified, self.summary.failed_step.as_ref());
        format!("the attempt did not reach it ({ending})")
    }

    fn record_text(&self) -> String {
        let Some(record) = self.record else { return "none before this attempt".to_owned() };
        let intent = &record.intent;
        let began = format!(", {}", format_time(record.intent.attempt_started_at));
        let failure = match &record.status {
            RecordStatus::Failed(failure) => format!("; it said: {}", messages::failure(failure)),
            RecordStatus::Intended | RecordStatus::Succeeded(_) | RecordStatus::Undoing(_) | RecordStatus::Reverted => {
                String::new()
            }
        };
        format!(
            "{} in epoch {}{began} ({}, run {}, attempt {}){failure}",
            status_word(&record.status),
            intent.epoch,
            intent.release.label,
            intent.run,
            intent.attempt
        )
    }

    fn probe_text(&self) -> String {
        match self.probe {
            None => "not run".to_owned(),
            Some((question, ms, finding)) => {
                let about = match question {
                    ProbeInput::Current => "",
                    ProbeInput::Recorded => ", with the recorded input",
                };
                format!("{}{about} ({})", messages::finding(finding), format_duration(ms))
            }
        }
    }

    fn outcome_text(&self) -> Option<String> {
        match (self.outcome, self.fingerprint) {
            (None, None) => None,
            (None, Some(_)) => Some(self.no_outcome_text()),
            (Some(outcome), _) => Some(outcome_text(outcome)),
        }
    }

    /// Why a step that was begun has no outcome on record.
    fn no_outcome_text(&self) -> String {
        match self.summary.exit {
            None => "none on record: the step was killed, or is still running".to_owned(),
            Some(ExitKind::Interrupted) => "unknown: the step was interrupted".to_owned(),
            Some(_) => {
                format!("unknown: the attempt ended before it ({})", messages::result(self.summary.exit, false))
            }
        }
    }

    /// Whether the attempt undid the step; none if it did not begin to.
    fn is_undone(&self) -> Option<bool> {
        match self.status {
            StepStatus::Undone => Some(true),
            StepStatus::Undoing | StepStatus::UndoFailed => Some(false),
            StepStatus::NotReached
            | StepStatus::Skipped
            | StepStatus::Adopted
            | StepStatus::Started
            | StepStatus::Ran
            | StepStatus::Failed
            | StepStatus::Unknown
            | StepStatus::Stopped => None,
        }
    }

    fn json(&self) -> Value {
        let JournalHeader { run, attempt, epoch, release, .. } = &self.summary.header;
        let decision = self.decisions.last();
        let changes = self.changes();
        let changed: Vec<_> = changes
            .iter()
            .map(|FingerprintChange { component, old, new }| json!({"component": component, "old": old, "new": new}))
            .collect();
        json!({
            "step": self.step_target.step,
            "target": self.step_target.target,
            "epoch": epoch,
            "run": run,
            "attempt": attempt,
            "release": release,
            "decision": decision.map(|decision| messages::decision(decision)),
            "because": decision.map(|decision| messages::reason_name(messages::reason_of(decision))),
            "words": decision.map_or_else(|| self.not_reached_text(), |decision| messages::decision_reason(decision)),
            "changed": changed,
            "probe": self.probe.map(|(question, took_ms, finding)| json!({
                "finding": messages::finding_name(finding),
                "question": question,
                "took-ms": took_ms,
                "words": messages::finding(finding),
            })),
            "record": self.record.map(|record| json!({
                "status": status_word(&record.status),
                "run": record.intent.run,
                "attempt": record.intent.attempt,
                "epoch": record.intent.epoch,
                "release": record.intent.release,
                "began": record.intent.attempt_started_at,
            })),
            "resolved": self.resolution.as_ref().map(RecordedResolution::json),
            "outcome": self.outcome.map(outcome_json),
            "again": self.repetition.map(|StepRepetition { release, outcome }| json!({
                "release": release,
                "outcome": outcome.map(outcome_json),
            })),
            "undone": self.is_undone(),
        })
    }
}

fn outcome_text((ms, outcome): (u64, &StepOutcome)) -> String {
    let took = format_duration(ms);
    match outcome {
        StepOutcome::Succeeded { receipt } => {
            let notes = messages::notes(&receipt.notes);
            let notes = if notes.is_empty() { notes } else { format!(": {notes}") };
            format!("succeeded in {took}{notes}")
        }
        StepOutcome::Failed { failure } => format!("failed after {took}: {}", messages::failure(failure)),
        StepOutcome::Unknown { failure } => format!("unknown after {took}: {}", messages::failure(failure)),
    }
}

fn outcome_json((took_ms, outcome): (u64, &StepOutcome)) -> Value {
    json!({ "result": messages::outcome(outcome), "took-ms": took_ms, "failure": failure(outcome) })
}

fn failure(outcome: &StepOutcome) -> Option<&StepFailure> {
    match outcome {
        StepOutcome::Failed { failure } | StepOutcome::Unknown { failure } => Some(failure),
        StepOutcome::Succeeded { .. } => None,
    }
}

/// The word for the status of a record; `runner status` uses it too.
pub(super) fn status_word(status: &RecordStatus) -> &'static str {
    match status {
        RecordStatus::Intended => "interrupted",
        RecordStatus::Succeeded(_) => "succeeded",
        RecordStatus::Failed(_) => "failed",
        RecordStatus::Undoing(_) => "half undone",
        RecordStatus::Reverted => "undone",
    }
}

#[cfg(test)]
mod tests;
