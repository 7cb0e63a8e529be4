//! Hints that show the line to add to a step's grants, such that it works when it is pasted.

use std::collections::BTreeSet;

use plan::{ArgumentPattern, GrantSource, Plan, PlanStep, ProgramGrant, StepGrants, WrittenGrantForm, WrittenGrants};
use sandbox::CapabilityKind;
use serde_json::json;

/// What a grant lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum GrantLine {
    /// An item of a list.
    Item(String),
    /// An entry of a mapping.
    Entry(String),
    /// A directory at the top of the plan: an item of a list of such directories, or an entry among others.
    SharedDir { item: String, entry: String },
}

/// A hint, which may begin with lines to add to the grants of a step.
#[derive(Clone, Debug)]
pub(in super::super) struct GrantHint {
    lines: Option<MissingLines>,
    /// What follows the lines.
    rest: String,
}

/// What a key in a step's grants lacks.
#[derive(Clone, Debug)]
struct MissingLines {
    key: String,
    lines: Vec<GrantLine>,
    /// The items that a list must have as soon as it is written.
    implied: Vec<String>,
}

/// How to add a line to the grants of a step, which has others already or not.
pub(in super::super) fn grant_line_hint(
    plan: &Plan,
    step: &PlanStep,
    capability: CapabilityKind,
    line: &GrantLine,
) -> GrantHint {
    let grants = &step.grants;
    let is_list_of_names = capability == CapabilityKind::Dirs
        && grants.dirs.values().any(|grant| matches!(grant.source, GrantSource::Shared(_)));
    let shared = match (capability, line) {
        (CapabilityKind::Dirs, GrantLine::Entry(entry)) => shared_dir(plan, entry),
        _ => None,
    };
    if let (true, None, GrantLine::Item(text) | GrantLine::Entry(text)) = (is_list_of_names, &shared, line) {
        let name = text.split(':').next().unwrap_or(text);
        return GrantHint::from(format!(
            "add `{text}` to `dirs:` at the top of the plan, and `{name}` to `dirs:` in the step's `grants:`"
        ));
    }
    let line = shared.unwrap_or_else(|| line.clone());
    let lines = MissingLines { key: capability.name(), lines: vec![line], implied: implied_items(grants, capability) };
    GrantHint { lines: Some(lines), rest: String::new() }
}

/// Where to add a variable to the environment of a step's programs.
pub(in super::super) fn env_line_hint(entry: &str) -> GrantHint {
    let lines = vec![GrantLine::Entry(entry.to_owned())];
    GrantHint { lines: Some(MissingLines { key: "env".to_owned(), lines, implied: Vec::new() }), rest: String::new() }
}

/// The directory that an entry names, if the top of the plan has it.
fn shared_dir(plan: &Plan, entry: &str) -> Option<GrantLine> {
    let (name, path) = entry.split_once(':')?;
    let (_, written) = plan.shared_dirs.iter().find(|(shared, _)| shared.as_str() == name)?;
    let is_for_reading = path.trim_end_matches('"').ends_with(":ro") && !written.ends_with(":ro");
    let access = if is_for_reading { ":ro" } else { "" };
    let path = json!(format!("{}{access}", written.trim_end_matches(":rw")));
    Some(GrantLine::SharedDir { item: format!("{name}{access}"), entry: format!("{name}: {path}") })
}

impl From<String> for GrantHint {
    fn from(text: String) -> Self {
        Self { lines: None, rest: text }
    }
}

impl GrantHint {
    /// The same hint, which goes on.
    pub(in super::super) fn and(mut self, more: &str) -> Self {
        self.rest.push_str(more);
        self
    }

    /// The text for this hint alone.
    pub(in super::super) fn text(&self, step: &PlanStep) -> String {
        self.text_with(step, self.lines.iter())
    }

    /// The texts of all hints of a step: where several lines belong in one, each hint shows all of them.
    pub(in super::super) fn texts(hints: &[&Self], step: &PlanStep) -> Vec<String> {
        let all = || hints.iter().filter_map(|hint| hint.lines.as_ref());
        let is_written = |key: &str| step.written_grants.form(key);
        let belongs = |one: &MissingLines, other: &MissingLines| match is_written(&one.key) {
            // Each is added by itself.
            Some(WrittenGrantForm::List | WrittenGrantForm::Mapping) => std::ptr::eq(one, other),
            Some(WrittenGrantForm::Empty) => one.key == other.key,
            None => match step.written_grants {
                WrittenGrants::Keys(_) => one.key == other.key,
                WrittenGrants::LeftOut | WrittenGrants::NoPlace => true,
            },
        };
        let text = |hint: &&Self| match &hint.lines {
            Some(lines) => hint.text_with(step, all().filter(|other| belongs(lines, other))),
            None => hint.rest.clone(),
        };
        hints.iter().map(text).collect()
    }

    fn text_with<'l>(&self, step: &PlanStep, lines: impl Iterator<Item = &'l MissingLines>) -> String {
        let mut keys: Vec<MissingLines> = Vec::new();
        for more in lines {
            match keys.iter_mut().find(|known| known.key == more.key) {
                Some(known) => known.extend(more),
                None => keys.push(more.clone()),
            }
        }
        let placed = if keys.is_empty() { String::new() } else { place_lines(step, &keys) };
        format!("{placed}{}", self.rest)
    }
}

impl MissingLines {
    fn extend(&mut self, more: &Self) {
        self.lines.extend(more.lines.iter().cloned());
        self.implied
            .extend(more.implied.iter().filter(|item| !self.implied.contains(item)).cloned().collect::<Vec<_>>());
    }

    /// The key with all its lines.
    fn whole(&self) -> String {
        let is_list = self.lines.iter().all(|line| !matches!(line, GrantLine::Entry(_)));
        let mut texts: Vec<&str> = if is_list { self.implied.iter().map(String::as_str).collect() } else { Vec::new() };
        for text in self.lines.iter().map(|line| line.text(is_list)) {
            // One name with two kinds of access: that which allows more is the shorter.
            let name = |text: &str| text.split(':').next().unwrap_or(text).to_owned();
            let same = texts.iter().position(|known| *known == text || !is_list && name(known) == name(text));
            match same {
                Some(at) if text.len() < texts[at].len() => texts[at] = text,
                Some(_) => {}
                None => texts.push(text),
            }
        }
        // Of a list of directories, `app` covers `app:ro`.
        let all: BTreeSet<&str> = texts.iter().copied().collect();
        texts.retain(|text| text.strip_suffix(":ro").is_none_or(|name| !all.contains(name)));
        match is_list {
            true => format!("{}: [{}]", self.key, texts.join(", ")),
            // After a key without a value, a comma needs a space.
            false => format!("{}: {{ {} }}", self.key, texts.join(", ").replace(":, ", ": , ")),
        }
    }
}

impl GrantLine {
    fn text(&self, in_list: bool) -> &str {
        match self {
            Self::Item(text) | Self::Entry(text) => text,
            Self::SharedDir { item, .. } if in_list => item,
            Self::SharedDir { entry, .. } => entry,
        }
    }
}

/// The place of lines in the step as it is written.
fn place_lines(step: &PlanStep, keys: &[MissingLines]) -> String {
    let wholes = keys.iter().map(MissingLines::whole).collect::<Vec<_>>().join(", ");
    let (key, line) = (&keys[0].key, &keys[0].lines[0]);
    match (&step.written_grants, step.written_grants.form(key), line) {
        (_, Some(WrittenGrantForm::Empty), _) => format!("write `{wholes}` in the step's `grants:`"),
        // `secrets` may be either.
        (_, Some(WrittenGrantForm::Mapping), GrantLine::Item(text)) => {
            format!("add `{text}: use` to `{key}:` in the step's `grants:`")
        }
        (_, Some(form), line) => {
            format!("add `{}` to `{key}:` in the step's `grants:`", line.text(form == WrittenGrantForm::List))
        }
        (WrittenGrants::Keys(_), None, _) => format!("add `{wholes}` to the step's `grants:`"),
        (WrittenGrants::LeftOut | WrittenGrants::NoPlace, None, _) => {
            format!("add to the step: `grants: {{ {wholes} }}`")
        }
    }
}

/// A text of the plan, in which nothing is a lookup.
pub(super) fn without_lookups(text: &str) -> String {
    text.replace("${{", "$${{")
}

/// The items of a list that follow from the step's `with`. They must be listed as soon as the step has the list.
fn implied_items(grants: &StepGrants, capability: CapabilityKind) -> Vec<String> {
    match capability {
        CapabilityKind::Http => {
            let implied = grants.http.iter().filter(|grant| grant.source.is_implied());
            implied.map(|grant| format!("\"{}\"", grant.origin())).collect()
        }
        CapabilityKind::Programs => {
            let vector = |grant: &ProgramGrant| {
                let words: Vec<_> = grant.arguments.iter().map(ArgumentPattern::written).map(without_lookups).collect();
                json!(words).to_string()
            };
            grants.programs.iter().filter(|grant| grant.source.is_implied()).map(vector).collect()
        }
        CapabilityKind::Dirs
        | CapabilityKind::Tcp
        | CapabilityKind::Databases
        | CapabilityKind::Sockets
        | CapabilityKind::Renders
        | CapabilityKind::Secrets => Vec::new(),
    }
}
