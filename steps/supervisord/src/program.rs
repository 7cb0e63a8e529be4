//! The program of one slot: its name, its section in the configuration of supervisord, and its secrets.

use core::time::Duration;

use pawl_step::files::{self, Ownership, Template};
use pawl_step::secrets::Secret;
use pawl_step::slots::{Slot, SlotRecord, SlotSet, SlotValues};
use pawl_step::{Failure, Input, fs};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How much of a digest a name has.
const DIGEST_CHARS: usize = 12;
/// How much of a label.
const LABEL_CHARS: usize = 40;
/// The template of all files: a text of the module, and perhaps a secret.
const TEMPLATE: &[u8] = b"{{ text }}{{ secrets.value | default('') }}";
/// The size at which supervisord begins a new log, and how many old ones it keeps.
const LOG_LIMITS: &str = "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=2\n";

/// The setting `program`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProgramConfig {
    /// The program with its arguments.
    pub command: Value,
    /// The working directory.
    pub directory: Option<String>,
    /// The user who runs it.
    pub user: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: Map<String, Value>,
    /// Secrets that become environment variables.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
}

/// The places of what a slot has in supervisord. All of them follow from names that no program in a slot can write.
#[derive(Debug)]
pub(crate) struct SlotProgram {
    /// The beginning of its names, such as `shop-prod-b`.
    base: String,
    /// The grant of the configuration.
    conf: String,
}

/// What is to run in a slot.
#[derive(Debug)]
pub(crate) struct SlotDefinition {
    /// The section in the configuration.
    pub(crate) text: String,
    user: Option<String>,
    secrets: Vec<String>,
}

impl SlotProgram {
    pub(crate) fn new<C>(input: &Input<C>, conf: &str, slot: &Slot) -> Self {
        Self { base: format!("{}-{}-{}", input.app, input.environment, slot.name), conf: conf.to_owned() }
    }

    /// The name of the program that holds what a record says, such as `shop-prod-b-0123456789ab`.
    pub(crate) fn name(&self, record: &SlotRecord) -> String {
        let short: String = match record.release.strip_prefix("sha256:") {
            Some(digest) => digest.chars().take(DIGEST_CHARS).collect(),
            None => record.release.chars().take(LABEL_CHARS).collect(),
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        format!("{}-{}", self.base, short.replace(|letter| !is_name(letter), "-"))
    }

    /// The place of its configuration.
    pub(crate) fn conf_place(&self) -> String {
        format!("{}/{}.conf", self.conf, self.base)
    }

    /// The folder of its secrets.
    fn secrets_place(&self) -> String {
        format!("{}/.pawl/{}", self.conf, self.base)
    }

    /// What is to run for a record.
    pub(crate) fn definition(
        &self,
        config: &ProgramConfig,
        values: &SlotValues,
        record: &SlotRecord,
        log: &str,
        stop_timeout: Duration,
    ) -> Result<SlotDefinition, Failure> {
        let mut argv = Vec::new();
        if !config.secrets.is_empty() {
            argv.extend(["/bin/sh".to_owned(), "-c".to_owned(), secrets_script(&config.secrets)]);
            argv.push(files::path(&self.secrets_place())?);
        }
        if !config.env.is_empty() {
            argv.push("/usr/bin/env".to_owned());
            for (name, value) in &config.env {
                argv.push(format!("{name}={}", values.fill(value.as_str().unwrap_or_default())?));
            }
        }
        argv.extend(command(config, values)?);
        let mut line = String::new();
        for argument in &argv {
            line = format!("{line} {}", quote(argument)?);
        }
        let directory = match &config.directory {
            Some(directory) => Some(values.fill(directory)?),
            None => values.fill("{release-dir}").ok(),
        };
        let seconds = stop_timeout.as_secs().max(1);
        let signal = config.stop_signal.as_deref().unwrap_or("TERM");
        let mut text = format!(
            "; {} of {} in environment {}. A deployment has written this file, and replaces it.\n[program:{}]\ncommand={}\n\
             autostart=true\nautorestart=true\nstopsignal={signal}\nstopwaitsecs={seconds}\nstopasgroup=true\nkillasgroup=true\n\
             redirect_stderr=true\nstdout_logfile={}\n{LOG_LIMITS}",
            record.release,
            record.app,
            record.environment,
            self.name(record),
            line.trim_start(),
            plain(log)?,
        );
        for (name, value) in [("directory", &directory), ("user", &config.user)] {
            if let Some(value) = value {
                text = format!("{text}{name}={}\n", plain(value)?);
            }
        }
        Ok(SlotDefinition { text, user: config.user.clone(), secrets: config.secrets.clone() })
    }

    /// Writes the secrets and the configuration.
    pub(crate) fn write(&self, set: &SlotSet, definition: &SlotDefinition) -> Result<(), Failure> {
        let template = template_place(set);
        if fs::read_if_exists(&template)?.as_deref() != Some(TEMPLATE) {
            fs::write_atomic(&template, TEMPLATE)?;
        }
        files::remove(&self.secrets_place())?;
        let owner = Ownership { mode: Some("0400".to_owned()), owner: definition.user.clone(), ..Ownership::default() };
        for name in &definition.secrets {
            let secrets = [("value".to_owned(), Secret::open(name)?)];
            let place = format!("{}/{name}", self.secrets_place());
            Template { place: &template, values: &values(""), secrets: &secrets }.render(&place, &owner)?;
        }
        let values = values(&definition.text);
        Template { place: &template, values: &values, secrets: &[] }
            .render(&self.conf_place(), &Ownership::default())
            .map(|_| ())
    }

    /// Whether configuration and secrets are as they would be written.
    pub(crate) fn is_written(&self, set: &SlotSet, definition: &SlotDefinition) -> Result<bool, Failure> {
        let template = template_place(set);
        if fs::read_if_exists(&template)?.as_deref() != Some(TEMPLATE) {
            return Ok(false);
        }
        for name in &definition.secrets {
            let secrets = [("value".to_owned(), Secret::open(name)?)];
            let place = format!("{}/{name}", self.secrets_place());
            let rendered = Template { place: &template, values: &values(""), secrets: &secrets };
            if !rendered.is_rendered(&place)? {
                return Ok(false);
            }
        }
        Template { place: &template, values: &values(&definition.text), secrets: &[] }.is_rendered(&self.conf_place())
    }

    /// Removes configuration and secrets, and what a runner that was killed has left of the former.
    pub(crate) fn remove(&self) -> Result<(), Failure> {
        files::remove(&self.conf_place())?;
        let begin = format!("{}.conf.", self.base);
        for name in files::names(&self.conf)? {
            if name.starts_with(&begin) && name.ends_with(".tmp") {
                files::remove(&format!("{}/{name}", self.conf))?;
            }
        }
        files::remove(&self.secrets_place())
    }
}

/// The words of the command, filled in.
pub(crate) fn command(config: &ProgramConfig, values: &SlotValues) -> Result<Vec<String>, Failure> {
    let words: Vec<&str> = match &config.command {
        Value::String(text) => text.split_ascii_whitespace().collect(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    if words.is_empty() {
        return Err(Failure::invalid_config("`command` of `program` is empty"));
    }
    words.into_iter().map(|word| values.fill(word)).collect()
}

fn values(text: &str) -> Map<String, Value> {
    let mut values = Map::new();
    values.insert("text".to_owned(), text.into());
    values
}

/// Beside the slots, where no program in a slot can write.
fn template_place(set: &SlotSet) -> String {
    format!("{}/.template", set.folder())
}

/// Reads each variable from its file, and becomes the program.
fn secrets_script(names: &[String]) -> String {
    let mut script = String::new();
    for name in names {
        script = format!("{script}{name}=$(cat \"$0/{name}\") && export {name} && ");
    }
    script + "exec \"$@\""
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

fn one_line(text: &str) -> Result<&str, Failure> {
    if text.contains(char::is_control) {
        return Err(Failure::invalid_config(format!(
            "`{}` has a line break or a control character",
            text.escape_debug()
        ))
        .hint("put it into a file of the release, or into a secret"));
    }
    Ok(text)
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

    #[test]
    fn secrets_become_variables_of_the_program() {
        let script = secrets_script(&["A".to_owned(), "B".to_owned()]);
        assert_eq!(script, "A=$(cat \"$0/A\") && export A && B=$(cat \"$0/B\") && export B && exec \"$@\"");
        assert!(!script.contains([';', '#', '\'']), "it stays readable in the configuration");
    }
}
