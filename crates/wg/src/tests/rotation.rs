//! Keys change under traffic, and not one packet is lost.

use std::collections::BTreeMap;

use super::world::*;
use crate::{DropReason, Event, LocalConfig, PeerConfig};

/// What happens to a key, on which node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum News {
    AliceHas,
    BobHas,
    AliceHears,
    BobHears,
}

fn permutations(items: &[News]) -> Vec<Vec<News>> {
    if items.is_empty() {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for (at, first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(at);
        all.extend(permutations(&rest).into_iter().map(|mut tail| {
            tail.insert(0, *first);
            tail
        }));
    }
    all
}

const ALL: [News; 4] = [News::AliceHas, News::BobHas, News::AliceHears, News::BobHears];

fn apply(world: &mut World, news: News, epochs: &[u64]) {
    match news {
        News::AliceHas => world.set_local("alice", "alice", local_config("alice", epochs)),
        News::BobHas => world.set_local("bob", "bob", local_config("bob", epochs)),
        News::AliceHears => world.set_peer("alice", "bob", peer_config("bob", epochs)),
        News::BobHears => world.set_peer("bob", "alice", peer_config("alice", epochs)),
    }
}

/// Both speak; with `in_flight` the packets of one round arrive in the next.
fn converse(world: &mut World, rounds: u8, in_flight: bool, said: &mut u64) {
    for _ in 0..rounds {
        let before: Vec<_> = world.wire.drain(..).collect();
        world.say("alice", "bob", &said.to_be_bytes());
        world.say("bob", "alice", &said.to_be_bytes());
        *said += 1;
        for datagram in before {
            world.deliver(&datagram);
        }
        if !in_flight {
            world.run();
        }
    }
}

fn assert_nothing_lost(world: &mut World, said: u64, order: &[News]) {
    world.run();
    for name in ["alice", "bob"] {
        let mut heard = world.node(name).payloads();
        heard.sort();
        let all: Vec<Vec<u8>> = (0..said).map(|number| number.to_be_bytes().to_vec()).collect();
        assert_eq!(heard, all, "{name} after {order:?}, drops {:?}", world.node(name).drops);
    }
}

/// F18: whatever the order in which the news of new keys arrives, no packet is lost, and in the end the new keys are
/// used; old keys go without a loss as soon as nothing is in flight under them.
#[test]
fn rotation_under_traffic_loses_nothing_in_any_order() {
    for in_flight in [false, true] {
        for order in permutations(&ALL) {
            let mut world = World::friends(&["alice", "bob"]);
            let mut said = 0;
            converse(&mut world, 3, in_flight, &mut said);
            for news in &order {
                apply(&mut world, *news, &[1, 2]);
                converse(&mut world, 3, in_flight, &mut said);
            }
            converse(&mut world, 6, in_flight, &mut said);
            assert_nothing_lost(&mut world, said, &order);
            let now = world.now;
            for name in ["alice", "bob"] {
                let best = world.node(name).engine.recent_pairs(now).count();
                assert_eq!(best, 1);
                let newest = world.node(name).engine.sessions(now).find(|info| info.local_epoch + info.peer_epoch == 4);
                assert!(newest.unwrap().established, "{name} after {order:?}");
            }
            for news in &order {
                apply(&mut world, *news, &[2]);
                converse(&mut world, 2, in_flight, &mut said);
            }
            assert_nothing_lost(&mut world, said, &order);
            assert_eq!(world.node("alice").engine.occupancy().sessions, 1);
        }
    }
}

/// A first packet in the middle of a rotation: the peer has not heard of our newest key, but of the one before.
#[test]
fn a_first_packet_does_not_wait_for_news_of_the_newest_key() {
    let mut world = World::friends(&["alice", "bob"]);
    apply(&mut world, News::AliceHas, &[1, 2]);
    world.say("alice", "bob", b"x");
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"x"]);
    assert!(
        world.node("bob").events.iter().any(|event| matches!(event, Event::HandshakeCompleted { peer_epoch: 1, .. }))
    );
    // the news comes while the initiation with the new key is still parked: it is answered
    apply(&mut world, News::BobHears, &[1, 2]);
    world.run();
    assert!(
        world
            .node("alice")
            .events
            .iter()
            .any(|event| matches!(event, Event::HandshakeCompleted { local_epoch: 2, .. }))
    );
}

/// The same epoch with another key is another key.
#[test]
fn a_key_replaced_within_its_epoch_ends_its_sessions() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    world.run();
    let mut rebuilt: LocalConfig = local_config("alice", &[]);
    rebuilt.keys = vec![crate::LocalKey { epoch: 1, secret: secret("dave", 1), suite: Default::default() }];
    world.set_local("alice", "alice", rebuilt);
    assert_eq!(world.node("alice").engine.occupancy().sessions, 0);
    let keys = BTreeMap::from([(1, public("dave", 1))]);
    world.set_peer("bob", "alice", PeerConfig { keys, ..peer_config("alice", &[]) });
    assert_eq!(world.node("bob").engine.occupancy().sessions, 0);
    world.say("alice", "bob", b"y");
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"x", b"y"]);
    assert_eq!(world.node("bob").dropped(DropReason::UnknownIndex), 0);
}
