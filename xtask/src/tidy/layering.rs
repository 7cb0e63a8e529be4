//! Dependencies point one way: between crates, as cargo knows them, and between the few modules whose arrows cargo can't hold.
//!
//! Of modules, the paths in their text are read, in `use` groups too. What is compiled for tests only is free. `contract` and `plan` are
//! kept from files, network, clock and environment by their clippy.toml. Deliberately absent: Rust's name resolution; nobody
//! reaches another module through `super::super::` by accident.

use std::path::Path;

use serde_json::Value;

use super::{SourceFile, SourceTree, TidyFinding};

/// Every crate with the ones it may be built from: `contract ← plan ← journal ← hostio ← {db, fetch, state} ← {pack, wire, sandbox} ← runner`.
const CRATES: [(&str, &[&str]); 16] = [
    ("contract", &[]),
    ("plan", &["contract"]),
    ("journal", &["contract", "plan"]),
    ("hostio", &["contract", "plan", "journal"]),
    ("db", &["contract", "plan", "journal", "hostio"]),
    ("fetch", &["contract", "plan", "journal", "hostio"]),
    ("pack", &["contract", "plan", "hostio", "fetch"]),
    ("state", &["contract", "plan", "journal", "hostio"]),
    ("wire", &["contract", "plan", "journal", "db", "fetch"]),
    ("wasm-config", &[]),
    ("guest-build", &[]),
    ("official", &["wasm-config", "guest-build"]),
    ("sandbox", &["contract", "plan", "journal", "hostio", "db", "fetch", "state", "wasm-config", "official"]),
    (
        "runner",
        &["contract", "plan", "journal", "hostio", "db", "fetch", "pack", "state", "wire", "guest-build", "sandbox"],
    ),
    ("testing", &[]),
    // The runner for its features only: it is never built into xtask.
    ("xtask", &["guest-build", "runner"]),
];

/// Which crates depend on others than they may, by `cargo metadata`. Tests may depend on any.
pub(super) fn crates(metadata: &Value, root: &Path) -> Vec<TidyFinding> {
    let mut found = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for package in list(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let path = manifest.strip_prefix(root).unwrap_or(manifest).display().to_string();
        let mut report = |message| found.push(TidyFinding { path: path.clone(), line: 0, message });
        let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
            report(format!("`{name}` has no line in the table of crates, {}", file!()));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let target = dependency["name"].as_str().unwrap_or_default();
            let is_ours = dependency["path"].is_string() && dependency["kind"] != "dev";
            if is_ours && !allowed.contains(&target) {
                report(format!("`{name}` must not depend on `{target}`"));
            }
        }
    }
    found
}

/// What a module must not use.
struct ModuleRule {
    /// The path of its file, without `.rs` or `/mod.rs`; holds for what is below it as well.
    module: &'static str,
    /// Modules below it that are free.
    but: &'static [&'static str],
    /// Paths; a module stands for what is in it.
    forbidden: &'static [&'static str],
    /// Paths below the forbidden ones.
    allowed: &'static [&'static str],
}

/// Files, network, other programs, the environment and the clock.
const OUTSIDE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
    "crate::clock",
    "crate::file",
    "crate::load",
];

const MODULE_RULES: [ModuleRule; 6] = [
    ModuleRule {
        module: "runner/src",
        but: &["runner/src/cli", "runner/src/lib", "runner/src/main"],
        forbidden: &["crate::cli"],
        allowed: &[],
    },
    // Whatever is shown can be shown again from the journal.
    ModuleRule {
        module: "runner/src/report",
        but: &[],
        forbidden: &["crate::deploy", "db", "fetch", "hostio", "journal", "plan", "sandbox", "state"],
        allowed: &["journal::event", "journal::AttemptStatuses", "journal::FindingSummary", "journal::StepStatus"],
    },
    ModuleRule {
        module: "runner/crates/state/src/artifacts",
        but: &[],
        forbidden: &[
            "crate::StateError",
            "crate::bundle",
            "crate::checkpoints",
            "crate::error",
            "super::StateError",
            "super::bundle",
            "super::checkpoints",
        ],
        allowed: &[],
    },
    // An error is made where it happens; only what its variants hold may be known here.
    ModuleRule {
        module: "runner/crates/state/src/error",
        but: &[],
        forbidden: &["crate::bundle", "crate::checkpoints", "super::bundle", "super::checkpoints"],
        allowed: &[],
    },
    ModuleRule { module: "runner/crates/journal/src/decision", but: &[], forbidden: OUTSIDE, allowed: &[] },
    ModuleRule {
        module: "runner/crates/journal/src/state",
        but: &[],
        forbidden: OUTSIDE,
        allowed: &["std::time::Duration"],
    },
];

/// Which modules use what they must not.
pub(super) fn modules(tree: &SourceTree) -> Vec<TidyFinding> {
    let tests = test_modules(tree);
    let mut found = Vec::new();
    for file in tree.with_extension(&["rs"]) {
        let is_in = |module: &str| is_below(&file.path, module, &['.', '/']);
        let rules: Vec<_> =
            MODULE_RULES.iter().filter(|rule| is_in(rule.module) && !rule.but.iter().any(|but| is_in(but))).collect();
        if !rules.is_empty() && !tests.iter().any(|test| is_in(test)) {
            found.extend(rules.into_iter().flat_map(|rule| broken(rule, file)));
        }
    }
    found
}

fn broken(rule: &ModuleRule, file: &SourceFile) -> Vec<TidyFinding> {
    let mut found = Vec::new();
    for (line, path) in references(without_tests(&file.text)) {
        let lies_in = |outer: &&&str| is_below(&path, outer, &[':']);
        if rule.forbidden.iter().any(|outer| lies_in(&outer)) && !rule.allowed.iter().any(|outer| lies_in(&outer)) {
            found.push(file.finding(line, format!("`{}` must not use `{path}`", rule.module)));
        }
    }
    found
}

/// Whether a path is another one or goes on from it with one of these characters.
fn is_below(path: &str, outer: &str, separators: &[char]) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(separators))
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

/// All paths of at least two words, with the line where each tree of them begins.
fn references(source: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut end = 0;
    for (at, _) in code.match_indices("::") {
        let head = code[..at].trim_end_matches(is_word).len();
        if at < end || head == at || code[..head].ends_with("::") {
            continue;
        }
        let mut paths = Vec::new();
        end = code.len() - collect_paths(&code[head..], "", &mut paths).len();
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
    use serde_json::json;

    use super::{
        super::{finding_texts, source_tree},
        *,
    };

    #[test]
    fn references_expand_use_groups() {
        let source = "use crate::{\n    diagnose::Code, // crate::no\n    journal::{self, event::{Event, Kind as K}},\n    plan::*,\n};\n\
                      fn f(x: state::Head<u8>) -> my_crate::Y { crate::cli::run::<std::io::Error>(x) }\n";
        let expected = [
            (1, "crate::diagnose::Code"),
            (1, "crate::journal::self"),
            (1, "crate::journal::event::Event"),
            (1, "crate::journal::event::Kind"),
            (1, "crate::plan"),
            (6, "state::Head"),
            (6, "my_crate::Y"),
            (6, "crate::cli::run"),
            (6, "std::io::Error"),
        ];
        let found = references(source);
        assert_eq!(found.iter().map(|(line, path)| (*line, path.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn modules_use_what_they_may() {
        let found = modules(&source_tree(&[
            ("runner/src/cli/run.rs", "use crate::{cli::Options, deploy};"),
            ("runner/src/lib.rs", "pub use crate::cli::main;"),
            ("runner/src/deploy.rs", "use crate::{cli::Options, report};\nuse std::fs;"),
            ("runner/src/report/json.rs", "use journal::{event::{Event, Kind}, file};\nuse contract::Digest;"),
            ("runner/src/report/mod.rs", "#[cfg(test)]\nmod fixture;\nlet plan = plan::Plan::parse(text);"),
            ("runner/src/report/fixture.rs", "use plan::Plan;"),
            ("runner/src/report/table.rs", "#[cfg(test)]\nmod tests {\n    use plan::Plan;\n}\n"),
            ("runner/crates/journal/src/decision/table.rs", "use std::{collections::BTreeMap, fs};\nuse crate::clock;"),
            ("runner/crates/journal/src/file.rs", "use std::fs;"),
            ("steps/sdk/src/lib.rs", "use crate::cli;"),
        ]));
        let expected = [
            "runner/src/deploy.rs:1: `runner/src` must not use `crate::cli::Options`",
            "runner/src/report/json.rs:1: `runner/src/report` must not use `journal::file`",
            "runner/src/report/mod.rs:3: `runner/src/report` must not use `plan::Plan::parse`",
            "runner/crates/journal/src/decision/table.rs:1: `runner/crates/journal/src/decision` must not use `std::fs`",
            "runner/crates/journal/src/decision/table.rs:2: `runner/crates/journal/src/decision` must not use `crate::clock`",
        ];
        assert_eq!(finding_texts(&found), expected);
    }

    #[test]
    fn crates_depend_on_what_they_may() {
        let package = |name: &str, dependencies: Value| {
            json!({
                "name": name,
                "manifest_path": format!("/pawl/runner/crates/{name}/Cargo.toml"),
                "dependencies": dependencies,
            })
        };
        let ours = |name: &str, kind: Value| json!({ "name": name, "kind": kind, "path": format!("/pawl/{name}") });
        let metadata = json!({ "packages": [
            package("plan", json!([ours("contract", Value::Null), ours("state", json!("dev")), ours("state", json!("build"))])),
            package("journal", json!([{ "name": "serde", "kind": null }, ours("fetch", Value::Null)])),
            package("utils", json!([])),
        ]});
        let expected = [
            "runner/crates/plan/Cargo.toml: `plan` must not depend on `state`",
            "runner/crates/journal/Cargo.toml: `journal` must not depend on `fetch`",
            "runner/crates/utils/Cargo.toml: `utils` has no line in the table of crates, xtask/src/tidy/layering.rs",
        ];
        assert_eq!(finding_texts(&crates(&metadata, Path::new("/pawl"))), expected);
    }
}
