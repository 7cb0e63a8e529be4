//! supervisord, asked over its socket: <http://supervisord.org/api.html>.
//!
//! Invariant: it changes nothing but the groups that it is told by name.

use core::time::Duration;

use pawl_step::http::Request;
use pawl_step::slots::{ProgramInfo, SlotProgramState};
use pawl_step::{Failure, FailureKind, log, time};
use serde_json::Value;

use crate::xmlrpc::{self, Answer};

/// The timeout of one call. None of them waits for a program.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The wait between two looks at a program that is to end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long supervisord may take to notice that it has killed a program.
const KILL_MARGIN: Duration = Duration::from_secs(15);
/// About how long a line of output is, in bytes.
const BYTES_PER_LINE: u64 = 400;
/// How much of the log of supervisord is looked at for the end of a program.
const LOG_BYTES: i64 = 4000;

/// There is no program of this name.
const BAD_NAME: i64 = 10;
/// The program does not run.
const NOT_RUNNING: i64 = 70;
/// The group is there already.
const ALREADY_ADDED: i64 = 90;

/// A supervisord, by its granted socket.
#[derive(Debug)]
pub(crate) struct Supervisor<'s> {
    socket: &'s str,
}

fn program_info(info: &Value) -> ProgramInfo {
    let number = |name: &str| info.get(name).and_then(Value::as_i64).unwrap_or(0);
    let state = match number("state") {
        0 => SlotProgramState::Stopped,
        10 | 20 => SlotProgramState::Running,
        40 => SlotProgramState::Stopping,
        _ => SlotProgramState::Ended,
    };
    let error = info.get("spawnerr").and_then(Value::as_str).unwrap_or_default().to_owned();
    ProgramInfo { state, process: number("pid"), error }
}

impl<'s> Supervisor<'s> {
    pub(crate) fn new(socket: &'s str) -> Self {
        Self { socket }
    }

    /// Checks that it answers, and is not shutting down.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let state = self.value("getState", &[])?;
        match state.get("statecode").and_then(Value::as_i64) {
            Some(1) => Ok(()),
            _ => {
                let name = state.get("statename").and_then(Value::as_str).unwrap_or("in an unknown state");
                Err(Failure::transient(format!("supervisord is {name}, not RUNNING")))
            }
        }
    }

    /// What it knows of a program; none if there is no such program.
    pub(crate) fn info(&self, name: &str) -> Result<Option<ProgramInfo>, Failure> {
        let process = format!("{name}:{name}");
        match self.call("getProcessInfo", &[process.into()])? {
            Answer::Value(info) => Ok(Some(program_info(&info))),
            Answer::Fault { code: BAD_NAME, .. } => Ok(None),
            Answer::Fault { text, .. } => Err(fault("getProcessInfo", &text)),
        }
    }

    /// Reads the configuration again. Nothing is started or stopped by that.
    pub(crate) fn reread(&self) -> Result<(), Failure> {
        match self.call("reloadConfig", &[])? {
            Answer::Value(_) => Ok(()),
            Answer::Fault { text, .. } => {
                Err(Failure::permanent(format!("supervisord can't read its configuration: {text}"))
                    .hint("`supervisorctl reread` says the same; correct the file"))
            }
        }
    }

    /// Adds a program of the configuration, and so starts it.
    pub(crate) fn add(&self, name: &str, conf: &str) -> Result<(), Failure> {
        match self.call("addProcessGroup", &[name.into()])? {
            Answer::Value(_) | Answer::Fault { code: ALREADY_ADDED, .. } => Ok(()),
            Answer::Fault { code: BAD_NAME, .. } => {
                Err(Failure::permanent(format!("supervisord does not read {conf}"))
                    .hint("include that directory: `[include] files = …/*.conf` in the configuration of supervisord"))
            }
            Answer::Fault { text, .. } => Err(fault("addProcessGroup", &text)),
        }
    }

    /// Stops a program and forgets it. A missing one is fine.
    pub(crate) fn remove(&self, name: &str, stop_timeout: Duration) -> Result<(), Failure> {
        match self.call("stopProcessGroup", &[name.into(), false.into()])? {
            Answer::Value(_) | Answer::Fault { code: NOT_RUNNING, .. } => {}
            Answer::Fault { code: BAD_NAME, .. } => return Ok(()),
            Answer::Fault { text, .. } => return Err(fault("stopProcessGroup", &text)),
        }
        let deadline = time::monotonic() + stop_timeout + KILL_MARGIN;
        while let Some(info) = self.info(name)? {
            match info.state {
                SlotProgramState::Stopped | SlotProgramState::Ended => break,
                SlotProgramState::Running | SlotProgramState::Stopping => {}
            }
            if time::monotonic() > deadline {
                return Err(Failure::transient(format!("{name} does not end, though supervisord has killed it")));
            }
            time::sleep(POLL_INTERVAL);
        }
        match self.call("removeProcessGroup", &[name.into()])? {
            Answer::Value(_) | Answer::Fault { code: BAD_NAME, .. } => Ok(()),
            Answer::Fault { text, .. } => Err(fault("removeProcessGroup", &text)),
        }
    }

    /// How a program has ended, as a sentence. Only the log of supervisord tells of signals, and of programs that ended at once.
    pub(crate) fn ending(&self, name: &str, info: &ProgramInfo) -> String {
        if !info.error.is_empty() && !info.error.starts_with("Exited too quickly") {
            return format!("it can't be started: {}", info.error);
        }
        let log = self.value("readLog", &[(-LOG_BYTES).into(), 0.into()]).unwrap_or_default();
        match ending_in_log(log.as_str().unwrap_or_default(), name) {
            Some(how) => format!("it ended: {how}"),
            None => "it ended".to_owned(),
        }
    }

    /// The last lines of a program's output.
    pub(crate) fn tail(&self, name: &str, lines: usize) -> Result<Vec<String>, Failure> {
        let bytes = BYTES_PER_LINE * lines as u64;
        let process = format!("{name}:{name}");
        let log = self.value("tailProcessStdoutLog", &[process.into(), 0.into(), bytes.into()])?;
        let text = log.get(0).and_then(Value::as_str).unwrap_or_default();
        let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
    }

    fn value(&self, method: &str, parameters: &[Value]) -> Result<Value, Failure> {
        match self.call(method, parameters)? {
            Answer::Value(value) => Ok(value),
            Answer::Fault { text, .. } => Err(fault(method, &text)),
        }
    }

    fn call(&self, method: &str, parameters: &[Value]) -> Result<Answer, Failure> {
        let body = xmlrpc::call(&format!("supervisor.{method}"), parameters);
        let request = Request::new("POST", format!("unix://{}/RPC2", self.socket));
        let response = request.header("content-type", "text/xml").timeout(CALL_TIMEOUT).body(body).send();
        let response = response.map_err(|failure| {
            if matches!(failure.kind, FailureKind::Denied | FailureKind::InvalidConfig) {
                return failure;
            }
            failure
                .context("supervisord does not answer")
                .or_hint("start supervisord, and give the runner's user access to its socket")
        })?;
        match response.status {
            200 => xmlrpc::parse(&String::from_utf8_lossy(&response.body)),
            401 => Err(Failure::denied("supervisord wants a user and a password at its socket").hint(
                "leave out `username` and `password` of `[unix_http_server]`; the socket's mode is the protection",
            )),
            status => Err(Failure::permanent(format!("supervisord answered `{method}` with status {status}"))
                .hint("its own log says why")),
        }
    }
}

/// How a program has ended last, such as `exit status 3`, by lines such as `… exited: NAME (exit status 3; not expected)`.
fn ending_in_log<'l>(log: &'l str, name: &str) -> Option<&'l str> {
    let (_, behind) = log.rsplit_once(&format!("exited: {name} ("))?;
    behind.split([';', ')']).next()
}

fn fault(method: &str, text: &str) -> Failure {
    log::warn(format!("supervisord refused `{method}`: {text}"));
    Failure::permanent(format!("supervisord refused `{method}`: {text}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn states_of_programs_are_told_apart() {
        let state = |state: i64| program_info(&json!({ "state": state, "pid": 0, "spawnerr": "" })).state;
        use SlotProgramState::{Ended, Running, Stopped, Stopping};
        assert_eq!(
            [0, 10, 20, 30, 40, 100, 200, 1000].map(state),
            [Stopped, Running, Running, Ended, Stopping, Ended, Ended, Ended]
        );
    }

    #[test]
    fn end_of_a_program_is_found_in_the_log() {
        let log = "t INFO spawned: 'shop-b-1' with pid 7\nt WARN exited: shop-b-1 (exit status 1; not expected)\n\
                   t WARN exited: shop-b-1 (terminated by SIGKILL; not expected)\nt INFO exited: shop-b (exit status 0; expected)\n";
        assert_eq!(ending_in_log(log, "shop-b-1"), Some("terminated by SIGKILL"));
        assert_eq!(ending_in_log(log, "shop-b"), Some("exit status 0"));
        assert_eq!(ending_in_log(log, "shop-a"), None);
    }
}
