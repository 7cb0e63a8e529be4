//! `hooks:` and `setup:`: what runs around the steps.
//!
//! A hook is a list. Each item is a step under its name, or a program, which is short for a step that uses `run` and is granted
//! that one argument vector. Deliberately absent: when hooks run and what they may do, which is `drive`'s (docs/environments.md).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    ArgumentPattern, Grants, Hooks, ModuleRef, ProgramGrant, Source, Step, Trust,
    error::{PlanError, Problem, Problems},
    fields::{self, Fields},
    order, paths,
    scope::{Place, Scope},
    step::{self, Draft, Needs},
    yaml::{Key, Kind, Node},
};
use contract::StepId;

const KEYS: &[&str] = &["before", "after", "on-failure"];
const PROGRAM: &str = "program";

/// Reads `hooks`. The names of `others` are taken.
pub(super) fn read(
    fields: &Fields<'_>,
    others: &[&[Step]],
    scope: &Scope<'_>,
    source: &Source,
    problems: &mut Problems,
) -> Hooks {
    let Some((key, node)) = fields.entry("hooks") else { return Hooks::default() };
    let Some(fields) = Fields::read(node, "`hooks`", &key.span, KEYS, problems) else { return Hooks::default() };
    let mut taken: BTreeSet<StepId> =
        others.iter().flat_map(|steps| steps.iter().map(|step| step.id.clone())).collect();
    let [before, after, on_failure] = ["before", "after", "on-failure"].map(|hook| {
        let what = format!("hook `{hook}`");
        let items = fields.get(hook).and_then(|node| fields::list(node, &what, problems)).unwrap_or_default();
        let read = |(index, node)| item(hook, index, node, &mut taken, scope, source, problems);
        items.iter().enumerate().filter_map(read).collect()
    });
    Hooks { before, after, on_failure }
}

/// Reads `setup`, steps like those under `steps`.
pub(super) fn setup(
    fields: &Fields<'_>,
    steps: &[Step],
    scope: &Scope<'_>,
    source: &Source,
    problems: &mut Problems,
) -> Option<Vec<Step>> {
    let Some(node) = fields.get("setup") else { return Some(Vec::new()) };
    let setup = order::sort(step::drafts(node, scope, source, problems), problems)?;
    for step in &setup {
        if let Some(other) = steps.iter().find(|other| other.id == step.id) {
            problems.push(twice(&other.id, &step.span));
        }
    }
    Some(setup)
}

fn item(
    hook: &str,
    index: usize,
    node: &Node,
    taken: &mut BTreeSet<StepId>,
    scope: &Scope<'_>,
    source: &Source,
    problems: &mut Problems,
) -> Option<Step> {
    let what = format!("an item of hook `{hook}`");
    let [(key, node)] = fields::mapping(node, &what, problems)? else {
        let error = PlanError::new(Problem::BadValue, format!("{what} is one step under its name, or one `program`"));
        let hint = "write `- program: [./notify.sh, done]` or `- notify: { uses: run, … }`";
        problems.push(error.at(&node.span, "not one").hint(hint));
        return None;
    };
    let step = if key.text == PROGRAM {
        let id = format!("{hook}-{}", index + 1).parse().expect("a hook's name and a number are a step's name");
        program(id, key, node, scope, source, problems)
    } else {
        let Draft { needs, step, span, .. } = step::draft(key, node, scope, source, problems)?;
        if let Needs::Listed(_) = needs {
            let error = PlanError::new(Problem::BadValue, "a step of a hook can't have `needs`");
            problems.push(error.at(&span, "this one has").hint("hooks run in the order written"));
        }
        step
    }?;
    if !taken.insert(step.id.clone()) {
        problems.push(twice(&step.id, &step.span));
    }
    Some(step)
}

fn twice(id: &StepId, span: &std::ops::Range<usize>) -> PlanError {
    let error = PlanError::new(Problem::DuplicateKey, format!("there are two steps `{id}`"));
    error.at(span, "the second one").hint("records are kept by the step's name: call one otherwise")
}

fn program(
    id: StepId,
    key: &Key,
    node: &Node,
    scope: &Scope<'_>,
    source: &Source,
    problems: &mut Problems,
) -> Option<Step> {
    let what = format!("`program` of step `{id}`");
    let texts = fields::list(node, &what, problems)?.iter();
    let argv: Option<Vec<String>> = texts.map(|node| scope.text(node, &what, Place::Grant, problems)).collect();
    let mut argv = argv?;
    let Some(first) = argv.first_mut().filter(|first| !first.is_empty()) else {
        let error = PlanError::new(Problem::BadValue, format!("{what} names no program"));
        problems.push(error.at(&node.span, "empty").hint("write the program and its arguments: `[./notify.sh, done]`"));
        return None;
    };
    if first.starts_with("./") || first.starts_with("../") {
        *first = paths::resolve(&source.folder, first).to_string_lossy().into_owned();
    }
    let (program, args) = argv.split_first()?;
    let with = json!({ "program": program, "args": args, "repeatable": true });
    let arguments = argv.iter().map(|text| ArgumentPattern::Exact(text.clone())).collect();
    let grants = Grants { programs: vec![ProgramGrant { arguments }], ..Grants::default() };
    Some(Step {
        id,
        uses: ModuleRef::Official("run".to_owned()),
        with,
        pending: BTreeMap::new(),
        grants,
        writable: Vec::new(),
        needs: Vec::new(),
        timeout: step::DEFAULT_TIMEOUT,
        retry: 0,
        trust: Trust::Host,
        irreversible: false,
        span: key.span.clone(),
        with_spans: BTreeMap::from([(String::new(), node.span.clone())]),
    })
}

/// Whether a value is `true`; left out, it is not.
pub(super) fn flag(fields: &Fields<'_>, key: &str, problems: &mut Problems) -> Option<bool> {
    let Some(node) = fields.get(key) else { return Some(false) };
    match &node.kind {
        Kind::Bool(value) => Some(*value),
        Kind::Null | Kind::Number { .. } | Kind::Text(_) | Kind::List(_) | Kind::Map(_) => {
            problems.push(fields::wrong_type(node, &format!("`{key}`"), "`true` or `false`"));
            None
        }
    }
}
