//! A name goes and comes back, and the other side has not heard of it: it must not send into the void for long.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::*;
use crate::interrupted::{GREETED_AT_ONCE, INTERRUPTED_MAX};
use crate::{Engine, REJECT_AFTER_TIME};

/// Alice and Bob have talked; Bob hears each.
fn talking() -> World {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"before");
    world.run();
    world
}

fn assert_heard_at_once(world: &mut World) {
    world.run();
    world.say("alice", "bob", b"after");
    world.run();
    assert_eq!(world.node("bob").payloads().last().unwrap(), b"after");
    assert_eq!(world.node("bob").engine.occupancy().interrupted, 0);
}

#[test]
fn an_identity_that_was_gone_for_a_moment_is_heard_again_at_once() {
    let mut world = talking();
    world.remove_local("bob", "bob");
    world.say("alice", "bob", b"lost");
    world.run();
    world.set_local("bob", "bob", local_config("bob", &[1]));
    assert_heard_at_once(&mut world);
    assert_eq!(world.node("bob").payloads(), [&b"before"[..], b"after"]);
}

#[test]
fn a_peer_that_was_gone_for_a_moment_is_heard_again_at_once() {
    let mut world = talking();
    world.remove_peer("bob", "alice");
    world.set_peer("bob", "alice", peer_config("alice", &[]));
    assert_eq!(world.node("bob").engine.occupancy().interrupted, 1, "it has no key yet");
    world.set_peer("bob", "alice", peer_config("alice", &[1]));
    assert_heard_at_once(&mut world);
}

/// Both sides forgot, and shake hands at the same time.
#[test]
fn names_that_both_sides_forgot_come_back_with_one_session() {
    let mut world = talking();
    world.remove_local("bob", "bob");
    world.remove_peer("alice", "bob");
    world.set_local("bob", "bob", local_config("bob", &[1]));
    world.set_peer("alice", "bob", peer_config("bob", &[1]));
    assert_heard_at_once(&mut world);
    world.say("bob", "alice", b"and back");
    world.run();
    assert_eq!(world.node("alice").payloads(), [b"and back"]);
}

/// Nobody is greeted without a reason: after the other side's session is over, when a key of several goes, where there was no session.
#[test]
fn nobody_is_greeted_for_nothing() {
    let mut world = talking();
    world.remove_local("bob", "bob");
    world.jump(REJECT_AFTER_TIME);
    world.set_local("bob", "bob", local_config("bob", &[1]));
    assert_eq!(world.lose(), []);

    let mut world = talking();
    world.set_local("bob", "bob", local_config("bob", &[2]));
    assert_eq!((world.lose(), world.node("bob").engine.occupancy().interrupted), (vec![], 0));

    let mut world = World::friends(&["alice", "bob"]);
    world.remove_local("bob", "bob");
    world.set_local("bob", "bob", local_config("bob", &[1]));
    assert_eq!(world.lose(), []);
}

/// Very many pairs: so many are remembered, and so many are greeted at once.
#[test]
fn very_many_are_remembered_and_greeted_some_at_a_time() {
    let now = epoch();
    let name = |n: usize| format!("{n:04}");
    let number = |n: usize| u64::try_from(n).unwrap();
    let address = |n: usize| u32::try_from(n).unwrap();
    let locals = BTreeMap::from([("us".to_owned(), local_config("alice", &[1]))]);
    let peers: BTreeMap<_, _> = (0..INTERRUPTED_MAX + 10)
        .map(|n| {
            let mut config = peer_config("bob", &[]);
            config.keys = BTreeMap::from([(1, public("bob", number(n)))]);
            config.allowed_ips = vec![std::net::IpAddr::from((0x0b00_0000 + address(n)).to_be_bytes()).into()];
            (name(n), config)
        })
        .collect();
    let mut engine = Engine::<String, String>::new([1; 32], std::time::SystemTime::UNIX_EPOCH, now);
    engine.set_locals(locals.clone(), now);
    engine.set_peers(peers.clone(), now);
    for n in 0..INTERRUPTED_MAX + 10 {
        engine.interrupt("us".to_owned(), name(n), now + Duration::from_millis(number(n)));
    }
    assert_eq!(engine.occupancy().interrupted, INTERRUPTED_MAX);
    let mut now = now + Duration::from_secs(5);
    engine.set_locals(locals, now);
    let mut greeted = 0;
    loop {
        let sent = std::iter::from_fn(|| engine.poll_transmit().map(|_| ())).count();
        assert!(sent <= GREETED_AT_ONCE, "{sent} at once");
        greeted += sent;
        if engine.occupancy().interrupted == 0 {
            break;
        }
        now = now.max(engine.poll_timeout().unwrap());
        engine.handle_timeout(now);
    }
    assert_eq!(greeted, INTERRUPTED_MAX);
}
