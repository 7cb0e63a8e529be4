//! `deploy.lock`: the accepted digest and needs of every module that a plan uses. Pure.
//!
//! Invariant: the text is sorted and has one value per line, so that a change is a small diff. Deliberately absent: files,
//! modules, and the consequences of a change.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ModuleRef;
use contract::{Digest, text::dotted_pointer};

/// The version of the form.
///
/// - 1: `{"version": 1, "modules": {NAME: {"version", "digest", "needs": [{"capability", "access"?, "config"?, "reason"}]}}}`.
pub const LOCKFILE_VERSION: u64 = 1;

/// The content of a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lockfile {
    /// The modules, by [`ModuleRef::lock_name`].
    pub modules: BTreeMap<String, ModulePin>,
}

/// One module, as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModulePin {
    /// The module's own version, for people.
    pub version: String,
    /// The SHA-256 digest of its bytes.
    pub digest: Digest,
    /// The capabilities that it asks for.
    pub needs: Vec<PinnedNeed>,
}

/// A capability that a module asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedNeed {
    /// The kind of grant: `dirs`, `http`, …
    pub capability: String,
    /// The access: `ro` or `rw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// The pointer to the grant's name in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The reason, in the module's words. Not compared.
    pub reason: String,
}

/// Why a text is not a valid lock file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockfileError {
    /// The text is not JSON, or has another structure.
    #[error("{0}")]
    Malformed(String),
    /// A newer runner wrote it.
    #[error("it has version {0}; this runner reads versions up to {LOCKFILE_VERSION}")]
    NewerVersion(u64),
}

/// The result of comparing a module with the lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinStatus {
    /// The module is as it was accepted.
    Unchanged,
    /// The module differs from what was accepted.
    Changed(PinChange),
    /// The module is not in the file.
    New,
}

/// The differences from the accepted module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinChange {
    /// The accepted module.
    pub locked: ModulePin,
    /// The needs that are new.
    pub added: Vec<PinnedNeed>,
    /// The needs that are gone.
    pub removed: Vec<PinnedNeed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockfileDocument {
    version: u64,
    modules: BTreeMap<String, ModulePin>,
}

impl Lockfile {
    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// [`LockfileError`].
    pub fn parse(text: &str) -> Result<Self, LockfileError> {
        let form = |error: serde_json::Error| LockfileError::Malformed(error.to_string());
        // The version is read first, so that a newer format is not reported as a malformed one.
        let value: Value = serde_json::from_str(text).map_err(form)?;
        if let Some(version) =
            value.get("version").and_then(Value::as_u64).filter(|version| *version > LOCKFILE_VERSION)
        {
            return Err(LockfileError::NewerVersion(version));
        }
        let written: LockfileDocument = serde_json::from_str(text).map_err(form)?;
        if written.version != LOCKFILE_VERSION {
            return Err(LockfileError::Malformed(format!("unknown version {}", written.version)));
        }
        Ok(Self { modules: written.modules })
    }

    /// The text of the lock file.
    #[must_use]
    pub fn text(&self) -> String {
        let written = LockfileDocument { version: LOCKFILE_VERSION, modules: self.modules.clone() };
        let text = serde_json::to_string_pretty(&written).expect("text keys and texts alone");
        text + "\n"
    }

    /// Compares a module with the lock file.
    #[must_use]
    pub fn pin_status(&self, name: &str, now: &ModulePin) -> PinStatus {
        let Some(locked) = self.modules.get(name) else { return PinStatus::New };
        let without = |needs: &[PinnedNeed], others: &[PinnedNeed]| -> Vec<PinnedNeed> {
            needs.iter().filter(|ask| !others.iter().any(|other| ask.is_same(other))).cloned().collect()
        };
        let (more, less) = (without(&now.needs, &locked.needs), without(&locked.needs, &now.needs));
        match locked.digest == now.digest && more.is_empty() && less.is_empty() {
            true => PinStatus::Unchanged,
            false => PinStatus::Changed(PinChange { locked: locked.clone(), added: more, removed: less }),
        }
    }
}

impl ModulePin {
    /// Creates a pin, with the needs in a fixed order.
    #[must_use]
    pub fn new(version: String, digest: Digest, mut needs: Vec<PinnedNeed>) -> Self {
        needs.sort_by(|one, other| one.identity().cmp(&other.identity()));
        Self { version, digest, needs }
    }
}

impl PinnedNeed {
    fn identity(&self) -> (&str, Option<&str>, Option<&str>) {
        (&self.capability, self.config.as_deref(), self.access.as_deref())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }

    /// Describes the need in one line: `dirs rw (with.into): it holds the releases`.
    #[must_use]
    pub fn describe(&self) -> String {
        let access = self.access.as_ref().map_or_else(String::new, |access| format!(" {access}"));
        let config =
            self.config.as_ref().map_or_else(String::new, |config| format!(" (with.{})", dotted_pointer(config)));
        format!("{}{access}{config}: {}", self.capability, self.reason)
    }
}

impl ModuleRef {
    /// The module's name in a lock file next to the plan, which is the same in every checkout.
    #[must_use]
    pub fn lock_name(&self, folder: &Path) -> String {
        match self {
            Self::Official(name) => name.clone(),
            Self::File(path) => relative(folder, path).display().to_string(),
            Self::Registry(reference) => reference.to_string(),
        }
    }
}

/// The path relative to a folder. A path that shares only the root with the folder stays absolute.
fn relative(folder: &Path, path: &Path) -> PathBuf {
    let common = folder.components().zip(path.components()).take_while(|(one, other)| one == other).count();
    if common <= 1 {
        return path.to_owned();
    }
    let up = folder.components().count() - common;
    let start = if up == 0 { Component::CurDir } else { Component::ParentDir };
    let ups = std::iter::repeat_n(start, up.max(1));
    ups.chain(path.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned_need(capability: &str, access: Option<&str>, reason: &str) -> PinnedNeed {
        PinnedNeed {
            capability: capability.into(),
            access: access.map(str::to_owned),
            config: Some("/in".into()),
            reason: reason.into(),
        }
    }

    fn pin(digit: u8, needs: Vec<PinnedNeed>) -> ModulePin {
        ModulePin::new("1.2.3".into(), Digest::from_bytes([digit; 32]), needs)
    }

    #[test]
    fn the_text_is_canonical_and_can_be_read_again() {
        let needs = vec![pinned_need("http", None, "asks"), pinned_need("dirs", Some("rw"), "writes")];
        let modules = [("b", pin(2, needs)), ("a", pin(1, Vec::new()))];
        let file = Lockfile { modules: modules.into_iter().map(|(name, pin)| (name.to_owned(), pin)).collect() };
        let expected = format!(
            r#"{{
  "version": 1,
  "modules": {{
    "a": {{
      "version": "1.2.3",
      "digest": "sha256:{}",
      "needs": []
    }},
    "b": {{
      "version": "1.2.3",
      "digest": "sha256:{}",
      "needs": [
        {{
          "capability": "dirs",
          "access": "rw",
          "config": "/in",
          "reason": "writes"
        }},
        {{
          "capability": "http",
          "config": "/in",
          "reason": "asks"
        }}
      ]
    }}
  }}
}}
"#,
            "01".repeat(32),
            "02".repeat(32)
        );
        assert_eq!(file.text(), expected);
        assert_eq!(Lockfile::parse(&expected), Ok(file));
    }

    #[test]
    fn invalid_texts_are_refused() {
        assert_eq!(Lockfile::parse(r#"{"version": 2, "packages": []}"#), Err(LockfileError::NewerVersion(2)));
        for text in [
            "",
            "<<<<<<< ours",
            "[]",
            "{}",
            r#"{"version": 0, "modules": {}}"#,
            r#"{"version": "1", "modules": {}}"#,
            r#"{"version": 1, "modules": {}, "more": 1}"#,
            r#"{"version": 1, "modules": {"a": {"version": "1", "digest": "sha256:12", "needs": []}}}"#,
        ] {
            assert!(matches!(Lockfile::parse(text), Err(LockfileError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn pins_compare_digest_and_needs() {
        let (reads, writes) = (pinned_need("dirs", Some("ro"), "reads"), pinned_need("dirs", Some("rw"), "writes"));
        let locked = pin(1, vec![reads.clone()]);
        let file = Lockfile { modules: [("a".to_owned(), locked.clone())].into() };
        let change = |more, less| PinStatus::Changed(PinChange { locked: locked.clone(), added: more, removed: less });
        assert_eq!(file.pin_status("b", &locked), PinStatus::New);
        assert_eq!(file.pin_status("a", &locked), PinStatus::Unchanged);
        assert_eq!(
            file.pin_status("a", &pin(1, vec![pinned_need("dirs", Some("ro"), "in other words")])),
            PinStatus::Unchanged
        );
        assert_eq!(file.pin_status("a", &pin(2, vec![reads.clone()])), change(vec![], vec![]));
        assert_eq!(file.pin_status("a", &pin(1, vec![writes.clone()])), change(vec![writes], vec![reads.clone()]));
        assert_eq!(file.pin_status("a", &pin(1, vec![])), change(vec![], vec![reads]));
    }

    #[test]
    fn lock_names_are_the_same_in_every_checkout() {
        let name = |path: &str| ModuleRef::File(path.into()).lock_name(Path::new("/srv/shop"));
        assert_eq!(name("/srv/shop/steps/x.wasm"), "./steps/x.wasm");
        assert_eq!(name("/srv/x.wasm"), "../x.wasm");
        assert_eq!(name("/opt/x.wasm"), "/opt/x.wasm");
        assert_eq!(ModuleRef::Official("pull".into()).lock_name(Path::new("/work")), "pull");
    }
}
