//! Restarts, withdrawals, rotation: sessions begin and end, packets do not get lost on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::*;
use crate::{DropReason, Event, PeerConfig, PresharedKey, RetireReason};

#[test]
fn a_restarted_node_greets_and_its_peers_find_it_at_once() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"before");
    world.run();
    let now = world.now;
    let pairs: Vec<_> = world.node("bob").engine.recent_pairs(now).map(|(local, peer)| (*local, *peer)).collect();
    assert_eq!(pairs, [("bob", "alice")]);
    world.restart("bob");
    world.say("alice", "bob", b"lost");
    world.run();
    assert_eq!(world.node("bob").dropped(DropReason::UnknownIndex), 1, "and nobody is told");
    let now = world.now;
    for (local, peer) in pairs {
        world.node("bob").engine.greet(&local, &peer, now).unwrap();
    }
    world.collect();
    world.run();
    world.say("alice", "bob", b"after");
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"after"]);
}

/// A node whose clock was put back by an hour and that lost its sessions is not locked out for an hour: its peer refuses
/// the old timestamp, and begins a handshake itself.
#[test]
fn a_clock_put_back_locks_nobody_out() {
    for pause in [20, 200] {
        let mut world = World::friends(&["alice", "bob"]);
        world.say("alice", "bob", b"before");
        world.run();
        world.wait(Duration::from_secs(pause));
        world.clock_lags = Duration::from_secs(3600);
        world.restart("alice");
        world.log.clear();
        world.say("alice", "bob", b"after");
        world.run();
        assert_eq!(world.node("bob").payloads(), [&b"before"[..], b"after"], "after {pause} s");
        assert_eq!(world.node("bob").drops, [DropReason::HandshakeReplay]);
        assert_eq!(world.kinds()[..3], [1, 1, 2]);
    }
}

/// The same by somebody who captured an initiation: one handshake at most in five seconds, with the peer where it is.
#[test]
fn an_old_initiation_brings_one_handshake_with_its_sender() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    let captured = Datagram { from: outer("carol"), ..world.log[0].clone() };
    world.wait(Duration::from_secs(100));
    world.log.clear();
    for _ in 0..10 {
        world.deliver(&captured);
    }
    let sent: Vec<_> = world.wire.iter().map(|datagram| (datagram.kind(), datagram.to)).collect();
    assert_eq!(sent, [(1, outer("alice"))]);
    world.lose();
    world.log.clear();
    world.wait(Duration::from_secs(120));
    assert_eq!(world.kinds(), [], "it is not repeated");
}

#[test]
fn greeting_needs_both_names_keys_and_an_endpoint() {
    let mut world = World::friends(&["alice", "bob"]);
    let mut nowhere = peer_config("carol", &[1]);
    nowhere.endpoints.clear();
    world.set_peer("alice", "carol", nowhere);
    world.set_peer("alice", "dave", peer_config("dave", &[]));
    let now = world.now;
    let mut greet = |local, peer| world.node("alice").engine.greet(&local, &peer, now);
    assert_eq!(greet("nobody", "bob"), Err(DropReason::NotLocalSource));
    assert_eq!(greet("alice", "nobody"), Err(DropReason::NoPeer));
    assert_eq!(greet("alice", "dave"), Err(DropReason::NoBinding));
    assert_eq!(greet("alice", "carol"), Err(DropReason::NoEndpoint));
    assert_eq!(greet("alice", "bob"), Ok(()));
    assert_eq!(greet("alice", "bob"), Ok(()), "once more changes nothing");
    world.collect();
    assert_eq!(world.kinds(), [1]);
}

/// F: a withdrawn binding stops traffic at once, both ways.
#[test]
fn a_withdrawn_peer_key_stops_traffic_both_ways() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    world.set_peer("bob", "alice", peer_config("alice", &[]));
    assert!(matches!(
        world.node("bob").events.last(),
        Some(Event::SessionRetired { local: "bob", peer: "alice", reason: RetireReason::Withdrawn, .. })
    ));
    world.say("alice", "bob", b"y");
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"x"]);
    assert_eq!(world.node("bob").dropped(DropReason::UnknownIndex), 1);
    world.log.clear();
    world.say("bob", "alice", b"z");
    assert!(world.log.is_empty(), "nothing leaves towards a withdrawn key");
    world.wait(Duration::from_secs(2));
    assert_eq!(world.node("bob").dropped(DropReason::NoBinding), 1);
}

#[test]
fn a_withdrawn_local_key_and_a_removed_peer_end_their_sessions() {
    let mut world = World::friends(&["alice", "bob", "carol"]);
    for peer in ["bob", "carol"] {
        world.say("alice", peer, b"x");
        world.run();
    }
    let now = world.now;
    assert_eq!(world.node("alice").engine.sessions(now).count(), 2);
    world.remove_peer("alice", "bob");
    assert_eq!(world.node("alice").engine.sessions(now).count(), 1);
    assert!(matches!(world.node("alice").events.last(), Some(Event::SessionRetired { peer: "bob", .. })));
    world.node("alice").engine.set_locals(BTreeMap::new(), now);
    world.collect();
    assert_eq!(world.node("alice").engine.sessions(now).count(), 0);
    assert!(matches!(world.node("alice").events.last(), Some(Event::SessionRetired { peer: "carol", .. })));
}

#[test]
fn tables_that_stay_the_same_disturb_nothing() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    let (now, alice) = (world.now, world.node("alice"));
    alice.engine.set_locals(alice.locals.clone(), now);
    alice.engine.set_peers(alice.peers.clone(), now);
    world.collect();
    world.say("alice", "bob", b"y");
    world.run();
    assert_eq!(world.node("bob").delivered.len(), 2);
    assert_eq!(world.kinds(), [1, 2, 4, 4, 4]);
}

#[test]
fn a_lost_initiation_is_staged_for_and_repeated() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    assert_eq!(world.lose().len(), 1);
    world.say("alice", "bob", b"y");
    assert!(world.wire.is_empty(), "one initiation in five seconds");
    assert_eq!(world.node("alice").engine.occupancy().staged, 2);
}

/// PC-33: a preshared key counts from the next handshake on, on both sides; the session lives until then.
#[test]
fn pc_33_a_preshared_key_changes_under_a_live_session() {
    let with =
        |name, key: u8| PeerConfig { preshared_key: Some(PresharedKey::new([key; 32])), ..peer_config(name, &[1]) };
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"none");
    world.run();
    world.set_peer("alice", "bob", with("bob", 7));
    world.set_peer("bob", "alice", with("alice", 8));
    world.say("alice", "bob", b"still the old key");
    world.run();
    assert_eq!(world.node("bob").payloads(), [&b"none"[..], b"still the old key"]);
    // the two do not agree: the next handshake fails
    world.jump(Duration::from_secs(181));
    world.say("alice", "bob", b"waits");
    world.wait(Duration::from_secs(3));
    assert_eq!(world.node("bob").payloads().len(), 2);
    assert!(world.node("alice").dropped(DropReason::HandshakeInvalid) > 0);
    // and succeeds once they do
    world.set_peer("bob", "alice", with("alice", 7));
    world.wait(Duration::from_secs(6));
    assert_eq!(world.node("bob").payloads().last().unwrap(), b"waits");
    // all zeros are none
    world.set_peer("bob", "alice", with("alice", 0));
    world.set_peer("alice", "bob", peer_config("bob", &[1]));
    world.jump(Duration::from_secs(181));
    world.say("bob", "alice", b"back");
    world.run();
    assert_eq!(world.node("alice").payloads(), [b"back"]);
}
