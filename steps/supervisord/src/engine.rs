//! supervisord as what keeps the programs of slots running: the section in its configuration, and what it is told.

use pawl_step::slots::{ProgramConfig, ProgramInfo, Slot, SlotEngine, SlotFiles, SlotLaunch, SlotRecord, one_line};
use pawl_step::{Failure, Input, files};

use crate::SupervisordConfig;
use crate::supervisor::Supervisor;

/// The size at which supervisord begins a new log, and how many old ones it keeps.
const LOG_LIMITS: &str = "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=2\n";

/// The supervisord of a step.
#[derive(Debug)]
pub(crate) struct SupervisordEngine<'i> {
    pub(crate) input: &'i Input<SupervisordConfig>,
}

impl SupervisordEngine<'_> {
    fn supervisor(&self) -> Supervisor<'_> {
        Supervisor::new(&self.input.config.socket)
    }

    fn files(&self, slot: &Slot) -> SlotFiles {
        SlotFiles::new(self.input, &self.input.config.conf, slot, ".conf")
    }

    fn program(&self) -> Result<&ProgramConfig, Failure> {
        let program = self.input.config.program.as_ref();
        program.ok_or_else(|| Failure::invalid_config("`program` is missing"))
    }

    /// The section of the program.
    fn section(&self, launch: &SlotLaunch<'_>) -> Result<String, Failure> {
        let (config, values, record) = (self.program()?, launch.values, launch.record);
        let mut argv = config.secrets_prefix(&self.files(launch.slot))?;
        if !config.env.is_empty() {
            argv.push("/usr/bin/env".to_owned());
            argv.extend(config.variables(values)?);
        }
        argv.extend(config.command(values)?);
        let mut line = String::new();
        for argument in &argv {
            line = format!("{line} {}", quote(argument)?);
        }
        let seconds = self.input.config.stop_timeout.as_secs().max(1);
        let signal = config.stop_signal.as_deref().unwrap_or("TERM");
        let mut text = format!(
            "; {} of {} in environment {}. A deployment has written this file, and replaces it.\n[program:{}]\ncommand={}\n\
             autostart=true\nautorestart=true\nstopsignal={signal}\nstopwaitsecs={seconds}\nstopasgroup=true\nkillasgroup=true\n\
             redirect_stderr=true\nstdout_logfile={}\n{LOG_LIMITS}",
            record.release,
            record.app,
            record.environment,
            self.name(launch.slot, record),
            line.trim_start(),
            plain(&files::path(launch.log)?)?,
        );
        for (name, value) in [("directory", &config.directory(values)?), ("user", &config.user)] {
            if let Some(value) = value {
                text = format!("{text}{name}={}\n", plain(value)?);
            }
        }
        Ok(text)
    }
}

impl SlotEngine for SupervisordEngine<'_> {
    fn name(&self, slot: &Slot, record: &SlotRecord) -> String {
        self.files(slot).release_name(record)
    }

    fn check(&self) -> Result<(), Failure> {
        self.supervisor().check()
    }

    fn rehearse(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.section(launch)?;
        self.files(launch.slot).refuse_unknown(launch.set, launch.slot, launch.found)?;
        self.program()?.refuse_missing(launch.set, launch.values)
    }

    fn is_written(&self, launch: &SlotLaunch<'_>) -> Result<bool, Failure> {
        self.files(launch.slot).is_written(launch.set, self.program()?, &self.section(launch)?)
    }

    fn write(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        self.files(launch.slot).write(launch, self.program()?, &self.section(launch)?)
    }

    fn start(&self, launch: &SlotLaunch<'_>) -> Result<(), Failure> {
        let supervisor = self.supervisor();
        supervisor.reread()?;
        let conf = files::path(&self.files(launch.slot).place())?;
        supervisor.add(&self.name(launch.slot, launch.record), &conf)
    }

    fn info(&self, slot: &Slot, record: &SlotRecord) -> Result<Option<ProgramInfo>, Failure> {
        self.supervisor().info(&self.name(slot, record))
    }

    fn ending(&self, slot: &Slot, record: &SlotRecord, info: &ProgramInfo) -> String {
        self.supervisor().ending(&self.name(slot, record), info)
    }

    fn tail(&self, launch: &SlotLaunch<'_>, lines: usize) -> Result<Vec<String>, Failure> {
        self.supervisor().tail(&self.name(launch.slot, launch.record), lines)
    }

    /// First its configuration, so that supervisord does not start it again.
    fn remove(&self, slot: &Slot, record: &SlotRecord) -> Result<(), Failure> {
        self.files(slot).remove()?;
        let supervisor = self.supervisor();
        supervisor.remove(&self.name(slot, record), self.input.config.stop_timeout)?;
        supervisor.reread()
    }
}

/// An argument as supervisord reads it: words of a shell, without expansions, after `%` was expanded. ` ;` and ` #` begin a comment even
/// inside of quotes.
fn quote(argument: &str) -> Result<String, Failure> {
    let argument = one_line(argument)?.replace('%', "%%");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_@%+=:,./-".contains(letter);
    if argument.is_empty() {
        return Ok("''".to_owned());
    }
    if argument.chars().all(is_plain) {
        return Ok(argument);
    }
    if !argument.contains(['\'', ';', '#']) {
        return Ok(format!("'{argument}'"));
    }
    let mut quoted = String::new();
    for letter in argument.chars() {
        if !is_plain(letter) {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    Ok(quoted)
}

/// A value that is no list of words.
fn plain(value: &str) -> Result<String, Failure> {
    if value.contains([';', '#']) {
        return Err(Failure::invalid_config(format!(
            "`{value}` has a `;` or `#`, which begins a comment for supervisord"
        )));
    }
    Ok(one_line(value)?.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_for_supervisord() {
        for (argument, quoted) in [
            ("-b", "-b"),
            ("", "''"),
            ("a b", "'a b'"),
            ("100%", "100%%"),
            ("%(ENV_HOME)s", "'%%(ENV_HOME)s'"),
            ("it's ;x #y", "it\\'s\\ \\;x\\ \\#y"),
            ("$HOME \"q\" \\", "'$HOME \"q\" \\'"),
        ] {
            assert_eq!(quote(argument).unwrap(), quoted, "{argument}");
        }
        assert!(quote("a\nb").is_err());
        assert!(plain("/srv/a;b").is_err());
    }
}
