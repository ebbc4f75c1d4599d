//! Packets whose source address is somebody else's, made whole and sent raw.

use std::net::IpAddr;

use anyhow::{Context as _, bail, ensure};
use packet::checksum::{Sum, checksum};
use packet::ip::{IpPacket, protocol};

use super::exchange::Protocol;
use super::wire::{echo_request, payload, raw_socket};

/// The protocol number of sockets that take the IP header from us (raw(7)).
const IPPROTO_RAW: u8 = 255;
/// Payload bytes of a forged packet.
const PAYLOAD_BYTES: usize = 64;
/// The port that forged packets seem to come from.
const SOURCE_PORT: u16 = 40_000;

/// What to forge.
#[derive(Clone, Debug)]
pub(in super::super) struct Forgery {
    /// The address that is not ours.
    pub(in super::super) from: IpAddr,
    /// To whom.
    pub(in super::super) to: IpAddr,
    /// Of which kind: TCP is a SYN.
    pub(in super::super) protocol: Protocol,
    /// Destination port.
    pub(in super::super) port: u16,
    /// What the payload is made of.
    pub(in super::super) marker: String,
}

impl Forgery {
    /// The whole IP packet.
    ///
    /// # Errors
    /// The addresses are of two families.
    pub(in super::super) fn packet(&self) -> anyhow::Result<Vec<u8>> {
        let is_v4 = self.to.is_ipv4();
        ensure!(self.from.is_ipv4() == is_v4, "{} and {} are of two families", self.from, self.to);
        let payload = payload(&self.marker, 0, PAYLOAD_BYTES);
        let (number, mut body, sum_at) = match self.protocol {
            Protocol::Udp => (protocol::UDP, udp(self.port, &payload)?, Some(6)),
            Protocol::Tcp => (protocol::TCP, syn(self.port), Some(16)),
            Protocol::Icmp if is_v4 => (protocol::ICMP, echo_request(true, 1, 1, &payload), None),
            Protocol::Icmp => (protocol::ICMPV6, echo_request(false, 1, 1, &payload), Some(2)),
            Protocol::Raw(number) => (number, [b"?", payload.as_slice()].concat(), None),
        };
        if let Some(at) = sum_at {
            let length = u32::try_from(body.len()).context("the payload is too long")?;
            let sum = Sum::new().add_pseudo_header(self.from, self.to, number, length).add_bytes(&body).checksum();
            // RFC 768: a computed zero is sent as all ones
            let sum = if sum == 0 && number == protocol::UDP { 0xffff } else { sum };
            body.splice(at..at + 2, sum.to_be_bytes());
        }
        with_header(self.from, self.to, number, &body)
    }
}

fn udp(port: u16, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(payload.len() + 8).context("the payload is too long")?;
    let mut datagram = [SOURCE_PORT, port, length, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    Ok(datagram)
}

fn syn(port: u16) -> Vec<u8> {
    let mut segment = [SOURCE_PORT, port].map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

fn with_header(from: IpAddr, to: IpAddr, number: u8, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(body.len() + 20).context("the packet is too long")?;
            let mut header = vec![0x45, 0];
            header.extend(total.to_be_bytes());
            header.extend([0, 1, 0, 0, 64, number, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header.splice(10..12, sum.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(body.len()).context("the packet is too long")?;
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([number, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => bail!("{from} and {to} are of two families"),
    };
    header.extend(body);
    Ok(header)
}

/// Sends an IP packet as it is.
///
/// # Errors
/// It is no IP packet, there is no route, or privilege is lacking.
pub(in super::super) fn send(bytes: &[u8]) -> anyhow::Result<()> {
    let target = IpPacket::parse(bytes).context("not an IP packet")?.destination();
    let socket = raw_socket(target.is_ipv4(), IPPROTO_RAW)?;
    socket.send_to(bytes, (target, 0)).with_context(|| format!("cannot send to {target}"))?;
    Ok(())
}

/// The packet with one bit of its last byte turned, and a UDP checksum that is left wrong where it cannot be left out.
pub(in super::super) fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(last) = bytes.last_mut() else { return bytes };
    *last ^= 1;
    mended(bytes)
}

/// The packet with a right UDP checksum, as a capture taken before checksum offload does not have.
pub(in super::super) fn mended(mut bytes: Vec<u8>) -> Vec<u8> {
    let Ok(packet) = IpPacket::parse(&bytes) else { return bytes };
    if packet.protocol() != protocol::UDP || packet.fragment().is_some() {
        return bytes;
    }
    let (from, to, at) = (packet.source(), packet.destination(), packet.payload_offset() + 6);
    let mut body = packet.payload().to_vec();
    if body.len() < 8 {
        return bytes;
    }
    body.splice(6..8, [0, 0]);
    let length = u32::try_from(body.len()).unwrap_or(0);
    let sum = Sum::new().add_pseudo_header(from, to, protocol::UDP, length).add_bytes(&body).checksum();
    let sum = if sum == 0 { 0xffff } else { sum };
    bytes.splice(at..at + 2, sum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forged(from: &str, to: &str, protocol: Protocol) -> Vec<u8> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Forgery { from, to, protocol, port: 9, marker: "m".into() }.packet().unwrap()
    }

    #[test]
    fn a_forged_packet_is_a_proper_one() {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for kind in [Protocol::Udp, Protocol::Tcp, Protocol::Icmp, Protocol::Raw(253)] {
                let bytes = forged(from, to, kind);
                let packet = IpPacket::parse(&bytes).unwrap();
                assert_eq!(packet.source(), from.parse::<IpAddr>().unwrap());
                assert_eq!(packet.total_length(), bytes.len());
                if matches!(kind, Protocol::Udp | Protocol::Tcp) {
                    let sum = Sum::new()
                        .add_pseudo_header(
                            packet.source(),
                            packet.destination(),
                            packet.protocol(),
                            u32::try_from(packet.payload().len()).unwrap(),
                        )
                        .add_bytes(packet.payload());
                    assert_eq!(sum.checksum(), 0, "{kind} {from}");
                }
            }
        }
    }

    #[test]
    fn a_flipped_datagram_differs_in_its_payload_and_has_a_right_checksum() {
        let bytes = forged("fd00::1", "fd00::2", Protocol::Udp);
        let other = flipped(bytes.clone());
        assert_ne!(bytes.last(), other.last());
        assert_eq!(mended(other.clone()), other);
        assert_eq!(mended(bytes.clone()), bytes);
    }
}
