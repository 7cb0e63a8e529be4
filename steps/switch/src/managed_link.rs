//! The link, the note beside it, and the order of writes that makes every kill tell its own story.
//!
//! The link is `<link>`. Beside it lie, hidden:
//! - `.<link>.switch`, the note: what the last switch replaced, by what, and in which attempt. It stays. JSON,
//!   `{"key": "…", "from": "releases/…" or null, "to": "releases/…", "epoch": 7, "lineage": "…"}`.
//! - `.<link>.new`, the new link before its rename. It exists only while a switch is under way.
//!
//! A switch writes in this order: the new link under its temporary name, the note (temporary file, sync, rename, sync of the
//! folder), then the one rename over `<link>`, which takes the temporary name away with it. So a note that names our
//! target, with the link still at the old one, means *not yet* while `.<link>.new` is there, and *moved back by hand* when it
//! is not. No second write after the rename is needed to tell the two apart, and so no kill can fall between them.
//!
//! The note is a fence too: a switch of an attempt that is older than the note's does nothing. It is read once more right before
//! the rename, so that a deployment which lost its lock and sleeps until then finds it. Between that reading and the rename
//! there is a window of some microseconds that no file system closes.

use pawl_step::fs::{self, FileType};
use pawl_step::{Failure, FailureKind, blobs, json, log};
use serde_json::{Value, json};

/// Where a link lives, and for which attempt it is moved.
#[derive(Debug)]
pub(crate) struct ManagedLink {
    dir: String,
    link: String,
    epoch: AttemptEpoch,
}

/// The number of an attempt, and where it was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptEpoch {
    pub(crate) number: u64,
    pub(crate) lineage: String,
}

/// What the link leads to, relative to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    /// There is no link.
    Missing,
    /// A path in the directory.
    At(String),
    /// Something that is not in the directory.
    Outside,
    /// A file or folder is there in place of a link.
    NotALink,
}

/// What was live before a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PreviousTarget {
    /// There was no link.
    NoLink,
    /// A path in the directory.
    Path(String),
    /// A later switch has replaced the note.
    Unknown,
}

/// What a probe sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkProbe {
    Held(PreviousTarget),
    Absent,
    Drifted(String),
}

/// The note beside the link.
#[derive(Debug, PartialEq, Eq)]
struct SwitchNote {
    key: String,
    from: Option<String>,
    to: String,
    /// None in notes of 0.1.0.
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

    /// The link, relative to the directory.
    pub(crate) fn link(&self) -> &str {
        &self.link
    }

    /// The link, with the directory's name.
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

    pub(crate) fn has_folder(&self, path: &str) -> Result<bool, Failure> {
        Ok(fs::metadata(&format!("{}/{path}", self.dir))?.is_some_and(|found| found.file_type == FileType::Directory))
    }

    pub(crate) fn ensure_target_exists(&self, to: &str) -> Result<(), Failure> {
        if self.has_folder(to)? {
            return Ok(());
        }
        Err(Failure::not_found(format!(
            "`{}` cannot lead to `{to}`: there is no such folder in `{}`",
            self.link, self.dir
        ))
        .hint(
            "if the release was removed since it was pulled, the step that pulls it brings it back when it runs again",
        ))
    }

    /// Makes the link lead to `to`; returns what was live before, also when an earlier call with this target did the work.
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
            // Not held yet, though it looks so: the next `apply` keeps the link and tidies up.
            (LinkTarget::At(now), _) if now == to && under_way => LinkProbe::Absent,
            (LinkTarget::At(now), note) if now == to => LinkProbe::Held(
                note.filter(|note| note.to == to).map_or(PreviousTarget::Unknown, |note| note.previous_target()),
            ),
            (LinkTarget::Missing, _) => LinkProbe::Absent,
            (LinkTarget::NotALink, _) => {
                LinkProbe::Drifted(format!("`{}` is not a link but a file or folder", self.path()))
            }
            (LinkTarget::Outside, _) => {
                LinkProbe::Drifted(format!("`{}` leads out of `{}`, not to `{to}`", self.path(), self.dir))
            }
            // It never came to the note, so nothing was switched.
            (LinkTarget::At(_), None) => LinkProbe::Absent,
            (LinkTarget::At(now), Some(note)) if note.to == to => {
                if under_way && note.from.as_deref() == Some(&now) {
                    LinkProbe::Absent
                } else {
                    LinkProbe::Drifted(format!(
                        "`{}` leads to `{now}`, but this step made it lead to `{to}`",
                        self.path()
                    ))
                }
            }
            (LinkTarget::At(now), Some(note)) if now == note.to || note.from.as_deref() == Some(&now) => {
                LinkProbe::Absent
            }
            (LinkTarget::At(now), Some(note)) => LinkProbe::Drifted(format!(
                "`{}` leads to `{now}`, neither to `{to}` nor to `{}`, where the last switch put it",
                self.path(),
                note.to
            )),
        })
    }

    /// Makes the link lead back, from `to` only.
    pub(crate) fn revert(&self, key: &str, to: &str, back: &PreviousTarget) -> Result<(), Failure> {
        let back = match back {
            PreviousTarget::Path(path) => Some(path.as_str()),
            PreviousTarget::NoLink => None,
            PreviousTarget::Unknown => {
                return Err(Failure::permanent(format!(
                    "what `{}` led to before `{to}` is not known any more",
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
                "`{}` leads to `{now}`, not to `{to}`: somebody moved it, so it is left alone",
                self.path()
            ))
            .hint(format!(
                "decide which release shall be live; `ln -sfn {} {}` in that directory makes it so",
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
        // What was live before `back` is of no use to anybody now: switching to it again starts a new story.
        let epoch = Some(self.epoch.clone());
        let note = SwitchNote { key: key.to_owned(), from: Some(back.to_owned()), to: back.to_owned(), epoch };
        if live.as_deref() == Some(back) {
            self.write_note(&note)?;
            return self.remove_new_link();
        }
        self.replace_link(&note)
    }

    pub(crate) fn not_a_link_failure(&self) -> Failure {
        Failure::conflict(format!("`{}` is a file or folder, not a symbolic link; it is left alone", self.path())).hint(
            format!(
                "move it away, or into `{}/releases/` and link to it: `ln -s releases/<name> {}`",
                self.dir, self.link
            ),
        )
    }

    pub(crate) fn outside_failure(&self) -> Failure {
        Failure::conflict(format!(
            "`{}` is a link with an absolute path, or one that leads out of `{}`",
            self.path(),
            self.dir
        ))
        .hint(format!("make it relative, so that it can be restored: `ln -sfn releases/<name> {}`", self.link))
    }

    fn replace_link(&self, note: &SwitchNote) -> Result<(), Failure> {
        let (new, text) = (self.new_link_path(), self.link_text_to(&note.to));
        // A leftover with the right text is kept: without it, a kill right here would look like a move by hand.
        if fs::read_link(&new).ok().as_deref() != Some(text.as_str()) {
            self.remove_new_link()?;
            fs::symlink(&text, &new)?;
        }
        self.write_note(note)?;
        self.read_unfenced_note()?;
        fs::rename(&new, &self.path())
    }

    /// The note, unless an attempt after this one wrote it.
    fn read_unfenced_note(&self) -> Result<Option<SwitchNote>, Failure> {
        let note = self.read_note()?;
        let newer = note.as_ref().and_then(|note| note.epoch.as_ref());
        match newer.filter(|epoch| epoch.lineage == self.epoch.lineage && epoch.number > self.epoch.number) {
            None => Ok(note),
            Some(AttemptEpoch { number, .. }) => Err(Failure::conflict(format!(
                "a newer deployment, epoch {number}, has switched `{}` since; this one, epoch {}, is over",
                self.path(),
                self.epoch.number
            ))
            .hint("see `runner history`: which deployment is it, and who released the lock of this one?")),
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
        if !fs::exists(&path)? {
            return Ok(None);
        }
        let note = SwitchNote::parse(&fs::read_text(&path)?);
        if note.is_none() {
            log::warn(format!("`{path}` is not what this step wrote, and is not used"));
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

    /// A hidden name beside the link, relative to the directory.
    fn hidden_path(&self, what: &str) -> String {
        match self.link.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/.{name}.{what}"),
            None => format!(".{}.{what}", self.link),
        }
    }

    /// The link's text for a path in the directory.
    fn link_text_to(&self, path: &str) -> String {
        format!("{}{path}", "../".repeat(self.link.matches('/').count()))
    }

    /// The path in the directory for a link's text; `None` when it leads out.
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
