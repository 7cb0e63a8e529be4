//! The outputs of the steps so far, by step and target.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use contract::{StepId, TargetName};
use journal::StepTarget;

/// What the steps have returned.
#[derive(Default)]
pub(super) struct StepOutputs {
    steps: BTreeMap<StepId, OutputsOfStep>,
}

#[derive(Default)]
struct OutputsOfStep {
    on: BTreeMap<TargetName, Map<String, Value>>,
    /// The outputs that are the same on all targets.
    agreed: Map<String, Value>,
}

impl StepOutputs {
    /// Adds the outputs of a step on a target.
    pub(super) fn insert(&mut self, step_target: &StepTarget, outputs: Map<String, Value>) {
        let of_step = self.steps.entry(step_target.step.clone()).or_default();
        if of_step.on.is_empty() {
            of_step.agreed = outputs.clone();
        } else {
            of_step.agreed.retain(|name, value| outputs.get(name) == Some(value));
        }
        of_step.on.insert(step_target.target.clone(), outputs);
    }

    /// Whether a step has returned anything on a target.
    pub(super) fn contains(&self, step_target: &StepTarget) -> bool {
        self.steps.get(&step_target.step).is_some_and(|of_step| of_step.on.contains_key(&step_target.target))
    }

    /// What a step on `target` sees of these steps: of each its outputs on that target; of one that ran elsewhere only, what is the same on
    /// all its targets.
    pub(super) fn seen_from(
        &self,
        target: &TargetName,
        is_seen: impl Fn(&StepId) -> bool,
    ) -> BTreeMap<StepId, Map<String, Value>> {
        let seen = |of_step: &OutputsOfStep| of_step.on.get(target).unwrap_or(&of_step.agreed).clone();
        let steps = self.steps.iter().filter(|(step, _)| is_seen(step));
        steps.map(|(step, of_step)| (step.clone(), seen(of_step))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_sees_its_own_target_and_elsewhere_what_all_agree_on() {
        let mut outputs = StepOutputs::default();
        let on = |step: &str, target: &str| StepTarget { step: step.parse().unwrap(), target: target.parse().unwrap() };
        let map = |value: Value| value.as_object().unwrap().clone();
        outputs.insert(&on("pull", "web-1"), map(json!({ "path": "releases/r1", "slot": "a" })));
        outputs.insert(&on("pull", "web-2"), map(json!({ "path": "releases/r1", "slot": "b" })));
        let seen = |target: &str| json!(outputs.seen_from(&target.parse().unwrap(), |_| true));
        assert_eq!(seen("web-2"), json!({ "pull": { "path": "releases/r1", "slot": "b" } }));
        assert_eq!(seen("local"), json!({ "pull": { "path": "releases/r1" } }));
        assert!(outputs.contains(&on("pull", "web-1")) && !outputs.contains(&on("pull", "local")));
    }
}
