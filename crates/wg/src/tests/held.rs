//! News is late: packets and initiations wait for it, for a moment and within bounds.

use std::net::IpAddr;
use std::time::Duration;

use super::world::*;
use crate::DropReason;

/// A fresh pod speaks before anybody has heard of it: its first packet arrives.
#[test]
fn a_parked_initiation_is_answered_when_its_key_becomes_known() {
    let mut world = World::strangers(&["alice", "bob"]);
    world.set_peer("alice", "bob", peer_config("bob", &[1]));
    world.say("alice", "bob", b"first");
    world.run();
    assert_eq!(world.node("bob").engine.occupancy().parked, 1);
    world.jump(Duration::from_millis(300));
    world.set_peer("bob", "alice", peer_config("alice", &[1]));
    assert_eq!(world.node("bob").engine.occupancy().parked, 0);
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"first"]);
    assert_eq!(world.kinds(), [1, 2, 4, 4], "one initiation was enough");
}

#[test]
fn a_packet_for_an_unknown_destination_is_held_until_its_peer_appears() {
    let mut world = World::strangers(&["alice", "bob"]);
    world.set_peer("bob", "alice", peer_config("alice", &[1]));
    world.say("alice", "bob", b"1");
    world.say("alice", "bob", b"2");
    assert_eq!((world.log.len(), world.node("alice").engine.occupancy().held), (0, 2));
    world.jump(Duration::from_millis(500));
    world.set_peer("alice", "bob", peer_config("bob", &[]));
    assert_eq!(world.node("alice").engine.occupancy().held, 2, "a peer without a key is no help yet");
    world.set_peer("alice", "bob", peer_config("bob", &[1]));
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"1", b"2"], "in order");
}

#[test]
fn a_packet_of_an_identity_without_key_or_address_is_held_until_it_has_both() {
    let mut world = World::friends(&["alice", "bob"]);
    let mut known = local_config("alice", &[1]);
    let (keys, addresses) = (std::mem::take(&mut known.keys), std::mem::take(&mut known.addresses));
    world.set_local("alice", "alice", known.clone());
    world.say("alice", "bob", b"x");
    known.addresses = addresses;
    world.set_local("alice", "alice", known.clone());
    assert_eq!(world.node("alice").engine.occupancy().held, 1);
    known.keys = keys;
    world.set_local("alice", "alice", known);
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"x"]);
}

#[test]
fn what_is_held_in_vain_is_dropped_after_a_second_by_its_reason() {
    let mut world = World::strangers(&["alice", "bob"]);
    world.set_peer("alice", "carol", peer_config("carol", &[]));
    world.say("alice", "bob", b"nobody there");
    world.say("alice", "carol", b"no key there");
    let stranger = udp(v4("dave"), v4("bob"), b"not from here");
    world.send("alice", &stranger).unwrap();
    let reasons = [DropReason::NoPeer, DropReason::NoBinding, DropReason::NotLocalSource];
    world.jump(Duration::from_millis(900));
    let now = world.now;
    world.node("alice").engine.handle_timeout(now);
    assert_eq!(world.node("alice").engine.counters().total(), 0);
    world.jump(Duration::from_millis(350));
    let now = world.now;
    world.node("alice").engine.handle_timeout(now);
    for reason in reasons {
        assert_eq!(world.node("alice").dropped(reason), 1, "{reason}");
    }
    assert_eq!(world.log, []);
    assert_eq!(world.node("alice").engine.poll_timeout(), None);
}

#[test]
fn held_packets_are_bounded_by_destination_and_in_all() {
    let mut world = World::strangers(&["alice"]);
    for _ in 0..100 {
        world.say("alice", "bob", b"x");
    }
    assert_eq!(world.node("alice").engine.occupancy().held, 16);
    assert_eq!(world.node("alice").dropped(DropReason::NoPeer), 84);
    for host in 0..=255u8 {
        let destination = IpAddr::from([10, 9, 9, host]);
        let result = world.send("alice", &udp(v4("alice"), destination, b"x"));
        assert_eq!(result, if host < 240 { Ok(()) } else { Err(DropReason::NoPeer) });
    }
    assert_eq!(world.node("alice").engine.occupancy().held, 256);
}

/// PC-20: the newest 128 packets of before the first session are delivered, in order.
#[test]
fn pc_20_five_hundred_packets_before_the_first_session() {
    let mut world = World::friends(&["alice", "bob"]);
    for number in 0..500u16 {
        world.say("alice", "bob", &number.to_be_bytes());
    }
    assert_eq!(world.node("alice").engine.occupancy().staged, 128);
    world.run();
    let newest: Vec<Vec<u8>> = (372..500u16).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(world.node("bob").payloads(), newest);
    assert_eq!(world.node("alice").dropped(DropReason::QueueFull), 372);
}

#[test]
fn a_peer_without_endpoint_in_vain() {
    let mut world = World::friends(&["alice"]);
    let mut nowhere = peer_config("bob", &[1]);
    nowhere.endpoints.clear();
    world.set_peer("alice", "bob", nowhere);
    world.say("alice", "bob", b"x");
    world.jump(Duration::from_secs(90));
    let now = world.now;
    world.node("alice").engine.handle_timeout(now);
    assert_eq!(world.node("alice").dropped(DropReason::NoEndpoint), 1);
}

#[test]
fn a_peer_without_endpoint_is_sent_nothing_until_it_calls() {
    let mut world = World::friends(&["alice", "bob"]);
    let mut nowhere = peer_config("bob", &[1]);
    nowhere.endpoints.clear();
    world.set_peer("alice", "bob", nowhere);
    world.say("alice", "bob", b"waiting");
    assert_eq!(world.log, []);
    world.say("bob", "alice", b"I am here");
    world.run();
    assert_eq!(world.node("alice").payloads(), [b"I am here"]);
    assert_eq!(world.node("bob").payloads(), [b"waiting"]);
    assert_eq!(world.node("alice").engine.endpoint(&"bob"), Some(outer("bob")));
}

#[test]
fn an_endpoint_that_the_peer_gives_up_is_replaced_and_a_proven_one_kept() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    let endpoint = |world: &mut World| world.node("alice").engine.endpoint(&"bob").unwrap().to_string();
    let with = |seeds: &[&str]| {
        let mut config = peer_config("bob", &[1]);
        config.endpoints = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
        config
    };
    world.set_peer("alice", "bob", with(&["[2001:db8::1]:1", "192.0.2.2:51840"]));
    assert_eq!(endpoint(&mut world), "192.0.2.2:51840", "proven and still named");
    world.set_peer("alice", "bob", with(&["[2001:db8::1]:1"]));
    assert_eq!(endpoint(&mut world), "[2001:db8::1]:1", "named before and no longer");
    world.node("bob").at = "198.51.100.9:9".parse().unwrap();
    world.say("bob", "alice", b"y");
    world.run();
    assert_eq!(endpoint(&mut world), "198.51.100.9:9", "roamed");
    world.set_peer("alice", "bob", with(&["[2001:db8::2]:2"]));
    assert_eq!(endpoint(&mut world), "198.51.100.9:9", "a roamed endpoint is kept");
}
