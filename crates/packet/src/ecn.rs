//! Congestion marks between an inner and an outer packet (RFC 6040, RFC 3168).

use crate::checksum::adjust;
use crate::ip::{IpPacket, Version};
use crate::write::{get16, put16};

/// The two bits in the traffic class.
pub const ECN_MASK: u8 = 0b11;
/// The sender does not know of congestion marks.
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
/// Congestion was met.
const CE: u8 = 0b11;

/// Carries the mark that the outer packet arrived with over to the inner one (RFC 6040 §4.2, figure 4). Whether the
/// packet may be handed on: of a sender who could not see the mark it must be dropped instead.
#[must_use]
pub fn carry_inwards(outer: u8, packet: &mut [u8]) -> bool {
    let outer = outer & ECN_MASK;
    if outer != CE && outer != ECT_1 {
        return true;
    }
    let Ok(ip) = IpPacket::parse(packet) else { return true };
    let (version, inner) = (ip.version(), ip.traffic_class() & ECN_MASK);
    let mark = match (inner, outer) {
        (NOT_ECT, CE) => return false,
        (NOT_ECT | ECT_1 | CE, ECT_1) | (CE, CE) => return true,
        (_, mark) => mark,
    };
    match version {
        Version::V4 => {
            let (before, checksum) = (get16(packet, 0), get16(packet, 10));
            let after = before & !u16::from(ECN_MASK) | u16::from(mark);
            put16(packet, 0, after);
            put16(packet, 10, adjust(checksum, before, after));
        }
        Version::V6 => {
            let before = get16(packet, 0);
            put16(packet, 0, before & !(u16::from(ECN_MASK) << 4) | u16::from(mark) << 4);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::{protocol, tests::v4, tests::v6};
    use crate::segment::write_ipv4_checksum;

    /// PC-31: every cell of RFC 6040's figure 4, both families.
    #[test]
    fn pc_31_figure_4() {
        const ECT_0: u8 = 0b10;
        for (inner, row) in [
            // outer:  Not-ECT        ECT(0)         ECT(1)         CE
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ] {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let mut packet = v4(protocol::UDP, 0, 0, &[0; 8]);
                packet[1] = 0xb8 | inner;
                write_ipv4_checksum(&mut packet);
                let mut packet_v6 = v6(protocol::UDP, &[0; 8]);
                packet_v6[1] = packet_v6[1] & 0xcf | inner << 4;
                for mut packet in [packet, packet_v6] {
                    let before = IpPacket::parse(&packet).unwrap().traffic_class() & !ECN_MASK;
                    let carried = carry_inwards(outer, &mut packet);
                    assert_eq!(carried, expected.is_some(), "inner {inner}, outer {outer}");
                    let ip = IpPacket::parse(&packet).unwrap();
                    if let Some(expected) = expected {
                        assert_eq!(ip.traffic_class(), before | expected, "inner {inner}, outer {outer}");
                    }
                    if ip.version() == Version::V4 {
                        assert_eq!(crate::checksum::checksum(&packet[..20]), 0);
                    }
                }
            }
        }
    }
}
