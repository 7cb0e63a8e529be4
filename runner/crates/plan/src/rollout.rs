//! `rollout:` of an environment: in which portions a group of hosts gets a release, and how many of them may fail.

use std::{collections::BTreeSet, time::Duration};

use super::{
    error::{PlanError, PlanErrorCollector},
    fields::{self, MappingFields},
    hosts::HostGroups,
    step,
    yaml::{YamlNode, YamlValue},
};
use contract::{HostGroup, TargetName, error_code::ErrorCode};

const ROLLOUT_KEYS: &[&str] = &["on", "batches", "pause", "max-failures"];
const MAX_FAILURES_HINT: &str = "write a number of hosts or a percentage of them, as in `max-failures: 10%`";
const BATCHES_HINT: &str = "write numbers of hosts or percentages that grow, as in `batches: [1, 25%, 100%]`";

/// How the steps that users see, from the first commit step on, reach the hosts of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The group.
    pub group: HostGroup,
    /// The hosts of the group, in the order in which they get the release.
    pub hosts: Vec<TargetName>,
    /// How many hosts have it after each batch, in numbers that grow; the last is all of them.
    pub batches: Vec<usize>,
    /// How many of the hosts may fail in an attempt while it goes on with the others.
    pub max_failures: usize,
    /// How long it waits after a batch in which something ran.
    pub pause: Duration,
}

impl Rollout {
    /// The hosts that each batch adds, if only those take part that `is_included`: they move up, so that the first batch has a host.
    pub fn added(&self, is_included: impl Fn(&TargetName) -> bool) -> Vec<BTreeSet<&TargetName>> {
        let hosts: Vec<&TargetName> = self.hosts.iter().filter(|host| is_included(host)).collect();
        let all = hosts.len();
        let until = || self.batches.iter().map(move |count| (*count).min(all));
        let before = std::iter::once(0).chain(until());
        before.zip(until()).map(|(before, until)| hosts[before..until].iter().copied().collect()).collect()
    }
}

/// Reads `rollout` of the chosen environment.
pub(super) fn read(node: &YamlNode, groups: &HostGroups, problems: &mut PlanErrorCollector) -> Option<Rollout> {
    let fields = MappingFields::read(node, "`rollout`", &node.span, ROLLOUT_KEYS, problems)?;
    let on = fields.require("on", "web", problems)?;
    let name = fields::literal(on, "`on` of `rollout`", problems)?;
    let hosts: Vec<_> = groups.group(name, on, problems)?.iter().map(|host| host.name.clone()).collect();
    let max_failures = match fields.get("max-failures") {
        Some(node) => Some(max_failures(node, hosts.len(), problems)?),
        None => None,
    };
    let batches = match (fields.get("batches"), max_failures) {
        (Some(node), _) => self::batches(node, hosts.len(), problems),
        (None, Some(_)) => Some(vec![hosts.len()]),
        (None, None) => self::batches(fields.require("batches", "[1, 100%]", problems)?, hosts.len(), problems),
    };
    let pause = match fields.get("pause") {
        Some(node) => step::duration(node, "`pause`", problems),
        None => Some(Duration::ZERO),
    };
    let group = fields::parse_name(name, &on.span, problems);
    Some(Rollout { group: group?, hosts, batches: batches?, max_failures: max_failures.unwrap_or(0), pause: pause? })
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
        let text = written_number(item);
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

/// How many of the hosts may fail. A percentage is rounded down: of 8 hosts, 10 % is none.
fn max_failures(node: &YamlNode, hosts: usize, problems: &mut PlanErrorCollector) -> Option<usize> {
    let text = written_number(node);
    let count = match number(text) {
        Some((percent @ 0..=100, true)) => Some(hosts * percent / 100),
        Some((count, false)) => Some(count.min(hosts)),
        Some((_, true)) | None => None,
    };
    if count.is_none() {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("`max-failures` can't be `{text}`"));
        problems.push(error.at(&node.span, "not a number of hosts").hint(MAX_FAILURES_HINT));
    }
    count
}

/// A number of hosts, from `3` or `25%`.
fn count(text: &str, hosts: usize) -> Option<usize> {
    match number(text)? {
        (percent @ 1..=100, true) => Some((hosts * percent).div_ceil(100)),
        (count @ 1.., false) => Some(count.min(hosts)),
        (_, _) => None,
    }
}

/// A number, and whether it is a percentage.
fn number(text: &str) -> Option<(usize, bool)> {
    let (digits, is_percent) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(|number| (number, is_percent))
}

fn written_number(node: &YamlNode) -> &str {
    match &node.kind {
        YamlValue::Number { written, .. } | YamlValue::Text(written) => written.as_str(),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::List(_) | YamlValue::Map(_) => "",
    }
}
