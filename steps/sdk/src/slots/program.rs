//! The program of a slot: its settings, its names, and the files that a supervisor of programs reads about it.
//!
//! Invariant: all places follow from names that no program in a slot can write.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Slot, SlotLaunch, SlotRecord, SlotSet, SlotValues};
use crate::files::{self, Ownership, Template};
use crate::secrets::Secret;
use crate::{Failure, Input, fs};

/// How much of a digest a name has.
const DIGEST_CHARS: usize = 12;
/// How much of a label.
const LABEL_CHARS: usize = 40;
/// The template of all files: a text of the module, and perhaps a secret.
const TEMPLATE: &[u8] = b"{{ text }}{{ secrets.value | default('') }}";

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

/// The files about the program of one slot, in a directory of `renders`: its definition, and its secrets.
#[derive(Debug)]
pub struct SlotFiles {
    /// The beginning of its names, such as `shop-prod-b`.
    base: String,
    /// The grant.
    grant: String,
    /// What follows the base in the name of the definition, such as `.conf`.
    suffix: &'static str,
}

impl ProgramConfig {
    /// The words of the command, filled in.
    ///
    /// # Errors
    /// An empty command, or a value that is not known.
    pub fn command(&self, values: &SlotValues) -> Result<Vec<String>, Failure> {
        let words: Vec<&str> = match &self.command {
            Value::String(text) => text.split_ascii_whitespace().collect(),
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
        };
        if words.is_empty() {
            return Err(Failure::invalid_config("`command` of `program` is empty"));
        }
        words.into_iter().map(|word| values.fill(word)).collect()
    }

    /// The working directory: that of the setting, or the release's, if there is one.
    ///
    /// # Errors
    /// A value that is not known.
    pub fn directory(&self, values: &SlotValues) -> Result<Option<String>, Failure> {
        match &self.directory {
            Some(directory) => values.fill(directory).map(Some),
            None => Ok(values.fill("{release-dir}").ok()),
        }
    }

    /// The environment variables, each as `NAME=value`.
    ///
    /// # Errors
    /// A value that is not known.
    pub fn variables(&self, values: &SlotValues) -> Result<Vec<String>, Failure> {
        let filled = |(name, value): (&String, &Value)| {
            values.fill(value.as_str().unwrap_or_default()).map(|value| format!("{name}={value}"))
        };
        self.env.iter().map(filled).collect()
    }

    /// The words that read the secrets, and become the program whose words follow.
    ///
    /// # Errors
    /// The directory is not granted.
    pub fn secrets_prefix(&self, slot_files: &SlotFiles) -> Result<Vec<String>, Failure> {
        if self.secrets.is_empty() {
            return Ok(Vec::new());
        }
        let place = files::path(&slot_files.secrets_place())?;
        Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), secrets_script(&self.secrets), place])
    }

    /// Refuses a program that is not in the release. Whether another file exists is for the supervisor to tell.
    ///
    /// # Errors
    /// The program is missing.
    pub fn refuse_missing(&self, set: &SlotSet, values: &SlotValues) -> Result<(), Failure> {
        let command = self.command(values)?;
        let (Some(program), Ok(release)) = (command.first(), values.fill("{release-dir}")) else { return Ok(()) };
        let dir = files::path(set.dir())?;
        let Some(path) = program.strip_prefix(&format!("{dir}/")).filter(|_| program.starts_with(&release)) else {
            return Ok(());
        };
        if fs::metadata_of_link(&format!("{}/{path}", set.dir()))?.is_some() {
            return Ok(());
        }
        Err(Failure::not_found(format!("the program {program} does not exist"))
            .hint("correct `command`, or the step that puts it into the release"))
    }
}

impl SlotFiles {
    /// The files of a slot in a directory of `renders`.
    pub fn new<C>(input: &Input<C>, grant: &str, slot: &Slot, suffix: &'static str) -> Self {
        Self { base: format!("{}-{}-{}", input.app, input.environment, slot.name), grant: grant.to_owned(), suffix }
    }

    /// The beginning of their names, such as `shop-prod-b`.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The name of the definition, such as `shop-prod-b.conf`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}{}", self.base, self.suffix)
    }

    /// A name of what a record says, such as `shop-prod-b-0123456789ab`.
    #[must_use]
    pub fn release_name(&self, record: &SlotRecord) -> String {
        let short: String = match record.release.strip_prefix("sha256:") {
            Some(digest) => digest.chars().take(DIGEST_CHARS).collect(),
            None => record.release.chars().take(LABEL_CHARS).collect(),
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        format!("{}-{}", self.base, short.replace(|letter| !is_name(letter), "-"))
    }

    /// The place of the definition.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}/{}", self.grant, self.name())
    }

    /// The folder of its secrets.
    fn secrets_place(&self) -> String {
        format!("{}/.pawl/{}", self.grant, self.base)
    }

    /// Gives the slot's folder to the program's user, and writes the secrets, which only that user can read, and the definition.
    ///
    /// # Errors
    /// Not granted, or not possible.
    pub fn write(&self, launch: &SlotLaunch<'_>, config: &ProgramConfig, text: &str) -> Result<(), Failure> {
        if let Some(user) = &config.user {
            let ownership = Ownership { owner: Some(user.clone()), ..Ownership::default() };
            files::set(&launch.set.place(launch.slot), &ownership, false)?;
        }
        let template = template_place(launch.set);
        if fs::read_if_exists(&template)?.as_deref() != Some(TEMPLATE) {
            fs::write_atomic(&template, TEMPLATE)?;
        }
        files::remove(&self.secrets_place())?;
        let owner = Ownership { mode: Some("0400".to_owned()), owner: config.user.clone(), ..Ownership::default() };
        for name in &config.secrets {
            let secrets = [("value".to_owned(), Secret::open(name)?)];
            let place = format!("{}/{name}", self.secrets_place());
            Template { place: &template, values: &values(""), secrets: &secrets }.render(&place, &owner)?;
        }
        Template { place: &template, values: &values(text), secrets: &[] }
            .render(&self.place(), &Ownership::default())
            .map(|_| ())
    }

    /// Whether definition and secrets are as they would be written.
    ///
    /// # Errors
    /// Not granted, or not readable.
    pub fn is_written(&self, set: &SlotSet, config: &ProgramConfig, text: &str) -> Result<bool, Failure> {
        let template = template_place(set);
        if fs::read_if_exists(&template)?.as_deref() != Some(TEMPLATE) {
            return Ok(false);
        }
        for name in &config.secrets {
            let secrets = [("value".to_owned(), Secret::open(name)?)];
            let place = format!("{}/{name}", self.secrets_place());
            let rendered = Template { place: &template, values: &values(""), secrets: &secrets };
            if !rendered.is_rendered(&place)? {
                return Ok(false);
            }
        }
        Template { place: &template, values: &values(text), secrets: &[] }.is_rendered(&self.place())
    }

    /// Removes definition and secrets, and what a runner that was killed has left of the former.
    ///
    /// # Errors
    /// Not granted, or not possible.
    pub fn remove(&self) -> Result<(), Failure> {
        files::remove(&self.place())?;
        files::remove(&self.secrets_place())
    }

    /// Refuses a definition that no record tells of.
    ///
    /// # Errors
    /// There is one.
    pub fn refuse_unknown(&self, set: &SlotSet, slot: &Slot, record: Option<&SlotRecord>) -> Result<(), Failure> {
        let place = self.place();
        if record.is_some() || !files::exists(&place)? {
            return Ok(());
        }
        let path = files::path(&place)?;
        let slot = set.place(slot);
        Err(Failure::conflict(format!("{path} exists, but `{slot}/slot.json` does not, so this step did not write it"))
            .hint("if nothing needs the file, remove it"))
    }
}

/// Refuses a line break or a control character, which no line of a definition can have.
///
/// # Errors
/// The text has one.
pub fn one_line(text: &str) -> Result<&str, Failure> {
    if text.contains(char::is_control) {
        return Err(Failure::invalid_config(format!(
            "`{}` has a line break or a control character",
            text.escape_debug()
        ))
        .hint("put it into a file of the release, or into a secret"));
    }
    Ok(text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_become_variables_of_the_program() {
        let script = secrets_script(&["A".to_owned(), "B".to_owned()]);
        assert_eq!(script, "A=$(cat \"$0/A\") && export A && B=$(cat \"$0/B\") && export B && exec \"$@\"");
        assert!(!script.contains([';', '#', '\'']), "it stays readable in the configuration");
    }
}
