//! What is written about the lock: who holds it, under which epoch, and when it moved; and, in a remote place, the one record
//! that the lock and the list of journals share.
//!
//! Invariant: the epoch only grows, and a nonce is used for one holding only. A released lock keeps its record (a
//! tombstone), so that the epoch goes on from there. Times are for people; nothing is decided by them.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use contract::hash::Blake3Hash;
use journal::clock;

/// The version of [`StateManifest`].
///
/// - 1: the first.
pub const MANIFEST_VERSION: u32 = 1;

/// At most so many forced releases are remembered.
const MAX_FORCED_RELEASES: usize = 100;

/// Who holds the lock of (app, environment), or held it last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockRecord {
    /// `<app>/<environment>`.
    pub resource: String,
    /// The number of the attempt that took it last; it only grows.
    pub epoch: u64,
    /// Random, once a holding; empty when it was released. Absent in records of 0.1.0.
    #[serde(default)]
    pub nonce: String,
    /// Moves with every renewal. Who watches it tells by that whether the holder lives.
    #[serde(default)]
    pub counter: u64,
    /// For how long after it moved the holder may be believed to live, in milliseconds. None where the kernel knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// None once it was released.
    pub holder: Option<LockHolder>,
    /// Since when.
    pub since: Timestamp,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "HolderForm", rename_all = "kebab-case")]
pub struct LockHolder {
    /// `user@host, process n`.
    pub who: String,
    /// The page of the CI job, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it works on: the release. A later attempt of the same waits for a lease to run out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// As it is read: 0.1.0 wrote a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum HolderForm {
    Text(String),
    #[serde(rename_all = "kebab-case")]
    Fields {
        who: String,
        url: Option<String>,
        purpose: Option<String>,
    },
}

impl From<HolderForm> for LockHolder {
    fn from(form: HolderForm) -> Self {
        match form {
            HolderForm::Text(who) => Self { who, url: None, purpose: None },
            HolderForm::Fields { who, url, purpose } => Self { who, url, purpose },
        }
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)?;
        self.url.iter().try_for_each(|url| write!(f, " ({url})"))
    }
}

impl LockRecord {
    /// Never taken.
    #[must_use]
    pub fn never_held(resource: &str, since: Timestamp) -> Self {
        Self {
            resource: resource.to_owned(),
            epoch: 0,
            nonce: String::new(),
            counter: 0,
            ttl_ms: None,
            holder: None,
            since,
        }
    }

    /// How long it lives without being renewed.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl_ms.map(Duration::from_millis)
    }

    /// Taken anew: the next epoch, after `newest` too.
    #[must_use]
    pub fn acquired_by(
        &self,
        by: LockHolder,
        nonce: String,
        ttl: Option<Duration>,
        newest: u64,
        since: Timestamp,
    ) -> Self {
        Self {
            resource: self.resource.clone(),
            epoch: self.epoch.max(newest) + 1,
            nonce,
            counter: 0,
            ttl_ms: ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            holder: Some(by),
            since,
        }
    }

    /// Renewed.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { counter: self.counter + 1, ..self.clone() }
    }

    /// Released: what stays keeps the epoch growing.
    #[must_use]
    pub fn tombstone(&self, since: Timestamp) -> Self {
        Self { nonce: String::new(), counter: self.counter + 1, ttl_ms: None, holder: None, since, ..self.clone() }
    }

    /// Whether both are of one holding.
    #[must_use]
    pub fn is_same_holding(&self, other: &Self) -> bool {
        !self.nonce.is_empty() && self.epoch == other.epoch && self.nonce == other.nonce
    }

    /// What a child process is given to prove that it runs for the holder.
    #[must_use]
    pub fn token(&self) -> LockToken {
        LockToken { resource: self.resource.clone(), epoch: self.epoch, nonce: self.nonce.clone() }
    }
}

/// The variable of the environment in which a child process finds its [`LockToken`].
pub const LOCK_TOKEN_VARIABLE: &str = "PAWL_LOCK";

/// Proof that a process was started by the holder of a lock. It is checked against the record, never trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockToken {
    /// `<app>/<environment>`.
    pub resource: String,
    /// Of the holding.
    pub epoch: u64,
    /// Of the holding.
    pub nonce: String,
}

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.resource, self.epoch, self.nonce)
    }
}

/// A text that is no token.
#[derive(Debug, thiserror::Error)]
#[error("it is not `APP/ENVIRONMENT:EPOCH:NONCE`")]
pub struct InvalidLockToken;

impl std::str::FromStr for LockToken {
    type Err = InvalidLockToken;
    fn from_str(text: &str) -> Result<Self, InvalidLockToken> {
        let mut parts = text.rsplitn(3, ':');
        let (nonce, epoch, resource) = (parts.next(), parts.next(), parts.next());
        match (resource, epoch.and_then(|epoch| epoch.parse().ok()), nonce) {
            (Some(resource), Some(epoch), Some(nonce)) if !nonce.is_empty() && resource.contains('/') => {
                Ok(Self { resource: resource.to_owned(), epoch, nonce: nonce.to_owned() })
            }
            _ => Err(InvalidLockToken),
        }
    }
}

/// A lock that an operator took from its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ForcedRelease {
    /// The epoch that was ended.
    pub epoch: u64,
    /// Who held it.
    pub holder: String,
    /// Who released it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub message: String,
}

/// All that a remote place knows of (app, environment), in one record that is replaced by compare-and-swap. Since the journals
/// are listed in the record that holds the lock, who lost the lock can't add to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StateManifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The lock.
    pub lock: LockRecord,
    /// The journals, in epoch order.
    pub journals: Vec<RemoteJournal>,
    /// Forced releases, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<ForcedRelease>,
}

/// A journal in a remote place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteJournal {
    /// The attempt.
    pub epoch: u64,
    /// How long it is.
    pub bytes: u64,
    /// The BLAKE3 of all of it.
    pub hash: Blake3Hash,
    /// The files that make it up, in order. One, once the attempt has ended.
    pub parts: Vec<String>,
}

impl StateManifest {
    /// Of a place where nothing is yet.
    #[must_use]
    pub fn empty(resource: &str) -> Self {
        Self {
            version: MANIFEST_VERSION,
            lock: LockRecord::never_held(resource, clock::now()),
            journals: Vec::new(),
            released: Vec::new(),
        }
    }

    /// The lock is taken from its holder by an operator.
    #[must_use]
    pub fn with_forced_release(&self, by: &str, message: &str) -> Self {
        let mut root = self.clone();
        root.released.push(forced_release(&self.lock, by, message));
        let surplus = root.released.len().saturating_sub(MAX_FORCED_RELEASES);
        root.released.drain(..surplus);
        root.lock = self.lock.tombstone(clock::now());
        root
    }
}

pub(super) fn forced_release(lock: &LockRecord, by: &str, message: &str) -> ForcedRelease {
    ForcedRelease {
        epoch: lock.epoch,
        holder: lock.holder.as_ref().map_or_else(String::new, ToString::to_string),
        by: by.to_owned(),
        at: clock::now(),
        message: message.to_owned(),
    }
}

/// A new nonce: 128 random bits.
pub(super) fn random_nonce() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_0_1_0_is_read() {
        let old = r#"{"resource":"shop/test","epoch":2,"holder":"ann@host, process 7","since":"2025-11-23T03:20:00Z"}"#;
        let record: LockRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.epoch, record.nonce.as_str(), record.ttl()), (2, "", None));
        assert_eq!(record.holder.as_ref().unwrap().to_string(), "ann@host, process 7");
        let again: LockRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(again, record);
    }

    #[test]
    fn tokens_are_read_as_they_are_written() {
        let token = LockToken { resource: "shop/test".to_owned(), epoch: 7, nonce: "00ff".to_owned() };
        assert_eq!(token.to_string().parse::<LockToken>().unwrap(), token);
        for bad in ["", "shop/test:7:", "shop/test:x:00", "shop:7:00", "7:00"] {
            assert!(bad.parse::<LockToken>().is_err(), "{bad}");
        }
    }
}
