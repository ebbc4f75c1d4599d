//! FZ-01, FZ-03: any bytes in any state, and buffers of any size.

use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use crate::{HEADROOM, TAG};

const STATES: usize = 7;

/// Bob in each state a session can be in, with what was on the wire until then.
fn state(number: usize) -> World {
    let mut world = World::friends(&["alice", "bob"]);
    match number {
        0 => {}
        // he has begun
        1 => {
            world.say("bob", "alice", b"x");
            world.lose();
        }
        // he has answered, and his key is not proven
        2 => {
            world.say("alice", "bob", b"x");
            let initiation = world.wire.pop_front().unwrap();
            world.deliver(&initiation);
            world.lose();
        }
        // established, as the responder and as the initiator
        3 => {
            world.say("alice", "bob", b"x");
            world.run();
        }
        4 => {
            world.say("bob", "alice", b"x");
            world.run();
        }
        // a renewal is under way
        5 => {
            world.say("bob", "alice", b"x");
            world.run();
            world.jump(Duration::from_secs(122));
            world.say("bob", "alice", b"y");
            world.lose();
        }
        // under load
        _ => {
            world.say("alice", "bob", b"x");
            let initiation = world.wire.front().unwrap().bytes.clone();
            world.run();
            let now = world.now;
            for _ in 0..600 {
                drop(world.node("bob").engine.handle_datagram(outer("carol"), &initiation, now));
                while world.node("bob").engine.poll_transmit().is_some() {}
            }
        }
    }
    world
}

/// What becomes of a datagram that was genuine: bytes to overwrite, and another length.
#[derive(Clone, Debug)]
struct Mutation {
    which: usize,
    writes: Vec<(usize, u8)>,
    length: Option<usize>,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    (
        any::<usize>(),
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        prop::option::weighted(0.2, 0usize..200),
    )
        .prop_map(|(which, writes, length)| Mutation { which, writes, length })
}

impl Mutation {
    fn of(&self, log: &[Datagram]) -> Option<Vec<u8>> {
        let mut bytes = log.get(self.which.checked_rem(log.len())?)?.bytes.clone();
        for (at, value) in &self.writes {
            let at = at % bytes.len();
            bytes[at] = *value;
        }
        bytes.resize(self.length.unwrap_or(bytes.len()), 0);
        Some(bytes)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// FZ-01: rubbish, and genuine datagrams changed, in every state: no panic; nothing is delivered but what was sent;
    /// whatever is answered is not longer than what came; and the two still talk afterwards.
    #[test]
    fn fz_01_any_datagram_in_any_state(
        number in 0..STATES,
        rubbish in prop::collection::vec((0u8..6, prop::collection::vec(any::<u8>(), 0..300)), 0..10),
        mutations in prop::collection::vec(mutation(), 0..20),
    ) {
        let mut world = state(number);
        let noise = rubbish.into_iter().map(|(kind, mut bytes)| {
            if let Some(head) = bytes.first_chunk_mut::<4>() {
                *head = [kind, 0, 0, 0];
            }
            let length = match kind { 1 => 148, 2 => 92, 3 => 64, _ => bytes.len() };
            bytes.resize(length, 0x40);
            bytes
        });
        let changed: Vec<Vec<u8>> = mutations.iter().filter_map(|mutation| mutation.of(&world.log)).collect();
        for bytes in noise.chain(changed) {
            let (length, now) = (bytes.len(), world.now);
            let bob = world.node("bob");
            let mut in_place = bytes.clone();
            if let Ok(Some(range)) = bob.engine.open_in_place(outer("alice"), &mut in_place, now) {
                let payload = &in_place[range][28..];
                prop_assert!(payload == b"x" || payload == b"y", "{payload:?}");
            }
            while let Some(transmit) = bob.engine.poll_transmit() {
                prop_assert!(transmit.datagram.len() <= length.max(148));
            }
        }
        world.lose();
        world.wait(Duration::from_secs(7));
        world.say("alice", "bob", b"still there?");
        world.wait(Duration::from_secs(22));
        prop_assert!(world.node("bob").payloads().iter().any(|payload| payload == b"still there?"));
    }

    /// FZ-03: buffers and lengths that fit in no way: an error or a datagram that the other side opens, never a panic, and
    /// nothing outside the datagram is touched.
    #[test]
    fn fz_03_buffers_of_any_size(
        steps in prop::collection::vec((0usize..2200, 0usize..2200, 0usize..3000), 1..40),
        huge in any::<usize>(),
    ) {
        let mut world = state(3);
        let (now, packet) = (world.now, udp(v4("alice"), v4("bob"), &[3; 1400]));
        let path = world.node("alice").engine.path(&packet, now).unwrap();
        world.node("alice").engine.set_mtu(1420);
        for (size, length, mtu) in steps {
            let alice = world.node("alice");
            alice.engine.set_mtu(mtu);
            let packet = udp(v4("alice"), v4("bob"), &vec![3; length.max(28) - 28]);
            let mut buffer = vec![0xee; size];
            if let Some(place) = buffer.get_mut(HEADROOM..HEADROOM + packet.len()) {
                place.copy_from_slice(&packet);
            }
            let sealed = alice.engine.seal_in_place(&path, &mut buffer, packet.len(), now);
            prop_assert_eq!(sealed.is_ok(), size >= alice.engine.sealed_length(packet.len()));
            let Ok(end) = sealed else { continue };
            prop_assert!(end >= packet.len() + HEADROOM + TAG && end <= packet.len() + HEADROOM + TAG + 15);
            prop_assert!(buffer[end..].iter().all(|byte| *byte == 0xee));
            let opened = world.node("bob").engine.open_in_place(outer("alice"), &mut buffer[..end], now);
            let range = opened.unwrap().unwrap();
            prop_assert_eq!(&buffer[range], &packet[..]);
        }
        let mut small = [0; 64];
        prop_assert!(world.node("alice").engine.seal_in_place(&path, &mut small, huge.max(33), now).is_err());
    }
}
