//! Engines, the wire between them, and a clock that moves when told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use packet::{IpPacket, checksum};

use crate::{DropReason, Engine, Event, Handled, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret, Suite};

/// The moment at which every test begins.
pub(crate) fn epoch() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; read once")]
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

/// Who somebody is in these tests: the name of a node's only identity, or of one of several.
pub(super) type Name = &'static str;

/// A private key that follows from a name and an epoch.
pub(super) fn secret(name: Name, epoch: u64) -> StaticSecret {
    let mut bytes = [0x5a; 32];
    for (place, byte) in bytes.iter_mut().zip(name.bytes().chain(epoch.to_be_bytes())) {
        *place ^= byte;
    }
    StaticSecret::from(bytes)
}

pub(super) fn public(name: Name, epoch: u64) -> PublicKey {
    PublicKey::from(&secret(name, epoch))
}

/// Alice is 1, Bob 2 ...: the last byte of everything they have.
fn number(name: Name) -> u8 {
    match name {
        "alice" => 1,
        "bob" => 2,
        "carol" => 3,
        "dave" => 4,
        "bob's second" => 5,
        _ => 99,
    }
}

pub(super) fn v4(name: Name) -> IpAddr {
    IpAddr::from([10, 0, 0, number(name)])
}

pub(super) fn v6(name: Name) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number(name))])
}

pub(super) fn outer(name: Name) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number(name)], 51840))
}

/// A UDP packet; the payload tells packets apart.
pub(super) fn udp(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum::checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([17, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("one family"),
    };
    packet.extend([0, 7, 0, 7]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// A datagram under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

impl Datagram {
    pub(super) fn kind(&self) -> u8 {
        self.bytes[0]
    }
}

/// A packet that came out of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) packet: Vec<u8>,
    pub(super) local: Name,
    pub(super) peer: Name,
}

pub(super) struct Node {
    pub(super) engine: Engine<Name, Name>,
    pub(super) at: SocketAddr,
    pub(super) delivered: Vec<Delivered>,
    pub(super) events: Vec<Event<Name, Name>>,
    pub(super) drops: Vec<DropReason>,
    pub(super) locals: BTreeMap<Name, LocalConfig>,
    pub(super) peers: BTreeMap<Name, PeerConfig>,
}

impl Node {
    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.engine.counters().of(reason)
    }

    pub(super) fn payloads(&self) -> Vec<Vec<u8>> {
        self.delivered
            .iter()
            .map(|delivered| IpPacket::parse(&delivered.packet).unwrap().payload()[8..].to_vec())
            .collect()
    }
}

/// Some nodes and what is on the wire between them.
pub(super) struct World {
    pub(super) now: Instant,
    /// How often a process began: a process that begins later reads a later clock, if only by 20 ms.
    starts: u32,
    /// How far the clock is behind for whoever reads it now.
    pub(super) clock_lags: Duration,
    pub(super) nodes: BTreeMap<Name, Node>,
    pub(super) wire: VecDeque<Datagram>,
    /// Everything that ever was on the wire.
    pub(super) log: Vec<Datagram>,
}

pub(super) fn local_config(name: Name, epochs: &[u64]) -> LocalConfig {
    let key = |epoch: &u64| LocalKey { epoch: *epoch, secret: secret(name, *epoch), suite: Suite::default() };
    LocalConfig { keys: epochs.iter().map(key).collect(), addresses: BTreeSet::from([v4(name), v6(name)]) }
}

pub(super) fn peer_config(name: Name, epochs: &[u64]) -> PeerConfig {
    PeerConfig {
        keys: epochs.iter().map(|epoch| (*epoch, public(name, *epoch))).collect(),
        suites: BTreeMap::new(),
        endpoints: vec![outer(name)],
        allowed_ips: vec![v4(name).into(), v6(name).into()],
        preshared_key: None,
    }
}

impl World {
    /// Nodes that know nobody but themselves, each with its key of epoch 1.
    pub(super) fn strangers(names: &[Name]) -> Self {
        let mut world = Self {
            now: epoch(),
            starts: 0,
            clock_lags: Duration::ZERO,
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            log: Vec::new(),
        };
        for name in names {
            world.start(name);
            world.set_local(name, name, local_config(name, &[1]));
        }
        world
    }

    /// Nodes that know each other.
    pub(super) fn friends(names: &[Name]) -> Self {
        let mut world = Self::strangers(names);
        for name in names {
            for other in names.iter().filter(|other| *other != name) {
                world.set_peer(name, other, peer_config(other, &[1]));
            }
        }
        world
    }

    /// A node's process begins, or begins anew: sessions are gone, tables have to be set again.
    pub(super) fn start(&mut self, name: Name) {
        self.starts += 1;
        let engine = Engine::new([number(name); 32], self.wall(), self.now);
        let at = outer(name);
        let node = Node {
            engine,
            at,
            delivered: Vec::new(),
            events: Vec::new(),
            drops: Vec::new(),
            locals: BTreeMap::new(),
            peers: BTreeMap::new(),
        };
        self.nodes.insert(name, node);
    }

    /// What the wall clock shows.
    pub(super) fn wall(&self) -> SystemTime {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        begin + (self.now - epoch()) + self.starts * Duration::from_millis(20) - self.clock_lags
    }

    /// The process dies and comes back with the same tables.
    pub(super) fn restart(&mut self, name: Name) {
        let old = self.nodes.remove(name).unwrap();
        self.start(name);
        let now = self.now;
        let node = self.node(name);
        (node.locals, node.peers, node.at) = (old.locals, old.peers, old.at);
        node.engine.set_locals(node.locals.clone(), now);
        node.engine.set_peers(node.peers.clone(), now);
    }

    pub(super) fn node(&mut self, name: Name) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    pub(super) fn set_local(&mut self, node: Name, local: Name, config: LocalConfig) {
        let now = self.now;
        let node = self.node(node);
        node.locals.insert(local, config);
        node.engine.set_locals(node.locals.clone(), now);
        self.collect();
    }

    pub(super) fn remove_local(&mut self, node: Name, local: Name) {
        let now = self.now;
        let node = self.node(node);
        node.locals.remove(local);
        node.engine.set_locals(node.locals.clone(), now);
        self.collect();
    }

    pub(super) fn set_peer(&mut self, node: Name, peer: Name, config: PeerConfig) {
        let now = self.now;
        let node = self.node(node);
        node.peers.insert(peer, config);
        node.engine.set_peers(node.peers.clone(), now);
        self.collect();
    }

    pub(super) fn remove_peer(&mut self, node: Name, peer: Name) {
        let now = self.now;
        let node = self.node(node);
        node.peers.remove(peer);
        node.engine.set_peers(node.peers.clone(), now);
        self.collect();
    }

    /// A packet enters a node's TUN; what comes of it stays on the wire.
    pub(super) fn send(&mut self, node: Name, packet: &[u8]) -> Result<(), DropReason> {
        let now = self.now;
        let result = self.node(node).engine.handle_packet(packet, now);
        self.collect();
        result
    }

    /// A UDP packet from one identity to another, over IPv4.
    pub(super) fn say(&mut self, from: Name, to: Name, payload: &[u8]) {
        self.send(from, &udp(v4(from), v4(to), payload)).unwrap();
    }

    /// Takes what the engines have to send and to tell.
    pub(super) fn collect(&mut self) {
        for node in self.nodes.values_mut() {
            while let Some(transmit) = node.engine.poll_transmit() {
                let datagram = Datagram { from: node.at, to: transmit.to, bytes: transmit.datagram.to_vec() };
                self.wire.push_back(datagram.clone());
                self.log.push(datagram);
            }
            node.events.extend(std::iter::from_fn(|| node.engine.poll_event()));
        }
    }

    /// One datagram arrives at whoever has its destination; nobody may.
    pub(super) fn deliver(&mut self, datagram: &Datagram) {
        let now = self.now;
        if let Some(node) = self.nodes.values_mut().find(|node| node.at == datagram.to) {
            match node.engine.handle_datagram(datagram.from, &datagram.bytes, now) {
                Ok(Handled::Opened { packet, local, peer }) => {
                    node.delivered.push(Delivered { packet: packet.to_vec(), local, peer });
                }
                Ok(Handled::Consumed) => {}
                Err(reason) => node.drops.push(reason),
            }
        }
        self.collect();
    }

    /// Everything on the wire arrives, in order, until it is quiet.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            let Some(datagram) = self.wire.pop_front() else { return };
            self.deliver(&datagram);
        }
        panic!("the wire does not become quiet");
    }

    /// Everything on the wire is lost.
    pub(super) fn lose(&mut self) -> Vec<Datagram> {
        self.wire.drain(..).collect()
    }

    /// Time passes, in steps that nobody misses a deadline by; datagrams arrive at once.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let mut idle_turns = 0;
        loop {
            idle_turns =
                if self.nodes.values().any(|node| node.engine.poll_timeout().is_some_and(|due| due <= self.now)) {
                    idle_turns + 1
                } else {
                    0
                };
            assert!(idle_turns < 100, "an engine wants to be woken without end");
            let next = self.nodes.values().filter_map(|node| node.engine.poll_timeout()).min();
            let next = next.unwrap_or(end).clamp(self.now, end);
            self.jump(next - self.now);
            for node in self.nodes.values_mut() {
                node.engine.handle_timeout(self.now);
            }
            self.collect();
            self.run();
            if self.now >= end {
                return;
            }
        }
    }

    /// Time passes and nobody notices.
    pub(super) fn jump(&mut self, time: Duration) {
        self.now += time;
    }

    /// The kinds of all datagrams that ever were on the wire.
    pub(super) fn kinds(&self) -> Vec<u8> {
        self.log.iter().map(Datagram::kind).collect()
    }
}
