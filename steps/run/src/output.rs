//! The results of a program: its output for the log, and its exit status.

use pawl_step::log::{self, LogLevel};
use pawl_step::{Failure, Finding, Receipt};
use serde_json::{Map, Value};

/// The largest number of logged lines of a stream; the host limits their bytes.
const MAX_LOGGED_LINES: usize = 2_000;
/// The largest number of stderr lines in a failure.
const MAX_STDERR_LINES: usize = 20;

/// Writes each line of a stream to the log.
pub(crate) fn log_lines(stream: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut fields = Map::new();
    fields.insert("stream".to_owned(), stream.into());
    let mut lines = text.lines();
    for line in lines.by_ref().take(MAX_LOGGED_LINES) {
        log::write(LogLevel::Info, line, &fields);
    }
    let more = lines.count();
    if more > 0 {
        log::write(LogLevel::Warn, &format!("…and {more} more lines"), &fields);
    }
}

/// Returns a failure with the end of stderr when the status is not 0.
pub(crate) fn check_exit_status(command: &str, status: i32, stderr: &[u8]) -> Result<(), Failure> {
    if status == 0 {
        return Ok(());
    }
    let lines = last_lines(stderr);
    let last = lines.iter().rev().find(|line| !line.trim().is_empty());
    let last_message = last.map_or_else(|| "nothing on stderr".to_owned(), |line| line.trim().to_owned());
    Err(Failure::permanent(format!("`{command}` exited with {}: {last_message}", describe_status(status)))
        .hint("`runner logs` shows the full output")
        .detail("status", status)
        .detail("stderr", lines.into_iter().map(Value::from).collect::<Vec<_>>()))
}

/// Returns the finding that the exit status of a probe stands for.
pub(crate) fn finding_from_status(command: &str, status: i32, stderr: &[u8]) -> Finding {
    match status {
        0 => Finding::Held(Receipt::new().output("status", 0)),
        1 => Finding::Absent,
        other => {
            let last_message = last_lines(stderr).pop().map_or(String::new(), |line| format!(": {line}"));
            Finding::Unknown(format!("`{command}` exited with {}{last_message}", describe_status(other)))
        }
    }
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

fn last_lines(stderr: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(MAX_STDERR_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_message_ends_with_the_last_stderr_line() {
        assert!(check_exit_status("p", 0, b"warning").is_ok());
        let stderr: String = (1..=30).map(|line| format!("line {line}\n")).collect();
        let failure = check_exit_status("/bin/p -x", 3, stderr.as_bytes()).unwrap_err();
        assert_eq!(failure.message, "`/bin/p -x` exited with status 3: line 30");
        let kept = failure.details["stderr"].as_array().unwrap();
        assert_eq!((kept.len(), kept[0].as_str(), failure.details["status"].as_i64()), (20, Some("line 11"), Some(3)));
        assert_eq!(
            check_exit_status("p", 137, b"").unwrap_err().message,
            "`p` exited with status 137 (signal 9): nothing on stderr"
        );
    }

    #[test]
    fn probe_status_maps_to_finding() {
        assert_eq!(finding_from_status("q", 0, b""), Finding::Held(Receipt::new().output("status", 0)));
        assert_eq!(finding_from_status("q", 1, b"no"), Finding::Absent);
        assert_eq!(
            finding_from_status("q", 2, b"no such host\n"),
            Finding::Unknown("`q` exited with status 2: no such host".to_owned())
        );
    }

    #[test]
    fn command_line_quotes_arguments() {
        let arguments = ["--a=b", "", "it's", "$HOME"].map(str::to_owned);
        assert_eq!(command_line("/bin/p", &arguments), r"/bin/p --a=b '' 'it'\''s' '$HOME'");
    }
}
