//! From the underlay to the overlay: datagrams are opened where they lie and handed on many at a time.

use std::ops::Range;
use std::time::Instant;

use identity::SpiffeId;
use linux::udp::Message;
use packet::ecn;
use plan::PeerName;
use wg::Engine;

use super::inner::Inner;
use super::outer::Outer;

/// First byte of a handshake initiation (WireGuard paper, section 5.4.2).
pub(super) const INITIATION: u8 = 1;

/// Where the opened packets of one message lie. Used again for every message.
#[derive(Default)]
pub(super) struct Inbound {
    packets: Vec<Range<usize>>,
}

impl Inbound {
    /// Opens a message's datagrams and hands on what was inside.
    pub(super) fn receive(
        &mut self,
        engine: &mut Engine<SpiffeId, PeerName>,
        (inner, outer): (&mut Inner, &mut Outer),
        message: &mut Message<'_>,
        now: Instant,
    ) {
        self.packets.clear();
        let mut count = 0;
        let mut is_authentic = false;
        let mut at = 0;
        for datagram in message.bytes.chunks_mut(message.stride) {
            count += 1;
            let proves = proves_sender(datagram);
            // why it was dropped is counted there
            if let Ok(opened) = engine.open_in_place(message.from, datagram, now) {
                is_authentic |= proves;
                if let Some(range) = opened {
                    let packet = datagram.get_mut(range.clone()).unwrap_or_default();
                    if ecn::carry_inwards(message.ecn, packet) {
                        self.packets.push(at + range.start..at + range.end);
                    } else {
                        inner.congested();
                    }
                }
            }
            at += datagram.len();
        }
        outer.count_received(count, message.bytes.len());
        if is_authentic {
            outer.learn(message.from, message.to);
        }
        inner.write(message.bytes, &self.packets);
    }
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
