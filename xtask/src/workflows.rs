//! The part of `check` about workflows: action.yml, .github/workflows, that of the templates, and every workflow and pipeline that a document shows.
//!
//! Three linters, none of which asks a network: zizmor for what is dangerous, check-jsonschema for what GitHub, GitLab and Buildkite
//! would refuse, actionlint for expressions. A document's workflows are the fenced blocks with `jobs:` in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    setup,
    workspace::{self, command_line},
};

pub(crate) fn run() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let root = workspace::root();
    let mut workflows = files_with_extension(&root.join(".github/workflows"), "yml")?;
    ensure!(!workflows.is_empty(), "no workflows in .github/workflows");
    for template in ["common", "java"] {
        workflows.extend(files_with_extension(&root.join("examples").join(template).join(".github/workflows"), "yml")?);
    }
    let [shown, gitlab, buildkite] = [PipelineKind::Github, PipelineKind::Gitlab, PipelineKind::Buildkite]
        .map(|kind| extract_pipelines(&root.join("docs"), scratch.path(), kind));
    workflows.extend(shown?);
    run_linters(&root.join("action.yml"), &workflows, &gitlab?, &buildkite?)
}

/// Whose pipelines they are, by a line that each of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PipelineKind {
    Github,
    Gitlab,
    Buildkite,
}

impl PipelineKind {
    fn matches(self, block: &str) -> bool {
        let start = match self {
            Self::Github => "jobs:",
            Self::Gitlab => "  script:",
            Self::Buildkite => "  - label:",
        };
        block.lines().any(|line| line.starts_with(start))
    }
}

/// All linters run; what each says is shown.
fn run_linters(action: &Path, workflows: &[PathBuf], gitlab: &[PathBuf], buildkite: &[PathBuf]) -> Result<()> {
    let mut failed = Vec::new();
    let mut check = |command: &mut Command| -> Result<()> {
        let output = command.output().with_context(|| format!("start {}", command_line(command)))?;
        if !output.status.success() {
            let linter_output =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            eprintln!("{}", linter_output.trim_end());
            failed.push(command_line(command).chars().take(80).collect::<String>());
        }
        Ok(())
    };
    let zizmor = ["--offline", "--no-progress", "--quiet", "--no-config", "--persona=pedantic"];
    check(setup::linter_command("zizmor")?.args(zizmor).arg(action).args(workflows))?;
    let schema = ["--builtin-schema", "vendor.github-actions"];
    check(setup::linter_command("check-jsonschema")?.args(schema).arg(action))?;
    let schema = ["--builtin-schema", "vendor.github-workflows"];
    check(setup::linter_command("check-jsonschema")?.args(schema).args(workflows))?;
    let schema = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"];
    check(setup::linter_command("check-jsonschema")?.args(schema).args(gitlab))?;
    let schema = ["--builtin-schema", "vendor.buildkite"];
    check(setup::linter_command("check-jsonschema")?.args(schema).args(buildkite))?;
    check(setup::linter_command("actionlint")?.args(workflows))?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}", failed.join("; "))
}

/// Writes the pipelines of a folder's documents as files; there must be some.
fn extract_pipelines(folder: &Path, to: &Path, kind: PipelineKind) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for document in files_with_extension(folder, "md")? {
        let name = document.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&document)?;
        for (number, block) in yaml_blocks(&text).filter(|block| kind.matches(block)).enumerate() {
            let file = to.join(format!("{name}-{kind:?}-{}.yml", number + 1));
            fs::write(&file, block)?;
            found.push(file);
        }
    }
    ensure!(!found.is_empty(), "no document shows a pipeline of {kind:?}");
    Ok(found)
}

/// What stands between "```yaml" and "```".
fn yaml_blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n```yaml\n").skip(1).filter_map(|rest| Some(&rest[..=rest.find("\n```")?]))
}

fn files_with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    found.retain(|path| path.extension().is_some_and(|found| found == extension));
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_blocks_finds_every_block() {
        let text = "# Title\n\n```yaml\non: push\njobs:\n  a: {}\n```\ntext\n```sh\njobs:\n```\n```yaml\njobs:\n  b: {}\n```\n";
        let found: Vec<_> = yaml_blocks(text).collect();
        assert_eq!(found, ["on: push\njobs:\n  a: {}\n", "jobs:\n  b: {}\n"]);
    }
}
