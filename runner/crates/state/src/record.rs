//! The lock record: who holds the lock, under which epoch, and when it was renewed.
//!
//! Invariant: the epoch only grows, and no two records are alike: each holding has its own nonce, and so has each release. A released
//! lock keeps its record as a tombstone, so that the next epoch continues from there. Times are for people; no decision depends on
//! them.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use journal::clock;

/// Who holds the lock of (app, environment), or held it last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LockRecord {
    /// `<app>/<environment>`.
    pub resource: String,
    /// The epoch of the last attempt that took the lock; it only grows.
    pub epoch: u64,
    /// Random for each holding, and for each release. Absent in records of 0.1.0, and empty in their tombstones.
    #[serde(default)]
    pub nonce: String,
    /// Grows with every renewal. Observers use it to tell whether the holder is alive.
    #[serde(default)]
    pub counter: u64,
    /// How many milliseconds after a renewal the holder counts as alive. `None` where the kernel knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// `None` after a release.
    pub holder: Option<LockHolder>,
    /// Who released it. Absent while it is held, and in tombstones of 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_by: Option<ReleasedBy>,
    /// When the holder took the lock.
    pub since: Timestamp,
}

/// Who released a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleasedBy {
    /// Its holder, after its last write.
    Holder,
    /// An operator, who did not ask the holder: it may still be running.
    Operator,
}

/// The nonces of a holding, for [`LockRecord::nonce`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HoldingNonces {
    /// Of its records.
    pub holding: String,
    /// Of its tombstone, the same each time that the release is tried.
    pub release: String,
}

impl HoldingNonces {
    /// New nonces.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        Ok(Self { holding: random_nonce()?, release: random_nonce()? })
    }
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "HolderForm", rename_all = "kebab-case")]
pub struct LockHolder {
    /// `user@host, process n`.
    pub who: String,
    /// The page of the holder's CI job, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The release that the holder deploys. A later attempt of the same release waits until the lease expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// The forms of a holder in records: 0.1.0 wrote a string.
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
    /// The record of a lock that was never held.
    #[must_use]
    pub fn never_held(resource: &str, since: Timestamp) -> Self {
        Self {
            resource: resource.to_owned(),
            epoch: 0,
            nonce: String::new(),
            counter: 0,
            ttl_ms: None,
            holder: None,
            released_by: None,
            since,
        }
    }

    /// How long the lease lasts without a renewal.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl_ms.map(Duration::from_millis)
    }

    /// The record of a new holding, with an epoch after both this one and `newest`.
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
            released_by: None,
            since,
        }
    }

    /// The record of a renewal.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { counter: self.counter + 1, ..self.clone() }
    }

    /// The record of a released lock. It keeps the epoch; the nonce must be new.
    #[must_use]
    pub fn tombstone(&self, nonce: String, released_by: ReleasedBy, since: Timestamp) -> Self {
        let released_by = Some(released_by);
        Self { nonce, counter: self.counter + 1, ttl_ms: None, holder: None, released_by, since, ..self.clone() }
    }

    /// Whether both records belong to the same holding. A tombstone belongs to none.
    #[must_use]
    pub fn is_same_holding(&self, other: &Self) -> bool {
        let is_held = self.holder.is_some() && other.holder.is_some();
        is_held && !self.nonce.is_empty() && self.epoch == other.epoch && self.nonce == other.nonce
    }

    /// Whether both records were written by the same write. A release may be written more than once, and is one write.
    #[must_use]
    pub fn is_same_write(&self, other: &Self) -> bool {
        let is_release = self.holder.is_none() && other.holder.is_none();
        let is_same_nonce = !self.nonce.is_empty() && self.epoch == other.epoch && self.nonce == other.nonce;
        is_same_nonce && (is_release || self.counter == other.counter)
    }

    /// The token with which a child process proves that it runs for the holder.
    #[must_use]
    pub fn token(&self) -> LockToken {
        LockToken { resource: self.resource.clone(), epoch: self.epoch, nonce: self.nonce.clone() }
    }
}

/// The environment variable that holds a child process's [`LockToken`].
pub const LOCK_TOKEN_VARIABLE: &str = "PAWL_LOCK";

/// Proof that the holder of a lock started a process. Checked against the record, never trusted by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockToken {
    /// `<app>/<environment>`.
    pub resource: String,
    /// The epoch of the holding.
    pub epoch: u64,
    /// The nonce of the holding.
    pub nonce: String,
}

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.resource, self.epoch, self.nonce)
    }
}

/// A text is not a lock token.
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

/// A record that an operator took a lock from its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ForcedRelease {
    /// The epoch of the holding that ended.
    pub epoch: u64,
    /// The holder who lost the lock.
    pub holder: String,
    /// Who released it.
    pub by: String,
    /// When it was released.
    pub at: Timestamp,
    /// The operator's reason.
    pub message: String,
}

impl ForcedRelease {
    /// Why the holder of an epoch lost its lock, if an operator took it, as far as this log tells.
    pub(super) fn reason(log: &[Self], epoch: u64) -> Option<String> {
        let release = log.iter().rfind(|release| release.epoch == epoch)?;
        Some(format!("{} released it at {}: {}", release.by, release.at, release.message))
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
    fn record_of_0_1_0_is_read() {
        let old = r#"{"resource":"shop/test","epoch":2,"holder":"ann@host, process 7","since":"2025-11-23T03:20:00Z"}"#;
        let record: LockRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.epoch, record.nonce.as_str(), record.ttl()), (2, "", None));
        assert_eq!(record.holder.as_ref().unwrap().to_string(), "ann@host, process 7");
        let again: LockRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(again, record);
    }

    #[test]
    fn tombstone_of_0_1_0_is_read_and_resembles_no_other() {
        let old =
            r#"{"resource":"shop/test","epoch":2,"nonce":"","counter":7,"holder":null,"since":"2025-11-23T03:20:00Z"}"#;
        let old: LockRecord = serde_json::from_str(old).unwrap();
        assert_eq!((old.holder.as_ref(), old.released_by), (None, None));
        assert!(!old.is_same_holding(&old) && !old.is_same_write(&old));
        let text = serde_json::to_string(&old).unwrap();
        assert!(!text.contains("released-by"), "{text}");
    }

    #[test]
    fn tombstones_tell_who_released_the_lock() {
        let free = LockRecord::never_held("shop/test", Timestamp::UNIX_EPOCH);
        let by = LockHolder { who: "ann@host".to_owned(), url: None, purpose: None };
        let held = free.acquired_by(by, "0a".to_owned(), None, 0, Timestamp::UNIX_EPOCH);
        let own = held.tombstone("0b".to_owned(), ReleasedBy::Holder, Timestamp::UNIX_EPOCH);
        let forced = held.tombstone("0c".to_owned(), ReleasedBy::Operator, Timestamp::UNIX_EPOCH);
        assert!(!own.is_same_write(&forced) && !held.is_same_holding(&own));
        let again = LockRecord { counter: own.counter + 1, ..own.clone() };
        assert!(own.is_same_write(&again), "a release that is tried twice is one release");
        assert!(!held.is_same_write(&held.renewed()));
        let text = serde_json::to_string(&forced).unwrap();
        assert!(text.contains(r#""released-by":"operator""#), "{text}");
        assert_eq!(serde_json::from_str::<LockRecord>(&text).unwrap(), forced);
    }

    #[test]
    fn lock_tokens_round_trip() {
        let token = LockToken { resource: "shop/test".to_owned(), epoch: 7, nonce: "00ff".to_owned() };
        assert_eq!(token.to_string().parse::<LockToken>().unwrap(), token);
        for bad in ["", "shop/test:7:", "shop/test:x:00", "shop:7:00", "7:00"] {
            assert!(bad.parse::<LockToken>().is_err(), "{bad}");
        }
    }
}
