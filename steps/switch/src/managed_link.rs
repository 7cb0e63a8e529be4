//! The managed link, its note, and the order of writes that makes the state after any kill unambiguous.
//!
//! The link is `<link>`. Two hidden files are next to it:
//! - `.<link>.switch`, the note: what the last switch replaced, by what, and in which attempt. It is permanent. JSON,
//!   `{"key": "…", "from": "releases/…" or null, "to": "releases/…", "epoch": 7, "lineage": "…"}`.
//! - `.<link>.new`, the new link before its rename. It exists only during a switch.
//!
//! A switch writes in this order: the new link under its temporary name, the note (temporary file, sync, rename, sync
//! of the folder), then the one rename over `<link>`, which takes the temporary name away with it. So a note that names
//! our target, with the link still at the old one, means *not yet* while `.<link>.new` is there, and *moved back by
//! hand* when it is not. No second write after the rename is needed to tell the two apart, and so no kill can fall
//! between them.
//!
//! The note is also a fence: a switch by an attempt older than the note's does nothing. The step reads it once more
//! right before the rename, so that a deployment that lost its lock and slept until then finds it. Between that read
//! and the rename, a window of some microseconds remains, which no file system closes.

use pawl_step::fs::{self, FileType};
use pawl_step::{Digest, Failure, FailureKind, blobs, json, log, releases};
use serde_json::{Value, json};

/// The managed link, and the attempt that moves it.
#[derive(Debug)]
pub(crate) struct ManagedLink {
    dir: String,
    link: String,
    epoch: AttemptEpoch,
}

/// The epoch of an attempt: its number, and the lineage that counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptEpoch {
    pub(crate) number: u64,
    pub(crate) lineage: String,
}

/// The target of the link, relative to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// There is no link.
    Missing,
    /// A path in the directory.
    At(String),
    /// A path outside the directory.
    Outside,
    /// A file or folder exists in place of the link.
    NotALink,
}

/// The target of the link before a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PreviousTarget {
    /// There was no link.
    NoLink,
    /// A path in the directory.
    Path(String),
    /// The previous target is unknown, because a later switch has replaced the note.
    Unknown,
}

/// The result of a probe of the link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkProbe {
    Held(PreviousTarget),
    Absent,
    Drifted(String),
}

/// The note next to the link.
#[derive(Debug, PartialEq, Eq)]
struct SwitchNote {
    key: String,
    from: Option<String>,
    to: String,
    /// The epoch of the switch; `None` in notes of 0.1.0.
    epoch: Option<AttemptEpoch>,
}

impl SwitchNote {
    fn parse(text: &str) -> Option<Self> {
        let members = json::object(text);
        let member = |name| members.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = members.get("epoch").and_then(Value::as_u64);
        let epoch = number.zip(member("lineage")).map(|(number, lineage)| AttemptEpoch { number, lineage });
        Some(Self { key: member("key")?, from: member("from"), to: member("to")?, epoch })
    }

    fn to_json_text(&self) -> String {
        let mut note = json!({ "key": self.key, "from": self.from, "to": self.to });
        if let Some(AttemptEpoch { number, lineage }) = &self.epoch {
            note["epoch"] = (*number).into();
            note["lineage"] = lineage.as_str().into();
        }
        json::text(&note)
    }

    fn previous_target(&self) -> PreviousTarget {
        self.from.clone().map_or(PreviousTarget::NoLink, PreviousTarget::Path)
    }
}

impl ManagedLink {
    pub(crate) fn new(dir: String, link: String, epoch: AttemptEpoch) -> Self {
        Self { dir, link, epoch }
    }

    /// Returns the granted directory.
    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    /// Returns the link, relative to the directory.
    pub(crate) fn link(&self) -> &str {
        &self.link
    }

    /// Returns the link, with the directory's name.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.dir, self.link)
    }

    pub(crate) fn current_target(&self) -> Result<LinkTarget, Failure> {
        match fs::metadata_of_link(&self.path())?.map(|found| found.file_type) {
            None => Ok(LinkTarget::Missing),
            Some(FileType::Link) => match fs::read_link(&self.path()) {
                Ok(text) => Ok(self.resolve_link_text(&text).map_or(LinkTarget::Outside, LinkTarget::At)),
                Err(failure) if failure.kind == FailureKind::Denied => Ok(LinkTarget::Outside),
                Err(failure) => Err(failure),
            },
            Some(FileType::File | FileType::Directory | FileType::Other) => Ok(LinkTarget::NotALink),
        }
    }

    /// Refuses what a switch does not replace.
    pub(crate) fn refuse_unmovable(&self) -> Result<(), Failure> {
        match self.current_target()? {
            LinkTarget::Missing | LinkTarget::At(_) => Ok(()),
            LinkTarget::Outside => Err(self.outside_failure()),
            LinkTarget::NotALink => Err(self.not_a_link_failure()),
        }
    }

    pub(crate) fn has_folder(&self, path: &str) -> Result<bool, Failure> {
        Ok(fs::metadata(&format!("{}/{path}", self.dir))?.is_some_and(|found| found.file_type == FileType::Directory))
    }

    /// Returns the name of the release with this digest, in a folder of the directory.
    pub(crate) fn find_release(&self, folder: &str, digest: &Digest) -> Result<Option<String>, Failure> {
        releases::find(&format!("{}/{folder}", self.dir), digest)
    }

    pub(crate) fn ensure_target_exists(&self, to: &str) -> Result<(), Failure> {
        if self.has_folder(to)? {
            return Ok(());
        }
        Err(Failure::not_found(format!("`{}` cannot point to `{to}`: no such folder in `{}`", self.link, self.dir))
            .hint("create the folder, or correct `to`; if the release was removed after it was pulled, run the pull step again"))
    }

    /// Points the link to `to` and returns the previous target, even when an earlier call with this target did the
    /// work.
    pub(crate) fn switch(&self, key: &str, to: &str, is_already_verified: bool) -> Result<PreviousTarget, Failure> {
        let note = self.read_unfenced_note()?.filter(|note| note.to == to);
        let from = match self.current_target()? {
            LinkTarget::NotALink => return Err(self.not_a_link_failure()),
            LinkTarget::Outside => return Err(self.outside_failure()),
            LinkTarget::At(now) if now == to => match note {
                Some(note) if note.key == key || !is_already_verified => note.from,
                Some(_) | None => Some(now),
            },
            LinkTarget::At(now) => Some(now),
            LinkTarget::Missing => note.and_then(|note| note.from),
        };
        let note = SwitchNote { key: key.to_owned(), from, to: to.to_owned(), epoch: Some(self.epoch.clone()) };
        if self.current_target()? == LinkTarget::At(to.to_owned()) {
            self.write_note(&note)?;
            self.remove_new_link()?;
        } else {
            self.replace_link(&note)?;
        }
        Ok(note.previous_target())
    }

    pub(crate) fn probe(&self, to: &str) -> Result<LinkProbe, Failure> {
        let (live, note) = (self.current_target()?, self.read_note()?);
        let under_way =
            fs::metadata_of_link(&self.new_link_path())?.is_some() || fs::exists(&format!("{}.new", self.note_path()))?;
        Ok(match (live, note) {
            // The link is right, but the switch is unfinished: the next `apply` keeps the link and removes the
            // leftovers.
            (LinkTarget::At(now), _) if now == to && under_way => LinkProbe::Absent,
            (LinkTarget::At(now), note) if now == to => LinkProbe::Held(
                note.filter(|note| note.to == to).map_or(PreviousTarget::Unknown, |note| note.previous_target()),
            ),
            (LinkTarget::Missing, _) => LinkProbe::Absent,
            (LinkTarget::NotALink, _) => {
                LinkProbe::Drifted(format!("`{}` is a file or folder, not a symbolic link", self.path()))
            }
            (LinkTarget::Outside, _) => {
                LinkProbe::Drifted(format!("`{}` points outside `{}`, not to `{to}`", self.path(), self.dir))
            }
            // Without a note, no switch has happened.
            (LinkTarget::At(_), None) => LinkProbe::Absent,
            (LinkTarget::At(now), Some(note)) if note.to == to => {
                if under_way && note.from.as_deref() == Some(&now) {
                    LinkProbe::Absent
                } else {
                    LinkProbe::Drifted(format!(
                        "`{}` points to `{now}`, but this step pointed it to `{to}`",
                        self.path()
                    ))
                }
            }
            (LinkTarget::At(now), Some(note)) if now == note.to || note.from.as_deref() == Some(&now) => {
                LinkProbe::Absent
            }
            (LinkTarget::At(now), Some(note)) => LinkProbe::Drifted(format!(
                "`{}` points to `{now}`, but the last switch pointed it to `{}`, and this step would point it to `{to}`",
                self.path(),
                note.to
            )),
        })
    }

    /// Points the link back to its previous target, if it points to `to`.
    pub(crate) fn revert(&self, key: &str, to: &str, back: &PreviousTarget) -> Result<(), Failure> {
        let back = match back {
            PreviousTarget::Path(path) => Some(path.as_str()),
            PreviousTarget::NoLink => None,
            PreviousTarget::Unknown => {
                return Err(Failure::permanent(format!(
                    "the target of `{}` before `{to}` is no longer known",
                    self.path()
                ))
                .hint(format!("choose a folder in `{}/releases` and deploy its release again", self.dir)));
            }
        };
        self.read_unfenced_note()?;
        let live = match self.current_target()? {
            LinkTarget::At(path) => Some(path),
            LinkTarget::Missing => None,
            LinkTarget::Outside => return Err(self.outside_failure()),
            LinkTarget::NotALink => return Err(self.not_a_link_failure()),
        };
        if live.as_deref() != Some(to) && live.as_deref() != back {
            let now = live.as_deref().unwrap_or("nothing");
            return Err(Failure::conflict(format!(
                "`{}` points to `{now}`, not to `{to}`: it was changed by hand, so this step leaves it as it is",
                self.path()
            ))
            .hint(format!(
                "decide which release must be live; to restore the link, run `ln -sfn {} {}` in its directory",
                back.unwrap_or(to),
                self.link
            )));
        }
        let Some(back) = back else {
            self.read_unfenced_note()?;
            fs::remove(&self.path())?;
            fs::remove(&self.note_path())?;
            fs::remove(&format!("{}.new", self.note_path()))?;
            return self.remove_new_link();
        };
        self.ensure_target_exists(back)?;
        // The target before `back` no longer matters: a switch to `back` starts a new history.
        let epoch = Some(self.epoch.clone());
        let note = SwitchNote { key: key.to_owned(), from: Some(back.to_owned()), to: back.to_owned(), epoch };
        if live.as_deref() == Some(back) {
            self.write_note(&note)?;
            return self.remove_new_link();
        }
        self.replace_link(&note)
    }

    pub(crate) fn missing_release_failure(&self, label: &str) -> Failure {
        Failure::not_found(format!(
            "`{}` can't go back to {label}, which was live: its folder is not in `{}` on this machine",
            self.path(),
            self.dir
        ))
        .hint(format!("deploy {label} again, or a release that works"))
    }

    pub(crate) fn not_a_link_failure(&self) -> Failure {
        Failure::conflict(format!(
            "`{}` is a file or folder, not a symbolic link; this step does not replace it",
            self.path()
        ))
        .hint(format!(
            "move it elsewhere, or move it into `{}/releases/` and link to it: `ln -s releases/<name> {}`",
            self.dir, self.link
        ))
    }

    pub(crate) fn outside_failure(&self) -> Failure {
        Failure::conflict(format!(
            "`{}` is a link with an absolute path, or with a target outside `{}`",
            self.path(),
            self.dir
        ))
        .hint(format!("make it relative, so that a revert can restore it: `ln -sfn releases/<name> {}`", self.link))
    }

    fn replace_link(&self, note: &SwitchNote) -> Result<(), Failure> {
        let (new, text) = (self.new_link_path(), self.link_text_to(&note.to));
        // Keep a leftover with the right text: without it, a kill right here would look like a change by hand.
        if fs::read_link(&new).ok().as_deref() != Some(text.as_str()) {
            self.remove_new_link()?;
            fs::symlink(&text, &new)?;
        }
        self.write_note(note)?;
        self.read_unfenced_note()?;
        fs::rename(&new, &self.path())
    }

    /// Reads the note; it is a failure when a newer attempt wrote it.
    fn read_unfenced_note(&self) -> Result<Option<SwitchNote>, Failure> {
        let note = self.read_note()?;
        let newer = note.as_ref().and_then(|note| note.epoch.as_ref());
        match newer.filter(|epoch| epoch.lineage == self.epoch.lineage && epoch.number > self.epoch.number) {
            None => Ok(note),
            Some(AttemptEpoch { number, .. }) => Err(Failure::conflict(format!(
                "a newer deployment (epoch {number}) has switched `{}`; this deployment (epoch {}) must not",
                self.path(),
                self.epoch.number
            ))
            .hint("`runner history` shows the newer deployment; find out who released this deployment's lock")),
        }
    }

    fn remove_new_link(&self) -> Result<(), Failure> {
        match fs::metadata_of_link(&self.new_link_path())?.map(|found| found.file_type) {
            None => Ok(()),
            Some(FileType::Directory) => blobs::remove(&self.dir, &self.hidden_path("new")),
            Some(FileType::File | FileType::Link | FileType::Other) => fs::remove(&self.new_link_path()),
        }
    }

    fn read_note(&self) -> Result<Option<SwitchNote>, Failure> {
        let path = self.note_path();
        let Some(text) = fs::read_text_if_exists(&path)? else {
            return Ok(None);
        };
        let note = SwitchNote::parse(&text);
        if note.is_none() {
            log::warn(format!("`{path}` is not a valid switch note and is ignored"));
        }
        Ok(note)
    }

    fn write_note(&self, note: &SwitchNote) -> Result<(), Failure> {
        if self.read_note()?.as_ref() == Some(note) && !fs::exists(&format!("{}.new", self.note_path()))? {
            return Ok(());
        }
        fs::write_atomic(&self.note_path(), note.to_json_text().as_bytes())
    }

    fn note_path(&self) -> String {
        format!("{}/{}", self.dir, self.hidden_path("switch"))
    }

    fn new_link_path(&self) -> String {
        format!("{}/{}", self.dir, self.hidden_path("new"))
    }

    /// Returns a hidden path next to the link, relative to the directory.
    fn hidden_path(&self, what: &str) -> String {
        match self.link.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/.{name}.{what}"),
            None => format!(".{}.{what}", self.link),
        }
    }

    /// Returns the link's text for a path in the directory.
    fn link_text_to(&self, path: &str) -> String {
        format!("{}{path}", "../".repeat(self.link.matches('/').count()))
    }

    /// Returns the path in the directory for a link's text; `None` when it is outside.
    fn resolve_link_text(&self, text: &str) -> Option<String> {
        if text.starts_with('/') {
            return None;
        }
        let folder = self.link.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut names: Vec<&str> = Vec::new();
        for name in folder.split('/').chain(text.split('/')) {
            match name {
                "" | "." => {}
                ".." => {
                    names.pop()?;
                }
                name => names.push(name),
            }
        }
        Some(names.join("/"))
    }
}
