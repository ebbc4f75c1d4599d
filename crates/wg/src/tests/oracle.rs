//! FZ-12: our engine against boringtun, which is somebody else's reading of the same paper. Both in both roles.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use mock_instant::MockClock;
use proptest::prelude::*;
use x25519_dalek::StaticSecret;

use super::world::*;
use crate::cookie::{Jar, MacKeys};
use crate::gate::Gate;
use crate::hash::Secret;
use crate::message::{INITIATION, RESPONSE};
use crate::noise::{Acquaintance, Initiator};
use crate::{DropReason, Engine, Handled, Suite};

const TICK: Duration = Duration::from_millis(250);

/// What came of a datagram.
#[derive(Default)]
struct Outcome {
    replies: Vec<Vec<u8>>,
    delivered: Option<Vec<u8>>,
    refused: bool,
}

/// One of two who talk.
trait Party {
    /// A packet leaves; what goes to the wire for it.
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>>;
    fn receive(&mut self, datagram: &[u8]) -> Outcome;
    /// The clock was moved by at most [`TICK`].
    fn tick(&mut self) -> Vec<Vec<u8>>;
}

struct Ours {
    world: World,
    name: Name,
    peer: Name,
}

impl Ours {
    fn new(name: Name, peer: Name) -> Self {
        let mut world = World::strangers(&[name]);
        world.set_peer(name, peer, peer_config(peer, &[1]));
        Self { world, name, peer }
    }

    fn engine(&mut self) -> &mut Engine<Name, Name> {
        &mut self.world.node(self.name).engine
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.world.collect();
        self.world.wire.drain(..).map(|datagram| datagram.bytes).collect()
    }
}

impl Party for Ours {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.world.send(self.name, packet).unwrap();
        self.sent()
    }

    fn receive(&mut self, datagram: &[u8]) -> Outcome {
        let (now, from) = (self.world.now, outer(self.peer));
        let mut outcome = Outcome::default();
        match self.engine().handle_datagram(from, datagram, now) {
            Ok(Handled::Opened { packet, .. }) => outcome.delivered = Some(packet.to_vec()),
            Ok(Handled::Consumed) => {}
            Err(_) => outcome.refused = true,
        }
        outcome.replies = self.sent();
        outcome
    }

    fn tick(&mut self) -> Vec<Vec<u8>> {
        self.world.now += TICK;
        let now = self.world.now;
        self.engine().handle_timeout(now);
        self.sent()
    }
}

struct Stock(Box<Tunn>);

impl Stock {
    fn new(name: Name, peer: Name) -> Self {
        Self::with(name, peer, None, None)
    }

    fn with(name: Name, peer: Name, preshared: Option<[u8; 32]>, limiter: Option<Arc<RateLimiter>>) -> Self {
        Self(Box::new(Tunn::new(secret(name, 1), public(peer, 1), preshared, None, 7, limiter)))
    }
}

impl Party for Stock {
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        written(self.0.encapsulate(packet, &mut [0; 2048]))
    }

    fn receive(&mut self, datagram: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut out, mut next) = ([0; 2048], datagram);
        loop {
            match self.0.decapsulate(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), next, &mut out) {
                TunnResult::WriteToNetwork(reply) => outcome.replies.push(reply.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    outcome.delivered = Some(packet.to_vec());
                    return outcome;
                }
                TunnResult::Done => return outcome,
                TunnResult::Err(_) => {
                    outcome.refused = true;
                    return outcome;
                }
            }
            next = &[];
        }
    }

    fn tick(&mut self) -> Vec<Vec<u8>> {
        written(self.0.update_timers(&mut [0; 2048]))
    }
}

fn written(result: TunnResult<'_>) -> Vec<Vec<u8>> {
    if let TunnResult::WriteToNetwork(datagram) = result { vec![datagram.to_vec()] } else { Vec::new() }
}

fn party(is_ours: bool, name: Name, peer: Name) -> Box<dyn Party> {
    if is_ours { Box::new(Ours::new(name, peer)) } else { Box::new(Stock::new(name, peer)) }
}

/// Carries datagrams to and fro until nobody has anything to say; returns what was delivered to both.
fn carry(
    one: &mut dyn Party,
    other: &mut dyn Party,
    from_one: Vec<Vec<u8>>,
    from_other: Vec<Vec<u8>>,
) -> [Vec<Vec<u8>>; 2] {
    let mut delivered = [Vec::new(), Vec::new()];
    let mut wire: Vec<(bool, Vec<u8>)> = from_one.into_iter().map(|datagram| (true, datagram)).collect();
    wire.extend(from_other.into_iter().map(|datagram| (false, datagram)));
    while !wire.is_empty() {
        let (to_other, datagram) = wire.remove(0);
        let outcome = if to_other { other.receive(&datagram) } else { one.receive(&datagram) };
        assert!(!outcome.refused, "a genuine datagram was refused: {:02x?}", &datagram[..16]);
        delivered[usize::from(to_other)].extend(outcome.delivered);
        wire.extend(outcome.replies.into_iter().map(|reply| (!to_other, reply)));
    }
    delivered
}

/// Three of the four pairs of implementations; boringtun with itself proves nothing.
const PAIRS: [(bool, bool); 3] = [(true, false), (false, true), (true, true)];

#[test]
fn fz_12_handshake_and_every_size_both_ways() {
    for (alice_is_ours, bob_is_ours) in PAIRS {
        let mut alice = party(alice_is_ours, "alice", "bob");
        let mut bob = party(bob_is_ours, "bob", "alice");
        for size in (0..=1392).step_by(7) {
            for (source, destination) in [(v4("alice"), v4("bob")), (v6("alice"), v6("bob"))] {
                let there = udp(source, destination, &vec![1; size]);
                let back = udp(destination, source, &vec![2; size]);
                let sent = alice.send(&there);
                let [_, at_bob] = carry(&mut *alice, &mut *bob, sent, Vec::new());
                let sent = bob.send(&back);
                let [at_alice, _] = carry(&mut *alice, &mut *bob, Vec::new(), sent);
                assert_eq!((at_bob, at_alice), (vec![there], vec![back]));
            }
        }
    }
}

/// PC-12 with somebody else: ten minutes of traffic, whoever began; keys are renewed and nothing is lost.
#[test]
fn fz_12_ten_minutes_of_renewals() {
    for (alice_is_ours, bob_is_ours) in PAIRS {
        let mut alice = party(alice_is_ours, "alice", "bob");
        let mut bob = party(bob_is_ours, "bob", "alice");
        let (mut counts, mut initiations) = ([0; 2], 0);
        for number in 0..2400u32 {
            let there = udp(v4("alice"), v4("bob"), &number.to_be_bytes());
            let back = udp(v4("bob"), v4("alice"), &number.to_be_bytes());
            let (from_alice, from_bob) = (alice.send(&there), if number > 0 { bob.send(&back) } else { Vec::new() });
            initiations += from_alice.iter().chain(&from_bob).filter(|datagram| datagram[0] == 1).count();
            let delivered = carry(&mut *alice, &mut *bob, from_alice, from_bob);
            MockClock::advance(TICK);
            let (from_alice, from_bob) = (alice.tick(), bob.tick());
            initiations += from_alice.iter().chain(&from_bob).filter(|datagram| datagram[0] == 1).count();
            let late = carry(&mut *alice, &mut *bob, from_alice, from_bob);
            counts[0] += delivered[0].len() + late[0].len();
            counts[1] += delivered[1].len() + late[1].len();
        }
        assert_eq!(counts, [2399, 2400], "ours: {alice_is_ours}, {bob_is_ours}");
        assert!((5..=6).contains(&initiations), "{initiations}: one at first and one each two minutes");
    }
}

/// PC-22, PC-23: their cookie, our next initiation; and the other way round.
#[test]
fn fz_12_cookies_both_ways() {
    let strict = Arc::new(RateLimiter::new(&public("bob", 1), 0));
    let mut bob = Stock::with("bob", "alice", None, Some(strict));
    let mut alice = Ours::new("alice", "bob");
    let sent = alice.send(&udp(v4("alice"), v4("bob"), b"x"));
    let cookie = bob.receive(&sent[0]).replies;
    assert_eq!((cookie.len(), cookie[0].len()), (1, 64));
    assert!(alice.receive(&cookie[0]).replies.is_empty());
    let mut retry = Vec::new();
    while retry.is_empty() {
        retry = alice.tick();
    }
    assert_ne!(retry[0][132..], [0; 16]);
    let response = bob.receive(&retry[0]).replies;
    assert_eq!(response[0].len(), RESPONSE, "the cookie was taken");

    let mut alice = Stock::new("alice", "bob");
    let mut bob = Ours::new("bob", "alice");
    let first = alice.send(&udp(v4("alice"), v4("bob"), b"x"));
    for _ in 0..513 {
        bob.receive(&first[0]);
    }
    let cookie = bob.receive(&first[0]);
    assert_eq!(cookie.replies[0].len(), 64);
    assert!(!alice.receive(&cookie.replies[0]).refused);
    let mut retry = Vec::new();
    while retry.is_empty() {
        MockClock::advance(TICK);
        (retry, _) = (alice.tick(), bob.tick());
    }
    // the flood goes on
    for _ in 0..513 {
        bob.receive(&first[0]);
    }
    assert!(!bob.receive(&retry[0]).refused);
    assert_eq!(bob.world.node("bob").dropped(DropReason::RateLimited), 0);
}

/// PC-01, PC-02: the handshake alone, with and without a preshared key, in both roles.
#[test]
fn fz_12_preshared_keys() {
    for preshared in [[0; 32], [0x77; 32]] {
        let (gate, peer) = (Gate::new(secret("alice", 1), Suite::default()), public("bob", 1));
        let shared: Secret = gate.shared_with(&peer).unwrap();
        let mut jar = Jar::default();
        let mut bob = Stock::with("bob", "alice", Some(preshared), None);
        let us = Acquaintance { local: gate.public(), peer: &peer, shared: &shared };
        let mut message = [0; INITIATION];
        let stamp = *b"\x40\0\0\0\x70\0\0\0\0\0\0\0";
        let initiator = Initiator::write(&us, StaticSecret::from([3; 32]), 9, &stamp, &mut message).unwrap();
        jar.sign(&MacKeys::new(&peer), &mut message, epoch()).unwrap();
        let response = bob.receive(&message).replies.remove(0);
        assert!(gate.recognises(&response));
        assert!(initiator.read_response(gate.secret(), &preshared, &response).is_ok());
        assert!(initiator.read_response(gate.secret(), &[1; 32], &response).is_err());

        let mut bob = Stock::with("bob", "alice", Some(preshared), None);
        let initiation = bob.send(&[]).remove(0);
        let claim = gate.claim(&initiation).unwrap();
        assert_eq!(claim.key, *peer.as_bytes());
        let mut response = [0; RESPONSE];
        let proven = claim.prove(&shared).unwrap();
        proven.respond((&peer, &preshared), &StaticSecret::from([4; 32]), 9, &mut response).unwrap();
        jar.sign(&MacKeys::new(&peer), &mut response, epoch()).unwrap();
        assert!(!bob.receive(&response).refused);
    }
}

/// What happens to one datagram on its way.
#[derive(Clone, Debug)]
enum Change {
    None,
    Flip(u16),
    Cut(u8),
    Extend(u8),
    Repeat,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::None),
        4 => any::<u16>().prop_map(Change::Flip),
        1 => (1u8..=255).prop_map(Change::Cut),
        1 => (1u8..=255).prop_map(Change::Extend),
        1 => Just(Change::Repeat),
    ]
}

/// Delivers a datagram after a change, then as it was. Says whether each was taken, and what is answered to the genuine one.
fn deliver(to: &mut dyn Party, datagram: &[u8], change: &Change) -> (Vec<bool>, Outcome) {
    let mut changed = datagram.to_vec();
    let last = match datagram[0] {
        // `mac2` counts under load only
        1 | 2 => datagram.len() - 16,
        _ => datagram.len(),
    };
    match *change {
        Change::None => return (Vec::new(), to.receive(datagram)),
        Change::Flip(at) => {
            let bit = usize::from(at) % (last * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
        }
        Change::Cut(by) => changed.truncate(datagram.len().saturating_sub(usize::from(by)).max(1)),
        Change::Extend(by) => changed.resize(datagram.len() + usize::from(by), 0),
        Change::Repeat => {
            let first = to.receive(datagram);
            let again = to.receive(datagram);
            return (vec![again.refused], first);
        }
    }
    let taken = !to.receive(&changed).refused;
    (vec![taken], to.receive(datagram))
}

/// A handshake and some data with changes on the way; every decision that was made.
fn decisions(alice_is_ours: bool, bob_is_ours: bool, changes: &[Change]) -> Vec<Vec<bool>> {
    let mut alice = party(alice_is_ours, "alice", "bob");
    let mut bob = party(bob_is_ours, "bob", "alice");
    let mut all = Vec::new();
    let mut changes = changes.iter();
    let mut step = |to: &mut dyn Party, datagram: &[u8]| {
        let (taken, outcome) = deliver(to, datagram, changes.next().unwrap_or(&Change::None));
        all.push(taken);
        all.push(vec![outcome.refused, outcome.delivered.is_some()]);
        outcome.replies
    };
    let packet = |number: u8| udp(v4("alice"), v4("bob"), &[number]);
    let initiation = alice.send(&packet(0)).remove(0);
    let response = step(&mut *bob, &initiation).remove(0);
    for datagram in step(&mut *alice, &response) {
        step(&mut *bob, &datagram);
    }
    for number in 1..10 {
        let sent = alice.send(&packet(number)).remove(0);
        step(&mut *bob, &sent);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to datagrams on their way, we take and refuse what boringtun takes and refuses.
    #[test]
    fn fz_12_the_same_is_taken_and_refused(changes in prop::collection::vec(change(), 14)) {
        let reference = decisions(false, false, &changes);
        for (alice, bob) in PAIRS {
            prop_assert_eq!(decisions(alice, bob, &changes), &reference[..], "ours: {}, {}", alice, bob);
        }
    }
}
