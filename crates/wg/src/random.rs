//! Random numbers from a seed: receiver indices that say nothing, jitter, nonces and ephemeral keys.
//!
//! Sans-IO, so that a run replays byte for byte from its seed. Each draw replaces the state by one from which it cannot
//! be computed again: whoever reads the memory later learns nothing of the keys before.

use crate::hash::{Secret, kdf};

/// A key derivation that feeds itself (fast key erasure).
pub(crate) struct Random {
    state: Secret,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let [state] = kdf(b"weft wg random v1", &seed);
        Self { state }
    }

    /// Mixes fresh entropy in: whoever knew the state before does not know it afterwards.
    pub(crate) fn mix(&mut self, entropy: &[u8; 32]) {
        let [state] = kdf(&*self.state, entropy);
        self.state = state;
    }

    /// 32 bytes nobody can foretell.
    pub(crate) fn secret(&mut self) -> Secret {
        let [state, output] = kdf(&*self.state, b"draw");
        self.state = state;
        output
    }

    /// A random number.
    pub(crate) fn draw(&mut self) -> u64 {
        self.secret().first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
    }

    /// A number in `0..bound`; 0 for an empty range. The modulo's bias is under 2^-40 for the small bounds used here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.draw().checked_rem(bound).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_entropy_changes_the_course() {
        let draws = |random: &mut Random| -> Vec<u64> { (0..4).map(|_| random.draw()).collect() };
        let (mut one, mut two) = (Random::new([1; 32]), Random::new([1; 32]));
        assert_eq!(draws(&mut one), draws(&mut two));
        assert_ne!(draws(&mut one), draws(&mut Random::new([2; 32])));
        two.mix(&[9; 32]);
        assert_ne!(draws(&mut one), draws(&mut two));
    }
}
