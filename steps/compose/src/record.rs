//! What the project holds, and what it held before: the file `compose/PROJECT.json`.

use pawl_step::slots::{SlotRecord, SlotState};
use pawl_step::{Failure, Input, fs, json};
use serde_json::{Map, Value, json};

/// What the project holds. JSON: `{"stack": {…}, "before": {…} or null}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProjectRecord {
    /// What was brought up last.
    pub(crate) stack: StackRecord,
    /// What was ready before that.
    pub(crate) before: Option<StackRecord>,
}

/// A release as a compose project. JSON: the members of a slot's record, and `file` and `env`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StackRecord {
    /// Whose it is, and how far it came.
    pub(crate) record: SlotRecord,
    /// The place of the compose file.
    pub(crate) file: String,
    /// The variables of the file.
    pub(crate) env: Map<String, Value>,
}

impl StackRecord {
    fn from_json(members: &Map<String, Value>) -> Option<Self> {
        Some(Self {
            record: SlotRecord::from_json(members)?,
            file: members.get("file")?.as_str()?.to_owned(),
            env: members.get("env")?.as_object()?.clone(),
        })
    }

    fn to_json(&self) -> Value {
        let mut json = self.record.to_json();
        json["file"] = self.file.as_str().into();
        json["env"] = Value::Object(self.env.clone());
        json
    }

    /// Whether it is the same release with the same file and variables.
    fn is_same(&self, other: &Self) -> bool {
        self.record.release == other.record.release && self.file == other.file && self.env == other.env
    }

    pub(crate) fn with_state(&self, state: SlotState) -> Self {
        Self { record: self.record.clone().with_state(state), ..self.clone() }
    }
}

impl ProjectRecord {
    /// Reads the record at a place; none if there is no file.
    pub(crate) fn read(place: &str) -> Result<Option<Self>, Failure> {
        let Some(text) = fs::read_text_if_exists(place)? else { return Ok(None) };
        let parsed = Self::parse(&json::object(&text));
        parsed.map(Some).ok_or_else(|| {
            Failure::conflict(format!("`{place}` is not the record of a project, so this step leaves it as it is"))
                .hint("stop the project, and move the file away")
        })
    }

    fn parse(members: &Map<String, Value>) -> Option<Self> {
        let before = match members.get("before") {
            Some(Value::Object(before)) => Some(StackRecord::from_json(before)?),
            Some(_) | None => None,
        };
        Some(Self { stack: StackRecord::from_json(members.get("stack")?.as_object()?)?, before })
    }

    /// Writes it.
    pub(crate) fn write(&self, place: &str) -> Result<(), Failure> {
        if let Some((folder, _)) = place.rsplit_once('/') {
            fs::create_dir_all(folder)?;
        }
        let json = json!({ "stack": self.stack.to_json(), "before": self.before.as_ref().map(StackRecord::to_json) });
        fs::write_atomic(place, json::text(&json).as_bytes())
    }

    /// Refuses an attempt that is older than the one that has written the record.
    pub(crate) fn refuse_late<C>(&self, input: &Input<C>, place: &str) -> Result<(), Failure> {
        self.stack.record.epoch.refuse_late(input, place)
    }

    /// Whether a stack is what was ready last.
    pub(crate) fn is_ready_with(&self, stack: &StackRecord) -> bool {
        self.stack.record.state == SlotState::Ready && self.stack.is_same(stack)
    }

    /// What to go back to if a stack is not ready: what was ready last, unless that is the stack itself.
    pub(crate) fn ready_before(self, stack: &StackRecord) -> Option<StackRecord> {
        let is_ready = self.stack.record.state == SlotState::Ready;
        if is_ready && !self.stack.is_same(stack) { Some(self.stack) } else { self.before }
    }
}

#[cfg(test)]
mod tests {
    use pawl_step::testing::{self, TestSandbox};
    use pawl_step::{Digest, DirectoryAccess};

    use super::*;

    fn input(release: &str) -> Input<()> {
        let mut input = testing::input("up", ());
        let digest: String = release.bytes().map(|byte| format!("{byte:02x}")).collect();
        input.release.label = release.to_owned();
        input.release.digest = Some(Digest::try_from(format!("sha256:{digest:0<64}")).unwrap());
        input
    }

    fn stack(release: &str, state: SlotState) -> StackRecord {
        let env = Map::from_iter([("TAG".to_owned(), release.into())]);
        let record = SlotRecord::starting(&input(release), None).with_state(state);
        StackRecord { record, file: format!("app/releases/{release}/compose.yml"), env }
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let sandbox = TestSandbox::new();
        sandbox.grant("app", DirectoryAccess::Write);
        let place = "app/compose/shop.json";
        assert_eq!(ProjectRecord::read(place).unwrap(), None);
        let before = Some(stack("r1", SlotState::Ready));
        for before in [before, None] {
            let record = ProjectRecord { stack: stack("r2", SlotState::Starting), before };
            record.write(place).unwrap();
            assert_eq!(ProjectRecord::read(place).unwrap(), Some(record));
        }
        fs::write_atomic(place, b"{}").unwrap();
        assert!(ProjectRecord::read(place).unwrap_err().message.contains("not the record of a project"));
    }

    #[test]
    fn release_before_is_the_last_that_was_ready() {
        use SlotState::{Ready, Starting};
        let before = |release: &str, state, before: Option<&str>, of: &str| {
            let before = before.map(|release| stack(release, Ready));
            let found = ProjectRecord { stack: stack(release, state), before }.ready_before(&stack(of, Starting));
            found.map(|stack| stack.record.label)
        };
        assert_eq!(before("r1", Ready, None, "r2").as_deref(), Some("r1"));
        assert_eq!(before("r2", Ready, Some("r1"), "r3").as_deref(), Some("r2"));
        assert_eq!(before("r2", Starting, Some("r1"), "r2").as_deref(), Some("r1"), "killed, and again");
        assert_eq!(before("r2", Starting, Some("r1"), "r3").as_deref(), Some("r1"), "killed, and another one");
        assert_eq!(before("r2", Ready, Some("r1"), "r2").as_deref(), Some("r1"));
        assert_eq!(before("r1", Starting, None, "r1"), None);
        let mut other = stack("r1", Starting);
        other.env.clear();
        let found = ProjectRecord { stack: stack("r1", Ready), before: None }.ready_before(&other);
        assert_eq!(found, Some(stack("r1", Ready)), "the same release with other variables");
    }
}
