//! Super packets as the kernel makes them, cut and checked by an own reading of the headers.

use proptest::prelude::*;

use super::*;
use crate::ip::tests::{v4, v6};

/// A TCP packet with `payload`, its checksum field as `NEEDS_CSUM` wants it; options are a timestamp.
pub(crate) fn tcp(is_v6: bool, flags: u8, payload: &[u8]) -> (Vec<u8>, Offload) {
    let mut transport = vec![0x30, 0x39, 0x01, 0xbb, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 9, 0x80, flags, 1, 0, 0, 0, 0, 0];
    transport.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    transport.extend(payload);
    with_partial_checksum(is_v6, protocol::TCP, 16, transport)
}

pub(crate) fn udp(is_v6: bool, payload: &[u8]) -> (Vec<u8>, Offload) {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    let mut transport = vec![0x30, 0x39, 0, 53, length[0], length[1], 0, 0];
    transport.extend(payload);
    with_partial_checksum(is_v6, protocol::UDP, 6, transport)
}

fn with_partial_checksum(is_v6: bool, protocol: u8, offset: u16, transport: Vec<u8>) -> (Vec<u8>, Offload) {
    let mut packet = if is_v6 { v6(protocol, &transport) } else { v4(protocol, 0x4000, 0, &transport) };
    let at = packet.len() - transport.len();
    let ip = IpPacket::parse(&packet).unwrap();
    let length = u32::try_from(transport.len()).unwrap();
    let sum = Sum::new().add_pseudo_header(ip.source(), ip.destination(), protocol, length).folded();
    put16(&mut packet, at + usize::from(offset), sum);
    if !is_v6 {
        write_ipv4_checksum(&mut packet);
    }
    let checksum_start = u16::try_from(at).unwrap();
    (packet, Offload { needs_checksum: true, checksum_start, checksum_offset: offset, ..Offload::default() })
}

pub(crate) fn gso(offload: Offload, gso: Gso, segment_bytes: u16) -> Offload {
    Offload { gso, segment_bytes, ..offload }
}

pub(crate) fn cut(offload: &Offload, packet: &[u8], limit: usize) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut segments = Segments::new(offload, packet, limit)?;
    let mut all = Vec::new();
    while let Some(length) = segments.next_length() {
        let mut out = vec![0xee; length];
        assert!(segments.clone().write_next(&mut vec![0; length - 1]).is_none(), "no room is no packet");
        assert_eq!(segments.write_next(&mut out), Some(length));
        all.push(out);
    }
    Ok(all)
}

/// Both checksums are right.
pub(crate) fn assert_sound(packet: &[u8]) {
    let ip = IpPacket::parse(packet).unwrap();
    assert_eq!(ip.total_length(), packet.len());
    if ip.version() == Version::V4 {
        assert_eq!(crate::checksum::checksum(&packet[..20]), 0, "header checksum");
    }
    let length = u32::try_from(ip.payload().len()).unwrap();
    let pseudo = Sum::new().add_pseudo_header(ip.source(), ip.destination(), ip.protocol(), length);
    assert_eq!(pseudo.add_bytes(ip.payload()).checksum(), 0, "transport checksum");
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn tcp_is_cut_to_the_path_and_not_to_what_its_sender_believes() {
    for is_v6 in [false, true] {
        let data = payload(10_000);
        let (packet, offload) = tcp(is_v6, 0x99, &data);
        let kind = if is_v6 { Gso::TcpV6 } else { Gso::TcpV4 };
        let cuts = cut(&gso(offload, kind, 1448), &packet, 1420).unwrap();
        let header = packet.len() - data.len();
        assert!(cuts.iter().all(|cut| cut.len() <= 1420));
        assert!(cuts[..cuts.len() - 1].iter().all(|cut| cut.len() == 1420), "all but the last are full");
        let joined: Vec<u8> = cuts.iter().flat_map(|cut| cut[header..].to_vec()).collect();
        assert_eq!(joined, data);
        let mut sequence = 0xffff_ff00_u32;
        for (n, cut) in cuts.iter().enumerate() {
            assert_sound(cut);
            let tcp = &cut[header - 32..];
            assert_eq!(u32::from_be_bytes(tcp[4..8].try_into().unwrap()), sequence);
            sequence = sequence.wrapping_add(u32::try_from(cut.len() - header).unwrap());
            // FIN and PSH on the last, CWR on the first, ACK on all
            let last = n + 1 == cuts.len();
            let expected = 0x10 | if last { 0x09 } else { 0 } | if n == 0 { 0x80 } else { 0 };
            assert_eq!(tcp[13], expected, "flags of segment {n}");
            if !is_v6 {
                assert_eq!(get16(cut, 4), 0xabcd + u16::try_from(n).unwrap());
            }
        }
    }
}

#[test]
fn smaller_segments_than_the_limit_stay_as_small() {
    let (packet, offload) = tcp(false, 0x10, &payload(1000));
    let cuts = cut(&gso(offload, Gso::TcpV4, 300), &packet, 1420).unwrap();
    assert_eq!(cuts.iter().map(Vec::len).collect::<Vec<_>>(), [352, 352, 352, 152]);
}

#[test]
fn one_long_tcp_packet_is_cut_too_but_not_what_opens_a_connection() {
    for is_v6 in [false, true] {
        let (packet, offload) = tcp(is_v6, 0x18, &payload(1440));
        let cuts = cut(&offload, &packet, 1280).unwrap();
        assert_eq!(cuts.len(), 2);
        cuts.iter().for_each(|cut| assert_sound(cut));
        for flags in [0x02, 0x14, 0x30] {
            let (packet, offload) = tcp(is_v6, flags, &payload(1440));
            assert_eq!(cut(&offload, &packet, 1280), Err(SegmentError::TooBig));
        }
    }
}

#[test]
fn datagrams_keep_their_boundaries() {
    for is_v6 in [false, true] {
        let (packet, offload) = udp(is_v6, &payload(1000));
        let cuts = cut(&gso(offload, Gso::Udp, 300), &packet, 1420).unwrap();
        let header = if is_v6 { 48 } else { 28 };
        assert_eq!(cuts.iter().map(|cut| cut.len() - header).collect::<Vec<_>>(), [300, 300, 300, 100]);
        for cut in &cuts {
            assert_sound(cut);
            assert_eq!(usize::from(get16(cut, header - 4)), cut.len() - header + 8);
        }
        assert_eq!(cut(&gso(offload, Gso::Udp, 300), &packet, 320), Err(SegmentError::TooBig));
        assert_eq!(cut(&offload, &packet, 900), Err(SegmentError::TooBig));
    }
}

#[test]
fn a_checksum_that_was_left_to_do_is_done() {
    for is_v6 in [false, true] {
        for (packet, offload) in [tcp(is_v6, 0x18, b"hello"), udp(is_v6, b"hello")] {
            let cuts = cut(&offload, &packet, 1420).unwrap();
            assert_eq!(cuts.len(), 1);
            assert_sound(&cuts[0]);
            let finished = cut(&Offload::default(), &cuts[0], 1420).unwrap();
            assert_eq!(finished, cuts, "what is complete passes as it is");
        }
    }
}

#[test]
fn a_udp_checksum_is_never_zero() {
    // a payload whose checksum comes out as 0: the complement of the rest
    let (packet, offload) = udp(false, &[0, 0]);
    let done = cut(&offload, &packet, 1420).unwrap().remove(0);
    let (packet, offload) = udp(false, &get16(&done, 26).to_be_bytes());
    let done = cut(&offload, &packet, 1420).unwrap().remove(0);
    assert_eq!(get16(&done, 26), 0xffff);
}

#[test]
fn headers_that_lie_are_refused() {
    let (packet, offload) = tcp(false, 0x10, &payload(3000));
    assert_eq!(cut(&gso(offload, Gso::Udp, 1000), &packet, 1420), Err(SegmentError::Mismatch));
    assert_eq!(cut(&gso(offload, Gso::TcpV4, 0), &packet, 1420), Err(SegmentError::Mismatch));
    let mut short = packet.clone();
    short[32] = 0x40;
    assert_eq!(cut(&gso(offload, Gso::TcpV4, 1000), &short, 1420), Err(SegmentError::Mismatch));
    let (packet, offload) = udp(true, &payload(3000));
    assert_eq!(cut(&gso(offload, Gso::TcpV6, 1000), &packet, 1420), Err(SegmentError::Mismatch));
    assert!(matches!(cut(&Offload::default(), b"\x45", 1420), Err(SegmentError::Parse(_))));
    let fragment = v4(protocol::TCP, 0x2000, 0, &payload(1480));
    assert_eq!(cut(&Offload::default(), &fragment, 1420), Err(SegmentError::TooBig));
}

proptest! {
    #[test]
    fn no_bytes_panic(
        header in any::<[u8; 10]>(), mut packet in prop::collection::vec(any::<u8>(), 0..300), version in 4u8..7, limit in 0usize..400
    ) {
        if let Some(first) = packet.first_mut() {
            *first = version << 4 | 5;
        }
        let total = packet.len();
        put16(&mut packet, if version == 4 { 2 } else { 4 }, if version == 4 { total } else { total.saturating_sub(40) });
        let Some(offload) = Offload::parse(&header) else { return Ok(()) };
        if let Ok(mut segments) = Segments::new(&offload, &packet, limit) {
            let mut out = vec![0; 300];
            let mut count = 0;
            while segments.next_length().is_some() && segments.write_next(&mut out).is_some() {
                count += 1;
                prop_assert!(count <= 300);
            }
        }
    }
}
