//! The errors that end an attempt early, and their diagnostics for the user.

mod failure;

use super::left_behind::HostsLeftBehind;
pub use failure::migration_diagnostic;
pub(super) use failure::{failure_location, failure_summary, migration_code};

use contract::{
    AttemptNumber, TargetName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
    step::StepFailure,
    text::dotted_pointer,
};
use journal::{JournalError, Redactor, SecretLocation, StepTarget, event::DecisionReason};
use state::LockError;

/// An error that ends an attempt early.
#[derive(Debug)]
pub enum AttemptError {
    /// A step failed; `outcome_known` is false if it may have had its effect.
    Failed { step_target: StepTarget, failure: StepFailure, outcome_known: bool },
    /// A step is in doubt, and an operator must decide.
    InDoubt { step_target: StepTarget, reason: DecisionReason },
    /// An import does not find what a step leaves.
    NotImported { step_target: StepTarget, why: String },
    /// Steps would be refused, as their rehearsals say. No commit step has begun.
    RehearsalFailed { step_target: StepTarget, failure: StepFailure, others: Vec<(StepTarget, StepFailure)> },
    /// An error in the plan that only showed during the attempt.
    Plan(Diagnostic),
    /// A host that steps run on can't be worked on.
    Host(Diagnostic),
    /// The receipt on record of a step contains a value that has become a secret since.
    SecretInReceipt { step_target: StepTarget, found: SecretLocation },
    /// A step could not be undone.
    UndoFailed { step_target: StepTarget, failure: StepFailure },
    /// The rollback did not begin, because a step that the plan marks irreversible may have had its effect.
    Irreversible { step_target: StepTarget, not_undone: Vec<StepTarget> },
    /// The journal can't be written, so no further step may run.
    Journal(JournalError),
    /// The lock is lost or can't be confirmed, so no further step may run.
    Lock(LockError),
    /// The process got SIGINT or SIGTERM.
    Interrupted,
    /// Everything is done except on these hosts.
    HostsLeftBehind(HostsLeftBehind),
    /// A step ended so on more than one target.
    OnSeveralTargets { gravest: Box<AttemptError>, others: Vec<AttemptError> },
}

/// The facts for the hint that tells the operator how to resume.
#[derive(Clone, Copy, Debug)]
pub struct ResumeHint<'a> {
    /// The command that resumes the deployment.
    pub resume_command: &'a str,
    /// The command that records how a step ended, if there is a plan file.
    pub resolve_command: Option<&'a str>,
    /// Whether journals come from the artifacts of a CI run, where only a key authenticates them.
    pub has_checkpoints: bool,
    /// What the next attempt does.
    pub next: &'a NextAttempt,
}

/// What the next attempt does, as far as that is certain.
#[derive(Clone, Debug)]
pub struct NextAttempt {
    /// The steps that it skips.
    pub skipped_steps: Vec<String>,
    /// The first step that it stops at, and why.
    pub stop: Option<(StepTarget, DecisionReason)>,
    /// Whether it probes the failed step before it runs that again.
    pub probes_failed_step: bool,
    /// The step that installed the release that the failed step works on. A corrected release is another one.
    pub release_step: Option<String>,
    /// The outputs of [`stop`](Self::stop)'s step that later steps look up.
    pub needed_outputs: Vec<String>,
}

impl Default for NextAttempt {
    fn default() -> Self {
        Self {
            skipped_steps: Vec::new(),
            stop: None,
            probes_failed_step: true,
            release_step: None,
            needed_outputs: Vec::new(),
        }
    }
}

impl ResumeHint<'_> {
    /// The command that records how a step ended, after a sentence that leads to it.
    pub(super) fn resolve(&self, lead: &str, step_target: &StepTarget, outcome: &str) -> String {
        let StepTarget { step, target } = step_target;
        let target = if *target == TargetName::local() { String::new() } else { format!(" --target {target}") };
        let outputs: String = match outcome {
            "done" => self.next.needed_outputs.iter().map(|name| format!(" --output {name}=VALUE")).collect(),
            _ => String::new(),
        };
        self.resolve_command.map_or_else(String::new, |command| {
            format!("{lead} `{command} {step}{target} --as {outcome}{outputs} --message \"checked by hand\"`")
        })
    }
}

impl From<JournalError> for AttemptError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<LockError> for AttemptError {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

impl AttemptError {
    /// The errors of a step on its targets as one; none if there is none.
    pub(super) fn of_several(mut errors: Vec<Self>) -> Option<Self> {
        let (gravest, _) = errors.iter().enumerate().min_by_key(|(_, error)| error.rank())?;
        let gravest = errors.remove(gravest);
        Some(match errors.is_empty() {
            true => gravest,
            false => Self::OnSeveralTargets { gravest: Box::new(gravest), others: errors },
        })
    }

    /// Which of several errors decides how the attempt ends: the lowest.
    fn rank(&self) -> u8 {
        match self {
            Self::Journal(_) | Self::Lock(_) => 0,
            Self::Interrupted => 1,
            Self::InDoubt { .. } | Self::SecretInReceipt { .. } | Self::UndoFailed { .. } => 2,
            Self::Irreversible { .. } | Self::NotImported { .. } => 3,
            Self::Failed { outcome_known: false, .. } => 4,
            Self::Failed { outcome_known: true, .. } | Self::RehearsalFailed { .. } => 5,
            Self::Plan(_) | Self::Host(_) | Self::HostsLeftBehind(_) => 6,
            Self::OnSeveralTargets { gravest, .. } => gravest.rank(),
        }
    }

    /// The error that decides how the attempt ends.
    pub(super) fn gravest(&self) -> &Self {
        if let Self::OnSeveralTargets { gravest, .. } = self { gravest } else { self }
    }

    /// The step that the error is about, if any.
    pub(super) fn step_target(&self) -> Option<&StepTarget> {
        match self {
            Self::OnSeveralTargets { gravest, .. } => gravest.step_target(),
            Self::Failed { step_target, .. }
            | Self::InDoubt { step_target, .. }
            | Self::NotImported { step_target, .. }
            | Self::RehearsalFailed { step_target, .. }
            | Self::SecretInReceipt { step_target, .. }
            | Self::UndoFailed { step_target, .. }
            | Self::Irreversible { step_target, .. } => Some(step_target),
            Self::Plan(_)
            | Self::Host(_)
            | Self::HostsLeftBehind(_)
            | Self::Journal(_)
            | Self::Lock(_)
            | Self::Interrupted => None,
        }
    }

    /// All steps that it is about, each on its target.
    pub(super) fn step_targets(&self) -> Vec<&StepTarget> {
        match self {
            Self::OnSeveralTargets { gravest, others } => {
                std::iter::once(&**gravest).chain(others).filter_map(Self::step_target).collect()
            }
            Self::Failed { .. }
            | Self::InDoubt { .. }
            | Self::NotImported { .. }
            | Self::RehearsalFailed { .. }
            | Self::Plan(_)
            | Self::Host(_)
            | Self::SecretInReceipt { .. }
            | Self::UndoFailed { .. }
            | Self::Irreversible { .. }
            | Self::HostsLeftBehind(_)
            | Self::Journal(_)
            | Self::Lock(_)
            | Self::Interrupted => self.step_target().into_iter().collect(),
        }
    }

    /// The steps that the next attempt decides about again before anything else.
    pub(super) fn failed_steps(&self) -> Vec<&StepTarget> {
        match self.gravest() {
            Self::Failed { step_target, .. } => vec![step_target],
            Self::HostsLeftBehind(left) => left.hosts.values().filter_map(|host| host.failed_step.as_ref()).collect(),
            Self::InDoubt { .. }
            | Self::NotImported { .. }
            | Self::RehearsalFailed { .. }
            | Self::Plan(_)
            | Self::Host(_)
            | Self::SecretInReceipt { .. }
            | Self::UndoFailed { .. }
            | Self::Irreversible { .. }
            | Self::Journal(_)
            | Self::Lock(_)
            | Self::Interrupted
            | Self::OnSeveralTargets { .. } => Vec::new(),
        }
    }

    /// Whether nothing may run after it, on whatever host.
    pub(super) fn ends_attempt(&self) -> bool {
        match self {
            Self::Journal(_) | Self::Lock(_) | Self::Interrupted => true,
            Self::OnSeveralTargets { gravest, .. } => gravest.ends_attempt(),
            Self::Failed { .. }
            | Self::InDoubt { .. }
            | Self::NotImported { .. }
            | Self::RehearsalFailed { .. }
            | Self::Plan(_)
            | Self::Host(_)
            | Self::SecretInReceipt { .. }
            | Self::UndoFailed { .. }
            | Self::Irreversible { .. }
            | Self::HostsLeftBehind(_) => false,
        }
    }

    /// What happened, in a line about the target that it happened on.
    pub(super) fn why_on_target(&self) -> String {
        match self {
            Self::Failed { step_target, failure, outcome_known: true } => {
                format!("step `{}` failed: {}", step_target.step, failure_summary(failure))
            }
            Self::Failed { step_target, failure, outcome_known: false } => {
                format!("the outcome of step `{}` is unknown: {}", step_target.step, failure_summary(failure))
            }
            Self::RehearsalFailed { step_target, failure, .. } => {
                format!("step `{}` would be refused: {}", step_target.step, failure_summary(failure))
            }
            Self::InDoubt { step_target, reason } => {
                let next = NextAttempt::default();
                let hint =
                    ResumeHint { resume_command: "", resolve_command: None, has_checkpoints: false, next: &next };
                let (_, why, _) = in_doubt(step_target, reason, &hint);
                format!("step `{}` is in doubt and was not run: {why}", step_target.step)
            }
            Self::UndoFailed { step_target, failure } => {
                format!("the rollback of step `{}` failed: {}", step_target.step, failure_summary(failure))
            }
            Self::Irreversible { step_target, .. } => {
                format!("not rolled back: step `{}` is irreversible", step_target.step)
            }
            Self::Plan(diagnostic) | Self::Host(diagnostic) => match diagnostic.causes.first() {
                Some(cause) => format!("{}: {cause}", diagnostic.message),
                None => diagnostic.message.clone(),
            },
            Self::NotImported { why, .. } => why.clone(),
            Self::SecretInReceipt { step_target, .. } => {
                format!("the record of step `{}` contains a secret", step_target.step)
            }
            Self::HostsLeftBehind(left) => left.summary(),
            Self::Journal(error) => error.to_string(),
            Self::Lock(error) => error.to_string(),
            Self::Interrupted => "interrupted".to_owned(),
            Self::OnSeveralTargets { gravest, .. } => gravest.why_on_target(),
        }
    }

    /// A short text of the error, without secrets, for warnings about hooks and pruning.
    pub(super) fn short_text(&self, redactor: &Redactor) -> String {
        match self {
            Self::Failed { failure, .. } | Self::RehearsalFailed { failure, .. } => redactor.redact(&failure.message),
            Self::OnSeveralTargets { gravest, .. } => gravest.short_text(redactor),
            Self::Interrupted => "interrupted before it ran".to_owned(),
            Self::Plan(diagnostic) | Self::Host(diagnostic) => redactor.redact(&diagnostic.message),
            Self::Lock(error) => error.to_string(),
            Self::Journal(error) => error.to_string(),
            Self::InDoubt { .. }
            | Self::NotImported { .. }
            | Self::SecretInReceipt { .. }
            | Self::UndoFailed { .. }
            | Self::HostsLeftBehind(_)
            | Self::Irreversible { .. } => "it did not finish".to_owned(),
        }
    }

    /// The diagnostic of the error, with the operator's next command as its hint.
    #[must_use]
    pub fn diagnostic(&self, attempt: AttemptNumber, resume_hint: &ResumeHint<'_>) -> Diagnostic {
        let ResumeHint { resume_command: again, next, .. } = resume_hint;
        let done = &next.skipped_steps;
        let skipped = if done.is_empty() { String::new() } else { format!(" (skips: {})", done.join(", ")) };
        match self {
            Self::Failed { step_target, failure, outcome_known: known } => {
                let stated = |codes: &[ErrorCode]| failure.stated_code().filter(|code| codes.contains(code));
                let code = if *known {
                    migration_code(failure).or(stated(&[ErrorCode::NotConfirmed])).unwrap_or(ErrorCode::StepFailed)
                } else {
                    // Only the runner reports an unknown outcome, so a module did not state these codes.
                    stated(&[ErrorCode::SecretInReceipt, ErrorCode::NotUndoneByHost]).unwrap_or(ErrorCode::StepLost)
                };
                let message = format!("step {step_target} failed on attempt {attempt}");
                let mut diagnostic = Diagnostic::new(code, message).with_cause(failure_summary(failure));
                let stops_here = next.stop.as_ref().is_some_and(|(stop, _)| stop == step_target);
                if !known {
                    diagnostic = diagnostic.with_cause(match (stops_here, next.probes_failed_step) {
                        (true, _) => {
                            "outcome unknown; nothing can tell what it did, so the next attempt would stop there"
                        }
                        (false, true) => "outcome unknown; the next attempt probes the step before it runs it",
                        (false, false) => "outcome unknown; the next attempt runs it again",
                    });
                }
                let advice = failure.hint.as_deref().unwrap_or("fix the cause");
                diagnostic.with_hint(match &next.stop {
                    // "Run again" would end in exactly this error.
                    Some((stop, reason)) => {
                        let (_, _, hint) = in_doubt(stop, reason, resume_hint);
                        let place = if stops_here {
                            String::new()
                        } else {
                            format!("the next attempt would stop at step {stop}: ")
                        };
                        format!("{advice}; {place}{hint}")
                    }
                    None => match &next.release_step {
                        Some(installer) => format!(
                            "{advice}; if the cause is in the release that `{installer}` installed, deploy a corrected release; otherwise run `{again}` again{skipped}"
                        ),
                        None => format!("{advice}; then run `{again}` again{skipped}"),
                    },
                })
            }
            Self::RehearsalFailed { step_target, failure, others } => {
                let message = format!("step {step_target} would be refused, so no commit step was begun");
                let others = others.iter().map(|(step_target, failure)| {
                    format!("step {step_target} would be refused too: {}", failure_summary(failure))
                });
                let mut diagnostic =
                    Diagnostic::new(ErrorCode::RehearsalFailed, message).with_cause(failure_summary(failure));
                diagnostic.causes.extend(others);
                let advice = failure.hint.as_deref().unwrap_or("fix the cause");
                diagnostic.with_hint(format!("{advice}; then run `{again}` again{skipped}"))
            }
            Self::InDoubt { step_target, reason } => {
                let (code, why, hint) = in_doubt(step_target, reason, resume_hint);
                Diagnostic::new(code, format!("step {step_target} is in doubt and was not run"))
                    .with_cause(why)
                    .with_hint(hint)
            }
            Self::NotImported { step_target, why } => {
                let message = format!("step {step_target} does not find the release that is to be imported");
                Diagnostic::new(ErrorCode::OtherReleaseLive, message)
                    .with_cause(why)
                    .with_hint("deploy the release instead: that repairs it, and puts it on record")
            }
            Self::SecretInReceipt { step_target, found } => {
                let field = dotted_pointer(&found.pointer);
                let message = format!("the record of step {step_target} contains {} in `{field}`", found.secret_text());
                Diagnostic::new(ErrorCode::SecretInReceipt, message)
                    .with_cause("it was recorded before the plan called this value a secret")
                    .with_hint(format!("{}; otherwise run `{again} --fresh`, and change the secret", found.hint()))
                    .with_exit(ExitKind::InDoubt)
            }
            Self::Plan(diagnostic) => diagnostic.clone(),
            Self::OnSeveralTargets { gravest, others } => {
                let diagnostic = gravest.diagnostic(attempt, resume_hint);
                on_other_targets(gravest, others).into_iter().fold(diagnostic, Diagnostic::with_cause)
            }
            Self::Host(diagnostic) => diagnostic.clone().with_exit(ExitKind::Failed),
            Self::HostsLeftBehind(left) => {
                let hint = match &next.stop {
                    Some((stop, reason)) => {
                        let (_, _, hint) = in_doubt(stop, reason, resume_hint);
                        format!("the next attempt would stop at step {stop}: {hint}")
                    }
                    None => format!("fix the cause there, then run `{again}` again: it runs what is missing"),
                };
                let diagnostic = Diagnostic::new(ErrorCode::HostsLeftBehind, left.summary()).with_hint(hint);
                left.lines().into_iter().fold(diagnostic, Diagnostic::with_cause)
            }
            Self::UndoFailed { step_target, failure } => {
                Diagnostic::new(ErrorCode::UndoFailed, format!("the rollback of step {step_target} failed"))
                    .with_cause(failure_summary(failure))
                    .with_hint(format!(
                        "fix the cause, then run `{again}` again: it finishes the rollback first{}",
                        resume_hint.resolve("; or undo the step by hand, then run", step_target, "undone")
                    ))
            }
            Self::Irreversible { step_target, not_undone: left } => {
                let left: Vec<_> = left.iter().map(ToString::to_string).collect();
                let message = format!("step {step_target} is irreversible; nothing was rolled back");
                let resume = match &next.stop {
                    Some((stop, reason)) => {
                        let (_, _, hint) = in_doubt(stop, reason, resume_hint);
                        format!("fix the cause; the next attempt would stop at step {stop}: {hint};")
                    }
                    None => format!("fix the cause and run `{again}` again,"),
                };
                Diagnostic::new(ErrorCode::Irreversible, message)
                    .with_cause("the plan marks it `irreversible: true`, and it ran after the release was exposed")
                    .with_cause(format!("not rolled back, last step first: {}", left.join(", ")))
                    .with_hint(format!("{resume} or run `runner rollback`"))
            }
            Self::Journal(error) => error.into(),
            Self::Lock(error) => error.into(),
            Self::Interrupted => Diagnostic::new(ErrorCode::Interrupted, "interrupted; the state is saved".to_owned())
                .with_hint(format!("run `{again}` again to continue{skipped}")),
        }
    }
}

/// What happened on the other targets, in a line for each kind.
fn on_other_targets(gravest: &AttemptError, others: &[AttemptError]) -> Vec<String> {
    let words = |error: &AttemptError| match error.gravest() {
        AttemptError::Failed { failure, .. }
        | AttemptError::RehearsalFailed { failure, .. }
        | AttemptError::UndoFailed { failure, .. } => failure_summary(failure),
        AttemptError::Plan(diagnostic) | AttemptError::Host(diagnostic) => diagnostic.message.clone(),
        AttemptError::InDoubt { .. } => "the step is in doubt and was not run".to_owned(),
        AttemptError::Interrupted => "interrupted".to_owned(),
        AttemptError::NotImported { why, .. } => why.clone(),
        AttemptError::SecretInReceipt { .. } | AttemptError::Irreversible { .. } => {
            "the step did not finish".to_owned()
        }
        AttemptError::HostsLeftBehind(left) => left.summary(),
        AttemptError::Journal(error) => error.to_string(),
        AttemptError::Lock(error) => error.to_string(),
        AttemptError::OnSeveralTargets { .. } => "the step failed".to_owned(),
    };
    let mut kinds: Vec<(String, Vec<String>)> = Vec::new();
    for other in others {
        let (words, target) = (words(other), other.step_target().map(|of| of.target.to_string()));
        match kinds.iter_mut().find(|(known, _)| *known == words) {
            Some((_, targets)) => targets.extend(target),
            None => kinds.push((words, target.into_iter().collect())),
        }
    }
    let first = words(gravest);
    let line = |(words, targets): (String, Vec<String>)| {
        let on = if targets.is_empty() { String::new() } else { format!(" on {}", listed(&targets)) };
        if words == first { format!("the same{on}") } else { format!("also{on}: {words}") }
    };
    kinds.into_iter().map(line).collect()
}

/// The names of targets, of many only the first.
pub(super) fn listed(targets: &[String]) -> String {
    const SHOWN: usize = 8;
    match targets.len().checked_sub(SHOWN) {
        None | Some(0) => targets.join(", "),
        Some(more) => format!("{} and {more} more", targets[..SHOWN].join(", ")),
    }
}

/// The error code, message and hint for a step that is in doubt.
fn in_doubt(
    step_target: &StepTarget,
    reason: &DecisionReason,
    resume_hint: &ResumeHint<'_>,
) -> (ErrorCode, String, String) {
    let (step, again) = (&step_target.step, resume_hint.resume_command);
    let run_it_again = format!("run `{again} --accept-drift {step}`");
    let accept = format!("or {run_it_again} to run step `{step}` anyway");
    match reason {
        DecisionReason::Drifted { why } => {
            (ErrorCode::Drifted, format!("drift: {why}"), format!("undo the change, {accept}"))
        }
        DecisionReason::Interrupted { finding } => {
            let why = match finding {
                Some(finding) => format!("it was interrupted, and its probe reported: {finding}"),
                None => "it was interrupted; outcome unknown, because it has no probe that can tell".to_owned(),
            };
            let done = resume_hint.resolve("; if it finished, run", step_target, "done");
            let hint = format!("check what it did{done}; if it did not finish, {run_it_again}");
            (ErrorCode::StepInDoubt, why, hint)
        }
        DecisionReason::Unconfirmed { finding } => {
            let why = match finding {
                Some(finding) => format!("its record is unauthenticated or missing, and its probe reported: {finding}"),
                None => "its record is unauthenticated or missing, and it has no probe".to_owned(),
            };
            let hint = if resume_hint.has_checkpoints {
                format!(
                    "give the job a `key` to authenticate its journal; or check what the step did, then {run_it_again} to run it again"
                )
            } else {
                let done = resume_hint.resolve("; if it finished, run", step_target, "done");
                format!("check what it did{done}; if it did not finish, {run_it_again}")
            };
            (ErrorCode::RecordUnconfirmed, why, hint)
        }
        DecisionReason::Unknown { why } => {
            let why = format!("its probe could not verify its effect: {why}");
            let done = resume_hint.resolve("; if its effect is right, run", step_target, "done");
            (ErrorCode::StepInDoubt, why, format!("check what it did{done}; {accept}"))
        }
        DecisionReason::ProbeFailed { message } => {
            let hint = format!("fix the cause, then run `{again}` again; `runner logs {step}` shows details");
            (ErrorCode::ProbeFailed, format!("its probe failed: {message}"), hint)
        }
        DecisionReason::Changed { .. } => {
            let why = "an older runner ran it in this run, and it has no probe that can tell whether its effect holds";
            let done = resume_hint.resolve("; if its effect is right, run", step_target, "done");
            let hint = format!("check what it did{done}; if it is not, {run_it_again}");
            (ErrorCode::StepInDoubt, why.to_owned(), hint)
        }
        DecisionReason::Stale { check } => {
            let why =
                format!("check {check} failed after it ran, and it has no probe to tell whether its effect is right");
            let done = resume_hint.resolve("; if its effect is right, run", step_target, "done");
            let hint = format!("check what it did{done}; to run it again, {run_it_again}");
            (ErrorCode::StepStale, why, hint)
        }
        DecisionReason::MadeElsewhere => {
            let why = "another machine ran it in this run, and it has no probe to tell whether its effect is here";
            let done = resume_hint.resolve("; if it is, run", step_target, "done");
            let hint = format!("check whether its effect is on this machine{done}; if it is not, {run_it_again}");
            (ErrorCode::DoneElsewhere, why.to_owned(), hint)
        }
        // No decision stops a step for one of these reasons.
        DecisionReason::NeverRan
        | DecisionReason::Reverted
        | DecisionReason::FailedBefore
        | DecisionReason::Held
        | DecisionReason::Absent
        | DecisionReason::DriftAccepted { .. }
        | DecisionReason::Trusted
        | DecisionReason::NoProbe
        | DecisionReason::UpstreamRan
        | DecisionReason::CheckFailed { .. }
        | DecisionReason::Fresh
        | DecisionReason::RequestedByOperator
        | DecisionReason::NotSelected
        | DecisionReason::Always
        | DecisionReason::HostRecord
        | DecisionReason::NotConfirmed
        | DecisionReason::InvalidInput { .. }
        | DecisionReason::RehearsalFailed { .. }
        | DecisionReason::UndoUnfinished
        | DecisionReason::NotInRollback => (ErrorCode::StepInDoubt, "outcome unknown".to_owned(), accept),
    }
}
