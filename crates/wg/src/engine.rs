//! The engine: datagrams and packets in, datagrams and packets out, all local identities and all peers on one port.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use crate::admission::{Admission, Work};
use crate::cipher::Suite;
use crate::cookie::Cookies;
use crate::drop::{DropCounters, DropReason};
use crate::event::{Event, Events, RetireReason};
use crate::index::{Sessions, Slot};
use crate::interrupted::Interrupted;
use crate::key::{LocalConfig, PeerConfig};
use crate::local::Locals;
use crate::pair::Pair;
use crate::parked::Parked;
use crate::peer::Peers;
use crate::random::Random;
use crate::session::{Due, Session};
use crate::shard::{Foreign, Shard};
use crate::stamp::{Stamp, WallClock};
use crate::transmit::{Transmit, Transmits};
use crate::waiting::{Bounds, Waiting};

mod foreign;
#[cfg(test)]
mod hooks;
mod inbound;
mod outbound;
mod probing;

pub use outbound::Path;

/// The largest datagram that UDP carries, and with it the largest message.
pub(crate) const DATAGRAM_MAX: usize = 65_535;

/// The inner MTU until [`Engine::set_mtu`]: 1500 less 80 for IPv6, UDP and WireGuard headers.
const MTU_DEFAULT: usize = 1420;

/// Packets for a destination nobody has spoken for yet, or without keys yet: news takes some 100 ms to arrive (issue
/// numbers: from ADD to acceptance p99 <= 300 ms), and a first packet should survive it.
const HELD: Bounds = Bounds { packets: 256, per_key: 16, bytes: 1 << 20, age: Duration::from_secs(1), overflow: None };

/// Packets for a peer that is shaking hands. 128 a peer is the kernel's `MAX_STAGED_PACKETS`, 90 s WireGuard's
/// `REKEY_ATTEMPT_TIME`; the rest bounds memory.
const STAGED: Bounds = Bounds {
    packets: 4096,
    per_key: 128,
    bytes: 4 << 20,
    age: Duration::from_secs(90),
    overflow: Some(DropReason::QueueFull),
};

/// How many pairs of keys' newest initiations are remembered when their sessions are gone (76 bytes each). Of further
/// ones a captured initiation is answered once more, to no effect.
const STAMPS_MAX: usize = 65_536;

/// What came of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Handled<'a, L, P> {
    /// A packet for a local workload: opened, and its source and destination belong to the two keys.
    Opened {
        /// The inner packet, exactly as long as its header says. Valid until the next call.
        packet: &'a [u8],
        /// The local identity whose key it was sealed for.
        local: &'a L,
        /// The peer who sealed it.
        peer: &'a P,
    },
    /// It was for the engine itself: a handshake, a keepalive.
    Consumed,
}

/// What one session is and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo<'a, L, P> {
    /// Our identity.
    pub local: &'a L,
    /// The other side.
    pub peer: &'a P,
    /// Epoch of our static key.
    pub local_epoch: u64,
    /// Epoch of the peer's static key.
    pub peer_epoch: u64,
    /// Where packets go; `None` while nobody knows.
    pub endpoint: Option<SocketAddr>,
    /// Whether packets can flow right now.
    pub established: bool,
    /// What seals the data that we send; `None` while there is no key.
    pub suite: Option<Suite>,
    /// Whether we began the last handshake.
    pub initiator: bool,
    /// When both sides last had proven a new key.
    pub last_handshake: Option<Instant>,
    /// Bytes of sent datagrams, handshakes included, UDP and IP headers not.
    pub tx_bytes: u64,
    /// Bytes of authenticated received datagrams, handshakes included.
    pub rx_bytes: u64,
    /// Data messages sent, keepalives of a handshake not included.
    pub tx_packets: u64,
    /// Inner packets handed on.
    pub rx_packets: u64,
}

/// Numbers of things that wait or live in the engine, for a bound to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sessions, at most [`crate::SESSIONS_MAX`].
    pub sessions: usize,
    /// Packets held for news of their destination, at most 256.
    pub held: usize,
    /// Packets waiting for a handshake, at most 4096.
    pub staged: usize,
    /// Initiations by unknown keys, at most 64.
    pub parked: usize,
    /// Pairs to shake hands with as soon as their names are back, at most 1024.
    pub interrupted: usize,
}

/// Everything WireGuard behind one UDP port, without the port.
///
/// `L` names a local identity, `P` a peer: a remote (node, identity). A session is between one key of each; it begins
/// with the first packet or with the first valid initiation.
///
/// The shell feeds [`handle_datagram`](Self::handle_datagram) and [`handle_packet`](Self::handle_packet), drains
/// [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event) after each, and calls
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) says so. `now` never goes back.
pub struct Engine<L, P> {
    shard: Shard,
    random: Random,
    mtu: usize,
    locals: Locals<L>,
    peers: Peers<P>,
    sessions: Sessions,
    held: Waiting<IpAddr>,
    staged: Waiting<Pair>,
    parked: Parked,
    interrupted: Interrupted<L, P>,
    admission: Admission,
    cookies: Cookies,
    clock: WallClock,
    /// The newest initiation of each pair of public keys, ours and the peer's.
    stamps: BTreeMap<([u8; 32], [u8; 32]), Stamp>,
    /// How often identities or peers were replaced.
    tables: u64,
    transmits: Transmits,
    events: Events<L, P>,
    drops: DropCounters,
    /// What is for other engines, and for which.
    foreign: VecDeque<(usize, Foreign)>,
    /// The last datagram that was not opened in place.
    inner: Vec<u8>,
    /// When something that waits will have waited too long.
    wake: Option<Instant>,
}

impl<L: Clone + Ord + Debug, P: Clone + Ord + Hash + Debug> Engine<L, P> {
    /// An engine without identities and peers.
    ///
    /// Everything random follows from the seed, ephemeral keys too: it must come from the operating system's generator
    /// where it matters, and nobody may keep it. `wall` is what the wall clock shows at `now`; handshakes are stamped with
    /// it, so that it has to be later than in the life before.
    #[must_use]
    pub fn new(seed: [u8; 32], wall: SystemTime, now: Instant) -> Self {
        let mut random = Random::new(seed);
        Self {
            shard: Shard::default(),
            cookies: Cookies::new(&mut random, now),
            random,
            mtu: MTU_DEFAULT,
            locals: Locals::new(),
            peers: Peers::new(Shard::default()),
            sessions: Sessions::default(),
            held: Waiting::new(HELD),
            staged: Waiting::new(STAGED),
            parked: Parked::default(),
            interrupted: Interrupted::new(),
            admission: Admission::new(now),
            clock: WallClock::new(wall, now),
            stamps: BTreeMap::new(),
            tables: 0,
            transmits: Transmits::new(),
            events: Events::new(),
            drops: DropCounters::default(),
            foreign: VecDeque::new(),
            inner: vec![0; DATAGRAM_MAX],
            wake: None,
        }
    }

    /// The same engine as one of several behind one port, each with a seed of its own. To be said before it has peers.
    #[must_use]
    pub fn with_shard(mut self, shard: Shard) -> Self {
        self.shard = shard;
        self.peers = Peers::new(shard);
        self.sessions = Sessions::new(shard);
        self.admission.share_renewals(shard.count());
        self
    }

    /// Mixes fresh entropy into everything random from now on: whoever has read this process's memory does not know the
    /// ephemeral keys to come. To be done every minute or so; never needed for two engines to understand each other.
    pub fn mix_entropy(&mut self, entropy: &[u8; 32]) {
        self.random.mix(entropy);
    }

    /// Takes another reading of the wall clock. One that goes back is not followed.
    pub fn set_wall_clock(&mut self, wall: SystemTime, now: Instant) {
        self.clock.set(wall, now);
    }

    /// Sets the inner MTU in bytes: padding never makes a packet longer than this. Default 1420.
    pub const fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// Replaces the local identities. Sessions of keys that stay live on; those of withdrawn keys end at once, in both
    /// directions.
    pub fn set_locals(&mut self, locals: BTreeMap<L, LocalConfig>, now: Instant) {
        self.locals.replace(locals);
        self.settle(now);
    }

    /// Replaces the peers. Sessions of keys that stay live on; those of withdrawn keys end at once, in both directions.
    pub fn set_peers(&mut self, peers: BTreeMap<P, PeerConfig>, now: Instant) {
        self.peers.replace(peers, now);
        self.settle(now);
    }

    /// The next datagram to send; call until `None`.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        self.transmits.pop()
    }

    /// The next event; call until `None`.
    pub fn poll_event(&mut self) -> Option<Event<L, P>> {
        self.events.pop()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` while there is nothing to wait for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.held.len() + self.staged.len() + self.parked.len();
        let wake = self.wake.filter(|_| waiting > 0);
        [wake, self.interrupted.due, self.sessions.next_deadline()].into_iter().flatten().min()
    }

    /// Lets time pass: repeats and renews handshakes, ends what is over. Costs nothing for whatever is not due.
    pub fn handle_timeout(&mut self, now: Instant) {
        // what finds no room is woken as soon as the shell has drained what there is
        while self.transmits.has_room() {
            let Some(slot) = self.sessions.pop_due(now) else { break };
            self.wake_session(slot, now);
        }
        if self.interrupted.due.is_some_and(|due| due <= now) {
            self.greet_interrupted(now);
        }
        if self.wake.is_none_or(|wake| now < wake) {
            return;
        }
        for reason in self.held.expire(now).into_iter().chain(self.staged.expire(now)) {
            self.drops.count(reason);
        }
        for _ in 0..self.parked.expire(now) {
            self.drops.count(DropReason::UnknownKey);
        }
        self.admission.forget_sources(now);
        self.wake = [self.held.expiry(), self.staged.expiry(), self.parked.expiry()].into_iter().flatten().min();
    }

    /// How often each reason for a drop happened.
    #[must_use]
    pub const fn counters(&self) -> &DropCounters {
        &self.drops
    }

    /// What handshakes have cost.
    #[must_use]
    pub const fn work(&self) -> &Work {
        &self.admission.work
    }

    /// How many events were lost because the shell did not drain them.
    #[must_use]
    pub const fn events_dropped(&self) -> u64 {
        self.events.dropped()
    }

    /// How much lives and waits in the engine.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            sessions: self.sessions.len(),
            held: self.held.len(),
            staged: self.staged.len(),
            parked: self.parked.len(),
            interrupted: self.interrupted.len(),
        }
    }

    /// Every session as of `now`.
    pub fn sessions(&self, now: Instant) -> impl Iterator<Item = SessionInfo<'_, L, P>> {
        self.sessions.iter().filter_map(move |(_, session)| {
            let (epochs, traffic) = (session.epochs(), session.traffic);
            let peer = self.peers.peer(session.pair().peer)?;
            Some(SessionInfo {
                local: &self.locals.local(session.pair().local)?.id,
                peer: &peer.id,
                local_epoch: epochs.local,
                peer_epoch: epochs.peer,
                endpoint: peer.endpoint(),
                established: session.is_established(now),
                suite: session.suite(),
                initiator: session.is_initiator(),
                last_handshake: session.established_at(),
                tx_bytes: traffic.tx_bytes,
                rx_bytes: traffic.rx_bytes,
                tx_packets: traffic.tx_packets,
                rx_packets: traffic.rx_packets,
            })
        })
    }

    /// Pairs that can exchange packets right now, each once: what a shell remembers, to greet them after a restart.
    pub fn recent_pairs(&self, now: Instant) -> impl Iterator<Item = (&L, &P)> {
        let mut last = None;
        self.sessions.iter().filter_map(move |(_, session)| {
            let is_new = session.is_established(now) && last != Some(session.pair());
            if is_new {
                last = Some(session.pair());
            }
            let (local, peer) = (self.locals.local(session.pair().local)?, self.peers.peer(session.pair().peer)?);
            is_new.then_some((&local.id, &peer.id))
        })
    }

    /// The endpoint that a peer's packets go to.
    #[must_use]
    pub fn endpoint(&self, peer: &P) -> Option<SocketAddr> {
        self.peers.peer(self.peers.at(peer)?)?.endpoint()
    }

    /// After a change of tables: ends sessions whose keys do not count any more (another peer has them, they became our
    /// own), and tries again what waited for news.
    fn settle(&mut self, now: Instant) {
        self.tables += 1;
        let over: Vec<Slot> =
            self.sessions.iter().filter(|(_, session)| !self.is_valid(session)).map(|(slot, _)| slot).collect();
        for slot in over {
            self.note_interrupted(slot, now);
            self.retire(slot, RetireReason::Withdrawn);
        }
        self.locals.forget_gone();
        self.peers.forget_gone();
        let (locals, peers) = (&self.locals, &self.peers);
        self.stamps.retain(|(ours, theirs), _| locals.has_public_key(ours) && peers.by_key(theirs).is_some());
        self.retry_parked(now);
        self.retry_held(now);
        for pair in self.staged.keys() {
            if !self.has_keys(pair) {
                while self.staged.pop(pair).is_some() {
                    self.drops.count(DropReason::NoBinding);
                }
            } else if self.best(pair, now).is_none() {
                self.start_handshakes(pair, now);
            }
        }
        self.greet_interrupted(now);
    }

    fn is_valid(&self, session: &Session) -> bool {
        let (pair, epochs) = (session.pair(), session.epochs());
        let local = self.locals.local(pair.local).and_then(|local| local.keys.get(&epochs.local));
        let peer = self.peer_keys(pair).find(|(epoch, _)| *epoch == epochs.peer);
        matches!((local, peer), (Some(gate), Some((_, key))) if session.is_between(gate.public(), key))
    }

    fn retire(&mut self, slot: Slot, reason: RetireReason) {
        let Some(session) = self.sessions.remove(slot) else { return };
        if let Some((local, peer)) = self.names(session.pair()) {
            let epochs = session.epochs();
            self.events.push(Event::SessionRetired {
                local,
                peer,
                local_epoch: epochs.local,
                peer_epoch: epochs.peer,
                reason,
            });
        }
    }

    fn names(&self, pair: Pair) -> Option<(L, P)> {
        Some((self.locals.id(pair.local)?.clone(), self.peers.id(pair.peer)?.clone()))
    }

    fn wake_session(&mut self, slot: Slot, now: Instant) {
        while let Some(session) = self.sessions.get_mut(slot) {
            match session.due(now) {
                Due::Nothing => break,
                Due::Initiation => self.initiate(slot, now),
                Due::Keepalive => self.send_keepalive(slot, now),
                Due::GaveUp => return self.give_up(slot),
                Due::Idle => return self.retire(slot, RetireReason::Idle),
            }
        }
        self.sessions.settle(slot);
    }

    fn give_up(&mut self, slot: Slot) {
        let Some(session) = self.sessions.get(slot) else { return };
        if session.attempts() == 0 {
            // no handshake failed: it was only asleep for so long that its keys are erased
            return self.retire(slot, RetireReason::Idle);
        }
        let (pair, epochs) = (session.pair(), session.epochs());
        self.sessions.remove(slot);
        if self.sessions.of_pair(pair).next().is_none() {
            while self.staged.pop(pair).is_some() {
                self.drops.count(DropReason::HandshakeTimeout);
            }
        }
        if let Some((local, peer)) = self.names(pair) {
            tracing::debug!(?local, ?peer, "The peer did not answer: session given up");
            self.events.push(Event::SessionExpired { local, peer, local_epoch: epochs.local, peer_epoch: epochs.peer });
        }
    }

    fn wake_by(&mut self, deadline: Instant) {
        self.wake = Some(self.wake.map_or(deadline, |wake| wake.min(deadline)));
    }
}
