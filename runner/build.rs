//! Links the binary at a fixed address, and lists the files that `runner new-step` and `runner init` write.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

#[expect(clippy::disallowed_methods, reason = "a build script is told where to build by its environment")]
fn main() -> Result<()> {
    let root = Path::new("..").canonicalize()?;
    for watched in ["steps/sdk", "wit", "runner/templates", "examples"] {
        guest_build::rerun_if_changed(&root.join(watched))?;
    }
    link_at_fixed_address();
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    fs::write(out.join("templates.rs"), templates(&root)?)?;
    fs::write(out.join("deployment_templates.rs"), deployment_templates(&root)?)?;
    Ok(())
}

/// Relocating the executable is a fifth of the time of a small deployment (docs/adr/0007). A static one (musl) and macOS want it.
#[expect(clippy::disallowed_methods, reason = "a build script is told for what it builds by its environment")]
fn link_at_fixed_address() {
    let of_target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if of_target("OS") == "linux" && of_target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

/// What `runner new-step` copies, as a table of names and texts.
fn templates(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for (prefix, folder) in [
        ("", "runner/templates"),
        ("sdk/src/", "steps/sdk/src"),
        ("sdk/wit/", "steps/sdk/wit"),
        ("wit/deps/", "wit/deps"),
    ] {
        files_below(&root.join(folder), prefix, &mut files)?;
    }
    files.push(("wit/step.wit".to_owned(), root.join("wit/step.wit")));
    Ok(table(files))
}

/// What `runner init` writes: the examples that are templates, and what is common to all.
fn deployment_templates(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for folder in ["common", "compose", "container", "django", "java", "node", "php", "python", "rails", "static"] {
        files_below(&root.join("examples").join(folder), &format!("{folder}/"), &mut files)?;
    }
    // `files_below` passes over other hidden files.
    files.push(("common/.gitignore".to_owned(), root.join("examples/common/.gitignore")));
    Ok(table(files))
}

/// A table of names and texts, sorted.
fn table(mut files: Vec<(String, PathBuf)>) -> String {
    files.sort();
    let lines = files.iter().map(|(name, path)| format!("    ({name:?}, include_str!({path:?})),\n"));
    format!("&[\n{}]\n", lines.collect::<String>())
}

/// Each file with its path from `folder`; what a build or an editor leaves there is passed over.
fn files_below(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir()
            && !["target", "node_modules", "__pycache__", "build", "collected", "dist", "vendor"].contains(&&*name)
        {
            files_below(&path, &format!("{prefix}{name}/"), files)?;
        } else if path.is_file()
            && !["Cargo.lock", "db.sqlite3", "secret-key", "staticfiles.json"].contains(&&*name)
            && (!name.starts_with('.') || name == ".pawlignore")
        {
            files.push((format!("{prefix}{name}"), path));
        }
    }
    Ok(())
}
