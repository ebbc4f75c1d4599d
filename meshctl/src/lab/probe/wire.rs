//! Marked payloads, ICMP echo messages and raw sockets.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Context as _;
use packet::checksum::checksum;
use socket2::{Domain, Protocol, Socket, Type};

/// A payload of `size` bytes that is the marker and the number over and over, so that any piece of it shows both.
pub(super) fn payload(marker: &str, number: u32, size: usize) -> Vec<u8> {
    let unit = format!("{marker}#{number:08} ");
    unit.bytes().cycle().take(size).collect()
}

/// An ICMP (or ICMPv6) echo request; the kernel fills the checksum of ICMPv6 in.
pub(super) fn echo_request(is_v4: bool, id: u16, number: u32, payload: &[u8]) -> Vec<u8> {
    let kind = if is_v4 { 8 } else { 128 };
    let sequence = u16::try_from(number % 65_536).unwrap_or(0);
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    if is_v4 && let [high, low] = checksum(&message).to_be_bytes() {
        message.splice(2..4, [high, low]);
    }
    message
}

/// The echo reply to a request, as it is without its checksum.
pub(super) fn is_reply_to(request: &[u8], message: &[u8]) -> bool {
    let kind = if request.first() == Some(&8) { 0 } else { 129 };
    message.first() == Some(&kind) && message.get(4..) == request.get(4..)
}

/// A raw socket of an IP protocol; a datagram socket to the standard library, which cares for addresses and limits.
///
/// # Errors
/// Raw sockets take root, or CAP_NET_RAW.
pub(in super::super) fn raw_socket(is_v4: bool, protocol: u8) -> anyhow::Result<UdpSocket> {
    let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol))))
        .with_context(|| format!("cannot open a raw socket for protocol {protocol} (it takes CAP_NET_RAW)"))?;
    Ok(UdpSocket::from(socket))
}

/// What follows the IP header in what a raw socket gave: IPv4 sockets give the header too, IPv6 ones do not.
pub(in super::super) fn raw_payload(is_v4: bool, bytes: &[u8]) -> &[u8] {
    let header = match bytes.first() {
        Some(first) if is_v4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    bytes.get(header..).unwrap_or_default()
}

/// The unspecified address of a family.
pub(super) fn any_of(target: IpAddr) -> SocketAddr {
    match target {
        IpAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_payload_shows_the_marker() {
        let payload = payload("mark", 7, 100);
        assert_eq!(payload.len(), 100);
        assert!(payload.starts_with(b"mark#00000007 mark#"));
    }

    #[test]
    fn an_echo_reply_is_known_by_what_it_carries() {
        let request = echo_request(true, 3, 4, b"abc");
        assert_eq!(checksum(&request), 0, "a message with its checksum sums to nothing");
        let mut reply = request.clone();
        reply[0] = 0;
        assert!(is_reply_to(&request, &reply));
        reply[9] ^= 1;
        assert!(!is_reply_to(&request, &reply));
    }
}
