//! A recipe's page, as what somebody does who follows it: files to write, and commands to run.

use std::fs;

use crate::doc_blocks::{FencedBlock, fenced_blocks, page_path};

/// What one block of a page asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeAction {
    /// Write this file of the machine, or of the checkout if its path is relative.
    WriteFile {
        path: String,
        content: String,
    },
    RunAsRoot(String),
    RunAsDeploy(String),
    /// Type these arguments of `runner` as `deploy`, in the checkout; what is below them is what it says.
    TypeAsDeploy(Vec<String>),
}

pub struct RecipePage {
    /// In the repository.
    pub path: String,
    text: String,
}

impl RecipePage {
    /// Reads the page `docs/recipes/<name>.md`; each text of `replacements` becomes the one beside it.
    pub fn read(name: &str, replacements: &[(&str, &str)]) -> Self {
        let path = format!("docs/recipes/{name}.md");
        let mut text = fs::read_to_string(page_path(&path)).unwrap();
        for (from, to) in replacements {
            text = text.replace(from, to);
        }
        Self { path, text }
    }

    /// What its blocks ask for, in order. A block that begins with no comment, such as an output, asks for nothing.
    pub fn actions(&self) -> Vec<RecipeAction> {
        fenced_blocks(&self.text).iter().filter_map(|block| action(&block.text)).collect()
    }

    /// The commands after a prompt, in order, without the prompt.
    pub fn typed_commands(&self) -> Vec<String> {
        let blocks = fenced_blocks(&self.text).into_iter().filter(|block| block.language == "console");
        let command = |line: &str| line[1..].trim_start().to_owned();
        blocks.flat_map(|block| block.text.lines().map(command).collect::<Vec<_>>()).collect()
    }

    /// The blocks that no test looks at.
    pub fn other_blocks(&self) -> Vec<FencedBlock> {
        let is_output = |text: &str| text.starts_with("$ runner ");
        let mut blocks = fenced_blocks(&self.text);
        blocks.retain(|block| block.language != "console" && !is_output(&block.text) && action(&block.text).is_none());
        blocks
    }

    /// The address of the application.
    pub fn url(&self) -> &str {
        let command = self.text.lines().find_map(|line| line.strip_prefix("curl -s "));
        command.expect("the page asks the application with curl")
    }
}

fn action(block: &str) -> Option<RecipeAction> {
    let first = block.lines().next()?;
    // Other sessions show what the test itself does.
    if let Some(arguments) = first.strip_prefix("$ runner ").filter(|arguments| arguments.starts_with("init ")) {
        return Some(RecipeAction::TypeAsDeploy(arguments.split(' ').map(str::to_owned).collect()));
    }
    let heads = ["# ", "; ", "// ", "-- ", "<?php // "];
    let says = heads.into_iter().find_map(|head| first.strip_prefix(head))?;
    let content = block.to_owned();
    let who = says.split_once(':').map_or("", |(who, _)| who);
    let path = says.split([' ', ':']).next().filter(|path| path.contains('.') || path.starts_with('/'));
    match (who, path) {
        ("As root", _) => Some(RecipeAction::RunAsRoot(content)),
        ("As deploy", _) => Some(RecipeAction::RunAsDeploy(content)),
        (_, Some(path)) => Some(RecipeAction::WriteFile { path: path.to_owned(), content }),
        (_, None) => None,
    }
}
