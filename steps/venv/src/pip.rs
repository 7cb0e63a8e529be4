//! Python and its pip: the commands, and what pip's messages mean.

use pawl_step::process::{Command, Completion};
use pawl_step::secrets::Secret;
use pawl_step::{Failure, FailureKind, fs};
use serde_json::Value;

use crate::VenvConfig;
use crate::environment::ReleaseEnvironment;

/// Tells the version, such as `3.11`, which is also in the paths of an environment.
const VERSION: &str = "import sys; print('%d.%d' % sys.version_info[:2])";
/// Waits until all is on the disk.
const SYNC: &str = "import os; os.sync()";
/// What pip says when an index has a package in no version, or does not let it see any.
const NOTHING_FOUND: &str = "(from versions: none)";
/// The most lines of pip's output in a message.
const MESSAGE_LINES: usize = 6;
/// The most lines in a failure's details.
const DETAIL_LINES: usize = 30;

/// What pip's output says about a failure.
#[derive(Debug)]
struct PipSymptom {
    /// One of these is in the output.
    signs: &'static [&'static str],
    kind: FailureKind,
    why: &'static str,
    hint: &'static str,
}

/// The causes that have an answer of their own; the first one whose sign is in the output counts.
const SYMPTOMS: &[PipSymptom] = &[
    PipSymptom {
        signs: &["DO NOT MATCH THE HASHES"],
        kind: FailureKind::BadContent,
        why: "the content of a package does not match its hash",
        hint: "find out who changed it at the index; if you did, write the new hash into the file",
    },
    PipSymptom {
        signs: &["Hashes are required in", "must have their versions pinned with ==", "can't verify hashes"],
        kind: FailureKind::InvalidConfig,
        why: "the file does not name version and hash of each package",
        hint: "write the file with `pip-compile --generate-hashes` or `uv export`, which add those that the packages need in turn",
    },
    PipSymptom {
        signs: &["No space left on device", "Disk quota exceeded"],
        kind: FailureKind::Limit,
        why: "the disk is full",
        hint: "remove old releases with `runner prune`, or make room",
    },
    PipSymptom {
        signs: &["401 Error", "403 Error", "401 Client Error", "403 Client Error", "User for "],
        kind: FailureKind::Permanent,
        why: "the index refuses the credentials",
        hint: "correct the secret that `index` names: `https://USER:PASSWORD@pypi.example.com/simple/`",
    },
    PipSymptom {
        signs: &["connection broken by", "Connection aborted", "Read timed out", "Server Error"],
        kind: FailureKind::Transient,
        why: "the index does not answer",
        hint: "check its address and whether this machine reaches it; then run the deployment again",
    },
    PipSymptom {
        signs: &["No matching distribution found", "Could not find a version that satisfies"],
        kind: FailureKind::NotFound,
        why: "the index does not have a package in this version for this Python and machine",
        hint: "publish it, or correct its name and version in the file",
    },
    PipSymptom {
        signs: &["No module named pip"],
        kind: FailureKind::NotFound,
        why: "this Python has no pip",
        hint: "install it on the machine: `apt-get install python3-pip`",
    },
    PipSymptom {
        signs: &["no such option: --python"],
        kind: FailureKind::Permanent,
        why: "this pip is older than 22.3",
        hint: "install a newer one on the machine, or name a newer Python: `python: …`",
    },
    PipSymptom {
        signs: &[
            "gcc",
            "cc'",
            "clang",
            "rustc",
            "cargo",
            "Failed building wheel",
            "Failed to build",
            "subprocess-exited-with-error",
        ],
        kind: FailureKind::Permanent,
        why: "a package has no wheel for this Python and machine, and can't be built here",
        hint: "publish a wheel of it (`pip wheel` on a machine like this one), or install a compiler here",
    },
];

/// Python, with the settings of a step.
#[derive(Debug)]
pub(crate) struct Python<'c> {
    config: &'c VenvConfig,
}

impl<'c> Python<'c> {
    pub(crate) fn new(config: &'c VenvConfig) -> Self {
        Self { config }
    }

    /// Its version, such as `3.11`.
    pub(crate) fn version(&self) -> Result<String, Failure> {
        let completion = self.command(&["-c", VERSION]).run()?;
        let text = String::from_utf8_lossy(&completion.stdout).trim().to_owned();
        let is_version = text.split('.').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if completion.status == 0 && is_version {
            return Ok(text);
        }
        let said = last_lines(&completion, MESSAGE_LINES).join("\n");
        Err(Failure::permanent(format!("`{}` does not work as a Python 3: {said}", self.config.python))
            .hint("name another: `python: /usr/bin/python3`"))
    }

    /// Makes an environment without pip, since the machine's pip installs into it.
    pub(crate) fn create(&self, environment: &ReleaseEnvironment, name: &str) -> Result<(), Failure> {
        let path = environment.host_path(name)?;
        let completion = self.command(&["-m", "venv", "--without-pip", &path]).run()?;
        succeeded(
            &completion,
            "can't make the virtual environment",
            "install Python's venv on the machine: `apt-get install python3-venv`",
        )
    }

    /// Installs the packages into an environment. The host logs pip's lines.
    pub(crate) fn install(&self, environment: &ReleaseEnvironment, name: &str) -> Result<(), Failure> {
        let completion = self.pip_install(environment, name, &[])?.logged().run()?;
        if completion.status == 0 {
            return Ok(());
        }
        let mut text = lines_of(&completion);
        // Only with so many words pip tells that an index refused to answer.
        if text.iter().any(|line| line.contains(NOTHING_FOUND)) {
            let again = self.pip_install(environment, name, &["-vv", "--dry-run"])?.run()?;
            text.splice(0..0, lines_of(&again));
        }
        Err(installation_failure(&completion, &text, &self.config.requirements))
    }

    fn pip_install(&self, environment: &ReleaseEnvironment, name: &str, more: &[&str]) -> Result<Command, Failure> {
        let config = self.config;
        let interpreter = environment.host_path(&format!("{name}/bin/python"))?;
        let mut arguments = vec!["-m", "pip", "--python", &interpreter, "--no-input", "--disable-pip-version-check"];
        arguments.extend(["--no-color", "install", "--progress-bar", "off", "--no-warn-script-location"]);
        arguments.extend(more);
        if config.require_hashes {
            arguments.push("--require-hashes");
        }
        if config.only_binary {
            arguments.extend(["--only-binary", ":all:"]);
        }
        let links = config.find_links.as_deref().map(|folder| fs::relative("find-links", folder)).transpose()?;
        if let Some(links) = &links {
            arguments.extend(["--find-links", links]);
            if config.index.is_none() {
                arguments.push("--no-index");
            }
        }
        let requirements = fs::relative("requirements", &config.requirements)?;
        arguments.extend(["--requirement", &requirements]);
        // The paths in the file start there.
        let mut command = self.command(&[]).dir(environment.folder());
        match config.index.as_deref() {
            Some(address) if address.contains("://") => arguments.extend(["--index-url", address]),
            Some(secret) => command = command.secret("PIP_INDEX_URL", Secret::open(secret)?),
            None => {}
        }
        Ok(command.args(arguments))
    }

    /// Waits until all is on the disk.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        let completion = self.command(&["-c", SYNC]).run()?;
        succeeded(&completion, "can't write to the disk", "check the disk")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        Command::new(self.config.python.as_str()).args(arguments.iter().copied())
    }
}

/// What a failed installation means. `text` has all that pip said, also when it was asked again.
fn installation_failure(completion: &Completion, text: &[String], requirements: &str) -> Failure {
    let has = |sign: &&str| text.iter().any(|line| line.contains(*sign));
    let symptom = SYMPTOMS.iter().find(|symptom| symptom.signs.iter().any(has));
    let said = last_lines(completion, MESSAGE_LINES).join("\n");
    let (kind, why) = symptom.map_or((FailureKind::Permanent, "pip failed"), |found| (found.kind.clone(), found.why));
    let tail: Vec<Value> = last_lines(completion, DETAIL_LINES).into_iter().map(Value::from).collect();
    Failure::new(kind, format!("can't install `{requirements}`: {why}: {said}"))
        .hint(symptom.map_or("read the full output with `runner logs`", |found| found.hint))
        .detail("status", completion.status)
        .detail("output", tail)
}

fn succeeded(completion: &Completion, what: &str, hint: &str) -> Result<(), Failure> {
    if completion.status == 0 {
        return Ok(());
    }
    let said = last_lines(completion, MESSAGE_LINES).join("\n");
    Err(Failure::permanent(format!("{what}: {said}")).hint(hint))
}

/// The lines of the output: those of standard error follow those of standard output.
fn lines_of(completion: &Completion) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for stream in [&completion.stdout, &completion.stderr] {
        let text = String::from_utf8_lossy(stream);
        lines.extend(text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    lines
}

fn last_lines(completion: &Completion, count: usize) -> Vec<String> {
    let mut lines = lines_of(completion);
    lines.split_off(lines.len().saturating_sub(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(stdout: &str, stderr: &str) -> Failure {
        let completion = Completion { status: 1, stdout: stdout.into(), stderr: stderr.into() };
        installation_failure(&completion, &lines_of(&completion), "requirements.txt")
    }

    #[test]
    fn what_pip_says_has_a_cause() {
        for (said, kind, why) in [
            (
                "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
                FailureKind::BadContent,
                "does not match its hash",
            ),
            (
                "ERROR: Hashes are required in --require-hashes mode, but they are missing",
                FailureKind::InvalidConfig,
                "version and hash",
            ),
            ("ERROR: No matching distribution found for flask==9", FailureKind::NotFound, "does not have a package"),
            (
                "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory",
                FailureKind::Permanent,
                "can't be built",
            ),
            ("/usr/bin/python3: No module named pip", FailureKind::NotFound, "no pip"),
            ("something else", FailureKind::Permanent, "pip failed"),
        ] {
            let failure = failure("Collecting flask\n", said);
            assert_eq!(failure.kind, kind, "{said}");
            assert!(failure.message.contains(why) && failure.message.ends_with(said), "{}", failure.message);
        }
        // A server that is down is the cause of what pip says last.
        let down = failure(
            "",
            "WARNING: Retrying after connection broken by 'X'\nERROR: No matching distribution found for flask==3",
        );
        assert!(down.retryable);
    }

    #[test]
    fn message_is_the_end_of_the_output() {
        let lines: String = (1..=50).map(|line| format!("line {line}\n\n")).collect();
        let failure = failure(&lines, "the cause\n");
        assert!(failure.message.ends_with("line 49\nline 50\nthe cause"), "{}", failure.message);
        assert!(!failure.message.contains("line 45\n"));
        assert_eq!(failure.details["output"].as_array().unwrap().len(), DETAIL_LINES);
    }
}
