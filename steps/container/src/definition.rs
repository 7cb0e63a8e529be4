//! What is to run in a slot: its name, its labels, the body that creates it, and the files of its secrets.

use pawl_engine::parse_reference;
use pawl_step::files::{self, Ownership, Template};
use pawl_step::secrets::Secret;
use pawl_step::slots::{Slot, SlotLaunch, SlotRecord, SlotSet, SlotValues};
use pawl_step::{Failure, Input, fs};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ContainerStepConfig;

/// How much of a digest a name has.
const DIGEST_CHARS: usize = 12;
/// How much of a label.
const LABEL_CHARS: usize = 40;
/// The template of all secrets.
const TEMPLATE: &[u8] = b"{{ secrets.value }}";
/// The label with the hash of the body.
pub(crate) const DEFINITION_LABEL: &str = "pawl.definition";
/// The label with the slot's folder: nothing else on this machine has the same.
const SLOT_DIR_LABEL: &str = "pawl.slot-dir";

/// Labels with their texts.
pub(crate) type OwnLabels = Vec<(&'static str, String)>;

/// The setting `container`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ContainerConfig {
    /// The image.
    pub image: Option<String>,
    /// The port in the container.
    pub port: Option<u16>,
    /// The arguments.
    pub command: Option<Value>,
    /// The user who runs it.
    pub user: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: Map<String, Value>,
    /// Secrets that become files.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Folders and volumes.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// The network.
    pub network: Option<String>,
    /// The most memory.
    pub memory: Option<String>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
}

/// Names of what a slot has in the engine, and places of its secrets. All of them follow from names that no program in a slot can write.
#[derive(Debug)]
pub(crate) struct SlotNames {
    /// The beginning of the names, such as `shop-prod-start-b`.
    base: String,
    /// What follows in the name of the container.
    release: String,
    secrets_dir: Option<String>,
}

/// What is to run.
#[derive(Debug)]
pub(crate) struct ContainerDefinition {
    /// The image.
    pub(crate) image: String,
    /// The body that creates it, without labels.
    body: Value,
}

/// The labels that only containers of this slot have, whatever step started them.
pub(crate) fn own_labels(input: &Input<ContainerStepConfig>, slot: &Slot) -> Result<OwnLabels, Failure> {
    let dir = input.dir("in", input.config.dir.as_deref(), &[])?;
    Ok(vec![
        ("pawl.app", input.app.clone()),
        ("pawl.environment", input.environment.clone()),
        ("pawl.slot", slot.name.clone()),
        (SLOT_DIR_LABEL, files::path(&format!("{dir}/{}", slot.path()))?),
    ])
}

impl SlotNames {
    /// The names of what a record tells of, such as the container `shop-prod-start-b-0123456789ab`.
    pub(crate) fn new(config: &ContainerStepConfig, slot: &Slot, record: &SlotRecord) -> Self {
        let SlotRecord { app, environment, step, release, .. } = record;
        let short: String = match release.strip_prefix("sha256:") {
            Some(digest) => digest.chars().take(DIGEST_CHARS).collect(),
            None => release.chars().take(LABEL_CHARS).collect(),
        };
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
        Self {
            base: format!("{app}-{environment}-{step}-{}", slot.name),
            release: short.replace(|letter| !is_name(letter), "-"),
            secrets_dir: config.secrets_dir.clone(),
        }
    }

    /// The name of the container.
    pub(crate) fn container(&self) -> String {
        format!("{}-{}", self.base, self.release)
    }

    fn secrets_place(&self) -> Result<String, Failure> {
        let dir = self.secrets_dir.as_deref().ok_or_else(|| {
            Failure::invalid_config("`container` has `secrets`, and `secrets-dir` is missing")
                .hint("grant a directory to them: `secrets-dir: private` and `grants: { renders: { private: /srv/shop-secrets } }`")
        })?;
        Ok(format!("{dir}/{}", self.base))
    }

    fn secret_place(&self, name: &str) -> Result<String, Failure> {
        Ok(format!("{}/{name}", self.secrets_place()?))
    }

    /// Writes the secrets, so that the user in the container can read them, and nobody else outside.
    pub(crate) fn write_secrets(&self, set: &SlotSet, config: &ContainerConfig) -> Result<(), Failure> {
        if config.secrets.is_empty() {
            return Ok(());
        }
        let (template, place) = (template_place(set), self.secrets_place()?);
        if fs::read_if_exists(&template)?.as_deref() != Some(TEMPLATE) {
            fs::write_atomic(&template, TEMPLATE)?;
        }
        files::remove(&place)?;
        // Only the engine opens the folder; the container gets the files alone.
        let owner = Ownership { mode: Some("0444".to_owned()), ..Ownership::default() };
        for (index, name) in config.secrets.iter().enumerate() {
            let confidential = Ownership { mode: Some("0400".to_owned()), ..Ownership::default() };
            let secrets = [("value".to_owned(), Secret::open(name)?)];
            let file = self.secret_place(name)?;
            Template { place: &template, values: &Map::new(), secrets: &secrets }.render(&file, &confidential)?;
            if index == 0 {
                let closed = Ownership { dir_mode: Some("0700".to_owned()), ..Ownership::default() };
                files::set(&place, &closed, false)?;
            }
            files::set(&file, &owner, false)?;
        }
        Ok(())
    }

    /// Whether the secrets are as they would be written.
    pub(crate) fn has_secrets(&self, set: &SlotSet, config: &ContainerConfig) -> Result<bool, Failure> {
        let template = template_place(set);
        for name in &config.secrets {
            if fs::read_if_exists(&template)?.as_deref() != Some(TEMPLATE) {
                return Ok(false);
            }
            let secrets = [("value".to_owned(), Secret::open(name)?)];
            let file = self.secret_place(name)?;
            if !(Template { place: &template, values: &Map::new(), secrets: &secrets }).is_rendered(&file)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the secrets.
    pub(crate) fn remove_secrets(&self) -> Result<(), Failure> {
        match &self.secrets_dir {
            Some(_) => files::remove(&self.secrets_place()?),
            None => Ok(()),
        }
    }
}

/// What is to run in a slot.
pub(crate) fn define(
    input: &Input<ContainerStepConfig>,
    config: &ContainerConfig,
    names: &SlotNames,
    launch: &SlotLaunch<'_>,
) -> Result<ContainerDefinition, Failure> {
    let SlotLaunch { slot, values, .. } = *launch;
    let image = parse_reference(image_of(input, config)?)?;
    let mut env = Vec::new();
    for (name, value) in &config.env {
        env.push(Value::from(format!("{name}={}", values.fill(value.as_str().unwrap_or_default())?)));
    }
    let mut binds = Vec::new();
    for volume in &config.volumes {
        binds.push(Value::from(values.fill(volume)?));
    }
    for name in &config.secrets {
        let file = files::path(&names.secret_place(name)?)?;
        binds.push(format!("{file}:/run/secrets/{name}:ro").into());
    }
    // Docker starts such a container after a reboot, and podman does by its unit podman-restart.
    let mut host = json!({ "RestartPolicy": { "Name": "always" }, "Binds": binds });
    let mut body = json!({ "Image": image, "Env": env, "StopTimeout": input.config.stop_timeout.as_secs().max(1) });
    if let Some((inner, outer)) = published_port(config, slot)? {
        host["PortBindings"] = json!({ &inner: [{ "HostIp": "127.0.0.1", "HostPort": outer }] });
        body["ExposedPorts"] = json!({ &inner: {} });
    }
    if let Some(network) = &config.network {
        host["NetworkMode"] = network.as_str().into();
    }
    if let Some(memory) = &config.memory {
        host["Memory"] = bytes(memory)?.into();
    }
    for (name, value) in [("User", &config.user), ("StopSignal", &config.stop_signal)] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    if let Some(command) = &config.command {
        body["Cmd"] = words(command, values)?.into();
    }
    body["HostConfig"] = host;
    Ok(ContainerDefinition { image, body })
}

impl ContainerDefinition {
    /// The body that creates the container, with labels.
    pub(crate) fn body(&self, own: &OwnLabels, record: &SlotRecord) -> Value {
        let mut labels = Map::new();
        for (name, value) in own {
            labels.insert((*name).to_owned(), value.as_str().into());
        }
        for (name, value) in [("pawl.release", &record.release), ("pawl.key", &record.key)] {
            labels.insert(name.to_owned(), value.as_str().into());
        }
        labels.insert(DEFINITION_LABEL.to_owned(), self.hash().into());
        let mut body = self.body.clone();
        body["Labels"] = Value::Object(labels);
        body
    }

    /// Tells a changed definition from the same one: FNV-1a with 64 bits.
    pub(crate) fn hash(&self) -> String {
        let text = self.body.to_string();
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }
}

/// The image: of the plan, or of the only step that returned one.
fn image_of<'i>(input: &'i Input<ContainerStepConfig>, config: &'i ContainerConfig) -> Result<&'i str, Failure> {
    if let Some(image) = &config.image {
        return Ok(image);
    }
    let mut found = input.outputs.values().filter_map(|outputs| outputs.get("image")?.as_str());
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Failure::invalid_config("`container` has no `image`, and no earlier step returned one")
            .hint("add a step `images` before this one, or name the image")),
        (Some(_), Some(_)) => Err(Failure::invalid_config("several earlier steps returned an image")
            .hint("name one: `image: \"${{ steps.images.image }}\"`")),
    }
}

/// The port in the container, as `8080/tcp`, and the slot's.
fn published_port(config: &ContainerConfig, slot: &Slot) -> Result<Option<(String, String)>, Failure> {
    let (Some(inner), false) = (config.port, config.network.as_deref() == Some("host")) else { return Ok(None) };
    let outer = slot.port.ok_or_else(|| {
        Failure::invalid_config(format!("`container` has a `port`, and slot `{}` has none that leads to it", slot.name))
            .hint("give each slot a port: `slots: { a: { port: 8001 }, b: { port: 8002 } }`")
    })?;
    Ok(Some((format!("{inner}/tcp"), outer.to_string())))
}

fn words(command: &Value, values: &SlotValues) -> Result<Vec<Value>, Failure> {
    let words: Vec<&str> = match command {
        Value::String(text) => text.split_ascii_whitespace().collect(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    words.into_iter().map(|word| values.fill(word).map(Value::from)).collect()
}

/// The bytes of `512m`.
fn bytes(text: &str) -> Result<u64, Failure> {
    let invalid = || Failure::invalid_config(format!("`{text}` is not a size: write `512m` or `2g`"));
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let shift = match unit {
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(invalid()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(invalid)
}

/// Beside the slots, where no program in a slot can write.
fn template_place(set: &SlotSet) -> String {
    format!("{}/.template", set.folder())
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
