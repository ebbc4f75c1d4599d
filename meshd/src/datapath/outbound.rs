//! From the overlay to the underlay: super packets are cut, sealed where they lie, and sent many at a time.

use std::sync::Arc;
use std::time::Instant;

use identity::SpiffeId;
use packet::{IpPacket, Offload, SegmentError, Segments, ecn};
use plan::PeerName;
use wg::{Engine, HEADROOM, Path};

use super::counters::Counters;
use super::outbox::{Heading, Outbox};
use super::outer::Outer;

/// A packet that is made here is never longer than what a TUN device gives.
const SCRATCH_BYTES: usize = linux::tun::PACKET_BYTES_MAX;

/// What is on its way out.
pub(super) struct Outbound {
    outbox: Outbox,
    /// Where a packet is finished that cannot be sealed yet.
    scratch: Box<[u8]>,
    /// The longest packet that every path carries, in bytes.
    mtu: usize,
    class: ClassPolicy,
    counters: Arc<Counters>,
}

/// Which traffic class the outer packets get. The ECN bits are always the inner packet's (RFC 6040 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClassPolicy {
    /// One DSCP for all, 0 to 63: tells the underlay nothing.
    Fixed(u8),
    /// The inner packet's.
    Inherit,
}

impl ClassPolicy {
    fn of(self, inner: u8) -> u8 {
        match self {
            Self::Fixed(dscp) => dscp << 2 | inner & ecn::ECN_MASK,
            Self::Inherit => inner,
        }
    }
}

impl Outbound {
    pub(super) fn new(mtu: usize, class: ClassPolicy, counters: Arc<Counters>) -> Self {
        let scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        Self { outbox: Outbox::new(), scratch, mtu, class, counters }
    }

    pub(super) fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// Sends a packet from the TUN, or lets it wait in the engine. What is sent may stay here until
    /// [`flush`](Self::flush).
    pub(super) fn send(
        &mut self,
        engine: &mut Engine<SpiffeId, PeerName>,
        outer: &mut Outer,
        (offload, packet): (Offload, &[u8]),
        now: Instant,
    ) {
        let mut path = engine.path(packet, now);
        let limit = path.and_then(|path| outer.limit(path.endpoint())).map_or(self.mtu, |limit| limit.min(self.mtu));
        let mut segments = match Segments::new(&offload, packet, limit) {
            Ok(segments) => segments,
            Err(SegmentError::TooBig) => return,
            // the engine counts it
            Err(SegmentError::Parse(_) | SegmentError::Mismatch) => {
                let _counted = engine.handle_packet(&[], now);
                return;
            }
        };
        let class = IpPacket::parse(packet).map_or(0, |packet| self.class.of(packet.traffic_class()));
        let (mut count, mut bytes) = (0, 0);
        while let Some(length) = segments.next_length() {
            count += 1;
            bytes += length;
            match path {
                Some(way) if self.seal(engine, outer, &mut segments, (way, class), now).is_some() => {}
                _ => {
                    path = None;
                    let Some(place) = self.scratch.get_mut(..length) else { break };
                    if segments.write_next(place).is_none() {
                        break;
                    }
                    let _counted = engine.handle_packet(place, now);
                }
            }
        }
        self.counters.tun_read.add(count, bytes);
    }

    /// Makes a datagram of the next segment. `None`: the path is over, and the segment still to come.
    fn seal(
        &mut self,
        engine: &mut Engine<SpiffeId, PeerName>,
        outer: &mut Outer,
        segments: &mut Segments<'_>,
        (path, class): (Path, u8),
        now: Instant,
    ) -> Option<()> {
        let length = segments.next_length()?;
        let heading = Heading { to: path.endpoint(), class, length: engine.sealed_length(length) };
        if self.outbox.slot(heading).is_none() {
            self.flush(outer);
        }
        let slot = self.outbox.slot(heading)?;
        let before = segments.clone();
        segments.write_next(slot.get_mut(HEADROOM..)?)?;
        if engine.seal_in_place(&path, slot, length, now).is_err() {
            *segments = before;
            return None;
        }
        self.outbox.keep(heading);
        Some(())
    }

    /// Sends what has been sealed.
    pub(super) fn flush(&mut self, outer: &mut Outer) {
        if let Some((heading, datagrams, count)) = self.outbox.filled() {
            outer.send(heading, datagrams, count, None);
            self.outbox.clear();
        }
    }
}
