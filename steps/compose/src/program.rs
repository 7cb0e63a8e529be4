//! Compose, as a program: version 1 (`docker-compose`) and version 2 (`docker compose`).

use core::time::Duration;

use pawl_step::process::{Command, Completion};
use pawl_step::secrets::Secret;
use pawl_step::{Failure, Input, files, time};
use serde_json::{Map, Value};

use crate::ComposeConfig;
use crate::record::StackRecord;

/// The most lines of a program's output in a message.
const MESSAGE_LINES: usize = 8;

/// What stands for a secret: it is good as a number, too.
const PLACEHOLDER: &str = "0";
/// How often `up` is tried while a port is taken: engines release that of a container a moment after its end.
const TRIES: usize = 4;
/// The wait between them.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// Compose, for one compose file.
#[derive(Debug)]
pub(crate) struct Compose<'i> {
    input: &'i Input<ComposeConfig>,
    file: String,
    env: Map<String, Value>,
}

/// A service of a compose file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComposeService {
    pub(crate) name: String,
    /// None if it is built.
    pub(crate) image: Option<String>,
}

impl<'i> Compose<'i> {
    /// For the file of the input, or of a release before.
    pub(crate) fn new(input: &'i Input<ComposeConfig>, stack: &StackRecord) -> Self {
        Self { input, file: stack.file.clone(), env: stack.env.clone() }
    }

    /// The services with their images, of a file that compose accepts. It gets no secrets, because its answer would tell them.
    pub(crate) fn services(&self) -> Result<Vec<ComposeService>, Failure> {
        let mut command = self.base(&["config"])?;
        for name in &self.input.config.secrets {
            command = command.env(name, PLACEHOLDER);
        }
        let completion = command.run()?;
        succeeded("compose config", &completion)
            .map_err(|failure| failure.hint("correct the compose file, or its variables"))?;
        Ok(parse_services(&String::from_utf8_lossy(&completion.stdout)))
    }

    /// The services with the hashes of their configuration, which their containers are labelled with.
    pub(crate) fn hashes(&self) -> Result<Vec<(String, String)>, Failure> {
        let completion = self.command(&["config", "--hash", "*"])?.run()?;
        succeeded("compose config --hash", &completion)?;
        let text = String::from_utf8_lossy(&completion.stdout);
        let pair = |line: &str| line.split_once(' ').map(|(name, hash)| (name.to_owned(), hash.trim().to_owned()));
        Ok(text.lines().filter_map(pair).collect())
    }

    /// Creates, recreates and starts what is not as the file says, and removes services that it does not have.
    pub(crate) fn up(&self) -> Result<(), Failure> {
        let timeout = self.timeout();
        let arguments = ["up", "-d", "--no-build", "--remove-orphans", "-t", &timeout];
        self.run_with_retry("compose up", &arguments, &["address already in use", "port is already allocated"])
    }

    /// Removes all containers and networks. Volumes stay.
    pub(crate) fn down(&self) -> Result<(), Failure> {
        let timeout = self.timeout();
        // A container that ends and is started again just now can be neither stopped nor removed for a moment.
        let signs = ["as it is running", "container state improper", "network is being used"];
        self.run_with_retry("compose down", &["down", "--remove-orphans", "-t", &timeout], &signs)
    }

    /// Runs a command, a few times if its failure has one of the signs of what is over soon.
    fn run_with_retry(&self, what: &str, arguments: &[&str], signs: &[&str]) -> Result<(), Failure> {
        for tries in 1.. {
            let completion = self.command(arguments)?.logged().run()?;
            let outcome = succeeded(what, &completion);
            let Err(failure) = &outcome else { return outcome };
            if tries == TRIES || !signs.iter().any(|words| failure.message.contains(words)) {
                return outcome;
            }
            time::sleep(RETRY_WAIT);
        }
        Ok(())
    }

    fn timeout(&self) -> String {
        self.input.config.stop_timeout.as_secs().max(1).to_string()
    }

    fn command(&self, arguments: &[&str]) -> Result<Command, Failure> {
        let mut command = self.base(arguments)?;
        for name in &self.input.config.secrets {
            command = command.secret(name, Secret::open(name)?);
        }
        Ok(command)
    }

    fn base(&self, arguments: &[&str]) -> Result<Command, Failure> {
        let config = &self.input.config;
        let (program, first) =
            config.program.split_first().ok_or_else(|| Failure::invalid_config("`program` is empty"))?;
        let file = files::path(&self.file)?;
        let options = ["--ansi", "never", "-f", &file, "-p", &config.project];
        let arguments = options.iter().chain(arguments).map(|argument| (*argument).to_owned());
        let mut command = Command::new(program).args(first.iter().cloned().chain(arguments));
        for (name, value) in &self.env {
            command = command.env(name, value.as_str().unwrap_or_default());
        }
        Ok(command)
    }
}

/// The services of what `config` writes: one mapping, in blocks.
fn parse_services(text: &str) -> Vec<ComposeService> {
    let mut services: Vec<ComposeService> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let name = key.trim_start();
        match key.len() - name.len() {
            0 => is_inside = name == "services",
            2 if is_inside && !name.starts_with(['-', '#']) => {
                services.push(ComposeService { name: unquote(name), image: None });
            }
            4 if is_inside && name == "image" => {
                if let Some(service) = services.last_mut() {
                    service.image = Some(unquote(value));
                }
            }
            _ => {}
        }
    }
    services
}

fn unquote(text: &str) -> String {
    text.trim().trim_matches(['"', '\'']).to_owned()
}

/// Refuses an exit status other than 0.
fn succeeded(what: &str, completion: &Completion) -> Result<(), Failure> {
    if completion.status == 0 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&completion.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let said = match lines.len() {
        0 => "it wrote nothing".to_owned(),
        count => lines[count.saturating_sub(MESSAGE_LINES)..].join("\n"),
    };
    Err(Failure::permanent(format!("`{what}` exited with status {}: {said}", completion.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_with_their_images() {
        let text = "name: shop\nnetworks:\n  default: {}\nservices:\n  web:\n    command:\n    - r1\n    image: localhost/shop:r1\n    \
                    labels:\n      image: other\n  '1':\n    build:\n      context: /x\n  db:\n    image: \"postgres@sha256:00\"\n\
                    version: '3'\nvolumes:\n  data:\n    image: no\n";
        let service =
            |name: &str, image: Option<&str>| ComposeService { name: name.to_owned(), image: image.map(str::to_owned) };
        assert_eq!(
            parse_services(text),
            [service("web", Some("localhost/shop:r1")), service("1", None), service("db", Some("postgres@sha256:00"))]
        );
    }
}
