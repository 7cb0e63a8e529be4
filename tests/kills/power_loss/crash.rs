//! The states that a power loss can leave: at each point, which of the changes that were not synced are there.
//!
//! Bounded: all of them, none, all but one file's or folder's, only one's, each prefix of each, torn last writes, and some by chance.
//! States that are equal count once.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    disk::{Disk, DiskChange, InodeId, Tear},
    trace::DiskTrace,
};
use crate::rng::SplitMix64;

/// States by chance at each point.
const RANDOM_STATES: usize = 6;
/// So many prefixes of the changes of one file or folder are taken.
const MAX_PREFIXES: usize = 12;

/// A state: the changes before `point`, but for those that are lost.
#[derive(Clone, Debug)]
pub(crate) struct CrashState {
    pub(crate) point: usize,
    /// How many of the unsynced changes of each file and folder are kept, and what is left of the next one; all, where it is not named.
    kept: BTreeMap<InodeId, (usize, Tear)>,
}

/// What was not synced at a point, by file and folder.
type Unsynced = BTreeMap<InodeId, Vec<usize>>;

impl CrashState {
    /// All states from a point on that differ.
    pub(crate) fn enumerate(trace: &DiskTrace, first: usize, rng: &mut SplitMix64) -> Vec<Self> {
        let mut known = BTreeSet::new();
        let mut states = Vec::new();
        for point in first..=trace.changes.len() {
            for state in Self::at(point, &unsynced(trace, point), rng) {
                let effects = state.effects(trace).count();
                if known.insert((effects, *state.disk(trace).hash().as_bytes())) {
                    states.push(state);
                }
            }
        }
        states
    }

    fn at(point: usize, unsynced: &Unsynced, rng: &mut SplitMix64) -> Vec<Self> {
        let all: BTreeMap<_, _> = BTreeMap::new();
        let none: BTreeMap<_, _> = unsynced.keys().map(|inode| (*inode, (0, Tear::Absent))).collect();
        let mut kept = vec![all.clone(), none.clone()];
        for (inode, changes) in unsynced {
            for others in [&all, &none] {
                let with = |choice| others.iter().map(|(id, kept)| (*id, *kept)).chain([(*inode, choice)]).collect();
                let first = changes.len().saturating_sub(MAX_PREFIXES);
                kept.extend((first..=changes.len()).chain([0]).map(|count| with((count, Tear::Absent))));
                kept.extend([Tear::Half, Tear::Zeros].map(|tear| with((changes.len() - 1, tear))));
            }
        }
        for _ in 0..RANDOM_STATES {
            let choices = unsynced.iter().map(|(inode, changes)| {
                let tear = [Tear::Absent, Tear::Half, Tear::Zeros][rng.below(3)];
                (*inode, (rng.below(changes.len() + 1), tear))
            });
            kept.push(choices.collect());
        }
        kept.into_iter().map(|kept| Self { point, kept }).collect()
    }

    /// What is on the disk then.
    pub(crate) fn disk(&self, trace: &DiskTrace) -> Disk {
        let unsynced = unsynced(trace, self.point);
        let mut disk = trace.initial.clone();
        for (at, change) in trace.changes[..self.point].iter().enumerate() {
            let lost = change.queue().and_then(|queue| {
                let (kept, tear) = self.kept.get(&queue)?;
                let place = unsynced.get(&queue)?.iter().position(|other| *other == at)?;
                (place >= *kept).then_some((place == *kept, *tear))
            });
            match lost {
                None => disk.apply(change),
                Some((true, tear)) => disk.apply_torn(change, tear),
                Some((false, _)) => {}
            }
        }
        disk
    }

    /// What the counted program had done by then. What it did before the first change is there at every point.
    pub(crate) fn effects<'t>(&self, trace: &'t DiskTrace) -> impl Iterator<Item = &'t str> {
        let point = self.point;
        trace.effects.iter().filter(move |(before, _)| *before == 0 || *before < point).map(|(_, name)| name.as_str())
    }

    /// How many changes are lost or torn.
    pub(crate) fn lost_changes(&self, trace: &DiskTrace) -> usize {
        let unsynced = unsynced(trace, self.point);
        self.kept.iter().filter_map(|(inode, (kept, _))| Some(unsynced.get(inode)?.len().saturating_sub(*kept))).sum()
    }
}

fn unsynced(trace: &DiskTrace, point: usize) -> Unsynced {
    let mut unsynced = Unsynced::new();
    for (at, change) in trace.changes[..point].iter().enumerate() {
        if let Some(queue) = change.queue() {
            unsynced.entry(queue).or_default().push(at);
        } else if let DiskChange::Sync(inode) = change {
            unsynced.remove(inode);
        } else {
            unsynced.clear();
        }
    }
    unsynced
}
