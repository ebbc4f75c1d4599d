//! Receiver index to session in O(1), the sessions of each pair of identities, and which session wants to be woken when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use crate::pair::Pair;
use crate::random::Random;
use crate::session::Session;
use crate::shard::Shard;

/// How many sessions there may be at once.
pub const SESSIONS_MAX: usize = 16_384;

/// Where a session is. A place is given again, its generation is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    place: u32,
    generation: u32,
}

/// Receiver indices are random numbers of our own: nobody can choose them to collide, and one multiplication spreads
/// them well enough.
#[derive(Default)]
struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, index: u32) {
        // 2^64 divided by the golden ratio (Knuth, volume 3, §6.4)
        self.0 = (self.0 ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Default)]
struct Place {
    generation: u32,
    session: Option<Box<Session>>,
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    shard: Shard,
    places: Vec<Place>,
    free: Vec<u32>,
    count: usize,
    by_index: HashMap<u32, Slot, BuildHasherDefault<IndexHasher>>,
    by_pair: BTreeMap<Pair, Vec<Slot>>,
    /// One entry a session: sessions that want nothing cost nothing until then.
    deadlines: BTreeSet<(Instant, Slot)>,
}

impl Sessions {
    /// Sessions of one of several engines.
    pub(crate) fn new(shard: Shard) -> Self {
        Self { shard, ..Self::default() }
    }

    /// A receiver index nobody has: 32 random bits, which tell nothing of how many sessions there are or were; the lowest
    /// say which engine it is.
    pub(crate) fn free_index(&self, random: &mut Random) -> u32 {
        // at most one index in 50,000 is taken: this ends at once
        loop {
            let [a, b, c, d, ..] = random.draw().to_le_bytes();
            let index = self.shard.brand(u32::from_le_bytes([a, b, c, d]));
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    /// Whether there is room for one more.
    pub(crate) const fn has_room(&self) -> bool {
        self.count < SESSIONS_MAX
    }

    pub(crate) fn insert(&mut self, session: Session) -> Slot {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).unwrap_or_default()
        });
        let pair = session.pair();
        let mut slot = Slot { place, generation: 0 };
        if let Some(place) = self.place_mut(place) {
            slot.generation = place.generation;
            place.session = Some(Box::new(session));
            self.count += 1;
        }
        self.by_pair.entry(pair).or_default().push(slot);
        self.settle(slot);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Box<Session>> {
        self.get(slot)?;
        let place = self.place_mut(slot.place)?;
        let mut session = place.session.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot.place);
        self.count -= 1;
        for index in session.indices().into_iter().chain(session.freed()) {
            self.by_index.remove(&index);
        }
        if let Some(scheduled) = session.scheduled.take() {
            self.deadlines.remove(&(scheduled, slot));
        }
        if let Some(slots) = self.by_pair.get_mut(&session.pair()) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_pair.remove(&session.pair());
            }
        }
        Some(session)
    }

    /// The session that gave out this index.
    pub(crate) fn by_index(&self, index: u32) -> Option<Slot> {
        self.by_index.get(&index).copied()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Session> {
        let place = self.places.get(usize::try_from(slot.place).ok()?)?;
        place.session.as_deref().filter(|_| place.generation == slot.generation)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Session> {
        let place = self.place_mut(slot.place)?;
        let is_current = place.generation == slot.generation;
        place.session.as_deref_mut().filter(|_| is_current)
    }

    fn place_mut(&mut self, place: u32) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(place).ok()?)
    }

    /// After a session changed: its indices are found, and it will be woken when it wants.
    pub(crate) fn settle(&mut self, slot: Slot) {
        let Some(session) = self.get_mut(slot) else { return };
        let (freed, indices) = (session.freed(), session.indices());
        for index in freed {
            self.by_index.remove(&index);
        }
        for index in indices {
            self.by_index.insert(index, slot);
        }
        self.schedule(slot);
    }

    /// A session may want to be woken earlier than it did.
    pub(crate) fn schedule(&mut self, slot: Slot) {
        let Some(session) = self.get_mut(slot) else { return };
        let deadline = session.deadline();
        if session.scheduled.is_some_and(|scheduled| scheduled <= deadline) {
            // it is woken early, and asks again
            return;
        }
        if let Some(before) = session.scheduled.replace(deadline) {
            self.deadlines.remove(&(before, slot));
        }
        self.deadlines.insert((deadline, slot));
    }

    /// A session whose time has come; it has to be [settled](Self::settle) or removed afterwards.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Slot> {
        while let Some((at, slot)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, slot));
            if let Some(session) = self.get_mut(slot) {
                session.scheduled = None;
                return Some(slot);
            }
        }
        None
    }

    /// When the next session wants to be woken.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
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

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// How many indices and deadlines are known: for a leak to be seen.
    #[cfg(test)]
    pub(crate) fn table_sizes(&self) -> (usize, usize, usize) {
        (self.by_index.len(), self.deadlines.len(), self.places.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PC-29: indices are spread over the whole space.
    #[test]
    fn pc_29_indices_are_uniform_and_do_not_collide() {
        let sessions = Sessions::default();
        let mut random = Random::new([3; 32]);
        let indices: BTreeSet<u32> = (0..1000).map(|_| sessions.free_index(&mut random)).collect();
        assert!(indices.len() >= 999, "1000 draws of 2^32 collide rarely: {}", indices.len());
        for bit in 0..32 {
            let ones = indices.iter().filter(|index| **index >> bit & 1 == 1).count();
            assert!((400..600).contains(&ones), "bit {bit} is set in {ones} of 1000");
        }
    }
}
