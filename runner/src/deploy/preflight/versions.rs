//! Checks the versions of programs that a step requires (docs/adr/0015-found-early.md).
//!
//! It runs each program with the granted arguments that print its version. Deliberately absent: any knowledge of a program; the first
//! version number that it prints counts.

use std::{path::Path, process::Stdio, time::Duration};

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::EnvGrant;
use sandbox::{DeclaredValue, ValueKind, run_bounded, with_default_variables};
use semver::{Version, VersionReq};
use tokio::process::Command;

use super::{declared::KnownText, machine::MachineCheck, span_of};

/// How long a program may take to print its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of each stream is read.
const MAX_PRINTED_BYTES: u64 = 64 << 10;

impl MachineCheck<'_> {
    /// The programs whose version is wrong, or can't be determined. A program that can't be run is not among them.
    pub(super) async fn version_problems(&self) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        for value in self.declared.values.iter().filter(|value| value.kind == ValueKind::VersionRange) {
            problems.extend(self.version_problem(value).await);
        }
        problems
    }

    async fn version_problem(&self, value: &DeclaredValue) -> Option<Diagnostic> {
        let KnownText::Whole(text) = self.declared.text(value)? else { return None };
        let range = VersionReq::parse(text).ok()?;
        let is_program = |other: &&DeclaredValue| other.kind == ValueKind::Program && other.object == value.object;
        let program = self.declared.values.iter().find(is_program)?;
        let (found, arguments) = self.program(program)?;
        let path = found.ok()?;
        let name = program.value.as_ref()?.as_str()?;
        let step = &self.planned.step;
        let error = |message: String, hint: &str| {
            let span = span_of(step, &value.pointer);
            let label = format!("needs {text}");
            Some(self.plan.error_at(ErrorCode::WrongProgramVersion, span, message, label, Some(hint.to_owned())))
        };
        let unknown = |why: String| {
            let message =
                format!("step `{}` needs `{name}` {text}, and its version can't be determined: {why}", step.id);
            error(message, "set `args:` to the arguments with which the program prints its version")
        };
        let output = match self.run_for_version(&path, &arguments).await {
            Ok(output) => output,
            Err(why) => return unknown(why),
        };
        let Some((version, comparable)) = first_version(&output) else {
            return unknown("it prints no version number".to_owned());
        };
        if range.matches(&comparable) {
            return None;
        }
        let message = format!("step `{}` needs `{name}` {text}, but {} is {version}", step.id, path.display());
        error(message, "install a version that fits, or name another program")
    }

    /// What a program prints, in the environment that it has in the step.
    async fn run_for_version(&self, path: &Path, arguments: &[String]) -> Result<String, String> {
        let mut command = Command::new(path);
        command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let step = &self.planned.step;
        let set_by_step = |name: &str| step.with.get("env").and_then(|variables| variables.get(name)?.as_str());
        let environment = step.grants.env.iter().filter_map(|(name, grant)| match grant {
            EnvGrant::Set(value) => Some((name.clone(), value.value.reveal().to_owned())),
            EnvGrant::SetByStep => Some((name.clone(), set_by_step(name)?.to_owned())),
        });
        command.envs(with_default_variables(environment.collect()));
        let ended = run_bounded(command, VERSION_TIMEOUT, MAX_PRINTED_BYTES).await?;
        let (stdout, stderr) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        if !ended.status.success() {
            let last = stderr.lines().rfind(|line| !line.trim().is_empty()).map(|line| format!(": {}", line.trim()));
            return Err(format!("it ended with {}{}", ended.status, last.unwrap_or_default()));
        }
        // Some programs print it as an error.
        Ok(format!("{stdout}\n{stderr}"))
    }
}

/// The first number with a dot in a text, or else the first number: as written, and with three parts.
fn first_version(text: &str) -> Option<(String, Version)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|word| word.trim_matches('.'));
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let found =
        numbers.clone().filter(is_number).find(|word| word.contains('.')).or_else(|| numbers.find(is_number))?;
    let mut parts = found.split('.').map(|part| part.parse().ok());
    let (major, minor, patch) = (parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
    Some((found.to_owned(), Version::new(major, minor, patch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_print_them() {
        for (text, expected) in [
            ("v20.11.1", Some(("20.11.1", "20.11.1"))),
            ("PHP 8.2.29 (cli) (built: Jul  3 2025 16:22:18)", Some(("8.2.29", "8.2.29"))),
            ("Python 3.11", Some(("3.11", "3.11.0"))),
            ("go version go1.22.1 linux/amd64", Some(("1.22.1", "1.22.1"))),
            ("openjdk 17 2021-09-14", Some(("17", "17.0.0"))),
            ("GNU bash, version 5.2.15(1)-release", Some(("5.2.15", "5.2.15"))),
            ("nginx version: nginx/1.22.1.", Some(("1.22.1", "1.22.1"))),
            ("composer 2.5.5 2023-03-21 11:50:05", Some(("2.5.5", "2.5.5"))),
            ("sqlite 3.40.1.2", Some(("3.40.1.2", "3.40.1"))),
            ("no number", None),
            ("", None),
        ] {
            let found = first_version(text);
            let found = found.as_ref().map(|(written, version)| (written.as_str(), version.to_string()));
            assert_eq!(found, expected.map(|(written, version)| (written, version.to_owned())), "{text}");
        }
    }
}
