//! Why an attempt ends before its plan does, in words for the user.

use std::path::{Component, Path};

use contract::{
    Attempt, StepId,
    diagnostic::{Code, Diagnostic, Exit, Spot},
    step::Failure,
};
use journal::{JournalError, Place, event::Reason};
use plan::Step;
use state::LockError;

/// Why an attempt ends early.
#[derive(Debug)]
pub enum Halt {
    /// A step failed; `known` unless its outcome can't be told.
    Failed { place: Place, failure: Failure, known: bool },
    /// An operator must say.
    InDoubt { place: Place, reason: Reason },
    /// Something in the plan, found out only now.
    Plan(Diagnostic),
    /// A step could not be undone.
    NotUndone { place: Place, failure: Failure },
    /// A rollback would pass over a step that the plan calls irreversible.
    Irreversible { place: Place, left: Vec<Place> },
    /// The journal can't be written: nothing more may be done.
    Journal(JournalError),
    /// The lock is not ours, or that can't be told: nothing more may be done.
    Lock(LockError),
    /// SIGINT or SIGTERM.
    Interrupted,
}

/// How an operator goes on.
#[derive(Clone, Copy, Debug)]
pub struct WayOn<'a> {
    /// The command that continues.
    pub again: &'a str,
    /// The steps that it will skip.
    pub done: &'a [String],
    /// The step after the one that halted, if there is one.
    pub next: Option<&'a StepId>,
}

impl From<JournalError> for Halt {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<LockError> for Halt {
    fn from(error: LockError) -> Self {
        Self::Lock(error)
    }
}

impl Halt {
    /// The error, with what an operator can do next.
    #[must_use]
    pub fn diagnostic(&self, attempt: Attempt, way: &WayOn<'_>) -> Diagnostic {
        let WayOn { again, done, next } = way;
        let skips = if done.is_empty() { String::new() } else { format!(" (skips: {})", done.join(", ")) };
        match self {
            Self::Failed { place, failure, known } => {
                let (code, exit) = match (known, told(failure)) {
                    (true, Some(told)) => told,
                    (true, None) => (Code("P0301"), Exit::Failed),
                    (false, _) => (Code("P0302"), Exit::Failed),
                };
                let message = format!("step {place} failed on attempt {attempt}");
                let mut diagnostic = Diagnostic::new(code, exit, message).because(cause(failure));
                if !known {
                    diagnostic =
                        diagnostic.because("how far it got is not known; the next attempt looks before it acts");
                }
                let advice = failure.hint.as_deref().unwrap_or("fix it");
                diagnostic.hint(format!("{advice}; then run `{again}` again{skips}"))
            }
            Self::InDoubt { place, reason } => {
                let step = &place.step;
                let accept = format!("or run `{again} --accept-drift {step}` to have step `{step}` run over it");
                let (code, why, hint) = match reason {
                    Reason::Drifted { why } => {
                        (Code("P0401"), format!("drifted: {why}"), format!("put it back as it was, {accept}"))
                    }
                    Reason::Interrupted { finding } => (
                        Code("P0402"),
                        match finding {
                            Some(finding) => format!("it was begun and never ended, and its probe says: {finding}"),
                            None => {
                                "it was begun and never ended, and it has no probe to tell how far it got".to_owned()
                            }
                        },
                        match next {
                            Some(next) => format!(
                                "look at what it did; run `{again} --start-from {next}` if it is done, {accept}"
                            ),
                            None => format!("look at what it did; {accept}"),
                        },
                    ),
                    Reason::Unconfirmed { finding } => (
                        Code("P0406"),
                        match finding {
                            Some(finding) => {
                                format!("what is known of it is not confirmed, and its probe says: {finding}")
                            }
                            None => "what is known of it is not confirmed, and it has no probe to tell".to_owned(),
                        },
                        format!(
                            "give the job a `key`, so that its journal is believed; or look at what it did, {accept}"
                        ),
                    ),
                    Reason::Unknown { why } => (
                        Code("P0402"),
                        format!("it can't be told whether it still holds: {why}"),
                        format!("look, {accept}"),
                    ),
                    Reason::ProbeFailed { message } => (
                        Code("P0403"),
                        format!("its probe failed: {message}"),
                        format!("see why, then run `{again}` again; `runner logs {step}` has more"),
                    ),
                    other => (Code("P0402"), format!("{other:?}"), accept.clone()),
                };
                Diagnostic::new(code, Exit::InDoubt, format!("step {place} is in doubt; nothing was done about it"))
                    .because(why)
                    .hint(hint)
            }
            Self::Plan(diagnostic) => diagnostic.clone(),
            Self::NotUndone { place, failure } => {
                Diagnostic::new(Code("P0404"), Exit::InDoubt, format!("step {place} could not be undone"))
                    .because(cause(failure))
                    .hint(format!("mend it, then run `{again}` again: it finishes the undo first"))
            }
            Self::Irreversible { place, left } => {
                let left: Vec<_> = left.iter().map(ToString::to_string).collect();
                let message = format!("step {place} can't be taken back, so nothing was undone");
                Diagnostic::new(Code("P0405"), Exit::InDoubt, message)
                    .because("the plan says `irreversible: true` of it, and it ran since the release was exposed")
                    .because(format!("left as they are, last first: {}", left.join(", ")))
                    .hint(format!(
                        "look, then decide: mend it and run `{again}` again, or go back with `runner rollback`"
                    ))
            }
            Self::Journal(error) => error.into(),
            Self::Lock(error) => error.into(),
            Self::Interrupted => {
                Diagnostic::new(Code("P0303"), Exit::Interrupted, "interrupted; the state is saved".to_owned())
                    .hint(format!("run `{again}` again to go on{skips}"))
            }
        }
    }
}

/// The codes that migrations give their failures; in doubt, where only an operator can tell what is done.
const MIGRATIONS: [(&str, Exit); 12] = [
    ("P0311", Exit::Failed),
    ("P0312", Exit::Failed),
    ("P0313", Exit::Failed),
    ("P0314", Exit::Failed),
    ("P0315", Exit::InDoubt),
    ("P0316", Exit::Failed),
    ("P0317", Exit::Failed),
    ("P0318", Exit::Failed),
    ("P0319", Exit::InDoubt),
    ("P0320", Exit::Locked),
    ("P0321", Exit::Failed),
    ("P0322", Exit::Refused),
];

/// The code that a failure has of its own.
pub(super) fn told(failure: &Failure) -> Option<(Code, Exit)> {
    let told = failure.details.get("code")?.as_str()?;
    MIGRATIONS.iter().find(|(code, _)| *code == told).map(|(code, exit)| (Code(code), *exit))
}

/// What a failure of migrations is to an operator who asked for something.
#[must_use]
pub fn of_migrations(failure: &Failure) -> Diagnostic {
    let (code, exit) = told(failure).unwrap_or((Code("P0301"), Exit::Failed));
    let diagnostic = Diagnostic::new(code, exit, cause(failure));
    match &failure.hint {
        Some(hint) => diagnostic.hint(hint.clone()),
        None => diagnostic,
    }
}

/// Where a failure is in the user's files: a module names a file as `<granted directory>/<path>`, with its line and column.
pub(super) fn spot(failure: &Failure, step: &Step) -> Option<Spot> {
    let (directory, inside) = failure.details.get("file")?.as_str()?.split_once('/')?;
    let is_inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    if inside.is_empty() || !Path::new(inside).components().all(is_inside) {
        return None;
    }
    let (_, grant) = step.grants.dirs.iter().find(|(name, _)| name.as_str() == directory)?;
    let number =
        |name: &str| failure.details.get(name).and_then(serde_json::Value::as_u64).filter(|number| *number > 0);
    Some(Spot { path: grant.path.join(inside), line: number("line"), column: number("column") })
}

/// A failure in one line: place, message.
fn cause(failure: &Failure) -> String {
    let text = |name: &str| failure.details.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let line = failure.details.get("line").and_then(serde_json::Value::as_u64);
    match (text("file"), line) {
        (Some(file), Some(line)) => format!("{file}:{line}: {}", failure.message),
        // Where the message names the file already, its path adds nothing.
        (Some(file), None) if !failure.message.contains(file.rsplit('/').next().unwrap_or(&file)) => {
            format!("{file}: {}", failure.message)
        }
        (Some(_), None) => failure.message.clone(),
        (None, _) => failure.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use plan::{Plan, Request, Source};

    #[test]
    fn a_failure_is_in_a_file_of_a_granted_directory_or_nowhere() {
        let text = "version: 1\napp: shop\nsteps:\n  a: { uses: pull, grants: { dirs: { db: ./migrations } } }\n";
        let source = Source { path: "deploy.yml".into(), folder: "/plans/shop".into(), text: text.into() };
        let request = Request { environment: None, release: &"r1".parse().unwrap(), env: &|_| None };
        let plan = Plan::parse(source, &request).unwrap();
        let spot = |file: &str| {
            let failure = Failure::new("permanent", "no").with_detail("file", file).with_detail("line", json!(3));
            super::spot(&failure.with_detail("column", json!(0)), &plan.steps[0])
        };
        let path = "/plans/shop/migrations/new/7.sql".into();
        assert_eq!(spot("db/new/7.sql"), Some(Spot { path, line: Some(3), column: None }));
        for file in ["7.sql", "other/7.sql", "db/../../etc/passwd", "db//etc/passwd", "/etc/passwd", "db/", ""] {
            assert_eq!(spot(file), None, "{file}");
        }
    }
}
