//! The lock of a remote state as a pure protocol: what to write, when, and how to interpret what was read.
//!
//! There are two state machines: a [`LockAcquirer`] wants the lock, a [`Lease`] holds it. The caller reports reads and
//! writes; the machine says what to do next. Invariants, which the simulation below checks over thousands of seeds:
//!
//! - The record changes only by compare-and-swap, and no two records are alike (nonce, epoch, counter), so an old
//!   version never comes back.
//! - A write without a reply is neither a failure nor a success: the caller reads the record back and compares the
//!   nonce. A release that is read back was the holder's own only if the tombstone has the holder's nonce; another is an operator's,
//!   and what the holder wrote with its release did not arrive.
//! - An observer judges a holder by its own monotonic clock, from the moment *it saw* the record change. The holder
//!   stops believing in its lease one lease after it *sent* the last confirmed write. So the observer's time span
//!   contains the holder's.
//! - A lost lease stays lost: an expired lease is never renewed, even if nobody has taken the lock.
//!
//! Deliberately absent: any clock and any IO. The caller provides [`MonotonicTime`]s, which have no meaning outside its
//! process.

use std::time::Duration;

use jiff::Timestamp;

use super::record::{HoldingNonces, LockHolder, LockRecord, ReleasedBy};

/// Time since the start of this process, by its monotonic clock.
pub type MonotonicTime = Duration;

/// An observer waits this fraction of a lease longer than the holder, because clocks differ in speed.
const CLOCK_SKEW_DIVISOR: u32 = 20;

/// How long an observer waits for a renewal.
#[must_use]
pub fn observer_timeout(ttl: Duration) -> Duration {
    ttl + ttl / CLOCK_SKEW_DIVISOR
}

/// Observes a record to tell whether its holder is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LockWatcher {
    last_seen: Option<(u64, String, u64, MonotonicTime)>,
}

/// The result of an observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockObservation {
    /// Nobody holds it.
    Free,
    /// It has a holder; without a renewal, it expires at that time.
    Held(MonotonicTime),
    /// It had a holder that did not renew it for a whole lease.
    Expired,
}

impl LockWatcher {
    /// Takes a record whose read finished `now`.
    pub fn observe(&mut self, now: MonotonicTime, record: Option<&LockRecord>) -> LockObservation {
        let Some(record) = record.filter(|record| record.holder.is_some()) else {
            self.last_seen = None;
            return LockObservation::Free;
        };
        let since = match &self.last_seen {
            Some((epoch, nonce, counter, since))
                if (*epoch, nonce, *counter) == (record.epoch, &record.nonce, record.counter) =>
            {
                *since
            }
            Some(_) | None => {
                self.last_seen = Some((record.epoch, record.nonce.clone(), record.counter, now));
                now
            }
        };
        // Only a folder's record has no lease; a remote one always has.
        let runs_out = since + observer_timeout(record.ttl().unwrap_or_default());
        if now >= runs_out { LockObservation::Expired } else { LockObservation::Held(runs_out) }
    }
}

/// How long to wait for a lock with another holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockWait {
    /// One lease if the holder deploys the same release, because it may be a killed attempt of our own. Otherwise no
    /// time.
    Default,
    /// This long.
    For(Duration),
}

/// A state machine that acquires the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockAcquirer {
    holder: LockHolder,
    nonces: HoldingNonces,
    ttl: Duration,
    wait: LockWait,
    started_at: MonotonicTime,
    since: Timestamp,
    watch: LockWatcher,
    /// The unconfirmed write and its first sending time, because an earlier try may have arrived.
    pending_write: Option<(LockRecord, MonotonicTime)>,
}

/// What the caller of a [`LockAcquirer`] must do next.
#[derive(Clone, Debug)]
pub enum AcquireAction {
    /// Replace the record by this one.
    Write(LockRecord),
    /// Read again, at that time or later.
    ReadAt(MonotonicTime),
    /// The lock is acquired.
    Acquired(Box<Lease>),
    /// Another holder has it for longer than the request waits.
    GiveUp(LockRecord),
}

impl LockAcquirer {
    /// Requests the lock from `now` on. The nonces must be new; `since` is for people.
    #[must_use]
    pub fn new(
        now: MonotonicTime,
        holder: LockHolder,
        nonces: HoldingNonces,
        ttl: Duration,
        wait: LockWait,
        since: Timestamp,
    ) -> Self {
        Self { holder, nonces, ttl, wait, started_at: now, since, watch: LockWatcher::default(), pending_write: None }
    }

    /// Takes a record that was read; `newest` is the newest epoch known from elsewhere.
    pub fn on_read(&mut self, now: MonotonicTime, record: &LockRecord, newest: u64) -> AcquireAction {
        if let Some((tried, sent)) = &self.pending_write
            && tried.is_same_holding(record)
        {
            return AcquireAction::Acquired(Box::new(self.lease(record.clone(), *sent)));
        }
        match self.watch.observe(now, Some(record)) {
            LockObservation::Free | LockObservation::Expired => {
                let (holder, nonce) = (self.holder.clone(), self.nonces.holding.clone());
                AcquireAction::Write(record.acquired_by(holder, nonce, Some(self.ttl), newest, self.since))
            }
            LockObservation::Held(runs_out) => {
                let waits_until = self.started_at
                    + match self.wait {
                        LockWait::For(wait) => wait,
                        // The time from the first observation to the end of a lease that began with it.
                        LockWait::Default if self.is_ours_by_purpose(record) => {
                            observer_timeout(record.ttl().unwrap_or_default()) + self.ttl / 2
                        }
                        LockWait::Default => Duration::ZERO,
                    };
                if now >= waits_until {
                    return AcquireAction::GiveUp(record.clone());
                }
                let pace = (record.ttl().unwrap_or(self.ttl) / 8).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL);
                AcquireAction::ReadAt((now + pace).min(runs_out).min(waits_until))
            }
        }
    }

    /// Notes that a write is about to be sent.
    pub fn on_write_sent(&mut self, now: MonotonicTime, record: &LockRecord) {
        // A lost write of the same holding may have arrived or arrive later, so the first sending time counts.
        match &mut self.pending_write {
            Some((tried, _)) if tried.is_same_holding(record) => {}
            tried => *tried = Some((record.clone(), now)),
        }
    }

    /// Notes that the write was confirmed.
    #[must_use]
    pub fn on_write_confirmed(&self) -> Option<Lease> {
        self.pending_write.as_ref().map(|(record, sent)| self.lease(record.clone(), *sent))
    }

    fn lease(&self, record: LockRecord, confirmed_at: MonotonicTime) -> Lease {
        let release_nonce = self.nonces.release.clone();
        Lease { record, release_nonce, confirmed_at, pending_write: None, loss_reason: None }
    }

    fn is_ours_by_purpose(&self, record: &LockRecord) -> bool {
        let theirs = record.holder.as_ref().and_then(|holder| holder.purpose.as_ref());
        theirs.is_some() && theirs == self.holder.purpose.as_ref()
    }
}

/// The pause between two reads of an awaited lock.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// A state machine that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    record: LockRecord,
    release_nonce: String,
    /// When the last confirmed write was sent.
    confirmed_at: MonotonicTime,
    /// The unconfirmed write.
    pending_write: Option<(LockRecord, MonotonicTime)>,
    loss_reason: Option<LockLossReason>,
}

/// Why the lock was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LockLossReason {
    /// It was not renewed in time.
    Expired,
    /// Another deployment took it.
    Taken(LockRecord),
    /// An operator released it.
    Released,
}

/// What a read reveals about an unconfirmed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadBackResult {
    /// The write arrived.
    Confirmed,
    /// The write has not arrived; it may be sent again.
    Unchanged,
}

impl Lease {
    /// The last confirmed record.
    #[must_use]
    pub fn record(&self) -> &LockRecord {
        &self.record
    }

    /// How long the lease lasts without a renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.record.ttl().unwrap_or_default()
    }

    /// The time from which on the holder must not believe in the lease.
    #[must_use]
    pub fn expires_at(&self) -> MonotonicTime {
        self.confirmed_at + self.ttl()
    }

    /// The next record to write. No two writes are alike, not even lost ones.
    #[must_use]
    pub fn next_record(&self) -> LockRecord {
        let counter = self.pending_write.as_ref().map_or(0, |(sent, _)| sent.counter).max(self.record.counter);
        LockRecord { counter, ..self.record.clone() }.renewed()
    }

    /// The tombstone to write. However often it is tried, it is this holder's, and no operator's.
    #[must_use]
    pub fn released_record(&self, since: Timestamp) -> LockRecord {
        let tombstone = self.record.tombstone(self.release_nonce.clone(), ReleasedBy::Holder, since);
        LockRecord { counter: self.next_record().counter, ..tombstone }
    }

    /// When the next renewal is due.
    #[must_use]
    pub fn renewal_due(&self) -> MonotonicTime {
        self.confirmed_at + self.ttl() / 3
    }

    /// Checks that the lease has not expired.
    ///
    /// # Errors
    /// [`LockLossReason`], permanently.
    pub fn check(&mut self, now: MonotonicTime) -> Result<(), LockLossReason> {
        if self.loss_reason.is_none() && now >= self.expires_at() {
            self.loss_reason = Some(LockLossReason::Expired);
        }
        self.loss_reason.clone().map_or(Ok(()), Err)
    }

    /// Notes that `record`, a later one of this holding, is about to be written.
    ///
    /// # Errors
    /// [`LockLossReason`]: then it must not be written.
    pub fn on_write_sent(&mut self, now: MonotonicTime, record: LockRecord) -> Result<(), LockLossReason> {
        self.check(now)?;
        match &mut self.pending_write {
            // It was sent before, so the first time counts.
            Some((sent, _)) if *sent == record => {}
            sent => *sent = Some((record, now)),
        }
        Ok(())
    }

    /// Notes that the write was confirmed.
    ///
    /// # Errors
    /// [`LockLossReason`], when the confirmation comes too late.
    pub fn on_write_confirmed(&mut self, now: MonotonicTime) -> Result<(), LockLossReason> {
        self.check(now)?;
        if let Some((record, sent)) = self.pending_write.take() {
            self.record = record;
            self.confirmed_at = sent;
        }
        Ok(())
    }

    /// Takes a record that was read back after an unconfirmed or rejected write.
    ///
    /// # Errors
    /// [`LockLossReason`], when another deployment or nobody holds the lock.
    pub fn on_read_back(
        &mut self,
        now: MonotonicTime,
        record: Option<&LockRecord>,
    ) -> Result<ReadBackResult, LockLossReason> {
        self.check(now)?;
        match record {
            Some(record) if self.pending_write.as_ref().is_some_and(|(sent, _)| sent.is_same_write(record)) => {
                self.on_write_confirmed(now)?;
                Ok(ReadBackResult::Confirmed)
            }
            Some(record) if self.record.nonce == record.nonce => {
                // An earlier write arrived late. Its sending time is unknown, so `confirmed_at` stays.
                self.record = record.clone();
                Ok(ReadBackResult::Unchanged)
            }
            Some(record) if record.holder.is_some() => self.mark_lost(LockLossReason::Taken(record.clone())),
            Some(_) | None => self.mark_lost(LockLossReason::Released),
        }
    }

    fn mark_lost(&mut self, lost: LockLossReason) -> Result<ReadBackResult, LockLossReason> {
        self.loss_reason = Some(lost.clone());
        Err(lost)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod simulation;
