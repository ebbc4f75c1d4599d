//! Packets that wait for something, in bounded queues: too many, too old or too large and the oldest go.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::drop::{DropCounters, DropReason};

/// How much may wait, and how long.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Packets in all.
    pub(crate) packets: usize,
    /// Packets of one key.
    pub(crate) per_key: usize,
    /// Bytes in all.
    pub(crate) bytes: usize,
    /// How long a packet waits.
    pub(crate) age: Duration,
    /// What a packet that finds no room is counted as; `None`: as what it waits for.
    pub(crate) overflow: Option<DropReason>,
}

/// One packet that waits.
pub(crate) struct Entry {
    pub(crate) packet: Vec<u8>,
    pub(crate) since: Instant,
    /// Why it will have been dropped, if nothing happens.
    pub(crate) reason: DropReason,
}

/// Queues by key, first in first out.
pub(crate) struct Waiting<K> {
    bounds: Bounds,
    queues: BTreeMap<K, VecDeque<Entry>>,
    packets: usize,
    bytes: usize,
}

impl<K: Copy + Ord> Waiting<K> {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self { bounds, queues: BTreeMap::new(), packets: 0, bytes: 0 }
    }

    /// Lets a packet wait. Where there is no room the oldest of its own key go first: their senders have given up on
    /// them first.
    ///
    /// # Errors
    /// There is no room for this one: why.
    pub(crate) fn push(&mut self, key: K, entry: Entry, drops: &mut DropCounters) -> Result<(), DropReason> {
        let fits = |this: &Self| {
            this.packets < this.bounds.packets
                && this.bytes + entry.packet.len() <= this.bounds.bytes
                && this.queues.get(&key).is_none_or(|queue| queue.len() < this.bounds.per_key)
        };
        while !fits(self) {
            let Some(oldest) = self.pop(key) else {
                return Err(self.bounds.overflow.unwrap_or(entry.reason));
            };
            drops.count(self.bounds.overflow.unwrap_or(oldest.reason));
        }
        self.packets += 1;
        self.bytes += entry.packet.len();
        self.queues.entry(key).or_default().push_back(entry);
        Ok(())
    }

    /// The oldest packet of a key.
    pub(crate) fn pop(&mut self, key: K) -> Option<Entry> {
        let queue = self.queues.get_mut(&key)?;
        let entry = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        if let Some(entry) = &entry {
            self.packets -= 1;
            self.bytes -= entry.packet.len();
        }
        entry
    }

    /// Everything, to be tried again; what is pushed back keeps its age.
    pub(crate) fn take_all(&mut self) -> Vec<(K, Entry)> {
        self.packets = 0;
        self.bytes = 0;
        std::mem::take(&mut self.queues)
            .into_iter()
            .flat_map(|(key, queue)| queue.into_iter().map(move |entry| (key, entry)))
            .collect()
    }

    /// Drops what has waited too long; returns a reason for each.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<DropReason> {
        let mut expired = Vec::new();
        let keys: Vec<K> = self.queues.keys().copied().collect();
        for key in keys {
            while self.oldest(key).is_some_and(|since| now.saturating_duration_since(since) >= self.bounds.age) {
                expired.extend(self.pop(key).map(|entry| entry.reason));
            }
        }
        expired
    }

    /// When the next packet will have waited too long.
    pub(crate) fn expiry(&self) -> Option<Instant> {
        let oldest = self.queues.values().filter_map(|queue| queue.front()).map(|entry| entry.since).min();
        oldest.map(|since| since + self.bounds.age)
    }

    fn oldest(&self, key: K) -> Option<Instant> {
        self.queues.get(&key)?.front().map(|entry| entry.since)
    }

    pub(crate) fn has(&self, key: K) -> bool {
        self.queues.contains_key(&key)
    }

    pub(crate) fn keys(&self) -> Vec<K> {
        self.queues.keys().copied().collect()
    }

    pub(crate) const fn len(&self) -> usize {
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    const BOUNDS: Bounds = Bounds { packets: 4, per_key: 2, bytes: 100, age: Duration::from_secs(1), overflow: None };

    fn entry(size: usize, tag: u8) -> Entry {
        Entry { packet: vec![tag; size], since: epoch(), reason: DropReason::NoPeer }
    }

    #[test]
    fn each_bound_holds_and_the_newest_of_a_key_win() {
        let mut drops = DropCounters::default();
        let mut waiting = Waiting::new(BOUNDS);
        for tag in 0..5 {
            waiting.push('a', entry(1, tag), &mut drops).unwrap();
        }
        assert_eq!((waiting.len(), drops.of(DropReason::NoPeer)), (2, 3));
        waiting.push('b', entry(1, 9), &mut drops).unwrap();
        waiting.push('c', entry(1, 9), &mut drops).unwrap();
        assert_eq!(waiting.push('d', entry(1, 9), &mut drops), Err(DropReason::NoPeer), "four in all");
        assert_eq!(waiting.push('b', entry(200, 9), &mut drops), Err(DropReason::NoPeer), "too many bytes");
        let order: Vec<u8> = std::iter::from_fn(|| waiting.pop('a')).map(|entry| entry.packet[0]).collect();
        assert_eq!(order, [3, 4]);
    }

    #[test]
    fn a_packet_waits_for_its_age_and_no_longer() {
        let mut drops = DropCounters::default();
        let mut waiting = Waiting::new(BOUNDS);
        waiting.push('a', entry(1, 0), &mut drops).unwrap();
        assert!(waiting.expire(epoch() + Duration::from_millis(999)).is_empty());
        assert_eq!(waiting.expire(epoch() + Duration::from_secs(1)), [DropReason::NoPeer]);
        assert_eq!((waiting.len(), waiting.has('a')), (0, false));
    }
}
