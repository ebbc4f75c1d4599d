//! FZ-11: two engines and a network that drops, repeats, reorders and changes: what is delivered was sent, and once; and afterwards they talk.
#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use wg_fuzz::{Choices, World};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let mut world = World::new();
    let mut said = 0u16;
    for _ in 0..256 {
        if !choices.has_more() {
            break;
        }
        let (what, which) = (choices.byte(), usize::from(choices.byte()));
        let at = which.checked_rem(world.wire.len());
        match (what % 8, at) {
            (0 | 1, _) => {
                said += 1;
                world.say(what >> 3 & 1, &said.to_be_bytes());
            }
            (2 | 3, Some(at)) => {
                if let Some((to, datagram)) = world.wire.remove(at) {
                    world.deliver(to, &datagram);
                }
            }
            (4, Some(at)) => {
                let copy = world.wire[at].clone();
                world.wire.push_back(copy);
            }
            (5, Some(at)) => drop(world.wire.remove(at)),
            (6, Some(at)) => choices.change(&mut world.wire[at].1),
            _ => world.wait(Duration::from_millis(u64::try_from(which * which * 4).unwrap_or(0))),
        }
    }
    let payloads: Vec<_> = world.delivered.iter().map(|(to, packet)| (*to, packet[20..].to_vec())).collect();
    assert!(
        payloads.iter().all(|(_, payload)| payload.len() == 2 && u16::from_be_bytes([payload[0], payload[1]]) <= said)
    );
    assert_eq!(payloads.iter().collect::<BTreeSet<_>>().len(), payloads.len(), "something was delivered twice");
    world.assert_they_talk();
});
