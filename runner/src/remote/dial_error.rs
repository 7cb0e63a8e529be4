//! Why a host was not reached, by what ssh and the host said: a code, what happened, and what helps.
//!
//! Invariant: what ssh says picks words only; nothing is decided by it but whether to dial again. Deliberately absent: dialing.

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{HostAddress, PlanHost, SshOptions};

use super::{agent_binary::AgentBinary, ssh::MAX_NOISE_BYTES, sudo};

/// The last error of ssh if the connection through a jump host ended before it began.
const CLOSED_BY_JUMP: &str = "Connection closed by UNKNOWN port 65535";
/// What ssh calls a server that it reached through another program.
const UNKNOWN_SERVER: &str = "UNKNOWN port";

/// Why a host was not reached.
pub(super) struct DialError {
    pub(super) diagnostic: Diagnostic,
    /// Who hung up before anybody logged in, and may let another connection in a moment later; none if it failed otherwise.
    pub(super) hang_up: Option<HangUp>,
}

/// Who hung up, as sshd does beyond its `MaxStartups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HangUp {
    /// The host itself.
    OfHost,
    /// The host or a jump host on the way to it.
    OnTheWay,
}

impl From<Diagnostic> for DialError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { diagnostic, hang_up: None }
    }
}

/// The error of a connection that ended before anything ran on the host, by what ssh said.
pub(super) fn explain((host, options): (&PlanHost, &SshOptions), noise: &str, stderr: &str) -> DialError {
    let diagnostic = diagnose((host, options), noise, stderr);
    let hang_up = hang_up(stderr).filter(|_| diagnostic.code == ErrorCode::HostUnreachable);
    DialError { diagnostic, hang_up }
}

fn diagnose((host, options): (&PlanHost, &SshOptions), noise: &str, stderr: &str) -> Diagnostic {
    let PlanHost { name, address, .. } = host;
    let said = |text: &str| stderr.contains(text);
    let shown =
        if name.as_str() == address.to_string() { format!("`{name}`") } else { format!("`{name}` ({address})") };
    let log_in = format!("`{}` must log in without a prompt", ssh_command(address, options));
    let how = if said("IDENTIFICATION HAS CHANGED") { "has changed" } else { "is not known" };
    if let Some(diagnostic) = sudo::explain((host, options), &shown, stderr) {
        return diagnostic;
    }
    let is_key_refused = said("IDENTIFICATION HAS CHANGED") || said("Host key verification failed");
    let diagnostic = if is_key_refused && stderr.lines().next_back().map(str::trim) == Some(CLOSED_BY_JUMP) {
        let jump = jump_host(stderr);
        let shown_jump = jump.as_ref().map_or_else(String::new, |(name, _)| format!(" `{name}`"));
        let message = format!("the key of the jump host{shown_jump} on the way to host {shown} {how}");
        let scan = jump.map_or_else(String::new, |(_, scan)| format!(" (`{scan}`)"));
        let hint = format!(
            "compare its key with the host's own, then add it{scan} to the file that `UserKnownHostsFile` in the ssh configuration names: \
             ssh does not use the plan's `known-hosts:` for a jump host"
        );
        Diagnostic::new(ErrorCode::HostKeyUnknown, message).with_hint(hint)
    } else if is_key_refused {
        let hint = format!(
            "compare the key that the host sends with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host; if they match, add it: `{}`",
            keyscan_command(address, options)
        );
        Diagnostic::new(ErrorCode::HostKeyUnknown, format!("the key of host {shown} {how}")).with_hint(hint)
    } else if said("Permission denied (") {
        let message = format!("host {shown} refused the login");
        Diagnostic::new(ErrorCode::HostLoginRefused, message).with_hint(format!("check the user and the key: {log_in}"))
    } else if noise.len() > MAX_NOISE_BYTES {
        let message = format!("the login shell of host {shown} says more than {} KiB first", MAX_NOISE_BYTES >> 10);
        let hint = "let the files that it reads, such as `.bashrc`, say nothing without a terminal".to_owned();
        let cause = format!("it said: {}", first_line(noise));
        Diagnostic::new(ErrorCode::HostUnusable, message).with_cause(cause).with_hint(hint)
    } else if stderr.is_empty() && !noise.trim().is_empty() {
        let message = format!("host {shown} did not start the agent: it ran another program");
        let hint = "remove the `ForceCommand` or `command=` of this key, or let it run `/bin/sh`".to_owned();
        let cause = format!("it said: {}", first_line(noise));
        Diagnostic::new(ErrorCode::HostUnusable, message).with_cause(cause).with_hint(hint)
    } else if let (true, Some(config)) = (said("Can't open user config file"), &options.config) {
        let config = config.display();
        let message = format!("host {shown} can't be reached: there is no ssh configuration {config}");
        let hint = format!("create {config}, or correct `ssh: {{ config: … }}` in the plan");
        Diagnostic::new(ErrorCode::HostUnreachable, message).with_hint(hint)
    } else if let Some(hang_up) = hang_up(stderr) {
        let (who, whose) = match hang_up {
            HangUp::OfHost => (format!("host {shown}"), "there"),
            HangUp::OnTheWay => (format!("host {shown} or a jump host on the way to it"), "on both"),
        };
        let message = format!("{who} hung up before the login");
        let hint = format!(
            "check sshd {whose}: it may have too many logins pending (`MaxStartups`), or refuse connections from this machine; {log_in}"
        );
        Diagnostic::new(ErrorCode::HostUnreachable, message).with_hint(hint)
    } else {
        let hint = format!("check that it is up: {log_in}");
        Diagnostic::new(ErrorCode::HostUnreachable, format!("host {shown} can't be reached")).with_hint(hint)
    };
    match telling_line(stderr) {
        Some(line) => diagnostic.with_cause(format!("ssh: {}", line.trim_start_matches("ssh: "))),
        None => diagnostic,
    }
}

/// Who hung up before anybody logged in; none if ssh says another reason, such as a refused login, which must not be tried again.
fn hang_up(said: &str) -> Option<HangUp> {
    let says_one_of = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if !says_one_of(&["kex_exchange_identification", "Connection closed by", "Connection reset by"]) {
        return None;
    }
    if !said.contains(UNKNOWN_SERVER) {
        return Some(HangUp::OfHost);
    }
    // What became of a jump host's own connection is said before.
    let is_other_reason = says_one_of(&[
        "Permission denied",
        "verification failed",
        "forwarding failed",
        "open failed",
        "refused",
        "timed out",
        "Could not resolve",
        "No route",
        "Too many authentication failures",
        "not found",
        "not known",
    ]);
    (!is_other_reason).then_some(HangUp::OnTheWay)
}

/// The jump host that ssh's errors name, and the command that prints its key. A host can write such errors too, and users paste commands.
fn jump_host(stderr: &str) -> Option<(String, String)> {
    let name = stderr.lines().find_map(|line| {
        let (_, unknown) = line.split_once(" host key is known for ").unzip();
        let (_, changed) = line.split_once("Host key for ").unzip();
        unknown.and_then(|rest| rest.split_once(" and ")).or_else(|| changed.and_then(|rest| rest.split_once(" has ")))
    });
    let name = name?.0.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
    if name.starts_with('-') || !name.chars().all(is_name) {
        return None;
    }
    let scan = match name.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((host, port)) => format!("ssh-keyscan -p {port} {host}"),
        None => format!("ssh-keyscan {name}"),
    };
    Some((name.to_owned(), scan))
}

/// The line of ssh's errors that says most: a key that can't be loaded or is not known, else the last one. That the connection through
/// a jump host has ended says less than why.
fn telling_line(stderr: &str) -> Option<&str> {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let says_more =
        |line: &&str| ["bad permissions", "host key is known", "Load key"].iter().any(|text| line.contains(text));
    let says_why = |line: &&str| !line.contains(UNKNOWN_SERVER) && !line.ends_with("by remote host");
    lines().find(says_more).or_else(|| lines().rfind(says_why)).or_else(|| lines().next_back())
}

/// The error of a host on which the script ran, and no agent began.
pub(super) fn no_agent(host: &PlanHost, noise: &str, stderr: &str) -> Diagnostic {
    let diagnostic = Diagnostic::new(ErrorCode::HostUnusable, format!("host `{}` can't run the agent", host.name));
    let said = telling_line(stderr).or_else(|| noise.lines().map(str::trim).rfind(|line| !line.is_empty()));
    let diagnostic = said.into_iter().fold(diagnostic, Diagnostic::with_cause);
    diagnostic.with_hint(match stderr.contains("GLIBC_") {
        true => "its C library is older than this machine's: use a released binary, which needs no C library",
        false => "delete `agent-…` in the folder `pawl` of the user's cache on the host, then run the command again",
    })
}

/// The command that logs in as the runner does.
fn ssh_command(address: &HostAddress, options: &SshOptions) -> String {
    let mut words = vec!["ssh".to_owned()];
    words.extend(options.config.as_ref().map(|file| format!("-F {}", file.display())));
    words.extend(options.known_hosts.as_ref().map(|file| format!("-o UserKnownHostsFile={}", file.display())));
    if let HostAddress::Ssh { user, port, .. } = address {
        words.extend(port.map(|port| format!("-p {port}")));
        words.extend(user.as_ref().map(|user| format!("-l {user}")));
    }
    words.push(address.host().to_owned());
    words.join(" ")
}

/// The command that adds the key of a host to the file of known keys.
fn keyscan_command(address: &HostAddress, options: &SshOptions) -> String {
    let port = match address {
        HostAddress::Ssh { port: Some(port), .. } => format!("-p {port} "),
        HostAddress::Ssh { port: None, .. } | HostAddress::Local => String::new(),
    };
    let file = options.known_hosts.as_ref().map_or("~/.ssh/known_hosts".to_owned(), |file| file.display().to_string());
    format!("ssh-keyscan {port}{} >> {file}", address.host())
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

pub(super) fn other_architecture(host: &PlanHost, theirs: &str, ours: &str) -> Diagnostic {
    let message = format!("host `{}` is `{theirs}`, and this runner is for `{ours}`", host.name);
    let diagnostic = Diagnostic::new(ErrorCode::HostUnusable, message);
    match AgentBinary::path(theirs) {
        Ok(path) => diagnostic.with_cause(format!("there is no {}", path.display())).with_hint(format!(
            "put the runner for `{theirs}` there, of this version ({}); or deploy from a machine with that architecture",
            env!("CARGO_PKG_VERSION")
        )),
        Err(error) => diagnostic.with_cause(error).with_hint("deploy from a machine with that architecture"),
    }
}

pub(super) fn unusable(
    (host, binary): (&PlanHost, &AgentBinary),
    what: &str,
    folder: &str,
    stderr: &str,
) -> Diagnostic {
    let (cause, hint) = match what {
        "folder" => (
            "the user has no writable folder that allows programs to run",
            "the agent needs one of `$XDG_CACHE_HOME`, `~/.cache`, `$XDG_RUNTIME_DIR` and `/var/tmp`: writable, and not mounted `noexec`"
                .to_owned(),
        ),
        "room" => ("no folder for it has enough room", format!("free at least {} MB in {folder} on the host", binary.megabytes())),
        _ => ("the runner's binary could not be stored there", format!("free at least {} MB in {folder} on the host", binary.megabytes())),
    };
    let diagnostic = Diagnostic::new(ErrorCode::HostUnusable, format!("host `{}` can't run the agent", host.name));
    let diagnostic = diagnostic.with_cause(cause).with_hint(hint);
    // Of a folder that can't be written to, there is nothing more to say.
    let forbids_programs = (what == "folder" && !folder.is_empty()).then(|| format!("no programs may run in {folder}"));
    let diagnostic = forbids_programs.into_iter().fold(diagnostic, Diagnostic::with_cause);
    telling_line(stderr).into_iter().fold(diagnostic, Diagnostic::with_cause)
}

#[cfg(test)]
mod tests {
    use plan::{Plan, PlanRequest, PlanSource};

    use super::*;

    /// The error and the hint of a connection to `root@inner` that ended with these errors of ssh.
    fn explained(stderr: &str) -> (ErrorCode, String, String) {
        let text = "version: 1\napp: shop\nenvironments:\n  test:\n    ssh: { config: /etc/s/config, known-hosts: /etc/s/known }\n    hosts: { web: [\"ssh://root@inner\"] }\nsteps:\n  a: { program: [/bin/true], trust: host, on: web }\n";
        let source = PlanSource { path: "deploy.yml".into(), folder: "/plans".into(), text: text.into() };
        let request = PlanRequest {
            environment: None,
            release: &"r1".parse().unwrap(),
            env: &|_| None,
            inventory: &plan::no_inventory,
        };
        let plan = Plan::parse(source, &request).unwrap();
        let host: &PlanHost = plan.steps[0].remote_host().unwrap();
        let diagnostic = explain((host, &plan.ssh), "", stderr).diagnostic;
        (diagnostic.code, diagnostic.message, diagnostic.hint.unwrap())
    }

    #[test]
    fn key_of_a_jump_host_is_not_that_of_the_host() {
        let refused = "and you have requested strict checking.\nHost key verification failed.\n";
        let closed = "Connection closed by UNKNOWN port 65535";
        let (code, message, hint) =
            explained(&format!("No ED25519 host key is known for [jump.example.com]:2222 {refused}{closed}"));
        assert_eq!(code, ErrorCode::HostKeyUnknown);
        assert!(
            message.starts_with("the key of the jump host `[jump.example.com]:2222` on the way to host "),
            "{message}"
        );
        assert!(
            hint.contains("`ssh-keyscan -p 2222 jump.example.com`") && hint.contains("`UserKnownHostsFile`"),
            "{hint}"
        );
        assert!(!hint.contains("/etc/s/known"), "{hint}");
        let changed = "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key for jump has changed ";
        let (_, message, hint) = explained(&format!("{changed}{refused}{closed}"));
        assert!(message.contains("jump host `jump`") && message.ends_with("has changed"), "{message}");
        assert!(hint.contains("`ssh-keyscan jump`"), "{hint}");
        // What no host is called is in no command.
        for name in ["jump; reboot", "-f /etc/shadow"] {
            let (_, _, hint) = explained(&format!("No ED25519 host key is known for {name} {refused}{closed}"));
            assert!(!hint.contains("ssh-keyscan") && !hint.contains(name), "{hint}");
        }
        // The host itself.
        let (_, message, hint) = explained(&format!("No ED25519 host key is known for inner {refused}"));
        assert!(!message.contains("jump"), "{message}");
        assert!(hint.contains("`ssh-keyscan inner >> /etc/s/known`"), "{hint}");
    }

    #[test]
    fn a_server_that_hangs_up_is_told_from_one_that_refuses() {
        let closed = "kex_exchange_identification: Connection closed by remote host\n";
        let by_host = format!("{closed}Connection closed by 10.0.0.7 port 22");
        let on_the_way = format!("{closed}Connection closed by UNKNOWN port 65535");
        let by_jump = format!("{closed}Connection closed by 10.0.0.1 port 22\n{on_the_way}");
        for (said, expected) in [
            (by_host, Some(HangUp::OfHost)),
            ("kex_exchange_identification: read: Connection reset by peer".to_owned(), Some(HangUp::OfHost)),
            (on_the_way.clone(), Some(HangUp::OnTheWay)),
            (by_jump.clone(), Some(HangUp::OnTheWay)),
            (format!("deploy@jump: Permission denied (publickey).\n{on_the_way}"), None),
            (format!("channel 0: open failed: connect failed: No route to host\n{on_the_way}"), None),
            ("ssh: connect to host inner port 22: Connection refused".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(hang_up(&said), expected, "{said}");
        }
        assert_eq!(telling_line(&by_jump), Some("Connection closed by 10.0.0.1 port 22"));
        assert_eq!(telling_line(&on_the_way), Some("Connection closed by UNKNOWN port 65535"));
    }

    #[test]
    fn missing_configuration_is_said() {
        let (code, message, hint) = explained("Can't open user config file /etc/s/config: No such file or directory");
        assert_eq!(code, ErrorCode::HostUnreachable);
        assert!(message.ends_with("there is no ssh configuration /etc/s/config"), "{message}");
        assert!(hint.starts_with("create /etc/s/config"), "{hint}");
    }
}
