//! Counters, tables and batches at their limits.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::*;
use crate::{DropReason, HEADROOM, TAG};

fn established() -> World {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"first");
    world.run();
    world.log.clear();
    world.jump(Duration::from_secs(6));
    world
}

/// PC-11: at 2^60 messages a new handshake; at the limit sending stops and never wraps.
#[test]
fn pc_11_a_key_that_sealed_too_much() {
    let mut world = established();
    world.node("alice").engine.count_to((1 << 60) - 1);
    world.say("alice", "bob", b"a");
    assert_eq!(world.kinds(), [4]);
    world.say("alice", "bob", b"b");
    assert_eq!(world.kinds(), [4, 1, 4]);
    world.run();
    assert_eq!(world.node("bob").payloads(), [&b"first"[..], b"a", b"b"]);

    let mut world = established();
    world.node("alice").engine.count_to(u64::MAX - (1 << 13) - 2);
    for letter in [b"a", b"b", b"c"] {
        world.say("alice", "bob", letter);
    }
    assert_eq!(world.kinds(), [1, 4, 4], "the third waits for the new key");
    world.run();
    let mut heard = world.node("bob").payloads();
    heard.sort();
    assert_eq!(heard, [&b"a"[..], b"b", b"c", b"first"]);
}

/// LD-08: peers come and go; what they leave behind is nothing, and an index is never given to somebody else while it
/// could still be meant for the one before.
#[test]
fn ld_08_churn_leaves_nothing() {
    let mut world = World::friends(&["alice", "bob"]);
    for round in 0..300u64 {
        let secret_epoch = round + 2;
        world.set_local("bob", "bob", local_config("bob", &[secret_epoch]));
        world.set_peer("alice", "bob", peer_config("bob", &[secret_epoch]));
        world.say("alice", "bob", &round.to_be_bytes());
        world.run();
        world.say("bob", "alice", &round.to_be_bytes());
        let old = world.wire.front().unwrap().clone();
        world.jump(Duration::from_millis(25));
        world.remove_peer("alice", "bob");
        world.deliver(&old);
        assert_eq!(world.node("alice").drops.pop(), Some(DropReason::UnknownIndex));
        world.lose();
    }
    assert_eq!(world.node("bob").delivered.len(), 300);
    let (indices, deadlines, places) = world.node("alice").engine.table_sizes();
    assert_eq!((indices, deadlines), (0, 0));
    assert!(places <= 2, "{places}");
    assert!(world.node("alice").engine.poll_timeout().is_none());
}

/// The batch path: packets of one flow are sealed in place in the caller's buffers, and opened where they came.
#[test]
fn batches_are_sealed_and_opened_in_place() {
    let mut world = established();
    let now = world.now;
    for size in [28, 29, 43, 44, 1399, 1419, 1420, 1500] {
        let packet = udp(v4("alice"), v4("bob"), &vec![7; size - 28]);
        let alice = world.node("alice");
        let path = alice.engine.path(&packet, now).unwrap();
        assert_eq!(path.endpoint(), outer("bob"));
        let length = alice.engine.sealed_length(size);
        let mut buffer = vec![0xee; length + 7];
        buffer[HEADROOM..HEADROOM + size].copy_from_slice(&packet);
        assert_eq!(alice.engine.seal_in_place(&path, &mut buffer, size, now), Ok(length));
        assert_eq!(buffer[length..], [0xee; 7], "nothing is written behind the datagram");
        assert!(alice.engine.poll_transmit().is_none(), "nothing is queued");
        let opened =
            world.node("bob").engine.open_in_place(outer("alice"), &mut buffer[..length], now).unwrap().unwrap();
        assert_eq!(buffer[opened.clone()], packet);
        assert_eq!(opened.start, HEADROOM);
        assert!(buffer[opened.end..length - TAG].iter().all(|byte| *byte == 0), "padding is zeros");
    }
}

#[test]
fn a_path_that_is_over_takes_nothing() {
    let mut world = established();
    let now = world.now;
    let packet = udp(v4("alice"), v4("bob"), b"x");
    let stranger = udp(v4("alice"), v4("carol"), b"x");
    assert_eq!(world.node("alice").engine.path(&stranger, now), None);
    assert_eq!(world.node("alice").engine.path(b"rubbish", now), None);
    let path = world.node("alice").engine.path(&packet, now).unwrap();
    let mut buffer = vec![0; 100];
    buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(&packet);
    let seal = |world: &mut World, buffer: &mut [u8], length, now| {
        world.node("alice").engine.seal_in_place(&path, buffer, length, now)
    };
    assert_eq!(seal(&mut world, &mut buffer[..60], packet.len(), now), Err(DropReason::TooLong));
    assert_eq!(seal(&mut world, &mut [], usize::MAX / 2, now), Err(DropReason::TooLong));
    let late = now + crate::REJECT_AFTER_TIME;
    assert_eq!(seal(&mut world, &mut buffer, packet.len(), late), Err(DropReason::KeyExpired));
    assert_eq!(buffer[HEADROOM..HEADROOM + packet.len()], packet, "the packet is still there");
    world.node("alice").engine.set_peers(BTreeMap::new(), now);
    assert_eq!(seal(&mut world, &mut buffer, packet.len(), now), Err(DropReason::KeyExpired));
}
