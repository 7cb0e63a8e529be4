//! Dependencies between the runner's modules point one way: `plan ← journal ← {schedule, sandbox} ← drive ← cli`.
//!
//! Read are the paths that begin with `crate::`, in `use` groups too. What is compiled for tests only is free. Deliberately
//! absent: Rust's name resolution; nobody reaches another module through `super::super::` by accident.

use super::{SourceTree, TidyFinding};

enum AllowedModules {
    /// These, and itself.
    Only(&'static [&'static str]),
    /// Anything else.
    AllExcept(&'static [&'static str]),
}

/// Paths below `crate`; a module stands for what is in it.
const MODULE_RULES: [(&str, AllowedModules); 7] = [
    ("diagnose", AllowedModules::Only(&[])),
    ("plan", AllowedModules::Only(&["diagnose"])),
    ("schedule", AllowedModules::Only(&["diagnose", "journal", "plan"])),
    ("report", AllowedModules::Only(&["diagnose", "journal::event", "plan::names"])),
    ("journal", AllowedModules::AllExcept(&["cli", "drive", "hosts", "report", "sandbox", "schedule", "state"])),
    ("sandbox", AllowedModules::AllExcept(&["cli", "drive", "hosts", "report", "schedule"])),
    ("state", AllowedModules::AllExcept(&["cli", "drive", "hosts", "report", "sandbox", "schedule"])),
];
/// For every other module but `cli` itself.
const DEFAULT_RULE: AllowedModules = AllowedModules::AllExcept(&["cli"]);

/// Which arrows point the wrong way.
pub(super) fn layering(tree: &SourceTree) -> Vec<TidyFinding> {
    let mut found = Vec::new();
    let tests = test_modules(tree);
    for file in tree.with_extension(&["rs"]) {
        let Some(inside) = file.path.strip_prefix("runner/src/") else { continue };
        let module = inside.split(['/', '.']).next().unwrap_or_default();
        let is_test =
            tests.iter().any(|test| file.path.strip_prefix(test).is_some_and(|rest| rest.starts_with(['.', '/'])));
        if is_test || matches!(module, "cli" | "lib" | "main") {
            continue;
        }
        let allowed =
            MODULE_RULES.iter().find(|(name, _)| *name == module).map_or(&DEFAULT_RULE, |(_, allowed)| allowed);
        for (line, path) in references(without_tests(&file.text)) {
            let lies_in =
                |module: &str| path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
            let is_fine = match allowed {
                AllowedModules::Only(modules) => lies_in(module) || modules.iter().any(|module| lies_in(module)),
                AllowedModules::AllExcept(modules) => !modules.iter().any(|module| lies_in(module)),
            };
            if !is_fine {
                found.push(file.finding(line, format!("`{module}` must not depend on `crate::{path}`")));
            }
        }
    }
    found
}

const CFG_TEST: &str = "#[cfg(test)]";

/// The files of modules that are compiled for tests only, without `.rs`.
fn test_modules(tree: &SourceTree) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs"]) {
        let path = file.path.trim_end_matches(".rs");
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|name| path.strip_suffix(name)).unwrap_or(path);
        let marked = file.text.split(CFG_TEST).skip(1).filter_map(|rest| module_name(rest, ';'));
        found.extend(marked.map(|name| format!("{folder}/{name}")));
    }
    found
}

/// The text before the first `mod … {` that is compiled for tests only; it ends the file.
fn without_tests(text: &str) -> &str {
    let inline = text.match_indices(CFG_TEST).find(|(at, _)| module_name(&text[at + CFG_TEST.len()..], '{').is_some());
    inline.map_or(text, |(at, _)| &text[..at])
}

/// Of `mod name` with that character behind it, whatever its visibility.
fn module_name(item: &str, end: char) -> Option<&str> {
    let head = &item[..item.find([';', '{']).filter(|at| item[*at..].starts_with(end))?];
    let words: Vec<&str> = head.split_whitespace().collect();
    match words.as_slice() {
        ["mod", name] => Some(name),
        [visibility, "mod", name] if visibility.starts_with("pub") => Some(name),
        _ => None,
    }
}

/// The paths after `crate::`, with the line where each tree of them begins.
fn references(source: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, text) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut paths = Vec::new();
        collect_paths(&code[at + text.len()..], "", &mut paths);
        let line = code[..at].matches('\n').count() + 1;
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

/// Reads one path or `{group}` and returns what comes after it.
fn collect_paths<'a>(text: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let mut path = prefix.to_owned();
    let mut rest = text.trim_start();
    loop {
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = group.trim_start();
                if let Some(after) = group.strip_prefix('}') {
                    return after;
                }
                let after = collect_paths(group, &path, found);
                let after = after.trim_start();
                let after = after.strip_prefix(',').unwrap_or(after);
                if after.len() == group.len() {
                    return after; // Not a use tree at all.
                }
                group = after;
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            path = if path.is_empty() { rest[..end].to_owned() } else { format!("{path}::{}", &rest[..end]) };
        }
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(more) => rest = more,
            None => break,
        }
    }
    found.push(path);
    let renamed = rest.trim_start().strip_prefix("as ").map(str::trim_start);
    renamed
        .map_or(rest, |name| name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'))
        .trim_start_matches('*')
}

#[cfg(test)]
mod tests {
    use super::{
        super::{finding_texts, source_tree},
        *,
    };

    #[test]
    fn references_expand_use_groups() {
        let source = "use crate::{\n    diagnose::Code, // crate::no\n    journal::{self, event::{Event, Kind as K}},\n    plan::*,\n};\n\
                      fn f(x: crate::state::Head) -> my_crate::Y { crate::cli::run::<u8>(x) }\n";
        let expected = [
            (1, "diagnose::Code"),
            (1, "journal::self"),
            (1, "journal::event::Event"),
            (1, "journal::event::Kind"),
            (1, "plan"),
            (6, "state::Head"),
            (6, "cli::run"),
        ];
        let found = references(source);
        assert_eq!(found.iter().map(|(line, path)| (*line, path.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn layering_reports_forbidden_dependencies() {
        let found = layering(&source_tree(&[
            ("runner/src/cli/run.rs", "use crate::drive;"),
            ("runner/src/drive.rs", "use crate::{cli::Options, schedule};"),
            ("runner/src/plan/names.rs", "use crate::{diagnose::Code, plan::Plan};"),
            ("runner/src/plan/mod.rs", "use crate::clock;"),
            ("runner/src/report/json.rs", "use crate::{journal::{event::Event, file}, planner};"),
            ("runner/src/schedule.rs", "use crate::{journal::state::State, plan::Plan};"),
            ("runner/src/sandbox/gate.rs", "use crate::{journal, drive::run};"),
            ("steps/sdk/src/lib.rs", "use crate::cli;"),
            (
                "runner/src/state/mod.rs",
                "#[cfg(test)]\npub(crate) mod fixture;\nuse crate::report;\n#[cfg(test)]\nuse crate::cli;",
            ),
            ("runner/src/state/fixture.rs", "use crate::cli;"),
            ("runner/src/state/lock.rs", "#[cfg(test)]\nmod tests {\n    use crate::cli;\n}\n"),
        ]));
        let expected = [
            "runner/src/drive.rs:1: `drive` must not depend on `crate::cli::Options`",
            "runner/src/plan/mod.rs:1: `plan` must not depend on `crate::clock`",
            "runner/src/report/json.rs:1: `report` must not depend on `crate::journal::file`",
            "runner/src/report/json.rs:1: `report` must not depend on `crate::planner`",
            "runner/src/sandbox/gate.rs:1: `sandbox` must not depend on `crate::drive::run`",
            "runner/src/state/mod.rs:3: `state` must not depend on `crate::report`",
            "runner/src/state/mod.rs:5: `state` must not depend on `crate::cli`",
        ];
        assert_eq!(finding_texts(&found), expected);
    }
}
