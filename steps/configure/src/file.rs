//! One file: its candidate beside it, what was there before, and what was rendered last.
//!
//! The names in `.pawl` of the directory: `before/<key>/<name>` is what was there before the step with this key, or a link to nothing;
//! `last/<name>` is a copy of what the last deployment rendered, by which an edit is noticed. It has `.pawl-next` at its end until the
//! programs have accepted the file, so that a killed deployment is finished, and its file is not taken for an edit. `older/<key>/<name>` is
//! that copy as it was before this step, which returns with what was there before.

use pawl_step::files::{self, FileStatus, Ownership, Template};
use pawl_step::{Failure, FailureKind};
use serde::Deserialize;
use serde_json::Value;

use crate::Configuration;

/// How many characters of the idempotency key a name has.
const KEY_CHARS: usize = 12;

/// A file that is rendered from a template.
#[derive(Debug)]
pub(crate) struct ConfiguredFile {
    /// The place of the template.
    pub(crate) source: String,
    /// The place of the file.
    pub(crate) to: String,
    ownership: Ownership,
    /// The directory of the grant.
    dir: String,
    /// The place of what was there before this step.
    before: String,
    /// The place of what was rendered last.
    last: String,
    /// The place of what had been rendered last before this step.
    older: String,
    /// The place of the same, until programs have accepted it.
    next: String,
}

/// What is in place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileState {
    /// What the template gives.
    Ours,
    /// What was there before.
    Before,
    /// Something else.
    Edited,
}

#[derive(Deserialize)]
struct WrittenFile {
    to: String,
    #[serde(flatten)]
    ownership: Ownership,
}

impl ConfiguredFile {
    pub(crate) fn new(source: &str, to: &Value, key: &str) -> Result<Self, Failure> {
        let written = match to.as_str() {
            Some(to) => WrittenFile { to: to.to_owned(), ownership: Ownership::default() },
            None => serde_json::from_value(to.clone())
                .map_err(|error| Failure::invalid_config(format!("`templates` of `{source}`: {error}")))?,
        };
        let to = written.to.trim_start_matches('/').to_owned();
        let Some((dir, path)) = to.split_once('/').filter(|(_, path)| !path.is_empty()) else {
            return Err(Failure::invalid_config(format!("`{to}` is not a file in a directory of `renders`"))
                .hint("write `DIR/PATH`, such as `conf/shop.conf`"));
        };
        let name = path.replace('/', "__");
        let key = &key[..key.len().min(KEY_CHARS)];
        Ok(Self {
            source: source.to_owned(),
            ownership: written.ownership,
            before: format!("{dir}/.pawl/before/{key}/{name}"),
            last: format!("{dir}/.pawl/last/{name}"),
            older: format!("{dir}/.pawl/older/{key}/{name}"),
            next: format!("{dir}/.pawl/last/{name}.pawl-next"),
            dir: dir.to_owned(),
            to,
        })
    }

    pub(crate) fn status(&self) -> Result<Option<FileStatus>, Failure> {
        files::status(&self.to)
    }

    pub(crate) fn template<'c>(&'c self, configuration: &'c Configuration) -> Template<'c> {
        Template { place: &self.source, values: &configuration.values, secrets: &configuration.secrets }
    }

    /// Refuses a file that differs from what was rendered last, unless it is what the template gives now.
    pub(crate) fn refuse_edited(&self, configuration: &Configuration) -> Result<(), Failure> {
        let is_known = files::status(&self.last)?.is_some();
        if !is_known || self.status()?.is_none() || self.is_begun()? {
            return Ok(());
        }
        let is_ours = files::are_equal(&self.to, &self.last)? || files::are_equal(&self.to, &self.next)?;
        if is_ours || self.template(configuration).is_rendered(&self.to)? {
            return Ok(());
        }
        let path = files::path(&self.to)?;
        Err(Failure::new(FailureKind::Conflict, format!("{path} was edited since the last deployment wrote it"))
            .hint(format!("put the change into {}, then move the file away, or restore it", self.source)))
    }

    /// Whether this step has replaced the file.
    fn is_begun(&self) -> Result<bool, Failure> {
        Ok(files::status(&self.before)?.is_some())
    }

    fn candidate(&self) -> String {
        format!("{}.pawl-new", self.to)
    }

    /// The host's path of the candidate.
    pub(crate) fn candidate_path(&self) -> Result<String, Failure> {
        files::path(&self.candidate())
    }

    pub(crate) fn render_candidate(&self, configuration: &Configuration) -> Result<(), Failure> {
        self.template(configuration).render(&self.candidate(), &self.ownership).map(|_| ())
    }

    pub(crate) fn remove_candidate(&self) -> Result<(), Failure> {
        files::remove(&self.candidate())
    }

    /// Puts the candidate in place, and keeps what was there.
    pub(crate) fn place(&self, configuration: &Configuration) -> Result<(), Failure> {
        let ownership = Ownership { mode: Some("0600".to_owned()), ..Ownership::default() };
        self.template(configuration).render(&self.next, &ownership)?;
        files::rename(&self.candidate(), &self.to, Some(&self.before))
    }

    /// The place of the file, if this step has changed what was there.
    pub(crate) fn has_changed(&self) -> Result<Option<&str>, Failure> {
        let is_new = self.kept_kind()?.as_deref() == Some("link");
        Ok((is_new || !files::are_equal(&self.to, &self.before)?).then_some(self.to.as_str()))
    }

    /// Remembers what was rendered, and forgets what other steps have kept.
    pub(crate) fn remember(&self) -> Result<(), Failure> {
        files::rename(&self.next, &self.last, Some(&self.older))?;
        for (folder, own) in [("before", &self.before), ("older", &self.older)] {
            let kept = format!("{}/.pawl/{folder}", self.dir);
            for name in files::names(&kept)? {
                if !own.starts_with(&format!("{kept}/{name}/")) {
                    files::remove(&format!("{kept}/{name}"))?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn state(&self, configuration: &Configuration) -> Result<FileState, Failure> {
        if self.template(configuration).is_rendered(&self.to)? {
            // What was rendered is remembered last. Until then a program has perhaps still to be told, or somebody else has written the same.
            return Ok(if files::are_equal(&self.to, &self.last)? { FileState::Ours } else { FileState::Before });
        }
        let is_there = self.status()?.is_some();
        Ok(match self.kept_kind()?.as_deref() {
            None => FileState::Before,
            Some("link") if !is_there => FileState::Before,
            Some("file") if files::are_equal(&self.to, &self.before)? => FileState::Before,
            Some(_) => FileState::Edited,
        })
    }

    /// Puts back what was there before. Returns whether anything changed.
    pub(crate) fn put_back(&self) -> Result<bool, Failure> {
        match self.kept_kind()?.as_deref() {
            None => Ok(false),
            Some("link") => {
                self.put_last_back()?;
                files::remove(&self.to)?;
                files::remove(&self.before)?;
                Ok(true)
            }
            Some(_) => {
                let is_changed = !files::are_equal(&self.to, &self.before)?;
                self.put_last_back()?;
                files::rename(&self.before, &self.to, None)?;
                Ok(is_changed)
            }
        }
    }

    /// Puts back what was rendered last before this step, so that an edit of the old file is noticed.
    fn put_last_back(&self) -> Result<(), Failure> {
        let older = files::status(&self.older)?.map(|status| status.kind);
        match older.as_deref() {
            Some("file") => files::rename(&self.older, &self.last, None)?,
            Some(_) => {
                files::remove(&self.older)?;
                files::remove(&self.last)?;
            }
            // It failed before it was remembered, or an undo was killed.
            None if files::status(&self.next)?.is_some() || files::are_equal(&self.last, &self.before)? => {}
            None => files::remove(&self.last)?,
        }
        files::remove(&self.next)
    }

    /// What is kept of the time before this step: a file, or a link to nothing.
    fn kept_kind(&self) -> Result<Option<String>, Failure> {
        Ok(files::status(&self.before)?.map(|status| status.kind))
    }
}
