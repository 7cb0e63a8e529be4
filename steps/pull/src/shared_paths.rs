//! Shared paths, which outlive a release: stored in `shared/` and linked from each release.
//!
//! Invariant: content moves into `shared/` only where nothing exists yet, and never moves out.

use pawl_step::fs::{self, FileType};
use pawl_step::{Failure, blobs};

/// All shared paths of a step.
#[derive(Debug)]
pub(crate) struct SharedPaths(Vec<SharedPath>);

#[derive(Debug, PartialEq, Eq)]
struct SharedPath {
    path: String,
    if_missing: MissingPathPolicy,
}

/// The action when a path exists in neither `shared/` nor the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MissingPathPolicy {
    CreateFolder,
    Fail,
}

impl SharedPaths {
    pub(crate) fn parse(paths: &[String]) -> Result<Self, Failure> {
        let mut items: Vec<SharedPath> = Vec::new();
        for text in paths {
            let path = fs::relative("shared", text)?;
            let if_missing =
                if text.ends_with('/') { MissingPathPolicy::CreateFolder } else { MissingPathPolicy::Fail };
            if let Some(other) =
                items.iter().find(|other| is_at_or_below(&path, &other.path) || is_at_or_below(&other.path, &path))
            {
                return Err(Failure::invalid_config(format!(
                    "`shared` names `{path}` and `{}`, but one contains the other",
                    other.path
                ))
                .hint("keep the outer one"));
            }
            items.push(SharedPath { path, if_missing });
        }
        Ok(Self(items))
    }

    /// Returns the locations in `shared/` that do not exist yet.
    pub(crate) fn missing_paths(&self, dir: &str) -> Result<Vec<String>, Failure> {
        let mut missing = Vec::new();
        for item in &self.0 {
            let kept = item.shared_location(dir);
            if fs::metadata_of_link(&kept)?.is_none() {
                missing.push(kept);
            }
        }
        Ok(missing)
    }

    /// Returns where a path is that is shared, or lies in a shared one.
    pub(crate) fn location_of(&self, dir: &str, path: &str) -> Option<String> {
        self.0.iter().any(|item| is_at_or_below(path, &item.path)).then(|| format!("{dir}/shared/{path}"))
    }

    /// Replaces the shared paths of the unpacked folder `release` by links. It checks all paths before it moves one.
    pub(crate) fn link(&self, dir: &str, release: &str) -> Result<(), Failure> {
        for item in &self.0 {
            let is_somewhere = fs::metadata_of_link(&item.shared_location(dir))?.is_some()
                || fs::metadata_of_link(&item.release_location(dir, release))?.is_some();
            if !is_somewhere && item.if_missing == MissingPathPolicy::Fail {
                return Err(Failure::not_found(format!(
                    "the shared path `{}` is neither in the release nor at `{}`",
                    item.path,
                    item.shared_location(dir)
                ))
                .hint(format!(
                    "create `shared/{0}` in the directory `{dir}`; if it is a folder that may start empty, write `{0}/`",
                    item.path
                )));
            }
        }
        for item in &self.0 {
            item.link(dir, release)?;
        }
        Ok(())
    }

    /// Moves what the folder `release` has of its own at a shared path to `shared/`, where a repair does not lose it.
    pub(crate) fn preserve_content(&self, dir: &str, release: &str) -> Result<(), Failure> {
        for item in &self.0 {
            let path = item.release_location(dir, release);
            let is_content = match fs::metadata_of_link(&path)?.map(|found| found.file_type) {
                None | Some(FileType::Link) => false,
                Some(FileType::Directory) => !fs::list(&path)?.is_empty(),
                Some(FileType::File | FileType::Other) => true,
            };
            if !is_content {
                continue;
            }
            let kept = item.shared_location(dir);
            if fs::metadata_of_link(&kept)?.is_some() {
                return Err(Failure::permanent(format!("`{path}` has files of its own, and `{kept}` exists too"))
                    .hint("move the files that you need there, empty the folder, and run again"));
            }
            fs::create_dir_all(parent_of(&kept))?;
            fs::rename(&path, &kept)?;
            fs::symlink(&item.link_text(), &path)?;
        }
        Ok(())
    }

    /// Returns the differences that [`link`](Self::link) did not cause. A line is `missing: <path>` or
    /// `changed: <path> (<how>)`.
    pub(crate) fn differences_outside_shared(&self, lines: Vec<String>) -> Vec<String> {
        let is_ours = |line: &String| {
            let path = line.split_once(": ").map_or(line.as_str(), |(_, rest)| rest);
            self.0.iter().any(|item| {
                is_at_or_below(path, &item.path)
                    || path.strip_prefix(&item.path).is_some_and(|rest| rest.starts_with(" ("))
            })
        };
        lines.into_iter().filter(|line| !is_ours(line)).collect()
    }

    /// Returns one line for each shared path of a release that is not a link to its location in `shared/`.
    pub(crate) fn unlinked_paths(&self, dir: &str, release: &str) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for item in &self.0 {
            let path = item.release_location(dir, release);
            let is_link = fs::metadata_of_link(&path)?.is_some_and(|found| found.file_type == FileType::Link);
            if !is_link || fs::read_link(&path).ok() != Some(item.link_text()) {
                lines.push(format!("changed: {} (not a link to shared/{})", item.path, item.path));
            }
        }
        Ok(lines)
    }
}

impl SharedPath {
    fn shared_location(&self, dir: &str) -> String {
        format!("{dir}/shared/{}", self.path)
    }

    fn release_location(&self, dir: &str, release: &str) -> String {
        format!("{dir}/{release}/{}", self.path)
    }

    /// Returns the text of the link from `releases/<name>/<path>` to `shared/<path>`.
    fn link_text(&self) -> String {
        let above_path = self.path.matches('/').count();
        format!("{}shared/{}", "../".repeat(2 + above_path), self.path)
    }

    fn link(&self, dir: &str, release: &str) -> Result<(), Failure> {
        let (kept, brought) = (self.shared_location(dir), self.release_location(dir, release));
        let is_kept = fs::metadata_of_link(&kept)?.is_some();
        match (is_kept, fs::metadata_of_link(&brought)?.map(|found| found.file_type)) {
            (false, Some(_)) => {
                fs::create_dir_all(parent_of(&kept))?;
                fs::rename(&brought, &kept)?;
            }
            (false, None) => fs::create_dir_all(&kept)?,
            (true, Some(FileType::Directory)) => blobs::remove(dir, &format!("{release}/{}", self.path))?,
            (true, Some(FileType::File | FileType::Link | FileType::Other)) => fs::remove(&brought)?,
            (true, None) => {}
        }
        fs::create_dir_all(parent_of(&brought))?;
        fs::symlink(&self.link_text(), &brought)
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(folder, _)| folder)
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
