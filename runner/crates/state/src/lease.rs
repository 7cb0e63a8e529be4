//! The lock of a remote place as a pure protocol: what to write, when, and what to believe of what is read.
//!
//! Two machines: a [`LockAcquirer`] wants the lock, a [`Lease`] has it. Both are told what was seen and what became of a write,
//! and say what to do next. Invariants, which the simulation below holds over thousands of seeds:
//!
//! - The record changes by compare-and-swap only, and no two records are alike (nonce, epoch, counter), so that an old
//!   version never comes back.
//! - A write whose reply is lost is not a failure and not a success: the record is read back, and the nonce tells.
//! - Whether a holder lives is judged by the observer's own monotonic clock since the record last moved *as the observer
//!   saw it*; the holder stops believing itself one lease after it *sent* what was last confirmed. The observer's span
//!   contains the holder's.
//! - What is lost stays lost: a lease that ran out is not renewed, although nobody may have taken the lock.
//!
//! Deliberately absent: any clock, any IO. [`MonotonicTime`]s come from the caller, and have no meaning outside its process.

use std::time::Duration;

use jiff::Timestamp;

use super::record::{LockHolder, LockRecord};

/// Time since some moment of this process, by its monotonic clock.
pub type MonotonicTime = Duration;

/// An observer waits this fraction of a lease longer than the holder believes in it: clocks do not run equally fast.
const CLOCK_SKEW_DIVISOR: u32 = 20;

/// How long an observer waits for a sign of life.
#[must_use]
pub fn observer_timeout(ttl: Duration) -> Duration {
    ttl + ttl / CLOCK_SKEW_DIVISOR
}

/// Watches a record, to tell whether its holder lives.
#[derive(Clone, Debug, Default)]
pub struct LockWatcher {
    last_seen: Option<(u64, String, u64, MonotonicTime)>,
}

/// What is seen of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockObservation {
    /// Nobody holds it.
    Free,
    /// Somebody does; if it does not move, it has run out at that moment.
    Held(MonotonicTime),
    /// Somebody held it, and did not move it for a whole lease.
    Expired,
}

impl LockWatcher {
    /// The record was read; the answer came `now`.
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
        // A record without a lease is a folder's; in a remote place nobody writes one.
        let runs_out = since + observer_timeout(record.ttl().unwrap_or_default());
        if now >= runs_out { LockObservation::Expired } else { LockObservation::Held(runs_out) }
    }
}

/// How long to wait for a lock that another holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// One lease if the holder works on the same as we do: it may be our own attempt that was killed. Else not at all.
    Default,
    /// So long.
    For(Duration),
}

/// Who wants the lock.
#[derive(Clone, Debug)]
pub struct LockAcquirer {
    holder: LockHolder,
    nonce: String,
    ttl: Duration,
    wait: LockWait,
    started_at: MonotonicTime,
    since: Timestamp,
    watch: LockWatcher,
    /// What was written and not answered yet, and when it was sent. The first time counts: an earlier write may have arrived.
    pending_write: Option<(LockRecord, MonotonicTime)>,
}

/// What a [`LockAcquirer`] does next.
#[derive(Clone, Debug)]
pub enum AcquireAction {
    /// Write this over what was read.
    Write(LockRecord),
    /// Read again, not before that moment.
    ReadAt(MonotonicTime),
    /// It is ours.
    Acquired(Box<Lease>),
    /// Another holds it, for longer than we wait.
    GiveUp(LockRecord),
}

impl LockAcquirer {
    /// Wants the lock from `now` on. The nonce must be new; `since` is what people are told.
    #[must_use]
    pub fn new(
        now: MonotonicTime,
        holder: LockHolder,
        nonce: String,
        ttl: Duration,
        wait: LockWait,
        since: Timestamp,
    ) -> Self {
        Self { holder, nonce, ttl, wait, started_at: now, since, watch: LockWatcher::default(), pending_write: None }
    }

    /// The record was read; `newest` is the newest epoch that anything else knows of.
    pub fn on_read(&mut self, now: MonotonicTime, record: &LockRecord, newest: u64) -> AcquireAction {
        if let Some((tried, sent)) = &self.pending_write
            && tried.is_same_holding(record)
        {
            return AcquireAction::Acquired(Box::new(Lease::new(record.clone(), *sent)));
        }
        match self.watch.observe(now, Some(record)) {
            LockObservation::Free | LockObservation::Expired => {
                let (holder, nonce) = (self.holder.clone(), self.nonce.clone());
                AcquireAction::Write(record.acquired_by(holder, nonce, Some(self.ttl), newest, self.since))
            }
            LockObservation::Held(runs_out) => {
                let waits_until = self.started_at
                    + match self.wait {
                        LockWait::For(wait) => wait,
                        // From the first sight to the last moment of a lease that began with it.
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

    /// A write is about to be sent.
    pub fn on_write_sent(&mut self, now: MonotonicTime, record: &LockRecord) {
        // A lost write of the same holding may yet arrive, or have arrived: what began first counts.
        match &mut self.pending_write {
            Some((tried, _)) if tried.is_same_holding(record) => {}
            tried => *tried = Some((record.clone(), now)),
        }
    }

    /// It was confirmed.
    #[must_use]
    pub fn on_write_confirmed(&self) -> Option<Lease> {
        self.pending_write.as_ref().map(|(record, sent)| Lease::new(record.clone(), *sent))
    }

    fn is_ours_by_purpose(&self, record: &LockRecord) -> bool {
        let theirs = record.holder.as_ref().and_then(|holder| holder.purpose.as_ref());
        theirs.is_some() && theirs == self.holder.purpose.as_ref()
    }
}

/// Between two looks at a lock that is waited for.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The lock, held.
#[derive(Clone, Debug)]
pub struct Lease {
    record: LockRecord,
    /// When the write was sent that was confirmed last.
    confirmed_at: MonotonicTime,
    /// The write that is not answered yet.
    pending_write: Option<(LockRecord, MonotonicTime)>,
    loss_reason: Option<LockLossReason>,
}

/// Why a lock is no longer ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockLossReason {
    /// It was not renewed in time.
    Expired,
    /// Another has it.
    Taken(LockRecord),
    /// An operator released it.
    Released,
}

/// What a read tells the holder of a write without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadBackResult {
    /// It arrived.
    Confirmed,
    /// It has not; it may be sent again.
    Unchanged,
}

impl Lease {
    fn new(record: LockRecord, confirmed: MonotonicTime) -> Self {
        Self { record, confirmed_at: confirmed, pending_write: None, loss_reason: None }
    }

    /// The record as it was confirmed last.
    #[must_use]
    pub fn record(&self) -> &LockRecord {
        &self.record
    }

    /// How long it lives without being renewed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.record.ttl().unwrap_or_default()
    }

    /// From this moment on, the holder must not believe in it.
    #[must_use]
    pub fn expires_at(&self) -> MonotonicTime {
        self.confirmed_at + self.ttl()
    }

    /// The record to write next: no two writes are alike, those that were lost neither.
    #[must_use]
    pub fn next_record(&self) -> LockRecord {
        let counter = self.pending_write.as_ref().map_or(0, |(sent, _)| sent.counter).max(self.record.counter);
        LockRecord { counter, ..self.record.clone() }.renewed()
    }

    /// When it should be renewed.
    #[must_use]
    pub fn renewal_due(&self) -> MonotonicTime {
        self.confirmed_at + self.ttl() / 3
    }

    /// Whether it is still ours.
    ///
    /// # Errors
    /// [`LockLossReason`], for good.
    pub fn check(&mut self, now: MonotonicTime) -> Result<(), LockLossReason> {
        if self.loss_reason.is_none() && now >= self.expires_at() {
            self.loss_reason = Some(LockLossReason::Expired);
        }
        self.loss_reason.clone().map_or(Ok(()), Err)
    }

    /// `record`, a later one of this holding, is about to be written.
    ///
    /// # Errors
    /// [`LockLossReason`]: then it must not.
    pub fn on_write_sent(&mut self, now: MonotonicTime, record: LockRecord) -> Result<(), LockLossReason> {
        self.check(now)?;
        match &mut self.pending_write {
            // Sent again: the first time counts.
            Some((sent, _)) if *sent == record => {}
            sent => *sent = Some((record, now)),
        }
        Ok(())
    }

    /// What was sent is written.
    ///
    /// # Errors
    /// [`LockLossReason`], when the answer comes too late to be believed.
    pub fn on_write_confirmed(&mut self, now: MonotonicTime) -> Result<(), LockLossReason> {
        self.check(now)?;
        if let Some((record, sent)) = self.pending_write.take() {
            self.record = record;
            self.confirmed_at = sent;
        }
        Ok(())
    }

    /// The record was read back after a write without an answer, or one that was refused.
    ///
    /// # Errors
    /// [`LockLossReason`], when another holds the lock, or nobody.
    pub fn on_read_back(
        &mut self,
        now: MonotonicTime,
        record: Option<&LockRecord>,
    ) -> Result<ReadBackResult, LockLossReason> {
        self.check(now)?;
        match record {
            Some(record) if self.pending_write.as_ref().is_some_and(|(sent, _)| is_same_write(sent, record)) => {
                self.on_write_confirmed(now)?;
                Ok(ReadBackResult::Confirmed)
            }
            Some(record) if self.record.nonce == record.nonce => {
                // An earlier write of ours arrived late. What it confirmed is not known, so `confirmed` stays.
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

fn is_same_write(one: &LockRecord, other: &LockRecord) -> bool {
    (one.epoch, &one.nonce, one.counter) == (other.epoch, &other.nonce, other.counter)
}

#[cfg(test)]
mod simulation;
