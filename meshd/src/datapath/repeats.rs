//! Notices that a path swallows long datagrams without a word, by what TCP inside does then: it sends one long segment again
//! and again.
//!
//! Nothing in WireGuard says that a datagram has arrived, and routers on the way often say nothing of one that they drop. A
//! segment that is sent for the third time, each time after a pause, has been lost twice; mere loss does that to one in a
//! hundred where a tenth is lost, and the price of a mistake is shorter packets for a while.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use packet::IpPacket;

/// TCP's protocol number (RFC 9293 §3.1).
const TCP: u8 = 6;
/// How often a segment has to be sent. Linux sends at 0, 0.2, 0.6, 1.4 and 3 s (`TCP_RTO_MIN`, doubled each time).
const TIMES: u8 = 3;
/// What comes sooner is another kind of repetition: a path that is merely lossy or out of order has those.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// What comes later counts from the beginning: Linux waits no longer between two attempts (`TCP_RTO_MAX`).
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// How many segments are remembered. Two that meet in one place push each other out, and count from the beginning.
const SEGMENTS_MAX: usize = 64;

/// One segment.
#[derive(Clone, Copy)]
struct Segment {
    /// Of addresses, ports and sequence number.
    hash: u64,
    times: u8,
    last: Instant,
}

/// The long segments that were sent last.
pub(super) struct Repeats {
    segments: [Option<Segment>; SEGMENTS_MAX],
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self { segments: [None; SEGMENTS_MAX] }
    }

    /// A packet is about to be sent that is longer than every path carries: whether it is a segment that was lost before, and
    /// before that.
    pub(super) fn notes(&mut self, packet: &[u8], now: Instant) -> bool {
        let Some(hash) = segment(packet) else { return false };
        let at = usize::try_from(hash).unwrap_or_default() % SEGMENTS_MAX;
        let Some(place) = self.segments.get_mut(at) else { return false };
        let first = Segment { hash, times: 1, last: now };
        let Some(known) = place.as_mut().filter(|known| known.hash == hash) else {
            *place = Some(first);
            return false;
        };
        let pause = now.saturating_duration_since(known.last);
        if pause < PAUSE_MIN {
            return false;
        }
        if pause > PAUSE_MAX {
            *known = first;
            return false;
        }
        (known.times, known.last) = (known.times + 1, now);
        let is_lost = known.times >= TIMES;
        if is_lost {
            *place = None;
        }
        is_lost
    }
}

/// What tells a TCP segment from all others; `None` for anything else.
fn segment(packet: &[u8]) -> Option<u64> {
    let ip = IpPacket::parse(packet).ok().filter(|ip| ip.protocol() == TCP && ip.fragment().is_none())?;
    let (ports_and_sequence, _) = ip.payload().split_first_chunk::<8>()?;
    let mut hasher = DefaultHasher::new();
    (ip.source(), ip.destination(), ports_and_sequence).hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(protocol: u8, sequence: u8) -> Vec<u8> {
        let mut packet = vec![0; 1400];
        packet[..4].copy_from_slice(&[0x45, 0, 5, 0x78]);
        packet[8..10].copy_from_slice(&[64, protocol]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[27] = sequence;
        packet
    }

    /// Sent at these milliseconds; at which of them it was found to be lost.
    fn found(packet: &[u8], at: &[u64]) -> Vec<u64> {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        at.iter().copied().filter(|at| repeats.notes(packet, start + Duration::from_millis(*at))).collect()
    }

    #[test]
    fn a_segment_that_is_sent_for_the_third_time_is_lost() {
        assert_eq!(found(&tcp(TCP, 1), &[0, 200, 600, 1400, 3000]), [600]);
        // what is sent twice at once, as after a gap that others tell of, is not
        assert_eq!(found(&tcp(TCP, 1), &[0, 1, 2, 3, 50, 99]), [0_u64; 0]);
        // where round trips are long the pauses are, too
        assert_eq!(found(&tcp(TCP, 1), &[0, 6_000, 18_000, 42_000]), [18_000]);
        assert_eq!(found(&tcp(TCP, 1), &[0, 200, 120_300, 240_400]), [0_u64; 0]);
        assert_eq!(found(&tcp(17, 1), &[0, 200, 600, 1400]), [0_u64; 0], "only TCP sends again by itself");
    }

    #[test]
    fn segments_are_told_apart_and_the_table_is_bounded() {
        let (mut repeats, start) = (Repeats::new(), Instant::now());
        // a stream that goes on: no sequence number comes twice, though there are more of them than places
        for sequence in 0..=u8::MAX {
            let now = start + Duration::from_millis(100 * u64::from(sequence));
            assert!(!repeats.notes(&tcp(TCP, sequence), now), "{sequence}");
        }
        assert!(!repeats.notes(&[], start) && !repeats.notes(&[0x45], start));
    }
}
