//! Cuts a super packet into the packets it stands for, each no longer than a limit; completes checksums.

use std::fmt;

use crate::checksum::Sum;
use crate::ip::{IpPacket, ParseError, Version, protocol};
use crate::offload::{Gso, Offload};
use crate::write::{get16, put16};

/// TCP flags (RFC 9293 §3.1, RFC 3168 §6.1): those that only one of the segments may carry.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Where the checksum is in a TCP and in a UDP header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP_HEADER: usize = 8;

/// Why a packet cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// It is no IP packet.
    Parse(ParseError),
    /// Its headers do not match what is said to be left to do on it.
    Mismatch,
    /// It is longer than the limit and not of a kind that can be cut without its sender's consent: it has to be
    /// fragmented or sent back.
    TooBig,
}

impl fmt::Display for SegmentError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(error) => error.fmt(out),
            Self::Mismatch => out.write_str("the headers do not match the offload"),
            Self::TooBig => out.write_str("the packet is too long and cannot be cut"),
        }
    }
}

impl std::error::Error for SegmentError {}

/// The packets that a super packet stands for, one after the other.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    version: Version,
    protocol: u8,
    /// Where the TCP or UDP header begins.
    transport_at: usize,
    /// Where the payload begins: length of all headers.
    payload_at: usize,
    /// Payload bytes of each segment but the last.
    step: usize,
    /// Payload bytes already given.
    given: usize,
    index: u16,
    /// Addresses and protocol, without the length.
    pseudo: Sum,
    /// The packet passes whole; at most its checksum is to be completed.
    whole: Option<Offload>,
    is_over: bool,
}

impl<'a> Segments<'a> {
    /// Prepares to cut `packet` so that nothing is longer than `limit` bytes. TCP is cut wherever it has to be; of
    /// everything else the boundaries mean something to its receiver.
    ///
    /// # Errors
    /// [`SegmentError`]: nothing has been written.
    pub fn new(offload: &Offload, packet: &'a [u8], limit: usize) -> Result<Self, SegmentError> {
        let ip = IpPacket::parse(packet).map_err(SegmentError::Parse)?;
        let (version, protocol, transport_at) = (ip.version(), ip.protocol(), ip.payload_offset());
        let fits = ip.total_length() <= limit;
        let mut segments = Self {
            packet: ip.bytes(),
            version,
            protocol,
            transport_at,
            payload_at: ip.total_length(),
            step: 0,
            given: 0,
            index: 0,
            pseudo: Sum::new().add_pseudo_header(ip.source(), ip.destination(), protocol, 0),
            whole: None,
            is_over: false,
        };
        if offload.gso == Gso::None && fits {
            segments.whole = Some(*offload);
            return Ok(segments);
        }
        let is_whole_tcp = protocol == protocol::TCP && ip.fragment().is_none();
        match offload.gso {
            Gso::None if is_whole_tcp => segments.plan_tcp(limit, None),
            Gso::TcpV4 | Gso::TcpV6 if is_whole_tcp => {
                segments.plan_tcp(limit, Some(usize::from(offload.segment_bytes)))
            }
            Gso::Udp if protocol == protocol::UDP && ip.fragment().is_none() => {
                segments.plan_udp(usize::from(offload.segment_bytes), limit)
            }
            Gso::None => Err(SegmentError::TooBig),
            Gso::TcpV4 | Gso::TcpV6 | Gso::Udp => Err(SegmentError::Mismatch),
        }?;
        Ok(segments)
    }

    fn plan_tcp(&mut self, limit: usize, wanted: Option<usize>) -> Result<(), SegmentError> {
        let words = self.packet.get(self.transport_at + 12).ok_or(SegmentError::Mismatch)? >> 4;
        let flags = *self.packet.get(self.transport_at + 13).ok_or(SegmentError::Mismatch)?;
        let header = usize::from(words) * 4;
        self.payload_at = self.transport_at + header;
        if header < 20 || self.payload_at > self.packet.len() || wanted == Some(0) {
            return Err(SegmentError::Mismatch);
        }
        let room = limit.saturating_sub(self.payload_at);
        // what is urgent or opens a connection is not ours to cut
        if room == 0 || (wanted.is_none() && flags & (SYN | RST | URG) != 0) {
            return Err(SegmentError::TooBig);
        }
        self.step = wanted.unwrap_or(room).min(room);
        Ok(())
    }

    fn plan_udp(&mut self, wanted: usize, limit: usize) -> Result<(), SegmentError> {
        self.payload_at = self.transport_at + UDP_HEADER;
        if self.payload_at > self.packet.len() || wanted == 0 {
            return Err(SegmentError::Mismatch);
        }
        if self.payload_at + wanted.min(self.packet.len() - self.payload_at) > limit {
            return Err(SegmentError::TooBig);
        }
        self.step = wanted;
        Ok(())
    }

    /// Length of the next packet in bytes; `None` when there are no more.
    #[must_use]
    pub fn next_length(&self) -> Option<usize> {
        if self.is_over {
            return None;
        }
        let left = self.packet.len() - self.payload_at - self.given;
        Some(if self.whole.is_some() { self.packet.len() } else { self.payload_at + left.min(self.step) })
    }

    /// Writes the next packet to the start of `out` and gives its length; `None` when there are no more, or when `out` is
    /// shorter than [`next_length`](Self::next_length).
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let length = self.next_length()?;
        let out = out.get_mut(..length)?;
        if let Some(offload) = self.whole {
            self.is_over = true;
            out.copy_from_slice(self.packet);
            if offload.needs_checksum {
                complete_checksum(&offload, self.protocol, out);
            }
            return Some(length);
        }
        let (headers, payload) = out.split_at_mut_checked(self.payload_at)?;
        let from = self.payload_at + self.given;
        headers.copy_from_slice(self.packet.get(..self.payload_at)?);
        payload.copy_from_slice(self.packet.get(from..from + payload.len())?);
        let is_first = self.given == 0;
        let is_last = from + payload.len() >= self.packet.len();
        self.write_ip(headers, length);
        if self.protocol == protocol::TCP {
            self.write_tcp(headers, is_first, is_last);
        } else {
            put16(headers, self.transport_at + 4, length - self.transport_at);
        }
        self.write_checksum(out);
        self.given += length - self.payload_at;
        self.index = self.index.wrapping_add(1);
        self.is_over = is_last;
        Some(length)
    }

    fn write_ip(&self, headers: &mut [u8], length: usize) {
        match self.version {
            Version::V4 => {
                let identification = get16(self.packet, 4).wrapping_add(self.index);
                put16(headers, 2, length);
                put16(headers, 4, identification);
                write_ipv4_checksum(headers);
            }
            Version::V6 => put16(headers, 4, length - crate::ip::IPV6_HEADER),
        }
    }

    fn write_tcp(&self, headers: &mut [u8], is_first: bool, is_last: bool) {
        let at = self.transport_at;
        // at most 64 KiB: the offset fits, and sequence numbers wrap
        let offset = u32::try_from(self.given).unwrap_or_default();
        if let Some(sequence) = headers.get_mut(at + 4..).and_then(|rest| rest.first_chunk_mut::<4>()) {
            *sequence = u32::from_be_bytes(*sequence).wrapping_add(offset).to_be_bytes();
        }
        if let Some(flags) = headers.get_mut(at + 13) {
            if !is_last {
                *flags &= !(FIN | PSH);
            }
            if !is_first {
                *flags &= !CWR;
            }
        }
    }

    fn write_checksum(&self, out: &mut [u8]) {
        let field = if self.protocol == protocol::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let at = self.transport_at + field;
        put16(out, at, 0_u16);
        let transport = out.get(self.transport_at..).unwrap_or_default();
        let length = u16::try_from(transport.len()).unwrap_or_default();
        let checksum = self.pseudo.add_word(length).add_bytes(transport).checksum();
        put16(out, at, or_ones(checksum, self.protocol));
    }
}

/// Writes the header checksum of an IPv4 packet anew.
pub(crate) fn write_ipv4_checksum(packet: &mut [u8]) {
    put16(packet, 10, 0_u16);
    let length = usize::from(packet.first().copied().unwrap_or_default() & 0x0f) * 4;
    let checksum = crate::checksum::checksum(packet.get(..length).unwrap_or_default());
    put16(packet, 10, checksum);
}

/// Completes the checksum of a packet that holds the pseudo header's sum: sums what is checksummed and writes the
/// result. Out of bounds nothing is done; the packet is dropped by whoever checks.
fn complete_checksum(offload: &Offload, protocol: u8, packet: &mut [u8]) {
    let start = usize::from(offload.checksum_start);
    let checksum = crate::checksum::checksum(packet.get(start..).unwrap_or_default());
    put16(packet, start + usize::from(offload.checksum_offset), or_ones(checksum, protocol));
}

/// A UDP checksum of 0 would mean that there is none (RFC 768).
const fn or_ones(checksum: u16, protocol: u8) -> u16 {
    if checksum == 0 && protocol == protocol::UDP { 0xffff } else { checksum }
}

#[cfg(test)]
pub(crate) mod tests;
