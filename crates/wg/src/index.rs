//! Receiver index to session in O(1), and the sessions of each pair of identities.

use std::collections::{BTreeMap, HashMap};

use crate::local::LocalAt;
use crate::peer::PeerAt;
use crate::random::Random;
use crate::session::Session;

/// How many sessions there may be at once. A session holds about 8 KiB; the space of indices is 2^24.
pub const SESSIONS_MAX: usize = 16_384;

/// Where a session is: the upper 24 bits of every receiver index that it gives out. Drawn at random, so that it tells
/// nothing of how many peers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    /// The slot of a receiver index; the low byte numbers the handshakes of one session.
    pub(crate) const fn of(receiver: u32) -> Self {
        Self(receiver >> 8)
    }
}

/// A local identity and a peer that talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pair {
    pub(crate) local: LocalAt,
    pub(crate) peer: PeerAt,
}

/// All sessions.
pub(crate) struct Sessions {
    by_slot: HashMap<Slot, Box<Session>>,
    by_pair: BTreeMap<Pair, Vec<Slot>>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self { by_slot: HashMap::new(), by_pair: BTreeMap::new() }
    }

    /// A slot nobody has, or `None` when there are as many sessions as there may be.
    pub(crate) fn free_slot(&self, random: &mut Random) -> Option<Slot> {
        if self.by_slot.len() >= SESSIONS_MAX {
            return None;
        }
        // at most one slot in a thousand is taken: this ends at once
        std::iter::repeat_with(|| Slot(u32::try_from(random.draw() >> 40).unwrap_or_default()))
            .find(|slot| !self.by_slot.contains_key(slot))
    }

    pub(crate) fn insert(&mut self, slot: Slot, session: Session) {
        self.by_pair.entry(session.pair()).or_default().push(slot);
        self.by_slot.insert(slot, Box::new(session));
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Box<Session>> {
        let session = self.by_slot.remove(&slot)?;
        if let Some(slots) = self.by_pair.get_mut(&session.pair()) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_pair.remove(&session.pair());
            }
        }
        Some(session)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Session> {
        self.by_slot.get(&slot).map(|session| &**session)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        self.by_slot.get_mut(&slot).map(|session| &mut **session)
    }

    /// The sessions of a pair, in the order they were made.
    pub(crate) fn of_pair(&self, pair: Pair) -> impl Iterator<Item = (Slot, &Session)> {
        let slots = self.by_pair.get(&pair).map(Vec::as_slice).unwrap_or_default();
        slots.iter().filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    /// All sessions, in the order of pairs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Session)> {
        self.by_pair.values().flatten().filter_map(|slot| Some((*slot, self.get(*slot)?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_slot.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PC-29: indices are spread over the whole space.
    #[test]
    fn pc_29_slots_are_uniform_and_do_not_collide() {
        let sessions = Sessions::new();
        let mut random = Random::new([3; 32]);
        let slots: std::collections::BTreeSet<Slot> =
            (0..1000).map(|_| sessions.free_slot(&mut random).unwrap()).collect();
        assert!(slots.len() >= 998, "1000 draws of 2^24 collide rarely: {}", slots.len());
        for half in 0..24 {
            let ones = slots.iter().filter(|slot| slot.0 >> half & 1 == 1).count();
            assert!((400..600).contains(&ones), "bit {half} is set in {ones} of 1000");
        }
    }
}
