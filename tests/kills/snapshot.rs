//! What a deployment leaves behind, seen from outside of the runner: files, rows, and what the journals claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, types::Value as Cell};
use serde_json::Value;

use crate::example_shop::ExampleShop;

const DATABASE: &str = "shop.db";
const LOCK_JOURNAL: &str = "shop.db-migrating-journal";
/// What `switch` remembers beside the link.
const SWITCH_NOTE: &str = ".current.switch";

/// Everything but times.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeploymentSnapshot {
    /// By path in the deployed folder; the database only with its mode.
    files: BTreeMap<String, SnapshotEntry>,
    /// A line for each row and each object of the schema.
    rows: BTreeSet<String>,
    /// What is in the state's folder beside journals, and beside the snapshot before the newest attempt, which only the first
    /// attempt lacks.
    state: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq)]
enum SnapshotEntry {
    Folder { mode: u32 },
    Link(String),
    File { mode: u32, bytes: Vec<u8> },
}

impl fmt::Debug for SnapshotEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { mode } => write!(f, "folder {mode:o}"),
            Self::Link(to) => write!(f, "→ {to}"),
            Self::File { mode, bytes } => write!(f, "file {mode:o} {:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

impl DeploymentSnapshot {
    pub(crate) fn capture(shop: &ExampleShop) -> Result<Self> {
        let mut files = BTreeMap::new();
        walk(&shop.deployed_dir(), "", &mut files)?;
        let mut state = BTreeSet::new();
        for entry in list_dir(&shop.state_dir())? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_journal = name.starts_with("attempt-") && name.ends_with(".journal");
            if !is_journal && name != "snapshot-previous.json" {
                state.insert(name);
            }
        }
        Ok(Self { files, rows: database_rows(&shop.deployed_dir())?, state })
    }

    /// Where `current` leads to.
    pub(crate) fn live_release(&self) -> Option<&str> {
        match self.files.get("current") {
            Some(SnapshotEntry::Link(to)) => Some(to),
            Some(SnapshotEntry::Folder { .. } | SnapshotEntry::File { .. }) | None => None,
        }
    }

    /// What is here and not in `other`, and the other way round; nothing when they are equal.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, item) in &self.files {
            if other.files.get(path) != Some(item) {
                lines.push(format!("+ {path}: {item:?}"));
            }
        }
        for (path, item) in &other.files {
            if self.files.get(path) != Some(item) {
                lines.push(format!("- {path}: {item:?}"));
            }
        }
        lines.extend(self.rows.difference(&other.rows).map(|row| format!("+ {row}")));
        lines.extend(other.rows.difference(&self.rows).map(|row| format!("- {row}")));
        lines.extend(self.state.symmetric_difference(&other.state).map(|name| format!("± state: {name}")));
        lines
    }

    /// Whether the effect that `step` has in the `complete` world is in this one.
    pub(crate) fn has_effect(&self, step: &str, complete: &Self) -> Result<bool> {
        Ok(match step {
            "pull" => {
                let release = complete.live_release().context("the complete world has no live release")?;
                let is_of_release = |path: &str| path.strip_prefix(release).is_some_and(|rest| rest.starts_with('/'));
                let expected: Vec<_> = complete.files.iter().filter(|(path, _)| is_of_release(path)).collect();
                !expected.is_empty() && expected.iter().all(|(path, item)| self.files.get(*path) == Some(item))
            }
            "migrate" => self.rows == complete.rows,
            "switch" => self.live_release() == complete.live_release(),
            other => bail!("`{other}` leaves nothing that can be looked at"),
        })
    }
}

/// All events but those of the first `skipped` attempts; torn last lines are left out.
pub(crate) fn events_after(shop: &ExampleShop, skipped: usize) -> Result<Vec<Value>> {
    let mut events = Vec::new();
    for (_, text) in read_journals(shop)?.into_iter().skip(skipped) {
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (_, json) = line.split_once(' ').context("a line without a checksum")?;
            let mut line: Value = serde_json::from_str(json)?;
            events.push(line["event"].take());
        }
    }
    Ok(events)
}

/// The steps of which the events say that they succeeded, or were found done, and that nothing undoes.
pub(crate) fn succeeded_steps(events: &[Value]) -> BTreeSet<&str> {
    let mut steps = BTreeSet::new();
    for event in events {
        let Some(step) = event["step"].as_str() else { continue };
        if event["result"] == "succeeded" || event["decision"]["action"] == "adopt" {
            steps.insert(step);
        } else if event["type"] == "undo-intent" {
            steps.remove(step);
        }
    }
    steps
}

/// For failure messages: what lies where, and what the journals after the `skipped` ones say last.
pub(crate) fn failure_report(shop: &ExampleShop, skipped: usize) -> Result<String> {
    let mut text = String::new();
    let mut files = BTreeMap::new();
    walk(&shop.deployed_dir(), "", &mut files)?;
    for path in files.keys() {
        text += &format!("    {path}\n");
    }
    for (name, journal) in read_journals(shop)?.into_iter().skip(skipped) {
        text += &format!("  {name}\n");
        let lines: Vec<&str> = journal.lines().collect();
        for line in &lines[lines.len().saturating_sub(4)..] {
            text += &format!("    {}\n", line.chars().take(400).collect::<String>());
        }
    }
    Ok(text)
}

/// The epochs of the attempts that have ended, as `history` shows them.
pub(crate) fn recorded_epochs(shop: &ExampleShop) -> Result<BTreeSet<u64>> {
    let output = shop.run_expecting(&["history", "--limit", "1000", "--json"], 0)?;
    let attempts: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let ended = attempts.iter().filter(|attempt| !attempt["exit"].is_null());
    ended.map(|attempt| attempt["epoch"].as_u64().context("an attempt without an epoch")).collect()
}

/// File name and text, in the order of epochs.
fn read_journals(shop: &ExampleShop) -> Result<BTreeMap<String, String>> {
    let mut journals = BTreeMap::new();
    for entry in list_dir(&shop.state_dir())? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".journal") {
            journals.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(journals)
}

/// Nothing where there is no folder yet.
fn list_dir(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.collect::<Result<_, _>>()?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", folder.display())),
    }
}

fn walk(folder: &Path, inside: &str, files: &mut BTreeMap<String, SnapshotEntry>) -> Result<()> {
    for entry in list_dir(folder)? {
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        // A holder of the migrations' lock that was killed leaves this; the next one that takes it removes it.
        if name == LOCK_JOURNAL {
            continue;
        }
        let metadata = entry.metadata()?;
        let mode = metadata.permissions().mode() & 0o7777;
        let item = if metadata.is_symlink() {
            SnapshotEntry::Link(fs::read_link(entry.path())?.to_string_lossy().into_owned())
        } else if metadata.is_dir() {
            walk(&entry.path(), &format!("{name}/"), files)?;
            SnapshotEntry::Folder { mode }
        } else {
            let bytes = match name.as_str() {
                // Its bytes depend on times; its rows are compared.
                DATABASE => Vec::new(),
                SWITCH_NOTE => without_attempt_members(&fs::read(entry.path())?)?,
                _ => fs::read(entry.path())?,
            };
            anyhow::ensure!(metadata.nlink() == 1, "{name} has {} names", metadata.nlink());
            SnapshotEntry::File { mode, bytes }
        };
        files.insert(name, item);
    }
    Ok(())
}

/// The note without the key of its run: a kill before the run is on record makes the next one another run.
fn without_attempt_members(note: &[u8]) -> Result<Vec<u8>> {
    let mut note: Value = serde_json::from_slice(note)?;
    // Which attempt did it, and where it was counted, differ.
    for member in ["key", "epoch", "lineage"] {
        let found = note.as_object_mut().and_then(|members| members.remove(member));
        found.with_context(|| format!("a note of a switch without {member}"))?;
    }
    Ok(serde_json::to_vec(&note)?)
}

/// The rows of all tables but for times. A copy is read, since reading a database after a kill repairs it.
fn database_rows(deployed: &Path) -> Result<BTreeSet<String>> {
    let copy = tempfile::tempdir()?;
    for name in [DATABASE, "shop.db-journal", "shop.db-wal"] {
        if deployed.join(name).exists() {
            fs::copy(deployed.join(name), copy.path().join(name))?;
        }
    }
    let database = Connection::open(copy.path().join(DATABASE))?;
    let mut lines = BTreeSet::new();
    let schema = query(&database, "SELECT type, name, sql FROM sqlite_schema")?;
    let tables = query(&database, "SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    lines.extend(schema.iter().map(|row| format!("schema {row:?}")));
    for table in tables.iter().flatten() {
        let Cell::Text(name) = table else { bail!("a table's name is no text: {table:?}") };
        // Times differ, and which attempt it was.
        let what = match name.as_str() {
            "_pawl_migrations" => "version, name, checksum FROM _pawl_migrations".to_owned(),
            "_pawl_ledger" => {
                "kind, version, number, state, hash, note FROM _pawl_ledger WHERE kind <> 'fence'".to_owned()
            }
            name => format!("* FROM \"{name}\""),
        };
        let found = query(&database, &format!("SELECT {what}"))?;
        // Numbered, so that a row that is there twice counts twice.
        lines.extend(found.iter().enumerate().map(|(number, row)| format!("{name} {number}: {row:?}")));
    }
    Ok(lines)
}

fn query(database: &Connection, sql: &str) -> Result<Vec<Vec<Cell>>> {
    let mut statement = database.prepare(sql)?;
    let width = statement.column_count();
    let rows = statement.query_map([], |row| (0..width).map(|column| row.get(column)).collect())?;
    Ok(rows.collect::<Result<_, _>>()?)
}
