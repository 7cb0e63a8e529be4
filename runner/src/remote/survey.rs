//! What a host has, for `runner hosts`: its user, clock, folders and room, by a script that changes nothing there.
//!
//! If the agent of this build is there, it says what the host's own records know. Deliberately absent: sending the agent.

use std::time::Duration;

use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode},
    text::format_duration,
};
use journal::{clock, event::Release};
use plan::{PlanHost, SshOptions};

use super::{
    AgentConnection, ConnectionError,
    agent_binary::{AgentBinaries, own_arch},
    dial_error::{self, DialError},
    ssh::{self, HELLO_TIMEOUT, HERE_MARK, HostCommand, MAX_NOISE_BYTES},
};
use crate::agent::wire::{AGENT_MARK, AgentAnswer, AgentPlace, Problem, ToAgent};

const FACT_MARK: &str = "PAWL-FACT";
/// The most folders that an agent may be in.
const MAX_FOLDERS: usize = 4;
/// How long an agent may take to read its records.
const RECALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Prints facts, one a line, then becomes the agent if it is there. `$1` is the binary's digest, `$2` the place of the records, `$3`
/// the binary's size in KiB. The folder of the agent is the one that the script of [`ssh`] would take, as far as that can be known without writing to it.
const SCRIPT: &str = concat!(
    "printf \"\\nPAWL-HERE\\n\"; f() { printf \"PAWL-FACT %s %s\\n\" \"$1\" \"$2\"; }; ",
    // The nearest folder that exists.
    "n() { q=\"$1\"; until [ -e \"$q\" ]; do q=\"${q%/*}\"; [ -n \"$q\" ] || q=/; done; printf \"%s\" \"$q\"; }; ",
    // Whether no programs may run in it: by the options of the mount that it is on.
    "x() { q=$(cd \"$(n \"$1\")\" 2>/dev/null && pwd -P); o=; l=0; while read -r d m t z y; do case \"${q%/}/\" in \"${m%/}\"/*) ",
    "if [ ${#m} -ge $l ]; then l=${#m}; o=\"$z\"; fi ;; esac; done 2>/dev/null </proc/mounts; ",
    "case \",$o,\" in *,noexec,*) return 0 ;; esac; return 1; }; ",
    "r() { df -Pk \"$(n \"$1\")\" 2>/dev/null | tail -n 1; }; ",
    "f clock \"$(date +%s)\"; f user \"$(id -un)\"; f arch \"$(uname -m)\"; ",
    "a=; w=; for b in \"$XDG_CACHE_HOME\" \"$HOME/.cache\" \"$XDG_RUNTIME_DIR\" /var/tmp; do ",
    "case \"$b\" in /*) ;; *) continue ;; esac; p=\"$b/pawl\"; ",
    "if [ \"$b\" = /var/tmp ]; then p=\"/var/tmp/pawl-$(id -u)\"; fi; ",
    "[ -w \"$(n \"$p\")\" ] || continue; ",
    "if [ -e \"$p\" ]; then if [ -L \"$p\" ]; then continue; fi; [ -O \"$p\" ] || continue; fi; ",
    "if x \"$p\"; then f noexec \"$p\"; continue; fi; ",
    "k=$(r \"$p\" | (read -r d m t k z; printf %s \"$k\")); if [ -x \"$p/agent-$1\" ]; then :; ",
    "elif [ \"$k\" -lt \"$3\" ] 2>/dev/null; then w=\"$p\"; continue; fi; ",
    "a=\"$p\"; break; done; a=\"${a:-$w}\"; ",
    "if [ -n \"$a\" ]; then f folder \"$a\"; f folder-room \"$(r \"$a\")\"; fi; ",
    "case \"$XDG_STATE_HOME\" in /*) s=\"$XDG_STATE_HOME\" ;; *) s=\"$HOME/.local/state\" ;; esac; ",
    "s=\"$s/pawl/hosts/$2\"; f state \"$s\"; f state-room \"$(r \"$s\")\"; ",
    "if [ -x \"$a/agent-$1\" ]; then f agent this; f end .; exec \"$a/agent-$1\" agent; fi; ",
    "g=none; for x in \"$a\"/agent-*; do if [ -e \"$x\" ]; then g=other; fi; done; f agent \"$g\"; f end .",
);

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSurvey {
    /// The user that steps run as.
    pub user: String,
    /// As `uname -m` says.
    pub architecture: String,
    /// How far the host's clock is ahead of this machine's, in seconds, more or less one.
    pub clock_difference: i64,
    pub agent: AgentPresence,
    /// Folders that it could be in otherwise, and in which no programs may run.
    pub noexec_folders: Vec<String>,
    /// Where the agent is, or would be sent to.
    pub agent_folder: SurveyedFolder,
    /// Where the host's own records of this environment are, or would be.
    pub state_folder: SurveyedFolder,
    /// What the host shows by its own records; none if there is no agent that could read them.
    pub live: Option<Option<Release>>,
}

/// Whether a host has an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentPresence {
    /// That of this build.
    ThisBuild,
    /// Others only. That of this build is sent when it is needed.
    OtherBuild,
    /// None yet.
    #[default]
    Absent,
}

/// A folder on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SurveyedFolder {
    pub path: String,
    /// The bytes that are free there; none if the host does not say.
    pub free_bytes: Option<u64>,
}

/// What a warning says of a clock that is so many seconds ahead.
pub(super) fn clock_warning(host: &TargetName, seconds: i64) -> String {
    let way = if seconds > 0 { "ahead of" } else { "behind" };
    let duration = format_duration(seconds.unsigned_abs().saturating_mul(1000));
    format!("the clock of {host} is {duration} {way} this machine's; set it, such as by NTP")
}

impl HostSurvey {
    /// The warning of a clock that is at least so far off.
    #[must_use]
    pub fn clock_warning(&self, host: &TargetName, limit: Duration) -> Option<String> {
        let is_off = self.clock_difference.unsigned_abs() >= limit.as_secs();
        is_off.then(|| clock_warning(host, self.clock_difference))
    }

    fn learn(&mut self, fact: &str, value: &str) {
        match fact {
            "user" => value.clone_into(&mut self.user),
            "arch" => value.clone_into(&mut self.architecture),
            "clock" => {
                let difference = |clock: i64| clock.saturating_sub(clock::now().as_second());
                self.clock_difference = value.parse().map(difference).unwrap_or_default();
            }
            "noexec" if self.noexec_folders.len() < MAX_FOLDERS => self.noexec_folders.push(value.to_owned()),
            "folder" => value.clone_into(&mut self.agent_folder.path),
            "folder-room" => self.agent_folder.free_bytes = free_bytes(value),
            "state" => value.clone_into(&mut self.state_folder.path),
            "state-room" => self.state_folder.free_bytes = free_bytes(value),
            "agent" => {
                self.agent = match value {
                    "this" => AgentPresence::ThisBuild,
                    "other" => AgentPresence::OtherBuild,
                    _ => AgentPresence::Absent,
                };
            }
            _ => {}
        }
    }

    /// What keeps the agent from running there, as far as it can be known without sending it.
    fn check(&self, host: &PlanHost, binaries: &AgentBinaries) -> Result<(), Diagnostic> {
        let binary = binaries.for_arch(&self.architecture).map_err(|error| ssh::unreadable(&error))?;
        let binary = binary.ok_or_else(|| dial_error::other_architecture(host, &self.architecture, &own_arch()))?;
        if self.agent_folder.path.is_empty() {
            return Err(dial_error::unusable((host, &binary), "folder", &self.noexec_folders.join(", "), ""));
        }
        let is_full = self.agent_folder.free_bytes.is_some_and(|free| free < binary.megabytes() as u64 * 1_000_000);
        if is_full && self.agent != AgentPresence::ThisBuild {
            return Err(dial_error::unusable((host, &binary), "room", &self.agent_folder.path, ""));
        }
        Ok(())
    }
}

/// From the last line of `df -Pk`: the number before the percentage. The name of the device may have spaces.
fn free_bytes(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let percent = words.iter().position(|word| word.ends_with('%') && word.len() < 5)?;
    words.get(percent.checked_sub(1)?)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Asks a host.
///
/// # Errors
/// The host can't be reached, or can't run the agent.
pub(super) async fn ask(
    host: &PlanHost,
    options: &SshOptions,
    binaries: &AgentBinaries,
    place: &AgentPlace,
    tell_login: &dyn Fn(),
) -> Result<HostSurvey, DialError> {
    let HostCommand { child, stdin, mut stdout, stderr } = {
        let own = binaries.own().map_err(|error| ssh::unreadable(&error))?;
        // Names have nothing that a shell would take for something else.
        let words = format!("{}/{}/{} {}", place.target, place.app, place.environment, own.megabytes() * 1000);
        ssh::run_script(host, options, &own, SCRIPT, &words)?
    };
    let mut heard = HeardLines::default();
    let listening = tokio::time::timeout(HELLO_TIMEOUT, async {
        while let Ok(Some(line)) = ssh::next_line(&mut stdout).await {
            if heard.is_last(&line) {
                return true;
            }
        }
        false
    });
    let is_complete = listening.await.unwrap_or_default();
    let HeardLines { survey: mut found, noise, has_begun, .. } = heard;
    if !is_complete {
        return Err(match has_begun {
            true => dial_error::no_agent(host, &noise, &stderr.said().await).into(),
            false => dial_error::explain((host, options), &noise, &stderr.said().await),
        });
    }
    tell_login();
    found.check(host, binaries)?;
    if found.agent == AgentPresence::ThisBuild {
        let connection = AgentConnection::open(stdout, stdin, child).await;
        found.live = match connection {
            Ok(connection) => Some(recall(host, binaries, &connection, place).await?),
            Err(_) => return Err(dial_error::no_agent(host, &noise, &stderr.said().await).into()),
        };
    }
    Ok(found)
}

/// What a host printed so far.
#[derive(Default)]
struct HeardLines {
    survey: HostSurvey,
    noise: String,
    has_begun: bool,
}

impl HeardLines {
    /// Takes a line. True at the end: of the facts, or if the agent is there, at its first frame.
    fn is_last(&mut self, line: &str) -> bool {
        let line = line.trim_end();
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            HERE_MARK => self.has_begun = true,
            AGENT_MARK => return true,
            FACT_MARK if self.has_begun => match rest.split_once(' ') {
                Some(("end", _)) => return self.survey.agent != AgentPresence::ThisBuild,
                Some((fact, value)) => self.survey.learn(fact, value),
                None => {}
            },
            _ if self.noise.len() < MAX_NOISE_BYTES => {
                self.noise.push_str(line);
                self.noise.push('\n');
            }
            _ => {}
        }
        false
    }
}

async fn recall(
    host: &PlanHost,
    binaries: &AgentBinaries,
    connection: &AgentConnection,
    place: &AgentPlace,
) -> Result<Option<Release>, Diagnostic> {
    let own = binaries.own().map_err(|error| ssh::unreadable(&error))?;
    ssh::check_build(host, &own, connection)?;
    let ask = |call| ToAgent::Recall { call, place: place.clone() };
    let problem = match connection.call(None, RECALL_TIMEOUT, ask).await {
        Ok(AgentAnswer::Recalled { live }) => return Ok(live),
        Ok(AgentAnswer::Refused { problem }) | Err(ConnectionError::Refused(problem)) => problem,
        Ok(_) => return Err(lost(host, "the host's answer does not match the request")),
        Err(ConnectionError::Lost(why)) => return Err(lost(host, &why)),
    };
    let Problem { code, message, causes, hint } = problem;
    let code = ErrorCode::parse(&code).unwrap_or(ErrorCode::HostUnusable);
    let diagnostic = Diagnostic::new(code, format!("{message} (on {})", host.name));
    Err(Diagnostic { causes, hint, ..diagnostic })
}

fn lost(host: &PlanHost, why: &str) -> Diagnostic {
    Diagnostic::new(ErrorCode::HostUnreachable, format!("the connection to host `{}` was lost", host.name))
        .with_cause(why)
        .with_hint("check the host, then run the same command again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_out_of_what_a_shell_prints() {
        let mut heard = HeardLines::default();
        let lines = "Welcome!\nPAWL-FACT user liar\n\nPAWL-HERE\nPAWL-FACT user deploy\nPAWL-FACT noexec /tmp\nPAWL-FACT folder /home/a b/.cache/pawl\n\
                     PAWL-FACT folder-room /dev/my disk 100 50 48 51% /\nPAWL-FACT state-room none\nPAWL-FACT agent other\n";
        assert!(!lines.lines().any(|line| heard.is_last(line)));
        assert!(heard.is_last("PAWL-FACT end ."));
        let survey = &heard.survey;
        assert_eq!((survey.user.as_str(), survey.agent), ("deploy", AgentPresence::OtherBuild));
        let folder = SurveyedFolder { path: "/home/a b/.cache/pawl".to_owned(), free_bytes: Some(48 << 10) };
        assert_eq!((&survey.agent_folder, survey.state_folder.free_bytes), (&folder, None));
        assert_eq!(survey.noexec_folders, ["/tmp"]);
    }

    /// It must pass through every login shell.
    #[test]
    fn script_has_nothing_that_a_login_shell_reads() {
        assert!(!SCRIPT.contains(['\'', '!', '\n']), "{SCRIPT}");
    }
}
