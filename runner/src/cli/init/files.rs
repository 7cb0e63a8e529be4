//! Writes the files of a template.
//!
//! Invariant: no byte that is there is changed or removed. A file that has another text than the template's is refused before anything is
//! written; one that has the beginning of that text, as a killed call leaves it, gets the rest; `.gitignore` gets the lines that it lacks.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{
    template::{GITIGNORE, PlannedFile},
    unusable,
};
use contract::diagnostic::{Diagnostic, ErrorCode};

/// Whether a folder has, besides hidden files, only what a call with these files wrote.
pub(super) fn has_nothing_else(dir: &Path, files: &[PlannedFile]) -> io::Result<bool> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(dir.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let is_hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
            if folder.as_os_str().is_empty() && is_hidden(&entry.file_name()) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                if !files.iter().any(|file| Path::new(&file.path).starts_with(&path)) {
                    return Ok(false);
                }
                folders.push(path);
            } else if !files.iter().any(|file| Path::new(&file.path) == path && is_begun(dir, file)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether a file has the text that it should have, or a beginning of it.
fn is_begun(dir: &Path, file: &PlannedFile) -> bool {
    let path = dir.join(&file.path);
    // An empty file may be a user's.
    let can_be = |found: &fs::Metadata| {
        found.is_file() && found.len() <= file.text.len() as u64 && (found.len() > 0 || file.text.is_empty())
    };
    path.symlink_metadata().is_ok_and(|found| can_be(&found))
        && fs::read(path).is_ok_and(|begun| file.text.as_bytes().starts_with(&begun))
}

/// Makes sure that nothing of a user is in the way.
///
/// # Errors
/// P0239: a file with another text, or a symbolic link.
pub(super) fn refuse_existing(dir: &Path, files: &[PlannedFile]) -> Result<(), Diagnostic> {
    let is_there = |file: &&PlannedFile| {
        file.path != GITIGNORE && dir.join(&file.path).symlink_metadata().is_ok() && !is_begun(dir, file)
    };
    let existing: Vec<&str> = files.iter().filter(is_there).map(|file| file.path.as_str()).collect();
    if existing.is_empty() {
        return refuse_links(dir, files);
    }
    let hint = "`init` overwrites nothing, and has written nothing: move them away, or write the template into another folder and \
                take from it what you need";
    Err(Diagnostic::new(ErrorCode::InitRefused, format!("these files exist already: {}", existing.join(", ")))
        .with_hint(hint))
}

/// What is written stays in the folder.
fn refuse_links(dir: &Path, files: &[PlannedFile]) -> Result<(), Diagnostic> {
    let mut paths = files.iter().flat_map(|file| Path::new(&file.path).ancestors());
    match paths.find(|path| !path.as_os_str().is_empty() && dir.join(path).is_symlink()) {
        None => Ok(()),
        Some(link) => Err(Diagnostic::new(ErrorCode::InitRefused, format!("{} is a symbolic link", link.display()))
            .with_hint(
                "`init` writes through no link, and has written nothing: write the template into another folder",
            )),
    }
}

/// Writes the files, or none of those that were not there.
///
/// # Errors
/// P0239: a file can't be written.
pub(super) fn write(dir: &Path, files: &[PlannedFile]) -> Result<(), Diagnostic> {
    let mut made = Vec::new();
    for file in files {
        match write_file(dir, file) {
            Ok(FileChange::Made) => made.push(&file.path),
            Ok(FileChange::Completed) => {}
            Err(error) => {
                // What this call has made does not stay half done.
                for path in made {
                    let _ = fs::remove_file(dir.join(path));
                }
                return Err(unusable(&dir.join(&file.path), &error));
            }
        }
    }
    Ok(())
}

/// What was done to a file.
enum FileChange {
    /// It was not there.
    Made,
    /// It was there, and has what it lacked.
    Completed,
}

fn write_file(dir: &Path, file: &PlannedFile) -> io::Result<FileChange> {
    let path = dir.join(&file.path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if file.path == GITIGNORE {
        return add_lines(&path, &file.text).map(|()| FileChange::Completed);
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut made) => {
            made.write_all(file.text.as_bytes()).inspect_err(|_| drop(fs::remove_file(&path)))?;
            Ok(FileChange::Made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let begun = fs::read(&path)?;
            match file.text.as_bytes().strip_prefix(begun.as_slice()) {
                None => return Err(error),
                Some([]) => {}
                Some(rest) => fs::OpenOptions::new().append(true).open(&path)?.write_all(rest)?,
            }
            Ok(FileChange::Completed)
        }
        Err(error) => Err(error),
    }
}

/// Adds the lines that a file does not have.
fn add_lines(path: &Path, lines: &str) -> io::Result<()> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let missing: Vec<&str> = lines.lines().filter(|line| !before.lines().any(|known| known == *line)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let separator = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{separator}{}\n", missing.join("\n")).as_bytes())
}
