//! Creates a Python virtual environment in the folder of a release, and installs the release's packages into it.
//!
//! Invariant: `.venv` is a link to an environment that is complete. One that is being made has another name, so a failed call changes
//! nothing, a killed one is repeated, and a program that runs from an older environment keeps it.
//!
//! Deliberately absent: choosing versions, which is for the tool that writes the list of packages, and removing environments, which
//! go with the folder of their release.

mod environment;
mod pip;

use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    Phase, ProbeSupport, Receipt, RerunSafety, Step, fs, log,
};
use serde::Deserialize;

use environment::{EnvironmentMarker, ReleaseEnvironment};
use pip::Python;

/// The module `venv`.
#[derive(Debug)]
pub struct VenvStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct VenvConfig {
    /// The list of packages, in the folder.
    pub requirements: String,
    /// The folder that gets the environment.
    pub dir: Option<String>,
    /// The Python that makes it.
    pub python: String,
    /// The address of the index, or a granted secret that is one.
    pub index: Option<String>,
    /// A folder with packages, in the folder.
    pub find_links: Option<String>,
    /// Whether each package must have a hash.
    pub require_hashes: bool,
    /// Whether only wheels are installed.
    pub only_binary: bool,
}

impl Default for VenvConfig {
    fn default() -> Self {
        Self {
            requirements: "requirements.txt".to_owned(),
            dir: None,
            python: "/usr/bin/python3".to_owned(),
            index: None,
            find_links: None,
            require_hashes: true,
            only_binary: false,
        }
    }
}

impl Step for VenvStep {
    type Config = VenvConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Write),
                    config: None,
                    reason: "holds the release, which gets the environment",
                },
                CapabilityNeed { capability: Capability::Programs, config: None, reason: "makes the environment" },
            ],
            phase: Phase::Prepare,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            outputs: Some(&["venv"]),
            ..ModuleDescription::new(
                "venv",
                env!("CARGO_PKG_VERSION"),
                "installs the packages of a release into a Python virtual environment",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<VenvConfig>) -> Result<Vec<Change>, Failure> {
        // The release may not be there yet.
        let Some(environment) = ReleaseEnvironment::of_input(input)? else {
            return Ok(vec![Change::new(ChangeAction::Create, environment::LINK, "in the folder of the release")]);
        };
        match environment.marker()? {
            Some(marker) if marker.is_for(input) => Ok(Vec::new()),
            Some(_) => Ok(vec![Change::new(ChangeAction::Update, environment.link(), "")]),
            None => Ok(vec![Change::new(ChangeAction::Create, environment.link(), "")]),
        }
    }

    fn apply(input: &Input<VenvConfig>) -> Result<Receipt, Failure> {
        let config = &input.config;
        let Some(environment) = ReleaseEnvironment::of_input(input)? else {
            return Err(environment::no_release(input));
        };
        if let Finding::Held(receipt) = inspect(input, &environment)? {
            log::info(format!("`{}` is there", environment.link()));
            return Ok(receipt.note("ran", false).note("found", environment.link()));
        }
        let requirements = format!("{}/{}", environment.folder(), fs::relative("requirements", &config.requirements)?);
        if !fs::exists(&requirements)? {
            return Err(Failure::not_found(format!("the release has no `{}`", config.requirements))
                .hint("add the file to the release, or name another: `requirements: …`")
                .detail("file", requirements));
        }
        let python = Python::new(config);
        let version = python.version()?;
        let name = environment.new_name()?;
        environment.remove(&name)?;
        let installed = install(input, &environment, &python, &name, version);
        let marker = match installed {
            Ok(marker) => marker,
            Err(failure) => {
                environment.remove(&name)?;
                return Err(failure);
            }
        };
        let count = marker.packages.len();
        environment.expose(&name)?;
        Ok(receipt(&environment).note("packages", count))
    }

    fn probe(input: &Input<VenvConfig>) -> Result<Finding, Failure> {
        match ReleaseEnvironment::of_input(input)? {
            Some(environment) => inspect(input, &environment),
            None => Ok(Finding::Absent),
        }
    }
}

/// Makes an environment under a new name. The marker comes last.
fn install(
    input: &Input<VenvConfig>,
    environment: &ReleaseEnvironment,
    python: &Python<'_>,
    name: &str,
    version: String,
) -> Result<EnvironmentMarker, Failure> {
    python.create(environment, name)?;
    python.install(environment, name)?;
    // What pip has written must be on the disk before the marker says so.
    python.sync()?;
    let packages = environment.packages(name, &version)?;
    let marker = EnvironmentMarker::new(input, version, packages);
    environment.mark(name, &marker)?;
    Ok(marker)
}

/// Whether the environment is the one of this release and these inputs, with the packages that were installed.
fn inspect(input: &Input<VenvConfig>, environment: &ReleaseEnvironment) -> Result<Finding, Failure> {
    let (Some(marker), Some(name)) = (environment.marker()?, environment.current()?) else {
        return Ok(Finding::Absent);
    };
    if !marker.is_for(input) || Python::new(&input.config).version()? != marker.python {
        return Ok(Finding::Absent);
    }
    let packages = environment.packages(&name, &marker.python)?;
    Ok(match environment::difference(&marker.packages, &packages) {
        Some(difference) => Finding::Drifted(format!("`{}` was changed: {difference}", environment.link())),
        None => Finding::Held(receipt(environment)),
    })
}

// Not named `path`: that is the release, for the steps after this one.
fn receipt(environment: &ReleaseEnvironment) -> Receipt {
    Receipt::new().output("venv", environment.link())
}

pawl_step::export!(VenvStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::{self, TestSandbox, assert_described};
    use serde_json::{Value, json};

    fn input(config: Value) -> Input<VenvConfig> {
        let mut input = testing::input("venv", VenvConfig::deserialize(config).unwrap());
        input.outputs.insert("pull".to_owned(), json!({ "dir": "app", "path": "releases/v1" }));
        input
    }

    /// The environment that pip would have left.
    fn installed(environment: &ReleaseEnvironment, name: &str, packages: &[&str]) {
        for package in packages {
            let folder = format!("{}/{name}/lib/python3.11/site-packages/{package}.dist-info", environment.folder());
            fs::create_dir_all(&folder).unwrap();
        }
    }

    #[test]
    fn venv_description_is_valid() {
        assert_described::<VenvStep>();
    }

    #[test]
    fn release_comes_from_pull_or_from_the_setting() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        let of = |input: &Input<VenvConfig>| ReleaseEnvironment::of_input(input).unwrap();
        assert!(of(&input(json!({}))).is_none(), "its folder is not there yet");
        fs::create_dir_all("app/releases/v1").unwrap();
        assert_eq!(of(&input(json!({}))).unwrap().link(), "app/releases/v1/.venv");
        assert_eq!(of(&input(json!({ "dir": "app/releases/v1/sub" }))).map(|found| found.link()), None);
        assert_eq!(of(&input(json!({ "dir": "app/releases" }))).unwrap().link(), "app/releases/.venv");
        let mut alone = input(json!({}));
        alone.outputs.clear();
        let refused = ReleaseEnvironment::of_input(&alone).unwrap_err();
        assert!(refused.message.contains("no earlier step"), "{}", refused.message);
    }

    #[test]
    fn link_leads_to_a_complete_environment_at_any_kill() {
        for writes in 0.. {
            let sandbox = TestSandbox::new();
            sandbox.grant("app", DirectoryAccess::Write);
            fs::create_dir_all("app/releases/v1").unwrap();
            let ours = input(json!({}));
            let environment = ReleaseEnvironment::of_input(&ours).unwrap().unwrap();
            let marker = EnvironmentMarker::new(&ours, "3.11".to_owned(), vec!["flask-3.1".to_owned()]);
            installed(&environment, ".venv-1", &["flask-3.1"]);
            sandbox.kill_after(writes);
            let made = environment.mark(".venv-1", &marker).and_then(|()| environment.expose(".venv-1"));
            let was_killed = sandbox.revive();
            match environment.current().unwrap() {
                Some(name) => assert!(environment.marker().unwrap().unwrap().is_for(&ours), "{name}"),
                None => assert!(was_killed && made.is_err() && environment.new_name().unwrap() == ".venv-1"),
            }
            // The next call finishes, whatever is there.
            environment.mark(".venv-1", &marker).and_then(|()| environment.expose(".venv-1")).unwrap();
            assert_eq!(environment.current().unwrap().as_deref(), Some(".venv-1"));
            if made.is_ok() {
                break;
            }
        }
    }

    #[test]
    fn environment_of_another_release_or_of_other_inputs_is_none() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        fs::create_dir_all("app/releases/v1").unwrap();
        let ours = input(json!({}));
        let marker = EnvironmentMarker::new(&ours, "3.11".to_owned(), Vec::new());
        assert!(marker.is_for(&ours));
        let mut other = input(json!({}));
        other.input_hash = "changed".to_owned();
        assert!(!marker.is_for(&other));
        other.input_hash = ours.input_hash.clone();
        other.release.label = "v2".to_owned();
        assert!(!marker.is_for(&other));
    }

    #[test]
    fn older_environment_stays_and_what_is_no_environment_is_refused() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        fs::create_dir_all("app/releases/v1").unwrap();
        let ours = input(json!({}));
        let environment = ReleaseEnvironment::of_input(&ours).unwrap().unwrap();
        for name in [".venv-1", ".venv-2"] {
            assert_eq!(environment.new_name().unwrap(), name);
            installed(&environment, name, &["flask-3.1"]);
            environment.mark(name, &EnvironmentMarker::new(&ours, "3.11".to_owned(), Vec::new())).unwrap();
            environment.expose(name).unwrap();
        }
        assert!(fs::exists("app/releases/v1/.venv-1/lib").unwrap());
        assert_eq!(environment.packages(".venv-2", "3.11").unwrap(), ["flask-3.1"]);
        assert_eq!(environment.packages(".venv-2", "3.13").unwrap(), Vec::<String>::new());
        fs::remove("app/releases/v1/.venv").unwrap();
        fs::create_dir_all("app/releases/v1/.venv").unwrap();
        let refused = environment.current().unwrap_err();
        assert!(refused.message.contains("was not made by this step"), "{}", refused.message);
    }

    #[test]
    fn difference_names_what_was_added_or_removed() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(environment::difference(&list(&["a-1", "b-2"]), &list(&["b-2", "a-1"])), None);
        let missing = environment::difference(&list(&["a-1", "b-2"]), &list(&["a-1"])).unwrap();
        assert_eq!(missing, "b-2 is missing");
        let added = environment::difference(&list(&["a-1"]), &list(&["a-1", "c-3"])).unwrap();
        assert_eq!(added, "c-3 was added");
    }
}
