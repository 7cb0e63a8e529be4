//! Chance that can be repeated: numbers from a printed seed.

use anyhow::{Context, Result};

/// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>: enough to choose points with, and the same everywhere.
pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// `count` different numbers below `end`, ascending; all of them when there are no more.
    pub(crate) fn choose_distinct(&mut self, count: usize, end: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..end).collect();
        let count = count.min(end);
        for place in 0..count {
            let other = place + self.below(end - place);
            numbers.swap(place, other);
        }
        numbers.truncate(count);
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next_u64() % end as u64).expect("it is below a usize")
    }

    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// PAWL_SEED, or a new one.
#[expect(clippy::disallowed_methods, reason = "nothing stands outside of a test to pass the environment on")]
pub(crate) fn seed_from_env() -> Result<u64> {
    match std::env::var("PAWL_SEED") {
        Ok(text) => text.parse().with_context(|| format!("PAWL_SEED={text} is not a number")),
        Err(_) => Ok(getrandom::u64()?),
    }
}
