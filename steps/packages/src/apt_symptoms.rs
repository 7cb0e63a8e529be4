//! What the messages of apt and dpkg mean.

use pawl_step::process::Completion;
use pawl_step::{Failure, FailureKind};

use crate::symptoms::{self, Symptom};

/// Another program has a lock of apt or dpkg.
const LOCKED: &[&str] = &["Could not get lock", "is another process using it?", "locked by another process"];
/// A killed dpkg has left something.
const INTERRUPTED: &str = "dpkg was interrupted";

/// The causes that have an answer of their own; the first one whose sign is in the output counts.
const SYMPTOMS: &[Symptom] = &[
    Symptom::locked(LOCKED),
    Symptom::without_root(&["are you root?", "requires superuser privilege", "Could not open lock file"]),
    Symptom {
        signs: &["No space left on device", "enough free space", "Disk quota exceeded"],
        kind: FailureKind::Limit,
        why: "the disk is full",
        hint: "make room: `apt-get clean` removes downloaded packages, `runner prune` old releases",
    },
    Symptom {
        signs: &["error processing", "Sub-process /usr/bin/dpkg returned an error"],
        kind: FailureKind::Permanent,
        why: "a package's own script failed, or its files collide with another's",
        hint: "read the full output with `runner logs`; the next attempt finishes what dpkg began, and then tries again",
    },
    Symptom {
        signs: &["were downgraded and -y was used"],
        kind: FailureKind::Conflict,
        why: "a newer version is installed",
        hint: symptoms::DOWNGRADE_HINT,
    },
    Symptom {
        signs: &["Held packages were changed"],
        kind: FailureKind::Conflict,
        why: "a package that is on hold would be changed",
        hint: "`apt-mark showhold` lists them, and `apt-mark unhold NAME` ends it",
    },
    Symptom {
        signs: &["Packages need to be removed but remove is disabled"],
        kind: FailureKind::Conflict,
        why: "a package would be removed",
        hint: symptoms::REMOVAL_HINT,
    },
    Symptom {
        signs: &["unmet dependencies", "you have held broken packages", "Unmet dependencies"],
        kind: FailureKind::Conflict,
        why: "the packages need others that do not fit",
        hint: "name versions of the packages that fit together, including their dependencies; `apt-mark showhold` lists what is on hold",
    },
    Symptom::untrusted(&[
        "is not signed",
        "NO_PUBKEY",
        "cannot be authenticated",
        "Hash Sum mismatch",
        "is not valid yet",
        "is expired",
    ]),
    Symptom {
        signs: &["404  Not Found"],
        kind: FailureKind::NotFound,
        why: "a repository no longer has a file that the package lists name",
        hint: "fetch the package lists first: `update: true`",
    },
    Symptom::unanswered(&[
        "Failed to fetch",
        "Could not resolve",
        "Could not connect",
        "Unable to connect",
        "Some index files failed",
    ]),
    Symptom {
        signs: &["needs to be reinstalled, but I can't find an archive for it"],
        kind: FailureKind::Conflict,
        why: "a half-installed package is in no repository",
        hint: "`dpkg --audit` names it; put its version into the repository again, or remove it by hand",
    },
    Symptom::unlisted(&["Unable to locate package", "was not found", "has no installation candidate"]),
];

/// Whether another program has a lock.
pub(crate) fn is_locked(completion: &Completion) -> bool {
    symptoms::has_sign(completion, LOCKED)
}

/// Whether dpkg must be told first to finish what a killed one has begun.
pub(crate) fn is_interrupted(completion: &Completion) -> bool {
    symptoms::has_sign(completion, &[INTERRUPTED])
}

/// The failure of a command: what could not be done, why, and the end of the output.
pub(crate) fn failure(what: &str, completion: &Completion) -> Failure {
    symptoms::failure_by(SYMPTOMS, what, completion)
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
}
