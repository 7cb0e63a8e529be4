//! What the messages of apt and dpkg mean.

use pawl_step::process::Completion;
use pawl_step::{Failure, FailureKind};
use serde_json::Value;

/// The most lines of the output in a message.
const MESSAGE_LINES: usize = 6;
/// The most lines in a failure's details.
const DETAIL_LINES: usize = 30;
/// Another program has a lock of apt or dpkg.
const LOCKED: &[&str] = &["Could not get lock", "is another process using it?", "locked by another process"];
/// A killed dpkg has left something.
const INTERRUPTED: &str = "dpkg was interrupted";

/// What the output says about a failure.
#[derive(Debug)]
struct AptSymptom {
    /// One of these is in the output.
    signs: &'static [&'static str],
    kind: FailureKind,
    why: &'static str,
    hint: &'static str,
}

/// The causes that have an answer of their own; the first one whose sign is in the output counts.
const SYMPTOMS: &[AptSymptom] = &[
    AptSymptom {
        signs: LOCKED,
        kind: FailureKind::Transient,
        why: "another program is installing packages",
        hint: "wait until it has ended, and run the deployment again; `lock-timeout` lets the step wait longer",
    },
    AptSymptom {
        signs: &["are you root?", "requires superuser privilege", "Could not open lock file"],
        kind: FailureKind::Denied,
        why: "the runner's user is not root",
        hint: "run the runner as root; on hosts, that is `ssh: { sudo: true }` in the environment",
    },
    AptSymptom {
        signs: &["No space left on device", "enough free space", "Disk quota exceeded"],
        kind: FailureKind::Limit,
        why: "the disk is full",
        hint: "make room: `apt-get clean` removes downloaded packages, `runner prune` old releases",
    },
    AptSymptom {
        signs: &["error processing", "Sub-process /usr/bin/dpkg returned an error"],
        kind: FailureKind::Permanent,
        why: "a package's own script failed, or its files collide with another's",
        hint: "read the full output with `runner logs`; the next attempt finishes what dpkg began, and then tries again",
    },
    AptSymptom {
        signs: &["were downgraded and -y was used"],
        kind: FailureKind::Conflict,
        why: "a newer version is installed",
        hint: "name the newer version, or allow the older one: `downgrade: true`",
    },
    AptSymptom {
        signs: &["Held packages were changed"],
        kind: FailureKind::Conflict,
        why: "a package that is on hold would be changed",
        hint: "`apt-mark showhold` lists them, and `apt-mark unhold NAME` ends it",
    },
    AptSymptom {
        signs: &["Packages need to be removed but remove is disabled"],
        kind: FailureKind::Conflict,
        why: "a package would be removed",
        hint: "name versions that work with the installed packages, or remove those by hand: this step removes nothing",
    },
    AptSymptom {
        signs: &["unmet dependencies", "you have held broken packages", "Unmet dependencies"],
        kind: FailureKind::Conflict,
        why: "the packages need others that do not fit",
        hint: "name versions of the packages that fit together, including their dependencies; `apt-mark showhold` lists what is on hold",
    },
    AptSymptom {
        signs: &[
            "is not signed",
            "NO_PUBKEY",
            "cannot be authenticated",
            "Hash Sum mismatch",
            "is not valid yet",
            "is expired",
        ],
        kind: FailureKind::BadContent,
        why: "a repository can't be trusted",
        hint: "check its key and the machine's clock; a mirror that is just being updated is good again after a while",
    },
    AptSymptom {
        signs: &["404  Not Found"],
        kind: FailureKind::NotFound,
        why: "a repository no longer has a file that the package lists name",
        hint: "fetch the package lists first: `update: true`",
    },
    AptSymptom {
        signs: &[
            "Failed to fetch",
            "Could not resolve",
            "Could not connect",
            "Unable to connect",
            "Some index files failed",
        ],
        kind: FailureKind::Transient,
        why: "a repository does not answer",
        hint: "check the machine's network and its list of repositories; then run the deployment again",
    },
    AptSymptom {
        signs: &["needs to be reinstalled, but I can't find an archive for it"],
        kind: FailureKind::Conflict,
        why: "a half-installed package is in no repository",
        hint: "`dpkg --audit` names it; put its version into the repository again, or remove it by hand",
    },
    AptSymptom {
        signs: &["Unable to locate package", "was not found", "has no installation candidate"],
        kind: FailureKind::NotFound,
        why: "the package lists do not have it",
        hint: "correct name and version, or fetch the lists first: `update: true`",
    },
];

/// Whether another program has a lock.
pub(crate) fn is_locked(completion: &Completion) -> bool {
    let lines = lines_of(completion);
    has_sign(&lines, LOCKED)
}

/// Whether dpkg must be told first to finish what a killed one has begun.
pub(crate) fn is_interrupted(completion: &Completion) -> bool {
    has_sign(&lines_of(completion), &[INTERRUPTED])
}

/// The failure of a command: what could not be done, why, and the end of the output.
pub(crate) fn failure(what: &str, completion: &Completion) -> Failure {
    let lines = lines_of(completion);
    let symptom = SYMPTOMS.iter().find(|symptom| has_sign(&lines, symptom.signs));
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

fn has_sign(lines: &[String], signs: &[&str]) -> bool {
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
        failure("can't install a=1", &Completion { status: 100, stdout: stdout.into(), stderr: stderr.into() })
    }

    #[test]
    fn what_apt_says_has_a_cause() {
        for (said, kind, why) in [
            (
                "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)",
                FailureKind::Transient,
                "another program",
            ),
            (
                "dpkg: error: dpkg frontend lock was locked by another process with pid 365",
                FailureKind::Transient,
                "another program",
            ),
            (
                "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)",
                FailureKind::Denied,
                "not root",
            ),
            ("E: You don't have enough free space in /var/cache/apt/archives/.", FailureKind::Limit, "disk is full"),
            (
                "E: Failed to fetch http://deb.example.com/a.deb  404  Not Found [IP: 127.0.0.1 80]",
                FailureKind::NotFound,
                "no longer",
            ),
            (
                "E: Failed to fetch http://deb.example.com/a.deb  Could not connect to deb.example.com:80",
                FailureKind::Transient,
                "does not answer",
            ),
            (
                "E: The repository 'http://deb.example.com ./ InRelease' is not signed.",
                FailureKind::BadContent,
                "can't be trusted",
            ),
            ("E: Sub-process /usr/bin/dpkg returned an error code (1)", FailureKind::Permanent, "own script failed"),
            ("something else", FailureKind::Permanent, "it failed"),
        ] {
            let failure = failed("Reading package lists...\n", said);
            assert_eq!(failure.kind, kind, "{said}");
            assert!(failure.message.contains(why) && failure.message.ends_with(said), "{}", failure.message);
        }
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
