//! Decisions, reasons, findings and endings in plain English: one wording for the terminal, `why`, `status` and `history`.
//!
//! A phrase has no capital and no full stop, so that it can stand after "because". It may hold foreign text: whoever
//! writes it out passes it through [`contract::text`]. Deliberately absent: anything decided from these words.

use serde_json::{Map, Value};

use contract::text;
use contract::{
    diagnostic::ExitKind,
    step::{MessageLevel, ProbeFinding, StepFailure, StepOutcome, StepPhase},
};
use journal::{
    FindingSummary,
    event::{Decision, DecisionReason, StepTarget},
};

/// How many changed components are named in a phrase; `why` lists all.
const MAX_NAMED_COMPONENTS: usize = 3;

/// The word for a decision, in the present: what is done.
#[must_use]
pub fn decision(decision: &Decision) -> &'static str {
    match decision {
        Decision::Skip { .. } => "skip",
        Decision::Adopt { .. } => "adopt",
        Decision::Run { .. } => "run",
        Decision::Stop { .. } => "stop",
    }
}

/// The reason of a decision.
#[must_use]
pub fn reason_of(decision: &Decision) -> &DecisionReason {
    match decision {
        Decision::Skip { reason, .. }
        | Decision::Adopt { reason, .. }
        | Decision::Run { reason }
        | Decision::Stop { reason } => reason,
    }
}

/// Why a decision was taken, as it stands after "because".
#[must_use]
pub fn decision_reason(decision: &Decision) -> String {
    match (decision, reason_of(decision)) {
        (Decision::Skip { .. }, DecisionReason::RequestedByOperator) => "you say that it is done".to_owned(),
        (Decision::Run { .. }, DecisionReason::RequestedByOperator) => "you named it".to_owned(),
        (_, because) => reason(because),
    }
}

/// A reason, as it stands after "because".
#[must_use]
pub fn reason(reason: &DecisionReason) -> String {
    match reason {
        DecisionReason::NeverRan => "it never ran here".to_owned(),
        DecisionReason::Reverted => "it was undone".to_owned(),
        DecisionReason::FailedBefore => "it failed the last time".to_owned(),
        DecisionReason::Changed { components } => changed_reason(components),
        DecisionReason::Held => "its effect still holds".to_owned(),
        DecisionReason::Absent => "its effect is not there".to_owned(),
        DecisionReason::Drifted { why } => format!("something else is there: {why}"),
        DecisionReason::DriftAccepted { why } => format!("you accept what is there: {why}"),
        DecisionReason::Unknown { why } => format!("it can't be told whether its effect holds: {why}"),
        DecisionReason::Trusted => "it is done in this run, and has no probe to ask".to_owned(),
        DecisionReason::NoProbe => "it has no probe that could tell whether its effect holds".to_owned(),
        DecisionReason::Interrupted { finding } => interrupted_reason("it was begun and did not end", finding.as_ref()),
        DecisionReason::Unconfirmed { finding } => {
            interrupted_reason("what is known of it is not confirmed", finding.as_ref())
        }
        DecisionReason::UpstreamRan => "a step before it ran".to_owned(),
        DecisionReason::CheckFailed { why } => format!("its check did not hold: {why}"),
        DecisionReason::Fresh => "--fresh ignores what is on record".to_owned(),
        DecisionReason::RequestedByOperator => "you said so".to_owned(),
        DecisionReason::NotSelected => "it was not selected".to_owned(),
        DecisionReason::ProbeFailed { message } => format!("its probe failed: {message}"),
        DecisionReason::UndoUnfinished => "the release that it belongs to was being undone".to_owned(),
    }
}

/// The kebab-case name of a reason, as the journal has it.
#[must_use]
pub fn reason_name(reason: &DecisionReason) -> String {
    let value = serde_json::to_value(reason).expect("a reason has only text keys");
    value.get("because").and_then(Value::as_str).expect("a reason is tagged with `because`").to_owned()
}

/// What a component of a fingerprint is called.
#[must_use]
pub fn component(name: &str) -> String {
    match name {
        "module" => "its module".to_owned(),
        "contract" => "the step contract".to_owned(),
        "config" => "its configuration".to_owned(),
        "grants" => "what it is granted".to_owned(),
        "target" => "its target".to_owned(),
        "upstream" => "what earlier steps gave it".to_owned(),
        "release" => "the release".to_owned(),
        name => match name.strip_prefix("input:") {
            Some(path) => path.to_owned(),
            None => format!("`{name}`"),
        },
    }
}

/// What a probe found.
#[must_use]
pub fn finding(finding: &ProbeFinding) -> String {
    match finding {
        ProbeFinding::Held { .. } => "its effect holds".to_owned(),
        ProbeFinding::Absent => "its effect is not there".to_owned(),
        ProbeFinding::Drifted { why } => format!("something else is there: {why}"),
        ProbeFinding::Unknown { why } => format!("it can't be told: {why}"),
        ProbeFinding::Failed { failure } => format!("the probe failed: {}", self::failure(failure)),
    }
}

/// The word for a finding.
#[must_use]
pub fn finding_name(finding: &ProbeFinding) -> &'static str {
    match finding {
        ProbeFinding::Held { .. } => "held",
        ProbeFinding::Absent => "absent",
        ProbeFinding::Drifted { .. } => "drifted",
        ProbeFinding::Unknown { .. } => "unknown",
        ProbeFinding::Failed { .. } => "failed",
    }
}

/// The word for how an action ended.
#[must_use]
pub fn outcome(outcome: &StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Succeeded { .. } => "succeeded",
        StepOutcome::Failed { .. } => "failed",
        StepOutcome::Unknown { .. } => "unknown",
    }
}

/// A failure in one sentence, with the place in a file where it has one: `migrations/7.sql:3: no such table`.
#[must_use]
pub fn failure(failure: &StepFailure) -> String {
    match failure_position(failure) {
        Some(position) if !failure.message.contains(file_name(&position)) => format!("{position}: {}", failure.message),
        Some(_) | None => failure.message.clone(),
    }
}

/// Notes of a receipt in a few words: `2 files, 1.0 MiB`. Numbers come before their name; what is nested is left out, and so
/// is `took_ms`: a line ends with the time anyway.
#[must_use]
pub fn notes(notes: &Map<String, Value>) -> String {
    let phrase = |(name, value): (&String, &Value)| {
        let name = name.replace('_', " ");
        match value {
            Value::Number(number) => Some(match number.as_u64() {
                Some(count) => text::format_amount(count, None, &name),
                None => format!("{name} {number}"),
            }),
            Value::String(value) => Some(format!("{name} {value}")),
            Value::Bool(true) => Some(name),
            Value::Bool(false) | Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    };
    notes.iter().filter(|(name, _)| *name != "took_ms").filter_map(phrase).collect::<Vec<_>>().join(", ")
}

/// Fields of a log message: ` key=value …`, empty when there are none.
#[must_use]
pub fn fields(fields: &Map<String, Value>) -> String {
    let mut phrase = String::new();
    for (name, value) in fields {
        match value {
            Value::String(value) => phrase.push_str(&format!(" {name}={value}")),
            other => phrase.push_str(&format!(" {name}={other}")),
        }
    }
    phrase
}

/// The word for a level.
#[must_use]
pub fn level(level: MessageLevel) -> &'static str {
    match level {
        MessageLevel::Trace => "trace",
        MessageLevel::Debug => "debug",
        MessageLevel::Info => "info",
        MessageLevel::Warn => "warn",
        MessageLevel::Error => "error",
    }
}

/// The word for a phase.
#[must_use]
pub fn phase(phase: StepPhase) -> &'static str {
    match phase {
        StepPhase::Prepare => "prepare",
        StepPhase::Commit => "commit",
        StepPhase::Check => "check",
    }
}

/// How an attempt ended, in a word or two. None: it was killed, or still runs.
#[must_use]
pub fn result(exit: Option<ExitKind>, verified: bool) -> &'static str {
    match exit {
        Some(ExitKind::Success) if verified => "deployed",
        Some(ExitKind::Success) => "done in part",
        Some(ExitKind::Failed) => "failed",
        Some(ExitKind::Refused) => "refused",
        Some(ExitKind::InDoubt) => "stopped",
        Some(ExitKind::RolledBack) => "rolled back",
        Some(ExitKind::Locked) => "locked",
        Some(ExitKind::Journal) => "bad journal",
        Some(ExitKind::Bug) => "broken off",
        Some(ExitKind::Interrupted) | None => "interrupted",
    }
}

/// How an attempt ended, and where: "failed at `migrate`".
#[must_use]
pub fn result_at_step(exit: Option<ExitKind>, verified: bool, stuck: Option<&StepTarget>) -> String {
    let result = result(exit, verified);
    match (exit, stuck) {
        (Some(ExitKind::Success), _) | (_, None) => result.to_owned(),
        (Some(ExitKind::RolledBack), Some(step_target)) => format!("{result} after {step_target} failed"),
        (_, Some(step_target)) => format!("{result} at {step_target}"),
    }
}

/// What an attempt continues after, for its heading: "`migrate` failed".
#[must_use]
pub fn continues_after(exit: Option<ExitKind>, stuck: Option<&StepTarget>) -> String {
    match (exit, stuck) {
        (Some(ExitKind::Failed | ExitKind::RolledBack), Some(step_target)) => format!("{step_target} failed"),
        (Some(ExitKind::InDoubt), Some(step_target)) => format!("{step_target} was stopped"),
        (_, Some(step_target)) => format!("{step_target} was interrupted"),
        (Some(ExitKind::Success), None) => "a part of it was done".to_owned(),
        (_, None) => "it was interrupted".to_owned(),
    }
}

fn changed_reason(components: &[String]) -> String {
    let mut names: Vec<_> = components.iter().map(|name| component(name)).collect();
    if names.len() > MAX_NAMED_COMPONENTS + 1 {
        let more = names.len() - MAX_NAMED_COMPONENTS;
        names.truncate(MAX_NAMED_COMPONENTS);
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        None => "what it depends on changed".to_owned(),
        Some((only, [])) => format!("{only} changed"),
        Some((last, names)) => format!("{} and {last} changed", names.join(", ")),
    }
}

fn interrupted_reason(begun: &str, finding: Option<&FindingSummary>) -> String {
    match finding {
        None => format!("{begun}, and nothing tells how far it got"),
        Some(FindingSummary::Held) => format!("{begun}, and its probe finds it done"),
        Some(FindingSummary::Absent) => format!("{begun}, and its probe finds nothing done"),
        Some(FindingSummary::Drifted { why }) => format!("{begun}, and something else is there: {why}"),
        Some(FindingSummary::Unknown { why }) => format!("{begun}, and its probe can't tell how far it got: {why}"),
        Some(FindingSummary::Other { text }) => format!("{begun}, and its probe says: {text}"),
    }
}

/// The last part of a path: a message that names the file needs no path before it.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `file:line:column` of a failure, as far as it is known.
fn failure_position(failure: &StepFailure) -> Option<String> {
    let mut position = failure.details.get("file")?.as_str()?.to_owned();
    for part in ["line", "column"] {
        match failure.details.get(part).and_then(Value::as_u64) {
            Some(number) => position.push_str(&format!(":{number}")),
            None => break,
        }
    }
    Some(position)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failing(message: &str, details: Value) -> StepFailure {
        let Value::Object(details) = details else { panic!("details are an object") };
        StepFailure { kind: "permanent".to_owned(), message: message.to_owned(), hint: None, retryable: false, details }
    }

    #[test]
    fn what_changed_is_named_up_to_a_point() {
        for (components, words) in [
            (&[][..], "what it depends on changed"),
            (&["config"], "its configuration changed"),
            (&["config", "input:migrations/7.sql"], "its configuration and migrations/7.sql changed"),
            (
                &["config", "grants", "module", "release"],
                "its configuration, what it is granted, its module and the release changed",
            ),
            (
                &["config", "grants", "input:a", "input:b", "input:c"],
                "its configuration, what it is granted, a and 2 more changed",
            ),
        ] {
            let components = components.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(reason(&DecisionReason::Changed { components }), words);
        }
    }

    #[test]
    fn a_word_of_the_operator_means_what_was_decided() {
        let skip =
            Decision::Skip { reason: DecisionReason::RequestedByOperator, receipt: contract::step::Receipt::default() };
        assert_eq!(decision_reason(&skip), "you say that it is done");
        assert_eq!(decision_reason(&Decision::Run { reason: DecisionReason::RequestedByOperator }), "you named it");
    }

    #[test]
    fn the_names_of_reasons_are_those_of_the_journal() {
        assert_eq!(reason_name(&DecisionReason::NeverRan), "never-ran");
        assert_eq!(reason_name(&DecisionReason::Drifted { why: "x".to_owned() }), "drifted");
    }

    #[test]
    fn a_failure_names_file_and_line_once() {
        let at = json!({"file": "m/7.sql", "line": 3, "column": 9});
        assert_eq!(failure(&failing("no such table", at.clone())), "m/7.sql:3:9: no such table");
        assert_eq!(failure(&failing("m/7.sql:3:9: no such table", at)), "m/7.sql:3:9: no such table");
        assert_eq!(failure(&failing("no", json!({"file": "m/7.sql", "column": 9}))), "m/7.sql: no");
        assert_eq!(failure(&failing("7.sql was changed", json!({"file": "m/7.sql"}))), "7.sql was changed");
        assert_eq!(failure(&failing("no", json!({"line": 3}))), "no");
    }

    #[test]
    fn an_interrupted_step_says_what_its_probe_found() {
        let words = |finding: Option<FindingSummary>| reason(&DecisionReason::Interrupted { finding });
        assert_eq!(words(None), "it was begun and did not end, and nothing tells how far it got");
        assert_eq!(
            words(Some(FindingSummary::Drifted { why: "x: y".to_owned() })),
            "it was begun and did not end, and something else is there: x: y"
        );
        assert_eq!(words(Some(FindingSummary::Held)), "it was begun and did not end, and its probe finds it done");
    }

    #[test]
    fn notes_read_as_amounts() {
        let notes = json!({"files": 2, "bytes": 2048, "from_cache": true, "nested": {}, "took_ms": 7, "mode": "full"});
        let Value::Object(notes) = notes else { panic!("notes are an object") };
        assert_eq!(super::notes(&notes), "2 files, 2.0 KiB, from cache, mode full");
    }

    #[test]
    fn endings_name_the_step() {
        let step_target = StepTarget { step: "migrate".parse().unwrap(), target: contract::TargetName::local() };
        assert_eq!(result_at_step(Some(ExitKind::Failed), false, Some(&step_target)), "failed at `migrate`");
        assert_eq!(
            result_at_step(Some(ExitKind::RolledBack), false, Some(&step_target)),
            "rolled back after `migrate` failed"
        );
        assert_eq!(result_at_step(None, false, Some(&step_target)), "interrupted at `migrate`");
        assert_eq!(result_at_step(Some(ExitKind::Success), true, None), "deployed");
        assert_eq!(continues_after(Some(ExitKind::Failed), Some(&step_target)), "`migrate` failed");
        assert_eq!(continues_after(None, None), "it was interrupted");
    }
}
