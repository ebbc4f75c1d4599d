//! Packets of workloads: UDP, with a marker that must never be seen on the wire and a number that tells them apart.

use std::net::IpAddr;

/// In every payload.
pub const MARKER: &[u8; 16] = b"weft-plain-text!";

pub fn build(source: IpAddr, destination: IpAddr, id: u64) -> Vec<u8> {
    let mut payload = MARKER.to_vec();
    payload.extend(id.to_be_bytes());
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = packet::checksum::checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([17, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        mixed => panic!("two families in one packet: {mixed:?}"),
    };
    for port in [7000_u16, 7001] {
        packet.extend(port.to_be_bytes());
    }
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The number of a packet that was built here.
pub fn id_of(packet: &[u8]) -> Option<u64> {
    let at = packet.windows(MARKER.len()).position(|window| window == MARKER)? + MARKER.len();
    Some(u64::from_be_bytes(packet.get(at..at + 8)?.try_into().unwrap()))
}
