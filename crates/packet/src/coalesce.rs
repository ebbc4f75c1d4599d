//! Finds packets of one flow that follow each other and makes the headers of the super packet that stands for them.
//!
//! What is joined is exactly what [`Segments`](crate::Segments) would cut apart again: nothing is lost, changed or
//! reordered, and a packet whose checksum is wrong is never joined.

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::ip::{IPV4_HEADER_MIN, IPV6_HEADER, IpPacket, Version, protocol};
use crate::offload::{Gso, OFFLOAD_HEADER, Offload};
use crate::segment::write_ipv4_checksum;
use crate::write::{get16, get32, put16};

/// How many packets are joined at most: `UDP_MAX_SEGMENTS` of linux/udp.h before 6.9.
pub const RUN_MAX: usize = 64;
/// The longest IPv4 packet; IPv6 could be 40 bytes longer.
const TOTAL_MAX: usize = 65_535;

/// TCP flags (RFC 9293 §3.1).
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const UDP_HEADER: usize = 8;
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// The longest [`Head`] in bytes: an offload header, IPv6's and TCP's with all its options.
pub const HEAD_MAX: usize = OFFLOAD_HEADER + IPV6_HEADER + 60;

/// What [`Run::write_head`] has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub length: usize,
    /// Where in the first packet begins what follows it.
    pub payload_at: usize,
}

/// Packets that follow each other: the first one, and those that were [joined](Self::join) to it.
///
/// It holds no packet: the caller keeps them and hands in the first one again.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    count: usize,
    /// Length of the super packet so far.
    total: usize,
    /// `None`: nothing can be joined.
    shape: Option<Shape>,
    /// The last one was shorter, or wanted to be delivered at once.
    is_closed: bool,
    /// PSH of the last one.
    is_pushed: bool,
}

/// What the packets of a run have in common.
#[derive(Clone, Copy, Debug)]
struct Shape {
    version: Version,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    transport_at: usize,
    payload_at: usize,
    /// Payload bytes of each but the last.
    step: usize,
    sequence: u32,
}

impl Run {
    /// Begins with any packet.
    #[must_use]
    pub fn new(first: &[u8]) -> Self {
        let shape = Shape::of(first);
        let flags = shape.map_or(0, |shape| shape.flags(first));
        let is_pushed = flags & PSH != 0;
        Self { count: 1, total: first.len(), shape, is_closed: is_pushed, is_pushed }
    }

    /// How many packets it has.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Length of the super packet in bytes.
    #[must_use]
    pub const fn total_length(&self) -> usize {
        self.total
    }

    /// Whether it is of datagrams.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.shape.is_some_and(|shape| shape.protocol == protocol::UDP)
    }

    /// Joins `packet` if it follows, and says where its payload begins: what goes into the super packet. `None`: it does
    /// not follow, and begins a run of its own. `first` is what the run began with.
    pub fn join(&mut self, first: &[u8], packet: &[u8]) -> Option<usize> {
        let shape = self.shape.filter(|_| !self.is_closed && self.count < RUN_MAX)?;
        let other = Shape::of(packet)?;
        if !shape.is_followed_by(&other, first, packet, self.count) || self.total + other.step > TOTAL_MAX {
            return None;
        }
        if self.count == 1 && !shape.has_right_checksum(first) {
            self.is_closed = true;
            return None;
        }
        if !other.has_right_checksum(packet) {
            return None;
        }
        self.count += 1;
        self.total += other.step;
        self.is_pushed = other.flags(packet) & PSH != 0;
        self.is_closed = self.is_pushed || other.step < shape.step;
        Some(other.payload_at)
    }

    /// Whether another packet could follow.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.shape.is_some() && !self.is_closed && self.count < RUN_MAX
    }

    /// Writes what goes in front of the payloads: the offload header, and the super packet's own headers. `first` is what
    /// the run began with.
    ///
    /// A run of one needs no headers but its own, and its payload is all of it.
    pub fn write_head(&self, first: &[u8], out: &mut [u8; HEAD_MAX]) -> Head {
        let Some(shape) = self.shape.filter(|_| self.count > 1) else {
            write_offload(&Offload::default(), out);
            return Head { length: OFFLOAD_HEADER, payload_at: 0 };
        };
        let payload_at = shape.payload_at;
        if let Some((to, from)) = out.get_mut(OFFLOAD_HEADER..OFFLOAD_HEADER + payload_at).zip(first.get(..payload_at))
        {
            to.copy_from_slice(from);
            let offload = self.rewrite(&shape, to);
            write_offload(&offload, out);
        }
        Head { length: OFFLOAD_HEADER + payload_at, payload_at }
    }

    /// Makes the first packet's headers those of the super packet, and says what is left to do on it.
    fn rewrite(&self, shape: &Shape, headers: &mut [u8]) -> Offload {
        match shape.version {
            Version::V4 => {
                put16(headers, 2, self.total);
                write_ipv4_checksum(headers);
            }
            Version::V6 => put16(headers, 4, self.total - IPV6_HEADER),
        }
        let length = self.total - shape.transport_at;
        let checksum_offset = if shape.protocol == protocol::TCP {
            if let Some(flags) = headers.get_mut(shape.transport_at + 13) {
                *flags |= if self.is_pushed { PSH } else { 0 };
            }
            TCP_CHECKSUM
        } else {
            put16(headers, shape.transport_at + 4, length);
            UDP_CHECKSUM
        };
        let pseudo = Sum::new().add_pseudo_header(
            shape.source,
            shape.destination,
            shape.protocol,
            u32::try_from(length).unwrap_or_default(),
        );
        put16(headers, shape.transport_at + usize::from(checksum_offset), pseudo.folded());
        let short = |length: usize| u16::try_from(length).unwrap_or_default();
        Offload {
            needs_checksum: true,
            gso: match (shape.protocol, shape.version) {
                (protocol::TCP, Version::V4) => Gso::TcpV4,
                (protocol::TCP, Version::V6) => Gso::TcpV6,
                _ => Gso::Udp,
            },
            header_length: short(shape.payload_at),
            segment_bytes: short(shape.step),
            checksum_start: short(shape.transport_at),
            checksum_offset,
        }
    }
}

fn write_offload(offload: &Offload, out: &mut [u8; HEAD_MAX]) {
    if let Some(place) = out.first_chunk_mut() {
        *place = offload.to_bytes();
    }
}

impl Shape {
    /// Of a packet that may be part of a run: TCP with nothing but ACK and PSH, or UDP with a checksum; whole, without
    /// IP options, with payload.
    fn of(packet: &[u8]) -> Option<Self> {
        let ip = IpPacket::parse(packet).ok().filter(|ip| ip.fragment().is_none())?;
        let (version, protocol, transport_at) = (ip.version(), ip.protocol(), ip.payload_offset());
        let plain = match version {
            Version::V4 => IPV4_HEADER_MIN,
            Version::V6 => IPV6_HEADER,
        };
        if transport_at != plain || ip.total_length() != packet.len() {
            return None;
        }
        let transport = ip.payload();
        let (header, sequence) = match protocol {
            protocol::TCP => {
                let flags = *transport.get(13)?;
                let header = usize::from(*transport.get(12)? >> 4) * 4;
                if flags & !PSH != ACK || header < 20 || get16(transport, 18) != 0 {
                    return None;
                }
                (header, get32(transport, 4))
            }
            protocol::UDP => {
                if usize::from(get16(transport, 4)) != transport.len() || get16(transport, 6) == 0 {
                    return None;
                }
                (UDP_HEADER, 0)
            }
            _ => return None,
        };
        let step = transport.len().checked_sub(header).filter(|step| *step > 0)?;
        let payload_at = transport_at + header;
        let (source, destination) = (ip.source(), ip.destination());
        Some(Self { version, protocol, source, destination, transport_at, payload_at, step, sequence })
    }

    fn flags(&self, packet: &[u8]) -> u8 {
        match self.protocol {
            protocol::TCP => packet.get(self.transport_at + 13).copied().unwrap_or_default(),
            _ => 0,
        }
    }

    /// Whether `packet` is what would be cut off `count` steps after `first`.
    fn is_followed_by(&self, other: &Self, first: &[u8], packet: &[u8], count: usize) -> bool {
        let same = |from: usize, to: usize| first.get(from..to) == packet.get(from..to);
        if (self.version, self.protocol, self.payload_at) != (other.version, other.protocol, other.payload_at)
            || other.step > self.step
        {
            return false;
        }
        let same_ip = match self.version {
            // version and class; flags; TTL, protocol; addresses
            Version::V4 => same(0, 2) && same(6, 10) && same(12, 20) && follows_identification(first, packet, count),
            Version::V6 => same(0, 4) && same(6, 40),
        };
        let at = self.transport_at;
        same_ip
            && same(at, at + 4)
            && match self.protocol {
                protocol::TCP => {
                    let sequence =
                        u32::try_from(count * self.step).ok().map(|offset| self.sequence.wrapping_add(offset));
                    // acknowledgement, length of the header; window; options
                    sequence == Some(other.sequence)
                        && same(at + 8, at + 13)
                        && same(at + 14, at + 16)
                        && same(at + 20, self.payload_at)
                }
                _ => true,
            }
    }

    /// Of IPv4's header, and of TCP or UDP: whoever joins packets writes new ones, which must not heal a broken packet.
    fn has_right_checksum(&self, packet: &[u8]) -> bool {
        let header = packet.get(..self.transport_at).unwrap_or_default();
        if self.version == Version::V4 && crate::checksum::checksum(header) != 0 {
            return false;
        }
        let transport = packet.get(self.transport_at..).unwrap_or_default();
        let length = u32::try_from(transport.len()).unwrap_or_default();
        let pseudo = Sum::new().add_pseudo_header(self.source, self.destination, self.protocol, length);
        pseudo.add_bytes(transport).checksum() == 0
    }
}

/// Segments count their identification up. Where fragmenting is forbidden it means nothing (RFC 6864 §4.1), and senders
/// that leave it alone are joined too.
fn follows_identification(first: &[u8], packet: &[u8], count: usize) -> bool {
    let (ours, theirs) = (get16(first, 4), get16(packet, 4));
    let steps = u16::try_from(count).unwrap_or_default();
    theirs == ours.wrapping_add(steps) || (get16(first, 6) == 0x4000 && theirs == ours)
}

#[cfg(test)]
mod tests;
