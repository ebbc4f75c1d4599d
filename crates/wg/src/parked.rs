//! Initiations by keys that nobody has told us about yet: kept for a moment, for the news may be on its way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::message::INITIATION;

/// How many are kept in all (64 x 148 bytes).
pub(crate) const PARKED_MAX: usize = 64;
/// How many of one source address are kept, so that one sender of rubbish does not take every place.
const PARKED_PER_SOURCE_MAX: usize = 16;
/// How long one is kept. A binding is published to all nodes in a fraction of a second; the initiator tries again after
/// five.
pub(crate) const PARKED_AGE: Duration = Duration::from_secs(2);

/// An initiation whose `mac1` is right and whose static key is unknown.
pub(crate) struct ParkedInitiation {
    pub(crate) from: SocketAddr,
    pub(crate) datagram: [u8; INITIATION],
    pub(crate) since: Instant,
}

/// Those that wait, oldest first.
#[derive(Default)]
pub(crate) struct Parked(VecDeque<ParkedInitiation>);

impl Parked {
    /// Keeps it if there is room; says whether there was.
    pub(crate) fn push(&mut self, initiation: ParkedInitiation) -> bool {
        let of_source = self.0.iter().filter(|other| other.from.ip() == initiation.from.ip()).count();
        let has_room = self.0.len() < PARKED_MAX && of_source < PARKED_PER_SOURCE_MAX;
        if has_room {
            self.0.push_back(initiation);
        }
        has_room
    }

    /// All that are left, to be tried again.
    pub(crate) fn take_all(&mut self) -> VecDeque<ParkedInitiation> {
        std::mem::take(&mut self.0)
    }

    /// Drops those that have waited too long; returns how many.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.0.len();
        self.0.retain(|parked| now.saturating_duration_since(parked.since) < PARKED_AGE);
        before - self.0.len()
    }

    /// When the next one will have waited too long.
    pub(crate) fn expiry(&self) -> Option<Instant> {
        self.0.iter().map(|parked| parked.since + PARKED_AGE).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
