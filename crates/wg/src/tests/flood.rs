//! Floods: what each costs is counted, not timed, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use super::world::*;
use crate::cookie::{Jar, MacKeys};
use crate::random::Random;
use crate::{DropReason, Event, Handled, Work};

const EVE: ([u8; 4], u16) = ([203, 0, 113, 66], 666);
const SECOND: Duration = Duration::from_secs(1);

fn established() -> World {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"first");
    world.run();
    world.log.clear();
    world
}

/// Somebody without a key of ours, who knows Bob's public key: every initiation another one, each `mac1` right.
struct Stranger {
    random: Random,
    keys: MacKeys,
    jar: Jar,
}

impl Stranger {
    fn new() -> Self {
        Self { random: Random::new([66; 32]), keys: MacKeys::new(&public("bob", 1)), jar: Jar::default() }
    }

    fn initiation(&mut self, world: &World) -> [u8; 148] {
        let mut message = [0; 148];
        message.chunks_mut(32).for_each(|chunk| chunk.copy_from_slice(&self.random.secret()[..chunk.len()]));
        message[..4].copy_from_slice(&1u32.to_le_bytes());
        self.jar.sign(&self.keys, &mut message, world.now).unwrap();
        message
    }

    /// Sends one, and takes the cookie if there is one.
    fn knock(&mut self, world: &mut World, from: SocketAddr) -> Option<DropReason> {
        let (message, now) = (self.initiation(world), world.now);
        let bob = world.node("bob");
        let reason = bob.engine.handle_datagram(from, &message, now).err();
        while let Some(transmit) = bob.engine.poll_transmit() {
            assert!((transmit.datagram.len(), transmit.to) == (64, from), "cookies only, and to whom they are for");
            assert!(self.jar.take(&self.keys, transmit.datagram, now).is_some());
        }
        reason
    }
}

fn spent(world: &mut World, since: Work) -> (u64, u64) {
    let work = *world.node("bob").engine.work();
    (work.mac_trials - since.mac_trials, work.curve_operations - since.curve_operations)
}

/// LD-04: whoever has a cookie is served 20 times a second, from a /64 as from one address; others shake hands meanwhile.
#[test]
fn ld_04_a_flood_with_a_valid_cookie() {
    for from in [SocketAddr::from(EVE), "[2001:db8::66]:666".parse().unwrap()] {
        let mut world = World::friends(&["alice", "bob"]);
        let mut eve = Stranger::new();
        // 600 at once put Bob under load; the last of them brought a cookie
        for _ in 0..600 {
            eve.knock(&mut world, from);
        }
        let before = *world.node("bob").engine.work();
        let mut served = 0;
        for millisecond in 0..3000u32 {
            world.jump(Duration::from_millis(1));
            served += u32::from(eve.knock(&mut world, from) != Some(DropReason::RateLimited));
            if millisecond == 1000 {
                world.say("alice", "bob", b"x");
                world.run();
            }
            if millisecond.is_multiple_of(100) {
                let now = world.now;
                world.node("alice").engine.handle_timeout(now);
                world.collect();
                world.run();
            }
        }
        assert!((60..=66).contains(&served), "{served} in three seconds");
        let (_, operations) = spent(&mut world, before);
        assert!(operations <= 66 + 10, "{operations}");
        // Alice had to ask for a cookie first: her next try comes after five seconds
        for _ in 0..3000 {
            world.jump(Duration::from_millis(1));
            eve.knock(&mut world, from);
            let now = world.now;
            world.node("alice").engine.handle_timeout(now);
            world.collect();
            world.run();
        }
        for _ in 0..400 {
            world.wait(Duration::from_millis(1));
        }
        assert_eq!(world.node("bob").payloads(), [b"x"]);
    }
}

/// Many sources, nobody's: bounded work, 64 bytes for 148, no state; and who was there before talks on.
#[test]
fn pc_22_ld_05_a_flood_of_initiations_from_everywhere() {
    let mut world = established();
    let (mut eve, before) = (Stranger::new(), *world.node("bob").engine.work());
    let occupancy = world.node("bob").engine.occupancy();
    for number in 0..20_000u32 {
        let host = (number * 7919).to_be_bytes();
        // each answer is for a sender that nobody can be: the jar is of no use
        let message = eve.initiation(&world);
        let now = world.now;
        let bob = world.node("bob");
        drop(bob.engine.handle_datagram(SocketAddr::from((host, 9)), &message, now));
        while let Some(transmit) = bob.engine.poll_transmit() {
            assert_eq!(transmit.datagram.len(), 64);
        }
        if number.is_multiple_of(1000) {
            world.say("alice", "bob", &number.to_be_bytes());
            world.run();
            world.jump(Duration::from_millis(20));
        }
    }
    let wipes = world.node("bob").engine.work().wipes - before.wipes;
    assert!(wipes <= 512 + 64, "the stack was overwritten {wipes} times in 0.4 s");
    let (trials, operations) = spent(&mut world, before);
    assert!((19_000..=20_000).contains(&trials), "one key: {trials}");
    assert!(operations <= 512 + 64, "{operations} curve operations in 0.4 s");
    assert_eq!(world.node("bob").delivered.len(), 21);
    assert_eq!(world.node("bob").engine.occupancy(), occupancy);
}

/// LD-05: rubbish of all kinds costs no curve operation, is answered by nothing, and leaves nothing.
#[test]
fn ld_05_a_flood_of_garbage() {
    let mut world = established();
    let (before, occupancy) = (*world.node("bob").engine.work(), world.node("bob").engine.occupancy());
    let mut random = Random::new([5; 32]);
    let mut bytes = vec![0; 1500];
    for number in 0..50_000usize {
        let noise = random.secret();
        bytes[..32].copy_from_slice(&noise[..]);
        let length = match number % 5 {
            0 => 148,
            1 => 92,
            2 => 64,
            _ => 32 + number % 1400,
        };
        if number % 5 != 4 {
            bytes[..4].copy_from_slice(&[u8::try_from(number % 5).unwrap() + 1, 0, 0, 0]);
        }
        let now = world.now;
        let bob = world.node("bob");
        assert!(bob.engine.open_in_place(EVE.into(), &mut bytes[..length], now).is_err());
        assert!(bob.engine.poll_transmit().is_none());
        if number.is_multiple_of(1000) {
            world.say("alice", "bob", &number.to_be_bytes());
            world.run();
            world.jump(Duration::from_millis(5));
        }
    }
    // what touched no secret leaves nothing to overwrite: that alone once starved flows beside such a flood
    assert_eq!(world.node("bob").engine.work().wipes, before.wipes);
    let (trials, operations) = spent(&mut world, before);
    assert_eq!((trials, operations), (10_000, 0));
    assert_eq!(world.node("bob").delivered.len(), 51);
    assert_eq!(world.node("bob").engine.occupancy(), occupancy);
    assert_eq!(world.node("bob").engine.counters().total(), 50_000);
}

/// LD-06: a right receiver index and a wrong tag: the genuine packets arrive, the endpoint stays, nothing is told.
#[test]
fn ld_06_a_flood_of_data_that_does_not_authenticate() {
    let mut world = established();
    world.say("alice", "bob", b"known");
    let genuine = world.wire.pop_front().unwrap();
    let events = world.node("bob").events.len();
    let mut counter = 0u64;
    for number in 0..20_000u64 {
        let mut forged = genuine.bytes.clone();
        // counters that were seen, that come next, and far ahead
        forged[8..16].copy_from_slice(&(number % 3 * number).to_le_bytes());
        forged[20] ^= 1;
        let now = world.now;
        let bob = world.node("bob");
        assert!(bob.engine.open_in_place(EVE.into(), &mut forged, now).is_err());
        if number.is_multiple_of(100) {
            counter += 1;
            world.say("alice", "bob", &number.to_be_bytes());
            world.run();
        }
    }
    world.deliver(&genuine);
    let bob = world.node("bob");
    assert_eq!(bob.delivered.len() as u64, 1 + counter + 1);
    assert_eq!(bob.engine.endpoint(&"alice"), Some(outer("alice")));
    assert_eq!(bob.events.len(), events);
    assert_eq!(bob.dropped(DropReason::AeadFailure) + bob.dropped(DropReason::Replay), 20_000);
}

/// LD-07: a peer with a key of its own floods handshakes, roams with every packet, and sends without end: the others
/// notice nothing, and what it can make us remember and compute is bounded.
#[test]
fn ld_07_an_authenticated_peer_gone_mad() {
    let mut world = World::friends(&["alice", "bob", "carol"]);
    world.say("carol", "bob", b"x");
    world.say("alice", "bob", b"x");
    world.run();
    let (before, occupancy) = (*world.node("bob").engine.work(), world.node("bob").engine.occupancy());
    for round in 0..200u16 {
        world.restart("alice");
        let now = world.now;
        world.node("alice").engine.greet(&"alice", &"bob", now).unwrap();
        world.collect();
        let initiation = world.wire.pop_front().unwrap();
        let from = SocketAddr::from(([198, 51, 100, 1], round));
        world.deliver(&Datagram { from, ..initiation });
        world.lose();
        world.say("carol", "bob", &round.to_be_bytes());
        world.run();
        world.jump(Duration::from_millis(1));
    }
    let (_, operations) = spent(&mut world, before);
    assert!(operations <= 200 + 60 * 4, "{operations}: the claim of each, and the answer to fifty and ten");
    assert_eq!(world.node("bob").engine.occupancy(), occupancy);

    let mut world = World::friends(&["alice", "bob", "carol"]);
    world.say("carol", "bob", b"x");
    world.say("alice", "bob", b"x");
    world.run();
    let packet = udp(v4("alice"), v4("bob"), b"here, there and everywhere");
    let (mut arrived, now) = (0, world.now);
    for number in 0..5000u16 {
        let from = SocketAddr::from(([198, 51, 100, 1], number));
        world.node("alice").engine.handle_packet(&packet, now).unwrap();
        let datagram = world.node("alice").engine.poll_transmit().unwrap().datagram.to_vec();
        let opened = world.node("bob").engine.handle_datagram(from, &datagram, now);
        arrived += u32::from(matches!(opened, Ok(Handled::Opened { .. })));
        if number.is_multiple_of(100) {
            let packet = udp(v4("carol"), v4("bob"), b"still here");
            world.node("carol").engine.handle_packet(&packet, now).unwrap();
            let sent = world.node("carol").engine.poll_transmit().unwrap().datagram.to_vec();
            world.node("bob").engine.handle_datagram(outer("carol"), &sent, now).unwrap();
        }
    }
    let mut roamed = 0;
    while let Some(event) = world.node("bob").engine.poll_event() {
        roamed += usize::from(matches!(event, Event::PeerRoamed { peer: "alice", .. }));
    }
    assert_eq!(arrived, 5000);
    assert_eq!(roamed, 100, "at once; then one in ten milliseconds");
    assert_eq!(world.node("bob").engine.events_dropped(), 0, "there is room for others'");
    assert_eq!(world.node("bob").engine.endpoint(&"carol"), Some(outer("carol")));
}

/// A thousand keys: strangers' rubbish is tried on no more of them than a tenth of a core allows, and a peer at its known
/// address is answered at once all the same.
#[test]
fn initiations_with_a_thousand_local_keys_are_bounded() {
    let mut world = World::friends(&["alice", "bob"]);
    let keys: Vec<u64> = (1..=1000).collect();
    world.set_local("bob", "bob", local_config("bob", &keys));
    let before = *world.node("bob").engine.work();
    let mut rubbish = [7; 148];
    rubbish[..4].copy_from_slice(&1u32.to_le_bytes());
    for millisecond in 0..1000u32 {
        for _ in 0..20 {
            let now = world.now;
            assert!(world.node("bob").engine.handle_datagram(EVE.into(), &rubbish, now).is_err());
        }
        world.jump(Duration::from_millis(1));
        if millisecond == 500 {
            world.say("alice", "bob", b"x");
            world.run();
            assert_eq!(world.node("bob").payloads(), [b"x"]);
        }
    }
    let (trials, operations) = spent(&mut world, before);
    assert!((200_000..225_000).contains(&trials), "{trials}: of 20,000,000");
    assert_eq!(operations, 5, "Alice's handshake");
    let recovered = world.now + SECOND;
    let bob = world.node("bob");
    assert_eq!(bob.engine.handle_datagram(EVE.into(), &rubbish, recovered), Err(DropReason::BadMac1));
}
