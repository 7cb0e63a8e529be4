//! Slots: places where two releases run side by side, of which one has the traffic.
//!
//! A slot is the folder `slots/<name>` of a granted directory, with two files. `slot.json` says what was started there; see [`SlotRecord`].
//! `is-<name>` is empty: a proxy that looks for `live/is-b` learns by one look-up which slot has the traffic, because the link `live` leads
//! to its folder.
//!
//! Invariant: the slot that the link leads to is never stopped or replaced, unless it is the only one. An attempt that is older than
//! one that has written a record changes nothing.
//!
//! Deliberately absent: whatever starts a program. A module does that between the two records that it writes, as a [`SlotEngine`].

mod engine;
mod program;
mod ready;
mod record;
mod start;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use engine::{ProgramInfo, SlotEngine, SlotLaunch, SlotProgramState, SlotStarter};
pub use program::{ProgramConfig, SlotFiles, one_line};
pub use ready::{ReadyConfig, ReadyHttpCheck};
pub use record::{SlotEpoch, SlotRecord, SlotState};

use crate::fs::{self, FileType};
use crate::{Failure, FailureKind, Input, files, json};

/// The folder of the slots.
pub const FOLDER: &str = "slots";
/// The link that has the traffic.
const DEFAULT_LINK: &str = "live";

/// The settings that modules with slots have in common. Modules with `deny_unknown_fields` can't flatten it, so each field is one of theirs.
#[derive(Debug, Clone, Default)]
pub struct SlotSettings<'c> {
    /// The setting `in`.
    pub dir: Option<&'c str>,
    /// The setting `link`.
    pub link: Option<&'c str>,
    /// The setting `slots`, each with its settings.
    pub slots: Option<&'c Map<String, Value>>,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The port of its program.
    pub port: Option<u16>,
}

/// The slots of a step, with what each of them holds.
#[derive(Debug)]
pub struct SlotSet {
    dir: String,
    link: String,
    slots: Vec<(Slot, Option<SlotRecord>)>,
    linked: Option<String>,
}

/// A slot that a step may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenSlot {
    /// The slot.
    pub slot: Slot,
    /// What it holds.
    pub record: Option<SlotRecord>,
    /// Whether it has the traffic.
    pub is_linked: bool,
    /// Whether it holds this release with this configuration: perhaps only begun.
    pub is_of_input: bool,
}

/// Which slots a step stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopSelection {
    /// The slot that had the traffic before the last switch.
    Previous,
    /// Each slot without traffic.
    Idle,
}

/// What texts such as `{slot-dir}` stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotValues {
    slot: Option<Slot>,
    slot_dir: Option<String>,
    release_dir: Option<String>,
}

impl Slot {
    /// Its folder, relative to the granted directory: what the link points to.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{FOLDER}/{}", self.name)
    }
}

impl SlotSet {
    /// Reads the slots. `others` are the granted directories that are for something else.
    ///
    /// # Errors
    /// An invalid setting, a link that can't be followed, or a record that can't be read.
    pub fn read<C>(input: &Input<C>, settings: &SlotSettings<'_>, others: &[&str]) -> Result<Self, Failure> {
        let dir = input.dir("in", settings.dir, others)?;
        let link = fs::relative("link", settings.link.unwrap_or(DEFAULT_LINK))?;
        let mut set = Self { dir, link, slots: Vec::new(), linked: None };
        for slot in parse_slots(settings.slots)? {
            let record = set.record(&slot)?;
            set.slots.push((slot, record));
        }
        set.linked = set.linked_slot()?;
        Ok(set)
    }

    /// The granted directory.
    #[must_use]
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// The folder of a slot, with the directory's name.
    #[must_use]
    pub fn place(&self, slot: &Slot) -> String {
        format!("{}/{}", self.dir, slot.path())
    }

    /// The folder of all slots, with the directory's name. Programs in the slots can't write to it.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{FOLDER}", self.dir)
    }

    /// All slots, with what they hold.
    pub fn slots(&self) -> impl Iterator<Item = &(Slot, Option<SlotRecord>)> {
        self.slots.iter()
    }

    /// Whether a slot may have the traffic: the link leads to it, or to none at all.
    pub(super) fn may_serve(&self, slot: &Slot) -> bool {
        self.is_linked(slot) || (self.linked.is_none() && !self.is_single())
    }

    /// Whether a slot has the traffic.
    #[must_use]
    pub fn is_linked(&self, slot: &Slot) -> bool {
        self.linked.as_ref() == Some(&slot.name)
    }

    /// The slot for this input: one that holds this release and configuration, or else a [free](Self::free) one.
    ///
    /// # Errors
    /// As for [`free`](Self::free).
    pub fn choose<C>(&self, input: &Input<C>) -> Result<ChosenSlot, Failure> {
        match self.slots_of_input(input).into_iter().next() {
            Some(chosen) => {
                self.refuse_late(input)?;
                Ok(chosen)
            }
            None => self.free(input),
        }
    }

    /// The slots that hold this release with this configuration, perhaps only begun; first the one with the traffic.
    #[must_use]
    pub fn slots_of_input<C>(&self, input: &Input<C>) -> Vec<ChosenSlot> {
        let mut found = self.slots_of_release(input);
        found.retain(|chosen| chosen.is_of_input);
        found
    }

    /// The slots that hold this release, perhaps with another configuration or only begun; first the one with the traffic.
    #[must_use]
    pub fn slots_of_release<C>(&self, input: &Input<C>) -> Vec<ChosenSlot> {
        let mut found: Vec<ChosenSlot> = Vec::new();
        for (slot, record) in &self.slots {
            if let Some(record) = record.as_ref().filter(|record| record.is_of_release(input)) {
                let at = if self.is_linked(slot) { 0 } else { found.len() };
                found.insert(at, self.chosen(slot, Some(record), record.input_hash == input.input_hash));
            }
        }
        found
    }

    /// A slot without traffic: an empty one first, then the one whose program was started the longest time ago. A single slot is always free.
    ///
    /// # Errors
    /// A slot is not of this step, or a newer deployment has written a record.
    pub fn free<C>(&self, input: &Input<C>) -> Result<ChosenSlot, Failure> {
        self.free_beside(input, &[])
    }

    /// The same, but not one of the `busy` slots.
    pub(super) fn free_beside<C>(&self, input: &Input<C>, busy: &[&Slot]) -> Result<ChosenSlot, Failure> {
        self.refuse_late(input)?;
        let is_free = |slot: &Slot| self.is_single() || !(self.is_linked(slot) || busy.contains(&slot));
        let used_at = |record: &Option<SlotRecord>| record.as_ref().map_or(0, |record| record.epoch.number + 1);
        let free = self.slots.iter().filter(|(slot, _)| is_free(slot)).min_by_key(|(_, record)| used_at(record));
        let (slot, record) = free.ok_or_else(|| self.no_free_slot())?;
        // Also if another one is empty: two steps would take each other's slots in turn.
        for (slot, record) in &self.slots {
            if let Some(record) = record {
                record.refuse_foreign(input, &self.place(slot))?;
            }
        }
        Ok(self.chosen(slot, record.as_ref(), false))
    }

    fn no_free_slot(&self) -> Failure {
        if self.linked.is_some() {
            return Failure::conflict("no slot is without traffic").hint("add a slot to the step's `slots`");
        }
        Failure::conflict(format!(
            "`{}/{}` leads to no slot, and a program runs in each of them, so it can't be told which one serves",
            self.dir, self.link
        ))
        .hint("let `link` name the link that the step `switch` moves; if no program serves yet, stop one of them")
    }

    /// Whether there is one slot, in which each release replaces the one before.
    pub(super) fn is_single(&self) -> bool {
        self.slots.len() == 1
    }

    fn chosen(&self, slot: &Slot, record: Option<&SlotRecord>, is_of_input: bool) -> ChosenSlot {
        ChosenSlot { slot: slot.clone(), record: record.cloned(), is_linked: self.is_linked(slot), is_of_input }
    }

    /// The slots to stop. Never the one with the traffic, nor one of another app or environment.
    ///
    /// # Errors
    /// A newer deployment has written a record, or nothing has the traffic, so that it can't be told what is idle.
    pub fn to_stop<C>(&self, input: &Input<C>, selection: StopSelection) -> Result<Vec<(Slot, SlotRecord)>, Failure> {
        self.refuse_late(input)?;
        if self.linked.is_none() {
            return Err(Failure::conflict(format!(
                "`{}/{}` leads to no slot, so no slot is idle",
                self.dir, self.link
            ))
            .hint("stop slots in a hook `after`, when the switch has made one live"));
        }
        let previous = self.previous_slot()?;
        let mut found = Vec::new();
        for (slot, record) in &self.slots {
            let is_selected = selection == StopSelection::Idle || previous.as_ref() == Some(&slot.name);
            match record {
                Some(record) if is_selected && !self.is_linked(slot) => {
                    record.refuse_other_app(input, &self.place(slot))?;
                    found.push((slot.clone(), record.clone()));
                }
                Some(_) | None => {}
            }
        }
        Ok(found)
    }

    /// Writes what a slot holds. The folder is created.
    ///
    /// # Errors
    /// A newer deployment has written a record, or the file can't be written.
    pub fn write<C>(&self, input: &Input<C>, slot: &Slot, record: &SlotRecord) -> Result<(), Failure> {
        self.refuse_late(input)?;
        let place = self.place(slot);
        fs::create_dir_all(&place)?;
        let mark = format!("{place}/is-{}", slot.name);
        if !fs::exists(&mark)? {
            fs::write_atomic(&mark, b"")?;
        }
        fs::write_atomic(&record_place(&place), record.to_json_text().as_bytes())
    }

    /// Removes the record of a slot: it is empty.
    ///
    /// # Errors
    /// A newer deployment has written a record, or the file can't be removed.
    pub fn clear<C>(&self, input: &Input<C>, slot: &Slot) -> Result<(), Failure> {
        self.refuse_late(input)?;
        fs::remove(&record_place(&self.place(slot)))
    }

    /// Removes the sockets of a program that does not run any more.
    ///
    /// # Errors
    /// The folder can't be read, or a socket not removed.
    pub(crate) fn clear_sockets(&self, slot: &Slot) -> Result<(), Failure> {
        let place = self.place(slot);
        if !fs::exists(&place)? {
            return Ok(());
        }
        for entry in fs::list(&place)? {
            if entry.file_type == FileType::Other {
                fs::remove(&format!("{place}/{}", entry.name))?;
            }
        }
        Ok(())
    }

    /// Refuses an attempt that is older than one that has written a record. Call it before each effect outside of this directory.
    ///
    /// # Errors
    /// There is a newer one.
    pub fn refuse_late<C>(&self, input: &Input<C>) -> Result<(), Failure> {
        for (slot, _) in &self.slots {
            if let Some(record) = self.record(slot)? {
                record.epoch.refuse_late(input, &self.place(slot))?;
            }
        }
        Ok(())
    }

    /// The values of texts for a slot.
    ///
    /// # Errors
    /// The directory is not granted.
    pub fn values<C>(&self, input: &Input<C>, slot: &Slot) -> Result<SlotValues, Failure> {
        let release_dir = match self.upstream_path(input) {
            Some(path) => Some(files::path(&format!("{}/{path}", self.dir))?),
            None => None,
        };
        Ok(SlotValues { slot: Some(slot.clone()), slot_dir: Some(files::path(&self.place(slot))?), release_dir })
    }

    /// The `path` that an earlier step returned for this directory.
    fn upstream_path<'a, C>(&self, input: &'a Input<C>) -> Option<&'a str> {
        let is_here = |outputs: &&Value| outputs.get("dir").and_then(Value::as_str) == Some(&self.dir);
        input.outputs.values().filter(is_here).find_map(|outputs| outputs.get("path")?.as_str())
    }

    fn record(&self, slot: &Slot) -> Result<Option<SlotRecord>, Failure> {
        let place = self.place(slot);
        match fs::metadata_of_link(&place)?.map(|found| found.file_type) {
            None => return Ok(None),
            Some(FileType::Directory) => {}
            Some(FileType::File | FileType::Link | FileType::Other) => {
                return Err(Failure::conflict(format!("`{place}` is not a folder, so it can't be a slot"))
                    .hint("move it away, or name the slot differently"));
            }
        }
        SlotRecord::read(&place)
    }

    /// The slot that the link leads to.
    fn linked_slot(&self) -> Result<Option<String>, Failure> {
        let path = format!("{}/{}", self.dir, self.link);
        let text = match fs::metadata_of_link(&path)?.map(|found| found.file_type) {
            None => return Ok(None),
            Some(FileType::Link) => match fs::read_link(&path) {
                Err(failure) if failure.kind == FailureKind::Denied => {
                    return Err(Failure::conflict(format!("`{path}` is a link with an absolute path"))
                        .hint(format!("make it relative: `ln -sfn {FOLDER}/<name> {}` in its folder", self.link)));
                }
                text => text?,
            },
            Some(FileType::File | FileType::Directory | FileType::Other) => {
                return Err(Failure::conflict(format!("`{path}` is not a symbolic link"))
                    .hint("move it away, or name the link that the proxy follows: `link: …`"));
            }
        };
        Ok(self.slot_at(&self.resolve_link_text(&text)))
    }

    /// The slot that the link led to before the last switch, by the note of the module `switch`.
    fn previous_slot(&self) -> Result<Option<String>, Failure> {
        let (folder, name) = self.link.rsplit_once('/').unwrap_or(("", &self.link));
        let note = format!("{}/{folder}/.{name}.switch", self.dir);
        let text = fs::read_text_if_exists(&note)?.unwrap_or_default();
        Ok(json::object(&text).get("from").and_then(Value::as_str).and_then(|path| self.slot_at(path)))
    }

    /// The path in the directory that a link's text leads to.
    fn resolve_link_text(&self, text: &str) -> String {
        let folder = self.link.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut names: Vec<&str> = Vec::new();
        for name in folder.split('/').chain(text.split('/')) {
            match name {
                "" | "." => {}
                ".." => {
                    names.pop();
                }
                name => names.push(name),
            }
        }
        names.join("/")
    }

    fn slot_at(&self, path: &str) -> Option<String> {
        self.slots.iter().find(|(slot, _)| slot.path() == path).map(|(slot, _)| slot.name.clone())
    }
}

impl SlotValues {
    /// The values of a module without slots: none is known.
    #[must_use]
    pub fn none() -> Self {
        Self { slot: None, slot_dir: None, release_dir: None }
    }

    fn port(&self) -> Option<u16> {
        self.slot.as_ref()?.port
    }

    /// Fills `{slot}`, `{slot-dir}`, `{port}` and `{release-dir}` into a text.
    ///
    /// # Errors
    /// The slot has no port, or no earlier step has put a release into the directory.
    pub fn fill(&self, text: &str) -> Result<String, Failure> {
        let mut filled = text.to_owned();
        let port = self.port().map(|port| port.to_string());
        const NO_SLOTS: &str = "this module has no slots";
        for (name, value, hint) in [
            ("{slot}", self.slot.as_ref().map(|slot| &slot.name), NO_SLOTS),
            ("{slot-dir}", self.slot_dir.as_ref(), NO_SLOTS),
            ("{port}", port.as_ref(), "give each slot a port: `slots: { a: { port: 8001 }, b: { port: 8002 } }`"),
            ("{release-dir}", self.release_dir.as_ref(), "add a step `pull` into the same directory before this one"),
        ] {
            if filled.contains(name) {
                let value = value.ok_or_else(|| {
                    Failure::invalid_config(format!("`{text}` has `{name}`, which is not known")).hint(hint)
                })?;
                filled = filled.replace(name, value);
            }
        }
        Ok(filled)
    }
}

fn record_place(place: &str) -> String {
    format!("{place}/slot.json")
}

fn parse_slots(setting: Option<&Map<String, Value>>) -> Result<Vec<Slot>, Failure> {
    let Some(setting) = setting else {
        return Ok(["a", "b"].map(|name| Slot { name: name.to_owned(), port: None }).into());
    };
    let mut slots: Vec<Slot> = Vec::new();
    for (name, settings) in setting {
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if name.is_empty() || !is_name {
            return Err(Failure::invalid_config(format!("`{name}` is not the name of a slot"))
                .hint("use lower-case letters, digits and `-`"));
        }
        let port = match settings.get("port") {
            None => None,
            Some(port) => {
                let number = port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
                let invalid = || Failure::invalid_config(format!("the port of slot `{name}` is not a port"));
                Some(number.ok_or_else(invalid)?)
            }
        };
        if port.is_some() && slots.iter().any(|slot| slot.port == port) {
            return Err(Failure::invalid_config(format!("slot `{name}` has the port of another slot"))
                .hint("programs of two slots run side by side: give each its own port"));
        }
        slots.push(Slot { name: name.clone(), port });
    }
    if slots.is_empty() {
        return Err(
            Failure::invalid_config("`slots` is empty").hint("write `slots: { a: {}, b: {} }`, or leave it out")
        );
    }
    Ok(slots)
}

#[cfg(test)]
#[path = "slots/tests.rs"]
mod tests;
