//! Eve holds the wire: she drops, repeats, changes, delays and invents; she gets nothing and moves nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::key::tests::POINTS;
use crate::{DropReason, PeerConfig};

const EVE: ([u8; 4], u16) = ([203, 0, 113, 66], 666);

fn established() -> World {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"first");
    world.run();
    world
}

/// PC-08: each inner packet is delivered once, however often its datagram comes.
#[test]
fn pc_08_replayed_data_is_dropped_and_counted() {
    let mut world = established();
    for round in 0..50u8 {
        world.say("alice", "bob", &[round]);
        let datagram = world.wire.back().unwrap().clone();
        world.wire.extend([datagram.clone(), datagram]);
        world.run();
    }
    assert_eq!(world.node("bob").delivered.len(), 51);
    assert_eq!(world.node("bob").dropped(DropReason::Replay), 100);
}

#[test]
fn a_changed_bit_anywhere_in_data_drops_it() {
    let mut world = established();
    world.say("alice", "bob", b"second");
    let genuine = world.wire.pop_front().unwrap();
    for bit in 0..genuine.bytes.len() * 8 {
        let mut forged = genuine.clone();
        forged.bytes[bit / 8] ^= 1 << (bit % 8);
        world.deliver(&forged);
        assert!(world.wire.is_empty(), "bit {bit} was answered");
    }
    let bob = world.node("bob");
    assert_eq!((bob.delivered.len(), bob.drops.len()), (1, genuine.bytes.len() * 8));
    assert!(bob.dropped(DropReason::AeadFailure) > 0 && bob.dropped(DropReason::UnknownIndex) > 0);
    world.deliver(&genuine);
    assert_eq!(world.node("bob").payloads().last().unwrap(), b"second");
}

/// All but `mac2`, which counts only under load.
#[test]
fn a_changed_bit_in_a_handshake_stops_it() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    let initiation = world.wire.pop_front().unwrap();
    let flip = |genuine: &Datagram, bit: usize| {
        let mut forged = genuine.clone();
        forged.bytes[bit / 8] ^= 1 << (bit % 8);
        forged
    };
    for bit in 0..132 * 8 {
        world.deliver(&flip(&initiation, bit));
        assert!(world.wire.is_empty(), "initiation bit {bit} was answered");
    }
    assert_eq!(world.node("bob").engine.occupancy().sessions, 0);
    world.deliver(&initiation);
    let response = world.wire.pop_front().unwrap();
    // few enough for the limit on forged responses
    for bit in (0..76 * 8).step_by(13) {
        world.deliver(&flip(&response, bit));
        assert!(world.wire.is_empty(), "response bit {bit} was answered");
    }
    assert_eq!(world.node("alice").dropped(DropReason::RateLimited), 0);
    world.deliver(&response);
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"x"]);
}

/// Forged answers with the right receiver index cost curve operations: at most fifty a second and peer.
#[test]
fn forged_responses_are_limited() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    let initiation = world.wire.pop_front().unwrap();
    world.deliver(&initiation);
    let mut forged = world.wire.pop_front().unwrap();
    forged.bytes[70] ^= 1;
    for _ in 0..60 {
        world.deliver(&forged);
    }
    assert_eq!(world.node("alice").dropped(DropReason::RateLimited), 10);
}

/// An inner source must belong to the key that sealed it: label `identity_ip_mismatch`.
#[test]
fn a_spoofed_inner_source_is_dropped() {
    let mut world = World::friends(&["alice", "bob", "carol"]);
    let mut liar = local_config("alice", &[1]);
    liar.addresses.extend([v4("carol"), v6("carol")]);
    world.set_local("alice", "alice", liar);
    for (source, destination) in [(v4("carol"), v4("bob")), (v6("carol"), v6("bob"))] {
        world.send("alice", &udp(source, destination, b"I am Carol")).unwrap();
        world.run();
    }
    assert_eq!(world.node("bob").delivered, []);
    assert_eq!(world.node("bob").drops, [DropReason::SourceMismatch; 2]);
    assert_eq!(DropReason::SourceMismatch.as_str(), "identity_ip_mismatch");
}

/// KS-10, PC-26, B9: the longest prefix over all peers decides, not the sender's own list.
#[test]
fn ks_10_a_wide_prefix_does_not_cover_anothers_address() {
    let mut world = World::friends(&["alice", "bob", "carol"]);
    let mut wide = peer_config("alice", &[1]);
    wide.allowed_ips = vec!["10.0.0.0/8".parse().unwrap()];
    world.set_peer("bob", "alice", wide);
    let mut liar = local_config("alice", &[1]);
    liar.addresses.extend([v4("carol"), IpAddr::from([10, 9, 9, 9])]);
    world.set_local("alice", "alice", liar);
    let from = |source| udp(source, v4("bob"), b"?");
    world.send("alice", &from(v4("carol"))).unwrap();
    world.run();
    assert_eq!(world.node("bob").drops, [DropReason::SourceMismatch]);
    world.send("alice", &from(IpAddr::from([10, 9, 9, 9]))).unwrap();
    world.run();
    assert_eq!(world.node("bob").delivered.len(), 1, "its own wide prefix is its own");
    world.remove_peer("bob", "carol");
    world.send("alice", &from(v4("carol"))).unwrap();
    world.run();
    assert_eq!(world.node("bob").delivered.len(), 2, "nobody else has it any more");
}

/// A prefix that two peers claim is nobody's, in both directions.
#[test]
fn a_doubly_claimed_address_is_never_attributed_by_chance() {
    let mut world = World::friends(&["alice", "bob", "carol"]);
    world.say("alice", "bob", b"x");
    world.run();
    let mut thief = peer_config("carol", &[1]);
    thief.allowed_ips.push(v4("alice").into());
    world.set_peer("bob", "carol", thief);
    world.say("alice", "bob", b"y");
    world.run();
    assert_eq!(world.node("bob").drops, [DropReason::SourceMismatch]);
    world.log.clear();
    world.say("bob", "alice", b"z");
    assert!(world.log.is_empty());
    world.set_peer("bob", "carol", peer_config("carol", &[1]));
    world.run();
    assert_eq!(world.node("alice").payloads(), [b"z"], "it was held until the claim was given up");
}

/// A packet must be for the identity whose key it was sealed to, not just for the node.
#[test]
fn a_packet_for_another_local_identity_is_dropped() {
    let mut world = World::friends(&["alice", "bob"]);
    world.set_local("bob", "bob's second", local_config("bob's second", &[1]));
    let mut both = peer_config("bob", &[1]);
    both.allowed_ips.push(v4("bob's second").into());
    world.set_peer("alice", "bob", both);
    world.say("alice", "bob's second", b"x");
    world.run();
    assert_eq!(world.node("bob").delivered, []);
    assert_eq!(world.node("bob").drops, [DropReason::NotOurDestination]);
    world.send("alice", &udp(v4("alice"), v4("bob"), b"y")).unwrap();
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"y"]);
}

/// B6: an authenticated peer may seal anything; what is not a whole IP packet goes no further.
#[test]
fn b6_sealed_rubbish_is_malformed() {
    let mut world = established();
    let mut rubbish: Vec<Vec<u8>> = vec![vec![0], vec![0x45; 3], vec![0x60; 40], vec![0xff; 100]];
    for total in [0u8, 3, 19, 200] {
        let mut packet = udp(v4("alice"), v4("bob"), b"xxxx");
        packet[3] = total;
        rubbish.push(packet);
    }
    for packet in &rubbish {
        let now = world.now;
        world.node("alice").engine.seal_anything(packet, now).unwrap();
        world.collect();
        world.run();
    }
    assert_eq!(world.node("bob").delivered.len(), 1);
    assert_eq!(world.node("bob").drops, vec![DropReason::Malformed; rubbish.len()]);
}

/// B4, without any tick: a transmit queue that nobody drains leaves no room to ask `Tunn` what time it is.
#[test]
fn b4_an_old_key_opens_nothing_even_when_no_tick_is_possible() {
    let mut world = established();
    world.say("bob", "alice", b"x");
    let old = world.wire.pop_front().unwrap();
    let packet = udp(v4("alice"), v4("bob"), b"y");
    let now = world.now;
    let alice = world.node("alice");
    while alice.engine.handle_packet(&packet, now).is_ok() {}
    let later = now + crate::REJECT_AFTER_TIME;
    assert_eq!(alice.engine.handle_datagram(old.from, &old.bytes, later), Err(DropReason::KeyExpired));
    assert!(alice.engine.handle_datagram(old.from, &old.bytes, later - Duration::from_millis(1)).is_ok());
}

/// PC-24: the peer is where its newest authentic packet came from, and nowhere else.
#[test]
fn pc_24_roaming_follows_the_newest_authentic_packet_only() {
    let mut world = established();
    world.say("alice", "bob", b"old");
    let old = world.wire.pop_front().unwrap();
    let moved = SocketAddr::from(([198, 51, 100, 7], 4711));
    world.node("alice").at = moved;
    world.say("alice", "bob", b"new");
    let new = world.wire.pop_front().unwrap();
    world.deliver(&new);
    assert_eq!(world.node("bob").engine.endpoint(&"alice"), Some(moved));
    world.deliver(&old);
    assert_eq!(world.node("bob").payloads().last().unwrap(), b"old", "late, but welcome");
    assert_eq!(world.node("bob").engine.endpoint(&"alice"), Some(moved), "and it moves nothing");
    // Eve repeats and forges from her own address
    let replayed = Datagram { from: EVE.into(), ..new.clone() };
    let mut forged = replayed.clone();
    forged.bytes[8] ^= 0x40;
    for datagram in [replayed, forged] {
        world.deliver(&datagram);
        assert_eq!(world.node("bob").engine.endpoint(&"alice"), Some(moved));
    }
    world.say("bob", "alice", b"found you");
    assert_eq!(world.wire.back().unwrap().to, moved);
}

/// Who moves and has nothing to say tells so all the same, once, and needs no handshake.
#[test]
fn who_moves_says_so_before_anybody_sends() {
    let mut world = established();
    let moved = SocketAddr::from(([198, 51, 100, 7], 4711));
    let (before, now) = (world.kinds().len(), world.now);
    world.node("alice").at = moved;
    world.node("alice").engine.handle_move(now);
    world.collect();
    world.run();
    assert_eq!(world.kinds()[before..], [4]);
    assert_eq!(world.node("bob").engine.endpoint(&"alice"), Some(moved));
    // without a session there is nobody to tell
    world.restart("alice");
    let now = world.now;
    world.node("alice").engine.handle_move(now);
    world.collect();
    world.run();
    assert_eq!(world.kinds().len(), before + 1);
}

#[test]
fn roaming_across_families_by_handshake() {
    let mut world = established();
    let moved: SocketAddr = "[2001:db8::7]:51840".parse().unwrap();
    world.restart("alice");
    world.node("alice").at = moved;
    world.say("alice", "bob", b"x");
    world.run();
    assert_eq!(world.node("bob").engine.endpoint(&"alice"), Some(moved));
    assert_eq!(world.node("bob").delivered.len(), 2);
}

/// PC-06: a captured initiation, repeated by Eve, to a responder that remembers and to one that does not.
#[test]
fn pc_06_a_replayed_initiation_has_no_effect() {
    let mut world = established();
    let initiation = Datagram { from: EVE.into(), ..world.log[0].clone() };
    world.deliver(&initiation);
    assert_eq!(world.node("bob").drops, [DropReason::HandshakeReplay]);
    assert!(world.wire.is_empty());

    world.restart("bob");
    let mut somewhere = peer_config("alice", &[1]);
    somewhere.endpoints = vec![outer("alice")];
    world.set_peer("bob", "alice", somewhere);
    world.deliver(&initiation);
    // one answer, smaller than the question, which Eve cannot use
    assert!(world.lose().iter().all(|datagram| datagram.bytes.len() == 92));
    let bob = world.node("bob");
    assert_eq!(bob.engine.endpoint(&"alice"), Some(outer("alice")), "Eve's address is not believed");
    assert_eq!(bob.events, [], "and nothing is established");
    let now = world.now;
    world.node("bob").engine.greet(&"bob", &"alice", now).unwrap();
    world.collect();
    world.run();
    world.say("alice", "bob", b"later");
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"later"]);
}

/// PC-07: more than fifty initiations at once of one valid peer are not computed; there is one session.
#[test]
fn pc_07_fifty_initiations_a_second_and_peer() {
    let mut world = World::friends(&["alice", "bob"]);
    for _ in 0..60 {
        world.restart("alice");
        let now = world.now;
        world.node("alice").engine.greet(&"alice", &"bob", now).unwrap();
        world.collect();
        let initiation = world.wire.pop_front().unwrap();
        world.deliver(&initiation);
        world.lose();
    }
    assert_eq!(world.node("bob").dropped(DropReason::RateLimited), 10);
    assert_eq!(world.node("bob").engine.occupancy().sessions, 1);
}

/// PC-03: every type byte with every length; reserved bytes that are not zero.
#[test]
fn pc_03_other_types_and_lengths_are_nothing() {
    let mut world = established();
    let sessions = world.node("bob").engine.occupancy();
    let mut bytes = vec![0; 65_507];
    let mut count = 0;
    for kind in 0..=255u8 {
        for reserved in [0, 1] {
            (bytes[0], bytes[2]) = (kind, reserved);
            for length in (0..200).chain([500, 1500, 1600, 65_507]) {
                let now = world.now;
                let bob = world.node("bob");
                assert!(bob.engine.handle_datagram(EVE.into(), &bytes[..length], now).is_err());
                assert!(bob.engine.poll_transmit().is_none(), "type {kind} length {length}");
                count += 1;
            }
        }
    }
    let bob = world.node("bob");
    assert_eq!((bob.engine.occupancy(), bob.engine.counters().total()), (sessions, count));
}

/// PC-05: a right `mac1` and an unknown key: silence; forgotten after two seconds.
#[test]
fn pc_05_an_unknown_key_is_not_answered() {
    let mut world = World::strangers(&["bob", "carol"]);
    world.set_peer("carol", "bob", peer_config("bob", &[1]));
    world.say("carol", "bob", b"x");
    world.run();
    assert_eq!(world.kinds(), [1]);
    assert_eq!(world.node("bob").engine.occupancy().parked, 1);
    world.jump(Duration::from_millis(2500));
    let now = world.now;
    world.node("bob").engine.handle_timeout(now);
    assert_eq!(world.node("bob").dropped(DropReason::UnknownKey), 1);
    assert_eq!(world.node("bob").engine.poll_timeout(), None, "nothing is left to wait for");
}

#[test]
fn parked_initiations_are_bounded_in_all_and_by_source() {
    let mut world = World::strangers(&["bob", "carol"]);
    world.set_peer("carol", "bob", peer_config("bob", &[1]));
    world.say("carol", "bob", b"x");
    let initiation = world.wire.pop_front().unwrap();
    for port in 0..20 {
        world.deliver(&Datagram { from: SocketAddr::from(([203, 0, 113, 1], port)), ..initiation.clone() });
    }
    assert_eq!(world.node("bob").engine.occupancy().parked, 16);
    for host in 2..100 {
        world.deliver(&Datagram { from: SocketAddr::from(([203, 0, 113, host], 1)), ..initiation.clone() });
    }
    assert_eq!(world.node("bob").engine.occupancy().parked, 64);
    assert_eq!(world.node("bob").drops, vec![DropReason::UnknownKey; 20 - 16 + 98 - 48]);
    assert_eq!(world.kinds(), [1], "and nobody was answered");
}

/// KS-34, PC-27: the seven keys of low order, as peers' keys and as ephemerals.
#[test]
fn ks_34_pc_27_keys_of_low_order() {
    let mut world = established();
    world.log.clear();
    for point in POINTS {
        let mut config = peer_config("carol", &[]);
        config.keys.insert(1, point.into());
        world.set_peer("alice", "carol", config);
        world.say("alice", "carol", b"x");
        let now = world.now;
        assert_eq!(world.node("alice").engine.greet(&"alice", &"carol", now), Err(DropReason::NoBinding));
    }
    assert_eq!(world.log, [], "not one datagram");

    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    let initiation = world.wire.pop_front().unwrap();
    for point in POINTS {
        let mut forged = initiation.clone();
        forged.bytes[8..40].copy_from_slice(&point);
        world.deliver(&forged);
    }
    assert_eq!(world.node("bob").drops, [DropReason::LowOrderKey; 7]);
    world.deliver(&initiation);
    let response = world.wire.pop_front().unwrap();
    for point in POINTS {
        let mut forged = response.clone();
        forged.bytes[12..44].copy_from_slice(&point);
        world.deliver(&forged);
    }
    assert_eq!(world.node("alice").drops, [DropReason::LowOrderKey; 7]);
    let now = world.now;
    assert!(!world.node("alice").engine.sessions(now).next().unwrap().established);
}

/// KS-31, PC-28: our own key as a peer's, whichever comes first.
#[test]
fn ks_31_pc_28_our_own_key_as_a_peer_is_ignored() {
    let mut world = World::strangers(&["alice"]);
    let own = PeerConfig { keys: peer_config("alice", &[1]).keys, ..peer_config("bob", &[]) };
    world.set_peer("alice", "bob", own);
    world.say("alice", "bob", b"x");
    assert_eq!(world.log, []);

    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    let mut stolen = local_config("alice", &[1]);
    stolen.keys = local_config("bob", &[1]).keys;
    world.set_local("alice", "alice", stolen);
    let now = world.now;
    assert_eq!(world.node("alice").engine.sessions(now).count(), 0);
    world.log.clear();
    world.say("alice", "bob", b"y");
    assert_eq!(world.log, []);
}

/// Whoever claims a key that somebody else has already gets nothing, and takes nothing away.
#[test]
fn a_claimed_key_stays_with_its_first_owner() {
    let mut world = established();
    let mut thief = peer_config("carol", &[]);
    thief.keys = peer_config("alice", &[1]).keys;
    world.set_peer("bob", "carol", thief);
    world.say("alice", "bob", b"y");
    world.run();
    assert_eq!(world.node("bob").delivered.last().unwrap().peer, "alice");
    world.log.clear();
    world.say("bob", "carol", b"z");
    assert_eq!(world.log, []);
}

/// PC-04: unsolicited responses, cookies and data.
#[test]
fn pc_04_unsolicited_messages_are_not_answered() {
    let mut world = World::friends(&["alice", "bob"]);
    for (kind, length) in [(2, 92), (3, 64), (4, 32), (4, 1500)] {
        let mut bytes = vec![9; length];
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        world.deliver(&Datagram { from: EVE.into(), to: outer("bob"), bytes });
    }
    assert_eq!(world.node("bob").drops, [DropReason::UnknownIndex; 4]);
    let mut bytes = vec![9; 148];
    bytes[..4].copy_from_slice(&[1, 0, 0, 0]);
    world.deliver(&Datagram { from: EVE.into(), to: outer("bob"), bytes });
    assert_eq!(world.node("bob").drops.last(), Some(&DropReason::BadMac1));
    assert_eq!(world.log, []);
}

/// A cookie nobody asked for, or changed on its way, changes nothing.
#[test]
fn pc_23_forged_cookies_are_refused() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    let index = world.wire[0].bytes[4..8].to_vec();
    let mut bytes = vec![3; 64];
    bytes[1..4].fill(0);
    bytes[4..8].copy_from_slice(&index);
    world.deliver(&Datagram { from: EVE.into(), to: outer("alice"), bytes });
    assert_eq!(world.node("alice").drops, [DropReason::CookieInvalid]);
    assert_eq!(world.node("alice").engine.endpoint(&"bob"), Some(outer("bob")));
}

#[test]
fn queues_are_bounded() {
    let mut world = established();
    let packet = udp(v4("alice"), v4("bob"), b"x");
    let now = world.now;
    let alice = world.node("alice");
    let results: Vec<_> = (0..600).map(|_| alice.engine.handle_packet(&packet, now)).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), crate::TRANSMITS_MAX);
    assert_eq!(alice.dropped(DropReason::QueueFull), 600 - 512);
    let mut seen = BTreeSet::new();
    while let Some(transmit) = alice.engine.poll_transmit() {
        assert!(seen.insert(transmit.datagram.to_vec()));
    }
    assert_eq!(seen.len(), 512);
    // a full queue loses what came, never the session
    world.say("alice", "bob", b"y");
    world.run();
    assert_eq!(world.node("bob").delivered.len(), 2);
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = || prop::collection::vec(any::<u8>(), 0..300);
    let message = (1u8..=4, any_bytes()).prop_map(|(kind, mut bytes)| {
        let length = match kind {
            1 => 148,
            2 => 92,
            3 => 64,
            _ => bytes.len().max(32),
        };
        bytes.resize(length, 0);
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    });
    prop_oneof![any_bytes(), message]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// PC-04: random datagrams never panic, never are answered, never leave state.
    #[test]
    fn pc_04_random_datagrams_leave_no_trace(datagrams in prop::collection::vec(hostile(), 0..50)) {
        let mut world = established();
        let before = world.node("bob").engine.occupancy();
        for bytes in datagrams {
            world.deliver(&Datagram { from: EVE.into(), to: outer("bob"), bytes });
            prop_assert!(world.wire.is_empty());
        }
        prop_assert_eq!(world.node("bob").engine.occupancy(), before);
        prop_assert_eq!(world.node("bob").delivered.len(), 1);
    }

    /// The TUN is our own kernel's, but its packets are other people's.
    #[test]
    fn random_packets_from_the_tun_never_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..50)) {
        let mut world = established();
        for packet in packets {
            if let Err(reason) = world.send("alice", &packet) {
                prop_assert!(world.node("alice").dropped(reason) > 0);
            }
        }
        prop_assert!(world.node("alice").engine.occupancy().held <= 256);
    }
}
