//! `hooks:` and `setup:`: the steps that run around the others.
//!
//! A hook is a list. Each item is a step under its name, or a program, which is short for a step that uses `run` and is granted
//! that one argument vector. Deliberately absent: when hooks run and what they may do; `deploy` decides that (docs/environments.md).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    ArgumentPattern, EffectPlace, GrantSource, ModuleRef, PlanHooks, PlanStep, ProgramGrant, StepGrants, StepTrust,
    WrittenGrants,
    error::{PlanError, PlanErrorCollector},
    fields::{self, MappingFields},
    grants, needs_graph,
    scope::LookupSite,
    step::{self, DeclaredNeeds, StepContext, StepDraft},
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{StepId, TargetName, error_code::ErrorCode};

const KEYS: &[&str] = &["before", "after", "on-failure"];
const PROGRAM: &str = "program";

/// Reads `hooks`; their steps must not repeat a name of `earlier_steps`.
pub(super) fn read(
    fields: &MappingFields<'_>,
    earlier_steps: &[&[PlanStep]],
    context: &StepContext<'_>,
    problems: &mut PlanErrorCollector,
) -> PlanHooks {
    let Some((key, node)) = fields.entry("hooks") else { return PlanHooks::default() };
    let Some(fields) = MappingFields::read(node, "`hooks`", &key.span, KEYS, problems) else {
        return PlanHooks::default();
    };
    let mut taken: BTreeSet<StepId> =
        earlier_steps.iter().flat_map(|steps| steps.iter().map(|step| step.id.clone())).collect();
    let [before, after, on_failure] = ["before", "after", "on-failure"].map(|hook| {
        let what = format!("hook `{hook}`");
        let items = fields.get(hook).and_then(|node| fields::list(node, &what, problems)).unwrap_or_default();
        let read = |(index, node)| hook_step(hook, index, node, &mut taken, context, problems);
        items.iter().enumerate().filter_map(read).collect()
    });
    PlanHooks { before, after, on_failure }
}

/// Reads `setup`, whose steps are written as those under `steps`.
pub(super) fn setup(
    fields: &MappingFields<'_>,
    steps: &[PlanStep],
    context: &StepContext<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<Vec<PlanStep>> {
    let Some(node) = fields.get("setup") else { return Some(Vec::new()) };
    let setup = needs_graph::sort_steps(step::drafts(node, context, problems), problems)?;
    for step in &setup {
        if let Some(other) = steps.iter().find(|other| other.id == step.id) {
            problems.push(duplicate_step_error(&other.id, &step.span));
        }
    }
    Some(setup)
}

fn hook_step(
    hook: &str,
    index: usize,
    node: &YamlNode,
    taken: &mut BTreeSet<StepId>,
    context: &StepContext<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<PlanStep> {
    let what = format!("an item of hook `{hook}`");
    let [(key, node)] = fields::mapping(node, &what, problems)? else {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("{what} must be one named step or one `program`"));
        let hint = "write `- program: [./notify.sh, done]` or `- notify: { uses: run, … }`";
        problems.push(error.at(&node.span, "not exactly one").hint(hint));
        return None;
    };
    let step = if key.text == PROGRAM {
        let id = format!("{hook}-{}", index + 1).parse().expect("a hook's name and a number are a step's name");
        program_step(id, key, node, context, problems)
    } else {
        let StepDraft { needs, steps, span, .. } = step::draft(key, node, context, problems)?;
        if let DeclaredNeeds::Explicit(_) = needs {
            let error = PlanError::new(ErrorCode::InvalidValue, "a step of a hook cannot have `needs`");
            problems.push(
                error.at(&span, "this step has `needs`").hint("remove `needs`; hook steps run in the order written"),
            );
        }
        let mut steps = steps.into_iter();
        let step = steps.next()?;
        if step.host.is_some() || steps.next().is_some() {
            let error = PlanError::new(ErrorCode::InvalidValue, "a step of a hook cannot run on hosts");
            problems.push(error.at(&span, "has `on`").hint("remove `on`; hooks run on the runner's machine"));
            return None;
        }
        Some(step)
    }?;
    if !taken.insert(step.id.clone()) {
        problems.push(duplicate_step_error(&step.id, &step.span));
    }
    Some(step)
}

fn duplicate_step_error(id: &StepId, span: &std::ops::Range<usize>) -> PlanError {
    let error = PlanError::new(ErrorCode::DuplicateKey, format!("two steps are called `{id}`"));
    error.at(span, "the second one").hint("rename one; the journal identifies a step by its name")
}

fn program_step(
    id: StepId,
    key: &YamlKey,
    node: &YamlNode,
    context: &StepContext<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<PlanStep> {
    let what = format!("`program` of step `{id}`");
    let texts = fields::list(node, &what, problems)?.iter();
    let argv: Option<Vec<String>> =
        texts.map(|node| context.local.scope.text(node, &what, LookupSite::Grant, problems)).collect();
    let argv = argv?;
    if !argv.first().is_some_and(|program| grants::is_program(program)) {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("{what} names no program"));
        problems.push(
            error.at(&node.span, "no program").hint("write the program and its arguments: `[./notify.sh, done]`"),
        );
        return None;
    }
    let (program, args) = argv.split_first()?;
    let with = json!({ "program": program, "args": args, "repeatable": true });
    let arguments = argv.iter().map(|text| ArgumentPattern::Exact(text.clone())).collect();
    let grants = StepGrants {
        programs: vec![ProgramGrant { arguments, source: GrantSource::Config("/program".to_owned()) }],
        ..StepGrants::default()
    };
    Some(PlanStep {
        id,
        target: TargetName::local(),
        host: None,
        stand_ins: Vec::new(),
        uses: ModuleRef::Official(step::RUN.to_owned()),
        plan_dir: context.source.folder.clone(),
        with,
        pending: BTreeMap::new(),
        grants,
        writable_dirs: Vec::new(),
        needs: Vec::new(),
        timeout: step::DEFAULT_TIMEOUT,
        retry: 0,
        trust: StepTrust::Host,
        irreversible: false,
        always: false,
        after_undo: None,
        effects: EffectPlace::Here,
        confirm: None,
        span: key.span.clone(),
        uses_span: key.span.clone(),
        dir_spans: BTreeMap::new(),
        with_spans: BTreeMap::from([(String::new(), node.span.clone())]),
        with_key_spans: BTreeMap::new(),
        written_grants: WrittenGrants::NoPlace,
    })
}

/// Reads a boolean; a missing key counts as `false`.
pub(super) fn flag(fields: &MappingFields<'_>, key: &str, problems: &mut PlanErrorCollector) -> Option<bool> {
    let Some(node) = fields.get(key) else { return Some(false) };
    match &node.kind {
        YamlValue::Bool(value) => Some(*value),
        YamlValue::Null | YamlValue::Number { .. } | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => {
            problems.push(fields::wrong_type(node, &format!("`{key}`"), "`true` or `false`"));
            None
        }
    }
}
