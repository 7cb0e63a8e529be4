//! `rollout:` of an environment: in which portions a group of hosts gets a release.

use std::{collections::BTreeSet, time::Duration};

use super::{
    error::{PlanError, PlanErrorCollector},
    fields::{self, MappingFields},
    hosts::HostGroups,
    step,
    yaml::{YamlNode, YamlValue},
};
use contract::{TargetName, error_code::ErrorCode};

const ROLLOUT_KEYS: &[&str] = &["on", "batches", "pause"];
const BATCHES_HINT: &str = "write numbers of hosts or percentages that grow, as in `batches: [1, 25%, 100%]`";

/// How the steps that users see, from the first commit step on, reach the hosts of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The hosts of the group, in the order in which they get the release.
    pub hosts: Vec<TargetName>,
    /// How many hosts have it after each batch, in numbers that grow; the last is all of them.
    pub batches: Vec<usize>,
    /// How long it waits after a batch in which something ran.
    pub pause: Duration,
}

impl Rollout {
    /// The hosts that each batch adds.
    pub fn added(&self) -> impl Iterator<Item = BTreeSet<&TargetName>> {
        let before = std::iter::once(0).chain(self.batches.iter().copied());
        before.zip(&self.batches).map(|(before, until)| self.hosts[before..*until].iter().collect())
    }
}

/// Reads `rollout` of the chosen environment.
pub(super) fn read(node: &YamlNode, groups: &HostGroups, problems: &mut PlanErrorCollector) -> Option<Rollout> {
    let fields = MappingFields::read(node, "`rollout`", &node.span, ROLLOUT_KEYS, problems)?;
    let on = fields.require("on", "web", problems)?;
    let name = fields::literal(on, "`on` of `rollout`", problems)?;
    let hosts: Vec<_> = groups.group(name, on, problems)?.iter().map(|host| host.name.clone()).collect();
    let batches = fields.require("batches", "[1, 100%]", problems)?;
    let batches = self::batches(batches, hosts.len(), problems);
    let pause = match fields.get("pause") {
        Some(node) => step::duration(node, "`pause`", problems),
        None => Some(Duration::ZERO),
    };
    Some(Rollout { hosts, batches: batches?, pause: pause? })
}

/// Checks `rollout` of an environment that is not chosen.
pub(super) fn check(node: &YamlNode, problems: &mut PlanErrorCollector) {
    MappingFields::read(node, "`rollout`", &node.span, ROLLOUT_KEYS, problems);
}

/// The number of hosts after each batch. Percentages are rounded up; batches that add no host are left out.
fn batches(node: &YamlNode, hosts: usize, problems: &mut PlanErrorCollector) -> Option<Vec<usize>> {
    let items = fields::list(node, "`batches`", problems)?;
    let mut until: Vec<usize> = Vec::new();
    for item in items {
        let text = match &item.kind {
            YamlValue::Number { written, .. } | YamlValue::Text(written) => written.as_str(),
            YamlValue::Null | YamlValue::Bool(_) | YamlValue::List(_) | YamlValue::Map(_) => "",
        };
        let Some(count) = count(text, hosts) else {
            let error = PlanError::new(ErrorCode::InvalidValue, format!("`{text}` is not the size of a batch"));
            problems.push(error.at(&item.span, "not a size").hint(BATCHES_HINT));
            return None;
        };
        match until.last() {
            Some(before) if count < *before => {
                let message = "`batches` must grow: each one says how many hosts have the release after it";
                let error = PlanError::new(ErrorCode::InvalidValue, message);
                problems.push(error.at(&item.span, "less than before").hint(BATCHES_HINT));
                return None;
            }
            Some(before) if count == *before => {}
            Some(_) | None => until.push(count),
        }
    }
    if until.last() != Some(&hosts) {
        until.push(hosts);
    }
    Some(until)
}

/// A number of hosts, from `3` or `25%`.
fn count(text: &str, hosts: usize) -> Option<usize> {
    let (digits, is_percent) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: usize = digits.parse().ok().filter(|number| is_number && *number > 0)?;
    match is_percent {
        true => (number <= 100).then(|| (hosts * number).div_ceil(100)),
        false => Some(number.min(hosts)),
    }
}
