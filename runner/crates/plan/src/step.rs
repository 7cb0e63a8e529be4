//! One step of the plan as written, before the graph is known.

use std::{
    collections::BTreeMap,
    ops::{Range, RangeInclusive},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    Confirmation, EffectPlace, ModuleRef, PlanSource, PlanStep, StepTrust, WrittenGrants,
    error::{PlanError, PlanErrorCollector},
    expression::PendingValue,
    fields::{self, MappingFields},
    grants::{self, DeclaredGrants, SharedGrants},
    hooks,
    hosts::{self, HostGroups, StepPlace},
    implied_grants, paths,
    registry::{RegistryRef, RegistryRefError},
    scope::{LookupScope, LookupSite, SubstitutedConfig},
    yaml::{YamlKey, YamlNode, YamlValue},
};
use contract::{StepId, TargetName, duration::parse_duration, error_code::ErrorCode};

const KEYS: &[&str] = &[
    "uses",
    "program",
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
    "confirm",
];
/// The module that runs a program.
pub(super) const RUN: &str = "run";
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_RETRIES: u64 = 10;
/// A new connection takes some of it; until it is over, nobody else can work on the host.
const CONFIRM_RANGE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(600);

/// A step as written. It has its node in the graph even if it contains an error.
pub(super) struct StepDraft {
    pub(super) id: StepId,
    pub(super) span: Range<usize>,
    pub(super) needs: DeclaredNeeds,
    /// One for each target, and for a target that is a group, one for each of its hosts; none when an error has been reported.
    pub(super) steps: Vec<PlanStep>,
}

/// `needs:` as written.
pub(super) enum DeclaredNeeds {
    /// `needs` is left out: the step needs the one before it.
    PreviousStep,
    /// `needs` lists these steps.
    Explicit(Vec<(StepId, Range<usize>)>),
}

/// What the steps of a plan share.
pub(super) struct StepContext<'a> {
    pub(super) source: &'a PlanSource,
    pub(super) groups: HostGroups,
    /// What the steps on the runner's machine see.
    pub(super) local: HostContext<'a>,
    /// What the steps on a host see.
    pub(super) hosts: BTreeMap<TargetName, HostContext<'a>>,
}

/// What the steps on one machine see of the plan.
#[derive(Clone)]
pub(super) struct HostContext<'a> {
    pub(super) scope: LookupScope<'a>,
    pub(super) shared: SharedGrants,
}

impl<'a> StepContext<'a> {
    fn of(&self, place: &StepPlace) -> &HostContext<'a> {
        place.host.as_ref().and_then(|host| self.hosts.get(&host.name)).unwrap_or(&self.local)
    }
}

/// Reads the mapping under `steps`.
pub(super) fn drafts(node: &YamlNode, context: &StepContext<'_>, problems: &mut PlanErrorCollector) -> Vec<StepDraft> {
    if let YamlValue::List(items) = &node.kind {
        problems.push(fields::wrong_type(node, "`steps`", "a mapping").hint(step_list_hint(items)));
        return Vec::new();
    }
    let Some(entries) = fields::mapping(node, "`steps`", problems) else { return Vec::new() };
    if entries.is_empty() {
        let error = PlanError::new(ErrorCode::MissingKey, "the plan has no steps");
        problems.push(error.at(&node.span, "empty").hint("add one: `pull: { with: … }`"));
    }
    entries.iter().filter_map(|(key, node)| draft(key, node, context, problems)).collect()
}

/// How steps are written that are in a list: each under its name.
fn step_list_hint(items: &[YamlNode]) -> String {
    let text = |node: &YamlNode| match &node.kind {
        YamlValue::Text(text) => Some(text.clone()),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::List(_) | YamlValue::Map(_) => {
            None
        }
    };
    let name = items.first().and_then(|item| match &item.kind {
        YamlValue::Map(entries) => {
            let named = entries.iter().find(|(key, _)| ["name", "id", "uses"].contains(&key.text.as_str()));
            named.and_then(|(_, node)| text(node)).or_else(|| Some(entries.first()?.0.text.clone()))
        }
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Number { .. } | YamlValue::Text(_) | YamlValue::List(_) => {
            text(item)
        }
    });
    // The keys of a step are no name for it.
    let name = name.filter(|name| !KEYS.contains(&name.as_str()) && name.parse::<StepId>().is_ok());
    let name = name.as_deref().unwrap_or("warm");
    format!(
        "write each step under its name, without the `-`, in the order in which they run: `steps: {{ {name}: {{ … }} }}`"
    )
}

pub(super) fn draft(
    key: &YamlKey,
    node: &YamlNode,
    context: &StepContext<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<StepDraft> {
    let id: StepId = fields::parse_name(&key.text, &key.span, problems)?;
    let what = format!("step `{id}`");
    let errors_before = problems.count();
    let empty = YamlNode { span: node.span.clone(), kind: YamlValue::Map(Vec::new()) };
    let node = if matches!(node.kind, YamlValue::Null) { &empty } else { node };
    let Some(fields) = MappingFields::read(node, &what, &key.span, KEYS, problems) else {
        return Some(StepDraft { id, span: key.span.clone(), needs: DeclaredNeeds::PreviousStep, steps: Vec::new() });
    };
    let places = fields.get("on").map_or(Some(vec![StepPlace::local()]), |node| context.groups.places(node, problems));
    let needs = fields.get("needs").map_or(DeclaredNeeds::PreviousStep, |node| needs(node, problems));
    if let Some(node) = fields.get("confirm") {
        check_confirmed_place(&what, node, places.as_deref(), problems);
    }
    let is_sound_so_far = problems.count() == errors_before;
    let mut steps = Vec::new();
    // Without a place, whatever the step looks up of its host would be an error.
    for place in places.clone().unwrap_or_default() {
        let step = on_place(&id, key, &fields, &place, context, problems);
        if problems.count() > errors_before {
            // The same error on each further host tells nothing new. What can be read of the step is checked further.
            steps = Vec::from_iter(step.filter(|_| is_sound_so_far));
            break;
        }
        steps.extend(step);
        for host in &place.stand_ins {
            // What can't be read for a host only means that it can't take the place of the first one.
            let place = StepPlace { host: Some(Arc::clone(host)), stand_ins: Vec::new(), ..place.clone() };
            let mut own_problems = PlanErrorCollector::default();
            let step = on_place(&id, key, &fields, &place, context, &mut own_problems);
            steps.extend(step.filter(|_| own_problems.count() == 0));
        }
    }
    Some(StepDraft { id, span: key.span.clone(), needs, steps })
}

/// Reads a step for one of the places that it runs on. None if its module, configuration or grants have an error. Without a readable value
/// of another key, it has the default, so that the rest of it can be checked.
fn on_place(
    id: &StepId,
    key: &YamlKey,
    fields: &MappingFields<'_>,
    place: &StepPlace,
    context: &StepContext<'_>,
    problems: &mut PlanErrorCollector,
) -> Option<PlanStep> {
    let source = context.source;
    let HostContext { scope, shared } = context.of(place);
    let what = format!("step `{id}`");
    let errors_before = problems.count();
    let program = short_program(fields, &what, problems);
    let uses = match (fields.get("uses"), &program) {
        (_, Some(_)) => Some(ModuleRef::Official(RUN.to_owned())),
        (Some(node), None) => module(node, source, problems),
        (None, None) => Some(ModuleRef::Official(id.to_string())),
    };
    let mut config = match &program {
        Some(node) => scope.config(node, problems),
        None => config(fields, &what, &key.span, scope, problems),
    };
    if let (Some(ModuleRef::Official(name)), Some(config)) = (&uses, &mut config)
        && name == RUN
    {
        write_words_as_texts(config, program.as_ref().or_else(|| fields.get("with")), scope, problems);
        check_program(config, problems);
    }
    let mut declared = match fields.get("grants") {
        Some(node) => grants::read(node, &what, shared, scope, source, problems),
        None => DeclaredGrants::default(),
    };
    if let (Some(uses), Some(config)) = (&uses, &config) {
        implied_grants::add(&mut declared, uses, config);
    }
    let is_readable = problems.count() == errors_before;
    let trust = fields.get("trust").map_or(Some(StepTrust::Sandbox), |node| {
        fields::choice(node, "`trust`", &[("host", StepTrust::Host)], problems)
    });
    let DeclaredGrants { grants, dir_spans, .. } = declared;
    if let Some(host) = place.host.as_ref().filter(|host| host.is_remote()) {
        hosts::relative_grant_problems(id, host, (&grants, &dir_spans), &key.span, problems);
    }
    let host_capability = match (grants.programs.is_empty(), grants.sockets.is_empty()) {
        (false, _) => Some("programs"),
        (true, false) => Some("sockets"),
        (true, true) => None,
    };
    if let (Some(strong), Some(StepTrust::Sandbox)) = (host_capability, trust) {
        let user = match place.host.as_ref().filter(|host| host.is_remote()) {
            Some(host) => format!("the user on `{}`", host.name),
            None => "the runner's user".to_owned(),
        };
        let message = format!("{what} is granted {strong}, which can do whatever {user} can");
        let error = PlanError::new(ErrorCode::NeedsTrust, message);
        let hint = format!("add `trust: host`, or use a module that needs no {strong}");
        problems.push(error.at(&key.span, "needs `trust: host`").hint(hint));
    }
    let own = OwnKeys::read(fields, &what, problems);
    let (uses, config) = (uses.filter(|_| is_readable)?, config?);
    Some(PlanStep {
        id: id.clone(),
        target: place.target.clone(),
        host: place.host.clone(),
        stand_ins: Vec::new(),
        uses,
        plan_dir: source.folder.clone(),
        with: config.value,
        pending: config.pending,
        grants,
        writable_dirs: Vec::new(),
        needs: Vec::new(),
        timeout: own.timeout,
        retry: own.retry,
        // With such grants and no trust, there is an error: the rest is checked as if the step had it.
        trust: if host_capability.is_some() { StepTrust::Host } else { trust.unwrap_or_default() },
        irreversible: own.irreversible,
        always: own.always,
        after_undo: own.after_undo,
        // Which host of the group does it makes no difference to its effect.
        effects: if place.once { EffectPlace::Elsewhere } else { own.effects },
        // There is no connection with this machine that could be lost.
        confirm: own.confirm.filter(|_| place.host.as_ref().is_some_and(|host| host.is_remote())),
        span: key.span.clone(),
        uses_span: fields.get("uses").map_or_else(|| key.span.clone(), |uses| uses.span.clone()),
        dir_spans,
        with_spans: config.spans,
        with_key_spans: config.key_spans,
        written_grants: WrittenGrants::read(fields.written("grants")),
    })
}

/// The keys of a step that say how it is run; each has its default where it is left out or can't be read.
struct OwnKeys {
    timeout: Duration,
    retry: u32,
    irreversible: bool,
    always: bool,
    after_undo: Option<bool>,
    effects: EffectPlace,
    confirm: Option<Confirmation>,
}

impl OwnKeys {
    fn read(fields: &MappingFields<'_>, what: &str, problems: &mut PlanErrorCollector) -> Self {
        let timeout = fields.get("timeout").and_then(|node| timeout(node, problems));
        let retry = fields.get("retry").and_then(|node| retry(node, problems));
        let irreversible = hooks::flag(fields, "irreversible", problems);
        let always = hooks::flag(fields, "always", problems);
        let after_undo = fields.get("after-undo").and_then(|_| hooks::flag(fields, "after-undo", problems));
        let places = &[("here", EffectPlace::Here), ("elsewhere", EffectPlace::Elsewhere)];
        let effects = fields.get("effects").and_then(|node| fields::choice(node, "`effects`", places, problems));
        let confirm = fields.get("confirm").and_then(|node| confirmation(node, what, irreversible, problems));
        Self {
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            retry: retry.unwrap_or_default(),
            irreversible: irreversible.unwrap_or_default(),
            always: always.unwrap_or_default(),
            after_undo,
            effects: effects.unwrap_or(EffectPlace::Here),
            confirm,
        }
    }
}

/// Reads `program: [PROGRAM, ARGUMENT, …]`, which is short for `uses: run` with `program` and `args` in `with`. None if the step has
/// no such key.
fn short_program(fields: &MappingFields<'_>, what: &str, problems: &mut PlanErrorCollector) -> Option<YamlNode> {
    let Some((key, node)) = fields.entry("program") else {
        fields.written("program").into_iter().for_each(|node| problems.push(no_program(what, node)));
        return None;
    };
    let entries = match fields.get("with") {
        Some(with) => fields::mapping(with, &format!("`with` of {what}"), problems).unwrap_or_default().to_vec(),
        None => Vec::new(),
    };
    if let Some((uses, _)) = fields.entry("uses") {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("{what} has `program` and `uses`"));
        problems.push(error.at(&uses.span, "one too many").hint("remove `uses`: `program` is short for `uses: run`"));
    }
    for (repeated, _) in entries.iter().filter(|(key, _)| ["program", "args"].contains(&key.text.as_str())) {
        let message = format!("{what} has its program twice: in `program` and in `with.{}`", repeated.text);
        let error = PlanError::new(ErrorCode::InvalidValue, message).at(&repeated.span, "one too many");
        problems.push(error.hint("write `program: [PROGRAM, ARGUMENT, …]` only"));
    }
    let Some((program, arguments)) = fields::list(node, &format!("`program` of {what}"), problems)?.split_first()
    else {
        problems.push(no_program(what, node));
        return None;
    };
    let entry = |text: &str, value| (YamlKey { text: text.to_owned(), span: key.span.clone() }, value);
    let arguments = YamlNode { span: node.span.clone(), kind: YamlValue::List(arguments.to_vec()) };
    let has_arguments = matches!(&arguments.kind, YamlValue::List(items) if !items.is_empty());
    let own = [entry("program", program.clone())].into_iter().chain(has_arguments.then(|| entry("args", arguments)));
    let entries = own.chain(entries).collect();
    Some(YamlNode { span: node.span.clone(), kind: YamlValue::Map(entries) })
}

fn no_program(what: &str, node: &YamlNode) -> PlanError {
    PlanError::new(ErrorCode::InvalidValue, format!("`program` of {what} names no program"))
        .at(&node.span, "empty")
        .hint("write the program and its arguments: `[./build.sh, all]`")
}

/// Reports a program that is neither a path nor a name, such as `scripts/build.sh`.
fn check_program(config: &SubstitutedConfig, problems: &mut PlanErrorCollector) {
    const POINTER: &str = "/program";
    let program = config.value.pointer(POINTER).and_then(Value::as_str);
    let (Some(program), Some(span)) = (program, config.spans.get(POINTER)) else { return };
    if config.pending.contains_key(POINTER) || program.is_empty() || grants::is_program(program) {
        return;
    }
    let error = PlanError::new(
        ErrorCode::InvalidValue,
        format!("`{program}` is neither a bare name nor a path that begins with `/`, `./` or `../`"),
    );
    let hint = match program.contains('/') && !program.starts_with('~') && !program.ends_with('/') {
        true => format!("did you mean `./{program}`? It is in the plan's folder"),
        false => "write `/usr/sbin/nginx`, `nginx` or `./build.sh`".to_owned(),
    };
    problems.push(error.at(span, "not a program").hint(hint));
}

/// Makes texts of the words of a `run` step's programs, whose numbers keep their spelling; also of those that are known only later.
fn write_words_as_texts(
    config: &mut SubstitutedConfig,
    with: Option<&YamlNode>,
    scope: &LookupScope<'_>,
    problems: &mut PlanErrorCollector,
) {
    let Some(YamlNode { kind: YamlValue::Map(entries), .. }) = with else { return };
    for (key, node) in entries {
        let words: Vec<(String, &YamlNode)> = match (key.text.as_str(), &node.kind) {
            ("program", _) => vec![("/program".to_owned(), node)],
            ("args" | "probe", YamlValue::List(items)) => {
                items.iter().enumerate().map(|(index, item)| (format!("/{}/{index}", key.text), item)).collect()
            }
            _ => Vec::new(),
        };
        for (pointer, node) in words {
            config.pending.get_mut(&pointer).into_iter().for_each(PendingValue::make_text);
            let value = config.value.pointer_mut(&pointer).filter(|value| value.is_number() || value.is_boolean());
            if let Some(value) = value
                && let Some(text) = scope.text(node, "a word of a program", LookupSite::Grant, problems)
            {
                *value = text.into();
            }
        }
    }
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
        return Some(SubstitutedConfig {
            value: Value::Object(Map::new()),
            pending: BTreeMap::new(),
            spans,
            key_spans: BTreeMap::new(),
        });
    };
    fields::mapping(node, &format!("`with` of {what}"), problems)?;
    scope.config(node, problems)
}

fn timeout(node: &YamlNode, problems: &mut PlanErrorCollector) -> Option<Duration> {
    duration(node, "`timeout`", problems)
}

/// A duration above 0; `what` is the key in messages.
pub(super) fn duration(node: &YamlNode, what: &str, problems: &mut PlanErrorCollector) -> Option<Duration> {
    let text = match &node.kind {
        YamlValue::Number { written, .. } => written,
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Text(_) | YamlValue::List(_) | YamlValue::Map(_) => {
            fields::literal(node, what, problems)?
        }
    };
    match parse_duration(text) {
        Ok(Duration::ZERO) => {
            let error = PlanError::new(ErrorCode::InvalidValue, format!("{what} cannot be 0"));
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

/// Reads `confirm` of a step.
fn confirmation(
    node: &YamlNode,
    what: &str,
    irreversible: Option<bool>,
    problems: &mut PlanErrorCollector,
) -> Option<Confirmation> {
    let within = duration(node, "`confirm`", problems)?;
    if !CONFIRM_RANGE.contains(&within) {
        let error = PlanError::new(ErrorCode::InvalidValue, "`confirm` must be from 5s to 10m");
        let hint = "a new connection takes some seconds, and nobody else can deploy to the host meanwhile: write `30s`";
        problems.push(error.at(&node.span, "out of range").hint(hint));
        return None;
    }
    if irreversible == Some(true) {
        let message = format!("{what} is `irreversible`, so no host can undo it when it is not confirmed");
        let error = PlanError::new(ErrorCode::InvalidValue, message);
        problems.push(error.at(&node.span, "can't be undone").hint("remove `confirm` or `irreversible`"));
        return None;
    }
    Some(Confirmation { within, span: node.span.clone() })
}

/// Reports `confirm` of a step that runs on the runner's machine whatever the environment is.
fn check_confirmed_place(what: &str, node: &YamlNode, places: Option<&[StepPlace]>, problems: &mut PlanErrorCollector) {
    if places.is_some_and(|places| places.iter().all(|place| place.host.is_none())) {
        let message = format!("{what} runs on the runner's machine, where no connection can be lost");
        let error = PlanError::new(ErrorCode::InvalidValue, message);
        let hint = "remove `confirm`, or name a group of hosts in `on`";
        problems.push(error.at(&node.span, "only for a step on other hosts").hint(hint));
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
