//! Reads captures (the classic pcap format) and says what is in them: marks in clear text, mesh datagrams, anything else.
//!
//! ```text
//! file header, 24 bytes:  magic a1b2c3d4 (µs) or a1b23c4d (ns) · version · … · link type
//! each record, 16 bytes:  seconds · fraction · captured length · original length, then the frame
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, bail, ensure};
use packet::flow::Flow;
use packet::ip::{IpPacket, protocol};
use serde::Serialize;

/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// What a capture holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tally {
    /// Frames in all.
    pub(super) frames: u64,
    /// Bytes in all.
    pub(super) bytes: u64,
    /// How often the marker occurs, in whatever frame.
    pub(super) marker_count: u64,
    /// UDP datagrams from or to the mesh port.
    pub(super) mesh_datagrams: u64,
    /// Frames by which neighbours find each other: ARP, neighbour discovery, multicast listeners.
    pub(super) neighbour_frames: u64,
    /// Everything else, by who says what to whom.
    pub(super) others: BTreeMap<String, u64>,
}

/// Sorts what a capture holds.
///
/// # Errors
/// It is no capture of Ethernet frames. A last record that was cut off is left out.
pub(super) fn tally(capture: &[u8], marker: &[u8], mesh_port: u16) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for frame in frames(capture)? {
        tally.frames += 1;
        tally.bytes += u64::try_from(frame.len()).unwrap_or(0);
        tally.marker_count += count(frame, marker);
        match kind(frame, mesh_port) {
            Kind::Mesh => tally.mesh_datagrams += 1,
            Kind::Neighbour => tally.neighbour_frames += 1,
            Kind::Other(what) => *tally.others.entry(what).or_default() += 1,
        }
    }
    Ok(tally)
}

/// The IP packets with UDP datagrams to `port`, in order.
///
/// # Errors
/// As [`tally`].
pub(super) fn udp_to(capture: &[u8], port: u16) -> anyhow::Result<Vec<Vec<u8>>> {
    let is_to = |packet: &IpPacket<'_>| {
        packet.protocol() == protocol::UDP && Flow::of(packet).ports.destination() == Some(port)
    };
    let packets = frames(capture)?.into_iter().filter_map(ip).filter(is_to);
    Ok(packets.map(|p| p.bytes().get(..p.total_length()).unwrap_or(p.bytes()).to_vec()).collect())
}

/// How often `marker` occurs.
pub(super) fn count(bytes: &[u8], marker: &[u8]) -> u64 {
    if marker.is_empty() {
        return 0;
    }
    u64::try_from(bytes.windows(marker.len()).filter(|w| *w == marker).count()).unwrap_or(u64::MAX)
}

enum Kind {
    Mesh,
    Neighbour,
    Other(String),
}

fn kind(frame: &[u8], mesh_port: u16) -> Kind {
    let ether_type = ether_type(frame);
    if ether_type == Some(0x0806) {
        return Kind::Neighbour;
    }
    let Some(packet) = ip(frame) else { return Kind::Other(format!("ethertype {:#06x}", ether_type.unwrap_or(0))) };
    let flow = Flow::of(&packet);
    let number = packet.protocol();
    let is_mesh = |port: Option<u16>| port == Some(mesh_port);
    if number == protocol::UDP && (is_mesh(flow.ports.source()) || is_mesh(flow.ports.destination())) {
        return Kind::Mesh;
    }
    // RFC 4443 and 4861: router solicitation to redirect are 133 to 137; RFC 2710, 3810: listeners are 130 to 132, 143
    let icmp_type = packet.payload().first().copied().unwrap_or(0);
    if number == protocol::ICMPV6 && matches!(icmp_type, 130..=137 | 143) {
        return Kind::Neighbour;
    }
    let with_port = |ip: IpAddr, port: Option<u16>| port.map_or_else(|| ip.to_string(), |p| format!("[{ip}]:{p}"));
    let name = match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP | protocol::ICMPV6 => "icmp".to_owned(),
        other => format!("protocol {other}"),
    };
    Kind::Other(format!(
        "{name} {} > {}",
        with_port(packet.source(), flow.ports.source()),
        with_port(packet.destination(), flow.ports.destination())
    ))
}

fn ether_type(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?))
}

/// The IP packet in an Ethernet frame.
fn ip(frame: &[u8]) -> Option<IpPacket<'_>> {
    match ether_type(frame)? {
        0x0800 | 0x86dd => IpPacket::parse(frame.get(14..)?).ok(),
        _ => None,
    }
}

/// The frames of a capture.
fn frames(capture: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    let word = |at: usize| -> Option<[u8; 4]> { capture.get(at..at.checked_add(4)?)?.try_into().ok() };
    let magic = word(0).context("the capture is empty")?;
    let is_little = match u32::from_le_bytes(magic) {
        0xa1b2_c3d4 | 0xa1b2_3c4d => true,
        0xd4c3_b2a1 | 0x4d3c_b2a1 => false,
        other => bail!("not a pcap file: it begins with {other:#010x}"),
    };
    let number = |at| word(at).map(|w| if is_little { u32::from_le_bytes(w) } else { u32::from_be_bytes(w) });
    let link = number(20).context("the capture's header is cut off")?;
    ensure!(link == ETHERNET, "a capture of link type {link}, not of Ethernet");
    let mut frames = Vec::new();
    let mut at: usize = 24;
    while let Some(length) = number(at.saturating_add(8)) {
        let begin = at.saturating_add(16);
        let end = begin.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let Some(frame) = capture.get(begin..end) else { break };
        frames.push(frame);
        at = end;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::super::probe::forge::Forgery;
    use super::*;

    fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0]);
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            bytes.extend([[0; 4], [0; 4], length, length].concat());
            bytes.extend(frame);
        }
        bytes
    }

    fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &kind.to_be_bytes(), packet].concat()
    }

    fn udp(port: u16) -> Vec<u8> {
        let (from, to) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let protocol = super::super::probe::exchange::Protocol::Udp;
        Forgery { from, to, protocol, port, marker: "SECRET".into() }.packet().unwrap()
    }

    #[test]
    fn a_capture_is_sorted_and_marks_are_counted() {
        let file = capture(&[
            ethernet(0x0806, &[0; 28]),
            ethernet(0x0800, &udp(51840)),
            ethernet(0x0800, &udp(8080)),
            ethernet(0x88cc, b"SECRET"),
        ]);
        let tally = tally(&file, b"SECRET", 51840).unwrap();
        assert_eq!((tally.frames, tally.mesh_datagrams, tally.neighbour_frames), (4, 1, 1));
        assert_eq!(tally.others.values().sum::<u64>(), 2);
        assert!(tally.others.contains_key("udp [10.0.0.1]:40000 > [10.0.0.2]:8080"), "{tally:?}");
        assert_eq!(tally.marker_count, 4 + 4 + 1, "64 bytes hold four whole units; the mesh datagram counts too");
        assert_eq!(udp_to(&file, 51840).unwrap(), [udp(51840)]);
    }

    #[test]
    fn a_capture_cut_off_anywhere_is_read_up_to_there() {
        let file = capture(&[ethernet(0x0800, &udp(1)), ethernet(0x0800, &udp(2))]);
        for length in 0..file.len() {
            let read = tally(&file[..length], b"SECRET", 51840);
            match length {
                0..24 => assert!(read.is_err(), "{length}"),
                _ => assert!(read.unwrap().frames < 2, "{length}"),
            }
        }
        assert!(tally(b"no capture at all, really", b"x", 1).is_err());
    }
}
