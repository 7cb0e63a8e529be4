//! Decisions, reasons, findings and results in plain English: one wording for the terminal, `why`, `status` and `history`.
//!
//! A phrase has no capital and no full stop, so that it can follow a colon. It may contain foreign text: the caller passes it
//! through [`contract::text`] before writing. Deliberately absent: anything that is decided from these phrases.

use serde_json::{Map, Value};

use contract::text;
use contract::{
    diagnostic::ExitKind,
    step::{MessageLevel, ProbeFinding, Receipt, StepFailure, StepOutcome, StepPhase},
};
use journal::{
    FindingSummary,
    event::{Decision, DecisionReason, Resolution, StepTarget},
};

/// The most changed components that a phrase names; `why` lists all.
const MAX_NAMED_COMPONENTS: usize = 3;

/// The word for a decision, in the present tense.
#[must_use]
pub fn decision(decision: &Decision) -> &'static str {
    match decision {
        Decision::Skip { .. } => "skip",
        Decision::Adopt { .. } => "adopt",
        Decision::Run { .. } => "run",
        Decision::Stop { .. } => "stop",
    }
}

/// What an operator says about a step.
#[must_use]
pub fn resolution(resolution: &Resolution) -> &'static str {
    match resolution {
        Resolution::Done { .. } | Resolution::Confirmed => "done",
        Resolution::Undone => "undone",
        Resolution::NotBegun => "not begun",
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

/// The reason of a decision, as a phrase.
#[must_use]
pub fn decision_reason(decision: &Decision) -> String {
    match (decision, reason_of(decision)) {
        (Decision::Skip { .. }, DecisionReason::RequestedByOperator) => "the operator marked it as done".to_owned(),
        (Decision::Run { .. }, DecisionReason::RequestedByOperator) => "the operator selected it".to_owned(),
        (_, because) => reason(because),
    }
}

/// A reason, as a phrase.
#[must_use]
pub fn reason(reason: &DecisionReason) -> String {
    match reason {
        DecisionReason::NeverRan => "first run".to_owned(),
        DecisionReason::Reverted => "it was rolled back".to_owned(),
        DecisionReason::FailedBefore => "it failed last time".to_owned(),
        DecisionReason::Changed { components } => changed_reason(components),
        DecisionReason::Held => "its effect still holds".to_owned(),
        DecisionReason::Absent => "its effect is missing".to_owned(),
        DecisionReason::Drifted { why } => format!("drift: {why}"),
        DecisionReason::DriftAccepted { why } => format!("the operator accepted this: {why}"),
        DecisionReason::Unknown { why } => format!("its probe could not verify its effect: {why}"),
        DecisionReason::Trusted => "trusted: this run recorded it as done, and it has no probe".to_owned(),
        DecisionReason::Stale { check } => format!("check {check} did not pass after it ran, and it has no probe"),
        DecisionReason::HostRecord => "the connection was lost, and the host recorded its success".to_owned(),
        DecisionReason::NotConfirmed => "the host undid it, since nobody confirmed it in time".to_owned(),
        DecisionReason::MadeElsewhere => "another machine ran it, and it has no probe".to_owned(),
        DecisionReason::Always => "it runs in each attempt".to_owned(),
        DecisionReason::InvalidInput { message } => message.clone(),
        DecisionReason::RehearsalFailed { message } => format!("its rehearsal failed: {message}"),
        DecisionReason::NoProbe => "it has no probe to verify its effect".to_owned(),
        DecisionReason::Interrupted { finding } => interrupted_reason("it was interrupted", finding.as_ref()),
        DecisionReason::Unconfirmed { finding } => {
            interrupted_reason("its record is unauthenticated or missing", finding.as_ref())
        }
        DecisionReason::UpstreamRan => "an earlier step ran".to_owned(),
        DecisionReason::CheckFailed { why } => format!("its check failed: {why}"),
        DecisionReason::Fresh => "--fresh ignores earlier records".to_owned(),
        DecisionReason::RequestedByOperator => "the operator requested it".to_owned(),
        DecisionReason::NotSelected => "it was not selected".to_owned(),
        DecisionReason::ProbeFailed { message } => format!("its probe failed: {message}"),
        DecisionReason::UndoUnfinished => "the rollback of its release is unfinished".to_owned(),
        DecisionReason::NotInRollback => "a rollback leaves the database as it is".to_owned(),
    }
}

/// The kebab-case name of a reason, as the journal has it.
#[must_use]
pub fn reason_name(reason: &DecisionReason) -> String {
    let value = serde_json::to_value(reason).expect("a reason has only text keys");
    value.get("because").and_then(Value::as_str).expect("a reason is tagged with `because`").to_owned()
}

/// The name of a component of a fingerprint.
#[must_use]
pub fn component(name: &str) -> String {
    match name {
        "module" => "its module".to_owned(),
        "contract" => "the step contract".to_owned(),
        "config" => "its configuration".to_owned(),
        "grants" => "its grants".to_owned(),
        "target" => "its target".to_owned(),
        "upstream" => "outputs of earlier steps".to_owned(),
        "release" => "the release".to_owned(),
        name => match name.strip_prefix("input:") {
            Some(path) => path.to_owned(),
            None => format!("`{name}`"),
        },
    }
}

/// The finding of a probe, as a phrase.
#[must_use]
pub fn finding(finding: &ProbeFinding) -> String {
    match finding {
        ProbeFinding::Held { .. } => "its effect holds".to_owned(),
        ProbeFinding::Absent => "its effect is missing".to_owned(),
        ProbeFinding::Drifted { why } => format!("drift: {why}"),
        ProbeFinding::Unknown { why } => format!("the probe could not verify its effect: {why}"),
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

/// The word for an outcome.
#[must_use]
pub fn outcome(outcome: &StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Succeeded { .. } => "succeeded",
        StepOutcome::Failed { .. } => "failed",
        StepOutcome::Unknown { .. } => "unknown",
    }
}

/// A failure in one sentence, after its position in a file if it has one: `migrations/7.sql:3: no such table`.
#[must_use]
pub fn failure(failure: &StepFailure) -> String {
    match failure_position(failure) {
        Some(position) if !failure.message.contains(file_name(&position)) => format!("{position}: {}", failure.message),
        Some(_) | None => failure.message.clone(),
    }
}

/// What a step found that had nothing to do: `nothing to do: found app/cache`.
#[must_use]
pub fn nothing_to_do(notes: &Map<String, Value>) -> String {
    let found = self::notes(notes);
    if found.is_empty() { "nothing to do".to_owned() } else { format!("nothing to do: {found}") }
}

/// The notes of a receipt in a few words: `2 files, 1.0 MiB`.
///
/// Numbers come before their name. Nested values are left out, and so are `took_ms` and `ran`: a line has the time and the word.
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
    // That a step ran is said by its status.
    let is_shown = |name: &str| !["took_ms", "ran"].contains(&name);
    notes.iter().filter(|(name, _)| is_shown(name)).filter_map(phrase).collect::<Vec<_>>().join(", ")
}

/// The migrations that a step applied in this attempt; empty for a step that does not migrate.
#[must_use]
pub fn applied_migrations(receipt: &Receipt) -> Vec<String> {
    let files = receipt.notes.get("applied_now").and_then(Value::as_array);
    files.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The fields of a log message: ` key=value …`, or an empty text.
#[must_use]
pub fn fields(fields: &Map<String, Value>) -> String {
    let mut phrase = String::new();
    for (name, value) in fields {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        phrase.push_str(&format!(" {name}={value}"));
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

/// The result of an attempt in a word or two. Without an exit, it was killed or is still running.
#[must_use]
pub fn result(exit: Option<ExitKind>, verified: bool) -> &'static str {
    match exit {
        Some(ExitKind::Success) if verified => "deployed",
        Some(ExitKind::Success) => "partially deployed",
        Some(ExitKind::Failed) => "failed",
        Some(ExitKind::Refused) => "refused",
        Some(ExitKind::InDoubt) => "stopped",
        Some(ExitKind::RolledBack) => "rolled back",
        Some(ExitKind::Locked) => "locked",
        Some(ExitKind::Journal) => "journal error",
        Some(ExitKind::Bug) => "internal error",
        Some(ExitKind::Interrupted) | None => "interrupted",
    }
}

/// The result of an attempt, and the step it ended at: "failed at `migrate`".
#[must_use]
pub fn result_at_step(exit: Option<ExitKind>, verified: bool, failed_step: Option<&StepTarget>) -> String {
    let result = result(exit, verified);
    match (exit, failed_step) {
        (Some(ExitKind::Success), _) | (_, None) => result.to_owned(),
        (Some(ExitKind::RolledBack), Some(step_target)) => format!("{result} after {step_target} failed"),
        (_, Some(step_target)) => format!("{result} at {step_target}"),
    }
}

/// What an operator did that an attempt continues after, for its heading.
#[must_use]
pub fn continues_after_resolution(by: &str, step_target: &StepTarget) -> String {
    format!("{by} resolved {step_target}")
}

/// The event that an attempt continues after, for its heading: "`migrate` failed".
#[must_use]
pub fn continues_after(exit: Option<ExitKind>, failed_step: Option<&StepTarget>) -> String {
    match (exit, failed_step) {
        (Some(ExitKind::Failed | ExitKind::RolledBack), Some(step_target)) => format!("{step_target} failed"),
        (Some(ExitKind::InDoubt), Some(step_target)) => format!("{step_target} was stopped"),
        (Some(ExitKind::Refused), Some(step_target)) => format!("{step_target} was refused"),
        (Some(ExitKind::Refused), None) => "a refusal".to_owned(),
        (_, Some(step_target)) => format!("{step_target} was interrupted"),
        (Some(ExitKind::Success), None) => "a partial deployment".to_owned(),
        (_, None) => "an interruption".to_owned(),
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
        None => "its inputs changed".to_owned(),
        Some((only, [])) => format!("{only} changed"),
        Some((last, names)) => format!("{} and {last} changed", names.join(", ")),
    }
}

fn interrupted_reason(record: &str, finding: Option<&FindingSummary>) -> String {
    match finding {
        None => format!("{record}; outcome unknown"),
        Some(FindingSummary::Held) => format!("{record}; the probe found its effect"),
        Some(FindingSummary::Absent) => format!("{record}; the probe found no effect"),
        Some(FindingSummary::Drifted { why }) => format!("{record}; the probe found drift: {why}"),
        Some(FindingSummary::Unknown { why }) => format!("{record}; the probe could not verify its effect: {why}"),
        Some(FindingSummary::Other { text }) => format!("{record}; the probe reported: {text}"),
    }
}

/// The last part of a path. A message that contains it needs no path before it.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The known part of `file:line:column` of a failure.
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
    use contract::step::FailureKind;

    fn failing(message: &str, details: Value) -> StepFailure {
        let Value::Object(details) = details else { panic!("details are an object") };
        StepFailure { kind: FailureKind::Permanent, message: message.to_owned(), hint: None, retryable: false, details }
    }

    #[test]
    fn changed_components_are_named_up_to_a_limit() {
        for (components, words) in [
            (&[][..], "its inputs changed"),
            (&["config"], "its configuration changed"),
            (&["config", "input:migrations/7.sql"], "its configuration and migrations/7.sql changed"),
            (
                &["config", "grants", "module", "release"],
                "its configuration, its grants, its module and the release changed",
            ),
            (
                &["config", "grants", "input:a", "input:b", "input:c"],
                "its configuration, its grants, a and 2 more changed",
            ),
        ] {
            let components = components.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(reason(&DecisionReason::Changed { components }), words);
        }
    }

    #[test]
    fn operator_request_reads_by_its_decision() {
        let skip = Decision::Skip { reason: DecisionReason::RequestedByOperator, receipt: Receipt::default() };
        assert_eq!(decision_reason(&skip), "the operator marked it as done");
        assert_eq!(
            decision_reason(&Decision::Run { reason: DecisionReason::RequestedByOperator }),
            "the operator selected it"
        );
    }

    #[test]
    fn reason_names_match_the_journal() {
        assert_eq!(reason_name(&DecisionReason::NeverRan), "never-ran");
        assert_eq!(reason_name(&DecisionReason::Drifted { why: "x".to_owned() }), "drifted");
    }

    #[test]
    fn failure_names_file_and_line_once() {
        let at = json!({"file": "m/7.sql", "line": 3, "column": 9});
        assert_eq!(failure(&failing("no such table", at.clone())), "m/7.sql:3:9: no such table");
        assert_eq!(failure(&failing("m/7.sql:3:9: no such table", at)), "m/7.sql:3:9: no such table");
        assert_eq!(failure(&failing("no", json!({"file": "m/7.sql", "column": 9}))), "m/7.sql: no");
        assert_eq!(failure(&failing("7.sql was changed", json!({"file": "m/7.sql"}))), "7.sql was changed");
        assert_eq!(failure(&failing("no", json!({"line": 3}))), "no");
    }

    #[test]
    fn interrupted_step_has_the_finding_of_its_probe() {
        let words = |finding: Option<FindingSummary>| reason(&DecisionReason::Interrupted { finding });
        assert_eq!(words(None), "it was interrupted; outcome unknown");
        assert_eq!(
            words(Some(FindingSummary::Drifted { why: "x: y".to_owned() })),
            "it was interrupted; the probe found drift: x: y"
        );
        assert_eq!(words(Some(FindingSummary::Held)), "it was interrupted; the probe found its effect");
    }

    #[test]
    fn notes_read_as_amounts() {
        let notes = json!({"files": 2, "bytes": 2048, "from_cache": true, "nested": {}, "took_ms": 7, "ran": true, "mode": "full"});
        let Value::Object(notes) = notes else { panic!("notes are an object") };
        assert_eq!(super::notes(&notes), "2 files, 2.0 KiB, from cache, mode full");
    }

    #[test]
    fn results_name_the_step() {
        let step_target = StepTarget { step: "migrate".parse().unwrap(), target: contract::TargetName::local() };
        assert_eq!(result_at_step(Some(ExitKind::Failed), false, Some(&step_target)), "failed at `migrate`");
        assert_eq!(
            result_at_step(Some(ExitKind::RolledBack), false, Some(&step_target)),
            "rolled back after `migrate` failed"
        );
        assert_eq!(result_at_step(None, false, Some(&step_target)), "interrupted at `migrate`");
        assert_eq!(result_at_step(Some(ExitKind::Success), true, None), "deployed");
        assert_eq!(continues_after(Some(ExitKind::Failed), Some(&step_target)), "`migrate` failed");
        assert_eq!(continues_after(None, None), "an interruption");
    }
}
