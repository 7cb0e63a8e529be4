//! What the messages of package managers mean.

use pawl_step::process::Completion;
use pawl_step::{Failure, FailureKind};
use serde_json::Value;

/// The most lines of the output in a message.
const MESSAGE_LINES: usize = 6;
/// The most lines in a failure's details.
const DETAIL_LINES: usize = 30;

/// What the output says about a failure.
#[derive(Debug)]
pub(crate) struct Symptom {
    /// One of these is in the output.
    pub(crate) signs: &'static [&'static str],
    pub(crate) kind: FailureKind,
    pub(crate) why: &'static str,
    pub(crate) hint: &'static str,
}

/// What a user who is not root can do.
pub(crate) const ROOT_HINT: &str = "run the runner as root; on hosts, that is `ssh: { sudo: true }` in the environment";
/// What can be done where an older version would be installed.
pub(crate) const DOWNGRADE_HINT: &str = "name the newer version, or allow the older one: `downgrade: true`";
/// What can be done where a package would be removed.
pub(crate) const REMOVAL_HINT: &str =
    "name versions that work with the installed packages, or remove those by hand: this step removes nothing";

/// The causes that every package manager has.
impl Symptom {
    pub(crate) const fn locked(signs: &'static [&'static str]) -> Self {
        Self {
            signs,
            kind: FailureKind::Transient,
            why: "another program is installing packages",
            hint: "wait until it has ended, and run the deployment again; `lock-timeout` lets the step wait longer",
        }
    }

    pub(crate) const fn without_root(signs: &'static [&'static str]) -> Self {
        Self { signs, kind: FailureKind::Denied, why: "the runner's user is not root", hint: ROOT_HINT }
    }

    pub(crate) const fn untrusted(signs: &'static [&'static str]) -> Self {
        Self {
            signs,
            kind: FailureKind::BadContent,
            why: "a repository can't be trusted",
            hint: "check its key and the machine's clock; a mirror that is just being updated is good again after a while",
        }
    }

    pub(crate) const fn unanswered(signs: &'static [&'static str]) -> Self {
        Self {
            signs,
            kind: FailureKind::Transient,
            why: "a repository does not answer",
            hint: "check the machine's network and its list of repositories; then run the deployment again",
        }
    }

    pub(crate) const fn unlisted(signs: &'static [&'static str]) -> Self {
        Self {
            signs,
            kind: FailureKind::NotFound,
            why: "the package lists do not have it",
            hint: "correct name and version, or fetch the lists first: `update: true`",
        }
    }
}

/// The failure of a command: what could not be done, why, and the end of the output.
pub(crate) fn failure_by(symptoms: &[Symptom], what: &str, completion: &Completion) -> Failure {
    let lines = lines_of(completion);
    let symptom = symptoms.iter().find(|symptom| has_line(&lines, symptom.signs));
    let said = match lines.len() {
        0 => format!("it wrote nothing (exit status {})", completion.status),
        count => lines[count.saturating_sub(MESSAGE_LINES)..].join("\n"),
    };
    let why = symptom.map_or("it failed", |symptom| symptom.why);
    let kind = symptom.map_or(FailureKind::Permanent, |symptom| symptom.kind.clone());
    let tail: Vec<Value> =
        lines[lines.len().saturating_sub(DETAIL_LINES)..].iter().map(|line| line.as_str().into()).collect();
    Failure::new(kind, format!("{what}: {why}: {said}"))
        .hint(symptom.map_or("read the full output with `runner logs`", |symptom| symptom.hint))
        .detail("status", completion.status)
        .detail("output", tail)
}

/// Whether a line of an output has one of the signs.
pub(crate) fn has_sign(completion: &Completion, signs: &[&str]) -> bool {
    has_line(&lines_of(completion), signs)
}

fn has_line(lines: &[String], signs: &[&str]) -> bool {
    lines.iter().any(|line| signs.iter().any(|sign| line.contains(sign)))
}

/// The lines of the output: those of standard error follow those of standard output.
pub(crate) fn lines_of(completion: &Completion) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for stream in [&completion.stdout, &completion.stderr] {
        let text = String::from_utf8_lossy(stream);
        lines.extend(text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stdout: &str, stderr: &str) -> Failure {
        let completion = Completion { status: 100, stdout: stdout.into(), stderr: stderr.into() };
        failure_by(&[], "can't install a=1", &completion)
    }

    #[test]
    fn message_is_the_end_of_the_output() {
        let lines: String = (1..=50).map(|line| format!("line {line}\n\n")).collect();
        let failure = failed(&lines, "the cause\n");
        assert!(failure.message.ends_with("line 49\nline 50\nthe cause"), "{}", failure.message);
        assert!(!failure.message.contains("line 45\n"));
        assert_eq!(failure.details["output"].as_array().unwrap().len(), DETAIL_LINES);
        assert!(failed("", "").message.ends_with("it wrote nothing (exit status 100)"));
    }
}
