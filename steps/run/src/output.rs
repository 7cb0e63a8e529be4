//! What a program leaves behind: its lines for the log, its status as a result.

use pawl_step::log::{self, LogLevel};
use pawl_step::{Failure, Finding, Receipt};
use serde_json::{Map, Value};

/// Lines of a stream that go to the log; the host bounds their bytes.
const MAX_LOGGED_LINES: usize = 2_000;
/// Lines of stderr that a failure keeps.
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

/// A status other than 0 is a failure, with the end of stderr.
pub(crate) fn check_exit_status(command: &str, status: i32, stderr: &[u8]) -> Result<(), Failure> {
    if status == 0 {
        return Ok(());
    }
    let lines = last_lines(stderr);
    let last = lines.iter().rev().find(|line| !line.trim().is_empty());
    let last_message = last.map_or_else(|| "it wrote nothing to stderr".to_owned(), |line| line.trim().to_owned());
    Err(Failure::permanent(format!("`{command}` ended with {}: {last_message}", describe_status(status)))
        .hint("`runner logs` shows all that it wrote; correct what it complains about")
        .detail("status", status)
        .detail("stderr", lines.into_iter().map(Value::from).collect::<Vec<_>>()))
}

/// What the status of a probe says.
pub(crate) fn finding_from_status(command: &str, status: i32, stderr: &[u8]) -> Finding {
    match status {
        0 => Finding::Held(Receipt::new().output("status", 0)),
        1 => Finding::Absent,
        other => {
            let last_message = last_lines(stderr).pop().map_or(String::new(), |line| format!(": {line}"));
            Finding::Unknown(format!("`{command}` ended with {}{last_message}", describe_status(other)))
        }
    }
}

/// Program and arguments as a person would type them.
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
        assert_eq!(failure.message, "`/bin/p -x` ended with status 3: line 30");
        let kept = failure.details["stderr"].as_array().unwrap();
        assert_eq!((kept.len(), kept[0].as_str(), failure.details["status"].as_i64()), (20, Some("line 11"), Some(3)));
        assert_eq!(
            check_exit_status("p", 137, b"").unwrap_err().message,
            "`p` ended with status 137 (signal 9): it wrote nothing to stderr"
        );
    }

    #[test]
    fn probe_status_maps_to_finding() {
        assert_eq!(finding_from_status("q", 0, b""), Finding::Held(Receipt::new().output("status", 0)));
        assert_eq!(finding_from_status("q", 1, b"no"), Finding::Absent);
        assert_eq!(
            finding_from_status("q", 2, b"no such host\n"),
            Finding::Unknown("`q` ended with status 2: no such host".to_owned())
        );
    }

    #[test]
    fn command_line_quotes_arguments() {
        let arguments = ["--a=b", "", "it's", "$HOME"].map(str::to_owned);
        assert_eq!(command_line("/bin/p", &arguments), r"/bin/p --a=b '' 'it'\''s' '$HOME'");
    }
}
