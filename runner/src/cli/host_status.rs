//! What `runner status` says of each host: how far it is, the release that it shows, and its steps.
//!
//! Deliberately absent: the hosts themselves, which are not asked.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::why;
use crate::report::{MAX_TARGET_LINES, name_targets};
use contract::TargetName;
use journal::{JournalState, RecordStatus, StepTarget, event::Release};
use plan::Plan;

/// The most columns of the names of hosts in a line.
const MAX_NAMES_COLUMNS: usize = 40;

/// A host of an environment, by the records of its steps.
pub(super) struct HostStatus<'a> {
    name: TargetName,
    /// The groups that have it in the plan.
    groups: Vec<String>,
    state: HostProgress,
    live: Option<&'a Release>,
    steps: Vec<&'a StepTarget>,
}

/// How far a host is, the gravest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostProgress {
    /// Each of its steps is done for the release of the last attempt.
    Done,
    /// Not every step ran there for that release.
    Behind,
    /// A step failed there.
    Failed,
    /// The outcome of a step is not known.
    InDoubt,
}

impl HostProgress {
    const ALL: [Self; 4] = [Self::Done, Self::Behind, Self::Failed, Self::InDoubt];

    /// The word in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Behind => "behind",
            Self::Failed => "failed",
            Self::InDoubt => "in-doubt",
        }
    }
}

impl<'a> HostStatus<'a> {
    /// The hosts of the plan; if it can't be read, those of the last attempt's. `step_targets`: the steps of that, `planned` of them, then
    /// others with a record.
    pub(super) fn of_all(
        plan: Option<&Plan>,
        state: &'a JournalState,
        step_targets: &'a [StepTarget],
        planned: usize,
    ) -> Vec<Self> {
        let local = TargetName::local();
        let groups = plan.map(|plan| &plan.host_groups);
        let of_plan = groups.into_iter().flatten().flat_map(|(_, hosts)| hosts).map(|host| &host.name);
        let of_last = step_targets[..planned].iter().filter(|it| plan.is_none() && is_on_host(state, it));
        let with_records = of_last.map(|it| &it.target);
        let (mut names, mut seen) = (Vec::new(), BTreeSet::from([&local]));
        for name in of_plan.chain(with_records).chain(state.head.live_on.keys().filter(|_| plan.is_none())) {
            names.extend(seen.insert(name).then_some(name));
        }
        let host = |name: &TargetName| {
            let steps: Vec<_> = step_targets.iter().filter(|step_target| step_target.target == *name).collect();
            let has_it = |hosts: &[std::sync::Arc<plan::PlanHost>]| hosts.iter().any(|host| host.name == *name);
            let groups = groups.into_iter().flatten().filter(|(_, hosts)| has_it(hosts));
            Self {
                name: name.clone(),
                groups: groups.map(|(group, _)| group.to_string()).collect(),
                state: host_progress(state, &steps),
                live: state.head.live_on(name),
                steps,
            }
        };
        names.into_iter().map(host).collect()
    }

    /// The host as JSON.
    pub(super) fn json(&self, state: &JournalState) -> Value {
        let step = |step_target: &&StepTarget| {
            let record = state.records.get(*step_target);
            json!({
                "step": step_target.step,
                "status": record.map(|record| why::status_word(&record.status)),
                "release": record.map(|record| &record.intent.release),
            })
        };
        json!({
            "name": self.name,
            "groups": self.groups,
            "state": self.state.name(),
            "live": self.live,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }
}

/// `98 done; behind: web-3, web-7`; nothing if all of them are done, or there is only one.
pub(super) fn summary(hosts: &[HostStatus<'_>]) -> Option<String> {
    if hosts.len() < 2 || hosts.iter().all(|host| host.state == HostProgress::Done) {
        return None;
    }
    let part = |state: HostProgress| {
        let of: Vec<&str> = hosts.iter().filter(|host| host.state == state).map(|host| host.name.as_str()).collect();
        let word = match state {
            HostProgress::Done => "done",
            HostProgress::Behind => "behind",
            HostProgress::Failed => "failed",
            HostProgress::InDoubt => "in doubt",
        };
        match of.len() {
            0 => None,
            count if state == HostProgress::Done || count > MAX_TARGET_LINES => Some(format!("{count} {word}")),
            _ => Some(format!("{word}: {}", name_targets(&of, MAX_NAMES_COLUMNS))),
        }
    };
    Some(HostProgress::ALL.into_iter().filter_map(part).collect::<Vec<_>>().join("; "))
}

/// `r2 on 98 hosts; r1 on web-3, web-7`: the releases that the targets show, that on most of them first.
pub(super) fn releases_text(live_on: &BTreeMap<TargetName, Option<Release>>) -> String {
    let mut shown: Vec<(&str, Vec<&str>)> = Vec::new();
    for (target, release) in live_on {
        let label = release.as_ref().map_or("nothing", |release| release.label.as_str());
        match shown.iter_mut().find(|(known, _)| *known == label) {
            Some((_, targets)) => targets.push(target.as_str()),
            None => shown.push((label, vec![target.as_str()])),
        }
    }
    shown.sort_by_key(|(_, targets)| std::cmp::Reverse(targets.len()));
    let text = |(index, (label, targets)): (usize, &(&str, Vec<&str>))| match targets.len() {
        count if index == 0 && count > 3 => format!("{label} on {count} hosts"),
        _ => format!("{label} on {}", name_targets(targets, MAX_NAMES_COLUMNS)),
    };
    shown.iter().enumerate().map(text).collect::<Vec<_>>().join("; ")
}

/// Whether a step ran on the host that its target names, and not once for a group.
fn is_on_host(state: &JournalState, step_target: &StepTarget) -> bool {
    let record = state.records.get(step_target);
    record.is_some_and(|record| record.intent.input["host"]["name"].as_str() == Some(step_target.target.as_str()))
}

fn host_progress(state: &JournalState, steps: &[&StepTarget]) -> HostProgress {
    let newest = state.attempts.last().map(|attempt| &attempt.header.release);
    let of_step = |step_target: &&StepTarget| match state.records.get(*step_target) {
        None => HostProgress::Behind,
        Some(record) => match &record.status {
            RecordStatus::Intended | RecordStatus::Undoing(_) => HostProgress::InDoubt,
            RecordStatus::Failed(_) => HostProgress::Failed,
            RecordStatus::Succeeded(_) if newest.is_some_and(|newest| record.intent.release.is_same(newest)) => {
                HostProgress::Done
            }
            RecordStatus::Succeeded(_) | RecordStatus::Reverted => HostProgress::Behind,
        },
    };
    steps.iter().map(of_step).max().unwrap_or(HostProgress::Behind)
}
