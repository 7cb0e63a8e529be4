//! What a slot holds, and for whom: the file `slot.json`.

use serde_json::{Map, Value, json};

use crate::fs::{self, FileType};
use crate::{Failure, Input, json};

/// What a slot holds. JSON: `{"app": "shop", "environment": "prod", "step": "start", "release": "sha256:…", "label": "v1", "input-hash": "…",
/// "key": "…", "epoch": 7, "lineage": "…", "engine-id": "…" or null, "state": "starting" or "ready"}`. Other members are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRecord {
    /// The application.
    pub app: String,
    /// The environment.
    pub environment: String,
    /// The step in the plan.
    pub step: String,
    /// The digest of the release, or its label if it has no digest.
    pub release: String,
    /// The label of the release.
    pub label: String,
    /// The hash of what the step depends on besides the release.
    pub input_hash: String,
    /// The idempotency key.
    pub key: String,
    /// The attempt.
    pub epoch: SlotEpoch,
    /// What the engine calls it.
    pub engine_id: Option<String>,
    /// How far it came.
    pub state: SlotState,
}

/// The epoch of an attempt: its number, and the lineage that counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotEpoch {
    /// The number.
    pub number: u64,
    /// The lineage. Epochs of different lineages can't be compared.
    pub lineage: String,
}

/// How far the program in a slot came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// It is being started, or that was interrupted.
    Starting,
    /// It was ready.
    Ready,
}

impl SlotEpoch {
    /// Refuses an attempt of the same lineage that is older. `place` is what the record is about.
    ///
    /// # Errors
    /// The attempt is older.
    pub fn refuse_late<C>(&self, input: &Input<C>, place: &str) -> Result<(), Failure> {
        if self.lineage != input.lineage || self.number <= input.epoch {
            return Ok(());
        }
        Err(Failure::conflict(format!(
            "a newer deployment (epoch {}) has used `{place}`; this deployment (epoch {}) must not",
            self.number, input.epoch
        ))
        .hint("`runner history` shows the newer deployment; find out who released this deployment's lock"))
    }
}

impl SlotRecord {
    /// Reads the record in the folder of a slot; none if the slot is empty.
    ///
    /// # Errors
    /// It can't be read, or no module wrote it.
    pub fn read(place: &str) -> Result<Option<Self>, Failure> {
        let path = super::record_place(place);
        match fs::metadata_of_link(&path)?.map(|found| found.file_type) {
            None => return Ok(None),
            Some(FileType::File) => {}
            Some(FileType::Directory | FileType::Link | FileType::Other) => return Err(not_ours(&path)),
        }
        Self::parse(&fs::read_text(&path)?).map(Some).ok_or_else(|| not_ours(&path))
    }

    /// Whether the slot holds this application's release of an input, whichever step has started it.
    #[must_use]
    pub fn holds_release<C>(&self, input: &Input<C>) -> bool {
        self.is_of_app(input) && self.release == release_of(input)
    }

    /// The record of this input, as it is being started.
    #[must_use]
    pub fn starting<C>(input: &Input<C>, engine_id: Option<String>) -> Self {
        Self {
            app: input.app.clone(),
            environment: input.environment.clone(),
            step: input.step.clone(),
            release: release_of(input),
            label: input.release.label.clone(),
            input_hash: input.input_hash.clone(),
            key: input.key.clone(),
            epoch: SlotEpoch { number: input.epoch, lineage: input.lineage.clone() },
            engine_id,
            state: SlotState::Starting,
        }
    }

    /// The same with another state.
    #[must_use]
    pub fn with_state(self, state: SlotState) -> Self {
        Self { state, ..self }
    }

    /// Whether this step has started the same release.
    pub fn is_of_release<C>(&self, input: &Input<C>) -> bool {
        self.is_of_step(input) && self.release == release_of(input)
    }

    fn is_of_step<C>(&self, input: &Input<C>) -> bool {
        self.is_of_app(input) && self.step == input.step
    }

    fn is_of_app<C>(&self, input: &Input<C>) -> bool {
        self.app == input.app && self.environment == input.environment
    }

    /// Refuses what another app or environment has started.
    pub(super) fn refuse_other_app<C>(&self, input: &Input<C>, place: &str) -> Result<(), Failure> {
        if self.is_of_app(input) {
            return Ok(());
        }
        Err(Failure::conflict(format!("`{place}` holds {} of environment {}", self.app, self.environment))
            .hint("give each app and environment its own directory"))
    }

    /// Refuses what another app, environment or step has started.
    ///
    /// # Errors
    /// It is not this step's.
    pub fn refuse_foreign<C>(&self, input: &Input<C>, place: &str) -> Result<(), Failure> {
        self.refuse_other_app(input, place)?;
        if self.is_of_step(input) {
            return Ok(());
        }
        Err(Failure::conflict(format!("`{place}` holds what step `{}` has started, not `{}`", self.step, input.step))
            .hint(
                "give each step slots and a link of its own: `slots: { worker-a: {}, worker-b: {} }`, `link: worker`; \
                 if the step was renamed, write its new name into slot.json there",
            ))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::from_json(&json::object(text))
    }

    pub(super) fn to_json_text(&self) -> String {
        json::text(&self.to_json())
    }

    /// The record of its JSON; none if a member is missing.
    #[must_use]
    pub fn from_json(members: &Map<String, Value>) -> Option<Self> {
        let member = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            app: member("app")?,
            environment: member("environment")?,
            step: member("step")?,
            release: member("release")?,
            label: member("label")?,
            input_hash: member("input-hash")?,
            key: member("key")?,
            epoch: SlotEpoch { number: members.get("epoch")?.as_u64()?, lineage: member("lineage")? },
            engine_id: member("engine-id"),
            state: match member("state")?.as_str() {
                "ready" => SlotState::Ready,
                // A newer state is one that this version can't rely on.
                _ => SlotState::Starting,
            },
        })
    }

    /// Its JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let state = match self.state {
            SlotState::Starting => "starting",
            SlotState::Ready => "ready",
        };
        json!({
            "app": self.app, "environment": self.environment, "step": self.step, "release": self.release, "label": self.label,
            "input-hash": self.input_hash, "key": self.key, "epoch": self.epoch.number, "lineage": self.epoch.lineage,
            "engine-id": self.engine_id, "state": state,
        })
    }
}

/// The digest of the release, or its label.
fn release_of<C>(input: &Input<C>) -> String {
    match &input.release.digest {
        Some(digest) => digest.as_str().to_owned(),
        None => input.release.label.clone(),
    }
}

/// The failure for a record that no module wrote.
fn not_ours(path: &str) -> Failure {
    Failure::conflict(format!("`{path}` is not the record of a slot, so this step leaves the slot as it is"))
        .hint("stop what runs there, and move the folder away")
}
