//! The graph of `needs`: the order of the steps, and the check that lookups of outputs refer to earlier steps.
//!
//! Invariant: the order is topological and stable; of several steps that could run next, the one written first runs.

use std::collections::{BTreeSet, HashMap};

use super::{
    PlanStep,
    error::{PlanError, PlanErrorCollector, closest_match, quoted_list},
    expression::DeferredLookup,
    step::{DeclaredNeeds, StepDraft},
};
use contract::{StepId, error_code::ErrorCode};

/// Sorts steps into the order in which they run, without those that have an error. `None` if there is no order.
pub(super) fn sort_steps(drafts: Vec<StepDraft>, problems: &mut PlanErrorCollector) -> Option<Vec<PlanStep>> {
    let before = problems.count();
    let graph = NeedsGraph::new(&drafts, problems);
    if problems.count() > before {
        return None;
    }
    let order = graph.order().or_else(|| {
        problems.push(graph.cycle_error(&drafts));
        None
    })?;
    for (index, draft) in drafts.iter().enumerate() {
        graph.check_lookups(index, draft, &drafts, problems);
    }
    let ids: Vec<StepId> = drafts.iter().map(|draft| draft.id.clone()).collect();
    let mut steps: Vec<Vec<PlanStep>> = drafts.into_iter().map(|draft| draft.steps).collect();
    let sorted = order.into_iter().flat_map(|index| {
        let needs: Vec<StepId> = graph.needs[index].iter().map(|need| ids[*need].clone()).collect();
        std::mem::take(&mut steps[index]).into_iter().map(move |step| PlanStep { needs: needs.clone(), ..step })
    });
    Some(sorted.collect())
}

struct NeedsGraph {
    /// The needs of each step, by position in the text; sorted, without duplicates.
    needs: Vec<Vec<usize>>,
}

impl NeedsGraph {
    fn new(drafts: &[StepDraft], problems: &mut PlanErrorCollector) -> Self {
        let index: HashMap<&StepId, usize> =
            drafts.iter().enumerate().map(|(index, draft)| (&draft.id, index)).collect();
        let mut needs = Vec::with_capacity(drafts.len());
        for (place, draft) in drafts.iter().enumerate() {
            needs.push(match &draft.needs {
                DeclaredNeeds::PreviousStep => place.checked_sub(1).into_iter().collect(),
                DeclaredNeeds::Explicit(listed) => {
                    let mut found = BTreeSet::new();
                    for (id, span) in listed {
                        match index.get(id) {
                            Some(need) => {
                                found.insert(*need);
                            }
                            None => {
                                problems.push(unknown_step(ErrorCode::UnknownNeed, id, drafts).at(span, "no such step"))
                            }
                        }
                    }
                    found.into_iter().collect()
                }
            });
        }
        Self { needs }
    }

    /// The order of the steps; `None` if there is a cycle.
    fn order(&self) -> Option<Vec<usize>> {
        let mut waiting: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let mut dependents = vec![Vec::new(); self.needs.len()];
        for (index, needs) in self.needs.iter().enumerate() {
            for need in needs {
                dependents[*need].push(index);
            }
        }
        let mut ready: BTreeSet<usize> = (0..waiting.len()).filter(|index| waiting[*index] == 0).collect();
        let mut order = Vec::with_capacity(waiting.len());
        while let Some(next) = ready.pop_first() {
            order.push(next);
            for dependent in &dependents[next] {
                waiting[*dependent] -= 1;
                if waiting[*dependent] == 0 {
                    ready.insert(*dependent);
                }
            }
        }
        (order.len() == self.needs.len()).then_some(order)
    }

    /// The error that names one cycle; called only if there is one.
    fn cycle_error(&self, drafts: &[StepDraft]) -> PlanError {
        // Without the steps that lead into no cycle, each step that is left needs another one that is left.
        let mut left: BTreeSet<usize> = (0..drafts.len()).collect();
        loop {
            let free: BTreeSet<usize> = left
                .iter()
                .copied()
                .filter(|index| !self.needs[*index].iter().any(|need| left.contains(need)))
                .collect();
            if free.is_empty() {
                break;
            }
            left.retain(|index| !free.contains(index));
        }
        let mut path: Vec<usize> = left.first().copied().into_iter().collect();
        let start = loop {
            let last = *path.last().expect("a cycle leaves steps");
            let next = self.needs[last].iter().copied().find(|need| left.contains(need)).expect("each needs another");
            match path.iter().position(|index| *index == next) {
                Some(start) => break start,
                None => path.push(next),
            }
        };
        let cycle = &path[start..];
        let names: Vec<&str> = cycle.iter().chain(&cycle[..1]).map(|index| drafts[*index].id.as_str()).collect();
        let first = &drafts[cycle[0]];
        let (at, hint) = match &first.needs {
            DeclaredNeeds::Explicit(listed) => {
                let next = &drafts[*cycle.get(1).unwrap_or(&cycle[0])].id;
                let at = listed.iter().find(|(id, _)| id == next).map_or(&first.span, |(_, span)| span);
                (at, "remove one of these steps from `needs`".to_owned())
            }
            DeclaredNeeds::PreviousStep => (
                &first.span,
                format!("add `needs: []` to `{}`; without `needs`, it needs the step before it", first.id),
            ),
        };
        PlanError::new(ErrorCode::NeedsCycle, format!("`needs` has a cycle: {}", names.join(" → ")))
            .at(at, "part of the cycle")
            .hint(hint)
    }

    /// Checks that a step looks up only outputs of steps that always run before it.
    fn check_lookups(&self, index: usize, draft: &StepDraft, drafts: &[StepDraft], problems: &mut PlanErrorCollector) {
        // What a step looks up is the same on each host.
        let Some(step) = draft.steps.first() else { return };
        let mut ancestors = None;
        for (lookup, span) in step.pending.values().flat_map(|pending| pending.lookups_with_spans()) {
            let DeferredLookup::Output { step: looked_up, .. } = lookup else { continue };
            let Some(position) = drafts.iter().position(|other| other.id == *looked_up) else {
                problems.push(unknown_step(ErrorCode::UndefinedLookup, looked_up, drafts).at(span, "no such step"));
                continue;
            };
            if !ancestors.get_or_insert_with(|| self.ancestors(index))[position] {
                let message =
                    format!("step `{}` looks up an output of `{looked_up}`, which does not run before it", step.id);
                let error = PlanError::new(ErrorCode::LookupNotAllowed, message).at(span, "not known yet");
                problems.push(error.hint(match position == index {
                    true => "remove the lookup; a step cannot use its own outputs".to_owned(),
                    false => format!("add `{looked_up}` to `needs` of `{}`", step.id),
                }));
            }
        }
    }

    /// Whether this step waits, directly or indirectly, for each other step.
    fn ancestors(&self, index: usize) -> Vec<bool> {
        let mut found = vec![false; self.needs.len()];
        let mut open = self.needs[index].clone();
        while let Some(next) = open.pop() {
            if !std::mem::replace(&mut found[next], true) {
                open.extend(&self.needs[next]);
            }
        }
        found
    }
}

fn unknown_step(code: ErrorCode, id: &StepId, drafts: &[StepDraft]) -> PlanError {
    let names = || drafts.iter().map(|draft| draft.id.as_str());
    let hint = match closest_match(id.as_str(), names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("use one of {}", quoted_list(names())),
    };
    PlanError::new(code, format!("the plan has no step `{id}`")).hint(hint)
}
