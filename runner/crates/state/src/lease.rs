//! The lock of a remote place as a pure protocol: what to write, when, and what to believe of what is read.
//!
//! Two machines: a [`Taker`] wants the lock, a [`Lease`] has it. Both are told what was seen and what became of a write,
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
//! Deliberately absent: any clock, any IO. [`Moment`]s come from the caller, and have no meaning outside its process.

use std::time::Duration;

use jiff::Timestamp;

use super::record::{Holder, LockRecord};

/// Time since some moment of this process, by its monotonic clock.
pub type Moment = Duration;

/// An observer waits this fraction of a lease longer than the holder believes in it: clocks do not run equally fast.
const CAUTION: u32 = 20;

/// How long an observer waits for a sign of life.
#[must_use]
pub fn patience(ttl: Duration) -> Duration {
    ttl + ttl / CAUTION
}

/// Watches a record, to tell whether its holder lives.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: Option<(u64, String, u64, Moment)>,
}

/// What is seen of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nobody holds it.
    Free,
    /// Somebody does; if it does not move, it has run out at that moment.
    Held(Moment),
    /// Somebody held it, and did not move it for a whole lease.
    RunOut,
}

impl Watch {
    /// The record was read; the answer came `now`.
    pub fn saw(&mut self, now: Moment, record: Option<&LockRecord>) -> Sight {
        let Some(record) = record.filter(|record| record.holder.is_some()) else {
            self.seen = None;
            return Sight::Free;
        };
        let since = match &self.seen {
            Some((epoch, nonce, counter, since))
                if (*epoch, nonce, *counter) == (record.epoch, &record.nonce, record.counter) =>
            {
                *since
            }
            Some(_) | None => {
                self.seen = Some((record.epoch, record.nonce.clone(), record.counter, now));
                now
            }
        };
        // A record without a lease is a folder's; in a remote place nobody writes one.
        let runs_out = since + patience(record.ttl().unwrap_or_default());
        if now >= runs_out { Sight::RunOut } else { Sight::Held(runs_out) }
    }
}

/// How long to wait for a lock that another holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// One lease if the holder works on the same as we do: it may be our own attempt that was killed. Else not at all.
    Default,
    /// So long.
    For(Duration),
}

/// Who wants the lock.
#[derive(Clone, Debug)]
pub struct Taker {
    holder: Holder,
    nonce: String,
    ttl: Duration,
    wait: Wait,
    began: Moment,
    since: Timestamp,
    watch: Watch,
    /// What was written and not answered yet, and when it was sent. The first time counts: an earlier write may have arrived.
    tried: Option<(LockRecord, Moment)>,
}

/// What a [`Taker`] does next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Write this over what was read.
    Write(LockRecord),
    /// Read again, not before that moment.
    ReadAt(Moment),
    /// It is ours.
    Taken(Box<Lease>),
    /// Another holds it, for longer than we wait.
    GiveUp(LockRecord),
}

impl Taker {
    /// Wants the lock from `now` on. The nonce must be new; `since` is what people are told.
    #[must_use]
    pub fn new(now: Moment, holder: Holder, nonce: String, ttl: Duration, wait: Wait, since: Timestamp) -> Self {
        Self { holder, nonce, ttl, wait, began: now, since, watch: Watch::default(), tried: None }
    }

    /// The record was read; `newest` is the newest epoch that anything else knows of.
    pub fn saw(&mut self, now: Moment, record: &LockRecord, newest: u64) -> Next {
        if let Some((tried, sent)) = &self.tried
            && tried.is_same_holding(record)
        {
            return Next::Taken(Box::new(Lease::new(record.clone(), *sent)));
        }
        match self.watch.saw(now, Some(record)) {
            Sight::Free | Sight::RunOut => {
                let (holder, nonce) = (self.holder.clone(), self.nonce.clone());
                Next::Write(record.taken(holder, nonce, Some(self.ttl), newest, self.since))
            }
            Sight::Held(runs_out) => {
                let waits_until = self.began
                    + match self.wait {
                        Wait::For(wait) => wait,
                        // From the first sight to the last moment of a lease that began with it.
                        Wait::Default if self.is_ours_by_purpose(record) => {
                            patience(record.ttl().unwrap_or_default()) + self.ttl / 2
                        }
                        Wait::Default => Duration::ZERO,
                    };
                if now >= waits_until {
                    return Next::GiveUp(record.clone());
                }
                let pace = (record.ttl().unwrap_or(self.ttl) / 8).clamp(MIN_PACE, MAX_PACE);
                Next::ReadAt((now + pace).min(runs_out).min(waits_until))
            }
        }
    }

    /// A write is about to be sent.
    pub fn sends(&mut self, now: Moment, record: &LockRecord) {
        // A lost write of the same holding may yet arrive, or have arrived: what began first counts.
        match &mut self.tried {
            Some((tried, _)) if tried.is_same_holding(record) => {}
            tried => *tried = Some((record.clone(), now)),
        }
    }

    /// It was confirmed.
    #[must_use]
    pub fn confirmed(&self) -> Option<Lease> {
        self.tried.as_ref().map(|(record, sent)| Lease::new(record.clone(), *sent))
    }

    fn is_ours_by_purpose(&self, record: &LockRecord) -> bool {
        let theirs = record.holder.as_ref().and_then(|holder| holder.purpose.as_ref());
        theirs.is_some() && theirs == self.holder.purpose.as_ref()
    }
}

/// Between two looks at a lock that is waited for.
const MIN_PACE: Duration = Duration::from_millis(50);
const MAX_PACE: Duration = Duration::from_secs(2);

/// The lock, held.
#[derive(Clone, Debug)]
pub struct Lease {
    record: LockRecord,
    /// When the write was sent that was confirmed last.
    confirmed: Moment,
    /// The write that is not answered yet.
    sent: Option<(LockRecord, Moment)>,
    lost: Option<Lost>,
}

/// Why a lock is no longer ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was not renewed in time.
    RanOut,
    /// Another has it.
    Taken(LockRecord),
    /// An operator released it.
    Released,
}

/// What a read tells the holder of a write without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readback {
    /// It arrived.
    Confirmed,
    /// It has not; it may be sent again.
    Unchanged,
}

impl Lease {
    fn new(record: LockRecord, confirmed: Moment) -> Self {
        Self { record, confirmed, sent: None, lost: None }
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
    pub fn runs_out(&self) -> Moment {
        self.confirmed + self.ttl()
    }

    /// The record to write next: no two writes are alike, those that were lost neither.
    #[must_use]
    pub fn next(&self) -> LockRecord {
        let counter = self.sent.as_ref().map_or(0, |(sent, _)| sent.counter).max(self.record.counter);
        LockRecord { counter, ..self.record.clone() }.renewed()
    }

    /// When it should be renewed.
    #[must_use]
    pub fn renewal_due(&self) -> Moment {
        self.confirmed + self.ttl() / 3
    }

    /// Whether it is still ours.
    ///
    /// # Errors
    /// [`Lost`], for good.
    pub fn check(&mut self, now: Moment) -> Result<(), Lost> {
        if self.lost.is_none() && now >= self.runs_out() {
            self.lost = Some(Lost::RanOut);
        }
        self.lost.clone().map_or(Ok(()), Err)
    }

    /// `record`, a later one of this holding, is about to be written.
    ///
    /// # Errors
    /// [`Lost`]: then it must not.
    pub fn sends(&mut self, now: Moment, record: LockRecord) -> Result<(), Lost> {
        self.check(now)?;
        match &mut self.sent {
            // Sent again: the first time counts.
            Some((sent, _)) if *sent == record => {}
            sent => *sent = Some((record, now)),
        }
        Ok(())
    }

    /// What was sent is written.
    ///
    /// # Errors
    /// [`Lost`], when the answer comes too late to be believed.
    pub fn confirmed(&mut self, now: Moment) -> Result<(), Lost> {
        self.check(now)?;
        if let Some((record, sent)) = self.sent.take() {
            self.record = record;
            self.confirmed = sent;
        }
        Ok(())
    }

    /// The record was read back after a write without an answer, or one that was refused.
    ///
    /// # Errors
    /// [`Lost`], when another holds the lock, or nobody.
    pub fn read_back(&mut self, now: Moment, record: Option<&LockRecord>) -> Result<Readback, Lost> {
        self.check(now)?;
        match record {
            Some(record) if self.sent.as_ref().is_some_and(|(sent, _)| is_same_write(sent, record)) => {
                self.confirmed(now)?;
                Ok(Readback::Confirmed)
            }
            Some(record) if self.record.nonce == record.nonce => {
                // An earlier write of ours arrived late. What it confirmed is not known, so `confirmed` stays.
                self.record = record.clone();
                Ok(Readback::Unchanged)
            }
            Some(record) if record.holder.is_some() => self.lose(Lost::Taken(record.clone())),
            Some(_) | None => self.lose(Lost::Released),
        }
    }

    fn lose(&mut self, lost: Lost) -> Result<Readback, Lost> {
        self.lost = Some(lost.clone());
        Err(lost)
    }
}

fn is_same_write(one: &LockRecord, other: &LockRecord) -> bool {
    (one.epoch, &one.nonce, one.counter) == (other.epoch, &other.nonce, other.counter)
}

#[cfg(test)]
mod simulation;
