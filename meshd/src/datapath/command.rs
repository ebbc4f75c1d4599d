//! What control tells the data threads, and what it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use identity::SpiffeId;
use linux::tun::{TunError, TunOffload};
use plan::PeerName;
use tokio::sync::oneshot;
use wg::{LocalConfig, Occupancy, PeerConfig};

/// Commands that wait for the data thread; beyond it the sender waits. Decision 0007.
pub(super) const COMMANDS_MAX: usize = 16;

/// Events that wait for control; beyond it they are dropped and counted. Decision 0007.
pub(super) const EVENTS_MAX: usize = 1_024;

/// One thing for a data thread to do.
pub(super) enum Command {
    /// What all of them are told.
    Order(Order),
    /// Say what the engine looks like.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Open the TUN device again.
    OpenTun(oneshot::Sender<Result<(), TunError>>),
    /// End.
    Stop,
}

/// One thing that all data threads are told. Tables are whole: what is not in them is withdrawn at once.
#[derive(Clone)]
pub(crate) enum Order {
    /// The identities that live here.
    SetLocals(BTreeMap<SpiffeId, LocalConfig>),
    /// The identities on other nodes.
    SetPeers(BTreeMap<PeerName, PeerConfig>),
    /// The MTU of the TUN device in bytes.
    SetMtu(usize),
    /// An address of this node went: whoever has a session is told where it is now.
    Moved,
    /// Shake hands now, so that the first packet finds a session; for pairs that spoke before a restart. The thread that
    /// owns the peer does.
    Greet {
        /// Our identity.
        local: SpiffeId,
        /// The other side.
        peer: PeerName,
    },
}

/// Something that control may want to know of at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Of the engine.
    Engine(wg::Event<SpiffeId, PeerName>),
    /// The TUN device was deleted: put it back with [`super::Handle::open_tun`], then its address, MTU and routes. Not
    /// dropped while the channel is full, but repeated.
    TunGone,
}

/// What the engine looks like at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Every session.
    pub(crate) sessions: Vec<SessionSnapshot>,
    /// How much lives and waits in the engine.
    pub(crate) occupancy: Occupancy,
    /// Whether the TUN device is open.
    pub(crate) has_tun: bool,
    /// What goes in batches.
    pub(crate) offloads: Offloads,
}

/// What the kernel and we leave to each other right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offloads {
    /// What the TUN device gives unfinished, to be cut here.
    pub(crate) left_to_us: TunOffload,
    /// What it is given joined.
    pub(crate) left_to_kernel: TunOffload,
    /// Whether many datagrams go, and come, with one call over IPv4.
    pub(crate) v4: (bool, bool),
    /// The same over IPv6.
    pub(crate) v6: (bool, bool),
}

impl Snapshot {
    /// This and what another thread's engine looks like, as of one; sessions of a pair follow each other.
    pub(super) fn with(mut self, mut other: Self) -> Self {
        self.sessions.append(&mut other.sessions);
        self.sessions.sort_by(|a, b| (&a.local, &a.peer, a.local_epoch).cmp(&(&b.local, &b.peer, b.local_epoch)));
        let (a, b) = (self.occupancy, other.occupancy);
        let occupancy = Occupancy {
            sessions: a.sessions + b.sessions,
            held: a.held + b.held,
            staged: a.staged + b.staged,
            parked: a.parked + b.parked,
            interrupted: a.interrupted + b.interrupted,
        };
        let has_tun = self.has_tun && other.has_tun;
        Self { sessions: self.sessions, occupancy, has_tun, offloads: self.offloads.least(other.offloads) }
    }
}

impl Offloads {
    /// What both have.
    fn least(self, other: Self) -> Self {
        let both = |a: (bool, bool), b: (bool, bool)| (a.0 && b.0, a.1 && b.1);
        Self {
            left_to_us: self.left_to_us.min(other.left_to_us),
            left_to_kernel: self.left_to_kernel.min(other.left_to_kernel),
            v4: both(self.v4, other.v4),
            v6: both(self.v6, other.v6),
        }
    }

    /// In words, for people.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (what, offload) in [("tun read", self.left_to_us), ("tun write", self.left_to_kernel)] {
            if offload > TunOffload::None {
                words.push(format!("{what}: {}", offload.label()));
            }
        }
        for (what, is_on) in [
            ("udp send over IPv4", self.v4.0),
            ("udp receive over IPv4", self.v4.1),
            ("udp send over IPv6", self.v6.0),
            ("udp receive over IPv6", self.v6.1),
        ] {
            if is_on {
                words.push(what.to_owned());
            }
        }
        words
    }
}

/// One session: [`wg::SessionInfo`], owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionSnapshot {
    /// Our identity.
    pub(crate) local: SpiffeId,
    /// The other side.
    pub(crate) peer: PeerName,
    /// Epoch of our static key.
    pub(crate) local_epoch: u64,
    /// Epoch of the peer's static key.
    pub(crate) peer_epoch: u64,
    /// Where packets go; `None` while nobody knows.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Whether packets can flow right now.
    pub(crate) established: bool,
    /// What seals the data that we send.
    pub(crate) suite: Option<wg::Suite>,
    /// Whether we began the last handshake.
    pub(crate) initiator: bool,
    /// How long ago both sides last had proven a new key.
    pub(crate) last_handshake: Option<Duration>,
    /// Bytes of sent datagrams.
    pub(crate) tx_bytes: u64,
    /// Bytes of authentic received datagrams.
    pub(crate) rx_bytes: u64,
    /// Data messages sent.
    pub(crate) tx_packets: u64,
    /// Inner packets handed on.
    pub(crate) rx_packets: u64,
}
