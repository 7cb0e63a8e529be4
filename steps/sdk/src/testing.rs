//! A stand-in for the host in native tests: folders for grants, archives in memory, and kills.
//!
//! A [`TestSandbox`] belongs to the thread of its test. [`TestSandbox::kill_after`] makes every write after the first
//! `n` fail: the disk then has what a kill at that point leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::{DirectoryAccess, Input, Release, Step};

pub(crate) mod blobs;

thread_local! {
    static STATE: RefCell<SandboxState> = RefCell::default();
}

#[derive(Default)]
struct SandboxState {
    grants: BTreeMap<String, (PathBuf, DirectoryAccess)>,
    archives: BTreeMap<String, ArchiveFixture>,
    /// The number of writes before the kill.
    writes_before_kill: Option<usize>,
}

#[derive(Clone)]
struct ArchiveFixture {
    digest: String,
    files: Vec<(String, String)>,
}

/// The grants and archives of one test; dropping it removes them.
#[derive(Debug)]
#[must_use]
pub struct TestSandbox {
    root: tempfile::TempDir,
}

impl TestSandbox {
    /// Returns a sandbox without grants.
    ///
    /// # Panics
    /// When no temporary folder can be created.
    #[expect(clippy::new_without_default, reason = "it claims the thread")]
    pub fn new() -> Self {
        STATE.take();
        Self { root: tempfile::tempdir().expect("a temporary folder can be created") }
    }

    /// Grants a directory or changes its access, and returns its folder.
    ///
    /// # Panics
    /// When the folder cannot be created.
    pub fn grant(&self, name: &str, access: DirectoryAccess) -> PathBuf {
        let folder = self.root.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder in a temporary folder can be created");
        STATE.with_borrow_mut(|state| state.grants.insert(name.to_owned(), (folder.clone(), access)));
        folder
    }

    /// Provides an archive at `source` with the given files (path, content).
    pub fn archive(&self, source: &str, digest: &str, files: &[(&str, &str)]) {
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        STATE.with_borrow_mut(|state| {
            state.archives.insert(source.to_owned(), ArchiveFixture { digest: digest.to_owned(), files })
        });
    }

    /// Allows the given number of further writes, then none.
    pub fn kill_after(&self, writes: usize) {
        STATE.with_borrow_mut(|state| state.writes_before_kill = Some(writes));
    }

    /// Allows writes again, and returns whether the allowed writes were used up.
    pub fn revive(&self) -> bool {
        STATE.with_borrow_mut(|state| state.writes_before_kill.take() == Some(0))
    }
}

impl Drop for TestSandbox {
    fn drop(&mut self) {
        STATE.take();
    }
}

/// Returns the input of a first local attempt to deploy a release `v1` without a digest, before anything is live. Tests
/// change what they need.
#[must_use]
pub fn input<C>(step: &str, config: C) -> Input<C> {
    Input {
        app: "shop".to_owned(),
        environment: "test".to_owned(),
        run: "1".to_owned(),
        attempt: 1,
        epoch: 1,
        lineage: "0123456789abcdef".to_owned(),
        step: step.to_owned(),
        target: "local".to_owned(),
        key: "0123456789abcdef".to_owned(),
        input_hash: "89abcdef01234567".to_owned(),
        config,
        release: Release { label: "v1".to_owned(), digest: None },
        outputs: Map::new(),
        head: None,
    }
}

/// Asserts that a description follows the contract: a closed schema, a description for each property, and needs that
/// point into the schema.
///
/// # Panics
/// When the description is invalid; the message says why.
pub fn assert_described<S: Step>() {
    let description = S::describe().to_json();
    let (name, schema) = (&description["name"], &description["config"]);
    assert_eq!(schema["additionalProperties"], Value::Bool(false), "the schema of {name} is not closed");
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for (property, schema) in properties {
        assert!(
            schema["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{name}: `{property}` has no description"
        );
    }
    for need in description["needs"].as_array().into_iter().flatten() {
        assert!(need["reason"].as_str().is_some_and(|text| !text.is_empty()), "{name}: a need has no reason");
        if let Some(pointer) = need["config"].as_str() {
            let property = pointer.trim_start_matches('/').split('/').next().unwrap_or_default();
            assert!(
                properties.contains_key(property),
                "{name}: a need points to `{pointer}`, which is not in the schema"
            );
        }
    }
}

pub(crate) fn dirs() -> Vec<String> {
    STATE.with_borrow(|state| state.grants.keys().cloned().collect())
}

pub(crate) fn folder(dir: &str) -> Option<(PathBuf, DirectoryAccess)> {
    STATE.with_borrow(|state| state.grants.get(dir).cloned())
}

/// Takes one of the allowed writes, and returns whether there was one.
pub(crate) fn take_write_permit() -> bool {
    STATE.with_borrow_mut(|state| match &mut state.writes_before_kill {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    })
}

fn archive(source: &str) -> Option<ArchiveFixture> {
    STATE.with_borrow(|state| state.archives.get(source).cloned())
}
