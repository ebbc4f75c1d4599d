//! What only tests may do to an engine: what a malicious peer can do and we never do, and looks behind the scenes.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use super::Engine;
use crate::drop::DropReason;
use crate::index::Slot;

impl<L: Clone + Ord + Debug, P: Clone + Ord + Hash + Debug> Engine<L, P> {
    fn first(&self) -> Option<Slot> {
        self.sessions.iter().next().map(|(slot, _)| slot)
    }

    /// Seals any bytes with the first session.
    pub(crate) fn seal_anything(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let slot = self.first().ok_or(DropReason::KeyExpired)?;
        self.seal(slot, bytes, now)
    }

    /// Lets the sending key of the first session have sealed so many messages.
    pub(crate) fn count_to(&mut self, counter: u64) {
        let session = self.first().and_then(|slot| self.sessions.get_mut(slot));
        if let Some(session) = session {
            session.count_to(counter);
        }
    }

    /// How many receiver indices, deadlines and places for sessions there are.
    pub(crate) fn table_sizes(&self) -> (usize, usize, usize) {
        self.sessions.table_sizes()
    }

    /// Remembers a pair as one whose session ended because a name went.
    pub(crate) fn interrupt(&mut self, local: L, peer: P, now: Instant) {
        self.interrupted.push(local, peer, now);
    }
}
