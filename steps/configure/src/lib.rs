//! Renders configuration files from templates, lets a program check them, and puts them in place.
//!
//! Invariant: a file is replaced as a whole, and what was there before is kept until the next deployment, so that a failure or a rollback
//! puts it back. A file that somebody has edited since is never overwritten.
//!
//! Deliberately absent: the contents. The host renders, and secrets never enter the module.

mod file;
mod program;

use pawl_step::secrets::Secret;
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    Phase, ProbeSupport, Receipt, RerunSafety, Step, log,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use file::{ConfiguredFile, FileState};

/// The `configure` module.
#[derive(Debug)]
pub struct ConfigureStep;

/// The step's configuration, from `with:`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigureConfig {
    /// The templates, each with the file that it gives.
    pub templates: Map<String, Value>,
    /// What the templates see.
    #[serde(default)]
    pub values: Map<String, Value>,
    /// The secrets that the templates may write.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The program that must accept the files.
    pub check: Option<Vec<String>>,
    /// The program that is run after a change.
    pub notify: Option<Vec<String>>,
}

/// What the files of one call have in common.
struct Configuration {
    files: Vec<ConfiguredFile>,
    values: Map<String, Value>,
    secrets: Vec<(String, Secret)>,
}

impl Step for ConfigureStep {
    type Config = ConfigureConfig;

    fn describe() -> ModuleDescription {
        ModuleDescription {
            needs: vec![
                CapabilityNeed {
                    capability: Capability::Dirs(DirectoryAccess::Read),
                    config: None,
                    reason: "holds the templates",
                },
                CapabilityNeed { capability: Capability::Renders, config: None, reason: "gets the files" },
                CapabilityNeed { capability: Capability::Secrets, config: Some("/secrets/0"), reason: "is written" },
                CapabilityNeed { capability: Capability::Programs, config: Some("/check"), reason: "checks the files" },
                CapabilityNeed {
                    capability: Capability::Programs,
                    config: Some("/notify"),
                    reason: "is told of a change",
                },
            ],
            phase: Phase::Commit,
            staged: true,
            rehearses: true,
            repeatable: RerunSafety::Always,
            probes: ProbeSupport::Always,
            reverts: true,
            outputs: Some(&["files"]),
            ..ModuleDescription::new(
                "configure",
                env!("CARGO_PKG_VERSION"),
                "renders configuration files from templates",
                include_str!("../config.schema.json"),
            )
        }
    }

    fn preview(input: &Input<ConfigureConfig>) -> Result<Vec<Change>, Failure> {
        let configuration = Configuration::of(input)?;
        let mut changes = Vec::new();
        for file in &configuration.files {
            let action = match file.status()? {
                None => ChangeAction::Create,
                Some(_) if file.template(&configuration).is_rendered(&file.to)? => continue,
                Some(_) => ChangeAction::Update,
            };
            changes.push(Change::new(action, file.to.clone(), format!("from {}", file.source)));
        }
        if let (false, Some(notify)) = (changes.is_empty(), &input.config.notify) {
            changes.push(Change::new(ChangeAction::Run, program::command_line(notify), "after a change"));
        }
        Ok(changes)
    }

    fn rehearse(input: &Input<ConfigureConfig>) -> Result<(), Failure> {
        let configuration = Configuration::of(input)?;
        for file in &configuration.files {
            file.refuse_edited(&configuration)?;
        }
        for file in &configuration.files {
            file.render_candidate(&configuration)?;
        }
        check_candidates(&input.config, &configuration)
    }

    fn apply(input: &Input<ConfigureConfig>) -> Result<Receipt, Failure> {
        let configuration = Configuration::of(input)?;
        for file in &configuration.files {
            file.refuse_edited(&configuration)?;
        }
        if let Err(failure) = place_checked(&input.config, &configuration) {
            for file in &configuration.files {
                file.remove_candidate()?;
            }
            put_back(&configuration)?;
            return Err(failure);
        }
        let changed: Vec<&str> =
            configuration.files.iter().filter_map(|file| file.has_changed().transpose()).collect::<Result<_, _>>()?;
        if !changed.is_empty() {
            log::info(format!("changed: {}", changed.join(", ")));
            accept_or_put_back(&input.config, &configuration)?;
        }
        for file in &configuration.files {
            file.remember()?;
        }
        Ok(receipt(&configuration).note("changed", changed))
    }

    fn probe(input: &Input<ConfigureConfig>) -> Result<Finding, Failure> {
        let configuration = Configuration::of(input)?;
        let mut is_absent = false;
        for file in &configuration.files {
            match file.state(&configuration)? {
                FileState::Ours => {}
                FileState::Before => is_absent = true,
                FileState::Edited => {
                    return Ok(Finding::Drifted(format!("{} was edited, or another program wrote it", file.to)));
                }
            }
        }
        Ok(if is_absent { Finding::Absent } else { Finding::Held(receipt(&configuration)) })
    }

    fn revert(input: &Input<ConfigureConfig>, receipt: &Receipt) -> Result<(), Failure> {
        let configuration = Configuration::of(input)?;
        // A revert that was interrupted may have put the files back and told nobody.
        let mut is_changed =
            receipt.notes.get("changed").and_then(Value::as_array).is_some_and(|files| !files.is_empty());
        for file in &configuration.files {
            file.remove_candidate()?;
            is_changed |= file.put_back()?;
        }
        match &input.config.notify {
            Some(notify) if is_changed => program::run(notify),
            Some(_) | None => Ok(()),
        }
    }
}

impl Configuration {
    fn of(input: &Input<ConfigureConfig>) -> Result<Self, Failure> {
        let ConfigureConfig { templates, values, secrets, .. } = &input.config;
        let mut known = Map::new();
        for (name, value) in [
            ("app", &input.app),
            ("environment", &input.environment),
            ("release", &input.release.label),
            ("target", &input.target),
        ] {
            known.insert(name.to_owned(), value.as_str().into());
        }
        for (name, value) in values {
            known.insert(name.clone(), value.clone());
        }
        let mut files: Vec<ConfiguredFile> = Vec::new();
        for (source, to) in templates {
            let file = ConfiguredFile::new(source, to, &input.key)?;
            if let Some(other) = files.iter().find(|other| other.to == file.to) {
                let (to, one, two) = (&file.to, &other.source, &file.source);
                return Err(Failure::invalid_config(format!(
                    "`{one}` and `{two}` are templates for the same file `{to}`"
                ))
                .hint("give each template a file of its own"));
            }
            files.push(file);
        }
        let secrets = secrets.iter().map(|name| Ok((name.clone(), Secret::open(name)?)));
        Ok(Self { files, values: known, secrets: secrets.collect::<Result<_, Failure>>()? })
    }
}

/// Renders all files beside their places, lets the program check them, and puts them in place.
fn place_checked(config: &ConfigureConfig, configuration: &Configuration) -> Result<(), Failure> {
    for file in &configuration.files {
        file.render_candidate(configuration)?;
    }
    check_candidates(config, configuration)?;
    configuration.files.iter().try_for_each(|file| file.place(configuration))
}

/// Calls a check with `{}` for each candidate.
fn check_candidates(config: &ConfigureConfig, configuration: &Configuration) -> Result<(), Failure> {
    let Some(check) = config.check.as_ref().filter(|check| takes_candidate(check)) else { return Ok(()) };
    configuration.files.iter().try_for_each(|file| program::check_file(check, &file.candidate_path()?, &file.to))
}

fn takes_candidate(check: &[String]) -> bool {
    check.iter().any(|argument| argument == program::CANDIDATE)
}

/// Lets the programs accept the files in their places, or puts the old ones back.
fn accept_or_put_back(config: &ConfigureConfig, configuration: &Configuration) -> Result<(), Failure> {
    let check = config.check.as_ref().filter(|check| !takes_candidate(check));
    if let Some(check) = check
        && let Err(failure) = program::run(check)
    {
        put_back(configuration)?;
        return Err(Failure {
            message: format!("the check refused the files, and the old ones are back: {}", failure.message),
            ..failure
        });
    }
    let Some(notify) = &config.notify else { return Ok(()) };
    let Err(failure) = program::run(notify) else { return Ok(()) };
    put_back(configuration)?;
    let how = match program::run(notify) {
        Ok(()) => "the old files are back".to_owned(),
        Err(again) => format!("the old files are back, and it failed with them too: {}", again.message),
    };
    Err(Failure { message: format!("{}; {how}", failure.message), ..failure })
}

fn put_back(configuration: &Configuration) -> Result<(), Failure> {
    configuration.files.iter().try_for_each(|file| file.put_back().map(|_| ()))
}

fn receipt(configuration: &Configuration) -> Receipt {
    let files: Vec<Value> = configuration.files.iter().map(|file| file.to.as_str().into()).collect();
    Receipt::new().output("files", files)
}

pawl_step::export!(ConfigureStep);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::assert_described;

    #[test]
    fn configure_description_is_valid() {
        assert_described::<ConfigureStep>();
    }
}
