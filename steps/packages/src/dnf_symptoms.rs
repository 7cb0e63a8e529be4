//! What the messages of dnf and rpm mean.

use pawl_step::process::Completion;
use pawl_step::{Failure, FailureKind};

use crate::symptoms::{self, Symptom};

/// Another program has a lock of dnf or rpm.
const LOCKED: &[&str] = &["Failed to obtain", "already locked by", "create transaction lock"];
/// dnf does nothing, since its question was answered with no.
const SAID_NO: &str = "Operation aborted";
const WITHOUT_ROOT: &[&str] = &["superuser privileges", "under the root user"];

/// The causes that have an answer of their own; the first one whose sign is in the output counts.
const SYMPTOMS: &[Symptom] = &[
    Symptom::locked(LOCKED),
    Symptom::without_root(WITHOUT_ROOT),
    Symptom {
        signs: &["No space left on device", "more space needed", "not enough free space", "Disk quota exceeded"],
        kind: FailureKind::Limit,
        why: "the disk is full",
        hint: "make room: `dnf clean packages` removes downloaded packages, `runner prune` old releases",
    },
    Symptom {
        signs: &[
            "scriptlet failed",
            "Error in PRE",
            "Error in POST",
            "conflicts between attempted installs",
            "conflicts with file from",
        ],
        kind: FailureKind::Permanent,
        why: "a package's own script failed, or its files collide with another's",
        hint: "read the full output with `runner logs`; the next attempt tries again",
    },
    Symptom {
        signs: &["filtered out by exclude filtering", "filtered out by modular filtering"],
        kind: FailureKind::Conflict,
        why: "the machine's configuration excludes a package",
        hint: "look at `excludepkgs` in /etc/dnf/dnf.conf, at `dnf versionlock list`, and at `dnf module list --enabled`",
    },
    Symptom::untrusted(&[
        "GPG check FAILED",
        "is not signed",
        "is not installed. Failing package is",
        "GPG Keys are configured",
        "BAD GPG signature",
        "checksum doesn't match",
    ]),
    Symptom::unanswered(&["Failed to download metadata", "Cannot download", "All mirrors were tried", "Curl error"]),
    Symptom {
        signs: &["conflicting requests", "nothing provides", "conflicts with", "cannot install both", "Problem"],
        kind: FailureKind::Conflict,
        why: "the packages need others that do not fit",
        hint: "name versions of the packages that fit together, including their dependencies",
    },
    Symptom::unlisted(&["Unable to find a match", "No match for argument"]),
];

/// Whether another program has a lock.
pub(crate) fn is_locked(completion: &Completion) -> bool {
    symptoms::has_sign(completion, LOCKED)
}

/// Whether it would have done something.
pub(crate) fn has_said_no(completion: &Completion) -> bool {
    symptoms::has_sign(completion, &[SAID_NO])
}

/// The failure of a command: what could not be done, why, and the end of the output.
pub(crate) fn failure(what: &str, completion: &Completion) -> Failure {
    symptoms::failure_by(SYMPTOMS, what, completion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnf_says_has_a_cause() {
        for (said, kind, why) in [
            (
                "Error: Failed to obtain the transaction lock (logged in as: root).",
                FailureKind::Transient,
                "another program",
            ),
            ("RPMDB already locked by 51", FailureKind::Transient, "another program"),
            (
                "Error: This command has to be run with superuser privileges (under the root user on most systems).",
                FailureKind::Denied,
                "not root",
            ),
            ("   At least 12MB more space needed on the / filesystem.", FailureKind::Limit, "disk is full"),
            (
                "error: %prein(e-1.0-1.noarch) scriptlet failed, exit status 3",
                FailureKind::Permanent,
                "own script failed",
            ),
            ("Error: GPG check FAILED", FailureKind::BadContent, "can't be trusted"),
            (
                "Error: Failed to download metadata for repo 'r': Cannot download repomd.xml",
                FailureKind::Transient,
                "does not answer",
            ),
            ("  - nothing provides a = 9.0 needed by d-1.0-1.noarch", FailureKind::Conflict, "do not fit"),
            ("Error: Unable to find a match: nowhere-1", FailureKind::NotFound, "do not have it"),
            ("something else", FailureKind::Permanent, "it failed"),
        ] {
            let failure =
                failure("can't install a=1", &Completion { status: 1, stdout: Vec::new(), stderr: said.into() });
            assert_eq!(failure.kind, kind, "{said}");
            assert!(failure.message.contains(why), "{}", failure.message);
        }
        let no = Completion { status: 1, stdout: Vec::new(), stderr: b"Operation aborted.\n".to_vec() };
        assert!(has_said_no(&no) && !is_locked(&no));
    }
}
