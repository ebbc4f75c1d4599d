//! What the engine tells its shell: handshakes, roaming and the end of sessions; bounded.

use std::collections::VecDeque;
use std::net::SocketAddr;

/// How many events wait for the shell at most; newer ones are dropped and counted. A shell drains them after each call,
/// so that only a re-list of very many peers comes near.
pub const EVENTS_MAX: usize = 1024;

/// Something happened that the shell may want to show or to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<L, P> {
    /// Both sides have proven to have their keys; packets flow under a new session key.
    HandshakeCompleted {
        /// Our identity.
        local: L,
        /// The other side.
        peer: P,
        /// Epoch of our static key.
        local_epoch: u64,
        /// Epoch of the peer's static key.
        peer_epoch: u64,
        /// Where the peer was at that moment.
        endpoint: SocketAddr,
        /// Whether we began.
        initiator: bool,
    },
    /// An authenticated packet of the peer came from another endpoint, which is used from now on.
    PeerRoamed {
        /// The peer.
        peer: P,
        /// Where it was; `None` where that was not known.
        from: Option<SocketAddr>,
        /// Where it is.
        to: SocketAddr,
    },
    /// The peer did not answer, and we gave up. The next packet tries again.
    SessionExpired {
        /// Our identity.
        local: L,
        /// The other side.
        peer: P,
        /// Epoch of our static key.
        local_epoch: u64,
        /// Epoch of the peer's static key.
        peer_epoch: u64,
    },
    /// A peer has answered [`crate::Engine::probe`].
    ProbeAnswered {
        /// Where the answer came from.
        from: SocketAddr,
        /// The number of the question.
        number: u64,
    },
    /// A session ended in good order.
    SessionRetired {
        /// Our identity.
        local: L,
        /// The other side.
        peer: P,
        /// Epoch of our static key.
        local_epoch: u64,
        /// Epoch of the peer's static key.
        peer_epoch: u64,
        /// Why.
        reason: RetireReason,
    },
}

/// Why a session ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetireReason {
    /// Nobody used it for [`crate::IDLE_TIMEOUT`].
    Idle,
    /// One of its two static keys, or its peer, or its local identity is gone.
    Withdrawn,
}

impl RetireReason {
    /// A stable label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Events that wait for the shell.
pub(crate) struct Events<L, P> {
    waiting: VecDeque<Event<L, P>>,
    dropped: u64,
}

impl<L, P> Events<L, P> {
    pub(crate) const fn new() -> Self {
        Self { waiting: VecDeque::new(), dropped: 0 }
    }

    pub(crate) fn push(&mut self, event: Event<L, P>) {
        if self.waiting.len() < EVENTS_MAX {
            self.waiting.push_back(event);
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event<L, P>> {
        self.waiting.pop_front()
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_the_newest_are_dropped() {
        let mut events = Events::new();
        for number in 0..1100 {
            let local = number;
            events.push(Event::SessionRetired {
                local,
                peer: (),
                local_epoch: 1,
                peer_epoch: 1,
                reason: RetireReason::Idle,
            });
        }
        assert_eq!(events.dropped(), 1100 - EVENTS_MAX as u64);
        let is_first = |event| matches!(event, Some(Event::SessionRetired { local: 0, .. }));
        assert!(is_first(events.pop()));
        assert_eq!(std::iter::from_fn(|| events.pop()).count(), EVENTS_MAX - 1);
    }
}
