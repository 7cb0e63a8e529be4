//! `runner new-step NAME`: creates a project for a step module, ready to be built and run.
//!
//! The binary embeds the templates, the SDK and the contract, so that a project fits the runner that created it. Existing files
//! are never overwritten. Deliberately absent: the build; each project documents its own.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::report::{self, OutputFormat, json};
use contract::diagnostic::{Diagnostic, ErrorCode, ExitKind};

/// The embedded files as `(path, text)`: `runner/templates`, `sdk/` from steps/sdk, and `wit/`; build.rs lists them.
static EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The placeholder for the step's name in the templates.
const PLACEHOLDER: &str = "my-step";

/// Arguments of `new-step`.
#[derive(Debug, clap::Args)]
pub(super) struct NewStepArgs {
    /// The step's name: lowercase letters, digits and `-`
    #[arg(value_parser = parse_step_name)]
    name: String,
    /// The programming language
    #[arg(long, value_name = "LANGUAGE", default_value = "rust")]
    lang: TemplateLanguage,
    /// The folder to create; by default the step's name
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TemplateLanguage {
    Rust,
    Js,
    Python,
}

impl TemplateLanguage {
    /// The name, as in `--lang` and in the folder of its template.
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
        }
    }

    fn build_command(self) -> &'static str {
        match self {
            Self::Rust | Self::Python => "./build.sh",
            Self::Js => "npm install && npm run build",
        }
    }
}

/// Creates the project.
///
/// # Errors
/// P0220 when the folder is not empty or cannot be written; P0214.
pub(super) fn run(args: &NewStepArgs, form: OutputFormat, out: &mut dyn Write) -> Result<ExitKind, Diagnostic> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let files = project_files(args.lang, &args.name);
    write_project(&dir, &files).map_err(|error| cannot_create_error(&dir, &error))?;
    let folder = dir.display().to_string();
    let (build, run) = (args.lang.build_command(), "runner --local --release v1");
    let answer = match form {
        OutputFormat::Json => {
            let names: Vec<_> = files.iter().map(|(path, _)| path).collect();
            let object = json!({
                "name": args.name, "language": args.lang.name(), "dir": folder, "build": build, "run": run, "files": names,
            });
            json::line(&object) + "\n"
        }
        OutputFormat::Text => format!(
            "created {folder}, {} files; {}\n  go there   cd {folder}\n  build it   {build}\n  run it     {run}\n",
            files.len(),
            "docs/steps.md explains how to write a step",
        ),
    };
    report::write_answer(out, &answer)?;
    Ok(ExitKind::Success)
}

/// The files of a project: path and text.
fn project_files(language: TemplateLanguage, name: &str) -> Vec<(String, String)> {
    let own = format!("{}/", language.name());
    let place = |path: &str| -> Option<String> {
        let common = path.strip_prefix("common/").map(|rest| if rest == "gitignore" { ".gitignore" } else { rest });
        if let Some(path) = path.strip_prefix(&own).or(common) {
            return Some(path.to_owned());
        }
        match language {
            // Cargo finds the SDK's contract at ../../wit, as in the runner's repository.
            TemplateLanguage::Rust => {
                let sdk = path.strip_prefix("rust-sdk/").or_else(|| path.strip_prefix("sdk/"));
                sdk.map(|path| format!("vendor/pawl-step/{path}"))
                    .or_else(|| path.starts_with("wit/").then(|| path.into()))
            }
            TemplateLanguage::Js | TemplateLanguage::Python => match path {
                "wit/step.wit" => Some("wit/deps/pawl-step.wit".to_owned()),
                _ => path.starts_with("wit/deps/").then(|| path.to_owned()),
            },
        }
    };
    let named = |path: &str, text: &str| {
        if path.starts_with("sdk/") || path.starts_with("wit/") {
            text.to_owned()
        } else {
            text.replace(PLACEHOLDER, name)
        }
    };
    EMBEDDED.iter().filter_map(|(path, text)| Some((place(path)?, named(path, text)))).collect()
}

/// Writes a project. An existing folder must be empty.
fn write_project(dir: &Path, files: &[(String, String)]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"));
    }
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a joined path has a parent"))?;
        fs::OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path)?.write_all(text.as_bytes())?;
        if path.extension().is_some_and(|extension| extension == "sh") {
            let mode = fs::metadata(&path)?.permissions().mode();
            // Everybody who may read it may also run it, within the umask.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
        }
    }
    Ok(())
}

fn cannot_create_error(dir: &Path, error: &io::Error) -> Diagnostic {
    let message = format!("can't create {}", dir.display());
    Diagnostic::new(ErrorCode::NewStepFailed, message)
        .with_cause(error)
        .with_hint("choose another folder with `--dir`, or empty this one")
}

/// Parses a name that is valid in every language and in a plan.
fn parse_step_name(text: &str) -> Result<String, String> {
    let is_name = text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= 63
        && text.split('-').all(|part| !part.is_empty())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    // Otherwise two packages with the same name would be in one Cargo.lock.
    if !is_name || text == "pawl-step" {
        return Err(
            "a step name has lowercase letters, digits and `-`, with a letter first, such as `warm-cache`".to_owned()
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(language: TemplateLanguage) -> Vec<String> {
        project_files(language, "warm").into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn a_project_is_complete_and_has_the_name() {
        for language in [TemplateLanguage::Rust, TemplateLanguage::Js, TemplateLanguage::Python] {
            let files = project_files(language, "warm");
            let plan = &files.iter().find(|(path, _)| path == "deploy.yml").unwrap().1;
            assert!(plan.contains("uses: ./warm.wasm"), "{plan}");
            assert!(files.iter().all(|(_, text)| !text.contains(PLACEHOLDER)), "{language:?}");
        }
        for (language, path) in [
            (TemplateLanguage::Rust, "vendor/pawl-step/src/fs/wasi.rs"),
            (TemplateLanguage::Rust, "vendor/pawl-step/wit/world.wit"),
            (TemplateLanguage::Rust, "wit/step.wit"),
            (TemplateLanguage::Js, "wit/deps/pawl-step.wit"),
            (TemplateLanguage::Js, "wit/deps/filesystem.wit"),
            (TemplateLanguage::Python, "wit/world.wit"),
        ] {
            assert!(paths(language).contains(&path.to_owned()), "{path} of {:?}", paths(language));
        }
    }

    #[test]
    fn templates_use_the_contract_of_this_runner() {
        let contract = EMBEDDED.iter().find(|(path, _)| *path == "wit/step.wit").unwrap().1;
        let version = contract.split_once("package pawl:step@").unwrap().1.split_once(';').unwrap().0;
        for (path, text) in EMBEDDED {
            for mention in text.split("pawl:step/").skip(1) {
                let used = mention.split_once('@').map(|(_, rest)| rest.split([';', '\'', '.', '`']).take(3));
                let used = used.map(|parts| parts.collect::<Vec<_>>().join("."));
                let is_ours = ["js/", "python/", "sdk/wit/"].iter().any(|folder| path.starts_with(folder));
                assert!(!is_ours || used.is_none() || used.as_deref() == Some(version), "{path}: {used:?}");
            }
        }
    }

    #[test]
    fn the_copied_sdk_has_the_dependencies_of_the_sdk() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let read = |path: &str| fs::read_to_string(format!("{root}/{path}")).unwrap();
        let workspace = read("steps/Cargo.toml");
        let copy = read("runner/templates/rust-sdk/Cargo.toml");
        for line in read("steps/sdk/Cargo.toml").lines() {
            let Some(name) = line.strip_suffix(".workspace = true") else { continue };
            let line = workspace.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
            assert!(copy.lines().any(|copied| copied == line), "{line}");
        }
    }

    #[test]
    fn existing_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "").unwrap();
        let args =
            NewStepArgs { name: "warm".into(), lang: TemplateLanguage::Rust, dir: Some(folder.path().to_owned()) };
        let refused = run(&args, OutputFormat::Text, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::NewStepFailed);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn names() {
        for good in ["warm", "warm-cache-2"] {
            assert_eq!(parse_step_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "Warm", "2warm", "warm--x", "warm-", "a/b", "pawl-step"] {
            assert!(parse_step_name(bad).is_err(), "{bad}");
        }
    }
}
