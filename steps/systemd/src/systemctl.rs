//! systemd, asked and told by systemctl.
//!
//! Invariant: it changes nothing but the units that it is told by name.

use pawl_step::process::{Command, Completion};
use pawl_step::slots::{ProgramInfo, SlotProgramState};
use pawl_step::{Failure, log};

/// systemctl says so of a unit that is not loaded.
const NOT_LOADED: i32 = 5;
/// The most lines of a program's output in a message.
const MESSAGE_LINES: usize = 6;
/// What is asked about a unit.
const PROPERTIES: [&str; 8] =
    ["LoadState", "ActiveState", "SubState", "MainPID", "Result", "ExecMainCode", "ExecMainStatus", "Environment"];

/// systemctl with its first arguments.
#[derive(Debug)]
pub(crate) struct Systemctl<'s> {
    pub(crate) argv: &'s [String],
}

impl Systemctl<'_> {
    /// Checks that systemd answers.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let completion = self.complete(&["show", "--property=Version"])?;
        succeeded("systemctl show", &completion).map_err(|failure| {
            failure
                .context("systemd does not answer")
                .hint("`systemctl status` must work for the runner's user; with `--user`, the step needs `env: { XDG_RUNTIME_DIR: … }`")
        })
    }

    /// What systemd knows of a unit that holds a release; none if it has no such unit, or that has another release.
    pub(crate) fn info(&self, unit: &str, release: &str) -> Result<Option<ProgramInfo>, Failure> {
        let property = format!("--property={}", PROPERTIES.join(","));
        let completion = self.complete(&["show", &property, unit])?;
        succeeded("systemctl show", &completion)?;
        Ok(parse_info(&String::from_utf8_lossy(&completion.stdout), release))
    }

    /// Reads the units again, and starts one: now, and when the machine boots.
    pub(crate) fn start(&self, unit: &str) -> Result<(), Failure> {
        for arguments in [&["daemon-reload"][..], &["enable", unit], &["start", unit]] {
            self.run(arguments)?;
        }
        Ok(())
    }

    /// Stops a unit, and waits until it has ended. A missing one is fine.
    pub(crate) fn stop(&self, unit: &str) -> Result<(), Failure> {
        let completion = self.complete(&["stop", unit])?;
        if completion.status == NOT_LOADED {
            return Ok(());
        }
        succeeded("systemctl stop", &completion).map_err(refused)
    }

    /// Lets the unit not be started when the machine boots.
    pub(crate) fn disable(&self, unit: &str) -> Result<(), Failure> {
        self.run(&["disable", unit])
    }

    /// Forgets a unit whose file was removed.
    pub(crate) fn forget(&self, unit: &str) -> Result<(), Failure> {
        self.run(&["daemon-reload"])?;
        // It fails if there is nothing to forget.
        self.complete(&["reset-failed", unit]).map(drop)
    }

    fn run(&self, arguments: &[&str]) -> Result<(), Failure> {
        let completion = self.complete(arguments)?;
        succeeded(&format!("systemctl {}", arguments.join(" ")), &completion).map_err(refused)
    }

    fn complete(&self, arguments: &[&str]) -> Result<Completion, Failure> {
        let (program, first) =
            self.argv.split_first().ok_or_else(|| Failure::invalid_config("`systemctl` is empty"))?;
        let arguments = ["--no-ask-password"].iter().chain(arguments).map(|argument| (*argument).to_owned());
        Command::new(program).args(first.iter().cloned().chain(arguments)).run()
    }
}

fn refused(failure: Failure) -> Failure {
    log::warn(failure.message.clone());
    if failure.message.contains("uthentication required") || failure.message.contains("Access denied") {
        return failure.hint(
            "let the runner's user do this: run it as root, or `systemctl: [/usr/bin/sudo, -n, /usr/bin/systemctl]`",
        );
    }
    failure
}

/// Refuses an exit status other than 0.
pub(crate) fn succeeded(what: &str, completion: &Completion) -> Result<(), Failure> {
    if completion.status == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&completion.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let said = match lines.len() {
        0 => "it wrote nothing".to_owned(),
        count => lines[..count.min(MESSAGE_LINES)].join("\n"),
    };
    Err(Failure::permanent(format!("`{what}` exited with status {}: {said}", completion.status)))
}

fn parse_info(text: &str, release: &str) -> Option<ProgramInfo> {
    let property = |name: &str| {
        let value = |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        text.lines().find_map(value).unwrap_or_default()
    };
    let variables = property("Environment");
    let is_of_release = variables.split_whitespace().any(|variable| variable == format!("PAWL_RELEASE={release}"));
    if property("LoadState") == "not-found" || !is_of_release {
        return None;
    }
    let number = |name: &str| property(name).parse::<i64>().unwrap_or(0);
    let (active, sub) = (property("ActiveState"), property("SubState"));
    let state = match (active.as_str(), sub.as_str()) {
        (_, "auto-restart") | ("failed", _) => SlotProgramState::Ended,
        ("active" | "activating" | "reloading", _) => SlotProgramState::Running,
        ("deactivating", _) => SlotProgramState::Stopping,
        _ => SlotProgramState::Stopped,
    };
    let error = match state {
        SlotProgramState::Ended => ending(number("ExecMainCode"), number("ExecMainStatus"), &property("Result")),
        SlotProgramState::Running | SlotProgramState::Stopping | SlotProgramState::Stopped => String::new(),
    };
    Some(ProgramInfo { state, process: number("MainPID"), error })
}

/// How a program has ended: `code` is that of waitid(2). The statuses are those of systemd.exec(5).
fn ending(code: i64, status: i64, result: &str) -> String {
    /// It exited by itself; otherwise a signal has ended it.
    const EXITED: i64 = 1;
    let cannot = |what: &str| format!("it can't be started: systemd can't {what} (status {status})");
    match (code, status) {
        (0, _) => format!("it can't be started: {result}"),
        (EXITED, 200) => cannot("enter its working directory"),
        (EXITED, 203) => cannot("run its program"),
        (EXITED, 209) => cannot("write its log"),
        (EXITED, 216 | 217) => cannot("use its user or group"),
        (EXITED, _) => format!("it ended: exit status {status}"),
        (_, _) if result == "oom-kill" => "it ended: it took more memory than it may".to_owned(),
        (_, 6) => "it ended: terminated by SIGABRT".to_owned(),
        (_, 9) => "it ended: terminated by SIGKILL".to_owned(),
        (_, 11) => "it ended: terminated by SIGSEGV".to_owned(),
        (_, 15) => "it ended: terminated by SIGTERM".to_owned(),
        (_, signal) => format!("it ended: terminated by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Option<(SlotProgramState, i64, String)> {
        let text = text.replace(' ', "\n") + "\nEnvironment=PAWL_RELEASE=r1 A=b\n";
        parse_info(&text, "r1").map(|info| (info.state, info.process, info.error))
    }

    #[test]
    fn states_of_units_are_told_apart() {
        use SlotProgramState::{Ended, Running, Stopped, Stopping};
        let ended = |why: &str| Some((Ended, 0, why.to_owned()));
        for (text, found) in [
            ("ActiveState=active SubState=running MainPID=7", Some((Running, 7, String::new()))),
            ("ActiveState=activating SubState=start MainPID=7", Some((Running, 7, String::new()))),
            ("ActiveState=deactivating SubState=stop-sigterm MainPID=7", Some((Stopping, 7, String::new()))),
            ("ActiveState=inactive SubState=dead MainPID=0", Some((Stopped, 0, String::new()))),
            (
                "ActiveState=activating SubState=auto-restart ExecMainCode=1 ExecMainStatus=3",
                ended("it ended: exit status 3"),
            ),
            ("ActiveState=failed ExecMainCode=2 ExecMainStatus=9", ended("it ended: terminated by SIGKILL")),
            ("ActiveState=failed Result=resources", ended("it can't be started: resources")),
            ("LoadState=not-found ActiveState=inactive", None),
        ] {
            assert_eq!(info(text), found, "{text}");
        }
        assert_eq!(parse_info("ActiveState=active\nEnvironment=PAWL_RELEASE=r12\n", "r1"), None);
    }
}
