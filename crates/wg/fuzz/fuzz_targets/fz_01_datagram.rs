//! FZ-01: any datagram in any state. Nothing is delivered but what was sent, answers are no longer than a handshake, and afterwards they talk.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use wg_fuzz::{Choices, World};

/// One side in each state that a session can be in, and genuine datagrams for it.
fn state(number: u8) -> (World, Vec<Vec<u8>>) {
    let mut world = World::new();
    if number.is_multiple_of(5) {
        world.say(0, b"x");
    } else {
        world.say(number & 1, b"x");
        if number % 5 > 1 {
            world.run();
        }
        if number % 5 > 2 {
            world.wait(Duration::from_secs(121));
            world.say(number & 1, b"x");
        }
    }
    let genuine = world.wire.drain(..).filter(|(to, _)| *to == 1).map(|(_, datagram)| datagram).collect();
    (world, genuine)
}

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let (mut world, genuine) = state(choices.byte());
    for _ in 0..64 {
        if !choices.has_more() {
            break;
        }
        let which = usize::from(choices.byte());
        let mut datagram = match genuine.get(which % 8) {
            Some(datagram) => datagram.clone(),
            None => {
                let length = [148, 92, 64, 32, choices.word() % 300][which % 5];
                let mut bytes = choices.bytes(length).to_vec();
                bytes.resize(length, 0);
                bytes
            }
        };
        choices.change(&mut datagram);
        let before = world.wire.len();
        world.deliver(1, &datagram);
        assert!(world.wire.iter().skip(before).all(|(_, answer)| answer.len() <= 148));
    }
    assert!(world.delivered.iter().all(|(_, packet)| &packet[20..] == b"x"));
    world.wait(Duration::from_secs(7));
    world.assert_they_talk();
});
