//! Which cipher seals the data: what both keys' bindings name, and nothing that anybody on the path could choose.

use std::collections::BTreeMap;

use super::world::*;
use crate::{DropReason, LocalConfig, PeerConfig, Suite};

fn local(name: Name, suite: Suite) -> LocalConfig {
    let mut config = local_config(name, &[1]);
    config.keys.iter_mut().for_each(|key| key.suite = suite);
    config
}

fn peer(name: Name, suite: Suite) -> PeerConfig {
    PeerConfig { suites: BTreeMap::from([(1, suite)]), ..peer_config(name, &[1]) }
}

/// What Alice and Bob speak, and what each believes of the other.
fn world(alice: Suite, bob: Suite, alice_believes: Suite, bob_believes: Suite) -> World {
    let mut world = World::strangers(&["alice", "bob"]);
    world.set_local("alice", "alice", local("alice", alice));
    world.set_local("bob", "bob", local("bob", bob));
    world.set_peer("alice", "bob", peer("bob", alice_believes));
    world.set_peer("bob", "alice", peer("alice", bob_believes));
    world
}

fn suites(world: &mut World) -> Vec<Option<Suite>> {
    ["alice", "bob"].iter().flat_map(|name| suites_of(world, name)).collect()
}

fn suites_of(world: &mut World, name: Name) -> Vec<Option<Suite>> {
    let now = world.now;
    world.node(name).engine.sessions(now).filter(|session| session.established).map(|session| session.suite).collect()
}

const CHACHA: Suite = Suite::ChaCha20Poly1305;
const AES: Suite = Suite::Aes256Gcm;

#[test]
fn data_is_sealed_with_what_both_speak() {
    for (alice, bob, expected) in
        [(CHACHA, CHACHA, CHACHA), (AES, CHACHA, CHACHA), (CHACHA, AES, CHACHA), (AES, AES, AES)]
    {
        let mut world = world(alice, bob, bob, alice);
        for said in 0..3u8 {
            world.say("alice", "bob", &[said; 100]);
            world.say("bob", "alice", &[said; 100]);
            world.run();
        }
        for name in ["alice", "bob"] {
            assert_eq!(world.node(name).payloads(), [[0; 100], [1; 100], [2; 100]], "{name}: {alice:?} and {bob:?}");
        }
        assert_eq!(suites(&mut world), [Some(expected); 2], "{alice:?} and {bob:?}");
    }
}

/// Sizes, kinds and number of the datagrams are the same: nobody on the path can tell, let alone choose.
#[test]
fn nothing_on_the_wire_names_the_suite() {
    let shapes = |suite| {
        let mut world = world(suite, suite, suite, suite);
        world.say("alice", "bob", &[1; 100]);
        world.run();
        world.log.iter().map(|datagram| (datagram.kind(), datagram.bytes.len())).collect::<Vec<_>>()
    };
    assert_eq!(shapes(AES), shapes(CHACHA));
}

/// Whoever has old news of the other side has no session with it until the news comes, and then at once; nothing is lost.
#[test]
fn two_who_do_not_mean_the_same_have_no_session() {
    for (alice_believes, bob_believes) in [(CHACHA, AES), (AES, CHACHA)] {
        let mut world = world(AES, AES, alice_believes, bob_believes);
        world.say("alice", "bob", b"first");
        world.run();
        assert_eq!(suites_of(&mut world, "alice"), [], "the responder cannot know yet, the initiator does");
        assert!(world.node("alice").drops.contains(&DropReason::HandshakeInvalid));
        assert!(world.node("bob").payloads().is_empty());
        world.set_peer("alice", "bob", peer("bob", AES));
        world.set_peer("bob", "alice", peer("alice", AES));
        world.wait(std::time::Duration::from_secs(6));
        assert_eq!(world.node("bob").payloads(), [b"first"]);
        assert_eq!(suites(&mut world), [Some(AES); 2]);
    }
}

/// A suite that changes under a session counts from its next handshake on; not one packet is lost.
#[test]
fn a_change_counts_from_the_next_handshake() {
    let mut world = world(CHACHA, AES, AES, CHACHA);
    world.say("alice", "bob", b"before");
    world.run();
    world.set_local("alice", "alice", local("alice", AES));
    world.set_peer("bob", "alice", peer("alice", AES));
    world.say("alice", "bob", b"still");
    world.run();
    assert_eq!(suites(&mut world), [Some(CHACHA); 2]);
    for _ in 0..13 {
        world.wait(std::time::Duration::from_secs(10));
        world.say("alice", "bob", b"later");
        world.run();
    }
    assert_eq!(suites(&mut world), [Some(AES); 2]);
    assert_eq!(world.node("bob").payloads().len(), 15);
}
