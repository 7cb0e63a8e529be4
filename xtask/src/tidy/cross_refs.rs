//! Rules that compare files: dependencies with their reasons, links with their targets, and where crates come from.

use std::collections::BTreeSet;

use super::{SourceFile, SourceTree, TidyFinding};

/// Every dependency from outside has its line in docs/dependencies.md, and every line its dependency.
pub(super) fn dependencies(tree: &SourceTree) -> Vec<TidyFinding> {
    const BOOK: &str = "docs/dependencies.md";
    let Some(book) = tree.file(BOOK) else {
        return vec![TidyFinding { path: BOOK.to_owned(), line: 0, message: "is missing".to_owned() }];
    };
    let explained: Vec<(usize, &str)> = book
        .lines()
        .filter_map(|(number, line)| Some((number, line.strip_prefix("| `")?.split_once('`')?.0)))
        .collect();
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for manifest in tree.files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        for (number, name) in external_dependencies(manifest) {
            let is_new = known.insert(name);
            if is_new && !explained.iter().any(|(_, explained)| *explained == name) {
                found.push(manifest.finding(number, format!("`{name}` has no line in {BOOK}")));
            }
        }
    }
    for (number, name) in explained {
        if !known.contains(name) {
            found.push(book.finding(number, format!("no Cargo.toml depends on `{name}`")));
        }
    }
    found
}

/// Every dependency that a workspace's root names is one of a member.
pub(super) fn workspace_dependencies(tree: &SourceTree) -> Vec<TidyFinding> {
    const TABLE: &str = "[workspace.dependencies]";
    let manifests = || tree.files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    let mut found = Vec::new();
    for root in manifests() {
        let folder = root.path.trim_end_matches("Cargo.toml");
        let table = root.lines().skip_while(|(_, line)| *line != TABLE).skip(1);
        for (number, line) in table.take_while(|(_, line)| !line.starts_with('[')) {
            let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with(['#', ' '])) else { continue };
            let uses = [format!("{name}.workspace = true"), format!("{name} = {{ workspace = true")];
            let is_used =
                |file: &SourceFile| file.text.lines().any(|line| uses.iter().any(|used| line.starts_with(used)));
            if !manifests().any(|file| file.path.starts_with(folder) && is_used(file)) {
                found.push(root.finding(number, format!("no member depends on `{name}`")));
            }
        }
    }
    found
}

/// Those that are not paths; one that is taken from the workspace is found there.
fn external_dependencies(manifest: &SourceFile) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    manifest.lines().filter_map(move |(number, line)| {
        if line.starts_with('[') {
            inside = line.trim_end().trim_end_matches(']').ends_with("dependencies");
            return None;
        }
        let (name, value) = line.split_once(['=', '.']).filter(|_| inside)?;
        let name = name.trim().trim_matches('"');
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        let is_external = !value.contains("path =") && !value.starts_with("workspace");
        (is_name && is_external).then_some((number, name))
    })
}

/// Every relative link of a document leads somewhere.
pub(super) fn links(tree: &SourceTree) -> Vec<TidyFinding> {
    let mut found = Vec::new();
    for file in tree.with_extension(&["md"]) {
        let mut in_code = false;
        for (number, line) in file.lines() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            for link in link_targets(line).filter(|_| !in_code) {
                let path = link.split(['#', '?']).next().unwrap_or_default();
                if !path.is_empty() && !link.contains(':') && !path_exists(tree, &resolve_link(&file.path, path)) {
                    found.push(file.finding(number, format!("the link to `{link}` leads nowhere")));
                }
            }
        }
    }
    found
}

/// What stands in `[text](target "title")`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')?.0.split_whitespace().next())
}

fn resolve_link(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { from.split('/').collect() };
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn path_exists(tree: &SourceTree, path: &str) -> bool {
    let is_inside =
        |file: &SourceFile| file.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    path.is_empty() || tree.files.iter().any(is_inside)
}

/// Crates come from crates.io: no lock file names another source, no configuration replaces it.
pub(super) fn registries(tree: &SourceTree) -> Vec<TidyFinding> {
    const STANDARD: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let mut found = Vec::new();
    for file in &tree.files {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        for (number, line) in file.lines() {
            let is_foreign = match name {
                "Cargo.lock" => line.starts_with("source = ") && line != STANDARD,
                "Cargo.toml" => ["registry =", "registry-index =", "git ="].iter().any(|key| line.contains(key)),
                "config.toml" => ["[source", "[registr", "[net", "[http"].iter().any(|table| line.starts_with(table)),
                _ => false,
            };
            if is_foreign {
                found.push(file.finding(number, "crates come from crates.io alone"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{
        super::{finding_texts, source_tree},
        *,
    };

    #[test]
    fn dependencies_reports_missing_and_unused_lines() {
        let manifest = "[package]\nname = \"x\"\n[workspace.dependencies]\n# why\nserde = \"1\"\ntokio = { version = \"1\" }\n\
                        pawl-step = { path = \"sdk\" }\n[dependencies]\nserde.workspace = true\nown = { path = \"../own\" }\n\
                        [profile.release]\nlto = true\n";
        let book = "| crate | for |\n|---|---|\n| `serde` | JSON |\n| `gone` | nothing |\n";
        let found = dependencies(&source_tree(&[("Cargo.toml", manifest), ("docs/dependencies.md", book)]));
        let expected = [
            "Cargo.toml:6: `tokio` has no line in docs/dependencies.md",
            "docs/dependencies.md:4: no Cargo.toml depends on `gone`",
        ];
        assert_eq!(finding_texts(&found), expected);
    }

    #[test]
    fn what_the_workspace_names_a_member_uses() {
        let root = "[workspace]\n[workspace.dependencies]\n# why\nserde = \"1\"\ntokio = { version = \"1\" }\nurl = \"2\"\n\n[profile.release]\nlto = true\n";
        let member = "[dependencies]\nserde.workspace = true\nurl = { workspace = true, features = [] }\n";
        let found =
            workspace_dependencies(&source_tree(&[("Cargo.toml", root), ("runner/crates/plan/Cargo.toml", member)]));
        assert_eq!(finding_texts(&found), ["Cargo.toml:5: no member depends on `tokio`"]);
    }

    #[test]
    fn links_reports_broken_relative_links() {
        let text = "[a](plan.md#x) [b](../README.md) [c](errors/) [d](https://example.org/x) [e](#here)\n\
                    ```\n[f](nowhere.md)\n```\n[g](gone.md \"title\") ![h](/docs/plan.md)\n";
        let found = links(&source_tree(&[
            ("docs/a.md", text),
            ("docs/plan.md", ""),
            ("README.md", ""),
            ("docs/errors/P0101.md", ""),
        ]));
        assert_eq!(finding_texts(&found), ["docs/a.md:5: the link to `gone.md` leads nowhere"]);
    }

    #[test]
    fn registries_reports_sources_other_than_crates_io() {
        let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"registry+https://mirror.example/index\"\n";
        let found = registries(&source_tree(&[
            ("Cargo.lock", lock),
            (".cargo/config.toml", "[alias]\n[source.crates-io]\n"),
            ("a/Cargo.toml", "x = { git = \"https://example.org/x\" }\n"),
        ]));
        let places: Vec<_> = found.iter().map(|finding| (finding.path.as_str(), finding.line)).collect();
        assert_eq!(places, [("Cargo.lock", 2), (".cargo/config.toml", 2), ("a/Cargo.toml", 1)]);
    }
}
