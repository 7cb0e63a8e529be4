//! systemd as what keeps the programs of slots running: the unit of a slot, and what is done with it.

use pawl_step::process::Command;
use pawl_step::slots::{ProgramConfig, ProgramInfo, Slot, SlotEngine, SlotFiles, SlotLaunch, SlotRecord, one_line};
use pawl_step::{Failure, Input, files, fs};
use serde_json::Value;

use crate::systemctl::{Systemctl, succeeded};
use crate::{SystemdConfig, UnitConfig, quote};

/// How much of a log is read for its last lines.
const LOG_BYTES: u64 = 64 * 1024;
/// What the step sets itself.
const OWN_SETTINGS: [&str; 8] = [
    "Environment",
    "ExecStart",
    "KillSignal",
    "StandardError",
    "StandardOutput",
    "TimeoutStopSec",
    "User",
    "WorkingDirectory",
];

/// The systemd of a step.
#[derive(Debug)]
pub(crate) struct SystemdEngine<'i> {
    pub(crate) input: &'i Input<SystemdConfig>,
}

impl SystemdEngine<'_> {
    fn systemctl(&self) -> Systemctl<'_> {
        Systemctl { argv: &self.input.config.systemctl }
    }

    fn files(&self, slot: &Slot) -> SlotFiles {
        SlotFiles::new(self.input, &self.input.config.units, slot, ".service")
    }

    fn config(&self) -> Result<&UnitConfig, Failure> {
        self.input.config.program.as_ref().ok_or_else(|| Failure::invalid_config("`program` is missing"))
    }

    fn program(&self) -> Result<&ProgramConfig, Failure> {
        self.config().map(|config| &config.program)
    }

    /// The text of the unit.
    fn unit(&self, launch: &SlotLaunch<'_>) -> Result<String, Failure> {
        let (record, slot) = (launch.record, launch.slot);
        let target = match self.input.config.systemctl.iter().any(|argument| argument == "--user") {
            true => "default.target",
            false => "multi-user.target",
        };
        let description =
            format!("{} in environment {}, slot {}: {}", record.app, record.environment, slot.name, record.label);
        Ok(format!(
            "# {} of {} in environment {}. A deployment has written this file, and replaces it.\n[Unit]\nDescription={}\n\
             After=network.target\nStartLimitIntervalSec=0\n\n[Service]\n{}\n[Install]\nWantedBy={target}\n",
            record.release,
            record.app,
            record.environment,
            quote::line(&description)?,
            self.service(launch)?,
        ))
    }

    /// The lines of the section `[Service]`.
    fn service(&self, launch: &SlotLaunch<'_>) -> Result<String, Failure> {
        let (config, program) = (self.config()?, self.program()?);
        let mut line = String::new();
        for word in program.secrets_prefix(&self.files(launch.slot))?.into_iter().chain(program.command(launch.values)?)
        {
            line = format!("{line} {}", quote::word(&word)?);
        }
        // The first one, because a probe reads it.
        let mut text =
            format!("Environment={}\n", quote::variable(&format!("PAWL_RELEASE={}", launch.record.release))?);
        for variable in program.variables(launch.values)? {
            text = format!("{text}Environment={}\n", quote::variable(&variable)?);
        }
        text = format!("{text}Type=exec\nExecStart={}\n", line.trim_start());
        for (name, value) in [("WorkingDirectory", &program.directory(launch.values)?), ("User", &program.user)] {
            if let Some(value) = value {
                text = format!("{text}{name}={}\n", quote::line(value)?);
            }
        }
        let signal = program.stop_signal.as_deref().unwrap_or("TERM").trim_start_matches("SIG");
        let seconds = self.input.config.stop_timeout.as_secs().max(1);
        text = format!("{text}Restart=always\nRestartSec=1\nKillSignal=SIG{signal}\nTimeoutStopSec={seconds}\n");
        if self.input.config.journal.is_none() {
            let log = quote::line(&files::path(launch.log)?)?;
            text = format!("{text}StandardOutput=append:{log}\nStandardError=inherit\n");
        }
        for (name, value) in &config.service {
            text += &setting(name, value)?;
        }
        Ok(text)
    }
}

/// A setting of the plan, as it is: its specifiers are those of systemd.
fn setting(name: &str, value: &Value) -> Result<String, Failure> {
    if OWN_SETTINGS.contains(&name) {
        return Err(Failure::invalid_config(format!("`{name}` in `service` is what the step itself sets"))
            .hint("use the settings of `program`, and `stop-timeout`"));
    }
    let line = |value: &Value| match value {
        Value::String(text) => Ok(format!("{name}={}\n", one_line(text)?)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Ok(format!("{name}={value}\n"))
        }
    };
    match value {
        Value::Array(values) => values.iter().map(line).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => line(value),
    }
}

impl SlotEngine for SystemdEngine<'_> {
    fn name(&self, slot: &Slot, _record: &SlotRecord) -> String {
        self.files(slot).name()
    }

    fn check(&self) -> Result<(), Failure> {
        self.systemctl().check()
    }

    fn rehearse(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.unit(launch)?;
        self.files(launch.slot).refuse_unknown(launch.set, launch.slot, launch.found)?;
        self.program()?.refuse_missing(launch.set, launch.values)
    }

    fn is_written(&self, launch: &SlotLaunch<'_>) -> Result<bool, Failure> {
        self.files(launch.slot).is_written(launch.set, self.program()?, &self.unit(launch)?)
    }

    fn write(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.files(launch.slot).write(launch, self.program()?, &self.unit(launch)?)
    }

    fn start(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        let Err(failure) = self.systemctl().start(&self.files(launch.slot).name()) else { return Ok(()) };
        // What has ended says more about itself than systemctl.
        match self.info(launch.slot, launch.record) {
            Ok(Some(info)) if !info.error.is_empty() => Err(Failure { message: info.error, ..failure }),
            Ok(_) | Err(_) => Err(failure),
        }
    }

    fn info(&self, slot: &Slot, record: &SlotRecord) -> Result<Option<ProgramInfo>, Failure> {
        self.systemctl().info(&self.files(slot).name(), &record.release)
    }

    fn ending(&self, _slot: &Slot, _record: &SlotRecord, info: &ProgramInfo) -> String {
        if info.error.is_empty() { "it ended, and systemd has started it again".to_owned() } else { info.error.clone() }
    }

    fn tail(&self, launch: &SlotLaunch<'_>, lines: usize) -> Result<Vec<String>, Failure> {
        let bytes = match &self.input.config.journal {
            None => fs::read_end(launch.log, LOG_BYTES)?.0,
            Some(argv) => {
                let (program, first) =
                    argv.split_first().ok_or_else(|| Failure::invalid_config("`journal` is empty"))?;
                let unit = self.files(launch.slot).name();
                let count = lines.to_string();
                let arguments = ["--unit", &unit, "--lines", &count, "--output", "cat", "--no-pager", "--quiet"];
                let arguments = first.iter().cloned().chain(arguments.map(str::to_owned));
                let completion = Command::new(program).args(arguments).run()?;
                succeeded("journalctl", &completion)?;
                completion.stdout
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
    }

    fn remove(&self, slot: &Slot, _record: &SlotRecord) -> Result<(), Failure> {
        let (systemctl, files) = (self.systemctl(), self.files(slot));
        systemctl.stop(&files.name())?;
        if files::exists(&files.place())? {
            systemctl.disable(&files.name())?;
        }
        files.remove()?;
        systemctl.forget(&files.name())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_settings_become_lines() {
        assert_eq!(setting("MemoryMax", &json!("512M")).unwrap(), "MemoryMax=512M\n");
        assert_eq!(setting("TasksMax", &json!(50)).unwrap(), "TasksMax=50\n");
        assert_eq!(setting("PrivateTmp", &json!(true)).unwrap(), "PrivateTmp=true\n");
        assert_eq!(setting("ReadWritePaths", &json!(["/a", "/b"])).unwrap(), "ReadWritePaths=/a\nReadWritePaths=/b\n");
        assert!(setting("ExecStart", &json!("/bin/x")).is_err());
        assert!(setting("MemoryMax", &json!("1M\nUser=root")).is_err());
    }
}
