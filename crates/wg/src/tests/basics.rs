//! Two friends talk.

use super::world::*;
use crate::{DropReason, Event};

#[test]
fn a_first_packet_waits_for_the_handshake_and_arrives() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"hello");
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"hello"]);
    let delivered = &world.node("bob").delivered[0];
    assert_eq!((delivered.local, delivered.peer), ("bob", "alice"));
    // initiation, response, keepalive, data
    assert_eq!(world.kinds(), [1, 2, 4, 4]);
    assert_eq!(world.log.iter().map(|datagram| datagram.bytes.len()).collect::<Vec<_>>(), [148, 92, 32, 80]);
    world.say("bob", "alice", b"and back");
    world.run();
    assert_eq!(world.node("alice").payloads(), [b"and back"]);
    assert_eq!(world.kinds().len(), 5, "no second handshake");
}

#[test]
fn both_families_inside() {
    let mut world = World::friends(&["alice", "bob"]);
    for (source, destination) in [(v4("alice"), v4("bob")), (v6("alice"), v6("bob"))] {
        world.send("alice", &udp(source, destination, b"x")).unwrap();
        world.run();
    }
    assert_eq!(world.node("bob").delivered.len(), 2);
    assert_eq!(world.kinds(), [1, 2, 4, 4, 4]);
}

#[test]
fn both_begin_at_once_and_nothing_is_lost() {
    let mut world = World::friends(&["alice", "bob"]);
    for round in 0..5u8 {
        world.say("alice", "bob", &[round]);
        world.say("bob", "alice", &[round]);
    }
    world.run();
    for round in 5..10u8 {
        world.say("alice", "bob", &[round]);
        world.say("bob", "alice", &[round]);
        world.run();
    }
    let all: Vec<Vec<u8>> = (0..10).map(|round| vec![round]).collect();
    assert_eq!(world.node("alice").payloads(), all);
    assert_eq!(world.node("bob").payloads(), all);
}

#[test]
fn events_tell_who_with_which_keys_from_where() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    let completed = |local, peer, initiator| Event::HandshakeCompleted {
        local,
        peer,
        local_epoch: 1,
        peer_epoch: 1,
        endpoint: outer(peer),
        initiator,
    };
    assert_eq!(world.node("alice").events, [completed("alice", "bob", true)]);
    assert_eq!(world.node("bob").events, [completed("bob", "alice", false)]);
}

/// PC-21: datagrams are 32 bytes and the packet padded to 16, never beyond the MTU; the receiver cuts the padding off.
#[test]
fn pc_21_padding_hides_the_length_and_is_cut_off() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"");
    world.run();
    for size in 28..=1420usize {
        let packet = udp(v4("alice"), v4("bob"), &vec![7; size - 28]);
        world.send("alice", &packet).unwrap();
        let datagram = world.wire.back().unwrap().bytes.len();
        assert_eq!(datagram, 32 + size.next_multiple_of(16).min(1420), "of {size} bytes");
        world.run();
        assert_eq!(world.node("bob").delivered.last().unwrap().packet, packet);
    }
    assert_eq!(world.node("bob").dropped(DropReason::Malformed), 0);
}

/// KS-04: ten pings and a handshake cost exactly what the kernel's counters say.
#[test]
fn ks_04_exact_byte_counters() {
    let mut world = World::friends(&["alice", "bob"]);
    for _ in 0..10 {
        world.say("alice", "bob", &[0; 56]);
        world.run();
        world.say("bob", "alice", &[0; 56]);
        world.run();
    }
    let now = world.now;
    let bob = world.node("bob").engine.sessions(now).next().unwrap();
    assert_eq!(bob.tx_bytes, 1372, "a response and ten pings");
    assert_eq!(bob.rx_bytes, 1460, "an initiation, a keepalive and ten pings");
    assert_eq!((bob.tx_packets, bob.rx_packets), (10, 10));
    assert!(bob.established && bob.last_handshake.is_some() && !bob.initiator);
    let alice = world.node("alice").engine.sessions(now).next().unwrap();
    assert_eq!((alice.tx_bytes, alice.rx_bytes), (1460, 1372));
    assert_eq!(alice.endpoint, Some(outer("bob")));
}

#[test]
fn the_engine_can_move_to_its_thread() {
    const fn is_send<T: Send>() {}
    is_send::<crate::Engine<u8, u8>>();
}

/// A question as long as asked for is answered with a short one, to whoever has a session; nothing of it reaches a workload.
#[test]
fn a_probe_is_answered_by_a_peer_and_by_nobody_else() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"hello");
    world.run();
    world.log.clear();
    world.node("alice").events.clear();
    let now = world.now;
    let packet = udp(v4("alice"), v4("bob"), b"x");
    let engine = &mut world.node("alice").engine;
    let path = engine.path(&packet, now).unwrap();
    let numbers = [0, 1420].map(|length| engine.probe(&path, length, now).unwrap());
    assert_ne!(numbers[0], numbers[1]);
    world.collect();
    let questions: Vec<_> = world.wire.iter().cloned().collect();
    world.run();
    assert_eq!(world.log.iter().map(|datagram| datagram.bytes.len()).collect::<Vec<_>>(), [48, 1452, 48, 48]);
    let answers = numbers.map(|number| Event::ProbeAnswered { from: outer("bob"), number });
    assert_eq!(world.node("alice").events, answers);
    assert_eq!(world.node("bob").payloads(), [b"hello"]);
    // played again, and changed on the way
    world.log.clear();
    for question in &questions {
        world.deliver(question);
        let mut forged = question.clone();
        forged.bytes[20] ^= 1;
        forged.bytes[8] += 9;
        world.deliver(&forged);
    }
    world.run();
    assert!(world.log.is_empty(), "nobody else is answered");
}
