//! Pairs whose session ended here because a name went: the other side may not have heard of that, and still send under it.
//!
//! By WireGuard's own rules it notices after 15 s without an answer (paper section 6.5: `KEEPALIVE_TIMEOUT` + `REKEY_TIMEOUT`).
//! A handshake from here, as soon as the name is back, tells it at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::transport::REJECT_AFTER_TIME;

/// How many pairs are remembered; of more, those that ended first are forgotten, and wait for the other side to notice.
pub(crate) const INTERRUPTED_MAX: usize = 1024;
/// How many are greeted at once: a handshake takes 0.3 ms of each side (decision 0009), and packets wait meanwhile.
pub(crate) const GREETED_AT_ONCE: usize = 16;
/// Until the next are greeted: as long as the first took, so that at least half of the time is left for packets.
pub(crate) const GREETING_PAUSE: Duration = Duration::from_millis(10);

/// The pairs by name, for their places in the tables are gone, and when each session ended.
pub(crate) struct Interrupted<L, P> {
    pairs: BTreeMap<(L, P), Instant>,
    /// When more are to be greeted that can be.
    pub(crate) due: Option<Instant>,
}

impl<L: Clone + Ord, P: Clone + Ord> Interrupted<L, P> {
    pub(crate) const fn new() -> Self {
        Self { pairs: BTreeMap::new(), due: None }
    }

    /// A session that worked ended.
    pub(crate) fn push(&mut self, local: L, peer: P, now: Instant) {
        self.pairs.insert((local, peer), now);
        if self.pairs.len() > INTERRUPTED_MAX
            && let Some(oldest) = self.pairs.iter().min_by_key(|(_, since)| **since).map(|(pair, _)| pair.clone())
        {
            self.pairs.remove(&oldest);
        }
    }

    /// All pairs, without those whose session is over on the other side as well.
    pub(crate) fn current(&mut self, now: Instant) -> Vec<(L, P)> {
        self.pairs.retain(|_, since| now.saturating_duration_since(*since) < REJECT_AFTER_TIME);
        self.pairs.keys().cloned().collect()
    }

    pub(crate) fn remove(&mut self, pair: &(L, P)) {
        self.pairs.remove(pair);
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }
}
