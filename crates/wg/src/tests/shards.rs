//! Several engines behind one port, with a shell that hands on what came to the wrong one: wherever the kernel puts a packet, it
//! arrives, once, and each session lives in one engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use super::world::{epoch, udp};
use crate::{DropReason, Engine, Foreign, Handled, LocalConfig, LocalKey, PeerConfig, PublicKey, Shard, StaticSecret};

/// Identities of a node.
const IDENTITIES: u8 = 12;

/// The two nodes.
const NODES: [u8; 2] = [1, 2];

/// A node as its port sees it: engines, and a shell that gives each what is its.
struct Node {
    engines: Vec<Engine<u8, (u8, u8)>>,
    shards: Vec<Shard>,
    number: u8,
    /// Which engine the kernel gives the next packet or datagram.
    turn: usize,
    delivered: Vec<Vec<u8>>,
    /// How often something was handed from one engine to another.
    handed_on: usize,
}

fn secret(node: u8, identity: u8) -> StaticSecret {
    let mut bytes = [7; 32];
    bytes[1..3].copy_from_slice(&[node, identity]);
    StaticSecret::from(bytes)
}

fn inner(node: u8, identity: u8) -> IpAddr {
    IpAddr::from([10, node, 0, identity])
}

fn outer(node: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node], 51840))
}

fn locals(node: u8) -> BTreeMap<u8, LocalConfig> {
    let local = |identity| LocalConfig {
        keys: vec![LocalKey { epoch: 1, secret: secret(node, identity), suite: Default::default() }],
        addresses: BTreeSet::from([inner(node, identity)]),
    };
    (0..IDENTITIES).map(|identity| (identity, local(identity))).collect()
}

fn peers(node: u8) -> BTreeMap<(u8, u8), PeerConfig> {
    let peer = |identity| PeerConfig {
        keys: BTreeMap::from([(1, PublicKey::from(&secret(node, identity)))]),
        endpoints: vec![outer(node)],
        allowed_ips: vec![inner(node, identity).into()],
        suites: BTreeMap::new(),
        preshared_key: None,
    };
    (0..IDENTITIES).map(|identity| ((node, identity), peer(identity))).collect()
}

impl Node {
    fn new(number: u8, count: usize) -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let shards: Vec<_> = (0..count).map(|at| Shard::new(at, count).unwrap()).collect();
        let engine = |shard: &Shard| {
            let seed = [number ^ u8::try_from(shard.at() << 4).unwrap(); 32];
            let mut engine = Engine::new(seed, wall, epoch()).with_shard(*shard);
            engine.set_locals(locals(number), epoch());
            engine
        };
        let engines = shards.iter().map(engine).collect();
        Self { engines, shards, number, turn: 0, delivered: Vec::new(), handed_on: 0 }
    }

    fn knowing(number: u8, count: usize) -> Self {
        let mut node = Self::new(number, count);
        node.meet(epoch());
        node
    }

    /// All engines hear of the other node.
    fn meet(&mut self, now: Instant) {
        for at in 0..self.engines.len() {
            self.engines[at].set_peers(peers(3 - self.number), now);
            self.pass_on(now);
        }
    }

    fn kernels_choice(&mut self) -> usize {
        self.turn += 1;
        self.turn % self.engines.len()
    }

    fn send(&mut self, from: u8, to: u8, now: Instant) {
        let packet = udp(inner(self.number, from), inner(3 - self.number, to), &[from, to]);
        let chosen = self.kernels_choice();
        let owner = self.engines[chosen].other_owner(&packet).unwrap_or(chosen);
        self.handed_on += usize::from(owner != chosen);
        self.engines[owner].handle_packet(&packet, now).unwrap();
    }

    fn receive(&mut self, datagram: &[u8], now: Instant) {
        let chosen = self.kernels_choice();
        let owner = self.shards[chosen].of_datagram(datagram);
        self.handed_on += usize::from(owner != chosen);
        match self.engines[owner].handle_datagram(outer(3 - self.number), datagram, now) {
            Ok(Handled::Opened { packet, .. }) => self.delivered.push(packet.to_vec()),
            Ok(Handled::Consumed) => {}
            Err(reason) => panic!("dropped: {reason}"),
        }
        self.pass_on(now);
    }

    fn pass_on(&mut self, now: Instant) {
        for at in 0..self.engines.len() {
            while let Some((owner, what)) = self.engines[at].poll_foreign() {
                assert_ne!(owner, at);
                self.handed_on += 1;
                match what {
                    Foreign::Packet(packet) => self.engines[owner].handle_packet(&packet, now).unwrap(),
                    Foreign::Initiation { from, datagram } => {
                        // the other engine may have no table yet, and then keeps it
                        self.engines[owner].take_initiation(from, &datagram, now).unwrap();
                    }
                }
            }
        }
    }

    fn transmits(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for engine in &mut self.engines {
            while let Some(transmit) = engine.poll_transmit() {
                all.push(transmit.datagram.to_vec());
            }
        }
        all
    }

    /// Which engines have a session with each peer.
    fn homes(&self, now: Instant) -> BTreeMap<(u8, u8), BTreeSet<usize>> {
        let mut homes = BTreeMap::<_, BTreeSet<_>>::new();
        for (at, engine) in self.engines.iter().enumerate() {
            for session in engine.sessions(now) {
                homes.entry(*session.peer).or_default().insert(at);
            }
        }
        homes
    }
}

/// Whatever is to be sent arrives, until nothing is.
fn exchange([a, b]: [&mut Node; 2], now: Instant) {
    loop {
        let (from_a, from_b) = (a.transmits(), b.transmits());
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        from_a.iter().for_each(|datagram| b.receive(datagram, now));
        from_b.iter().for_each(|datagram| a.receive(datagram, now));
    }
}

fn all_pairs() -> impl Iterator<Item = (u8, u8)> {
    (0..IDENTITIES).flat_map(|from| (0..IDENTITIES).map(move |to| (from, to)))
}

#[test]
fn wherever_the_kernel_puts_it_a_packet_arrives_once_and_a_peer_has_one_home() {
    for (ours, theirs) in [(1, 1), (4, 1), (2, 8), (16, 16)] {
        let now = epoch();
        let [mut a, mut b] = [Node::knowing(NODES[0], ours), Node::knowing(NODES[1], theirs)];
        for round in 0..3 {
            for (from, to) in all_pairs() {
                a.send(from, to, now);
                b.send(to, from, now);
                exchange([&mut a, &mut b], now);
            }
            for node in [&a, &b] {
                let expected = usize::from(IDENTITIES).pow(2) * (round + 1);
                assert_eq!(node.delivered.len(), expected, "{ours} and {theirs} engines, round {round}");
                assert_eq!(node.delivered.iter().collect::<BTreeSet<_>>().len(), usize::from(IDENTITIES).pow(2));
            }
        }
        for node in [&a, &b] {
            let homes = node.homes(now);
            assert_eq!(homes.len(), usize::from(IDENTITIES));
            assert!(homes.values().all(|home| home.len() == 1), "{homes:?}");
            let shard = node.shards[0];
            assert!(homes.iter().all(|(peer, home)| home.contains(&shard.of_peer(peer))));
            let used: BTreeSet<_> = homes.into_values().flatten().collect();
            assert!(used.len() > 1 || node.engines.len() == 1, "the peers are spread");
            assert_eq!(node.handed_on > 0, node.engines.len() > 1);
        }
    }
}

#[test]
fn what_waited_for_news_at_one_engine_goes_on_at_another() {
    let now = epoch();
    let [mut a, mut b] = [Node::new(NODES[0], 4), Node::knowing(NODES[1], 4)];
    for (from, to) in [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)] {
        // nobody knows the destination yet
        a.send(from, to, now);
        // and nobody knows who calls
        b.send(from, to, now);
    }
    exchange([&mut a, &mut b], now);
    assert!(a.delivered.is_empty() && b.delivered.is_empty());
    let waiting = |node: &Node| {
        node.engines
            .iter()
            .map(|engine| engine.occupancy())
            .fold((0, 0), |(held, parked), of| (held + of.held, parked + of.parked))
    };
    assert_eq!(waiting(&a), (6, 6));
    let later = now + Duration::from_millis(300);
    a.meet(later);
    exchange([&mut a, &mut b], later);
    assert_eq!((a.delivered.len(), b.delivered.len()), (6, 6));
    assert_eq!(waiting(&a), (0, 0));
    assert!(a.handed_on > 6);
}

#[test]
fn an_engine_sends_nothing_to_a_peer_of_another() {
    let now = epoch();
    let mut node = Node::knowing(NODES[0], 2);
    for (from, to) in all_pairs() {
        let packet = udp(inner(1, from), inner(2, to), b"x");
        let Some(owner) = node.engines[0].other_owner(&packet) else { continue };
        assert_eq!(node.engines[1].other_owner(&packet), None);
        assert_eq!(owner, 1);
        assert_eq!(node.engines[0].path(&packet, now), None);
        // it waits for another table
        assert_eq!(node.engines[0].handle_packet(&packet, now), Ok(()));
        assert_eq!(node.engines[0].greet(&from, &(2, to), now), Err(DropReason::NoPeer));
        break;
    }
    assert_eq!(node.engines[0].poll_transmit(), None);
    assert_eq!(node.engines[0].occupancy().held, 1);
}

#[test]
fn an_initiation_is_handed_on_once() {
    let now = epoch();
    let [mut a, mut b] = [Node::knowing(NODES[0], 1), Node::knowing(NODES[1], 2)];
    let foreign = (0..IDENTITIES).find(|from| b.shards[0].of_peer(&(1_u8, *from)) == 1).unwrap();
    a.send(foreign, 0, now);
    let [initiation] = &a.transmits()[..] else { panic!("an initiation") };
    assert_eq!(b.shards[0].of_datagram(initiation), 0);
    assert_eq!(b.engines[0].handle_datagram(outer(1), initiation, now), Ok(Handled::Consumed));
    let Some((1, Foreign::Initiation { datagram, .. })) = b.engines[0].poll_foreign() else { panic!("handed on") };
    assert_eq!(&datagram, initiation);
    assert_eq!(b.engines[0].poll_transmit(), None);
    // an engine that has it from another one and does not own the peer keeps it from going in circles
    assert_eq!(b.engines[0].take_initiation(outer(1), &datagram, now), Err(DropReason::UnknownKey));
    assert_eq!(b.engines[0].poll_foreign(), None);
    b.engines[1].take_initiation(outer(1), &datagram, now).unwrap();
    assert!(b.engines[1].poll_transmit().is_some_and(|response| response.datagram.first() == Some(&2)));
    // whoever plays it again gets no second answer
    assert_eq!(b.engines[0].handle_datagram(outer(1), initiation, now), Ok(Handled::Consumed));
    let Some((1, Foreign::Initiation { datagram, .. })) = b.engines[0].poll_foreign() else { panic!("handed on") };
    assert_eq!(b.engines[1].take_initiation(outer(1), &datagram, now), Err(DropReason::HandshakeReplay));
}

#[test]
fn a_number_of_engines_is_a_power_of_two() {
    for count in 0..40 {
        let is_one = [1, 2, 4, 8, 16].contains(&count);
        assert_eq!(Shard::new(0, count).is_some(), is_one, "{count}");
        assert_eq!(Shard::new(count, count), None);
    }
    let last = Shard::new(15, 16).unwrap();
    for index in [0, u32::MAX, 0x1234_5678] {
        let mut data = vec![4, 0, 0, 0];
        data.extend(last.brand(index).to_le_bytes());
        assert_eq!(last.of_datagram(&data), 15);
        assert_eq!(last.brand(index) >> 4, index >> 4);
        data[0] = 3;
        assert_eq!(last.of_datagram(&data), 15);
        let mut response = vec![2, 0, 0, 0, 0, 0, 0, 0];
        response.extend(last.brand(index).to_le_bytes());
        assert_eq!(last.of_datagram(&response), 15);
        data[0] = 1;
        assert_eq!(last.of_datagram(&data), 0);
        assert_eq!(last.of_datagram(&data[..3]), 0);
    }
}
