//! `--limit`: the hosts that take part in a deployment, by their names, groups and labels.
//!
//! Deliberately absent: what a step does whose host takes no part.

use std::collections::BTreeSet;

use super::{
    Plan, PlanHost,
    error::{closest_match, quoted_list},
    hosts::LOCAL,
};
use contract::{
    TargetName,
    diagnostic::{Diagnostic, ErrorCode},
    text::escape_line,
};

/// The most names that a hint lists.
const MAX_LISTED: usize = 12;

impl Plan {
    /// The hosts that `--limit` chooses, `local` for the runner's machine: those that a name without `!` stands for, or all if there is
    /// none, without those that a name with `!` stands for.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownHost`]: a name stands for nothing in this environment, or no host is left.
    pub fn limited_hosts(&self, written: &str) -> Result<BTreeSet<TargetName>, Diagnostic> {
        let (mut chosen, mut excluded) = (BTreeSet::new(), BTreeSet::new());
        let mut names_hosts = false;
        for item in written.split(',').map(str::trim) {
            match item.strip_prefix('!') {
                Some(name) => excluded.extend(self.hosts_called(name.trim(), written)?),
                None => {
                    names_hosts = true;
                    chosen.extend(self.hosts_called(item, written)?);
                }
            }
        }
        if !names_hosts {
            chosen = self.hosts().map(|host| host.name.clone()).chain([TargetName::local()]).collect();
        }
        chosen.retain(|host| !excluded.contains(host));
        if chosen.is_empty() {
            let message = format!("`--limit {}` leaves no host", escape_line(written));
            let hint = "name a host, a group or a label, without one that excludes it";
            return Err(Diagnostic::new(ErrorCode::UnknownHost, message).with_hint(hint));
        }
        Ok(chosen)
    }

    /// Each host of the environment; one that is in several groups comes for each.
    fn hosts(&self) -> impl Iterator<Item = &PlanHost> {
        self.host_groups.values().flatten().map(|host| &**host)
    }

    fn hosts_called(&self, name: &str, written: &str) -> Result<BTreeSet<TargetName>, Diagnostic> {
        let is_meant =
            |host: &&PlanHost| host.name.as_str() == name || host.labels.iter().any(|label| label.as_str() == name);
        let in_group = self.host_groups.iter().filter(|(group, _)| group.as_str() == name).flat_map(|(_, hosts)| hosts);
        let mut found: BTreeSet<TargetName> = self.hosts().filter(is_meant).map(|host| host.name.clone()).collect();
        found.extend(in_group.map(|host| host.name.clone()));
        found.extend((name == LOCAL).then(TargetName::local));
        if found.is_empty() { Err(self.unknown_host(name, written)) } else { Ok(found) }
    }

    fn unknown_host(&self, name: &str, written: &str) -> Diagnostic {
        let (written, shown) = (escape_line(written), escape_line(name));
        let message = match name {
            "" => format!("`--limit {written}` has an empty name"),
            _ => {
                format!("`--limit {written}` names `{shown}`, which is no host, group or label of {}", self.environment)
            }
        };
        let groups = self.host_groups.keys().map(|group| group.as_str());
        let labels = self.hosts().flat_map(|host| &host.labels).map(|label| label.as_str());
        let hosts = self.hosts().map(|host| host.name.as_str());
        let mut known: Vec<&str> = groups.chain(labels).chain(hosts).collect();
        let mut seen = BTreeSet::new();
        known.retain(|name| seen.insert(*name));
        let hint = match closest_match(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "the environment has no `hosts`; remove `--limit`".to_owned(),
            None if known.len() > MAX_LISTED => {
                format!(
                    "use one of {}, or another one of its {} names",
                    quoted_list(known[..MAX_LISTED].iter().copied()),
                    known.len()
                )
            }
            None => format!("use one of {}", quoted_list(known.iter().copied())),
        };
        Diagnostic::new(ErrorCode::UnknownHost, message).with_hint(hint)
    }
}
