//! Random numbers from a seed: receiver indices that say nothing, and jitter. Never keys.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A keyed hash in counter mode: the same seed gives the same numbers, and a number says nothing about the next one to
/// whoever has not got the seed.
pub(crate) struct Random {
    seed: [u8; 32],
    drawn: u64,
}

impl Random {
    pub(crate) const fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.digest(&("draw", self.drawn))
    }

    /// A number in `0..bound`; 0 for an empty range. The modulo's bias is under 2^-40 for the small bounds used here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.draw().checked_rem(bound).unwrap_or_default()
    }

    /// A digest of `value` that cannot be foretold without the seed.
    pub(crate) fn digest(&self, value: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    }
}
