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
pub(crate) struct Place {
    dir: String,
    link: String,
    epoch: Epoch,
}

/// The number of an attempt, and where it was counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) number: u64,
    pub(crate) lineage: String,
}

/// What the link leads to, relative to the directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Live {
    /// There is no link.
    Nothing,
    /// A path in the directory.
    At(String),
    /// Something that is not in the directory.
    Outside,
    /// A file or folder is there in place of a link.
    NoLink,
}

/// What was live before a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// There was no link.
    Nothing,
    /// A path in the directory.
    Path(String),
    /// A later switch has replaced the note.
    Unknown,
}

/// What a probe sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Held(From),
    Absent,
    Drifted(String),
}

/// The note beside the link.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    key: String,
    from: Option<String>,
    to: String,
    /// None in notes of 0.1.0.
    epoch: Option<Epoch>,
}

impl Note {
    fn parse(text: &str) -> Option<Self> {
        let members = json::object(text);
        let member = |name| members.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = members.get("epoch").and_then(Value::as_u64);
        let epoch = number.zip(member("lineage")).map(|(number, lineage)| Epoch { number, lineage });
        Some(Self { key: member("key")?, from: member("from"), to: member("to")?, epoch })
    }

    fn text(&self) -> String {
        let mut note = json!({ "key": self.key, "from": self.from, "to": self.to });
        if let Some(Epoch { number, lineage }) = &self.epoch {
            note["epoch"] = (*number).into();
            note["lineage"] = lineage.as_str().into();
        }
        json::text(&note)
    }

    fn from(&self) -> From {
        self.from.clone().map_or(From::Nothing, From::Path)
    }
}

impl Place {
    pub(crate) fn new(dir: String, link: String, epoch: Epoch) -> Self {
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

    pub(crate) fn live(&self) -> Result<Live, Failure> {
        match fs::metadata_of_link(&self.path())?.map(|found| found.file_type) {
            None => Ok(Live::Nothing),
            Some(FileType::Link) => match fs::read_link(&self.path()) {
                Ok(text) => Ok(self.inward(&text).map_or(Live::Outside, Live::At)),
                Err(failure) if failure.kind == FailureKind::Denied => Ok(Live::Outside),
                Err(failure) => Err(failure),
            },
            Some(FileType::File | FileType::Directory | FileType::Other) => Ok(Live::NoLink),
        }
    }

    pub(crate) fn has_folder(&self, path: &str) -> Result<bool, Failure> {
        Ok(fs::metadata(&format!("{}/{path}", self.dir))?.is_some_and(|found| found.file_type == FileType::Directory))
    }

    pub(crate) fn target_exists(&self, to: &str) -> Result<(), Failure> {
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
    pub(crate) fn switch(&self, key: &str, to: &str, is_live_already: bool) -> Result<From, Failure> {
        let note = self.unfenced()?.filter(|note| note.to == to);
        let from = match self.live()? {
            Live::NoLink => return Err(self.no_link()),
            Live::Outside => return Err(self.outside()),
            Live::At(now) if now == to => match note {
                Some(note) if note.key == key || !is_live_already => note.from,
                Some(_) | None => Some(now),
            },
            Live::At(now) => Some(now),
            Live::Nothing => note.and_then(|note| note.from),
        };
        let note = Note { key: key.to_owned(), from, to: to.to_owned(), epoch: Some(self.epoch.clone()) };
        if self.live()? == Live::At(to.to_owned()) {
            self.write_note(&note)?;
            self.remove_new()?;
        } else {
            self.replace(&note)?;
        }
        Ok(note.from())
    }

    pub(crate) fn probe(&self, to: &str) -> Result<Seen, Failure> {
        let (live, note) = (self.live()?, self.note()?);
        let under_way =
            fs::metadata_of_link(&self.new_link())?.is_some() || fs::exists(&format!("{}.new", self.note_path()))?;
        Ok(match (live, note) {
            // Not held yet, though it looks so: the next `apply` keeps the link and tidies up.
            (Live::At(now), _) if now == to && under_way => Seen::Absent,
            (Live::At(now), note) if now == to => {
                Seen::Held(note.filter(|note| note.to == to).map_or(From::Unknown, |note| note.from()))
            }
            (Live::Nothing, _) => Seen::Absent,
            (Live::NoLink, _) => Seen::Drifted(format!("`{}` is not a link but a file or folder", self.path())),
            (Live::Outside, _) => {
                Seen::Drifted(format!("`{}` leads out of `{}`, not to `{to}`", self.path(), self.dir))
            }
            // It never came to the note, so nothing was switched.
            (Live::At(_), None) => Seen::Absent,
            (Live::At(now), Some(note)) if note.to == to => {
                if under_way && note.from.as_deref() == Some(&now) {
                    Seen::Absent
                } else {
                    Seen::Drifted(format!("`{}` leads to `{now}`, but this step made it lead to `{to}`", self.path()))
                }
            }
            (Live::At(now), Some(note)) if now == note.to || note.from.as_deref() == Some(&now) => Seen::Absent,
            (Live::At(now), Some(note)) => Seen::Drifted(format!(
                "`{}` leads to `{now}`, neither to `{to}` nor to `{}`, where the last switch put it",
                self.path(),
                note.to
            )),
        })
    }

    /// Makes the link lead back, from `to` only.
    pub(crate) fn revert(&self, key: &str, to: &str, back: &From) -> Result<(), Failure> {
        let back = match back {
            From::Path(path) => Some(path.as_str()),
            From::Nothing => None,
            From::Unknown => {
                return Err(Failure::permanent(format!(
                    "what `{}` led to before `{to}` is not known any more",
                    self.path()
                ))
                .hint(format!("choose a folder in `{}/releases` and deploy its release again", self.dir)));
            }
        };
        self.unfenced()?;
        let live = match self.live()? {
            Live::At(path) => Some(path),
            Live::Nothing => None,
            Live::Outside => return Err(self.outside()),
            Live::NoLink => return Err(self.no_link()),
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
            self.unfenced()?;
            fs::remove(&self.path())?;
            fs::remove(&self.note_path())?;
            fs::remove(&format!("{}.new", self.note_path()))?;
            return self.remove_new();
        };
        self.target_exists(back)?;
        // What was live before `back` is of no use to anybody now: switching to it again starts a new story.
        let epoch = Some(self.epoch.clone());
        let note = Note { key: key.to_owned(), from: Some(back.to_owned()), to: back.to_owned(), epoch };
        if live.as_deref() == Some(back) {
            self.write_note(&note)?;
            return self.remove_new();
        }
        self.replace(&note)
    }

    pub(crate) fn no_link(&self) -> Failure {
        Failure::conflict(format!("`{}` is a file or folder, not a symbolic link; it is left alone", self.path())).hint(
            format!(
                "move it away, or into `{}/releases/` and link to it: `ln -s releases/<name> {}`",
                self.dir, self.link
            ),
        )
    }

    pub(crate) fn outside(&self) -> Failure {
        Failure::conflict(format!(
            "`{}` is a link with an absolute path, or one that leads out of `{}`",
            self.path(),
            self.dir
        ))
        .hint(format!("make it relative, so that it can be restored: `ln -sfn releases/<name> {}`", self.link))
    }

    fn replace(&self, note: &Note) -> Result<(), Failure> {
        let (new, text) = (self.new_link(), self.outward(&note.to));
        // A leftover with the right text is kept: without it, a kill right here would look like a move by hand.
        if fs::read_link(&new).ok().as_deref() != Some(text.as_str()) {
            self.remove_new()?;
            fs::symlink(&text, &new)?;
        }
        self.write_note(note)?;
        self.unfenced()?;
        fs::rename(&new, &self.path())
    }

    /// The note, unless an attempt after this one wrote it.
    fn unfenced(&self) -> Result<Option<Note>, Failure> {
        let note = self.note()?;
        let newer = note.as_ref().and_then(|note| note.epoch.as_ref());
        match newer.filter(|epoch| epoch.lineage == self.epoch.lineage && epoch.number > self.epoch.number) {
            None => Ok(note),
            Some(Epoch { number, .. }) => Err(Failure::conflict(format!(
                "a newer deployment, epoch {number}, has switched `{}` since; this one, epoch {}, is over",
                self.path(),
                self.epoch.number
            ))
            .hint("see `runner history`: which deployment is it, and who released the lock of this one?")),
        }
    }

    fn remove_new(&self) -> Result<(), Failure> {
        match fs::metadata_of_link(&self.new_link())?.map(|found| found.file_type) {
            None => Ok(()),
            Some(FileType::Directory) => blobs::remove(&self.dir, &self.hidden("new")),
            Some(FileType::File | FileType::Link | FileType::Other) => fs::remove(&self.new_link()),
        }
    }

    fn note(&self) -> Result<Option<Note>, Failure> {
        let path = self.note_path();
        if !fs::exists(&path)? {
            return Ok(None);
        }
        let note = Note::parse(&fs::read_text(&path)?);
        if note.is_none() {
            log::warn(format!("`{path}` is not what this step wrote, and is not used"));
        }
        Ok(note)
    }

    fn write_note(&self, note: &Note) -> Result<(), Failure> {
        if self.note()?.as_ref() == Some(note) && !fs::exists(&format!("{}.new", self.note_path()))? {
            return Ok(());
        }
        fs::write_atomic(&self.note_path(), note.text().as_bytes())
    }

    fn note_path(&self) -> String {
        format!("{}/{}", self.dir, self.hidden("switch"))
    }

    fn new_link(&self) -> String {
        format!("{}/{}", self.dir, self.hidden("new"))
    }

    /// A hidden name beside the link, relative to the directory.
    fn hidden(&self, what: &str) -> String {
        match self.link.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/.{name}.{what}"),
            None => format!(".{}.{what}", self.link),
        }
    }

    /// The link's text for a path in the directory.
    fn outward(&self, path: &str) -> String {
        format!("{}{path}", "../".repeat(self.link.matches('/').count()))
    }

    /// The path in the directory for a link's text; `None` when it leads out.
    fn inward(&self, text: &str) -> Option<String> {
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
