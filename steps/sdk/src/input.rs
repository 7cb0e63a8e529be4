//! The input of a step: its configuration, the release, and the outputs of earlier steps.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Failure;
use crate::{Digest, fs};

/// The input that the runner gives a step. `preview`, `apply`, `probe` and `revert` get the same object.
#[derive(Debug, Clone)]
pub struct Input<C> {
    /// The name of the application in the plan.
    pub app: String,
    /// The name of the environment.
    pub environment: String,
    /// The id of the run: one deployment of a release to an environment.
    pub run: String,
    /// The number of the attempt within the run, from 1.
    pub attempt: u32,
    /// The number of this attempt among all attempts of the environment. It only grows, and the lock assigns it once.
    pub epoch: u64,
    /// The identity of the state that counts the epochs; epochs of different lineages cannot be compared.
    pub lineage: String,
    /// The step's name in the plan.
    pub step: String,
    /// The target: `local`, or a host of a group.
    pub target: String,
    /// The idempotency key: a short hex text, the same for every call that is meant to have one effect.
    pub key: String,
    /// The hash of what the step depends on besides the release: the same in every run, and with every version of the runner.
    /// Empty with a runner that does not tell it.
    pub input_hash: String,
    /// The step's configuration, from `with:`.
    pub config: C,
    /// The release to deploy.
    pub release: Release,
    /// The outputs of earlier steps: one object for each step.
    pub outputs: Map<String, Value>,
    /// The environment's record; `None` before the first verified release.
    pub head: Option<EnvironmentHead>,
}

/// A release: a label and the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The label that people use, such as `v1.4.2`.
    pub label: String,
    /// The digest of the content; `None` when nothing has a digest.
    pub digest: Option<Digest>,
}

/// The record of an environment that a step sees.
#[derive(Debug, Clone)]
pub struct EnvironmentHead {
    /// The release that was live before this run.
    pub live: Option<Release>,
}

impl<C> Input<C> {
    /// The release that was live before this run.
    #[must_use]
    pub fn live(&self) -> Option<&Release> {
        self.head.as_ref()?.live.as_ref()
    }

    /// Returns the granted directory that a setting such as `in` or `into` names. An absent setting means the only
    /// granted directory that is not in `others`. Read or write access does not matter: in previews and probes every
    /// grant is read-only.
    ///
    /// # Errors
    /// [`FailureKind::Denied`](crate::FailureKind::Denied) when the directory is not granted;
    /// [`FailureKind::InvalidConfig`](crate::FailureKind::InvalidConfig) when the setting is absent and there is not
    /// exactly one candidate.
    pub fn dir(&self, setting: &str, named: Option<&str>, others: &[&str]) -> Result<String, Failure> {
        let granted = fs::dirs();
        if let Some(named) = named {
            return granted.into_iter().find(|dir| dir == named).ok_or_else(|| fs::not_granted(named));
        }
        let mut fitting = granted.iter().filter(|dir| !others.contains(&dir.as_str()));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None, _) => Err(Failure::invalid_config(format!(
                "`{setting}` is missing, and the step has no granted directory to use instead"
            ))
            .hint("add `app: <folder>` to the step's `grants: { dirs: … }`")),
            (Some(first), Some(_)) => Err(Failure::invalid_config(format!(
                "`{setting}` is missing, and several directories are granted ({})",
                granted.join(", ")
            ))
            .hint(format!("name one of them under `with:`, such as `{setting}: {first}`"))),
        }
    }
}

/// Parses the input text of a call.
pub(crate) fn parse<C: DeserializeOwned>(text: &str) -> Result<Input<C>, Failure> {
    let Input {
        app,
        environment,
        run,
        attempt,
        epoch,
        lineage,
        step,
        target,
        key,
        input_hash,
        config,
        release,
        outputs,
        head,
    } = parse_frame(text).map_err(|error| {
        Failure::invalid_config(format!("this step cannot read the runner's input: {error}"))
            .hint("the runner and the step have different versions: update the older one")
    })?;
    let config = C::deserialize(config).map_err(|error| {
        Failure::invalid_config(format!("invalid `with:` of step `{step}`: {error}"))
            .hint("`runner schema` shows the settings of the module")
    })?;
    Ok(Input {
        app,
        environment,
        run,
        attempt,
        epoch,
        lineage,
        step,
        target,
        key,
        input_hash,
        config,
        release,
        outputs,
        head,
    })
}

/// Parses all members but the configuration, which belongs to the step. It reads them one by one, because a derived
/// reader would be a quarter of a component.
fn parse_frame(text: &str) -> Result<Input<Value>, String> {
    let Value::Object(members) = serde_json::from_str(text).map_err(|error| error.to_string())? else {
        return Err("it is not an object".to_owned());
    };
    let mut frame = Input {
        app: String::new(),
        environment: String::new(),
        run: String::new(),
        attempt: 0,
        epoch: 0,
        lineage: String::new(),
        step: String::new(),
        target: String::new(),
        key: String::new(),
        input_hash: String::new(),
        config: Value::Object(Map::new()),
        release: Release { label: String::new(), digest: None },
        outputs: Map::new(),
        head: None,
    };
    for (name, value) in members {
        match (name.as_str(), value) {
            ("app", Value::String(text)) => frame.app = text,
            ("environment", Value::String(text)) => frame.environment = text,
            ("run", Value::String(text)) => frame.run = text,
            ("step", Value::String(text)) => frame.step = text,
            ("target", Value::String(text)) => frame.target = text,
            ("key", Value::String(text)) => frame.key = text,
            ("input-hash", Value::String(text)) => frame.input_hash = text,
            ("lineage", Value::String(text)) => frame.lineage = text,
            ("epoch", Value::Number(number)) => frame.epoch = number.as_u64().unwrap_or(0),
            ("attempt", Value::Number(number)) => {
                frame.attempt = number.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
            }
            ("config", config @ Value::Object(_)) => frame.config = config,
            ("release", value) => frame.release = release(value)?,
            ("outputs", Value::Object(steps)) if steps.values().all(Value::is_object) => frame.outputs = steps,
            ("head", Value::Object(head)) => frame.head = Some(EnvironmentHead { live: live(head)? }),
            ("head" | "outputs", Value::Null) => {}
            (
                "app" | "environment" | "run" | "step" | "target" | "key" | "input-hash" | "attempt" | "epoch"
                | "lineage" | "config" | "outputs" | "head",
                _,
            ) => {
                return Err(format!("`{name}` has the wrong type"));
            }
            // Newer hosts may send more members.
            _ => {}
        }
    }
    let texts =
        [&frame.app, &frame.environment, &frame.run, &frame.step, &frame.target, &frame.key, &frame.release.label];
    if frame.attempt == 0 || texts.iter().any(|text| text.is_empty()) {
        return Err("app, environment, run, attempt, step, target, key or release is missing".to_owned());
    }
    Ok(frame)
}

fn live(head: Map<String, Value>) -> Result<Option<Release>, String> {
    let live = head.into_iter().find_map(|(name, value)| (name == "live" && !value.is_null()).then_some(value));
    live.map(release).transpose()
}

fn release(value: Value) -> Result<Release, String> {
    let mut release = Release { label: String::new(), digest: None };
    let Value::Object(members) = value else { return Err("the release is not an object".to_owned()) };
    for (name, value) in members {
        match (name.as_str(), value) {
            ("label", Value::String(text)) => release.label = text,
            ("digest", Value::String(text)) => release.digest = Some(Digest::try_from(text)?),
            _ => {}
        }
    }
    Ok(release)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::testing::TestSandbox;
    use crate::{DirectoryAccess, FailureKind};
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct LinkConfig {
        link: String,
    }

    fn text(config: &Value) -> String {
        json!({
            "app": "shop", "environment": "prod", "run": "7", "attempt": 2, "step": "switch", "target": "local", "key": "ab12",
            "input-hash": "cd34",
            "config": config, "release": { "label": "v1", "digest": null },
            "outputs": { "pull": { "path": "releases/x" } }, "head": { "live": null }, "later": true,
        })
        .to_string()
    }

    #[test]
    fn input_is_parsed_and_unknown_members_are_ignored() {
        let input: Input<LinkConfig> = parse(&text(&json!({ "link": "current" }))).unwrap();
        assert_eq!(input.config.link, "current");
        assert_eq!(input.outputs["pull"]["path"], "releases/x");
        assert_eq!((input.release.digest.as_ref(), input.live()), (None, None));
    }

    #[test]
    fn unknown_setting_is_named_in_the_failure() {
        let failure = parse::<LinkConfig>(&text(&json!({ "lnik": "current" }))).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InvalidConfig);
        assert!(failure.message.contains("`with:` of step `switch`: unknown field `lnik`"), "{}", failure.message);
    }

    #[test]
    fn directory_defaults_to_the_only_fitting_grant() {
        let input: Input<LinkConfig> = parse(&text(&json!({ "link": "l" }))).unwrap();
        let sandbox = TestSandbox::new();
        assert!(input.dir("into", None, &[]).is_err());
        sandbox.grant("app", DirectoryAccess::Write);
        assert_eq!(input.dir("into", None, &[]).unwrap(), "app");
        sandbox.grant("dist", DirectoryAccess::Read);
        assert_eq!(input.dir("into", None, &["dist"]).unwrap(), "app");
        assert_eq!(input.dir("into", Some("dist"), &[]).unwrap(), "dist");
        assert_eq!(input.dir("into", Some("other"), &[]).unwrap_err().kind, FailureKind::Denied);
        let failure = input.dir("into", None, &[]).unwrap_err();
        assert_eq!(failure.message, "`into` is missing, and several directories are granted (app, dist)");
    }

    #[test]
    fn malformed_input_is_rejected() {
        let good: Value = serde_json::from_str(&text(&json!({ "link": "l" }))).unwrap();
        for (member, value) in [
            ("outputs", json!({ "pull": 1 })),
            ("key", json!(7)),
            ("attempt", json!(-1)),
            ("app", json!("")),
            ("release", json!({ "label": "v1", "digest": "md5:0" })),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            let failure = parse::<LinkConfig>(&bad.to_string()).unwrap_err();
            assert!(failure.message.starts_with("this step cannot read the runner's input"), "{}", failure.message);
        }
        assert!(parse::<LinkConfig>("[]").is_err());
    }
}
