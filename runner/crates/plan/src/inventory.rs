//! `from` of a host group: a file, or a program, that lists its hosts.
//!
//! The list is the one that a plan may write itself. Its errors show its own lines. Deliberately absent: reading the file and running
//! the program, which the caller does.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{
    StepTrust,
    error::{PlanError, PlanErrorCollector},
    fields::{self, MappingFields},
    paths,
    scope::{DeclaredSecret, LookupScope, LookupSite},
    yaml::{self, YamlKey, YamlNode, YamlValue},
};
use contract::{Secret, diagnostic::Diagnostic, error_code::ErrorCode};

const GROUP_KEYS: &[&str] = &["from"];
const PROGRAM_KEYS: &[&str] = &["program", "trust", "env"];
/// Tells the program which environment is meant.
const ENVIRONMENT_VARIABLE: &str = "PAWL_ENVIRONMENT";
const FROM_HINT: &str = "write `from: file:inventory.yml`, or `from: { program: [./inventory.sh], trust: host }`";

/// Where the hosts of a group are listed.
#[derive(Debug)]
pub enum InventorySource {
    /// A file, by absolute path.
    File(PathBuf),
    /// A program that prints the list. It runs in the plan's folder.
    Program {
        /// The program and its arguments; `./program` is in the plan's folder.
        arguments: Vec<String>,
        /// The environment variables that it gets.
        env: BTreeMap<String, Secret>,
        /// The secrets of the plan, which its errors must not show.
        secrets: BTreeMap<String, Secret>,
    },
}

/// The text of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryText {
    /// What it is called in errors: its path, or its program.
    pub name: String,
    /// The text.
    pub text: Arc<str>,
}

/// Reads the text of an inventory. Its error becomes one of the plan, at `from`.
pub type InventoryReader<'a> = dyn Fn(&InventorySource) -> Result<InventoryText, Diagnostic> + 'a;

/// The reader of a text whose hosts are not needed: it reads nothing, and starts no program.
///
/// # Errors
/// Always.
pub fn no_inventory(_: &InventorySource) -> Result<InventoryText, Diagnostic> {
    Err(Diagnostic::new(ErrorCode::InventoryUnreadable, "inventories are not read here"))
}

/// Whether a group is listed elsewhere.
pub(super) fn is_inventory(node: &YamlNode) -> bool {
    matches!(node.kind, YamlValue::Map(_))
}

/// Checks the group of an environment that is not chosen: its inventory is not read.
pub(super) fn check(key: &YamlKey, node: &YamlNode, problems: &mut PlanErrorCollector) {
    let Some(from) = from(key, node, problems) else { return };
    if let YamlValue::Map(_) = &from.kind {
        MappingFields::read(from, "`from`", &from.span, PROGRAM_KEYS, problems);
    }
}

/// Reads the inventory of a group, and hands its tree to `read`, with the scope and the errors of its text.
pub(super) fn read<T>(
    key: &YamlKey,
    node: &YamlNode,
    scope: &LookupScope<'_>,
    reader: &InventoryReader<'_>,
    problems: &mut PlanErrorCollector,
    read: impl FnOnce(&YamlNode, &LookupScope<'_>, &mut PlanErrorCollector) -> T,
) -> Option<T> {
    let from = from(key, node, problems)?;
    let source = source(from, scope, problems)?;
    let inventory = match reader(&source) {
        Ok(inventory) => inventory,
        Err(diagnostic) => {
            problems.push(PlanError::of_inventory(&diagnostic).at(&from.span, "the inventory"));
            return None;
        }
    };
    let mut found = PlanErrorCollector::default();
    let hosts = yaml::parse_named(&inventory.text, "the inventory", &mut found)
        .map(|root| read(&root, &LookupScope { text: &inventory.text, ..scope.clone() }, &mut found));
    problems.extend_from_inventory(found, &Arc::new(inventory));
    hosts
}

fn from<'n>(key: &YamlKey, node: &'n YamlNode, problems: &mut PlanErrorCollector) -> Option<&'n YamlNode> {
    let fields = MappingFields::read(node, format!("group `{}`", key.text), &key.span, GROUP_KEYS, problems)?;
    fields.require("from", "file:inventory.yml", problems)
}

fn source(node: &YamlNode, scope: &LookupScope<'_>, problems: &mut PlanErrorCollector) -> Option<InventorySource> {
    if let YamlValue::Map(_) = &node.kind {
        return program(node, scope, problems);
    }
    let text = scope.text(node, "`from`", LookupSite::Grant, problems)?;
    let path = text.strip_prefix("file:");
    let why = match path {
        None => Some("it does not begin with `file:`"),
        Some(path) => paths::path_error(path),
    };
    if let Some(why) = why {
        let error = PlanError::new(ErrorCode::InvalidValue, format!("`from` is no inventory: {why}"));
        problems.push(error.at(&node.span, "not an inventory").hint(FROM_HINT));
        return None;
    }
    Some(InventorySource::File(paths::resolve(scope.plan_dir, path.unwrap_or_default())))
}

/// A program can do whatever the runner's user can, so it must be trusted in writing.
fn program(node: &YamlNode, scope: &LookupScope<'_>, problems: &mut PlanErrorCollector) -> Option<InventorySource> {
    let fields = MappingFields::read(node, "`from`", &node.span, PROGRAM_KEYS, problems)?;
    let written = fields.require("program", "[./inventory.sh]", problems)?;
    let items = fields::list(written, "`program` of `from`", problems)?;
    let words: Vec<_> =
        items.iter().map(|item| scope.text(item, "an argument of `program`", LookupSite::Grant, problems)).collect();
    let arguments = words.into_iter().collect::<Option<Vec<_>>>()?;
    if arguments.first().is_none_or(String::is_empty) || arguments.iter().any(|word| word.contains('\0')) {
        let error = PlanError::new(ErrorCode::InvalidValue, "`program` of `from` names no program");
        problems.push(error.at(&written.span, "no program").hint("write `program: [./inventory.sh]`"));
        return None;
    }
    match fields.get("trust") {
        Some(node) => {
            fields::choice(node, "`trust`", &[("host", StepTrust::Host)], problems)?;
        }
        None => {
            let message = "an inventory is printed by a program, which can do whatever the runner's user can";
            let error = PlanError::new(ErrorCode::NeedsTrust, message);
            problems.push(error.at(&written.span, "needs `trust: host`").hint("add `trust: host`, or use a file"));
            return None;
        }
    }
    let variables = super::document::variables(fields.get("env"), "`env` of `from`", problems);
    let values: Vec<_> = variables
        .iter()
        .map(|(key, node)| {
            let value = scope.confidential(node, &format!("variable `{}`", key.text), problems)?;
            Some((key.text.clone(), value.value))
        })
        .collect();
    let mut env = values.into_iter().collect::<Option<BTreeMap<_, _>>>()?;
    env.insert(ENVIRONMENT_VARIABLE.to_owned(), Secret::new(scope.environment.to_string()));
    let secrets = scope.secrets.iter().filter_map(|(name, secret)| match secret {
        DeclaredSecret::Set { value, .. } => Some((name.clone(), value.clone())),
        DeclaredSecret::Unset { .. } | DeclaredSecret::Invalid => None,
    });
    Some(InventorySource::Program { arguments, env, secrets: secrets.collect() })
}
