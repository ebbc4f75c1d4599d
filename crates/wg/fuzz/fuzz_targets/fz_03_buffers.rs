//! FZ-03: buffers and lengths that fit in no way: an error, or a datagram that the other side opens; nothing behind it is touched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wg::{HEADROOM, TAG};
use wg_fuzz::{Choices, World, outer, packet};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices(input);
    let World { now, engines: [mut one, mut two], .. } = World::talking();
    let path = one.path(&packet(0, 100, b""), now).expect("they talk");
    for _ in 0..64 {
        if !choices.has_more() {
            break;
        }
        let (size, length) = (choices.word() % 2200, choices.word() % 2200);
        one.set_mtu(choices.word() % 3000);
        let inside = packet(0, length, b"inside");
        let mut buffer = vec![0xee; size];
        if let Some(place) = buffer.get_mut(HEADROOM..HEADROOM + inside.len()) {
            place.copy_from_slice(&inside);
        }
        let sealed = one.seal_in_place(&path, &mut buffer, inside.len(), now);
        assert_eq!(sealed.is_ok(), size >= one.sealed_length(inside.len()));
        let Ok(end) = sealed else { continue };
        assert!(end >= inside.len() + HEADROOM + TAG && end <= inside.len() + HEADROOM + TAG + 15);
        assert!(buffer[end..].iter().all(|byte| *byte == 0xee));
        let opened =
            two.open_in_place(outer(0), &mut buffer[..end], now).expect("it is genuine").expect("it has an inside");
        assert_eq!(buffer[opened], inside[..]);
        let mut any = choices.bytes(size).to_vec();
        assert!(one.open_in_place(outer(1), &mut any, now).is_err());
    }
});
