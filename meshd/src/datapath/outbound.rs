//! From the overlay to the underlay: super packets are cut, sealed where they lie, and sent many at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use identity::SpiffeId;
use packet::{Fragments, IpPacket, Offload, SegmentError, Segments, TOO_BIG_MAX, Version, ecn, too_big};
use plan::PeerName;
use wg::{Engine, HEADROOM, Path};

use super::counters::Counters;
use super::outbox::{Heading, Outbox};
use super::outer::Outer;
use super::pieces::Pieces;
use super::probing::{Probing, Step};
use super::repeats::Repeats;

/// What every path carries of IPv6 without its sender's doing, in bytes (RFC 8200 §5).
const IPV6_MTU_MIN: usize = 1280;

/// A packet that is made here is never longer than what a TUN device gives.
const SCRATCH_BYTES: usize = linux::tun::PACKET_BYTES_MAX;

/// What is on its way out.
pub(super) struct Outbound {
    outbox: Outbox,
    /// Where a packet is finished that cannot be sealed yet.
    scratch: Box<[u8]>,
    /// Where a packet is finished before it is fragmented.
    finished: Box<[u8]>,
    /// What its sender is told of a packet that is too long.
    answer: Box<[u8]>,
    /// The longest packet that every path carries, in bytes.
    mtu: usize,
    class: ClassPolicy,
    repeats: Repeats,
    /// `None` where peers do not answer.
    probing: Option<Probing>,
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

/// How one packet leaves.
#[derive(Clone, Copy)]
struct Way {
    /// `None` while nothing can be sealed for its receiver.
    path: Option<Path>,
    class: u8,
    /// The longest inner packet in bytes.
    limit: usize,
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
        let [scratch, finished] = [(); 2].map(|()| vec![0; SCRATCH_BYTES].into_boxed_slice());
        let answer = vec![0; TOO_BIG_MAX].into_boxed_slice();
        let (outbox, repeats) = (Outbox::new(), Repeats::new());
        Self { outbox, scratch, finished, answer, mtu, class, repeats, probing: None, counters }
    }

    /// Whether peers answer probes of their paths.
    pub(super) fn with_probes(mut self, probes: bool) -> Self {
        self.probing = probes.then(Probing::default);
        self
    }

    /// The peer at `from` has answered the probe with this number; whether its path swallows no more.
    pub(super) fn answered(&mut self, from: SocketAddr, number: u64) -> bool {
        self.probing.as_mut().is_some_and(|probing| probing.answered(from, number))
    }

    pub(super) fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// Sends a packet from the TUN, or lets it wait in the engine. What is sent may stay here until
    /// [`flush`](Self::flush). When the path does not carry it, its sender is to be told what [`answer`](Self::answer)
    /// says, so many bytes.
    pub(super) fn send(
        &mut self,
        engine: &mut Engine<SpiffeId, PeerName>,
        outer: &mut Outer,
        (offload, packet): (Offload, &[u8]),
        now: Instant,
    ) -> Option<usize> {
        let path = engine.path(packet, now);
        if let Some(path) = path.filter(|path| packet.len() > outer.least(path.endpoint())) {
            if offload.segment_bytes == 0 && self.repeats.notes(packet, now) {
                outer.swallows(path.endpoint());
            }
            self.probe((engine, outer), path, now);
        }
        let limit = path.and_then(|path| outer.limit(path.endpoint())).map_or(self.mtu, |limit| limit.min(self.mtu));
        let class = IpPacket::parse(packet).map_or(0, |packet| self.class.of(packet.traffic_class()));
        let way = Way { path, class, limit };
        match Segments::new(&offload, packet, limit) {
            Ok(segments) => self.send_pieces((engine, outer), Pieces::Segments(segments), way, now),
            Err(SegmentError::TooBig) => return self.send_too_long((engine, outer), (offload, packet), way, now),
            // the engine counts it
            Err(SegmentError::Parse(_) | SegmentError::Mismatch) => drop(engine.handle_packet(&[], now)),
        }
        None
    }

    /// Long packets are on their way: whether such datagrams arrive is asked now and then, where that is not known.
    fn probe(&mut self, (engine, outer): (&mut Engine<SpiffeId, PeerName>, &mut Outer), path: Path, now: Instant) {
        let to = path.endpoint();
        let Some(probing) = &mut self.probing else { return };
        if outer.is_swallowing(to) {
            if probing.may_carry_again(to, now)
                && let Some(long) = engine.probe(&path, self.mtu, now)
            {
                probing.asked_again(to, long, now);
            }
            return;
        }
        let limit = outer.limit(to).map_or(self.mtu, |limit| limit.min(self.mtu));
        if limit <= outer.least(to) {
            return;
        }
        match probing.notes(to, now) {
            Step::Go => {}
            Step::Ask => {
                if let Some(short) = engine.probe(&path, 0, now)
                    && let Some(long) = engine.probe(&path, limit, now)
                {
                    probing.asked(to, [short, long], now);
                }
            }
            Step::Swallows => outer.swallows(to),
        }
    }

    /// What the sender of the last packet is to be told: `length` bytes.
    pub(super) fn answer(&self, length: usize) -> &[u8] {
        self.answer.get(..length).unwrap_or_default()
    }

    /// Sends packets that are longer than the path and that no transport lets us cut: fragmented where that is allowed.
    /// Fragments of IPv6 cannot be cut again and their sender would have to lose a whole datagram to learn of it, so
    /// the underlay carries them in fragments of its own; the sender is told, too.
    fn send_too_long(
        &mut self,
        (engine, outer): (&mut Engine<SpiffeId, PeerName>, &mut Outer),
        (offload, packet): (Offload, &[u8]),
        way: Way,
        now: Instant,
    ) -> Option<usize> {
        let mut apart = Segments::new(&offload, packet, usize::MAX).ok()?;
        let mut finished = std::mem::take(&mut self.finished);
        let mut told = None;
        while let Some(length) = apart.write_next(&mut finished) {
            let single = finished.get(..length).unwrap_or_default();
            let Ok(ip) = IpPacket::parse(single) else { break };
            let limit = if ip.version() == Version::V6 { way.limit.max(IPV6_MTU_MIN) } else { way.limit };
            if let Some(fragments) = Fragments::new(single, limit) {
                self.send_pieces((engine, outer), Pieces::Fragments(fragments), way, now);
                continue;
            }
            if length > limit {
                told = told.or(too_big(single, limit, &mut self.answer));
            }
            if length <= limit || ip.version() == Version::V6 && ip.fragment().is_some() {
                let Ok(whole) = Segments::new(&Offload::default(), single, usize::MAX) else { break };
                self.send_pieces((engine, outer), Pieces::Segments(whole), way, now);
            } else {
                self.counters.too_long(length);
            }
        }
        self.finished = finished;
        told
    }

    fn send_pieces(
        &mut self,
        (engine, outer): (&mut Engine<SpiffeId, PeerName>, &mut Outer),
        mut pieces: Pieces<'_>,
        Way { mut path, class, .. }: Way,
        now: Instant,
    ) {
        let (mut count, mut bytes) = (0, 0);
        while let Some(length) = pieces.next_length() {
            count += 1;
            bytes += length;
            match path {
                Some(way) if self.seal(engine, outer, &mut pieces, (way, class), now).is_some() => {}
                _ => {
                    path = None;
                    let Some(place) = self.scratch.get_mut(..length) else { break };
                    if pieces.write_next(place).is_none() {
                        break;
                    }
                    let _counted = engine.handle_packet(place, now);
                }
            }
        }
        self.counters.tun_read.add(count, bytes);
    }

    /// Makes a datagram of the next piece. `None`: the path is over, and the piece still to come.
    fn seal(
        &mut self,
        engine: &mut Engine<SpiffeId, PeerName>,
        outer: &mut Outer,
        pieces: &mut Pieces<'_>,
        (path, class): (Path, u8),
        now: Instant,
    ) -> Option<()> {
        let length = pieces.next_length()?;
        let heading = Heading { to: path.endpoint(), class, length: engine.sealed_length(length) };
        if self.outbox.slot(heading).is_none() {
            self.flush(outer);
        }
        let slot = self.outbox.slot(heading)?;
        let before = pieces.clone();
        pieces.write_next(slot.get_mut(HEADROOM..)?)?;
        if engine.seal_in_place(&path, slot, length, now).is_err() {
            *pieces = before;
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
