//! What the runner gives a step: its configuration, the release, and what steps before it returned.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Failure;
use crate::{Digest, fs};

/// What the runner gives a step. The same object for `preview`, `apply`, `probe` and `revert`.
#[derive(Debug, Clone)]
pub struct Input<C> {
    /// The application in the plan.
    pub app: String,
    /// The environment that is deployed to.
    pub environment: String,
    /// The run: one deployment of a release to an environment.
    pub run: String,
    /// The attempt within the run, from 1.
    pub attempt: u32,
    /// The number of this attempt among all of the environment; it only grows, and the lock gives it once.
    pub epoch: u64,
    /// Where epochs are counted; those of another lineage can't be compared.
    pub lineage: String,
    /// The step's name in the plan.
    pub step: String,
    /// Where it runs: `local`, or a host of a group.
    pub target: String,
    /// The idempotency key: short, hex, the same for every call that is meant to have one effect.
    pub key: String,
    /// The step's `with:`.
    pub config: C,
    /// What is deployed.
    pub release: Release,
    /// What earlier steps returned: for each step an object.
    pub outputs: Map<String, Value>,
    /// The environment's record; `None` before its first verified release.
    pub head: Option<EnvironmentHead>,
}

/// Immutable content, and the label that people say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// What people say: `v1.4.2`.
    pub label: String,
    /// What it is. `None` where nothing has a digest.
    pub digest: Option<Digest>,
}

/// What the environment remembers.
#[derive(Debug, Clone)]
pub struct EnvironmentHead {
    /// The release that was live before this run changed that.
    pub live: Option<Release>,
}

impl<C> Input<C> {
    /// The release that was live before this run changed that.
    #[must_use]
    pub fn live(&self) -> Option<&Release> {
        self.head.as_ref()?.live.as_ref()
    }

    /// The directory that a setting such as `in` or `into` names, which must be granted. When it is left out, the only
    /// grant apart from `others` is meant. Access plays no part in it: in previews and probes every grant is read-only.
    ///
    /// # Errors
    /// [`FailureKind::Denied`](crate::FailureKind::Denied) when it is not granted, [`FailureKind::InvalidConfig`](crate::FailureKind::InvalidConfig)
    /// when it is left out and not exactly one fits.
    pub fn dir(&self, setting: &str, named: Option<&str>, others: &[&str]) -> Result<String, Failure> {
        let granted = fs::dirs();
        if let Some(named) = named {
            return granted.into_iter().find(|dir| dir == named).ok_or_else(|| fs::not_granted(named));
        }
        let mut fitting = granted.iter().filter(|dir| !others.contains(&dir.as_str()));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None, _) => Err(Failure::invalid_config(format!(
                "`{setting}` is left out, and no directory is granted that it could mean"
            ))
            .hint("add `app: <folder>` to the step's `grants: { dirs: … }`")),
            (Some(first), Some(_)) => Err(Failure::invalid_config(format!(
                "`{setting}` is left out, but several directories are granted ({})",
                granted.join(", ")
            ))
            .hint(format!("name one of them under `with:`, as `{setting}: {first}`"))),
        }
    }
}

/// Reads the input text of a call.
pub(crate) fn parse<C: DeserializeOwned>(text: &str) -> Result<Input<C>, Failure> {
    let Input { app, environment, run, attempt, epoch, lineage, step, target, key, config, release, outputs, head } =
        parse_frame(text).map_err(|error| {
            Failure::invalid_config(format!("the runner's input is not what this step knows: {error}"))
                .hint("runner and step are of different versions: update the older one")
        })?;
    let config = C::deserialize(config).map_err(|error| {
        Failure::invalid_config(format!("`with:` of step `{step}`: {error}"))
            .hint("`runner schema` shows what the module can be given")
    })?;
    Ok(Input { app, environment, run, attempt, epoch, lineage, step, target, key, config, release, outputs, head })
}

/// All but the configuration, which is the step's own. Read by hand, member by member: a derived reader would be a
/// quarter of a component.
fn parse_frame(text: &str) -> Result<Input<Value>, String> {
    let Value::Object(members) = serde_json::from_str(text).map_err(|error| error.to_string())? else {
        return Err("it is no object".to_owned());
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
                "app" | "environment" | "run" | "step" | "target" | "key" | "attempt" | "epoch" | "lineage" | "config"
                | "outputs" | "head",
                _,
            ) => {
                return Err(format!("`{name}` is of another type"));
            }
            // Newer hosts may say more.
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
    let Value::Object(members) = value else { return Err("a release is no object".to_owned()) };
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
        assert_eq!(failure.message, "`into` is left out, but several directories are granted (app, dist)");
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
            assert!(
                failure.message.starts_with("the runner's input is not what this step knows"),
                "{}",
                failure.message
            );
        }
        assert!(parse::<LinkConfig>("[]").is_err());
    }
}
