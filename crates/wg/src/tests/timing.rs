//! What the protocol does as time passes; with boringtun's clock in our hands.

use std::net::SocketAddr;
use std::time::Duration;

use super::world::*;
use crate::{DropReason, Event, RetireReason};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);

fn established() -> World {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"first");
    world.run();
    world.log.clear();
    world
}

fn count(world: &World, kind: u8) -> usize {
    world.kinds().iter().filter(|other| **other == kind).count()
}

/// PC-12: under constant traffic the initiator renews the key at 120 s, the responder never, and nothing is lost.
#[test]
fn pc_12_constant_traffic_for_ten_minutes() {
    let mut world = established();
    let begin = world.now;
    let mut initiations = Vec::new();
    for number in 0..5990u32 {
        world.say("alice", "bob", &number.to_be_bytes());
        world.say("bob", "alice", &number.to_be_bytes());
        world.wait(Duration::from_millis(100));
        initiations.extend(world.log.drain(..).filter(|datagram| datagram.kind() == 1).map(|datagram| {
            assert_eq!(datagram.from, outer("alice"), "the responder never begins");
            world.now - begin
        }));
    }
    assert_eq!(world.node("bob").delivered.len(), 5991);
    assert_eq!(world.node("alice").delivered.len(), 5990);
    assert_eq!(initiations.len(), 4, "{initiations:?}");
    let mut last = Duration::ZERO;
    for at in initiations {
        assert!((120 * SECOND..=121 * SECOND).contains(&(at - last)), "after {:?}", at - last);
        last = at;
    }
}

/// PC-13: with handshakes blocked, no key seals or opens after 180 s, in either direction.
#[test]
fn pc_13_no_key_outlives_180_seconds() {
    let mut world = established();
    let begin = world.now;
    let mut last_data = [Duration::ZERO; 2];
    let mut late = None;
    for second in 0..250u32 {
        for (direction, (from, to)) in [("alice", "bob"), ("bob", "alice")].into_iter().enumerate() {
            world.say(from, to, b"x");
            let sent: Vec<Datagram> = world.wire.drain(..).collect();
            for datagram in sent {
                if datagram.kind() == 4 && direction == 0 && (178..180).contains(&second) {
                    late = Some(datagram.clone());
                }
                if datagram.kind() == 4 {
                    last_data[direction] = world.now - begin;
                    world.deliver(&datagram);
                }
            }
        }
        world.jump(SECOND);
        for name in ["alice", "bob"] {
            let now = world.now;
            world.node(name).engine.handle_timeout(now);
        }
        world.collect();
        world.wire.retain(|datagram| datagram.kind() == 4);
    }
    for last in last_data {
        assert!((178 * SECOND..180 * SECOND).contains(&last), "{last:?}");
    }
    let before = world.node("bob").delivered.len();
    let late = late.unwrap();
    world.deliver(&late);
    assert_eq!(world.node("bob").delivered.len(), before);
}

/// B4: a process that slept does not seal or open under an old key, although nothing has ticked.
#[test]
fn b4_a_late_process_does_not_use_an_old_key() {
    for asleep in [181 * SECOND, 500 * SECOND] {
        let mut world = established();
        world.say("bob", "alice", b"sealed in time");
        let old = world.wire.pop_front().unwrap();
        world.jump(asleep);
        world.deliver(&old);
        assert_eq!(world.node("alice").delivered, []);
        world.lose();
        world.say("alice", "bob", b"x");
        assert!(world.wire.iter().all(|datagram| datagram.kind() == 1), "only a handshake leaves: {:?}", world.kinds());
        world.run();
        assert_eq!(world.node("bob").payloads(), [&b"first"[..], b"x"]);
    }
}

/// B5, boringtun#258: after a pause the new key is not thrown away by the first tick.
#[test]
fn b5_a_handshake_after_a_pause_lasts() {
    for pause in [10, 100, 179, 181, 200, 539, 541, 10_000] {
        let mut world = established();
        world.jump(pause * SECOND);
        world.say("alice", "bob", b"x");
        world.run();
        world.wait(2 * SECOND);
        world.log.clear();
        for number in 0..10u8 {
            world.say("alice", "bob", &[number]);
            world.say("bob", "alice", &[number]);
            world.wait(SECOND);
        }
        assert_eq!(world.node("bob").delivered.len(), 12, "after {pause} s");
        assert_eq!(world.node("alice").delivered.len(), 10, "after {pause} s");
        assert_eq!(count(&world, 1), 0, "no second handshake after {pause} s");
    }
}

/// PC-15: retries come after five seconds and a uniform third, for ninety seconds; then a packet begins again.
#[test]
fn pc_15_retries_are_jittered_and_end() {
    let mut gaps = Vec::new();
    for seed in 0..12 {
        let mut world = World::friends(&["alice"]);
        world.node("alice").engine = crate::Engine::new([seed; 32], world.wall(), world.now);
        world.set_local("alice", "alice", local_config("alice", &[1]));
        world.set_peer("alice", "bob", peer_config("bob", &[1]));
        world.say("alice", "bob", b"x");
        let mut last = world.now;
        for _ in 0..100 {
            world.log.clear();
            let next = world.node("alice").engine.poll_timeout().unwrap();
            world.wait(next - world.now);
            if count(&world, 1) > 0 {
                gaps.push(world.now - last);
                last = world.now;
            }
            if !world.node("alice").events.is_empty() {
                break;
            }
        }
        world.wait(100 * SECOND);
        assert!(matches!(world.node("alice").events[..], [Event::SessionExpired { peer: "bob", .. }]));
        assert_eq!(world.node("alice").dropped(DropReason::HandshakeTimeout), 1);
        assert_eq!(world.node("alice").engine.poll_timeout(), None, "silent");
        world.log.clear();
        world.say("alice", "bob", b"y");
        assert_eq!(count(&world, 1), 1, "a packet begins again");
    }
    assert!(gaps.len() > 40, "{}", gaps.len());
    let mean = gaps.iter().sum::<Duration>() / u32::try_from(gaps.len()).unwrap();
    assert!(gaps.iter().all(|gap| (5 * SECOND..=5 * SECOND + Duration::from_millis(334)).contains(gap)), "{gaps:?}");
    assert!((5120..5220).contains(&mean.as_millis()), "{mean:?}");
}

/// PC-16: an idle receiver answers with exactly one keepalive after ten seconds; two idle peers are silent.
#[test]
fn pc_16_one_keepalive_then_silence() {
    let mut world = established();
    world.wait(TICK);
    world.say("alice", "bob", b"x");
    world.run();
    let begin = world.now;
    world.log.clear();
    let mut at = Vec::new();
    for _ in 0..48 {
        world.wait(TICK);
        at.extend(world.log.drain(..).map(|datagram| (datagram.from, datagram.bytes.len(), world.now - begin)));
    }
    let [(from, 32, after)] = at[..] else { panic!("{at:?}") };
    assert_eq!(from, outer("bob"));
    assert!((9 * SECOND..=11 * SECOND).contains(&after));
    world.wait(300 * SECOND);
    assert_eq!(world.log, []);
}

/// A session that nobody uses goes after three minutes, and with it all its timers; the next packet makes another.
#[test]
fn an_idle_session_is_retired_and_comes_back() {
    let mut world = established();
    world.wait(200 * SECOND);
    for name in ["alice", "bob"] {
        let node = world.node(name);
        assert!(matches!(node.events.last(), Some(Event::SessionRetired { reason: RetireReason::Idle, .. })));
        assert_eq!((node.engine.occupancy().sessions, node.engine.poll_timeout()), (0, None));
    }
    world.say("bob", "alice", b"again");
    world.run();
    assert_eq!(world.node("alice").payloads(), [b"again"]);
}

/// PC-18: a peer that lost its sessions and does not greet is found again by silence, after fifteen seconds.
#[test]
fn pc_18_a_silent_peer_is_shaken_hands_with_again() {
    let mut world = established();
    world.restart("bob");
    let begin = world.now;
    while world.node("bob").delivered.is_empty() {
        world.say("alice", "bob", b"?");
        world.wait(SECOND);
        assert!(world.now - begin <= 17 * SECOND);
    }
    assert!(world.now - begin >= 15 * SECOND);
}

/// A restarted peer that greets is found at once, also under boringtun's mocked clock.
#[test]
fn a_greeting_after_hours_is_newer_than_all_before() {
    let mut world = established();
    for _ in 0..3 {
        for _ in 0..40 {
            world.say("alice", "bob", b"x");
            world.say("bob", "alice", b"x");
            world.wait(100 * SECOND);
        }
        world.restart("bob");
        let now = world.now;
        world.node("bob").engine.greet(&"bob", &"alice", now).unwrap();
        world.collect();
        world.run();
        world.say("alice", "bob", b"after");
        world.run();
        assert_eq!(world.node("bob").payloads(), [b"after"]);
    }
}

/// A peer with several endpoints is tried at each in turn.
#[test]
fn a_dead_endpoint_does_not_hide_a_living_one() {
    let mut world = World::strangers(&["alice", "bob"]);
    world.set_peer("bob", "alice", peer_config("alice", &[1]));
    let mut config = peer_config("bob", &[1]);
    config.endpoints = vec![SocketAddr::from(([203, 0, 113, 1], 1)), "[2001:db8::9]:9".parse().unwrap(), outer("bob")];
    world.set_peer("alice", "bob", config);
    world.say("alice", "bob", b"x");
    world.wait(11 * SECOND);
    assert_eq!(world.node("bob").payloads(), [b"x"]);
    assert_eq!(world.node("alice").engine.endpoint(&"bob"), Some(outer("bob")));
}

/// PC-22, PC-23: under load only cookies leave, bound to address and port; the next retry carries one and is answered.
#[test]
fn pc_22_under_load_senders_prove_their_address() {
    let mut world = World::friends(&["alice", "bob"]);
    world.say("alice", "bob", b"x");
    let lost = world.wire.pop_front().unwrap();
    // Eve repeats one initiation until Bob is under load, for as long as the test takes
    let flood = |world: &mut World| {
        for _ in 0..600 {
            let now = world.now;
            let bob = world.node("bob");
            drop(bob.engine.handle_datagram(SocketAddr::from(([203, 0, 113, 66], 666)), &lost.bytes, now));
            while let Some(transmit) = bob.engine.poll_transmit() {
                assert!(transmit.datagram.len() <= 92, "never more than came");
            }
        }
    };
    // the first of the flood is Alice's own initiation: it makes a session, which a restart forgets
    flood(&mut world);
    world.deliver(&lost);
    let cookie = world.wire.pop_front().unwrap();
    assert_eq!((cookie.kind(), cookie.bytes.len(), cookie.to), (3, 64, outer("alice")));
    assert_eq!(world.node("bob").drops, [DropReason::UnderLoad]);
    let mut forged = cookie.clone();
    forged.bytes[40] ^= 1;
    world.deliver(&forged);
    assert_eq!(world.node("alice").drops, [DropReason::CookieInvalid]);
    let from_elsewhere = Datagram { from: SocketAddr::from(([203, 0, 113, 66], 666)), ..cookie };
    world.deliver(&from_elsewhere);
    assert_eq!(world.node("alice").engine.endpoint(&"bob"), Some(outer("bob")), "a cookie moves nothing");
    assert!(world.wire.is_empty(), "no immediate resend");

    world.jump(5 * SECOND + Duration::from_millis(340));
    flood(&mut world);
    let now = world.now;
    world.node("alice").engine.handle_timeout(now);
    world.collect();
    let retry = world.wire.pop_front().unwrap();
    assert_eq!(retry.kind(), 1);
    assert_ne!(retry.bytes[132..], [0; 16], "it carries mac2");
    let mut other_port = retry.clone();
    other_port.from.set_port(1);
    world.deliver(&other_port);
    assert_eq!(world.wire.pop_front().unwrap().kind(), 3, "the cookie is bound to the port");
    world.deliver(&retry);
    world.run();
    assert_eq!(world.node("bob").payloads(), [b"x"]);
}

#[test]
fn an_engine_that_slept_for_days_begins_anew() {
    let mut world = established();
    world.jump(Duration::from_secs(3 * 86_400));
    world.say("bob", "alice", b"morning");
    world.run();
    world.wait(SECOND);
    assert_eq!(world.node("alice").payloads(), [b"morning"]);
}

/// An old session that shakes hands with a peer that is gone wants to be woken for its retries, not all the time.
#[test]
fn a_retry_of_an_old_session_does_not_spin() {
    let mut world = established();
    world.jump(200 * SECOND);
    world.say("alice", "bob", b"x");
    world.lose();
    for _ in 0..100 {
        let now = world.now;
        let alice = world.node("alice");
        alice.engine.handle_timeout(now);
        let Some(next) = alice.engine.poll_timeout() else { return };
        assert!(next > now);
        world.jump(next - now);
    }
}
