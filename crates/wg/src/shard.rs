//! Several engines behind one port: which of them a peer, a session and a datagram belong to.
//!
//! Each engine owns the sessions of its own peers and nothing else: no table is shared, no lock is taken. All of them have
//! all local identities and all peers, for a packet's source is looked up among all. A peer's name says who owns it,
//! a receiver index does by its lowest bits, and an initiation, which says neither, is opened by the first engine and
//! [handed on](crate::Engine::poll_foreign) to the one that it turns out to be for.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::SocketAddr;

/// How many engines there may be behind one port.
pub const SHARDS_MAX: usize = 16;

/// Where each type of message has its receiver index, of which the first byte is the lowest (WireGuard paper §5.4): for a shell
/// that lets the kernel look there.
pub const RECEIVERS: [(u8, u8); 3] = [(2, 8), (3, 4), (4, 4)];

/// One of several engines. The default is the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    at: usize,
    /// A power of two.
    count: usize,
}

/// Something that an engine was given and that another one has to deal with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A packet to send that waited for news of its destination, for [`handle_packet`](crate::Engine::handle_packet).
    Packet(Vec<u8>),
    /// An initiation that was looked into, for [`take_initiation`](crate::Engine::take_initiation).
    Initiation {
        /// Where it came from.
        from: SocketAddr,
        /// The message.
        datagram: Vec<u8>,
    },
}

impl Default for Shard {
    fn default() -> Self {
        Self { at: 0, count: 1 }
    }
}

impl Shard {
    /// The `at`th of `count` engines, 0 first. `None` unless `count` is a power of two up to [`SHARDS_MAX`] and `at` is less.
    #[must_use]
    pub const fn new(at: usize, count: usize) -> Option<Self> {
        if count.is_power_of_two() && count <= SHARDS_MAX && at < count { Some(Self { at, count }) } else { None }
    }

    /// Which one this is.
    #[must_use]
    pub const fn at(self) -> usize {
        self.at
    }

    /// Of how many.
    #[must_use]
    pub const fn count(self) -> usize {
        self.count
    }

    /// Whether there are others.
    #[must_use]
    pub const fn has_others(self) -> bool {
        self.count > 1
    }

    /// Who owns a peer: the same in all engines of a process.
    #[must_use]
    pub fn of_peer<P: Hash>(self, peer: &P) -> usize {
        if !self.has_others() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        peer.hash(&mut hasher);
        self.lowest(hasher.finish())
    }

    /// Who a datagram is for: whose session has its receiver index; the first for an initiation, and for what is no message
    /// of WireGuard's.
    #[must_use]
    pub fn of_datagram(self, datagram: &[u8]) -> usize {
        let Some((_, place)) = RECEIVERS.iter().find(|(kind, _)| datagram.first() == Some(kind)) else { return 0 };
        self.lowest(datagram.get(usize::from(*place)).copied().unwrap_or_default().into())
    }

    /// A receiver index from random bits: its lowest bits say whose it is.
    pub(crate) fn brand(self, random: u32) -> u32 {
        let at = u32::try_from(self.at).unwrap_or_default();
        let count = u32::try_from(self.count).unwrap_or(1);
        random & !(count - 1) | at
    }

    fn lowest(self, bits: u64) -> usize {
        // count is at most SHARDS_MAX
        usize::try_from(bits & (self.count as u64 - 1)).unwrap_or_default()
    }
}
