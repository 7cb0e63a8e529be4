//! A module's description, and the validation of a configuration against it. The JSON from `describe` may grow: unknown
//! members are ignored.

use std::sync::{Arc, OnceLock};

use jsonschema::error::ValidationErrorKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    behavior::ModuleBehaviors,
    plain_schema,
    schema_violation::{SchemaViolation, violations_of},
};
use contract::step::{StepFailure, StepPhase};
use journal::file::StepEffect;

/// A module's description.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModuleDescription {
    pub name: String,
    pub version: String,
    pub summary: String,
    /// The JSON Schema of the step's `with`.
    pub config: Value,
    #[serde(default)]
    pub needs: Vec<CapabilityNeed>,
    pub phase: StepPhase,
    /// A pointer into the configuration; if it has a value, that is the step's phase.
    #[serde(default)]
    phase_config: Option<String>,
    #[serde(default)]
    pub exposes: bool,
    /// Whether it works beside what is live, so that it is undone when a later step fails before the release is exposed.
    #[serde(default)]
    pub staged: bool,
    /// Whether it has a rehearsal.
    #[serde(default)]
    pub rehearses: bool,
    #[serde(default)]
    repeatable: bool,
    /// A pointer into the configuration; if its value is true, the step is repeatable although the module is not.
    #[serde(default)]
    repeatable_config: Option<String>,
    /// Whether it can be reverted.
    #[serde(default)]
    pub reverts: bool,
    #[serde(default)]
    probes: bool,
    /// Pointers into the configuration; if there are any, the step has a probe only if one of them has a value.
    #[serde(default)]
    probes_config: Vec<String>,
    /// The names of its outputs; none if it does not declare them.
    #[serde(default)]
    pub outputs: Option<Vec<String>>,
    /// What the runner does around it.
    #[serde(default, rename = "behaves")]
    pub behaviors: ModuleBehaviors,
    /// The schema, compiled when it is needed.
    #[serde(skip)]
    validator: Arc<OnceLock<jsonschema::Validator>>,
}

/// A capability that a module needs.
#[derive(Clone, Debug, Deserialize)]
pub struct CapabilityNeed {
    pub capability: CapabilityKind,
    /// A JSON pointer to the configuration value that names the grant. Without the pointer or the value, any grant of
    /// the kind is enough.
    #[serde(default)]
    pub config: Option<String>,
    /// `ro` or `rw`, of directories.
    #[serde(default)]
    pub access: Option<String>,
    pub reason: String,
}

impl CapabilityNeed {
    /// Whether a configuration needs it. A capability whose named value is missing is not needed.
    #[must_use]
    pub fn applies_to(&self, config: &Value) -> bool {
        self.config.as_deref().is_none_or(|pointer| config.pointer(pointer).is_some())
    }

    /// The grant's name in a configuration.
    #[must_use]
    pub fn grant_name<'c>(&self, config: &'c Value) -> Option<&'c str> {
        // A path in the directory names its grant too.
        let text = config.pointer(self.config.as_deref()?)?.as_str()?;
        Some(if matches!(self.capability, CapabilityKind::Dirs | CapabilityKind::Renders) {
            plan::split_dir_path(text).0
        } else {
            text
        })
    }

    /// Whether it is a directory to write to.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.access.as_deref() == Some("rw")
    }

    /// Its description in words: "a writable directory `app`".
    #[must_use]
    pub fn display_text(&self, config: &Value) -> String {
        let what = match self.capability {
            CapabilityKind::Dirs if self.wants_write() => "a writable directory",
            CapabilityKind::Dirs => "a directory",
            CapabilityKind::Databases => "a database",
            CapabilityKind::Http => "an HTTP origin",
            CapabilityKind::Tcp => "a TCP address",
            CapabilityKind::Programs => "a program",
            CapabilityKind::Sockets => "a socket",
            CapabilityKind::Renders => "a directory to render into",
            CapabilityKind::Secrets => "a secret",
        };
        self.grant_name(config).map_or_else(|| what.to_owned(), |name| format!("{what} `{name}`"))
    }
}

/// The kinds of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapabilityKind {
    Dirs,
    Http,
    Tcp,
    Databases,
    Programs,
    Sockets,
    Renders,
    Secrets,
}

impl CapabilityKind {
    /// The name in descriptions and plans.
    #[must_use]
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// The values of `x-pawl-input` in a schema: which files are inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// A source: `file:<dir>/<path>` or a URL, whose content the release's digest represents.
    Source,
    /// A granted directory, with all its files.
    Dir,
    /// A path `<dir>/<path>`.
    Path,
    /// A granted directory, or `<dir>/<path>` of a file or a directory.
    FileOrDir,
    /// A granted program.
    Program,
    /// An argument of the program; it may name a file.
    Argument,
    /// The program's working directory, from which its arguments start.
    WorkingDir,
}

/// What a step's probe can tell with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStrength {
    /// It has no probe.
    None,
    /// It confirms that a step which succeeded still holds. It can't tell whether an interrupted one finished.
    ConfirmsSuccess,
    /// It tells whether the effect holds.
    Full,
}

/// Why a description can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The call failed, with the module's log.
    #[error("its `describe` failed: {}", .0.message)]
    CallFailed(StepFailure, Vec<String>),
    #[error("can't parse the description: {0}")]
    InvalidJson(String),
    #[error("the `config` in its description is not a JSON Schema: {0}")]
    InvalidSchema(String),
}

impl DescriptionError {
    /// The module's log before it ended, by line.
    #[must_use]
    pub fn log_lines(&self) -> &[String] {
        match self {
            Self::CallFailed(_, said) => said,
            Self::InvalidJson(_) | Self::InvalidSchema(_) => &[],
        }
    }

    /// The hint.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::CallFailed(..) => {
                "make `describe` work without grants or input, and always return the same; see docs/steps.md"
            }
            Self::InvalidJson(_) => {
                "return the JSON object that docs/steps.md shows; the SDK and the templates write it"
            }
            Self::InvalidSchema(_) => "make `config` a JSON Schema of the step's `with:`; docs/steps.md shows one",
        }
    }
}

impl ModuleDescription {
    /// Reads a description whose schema is known to be one: the module is official, or was asked before.
    pub(super) fn parse(text: &str) -> Result<Self, DescriptionError> {
        serde_json::from_str(text).map_err(|error| DescriptionError::InvalidJson(error.to_string()))
    }

    /// Reads the description that a module has just returned.
    pub(super) fn parse_new(text: &str) -> Result<Self, DescriptionError> {
        let description = Self::parse(text)?;
        let validator = description.compile_schema()?;
        Ok(Self { validator: Arc::new(OnceLock::from(validator)), ..description })
    }

    fn compile_schema(&self) -> Result<jsonschema::Validator, DescriptionError> {
        jsonschema::validator_for(&self.config).map_err(|error| DescriptionError::InvalidSchema(error.to_string()))
    }

    /// The description of a step with this configuration, which may choose the phase.
    #[must_use]
    pub fn for_config(mut self, config: &Value) -> Self {
        let chosen = self.phase_config.as_deref().and_then(|pointer| config.pointer(pointer));
        if let Some(phase) = chosen.and_then(|phase| StepPhase::deserialize(phase).ok()) {
            self.phase = phase;
        }
        self
    }

    /// What running the step does.
    #[must_use]
    pub fn effect(&self) -> StepEffect {
        match self.phase {
            _ if self.exposes => StepEffect::Exposing,
            StepPhase::Check => StepEffect::ReadOnly,
            StepPhase::Prepare | StepPhase::Commit => StepEffect::Mutating,
        }
    }

    /// What its probe can tell with this configuration.
    #[must_use]
    pub fn probe_strength(&self, config: &Value) -> ProbeStrength {
        let set_count = self.probes_config.iter().filter(|pointer| config.pointer(pointer).is_some()).count();
        let mut presence_count = 0;
        visit_annotations(&self.config, config, "x-pawl-evidence", &mut |word, _| {
            presence_count += usize::from(word == "presence");
        });
        match (self.probes, self.probes_config.is_empty()) {
            (false, _) => ProbeStrength::None,
            (true, false) if set_count == 0 => ProbeStrength::None,
            (true, false) if set_count == presence_count => ProbeStrength::ConfirmsSuccess,
            (true, _) => ProbeStrength::Full,
        }
    }

    /// Whether it may run again after an unknown outcome with this configuration.
    #[must_use]
    pub fn is_repeatable(&self, config: &Value) -> bool {
        let configured = self.repeatable_config.as_deref().and_then(|pointer| config.pointer(pointer));
        self.repeatable || configured == Some(&Value::Bool(true))
    }

    /// The violations of the schema in a configuration. `is_open` marks values that are known only later.
    #[must_use]
    pub fn schema_violations(&self, config: &Value, is_pending: impl Fn(&str) -> bool) -> Vec<SchemaViolation> {
        if plain_schema::accepts(&self.config, config) {
            return Vec::new();
        }
        let compile = || self.compile_schema().expect("it was compiled before this description was kept");
        let validator = self.validator.get_or_init(compile);
        // A value that may not be there at all is wrong whatever it will be.
        let is_known = |error: &jsonschema::ValidationError<'_>| {
            matches!(error.kind(), ValidationErrorKind::FalseSchema) || !is_pending(&error.instance_path().to_string())
        };
        validator.iter_errors(config).filter(is_known).flat_map(|error| violations_of(&error, &self.config)).collect()
    }

    /// The values of a configuration that name input files.
    #[must_use]
    pub fn inputs(&self, config: &Value) -> Vec<(InputKind, String)> {
        let kinds = [
            ("source", InputKind::Source),
            ("dir", InputKind::Dir),
            ("path", InputKind::Path),
            ("file-or-dir", InputKind::FileOrDir),
            ("program", InputKind::Program),
            ("argument", InputKind::Argument),
            ("working-dir", InputKind::WorkingDir),
        ];
        let mut found = Vec::new();
        visit_annotations(&self.config, config, "x-pawl-input", &mut |word, value| {
            let kind = kinds.iter().find(|(name, _)| word == *name);
            if let (Some((_, kind)), Some(text)) = (kind, value.as_str()) {
                found.push((*kind, text.to_owned()));
            }
        });
        found
    }

    /// The values that determine the release: its sources, the first one first, and its digest if the plan states it.
    #[must_use]
    pub fn release_sources_and_digest(&self, config: &Value) -> (Vec<String>, Option<String>) {
        let (mut sources, mut digest) = (Vec::new(), None);
        visit_annotations(&self.config, config, "x-pawl-release", &mut |word, value| match word {
            "source" => sources.extend(value.as_str().map(str::to_owned)),
            "digest" => digest = value.as_str().map(str::to_owned),
            _ => {}
        });
        (sources, digest)
    }
}

/// Calls `each` with every annotation of a schema and the matching configuration value.
fn visit_annotations(schema: &Value, config: &Value, annotation: &str, visit: &mut impl FnMut(&str, &Value)) {
    if let Some(annotation_value) = schema.get(annotation).and_then(Value::as_str) {
        visit(annotation_value, config);
    }
    if let (Some(word), Value::Object(config)) =
        (schema.pointer("/propertyNames").and_then(|names| names.get(annotation)).and_then(Value::as_str), config)
    {
        config.keys().for_each(|key| visit(word, &Value::from(key.as_str())));
    }
    if let (Some(properties), Value::Object(config)) = (schema.get("properties").and_then(Value::as_object), config) {
        for (name, value) in config {
            if let Some(schema) = properties.get(name).or_else(|| schema.get("additionalProperties")) {
                visit_annotations(schema, value, annotation, visit);
            }
        }
    } else if let (Some(schema), Value::Object(config)) = (schema.get("additionalProperties"), config) {
        for value in config.values() {
            visit_annotations(schema, value, annotation, visit);
        }
    }
    if let (Some(schema), Value::Array(items)) = (schema.get("items"), config) {
        for item in items {
            visit_annotations(schema, item, annotation, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn description() -> ModuleDescription {
        let text = json!({
            "name": "x", "version": "1", "summary": "s", "phase": "commit", "repeatable-config": "/again", "future": 1,
            "config": {
                "type": "object", "required": ["from"], "additionalProperties": false,
                "properties": {
                    "from": {"type": "string", "x-pawl-input": "source", "x-pawl-release": "source"},
                    "digest": {"type": "string", "x-pawl-release": "digest"},
                    "again": {"type": "boolean"},
                    "templates": {"type": "object", "additionalProperties": {"type": "string", "x-pawl-input": "path"}},
                },
            },
        });
        ModuleDescription::parse(&text.to_string()).unwrap()
    }

    #[test]
    fn annotations_find_values_at_any_depth() {
        let config = json!({"from": "file:dist/a", "digest": "sha256:00", "templates": {"a": "t/a", "b": "t/b"}});
        let found = description().inputs(&config);
        let expected = [(InputKind::Source, "file:dist/a"), (InputKind::Path, "t/a"), (InputKind::Path, "t/b")];
        assert_eq!(found, expected.map(|(kind, text)| (kind, text.to_owned())));
        assert_eq!(
            description().release_sources_and_digest(&config),
            (vec!["file:dist/a".into()], Some("sha256:00".into()))
        );
    }

    #[test]
    fn violation_has_the_pointer_of_its_value() {
        let found = description().schema_violations(&json!({"from": 7}), |_| false);
        let wrong_type = SchemaViolation {
            pointer: "/from".into(),
            message: "7 is not of type \"string\"".into(),
            ..SchemaViolation::default()
        };
        assert_eq!(found, [wrong_type]);
        assert_eq!(description().schema_violations(&json!({"from": 7}), |pointer| pointer == "/from"), []);
        let found = description().schema_violations(&json!({"form": "x"}), |_| false);
        let settings: &[&str] = &["from", "digest", "again", "templates"];
        let expected = [("/form", "unknown setting", settings, None), ("", "`from` is missing", &[], Some("from"))];
        let expected = expected.map(|(pointer, message, known, missing)| SchemaViolation {
            pointer: pointer.into(),
            is_key: !known.is_empty(),
            message: message.into(),
            known_settings: known.iter().map(|name| (*name).to_owned()).collect(),
            missing_settings: missing.into_iter().map(str::to_owned).collect(),
            hint: None,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn declared_behavior_names_values_of_the_configuration() {
        let config = json!({"db": "main", "files": {"dir": "m"}, "into": 7});
        let text = json!({
            "name": "x", "version": "1", "summary": "s", "phase": "commit", "config": {},
            "behaves": {
                "migrates": {"database": "/db", "dir": "/files/dir", "future": 1},
                "installs-releases": {"into": "/into"}, "future": {},
            },
        });
        let behaviors = ModuleDescription::parse(&text.to_string()).unwrap().behaviors;
        let migrates = behaviors.migrates.unwrap();
        assert_eq!((migrates.database(&config), migrates.dir(&config)), ("main", "m"));
        assert_eq!((migrates.database(&json!({})), migrates.dir(&json!([]))), ("", ""));
        let releases = behaviors.installs_releases.unwrap();
        assert_eq!(releases.into_dir(&config), None);
        assert_eq!(releases.into_dir(&json!({"into": "app"})), Some("app"));
        assert!(description().behaviors.migrates.is_none() && description().behaviors.installs_releases.is_none());
    }

    /// Nothing else compiles them before a deployment needs it.
    #[test]
    fn schemas_of_official_modules_compile() {
        for module in official::OFFICIAL_MODULES {
            ModuleDescription::parse_new(module.description).unwrap();
        }
    }

    #[test]
    fn new_description_with_an_invalid_schema_is_refused() {
        let text = json!({"name": "x", "version": "1", "summary": "s", "phase": "check", "config": {"type": 7}});
        let refused = ModuleDescription::parse_new(&text.to_string());
        assert!(matches!(refused, Err(DescriptionError::InvalidSchema(_))), "{refused:?}");
    }

    #[test]
    fn configuration_can_make_a_step_repeatable() {
        assert!(!description().is_repeatable(&json!({})));
        assert!(description().is_repeatable(&json!({"again": true})));
    }
}
