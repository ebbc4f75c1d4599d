//! Tells the sender of a packet that it is too long for the path: ICMP fragmentation needed, ICMPv6 packet too big.

use std::net::IpAddr;

use crate::checksum::{Sum, checksum};
use crate::ip::{IPV4_HEADER_MIN, IPV6_HEADER, IpPacket, Version, protocol};
use crate::segment::write_ipv4_checksum;
use crate::write::put16;

/// The longest answer over IPv4 in bytes (RFC 1812 §4.3.2.3) and over IPv6 (RFC 4443 §3.2: the least MTU).
const ANSWER_MAX_V4: usize = 576;
const ANSWER_MAX_V6: usize = 1280;
/// Room that any answer fits into, in bytes.
pub const TOO_BIG_MAX: usize = ANSWER_MAX_V6;
const ICMP_HEADER: usize = 8;
/// Destination unreachable, fragmentation needed (RFC 792, RFC 1191 §4).
const UNREACHABLE: [u8; 2] = [3, 4];
/// Packet too big (RFC 4443 §3.2).
const TOO_BIG: [u8; 2] = [2, 0];
/// Internetwork control (RFC 1812 §4.3.2.5).
const CONTROL: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;

/// Writes the answer to `packet` for its sender to the start of `out`: packets up to `mtu` bytes pass. It comes from the
/// address that the packet was for, which the sender's own checks of the way back all let through (as
/// iptunnel_pmtud_build_icmp() of net/ipv4/ip_tunnel_core.c). Gives its length; `None` where no answer may be given:
/// to errors, later fragments, and whatever is not from one host to one host (RFC 1122 §3.2.2, RFC 4443 §2.4).
#[must_use]
pub fn too_big(packet: &[u8], mtu: usize, out: &mut [u8]) -> Option<usize> {
    let ip = IpPacket::parse(packet).ok()?;
    let is_later_fragment = ip.fragment().is_some_and(|fragment| !fragment.is_first());
    if is_later_fragment || is_icmp_error(&ip) || !is_one_host(ip.source()) || !is_one_host(ip.destination()) {
        return None;
    }
    let (header, most) = match ip.version() {
        Version::V4 => (IPV4_HEADER_MIN, ANSWER_MAX_V4),
        Version::V6 => (IPV6_HEADER, ANSWER_MAX_V6),
    };
    let quoted = ip.bytes().len().min(most - header - ICMP_HEADER);
    let length = header + ICMP_HEADER + quoted;
    let out = out.get_mut(..length)?;
    out.fill(0);
    let (head, icmp) = out.split_at_mut_checked(header)?;
    icmp.get_mut(ICMP_HEADER..)?.copy_from_slice(ip.bytes().get(..quoted)?);
    match (ip.source(), ip.destination()) {
        (IpAddr::V4(sender), IpAddr::V4(target)) => {
            icmp.get_mut(..2)?.copy_from_slice(&UNREACHABLE);
            put16(icmp, 6, mtu);
            let sum = checksum(icmp);
            put16(icmp, 2, sum);
            head.get_mut(..2)?.copy_from_slice(&[0x45, CONTROL]);
            put16(head, 2, length);
            head.get_mut(8..10)?.copy_from_slice(&[HOP_LIMIT, protocol::ICMP]);
            head.get_mut(12..16)?.copy_from_slice(&target.octets());
            head.get_mut(16..20)?.copy_from_slice(&sender.octets());
            write_ipv4_checksum(head);
        }
        (IpAddr::V6(sender), IpAddr::V6(target)) => {
            icmp.get_mut(..2)?.copy_from_slice(&TOO_BIG);
            put16(icmp, 6, mtu);
            let icmp_length = u32::try_from(icmp.len()).ok()?;
            let pseudo = Sum::new().add_pseudo_header(target.into(), sender.into(), protocol::ICMPV6, icmp_length);
            let sum = pseudo.add_bytes(icmp).checksum();
            put16(icmp, 2, sum);
            put16(head, 0, 0x6000 | u16::from(CONTROL) << 4);
            put16(head, 4, length - IPV6_HEADER);
            head.get_mut(6..8)?.copy_from_slice(&[protocol::ICMPV6, HOP_LIMIT]);
            head.get_mut(8..24)?.copy_from_slice(&target.octets());
            head.get_mut(24..40)?.copy_from_slice(&sender.octets());
        }
        _ => return None,
    }
    Some(length)
}

fn is_icmp_error(ip: &IpPacket<'_>) -> bool {
    match (ip.protocol(), ip.payload().first()) {
        // everything but queries and their answers (RFC 792)
        (protocol::ICMP, Some(kind)) => matches!(kind, 3..=5 | 11 | 12),
        (protocol::ICMPV6, Some(kind)) => *kind < 128,
        (protocol::ICMP | protocol::ICMPV6, None) => true,
        _ => false,
    }
}

fn is_one_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_multicast() && !address.is_broadcast() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::tests::{v4, v6};
    use crate::write::get16;

    fn answer(packet: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0xee; TOO_BIG_MAX];
        let length = too_big(packet, 1420, &mut out)?;
        out.truncate(length);
        Some(out)
    }

    #[test]
    fn the_sender_is_told_the_mtu_and_sees_its_packet() {
        for (packet, most) in
            [(v4(protocol::UDP, 0x4000, 0, &[7; 1472]), ANSWER_MAX_V4), (v6(protocol::UDP, &[7; 1460]), ANSWER_MAX_V6)]
        {
            let answer = answer(&packet).unwrap();
            let (sent, told) = (IpPacket::parse(&packet).unwrap(), IpPacket::parse(&answer).unwrap());
            assert_eq!((told.source(), told.destination()), (sent.destination(), sent.source()));
            assert_eq!((answer.len(), told.hop_limit(), told.traffic_class()), (most, 64, 0xc0));
            let icmp = told.payload();
            assert_eq!(get16(icmp, 6), 1420);
            assert_eq!(icmp[8..], packet[..icmp.len() - 8]);
            match told.version() {
                Version::V4 => {
                    assert_eq!((told.protocol(), &icmp[..2]), (1, &[3, 4][..]));
                    assert_eq!((checksum(icmp), checksum(&answer[..20])), (0, 0));
                }
                Version::V6 => {
                    assert_eq!((told.protocol(), &icmp[..2]), (58, &[2, 0][..]));
                    let length = u32::try_from(icmp.len()).unwrap();
                    let pseudo = Sum::new().add_pseudo_header(told.source(), told.destination(), 58, length);
                    assert_eq!(pseudo.add_bytes(icmp).checksum(), 0);
                }
            }
        }
    }

    #[test]
    fn short_packets_are_quoted_whole() {
        assert_eq!(answer(&v4(protocol::UDP, 0, 0, &[7; 20])).unwrap().len(), 28 + 40);
    }

    #[test]
    fn nobody_is_told_about_errors_later_fragments_and_many_hosts() {
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(answer(&v4(protocol::ICMP, 0, 0, &[kind; 8])), None);
        }
        assert!(answer(&v4(protocol::ICMP, 0, 0, &[8; 8])).is_some(), "a ping is no error");
        assert_eq!(answer(&v6(protocol::ICMPV6, &[2; 8])), None);
        assert!(answer(&v6(protocol::ICMPV6, &[128; 8])).is_some());
        assert_eq!(answer(&v4(protocol::UDP, 0x2001, 0, &[7; 8])), None);
        assert!(answer(&v4(protocol::UDP, 0x2000, 0, &[7; 8])).is_some(), "a first fragment has its ports");
        let mut multicast = v4(protocol::UDP, 0, 0, &[7; 8]);
        multicast[16] = 224;
        assert_eq!(answer(&multicast), None);
        let mut nobody = v6(protocol::UDP, &[7; 8]);
        nobody[8..24].fill(0);
        assert_eq!(answer(&nobody), None);
        assert_eq!(answer(b"\x45"), None);
        assert_eq!(too_big(&v4(protocol::UDP, 0, 0, &[7; 8]), 1420, &mut [0; 20]), None, "no room is no answer");
    }
}
