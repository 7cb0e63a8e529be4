//! A tree of several layers (OCI image specification 1.1, "Image Layer Filesystem Changeset"): an upper layer adds, replaces, and removes
//! by whiteouts.
//!
//! Links are created after the last layer, so nothing is removed or created through one. Names that differ only in case are two, as
//! images have them; so the file system must tell them apart. A link to an absolute path becomes relative, so that it stays in the folder
//! wherever that is mounted or moved.

use std::{borrow::Cow, collections::HashMap};

use super::*;

/// The name of a file that removes the file of the name that follows.
const WHITEOUT_PREFIX: &str = ".wh.";
/// The name of a file that removes what lower layers have in its directory.
const OPAQUE_NAME: &str = ".wh..wh..opq";

impl<'a> ExtractionTree<'a> {
    /// A tree for layers; the first one is begun.
    pub(in super::super) fn of_layers(folder: OwnedFd, job: &'a UnpackJob<'a>) -> Self {
        Self { layer: Some(0), key: str::to_owned, ..Self::new(folder, job) }
    }

    /// Begins the next layer.
    pub(in super::super) fn begin_layer(&mut self) {
        self.layer = self.layer.map(|layer| layer + 1);
        self.checked_parent = None;
    }

    /// Whether its entries are those of a layer.
    pub(in super::super) fn is_layered(&self) -> bool {
        self.layer.is_some()
    }

    /// Does what an entry says that is a whiteout. Returns whether it is one.
    pub(in super::super) fn white_out(&mut self, path: &EntryPath) -> Result<bool, ArchiveError> {
        let Some(removed) = path.name().strip_prefix(WHITEOUT_PREFIX).filter(|_| self.is_layered()) else {
            return Ok(false);
        };
        if path.name() == OPAQUE_NAME {
            self.remove_lower_below(path.parent())?;
        } else if !removed.is_empty() && !removed.starts_with(WHITEOUT_PREFIX) {
            let whole =
                if path.parent().is_empty() { removed.to_owned() } else { format!("{}/{removed}", path.parent()) };
            if self.nodes.get(&whole).is_some_and(|node| Some(node.layer) < self.layer) {
                self.remove_whole(&whole)?;
            }
        }
        Ok(true)
    }

    /// Removes what is at the path of a new entry, but a directory for a directory.
    pub(super) fn make_way(&mut self, path: &str, kind: ArchiveEntryKind) -> Result<(), ArchiveError> {
        match self.nodes.get(path).map(|node| node.kind).filter(|_| self.is_layered()) {
            None => Ok(()),
            Some(ArchiveEntryKind::Directory) if kind == ArchiveEntryKind::Directory => Ok(()),
            Some(ArchiveEntryKind::Directory | ArchiveEntryKind::File | ArchiveEntryKind::Symlink) => {
                self.remove_whole(path)
            }
        }
    }

    fn remove_whole(&mut self, path: &str) -> Result<(), ArchiveError> {
        if self.nodes.get(path).is_some_and(|node| node.kind == ArchiveEntryKind::Directory) {
            let below = self.paths_below(path, |_| true);
            self.remove_nodes(below)?;
        }
        self.remove_nodes(vec![path.to_owned()])
    }

    /// Removes what lower layers have in a directory. A directory that this layer has too counts as its own.
    fn remove_lower_below(&mut self, directory: &str) -> Result<(), ArchiveError> {
        let current = self.layer;
        let below = self.paths_below(directory, |node| Some(node.layer) < current);
        self.remove_nodes(below)
    }

    /// The paths below a directory, each before its parent.
    fn paths_below(&self, directory: &str, counts: impl Fn(&ExtractedNode) -> bool) -> Vec<String> {
        let is_below =
            |path: &str| directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        let nodes = self.nodes.values().filter(|node| is_below(&node.path) && counts(node));
        let mut paths: Vec<_> = nodes.map(|node| node.path.clone()).collect();
        paths.sort_unstable_by(|a, b| b.cmp(a));
        paths
    }

    fn remove_nodes(&mut self, paths: Vec<String>) -> Result<(), ArchiveError> {
        self.checked_parent = None;
        for path in paths {
            self.job.check_stop()?;
            let Some(node) = self.nodes.remove(&path) else { continue };
            let flags = match node.kind {
                ArchiveEntryKind::Directory => AtFlags::REMOVEDIR,
                ArchiveEntryKind::File => AtFlags::empty(),
                ArchiveEntryKind::Symlink => continue,
            };
            let (parent, name) = entry::split_path(&path);
            self.cursor
                .move_to(parent)
                .and_then(|parent| Ok(rustix::fs::unlinkat(parent, name, flags)?))
                .map_err(ArchiveError::filesystem("removed", &path))?;
        }
        Ok(())
    }

    /// The target of the link `to`, which is still to be created, for a hard link to it beside it: the same text means the same there.
    pub(super) fn pending_target(&self, path: &EntryPath, to: &EntryPath) -> Option<(String, ModifiedTime)> {
        let is_beside = self.is_layered() && path.parent() == to.parent();
        self.nodes.get(to.as_str()).filter(|node| is_beside && node.kind == ArchiveEntryKind::Symlink)?;
        let link = self.links.iter().rev().find(|link| link.path == *to)?;
        Some((link.target.clone(), link.modified))
    }

    /// Forgets what later layers have replaced or removed.
    pub(super) fn settle_layers(&mut self) {
        let nodes = &self.nodes;
        let has_kind = |path: &str, kind| nodes.get(path).is_some_and(|node| node.kind == kind);
        self.directories.retain(|(path, _)| path.is_root() || has_kind(path.as_str(), ArchiveEntryKind::Directory));
        keep_last(&mut self.list_entries, |entry| &entry.path);
        self.list_entries.retain(|entry| has_kind(&entry.path, ArchiveEntryKind::File));
        keep_last(&mut self.links, |link| link.path.as_str());
        self.links.retain(|link| has_kind(link.path.as_str(), ArchiveEntryKind::Symlink));
    }
}

/// Keeps the last item of each path.
fn keep_last<T>(items: &mut Vec<T>, path: impl Fn(&T) -> &str) {
    let last: HashMap<String, usize> =
        items.iter().enumerate().map(|(index, item)| (path(item).to_owned(), index)).collect();
    let mut index = 0;
    items.retain(|item| {
        index += 1;
        last.get(path(item)) == Some(&(index - 1))
    });
}

/// The target of a link in an image, whose root is the folder: relative, and without `..` at the root.
pub(super) fn target_below_root<'r>(path: &EntryPath, raw: &'r [u8]) -> Cow<'r, [u8]> {
    let Ok(text) = str::from_utf8(raw) else { return Cow::Borrowed(raw) };
    let depth = path.as_str().matches('/').count();
    let mut level = if text.starts_with('/') { 0 } else { depth };
    let mut kept = Vec::new();
    let mut is_changed = text.starts_with('/');
    for component in text.split('/') {
        match component {
            "" | "." if text.starts_with('/') => {}
            ".." if level == 0 => is_changed = true,
            ".." => {
                level -= 1;
                kept.push(component);
            }
            "" | "." => kept.push(component),
            name => {
                level += 1;
                kept.push(name);
            }
        }
    }
    if !is_changed {
        return Cow::Borrowed(raw);
    }
    let up = if text.starts_with('/') { "../".repeat(depth) } else { String::new() };
    let target = format!("{up}{}", kept.join("/"));
    Cow::Owned(if target.is_empty() { b".".to_vec() } else { target.into_bytes() })
}

#[cfg(test)]
#[test]
fn links_stay_below_the_root() {
    let limits = super::super::ArchiveLimits::default();
    for (path, target, expected) in [
        ("etc/alternatives/awk", "/usr/bin/mawk", "../../usr/bin/mawk"),
        ("bin", "usr/bin", "usr/bin"),
        ("bin", "/usr/bin/", "usr/bin"),
        ("root", "/", "."),
        ("a/b", "/", "../"),
        ("a/b", "../c", "../c"),
        ("a/b", "../../../c", "../c"),
        ("a/b", "/../c", "../c"),
        ("a/b", "./x/../y", "./x/../y"),
    ] {
        let path = EntryPath::parse(path.as_bytes(), &limits).unwrap();
        assert_eq!(String::from_utf8_lossy(&target_below_root(&path, target.as_bytes())), expected, "{target}");
    }
}
