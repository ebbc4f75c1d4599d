//! FZ-11: anything may happen to two friends; nothing is delivered twice or under a wrong name, and when it stops they talk.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::world::*;

#[derive(Clone, Debug)]
enum Fault {
    Say(bool),
    Deliver(u16),
    Duplicate(u16),
    Lose(u16),
    FlipBit(u16, u16),
    Wait(u64),
    Sleep(u64),
    Restart(bool),
    Roam(bool, u16),
    Rotate(bool),
}

fn fault() -> impl Strategy<Value = Fault> {
    let index = any::<u16>;
    prop_oneof![
        6 => any::<bool>().prop_map(Fault::Say),
        6 => index().prop_map(Fault::Deliver),
        2 => index().prop_map(Fault::Duplicate),
        2 => index().prop_map(Fault::Lose),
        1 => (index(), index()).prop_map(|(at, bit)| Fault::FlipBit(at, bit)),
        2 => (1u64..30_000).prop_map(Fault::Wait),
        1 => (1u64..400_000).prop_map(Fault::Sleep),
        1 => any::<bool>().prop_map(Fault::Restart),
        1 => (any::<bool>(), any::<u16>()).prop_map(|(who, port)| Fault::Roam(who, port)),
        1 => any::<bool>().prop_map(Fault::Rotate),
    ]
}

const fn name(alice: bool) -> Name {
    if alice { "alice" } else { "bob" }
}

/// Each node's two newest keys; the other hears of them at once.
struct Keys([u64; 2]);

impl Keys {
    fn rotate(&mut self, world: &mut World, alice: bool) {
        let newest = &mut self.0[usize::from(alice)];
        *newest += 1;
        let epochs = [*newest - 1, *newest];
        let (who, other) = (name(alice), name(!alice));
        world.set_local(who, who, local_config(who, &epochs));
        world.set_peer(other, who, peer_config(who, &epochs));
    }
}

fn say(world: &mut World, alice: bool, said: &mut u64) {
    *said += 1;
    let (from, to) = (name(alice), name(!alice));
    world.say(from, to, &said.to_be_bytes());
}

fn apply(world: &mut World, fault: Fault, said: &mut u64, keys: &mut Keys) {
    let pick = |world: &World, index: u16| usize::from(index).checked_rem(world.wire.len());
    match fault {
        Fault::Say(alice) => say(world, alice, said),
        Fault::Deliver(index) => {
            if let Some(datagram) = pick(world, index).and_then(|at| world.wire.remove(at)) {
                world.deliver(&datagram);
            }
        }
        Fault::Duplicate(index) => {
            if let Some(at) = pick(world, index) {
                let copy = world.wire[at].clone();
                world.wire.push_back(copy);
            }
        }
        Fault::Lose(index) => drop(pick(world, index).and_then(|at| world.wire.remove(at))),
        Fault::FlipBit(index, bit) => {
            if let Some(at) = pick(world, index) {
                let bytes = &mut world.wire[at].bytes;
                let bit = usize::from(bit) % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Fault::Wait(milliseconds) => {
            world.jump(Duration::from_millis(milliseconds));
            for name in ["alice", "bob"] {
                let now = world.now;
                world.node(name).engine.handle_timeout(now);
            }
            world.collect();
        }
        Fault::Sleep(milliseconds) => world.jump(Duration::from_millis(milliseconds)),
        Fault::Restart(alice) => {
            let heard = std::mem::take(&mut world.node(name(alice)).delivered);
            world.restart(name(alice));
            world.node(name(alice)).delivered = heard;
        }
        Fault::Roam(alice, port) => {
            world.node(name(alice)).at = SocketAddr::from(([198, 51, 100, 1 + u8::from(alice)], port))
        }
        Fault::Rotate(alice) => keys.rotate(world, alice),
    }
}

fn assert_they_survive(faults: Vec<Fault>) {
    let mut world = World::friends(&["alice", "bob"]);
    let mut said = 0;
    let mut keys = Keys([1, 1]);
    for fault in faults {
        apply(&mut world, fault, &mut said, &mut keys);
    }
    // the network heals; whoever moved is where the other was told at first
    for name in ["alice", "bob"] {
        world.node(name).at = outer(name);
    }
    world.run();
    let mut last = [0; 2];
    for _ in 0..120 {
        for (place, alice) in [true, false].into_iter().enumerate() {
            say(&mut world, alice, &mut said);
            last[place] = said;
        }
        world.wait(Duration::from_secs(1));
    }
    for (node, peer, last) in [("bob", "alice", last[0]), ("alice", "bob", last[1])] {
        let heard = world.node(node).payloads();
        assert!(heard.contains(&last.to_be_bytes().to_vec()), "{node} is deaf");
        let unique: BTreeSet<_> = heard.iter().collect();
        assert_eq!(unique.len(), heard.len(), "{node} heard something twice");
        assert!(world.node(node).delivered.iter().all(|delivered| delivered.peer == peer));
        assert!(world.node(node).engine.occupancy().sessions <= 8);
    }
}

/// Handshakes that cross, both far too late, leave two sides that both think the other one began: neither renews the
/// key at 120 s, and theirs are not of the same age. Found by the test below after 2,000 cases.
#[test]
fn crossed_handshakes_leave_nobody_to_renew_the_key() {
    use Fault::{Deliver, Say, Wait};
    let early = [Say(false), Wait(2), Deliver(0), Wait(13_346), Say(false), Deliver(0), Say(false)];
    let late = [Wait(15_906), Say(true), Wait(3920), Wait(27_578)];
    assert_they_survive(early.into_iter().chain(late).collect());
}

proptest! {
    // 6,000 cases were run by hand
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fz_11_two_friends_survive_anything(faults in prop::collection::vec(fault(), 0..120)) {
        assert_they_survive(faults);
    }
}
