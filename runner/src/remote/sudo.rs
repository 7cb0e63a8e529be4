//! What keeps sudo from letting the agent work as another user.

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{HostAddress, PlanHost, SshOptions};

/// Where a rule belongs on the host.
const RULES_FILE: &str = "/etc/sudoers.d/pawl";

/// The error of sudo, by what it said before anything ran on the host; none if it said nothing.
pub(super) fn explain((host, options): (&PlanHost, &SshOptions), shown: &str, stderr: &str) -> Option<Diagnostic> {
    let user = options.sudo.as_deref()?;
    let line = stderr.lines().map(str::trim).find(|line| is_of_sudo(line))?;
    let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
    let (message, hint) = if line.starts_with("env:") {
        let hint = format!("install sudo there, or log in as `{user}` and remove `sudo` of `ssh`");
        (format!("host {shown} has no sudo"), hint)
    } else if says(&["unknown user"]) {
        let hint = "create the user there, or correct `sudo` of `ssh` in the plan".to_owned();
        (format!("host {shown} has no user `{user}`"), hint)
    } else {
        let login = match &host.address {
            HostAddress::Ssh { user: Some(login), .. } => login.as_str(),
            HostAddress::Ssh { user: None, .. } | HostAddress::Local => "LOGIN",
        };
        let rule = format!("{login} ALL=({user}) NOPASSWD: /bin/sh");
        let hint = format!("as root on the host, run `visudo -f {RULES_FILE}` and write `{rule}`");
        (format!("host {shown} does not let `{login}` work as `{user}` without a password"), hint)
    };
    Some(Diagnostic::new(ErrorCode::SudoRefused, message).with_cause(line).with_hint(hint))
}

/// Whether sudo says it, or `env` says it of sudo.
fn is_of_sudo(line: &str) -> bool {
    line.starts_with("sudo:")
        || line.starts_with("env:") && line.contains("sudo")
        || line.starts_with("Sorry, user ")
        || line.contains(" is not in the sudoers file")
}
