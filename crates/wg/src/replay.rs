//! The replay window: which of the last 8,128 counters of a key were seen.

/// Bits of the window, one of its words is always being filled (Linux `messages.h` `COUNTER_BITS_TOTAL`).
const BITS: u64 = 8192;
/// How far a counter may be behind the greatest one (Linux and wireguard-go: 8192 - 64).
pub(crate) const WINDOW: u64 = BITS - WORD;
const WORD: u64 = 64;
const WORDS: usize = 128;
/// Words of a key that has received little: 256 counters.
const WORDS_MIN: usize = 4;

/// RFC 6479: a ring of words, of which the oldest is cleared as a whole when a new one begins. It has as many words as
/// counters need until it goes round: most keys of a mesh receive a few messages and are forgotten, and 1 KiB for each would
/// be a quarter of what an idle peer costs.
pub(crate) struct Window {
    /// The greatest counter seen, plus one; 0 while none was.
    next: u64,
    /// None, or a power of two from [`WORDS_MIN`] to [`WORDS`].
    words: Vec<u64>,
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { next: 0, words: Vec::new() }
    }

    /// Whether this counter is neither too old nor seen already. Counters near 2^64 are the caller's to refuse.
    pub(crate) fn admits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= WINDOW + 1
            && self.words.get(self.place(counter)).is_some_and(|word| word & bit(counter) == 0)
    }

    /// Notes a counter whose message was authentic; says whether it is greater than all before. `None`: refused, see
    /// [`Window::admits`].
    pub(crate) fn note(&mut self, counter: u64) -> Option<bool> {
        if !self.admits(counter) {
            return None;
        }
        let is_newest = counter >= self.next;
        if is_newest {
            self.make_room(counter);
            let (from, to) = (self.next.div_ceil(WORD), counter / WORD);
            // a whole round clears everything; more would only do it again
            let first = from.max(to.saturating_sub(BITS / WORD - 1));
            for word in first..=to {
                let place = self.place(word * WORD);
                if let Some(word) = self.words.get_mut(place) {
                    *word = 0;
                }
            }
            self.next = counter + 1;
        }
        let place = self.place(counter);
        if let Some(word) = self.words.get_mut(place) {
            *word |= bit(counter);
        }
        Some(is_newest)
    }

    /// Makes it long enough for a counter, at most five times in the life of a key. While it is shorter than it can be, each
    /// counter has the place that it has in the longest, too.
    fn make_room(&mut self, counter: u64) {
        let wanted = usize::try_from(counter / WORD).unwrap_or(WORDS).min(WORDS - 1) + 1;
        if self.words.len() < wanted {
            let count = wanted.next_power_of_two().max(WORDS_MIN);
            self.words.reserve_exact(count - self.words.len());
            self.words.resize(count, 0);
        }
    }

    fn place(&self, counter: u64) -> usize {
        // the ring's length divides 2^64, so that cutting a number off does not matter
        usize::try_from(counter / WORD % (BITS / WORD)).unwrap_or_default() & self.words.len().saturating_sub(1)
    }

    /// Bytes beside its own.
    #[cfg(test)]
    pub(crate) fn allocated_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
    }
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The Linux kernel's own table (`selftest/counter.c`), as far as it is about the window: its `REJECT_AFTER_MESSAGES`
    /// rows are `pc_11` of `session_key.rs`.
    #[test]
    fn ks_counter_table() {
        const LIMIT: u64 = WINDOW + 1;
        let mut window = Window::new();
        for (row, (counter, expected)) in [
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (LIMIT, true),
            (LIMIT - 1, true),
            (LIMIT - 1, false),
            (LIMIT - 2, true),
            (2, true),
            (2, false),
            (LIMIT + 16, true),
            (3, false),
            (LIMIT + 16, false),
            (LIMIT * 4, true),
            (LIMIT * 4 - (LIMIT - 1), true),
            (10, false),
            (LIMIT * 4 - LIMIT, false),
            (LIMIT * 4 - (LIMIT + 1), false),
            (LIMIT * 4 - (LIMIT - 2), true),
            (LIMIT * 4 + 1 - LIMIT, false),
            (0, false),
            (u64::MAX - 8194, true),
            (u64::MAX - 8194, false),
            (u64::MAX - 8195, true),
            (u64::MAX - 8195, false),
            (0, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(window.note(counter).is_some(), expected, "row {row}: {counter}");
        }
    }

    /// The kernel's six sweeps over the edge of the window.
    #[test]
    fn ks_counter_sweeps() {
        let sweep = |counters: &mut dyn Iterator<Item = u64>, last: &[(u64, bool)]| {
            let mut window = Window::new();
            for counter in counters {
                assert!(window.note(counter).is_some(), "{counter}");
            }
            for (counter, expected) in last {
                assert_eq!(window.note(*counter).is_some(), *expected, "{counter}");
            }
        };
        sweep(&mut (1..=WINDOW), &[(0, true), (0, false)]);
        sweep(&mut (2..=WINDOW + 1), &[(1, true), (0, false)]);
        sweep(&mut (0..=WINDOW).rev(), &[]);
        sweep(&mut (1..=WINDOW + 1).rev(), &[(0, false)]);
        sweep(&mut (1..=WINDOW).rev(), &[(WINDOW + 1, true), (0, false)]);
        sweep(&mut (1..=WINDOW).rev(), &[(0, true), (WINDOW + 1, true)]);
    }

    /// It grows with the counters, to 1 KiB and no further.
    #[test]
    fn a_key_that_receives_little_is_small() {
        let mut window = Window::new();
        assert_eq!(window.allocated_bytes(), 0);
        for (counter, bytes) in [(0, 32), (255, 32), (256, 64), (1000, 128), (4095, 512), (4096, 1024), (1 << 40, 1024)]
        {
            assert_eq!(window.note(counter), Some(true));
            assert_eq!(window.allocated_bytes(), bytes, "{counter}");
        }
        let mut window = Window::new();
        window.note(1 << 50);
        assert_eq!(window.allocated_bytes(), 1024);
    }

    proptest! {
        /// Against a set that remembers everything.
        #[test]
        fn equals_a_set(begin in prop_oneof![0i64..500, 0i64..20_000], jumps in prop::collection::vec(prop_oneof![
            8 => -20i64..20,
            2 => -9000i64..9000,
            1 => 0i64..100_000,
        ], 0..300)) {
            let (mut window, mut seen, mut at) = (Window::new(), BTreeSet::new(), begin);
            for jump in jumps {
                at = (at + jump).max(0);
                let counter = u64::try_from(at).unwrap();
                let newest = seen.last().copied();
                let fresh = newest.is_none_or(|newest: u64| counter > newest || newest - counter <= WINDOW)
                    && !seen.contains(&counter);
                prop_assert_eq!(window.admits(counter), fresh);
                prop_assert_eq!(window.note(counter), fresh.then_some(newest.is_none_or(|newest| counter > newest)));
                if fresh {
                    seen.insert(counter);
                }
            }
        }
    }
}
