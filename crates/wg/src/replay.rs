//! The replay window: which of the last 8,128 counters of a key were seen.

/// Bits of the window, one of its words is always being filled (Linux `messages.h` `COUNTER_BITS_TOTAL`).
const BITS: u64 = 8192;
/// How far a counter may be behind the greatest one (Linux and wireguard-go: 8192 - 64).
pub(crate) const WINDOW: u64 = BITS - WORD;
const WORD: u64 = 64;
const WORDS: usize = 128;

/// RFC 6479: a ring of words, of which the oldest is cleared as a whole when a new one begins. 1,032 bytes.
pub(crate) struct Window {
    /// The greatest counter seen, plus one; 0 while none was.
    next: u64,
    words: [u64; WORDS],
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Whether this counter is neither too old nor seen already. Counters near 2^64 are the caller's to refuse.
    pub(crate) fn admits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        self.next - counter <= WINDOW + 1 && self.words.get(place(counter)).is_some_and(|word| word & bit(counter) == 0)
    }

    /// Notes a counter whose message was authentic; says whether it is greater than all before. `None`: refused, see
    /// [`Window::admits`].
    pub(crate) fn note(&mut self, counter: u64) -> Option<bool> {
        if !self.admits(counter) {
            return None;
        }
        let is_newest = counter >= self.next;
        if is_newest {
            let (from, to) = (self.next.div_ceil(WORD), counter / WORD);
            // a whole round clears everything; more would only do it again
            let first = from.max(to.saturating_sub(BITS / WORD - 1));
            for word in first..=to {
                if let Some(word) = self.words.get_mut(place(word * WORD)) {
                    *word = 0;
                }
            }
            self.next = counter + 1;
        }
        if let Some(word) = self.words.get_mut(place(counter)) {
            *word |= bit(counter);
        }
        Some(is_newest)
    }
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

fn place(counter: u64) -> usize {
    usize::try_from(counter / WORD % (BITS / WORD)).unwrap_or_default()
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

    proptest! {
        /// Against a set that remembers everything.
        #[test]
        fn equals_a_set(jumps in prop::collection::vec(prop_oneof![
            8 => -20i64..20,
            2 => -9000i64..9000,
            1 => 0i64..100_000,
        ], 0..300)) {
            let (mut window, mut seen, mut at) = (Window::new(), BTreeSet::new(), 10_000i64);
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
