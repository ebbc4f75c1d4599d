//! The IPv4 or IPv6 header of one packet: parsed once, then read without a chance to fail.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers that the walk over IPv6 extension headers stops for or steps over (IANA, assigned internet protocol
/// numbers), and those whose first four payload bytes are ports.
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 §4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// DCCP (RFC 4340).
    pub const DCCP: u8 = 33;
    /// IPv6 routing header (RFC 8200 §4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 §4.5).
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload (RFC 4303): what follows is sealed.
    pub const ESP: u8 = 50;
    /// Authentication header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows (RFC 8200 §4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options (RFC 8200 §4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
    /// Mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite (RFC 3828).
    pub const UDP_LITE: u8 = 136;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}

/// Smallest IPv4 header in bytes (RFC 791 §3.1).
pub const IPV4_HEADER_MIN: usize = 20;
/// The fixed IPv6 header in bytes (RFC 8200 §3).
pub const IPV6_HEADER: usize = 40;
/// How many extension headers are stepped over before the packet counts as malformed. RFC 8200 §4.1 has each at most
/// once (destination options twice): seven kinds, so eight is more than an honest sender uses.
const EXTENSION_HEADERS_MAX: usize = 8;

/// Which IP version a packet speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Fewer bytes than the headers need.
    Truncated,
    /// The version nibble is neither 4 nor 6.
    NotIp,
    /// The IPv4 header length field is under five words or over the packet.
    HeaderLength,
    /// The total length is under the headers' or over the bytes at hand.
    TotalLength,
    /// More IPv6 extension headers than any honest sender uses.
    TooManyExtensions,
}

impl fmt::Display for ParseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Truncated => "the packet ends inside its headers",
            Self::NotIp => "the version is neither 4 nor 6",
            Self::HeaderLength => "the header length is impossible",
            Self::TotalLength => "the total length does not fit the packet",
            Self::TooManyExtensions => "there are too many IPv6 extension headers",
        })
    }
}

impl std::error::Error for ParseError {}

/// Where a fragment belongs in its original packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fragment {
    /// The identification that all fragments of one packet share: 16 bits in IPv4, 32 in IPv6.
    pub identification: u32,
    /// Where its payload begins in the original payload, in bytes; a multiple of eight.
    pub offset_bytes: u16,
    /// More fragments follow.
    pub more: bool,
}

impl Fragment {
    /// The first fragment is the one that carries the ports.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset_bytes == 0
    }
}

/// A whole IP packet, cut to the length its header states.
///
/// Bytes after the stated length (WireGuard's padding) are not part of it. The IPv4 header checksum is left to the
/// kernel, which checks it on input.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload_at: usize,
    fragment: Option<Fragment>,
}

impl<'a> IpPacket<'a> {
    /// Reads the header of the packet at the start of `bytes`.
    ///
    /// # Errors
    /// Every [`ParseError`]: the bytes are not a whole IPv4 or IPv6 packet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        match bytes.first().ok_or(ParseError::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(ParseError::NotIp),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header: &[u8; IPV4_HEADER_MIN] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        let [first, _, len_hi, len_lo, id_hi, id_lo, frag_hi, frag_lo, _, protocol, _, _, rest @ ..] = *header;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = rest;
        let header_length = usize::from(first & 0x0f) * 4;
        if header_length < IPV4_HEADER_MIN {
            return Err(ParseError::HeaderLength);
        }
        let total = usize::from(u16::from_be_bytes([len_hi, len_lo]));
        if total < header_length {
            return Err(ParseError::TotalLength);
        }
        let bytes = bytes.get(..total).ok_or(ParseError::TotalLength)?;
        let field = u16::from_be_bytes([frag_hi, frag_lo]);
        let (more, offset) = (field & 0x2000 != 0, field & 0x1fff);
        let fragment = (more || offset != 0).then(|| Fragment {
            identification: u32::from(u16::from_be_bytes([id_hi, id_lo])),
            offset_bytes: offset << 3,
            more,
        });
        Ok(Self {
            bytes,
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            payload_at: header_length,
            fragment,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header: &[u8; IPV6_HEADER] = bytes.first_chunk().ok_or(ParseError::Truncated)?;
        let total = IPV6_HEADER + usize::from(be16(header, 4).ok_or(ParseError::Truncated)?);
        let bytes = bytes.get(..total).ok_or(ParseError::TotalLength)?;
        let source: [u8; 16] = *header.get(8..).and_then(<[u8]>::first_chunk).ok_or(ParseError::Truncated)?;
        let destination: [u8; 16] = *header.get(24..).and_then(<[u8]>::first_chunk).ok_or(ParseError::Truncated)?;
        let next = *header.get(6).ok_or(ParseError::Truncated)?;
        let upper = walk_extensions(bytes, next)?;
        Ok(Self {
            bytes,
            source: Ipv6Addr::from(source).into(),
            destination: Ipv6Addr::from(destination).into(),
            protocol: upper.protocol,
            payload_at: upper.at,
            fragment: upper.fragment,
        })
    }

    /// The version.
    #[must_use]
    pub const fn version(&self) -> Version {
        match self.source {
            IpAddr::V4(_) => Version::V4,
            IpAddr::V6(_) => Version::V6,
        }
    }

    /// The source address.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// The destination address.
    #[must_use]
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The upper-layer protocol, after IPv6 extension headers. Of a fragment that is not the first: what its fragment
    /// header names next, which may be another extension header.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Length of the packet in bytes, headers included.
    #[must_use]
    pub const fn total_length(&self) -> usize {
        self.bytes.len()
    }

    /// The packet's own bytes, headers included, without what came after them.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What follows the IP headers: the upper-layer header in a whole packet or a first fragment.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.payload_at..).unwrap_or_default()
    }

    /// Where the payload begins, in bytes from the start of the packet.
    #[must_use]
    pub const fn payload_offset(&self) -> usize {
        self.payload_at
    }

    /// Fragment information; `None` for a whole packet (an IPv6 atomic fragment, RFC 6946, has one).
    #[must_use]
    pub const fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Time to live, or hop limit.
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        let at = match self.version() {
            Version::V4 => 8,
            Version::V6 => 7,
        };
        self.bytes.get(at).copied().unwrap_or_default()
    }

    /// The traffic class byte: six bits of DSCP (RFC 2474), two of ECN (RFC 3168).
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        match (self.version(), self.bytes) {
            (Version::V4, [_, class, ..]) => *class,
            (Version::V6, [first, second, ..]) => (first << 4) | (second >> 4),
            _ => 0,
        }
    }
}

struct Upper {
    protocol: u8,
    at: usize,
    fragment: Option<Fragment>,
}

/// Steps over IPv6 extension headers to the upper layer (RFC 8200 §4).
fn walk_extensions(bytes: &[u8], first: u8) -> Result<Upper, ParseError> {
    let mut upper = Upper { protocol: first, at: IPV6_HEADER, fragment: None };
    for _ in 0..=EXTENSION_HEADERS_MAX {
        let length = match upper.protocol {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6 => {
                let words = *bytes.get(upper.at + 1).ok_or(ParseError::Truncated)?;
                (usize::from(words) + 1) * 8
            }
            // RFC 4302 §2.2: its length counts words of four bytes, minus two
            protocol::AH => (usize::from(*bytes.get(upper.at + 1).ok_or(ParseError::Truncated)?) + 2) * 4,
            protocol::FRAGMENT => 8,
            _ => return Ok(upper),
        };
        let header = bytes.get(upper.at..upper.at + length).ok_or(ParseError::Truncated)?;
        if upper.protocol == protocol::FRAGMENT {
            let field = be16(header, 2).ok_or(ParseError::Truncated)?;
            let id: [u8; 4] = *header.get(4..).and_then(<[u8]>::first_chunk).ok_or(ParseError::Truncated)?;
            upper.fragment = Some(Fragment {
                identification: u32::from_be_bytes(id),
                offset_bytes: field & 0xfff8,
                more: field & 1 != 0,
            });
        }
        upper.protocol = *header.first().ok_or(ParseError::Truncated)?;
        upper.at += length;
        if upper.fragment.is_some_and(|fragment| !fragment.is_first()) {
            // the middle of a packet: what follows is not a header
            return Ok(upper);
        }
    }
    Err(ParseError::TooManyExtensions)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

#[cfg(test)]
pub(crate) mod tests;
