//! From the underlay to the overlay: datagrams are opened where they lie and handed on many at a time.

use std::time::Instant;

use identity::SpiffeId;
use linux::udp::Message;
use packet::ecn;
use plan::PeerName;
use wg::Engine;

use super::inner::Inner;
use super::outer::{INITIATION, Outer};
use super::train::Train;

/// Opens a message's datagrams and hands on what was inside; whether any was not refused. The last packets may stay in `train`,
/// to be joined with what is in the next message.
pub(super) fn receive<'a>(
    engine: &mut Engine<SpiffeId, PeerName>,
    (inner, outer): (&mut Inner, &mut Outer),
    train: &mut Train<'a>,
    message: Message<'a>,
    now: Instant,
) -> bool {
    let Message { from, to, ecn: mark, stride, bytes } = message;
    let length = bytes.len();
    let mut count = 0;
    let (mut is_authentic, mut is_any_taken) = (false, false);
    for datagram in bytes.chunks_mut(stride) {
        count += 1;
        let proves = proves_sender(datagram);
        // why it was dropped is counted there
        let Ok(opened) = engine.open_in_place(from, datagram, now) else { continue };
        is_any_taken = true;
        is_authentic |= proves;
        let Some(packet) = opened.and_then(|range| datagram.get_mut(range)) else { continue };
        if ecn::carry_inwards(mark, packet) {
            inner.write(train, packet);
        } else {
            inner.congested();
        }
    }
    outer.count_received(count, length);
    if is_authentic {
        outer.learn(from, to);
    }
    is_any_taken
}

/// Whether what the engine consumed tells who is at the endpoint it came from. An initiation does not: it may be one of a
/// key that nobody knows, kept unread, or one that was recorded and is played again from elsewhere.
fn proves_sender(datagram: &[u8]) -> bool {
    datagram.first() != Some(&INITIATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initiation_does_not_tell_who_is_at_its_endpoint() {
        assert!(!proves_sender(&[1, 0, 0, 0]));
        for kind in [2, 3, 4] {
            assert!(proves_sender(&[kind, 0, 0, 0]), "message type {kind}");
        }
    }
}
