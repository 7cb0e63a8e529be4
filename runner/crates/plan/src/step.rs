//! One step of the plan as written, before the graph is known.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde_json::{Map, Value};

use super::{
    EffectPlace, ModuleRef, PlanSource, PlanStep, StepGrants, StepTrust,
    error::{PlanError, PlanErrorCollector},
    fields::{self, MappingFields},
    grants, hooks, paths,
    registry::{RegistryRef, RegistryRefError},
    scope::{LookupScope, SubstitutedConfig},
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{StepId, duration::parse_duration, error_code::ErrorCode};

const KEYS: &[&str] = &[
    "uses",
    "with",
    "grants",
    "needs",
    "on",
    "timeout",
    "retry",
    "trust",
    "irreversible",
    "always",
    "after-undo",
    "effects",
];
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_RETRIES: u64 = 10;

/// A step as written. It has its node in the graph even if it contains an error.
pub(super) struct StepDraft {
    pub(super) id: StepId,
    pub(super) span: Range<usize>,
    pub(super) needs: DeclaredNeeds,
    /// `None` when an error has been reported.
    pub(super) step: Option<PlanStep>,
}

/// `needs:` as written.
pub(super) enum DeclaredNeeds {
    /// `needs` is left out: the step needs the one before it.
    PreviousStep,
    /// `needs` lists these steps.
    Explicit(Vec<(StepId, Range<usize>)>),
}

/// Reads the mapping under `steps`.
pub(super) fn drafts(
    node: &YamlNode,
    scope: &LookupScope<'_>,
    source: &PlanSource,
    problems: &mut PlanErrorCollector,
) -> Vec<StepDraft> {
    let Some(entries) = fields::mapping(node, "`steps`", problems) else { return Vec::new() };
    if entries.is_empty() {
        let error = PlanError::new(ErrorCode::MissingKey, "the plan has no steps");
        problems.push(error.at(&node.span, "empty").hint("add one: `pull: { uses: pull, … }`"));
    }
    entries.iter().filter_map(|(key, node)| draft(key, node, scope, source, problems)).collect()
}

pub(super) fn draft(
    key: &YamlKey,
    node: &YamlNode,
    scope: &LookupScope<'_>,
    source: &PlanSource,
    problems: &mut PlanErrorCollector,
) -> Option<StepDraft> {
    let id: StepId = fields::parse_name(&key.text, &key.span, problems)?;
    let what = format!("step `{id}`");
    let errors_before = problems.count();
    let Some(fields) = MappingFields::read(node, &what, &key.span, KEYS, problems) else {
        return Some(StepDraft { id, span: key.span.clone(), needs: DeclaredNeeds::PreviousStep, step: None });
    };
    let uses = fields.require("uses", "pull", problems).and_then(|node| module(node, source, problems));
    let config = config(&fields, &what, &key.span, scope, problems);
    let trust = fields.get("trust").map_or(Some(StepTrust::Sandbox), |node| {
        fields::choice(node, "`trust`", &[("host", StepTrust::Host)], problems)
    });
    let (grants, dir_spans) = match fields.get("grants") {
        Some(node) => grants::read(node, &what, scope, source, problems),
        None => (StepGrants::default(), BTreeMap::new()),
    };
    let host_capability = match (grants.programs.is_empty(), grants.sockets.is_empty()) {
        (false, _) => Some("programs"),
        (true, false) => Some("sockets"),
        (true, true) => None,
    };
    if let (Some(strong), Some(StepTrust::Sandbox)) = (host_capability, trust) {
        let error = PlanError::new(
            ErrorCode::NeedsTrust,
            format!("{what} is granted {strong}, which can do whatever the host can"),
        );
        let hint = format!("add `trust: host`, or use a module that needs no {strong}");
        problems.push(error.at(&key.span, "needs `trust: host`").hint(hint));
    }
    let timeout = fields.get("timeout").map_or(Some(DEFAULT_TIMEOUT), |node| timeout(node, problems));
    let retry = fields.get("retry").map_or(Some(0), |node| retry(node, problems));
    let irreversible = hooks::flag(&fields, "irreversible", problems);
    let always = hooks::flag(&fields, "always", problems);
    let after_undo = match fields.get("after-undo") {
        None => Some(None),
        Some(_) => hooks::flag(&fields, "after-undo", problems).map(Some),
    };
    let places = &[("here", EffectPlace::Here), ("elsewhere", EffectPlace::Elsewhere)];
    let effects = fields
        .get("effects")
        .map_or(Some(EffectPlace::Here), |node| fields::choice(node, "`effects`", places, problems));
    if let Some(node) = fields.get("on") {
        check_target(node, problems);
    }
    let needs = fields.get("needs").map_or(DeclaredNeeds::PreviousStep, |node| needs(node, problems));
    let repetition = match (always, after_undo, effects) {
        (Some(always), Some(after_undo), Some(effects)) => Some((always, after_undo, effects)),
        _ => None,
    };
    let step = match (uses, config, trust, timeout, retry, irreversible, repetition) {
        (
            Some(uses),
            Some(config),
            Some(trust),
            Some(timeout),
            Some(retry),
            Some(irreversible),
            Some((always, after_undo, effects)),
        ) if problems.count() == errors_before => Some(PlanStep {
            id: id.clone(),
            uses,
            with: config.value,
            pending: config.pending,
            grants,
            writable_dirs: Vec::new(),
            needs: Vec::new(),
            timeout,
            retry,
            trust,
            irreversible,
            always,
            after_undo,
            effects,
            span: key.span.clone(),
            dir_spans,
            with_spans: config.spans,
        }),
        _ => None,
    };
    Some(StepDraft { id, span: key.span.clone(), needs, step })
}

fn module(node: &YamlNode, source: &PlanSource, problems: &mut PlanErrorCollector) -> Option<ModuleRef> {
    let text = fields::literal(node, "`uses`", problems)?;
    if let Some(reference) = text.strip_prefix("oci://") {
        let parsed = RegistryRef::parse(reference);
        return parsed
            .map(ModuleRef::Registry)
            .map_err(|RegistryRefError { reason: why, hint }| {
                let error = PlanError::new(ErrorCode::InvalidValue, format!("`{text}` is not a valid module: {why}"));
                problems.push(error.at(&node.span, "not a pinned module").hint(hint));
            })
            .ok();
    }
    let path = text.starts_with("./") || text.starts_with("../") || text.starts_with('/');
    if path && text.ends_with(".wasm") && paths::path_error(text).is_none() {
        return Some(ModuleRef::File(paths::resolve(&source.folder, text)));
    }
    // Names of modules follow the rule of step names.
    if text.parse::<StepId>().is_ok() {
        return Some(ModuleRef::Official(text.to_owned()));
    }
    let error = PlanError::new(ErrorCode::InvalidValue, format!("`{text}` is not a module"));
    let hint = match text.ends_with(".wasm") && !path {
        true => format!("to use a file, write `uses: ./{text}`"),
        false => {
            "write a name (`uses: pull`), a file (`uses: ./steps/x.wasm`) or a registry reference (`uses: oci://…@sha256:…`)"
                .to_owned()
        }
    };
    problems.push(error.at(&node.span, "not a name, file or registry reference").hint(hint));
    None
}

fn config(
    fields: &MappingFields<'_>,
    what: &str,
    at: &Range<usize>,
    scope: &LookupScope<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<SubstitutedConfig> {
    let Some(node) = fields.get("with") else {
        let spans = BTreeMap::from([(String::new(), at.clone())]);
        return Some(SubstitutedConfig { value: Value::Object(Map::new()), pending: BTreeMap::new(), spans });
    };
    fields::mapping(node, &format!("`with` of {what}"), problems)?;
    scope.config(node, problems)
}

fn timeout(node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<Duration> {
    let text = match &node.kind {
        YamlValue::Number { written, .. } => written,
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => {
            fields::literal(node, "`timeout`", problems)?
        }
    };
    match parse_duration(text) {
        Ok(Duration::ZERO) => {
            let error = PlanError::new(ErrorCode::InvalidValue, "`timeout` cannot be 0");
            problems.push(error.at(&node.span, "no time at all").hint("write a duration above 0, such as `30s`"));
            None
        }
        Ok(duration) => Some(duration),
        Err(invalid) => {
            let error = PlanError::new(ErrorCode::InvalidValue, invalid.to_string());
            problems.push(error.at(&node.span, "not a duration").hint(invalid.hint()));
            None
        }
    }
}

fn retry(node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<u32> {
    let YamlValue::Number { value, .. } = &node.kind else {
        problems.push(fields::wrong_type(node, "`retry`", "a number"));
        return None;
    };
    let retry = value.as_u64().filter(|retry| *retry <= MAX_RETRIES).and_then(|retry| u32::try_from(retry).ok());
    if retry.is_none() {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("`retry` cannot be {value}"));
        problems.push(error.at(&node.span, "out of range").hint(format!("use a whole number from 0 to {MAX_RETRIES}")));
    }
    retry
}

fn check_target(node: &YamlNode, problems: &mut PlanErrorCollector) {
    if let Some(group) = fields::literal(node, "`on`", problems)
        && group != "local"
    {
        let error = PlanError::new(ErrorCode::NotSupported, "hosts are not supported yet");
        problems
            .push(error.at(&node.span, "not supported yet").hint("remove `on`; the step runs on the runner's machine"));
    }
}

fn needs(node: &YamlNode, problems: &mut PlanErrorCollector) -> DeclaredNeeds {
    let one = |node: &YamlNode, problems: &mut PlanErrorCollector| {
        Some((fields::name::<StepId>(node, "`needs`", problems)?, node.span.clone()))
    };
    DeclaredNeeds::Explicit(match &node.kind {
        YamlValue::List(items) => items.iter().filter_map(|item| one(item, problems)).collect(),
        YamlValue::Text(_) | YamlValue::Number { .. } => one(node, problems).into_iter().collect(),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Map(_) => {
            problems.push(fields::wrong_type(node, "`needs`", "a step name or a list of them"));
            Vec::new()
        }
    })
}
