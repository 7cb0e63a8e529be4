//! The results of a program: its exit status, and the end of its output.

use pawl_step::process::Completion;
use pawl_step::{Failure, Finding, Receipt};
use serde::Deserialize;
use serde_json::Value;

/// The largest number of lines in a failure's details.
const MAX_DETAIL_LINES: usize = 20;
/// The largest number of lines in a failure's message.
const MAX_MESSAGE_LINES: usize = 3;

/// Returns a failure with the end of the output when the status is not 0.
pub(crate) fn check_exit_status(command: &str, completion: &Completion) -> Result<(), Failure> {
    let status = completion.status;
    if status == 0 {
        return Ok(());
    }
    let (stream, lines) = last_lines(completion);
    let last_message = match stream {
        Some(_) => lines[lines.len().saturating_sub(MAX_MESSAGE_LINES)..].join("\n"),
        None => "it wrote nothing".to_owned(),
    };
    let failure = Failure::permanent(format!("`{command}` exited with {}: {last_message}", describe_status(status)))
        .hint("read the full output with `runner logs`, and fix the cause")
        .detail("status", status);
    Err(match stream {
        Some(stream) => failure.detail(stream, lines.into_iter().map(Value::from).collect::<Vec<_>>()),
        None => failure,
    })
}

/// What the exit statuses of a probe mean.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeCodes {
    /// The effect holds.
    pub held: Vec<i32>,
    /// The effect is absent.
    pub absent: Vec<i32>,
}

impl Default for ProbeCodes {
    fn default() -> Self {
        Self { held: vec![0], absent: vec![1] }
    }
}

/// Returns the finding that the exit status of a probe stands for.
pub(crate) fn finding_from_status(command: &str, completion: &Completion, codes: &ProbeCodes) -> Finding {
    let status = completion.status;
    if codes.held.contains(&status) {
        return Finding::Held(Receipt::new().output("status", 0));
    }
    if codes.absent.contains(&status) {
        return Finding::Absent;
    }
    let last_message = last_lines(completion).1.pop().map_or(String::new(), |line| format!(": {line}"));
    Finding::Unknown(format!("`{command}` exited with {}{last_message}", describe_status(status)))
}

/// Returns program and arguments as a person would type them.
pub(crate) fn command_line(program: &str, arguments: &[String]) -> String {
    let quoted = |text: &str| {
        let is_plain =
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte));
        if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
    };
    let mut line = quoted(program);
    for argument in arguments {
        line = format!("{line} {}", quoted(argument));
    }
    line
}

fn describe_status(status: i32) -> String {
    if (129..=192).contains(&status) {
        format!("status {status} (signal {})", status - 128)
    } else {
        format!("status {status}")
    }
}

/// The last lines of standard error, or of standard output if there are none, without the empty ones; and which stream it is.
fn last_lines(completion: &Completion) -> (Option<&'static str>, Vec<String>) {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(MAX_DETAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect()
    };
    let streams = [("stderr", &completion.stderr), ("stdout", &completion.stdout)];
    let written = streams.into_iter().map(|(name, bytes)| (Some(name), last(bytes)));
    written.into_iter().find(|(_, lines): &(_, Vec<String>)| !lines.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(status: i32, stdout: &str, stderr: &str) -> Completion {
        Completion { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn failure_message_ends_with_the_last_lines_of_the_stream_that_has_some() {
        assert!(check_exit_status("p", &completion(0, "", "warning")).is_ok());
        let lines: String = (1..=30).map(|line| format!("line {line}\n\n")).collect();
        for (stdout, stderr, stream) in [("other\n", lines.as_str(), "stderr"), (&lines, "\n \n", "stdout")] {
            let failure = check_exit_status("/bin/p -x", &completion(3, stdout, stderr)).unwrap_err();
            assert_eq!(failure.message, "`/bin/p -x` exited with status 3: line 28\nline 29\nline 30");
            let kept = failure.details[stream].as_array().unwrap();
            let status = failure.details["status"].as_i64();
            assert_eq!((kept.len(), kept[0].as_str(), status), (20, Some("line 11"), Some(3)));
        }
        assert_eq!(
            check_exit_status("p", &completion(137, "", "")).unwrap_err().message,
            "`p` exited with status 137 (signal 9): it wrote nothing"
        );
    }

    #[test]
    fn probe_status_maps_to_finding() {
        let codes = ProbeCodes::default();
        assert_eq!(
            finding_from_status("q", &completion(0, "", ""), &codes),
            Finding::Held(Receipt::new().output("status", 0))
        );
        assert_eq!(finding_from_status("q", &completion(1, "", "no"), &codes), Finding::Absent);
        for (stdout, stderr) in [("", "no such host\n"), ("no such host\n", "")] {
            assert_eq!(
                finding_from_status("q", &completion(2, stdout, stderr), &codes),
                Finding::Unknown("`q` exited with status 2: no such host".to_owned())
            );
        }
    }

    #[test]
    fn statuses_mean_what_the_plan_says() {
        let codes = ProbeCodes { held: vec![3], absent: vec![0, 2] };
        let finding = |status| finding_from_status("q", &completion(status, "", "no"), &codes);
        assert!(matches!(finding(3), Finding::Held(_)));
        assert_eq!([finding(0), finding(2)], [Finding::Absent, Finding::Absent]);
        assert!(matches!(finding(1), Finding::Unknown(_)));
    }

    #[test]
    fn command_line_quotes_arguments() {
        let arguments = ["--a=b", "", "it's", "$HOME"].map(str::to_owned);
        assert_eq!(command_line("/bin/p", &arguments), r"/bin/p --a=b '' 'it'\''s' '$HOME'");
    }
}
