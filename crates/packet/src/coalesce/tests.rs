//! Joined packets come apart again as they were; what is not a run is left alone.

use proptest::prelude::*;

use super::*;
use crate::segment::tests::{assert_sound, cut, gso, tcp, udp};

/// Joins what can be joined, as the data path does: super packets with what is left to do on each.
fn coalesce(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    let mut packets = packets.iter().peekable();
    while let Some(first) = packets.next() {
        let mut run = Run::new(first);
        let mut others = Vec::new();
        while let Some(next) = packets.peek()
            && let Some(payload_at) = run.join(first, next)
        {
            others.extend(&next[payload_at..]);
            packets.next();
            assert!(run.is_open() || packets.peek().is_none_or(|next| run.join(first, next).is_none()));
        }
        let mut head = [0xee; HEAD_MAX];
        let Head { length, payload_at } = run.write_head(first, &mut head);
        let offload = Offload::parse(head.first_chunk().unwrap()).unwrap();
        let whole = [&head[OFFLOAD_HEADER..length], &first[payload_at..], &others].concat();
        assert_eq!((run.count() > 1, run.total_length()), (whole.len() > first.len(), whole.len()));
        all.push((whole, offload));
    }
    all
}

/// Cuts all apart again. Where fragmenting is forbidden identifications mean nothing, and are made the same.
fn apart(joined: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
    joined.iter().flat_map(|(packet, offload)| cut(offload, packet, 65_535).unwrap()).map(without_id).collect()
}

fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && get16(&packet, 6) == 0x4000 {
        let checksum = crate::checksum::adjust(get16(&packet, 10), get16(&packet, 4), 0);
        put16(&mut packet, 4, 0_u16);
        put16(&mut packet, 10, checksum);
    }
    packet
}

fn stream(is_v6: bool, is_udp: bool, step: u16, length: usize) -> Vec<Vec<u8>> {
    let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 253).unwrap()).collect();
    let (packet, offload) = if is_udp { udp(is_v6, &data) } else { tcp(is_v6, 0x18, &data) };
    let kind = match (is_udp, is_v6) {
        (true, _) => Gso::Udp,
        (false, false) => Gso::TcpV4,
        (false, true) => Gso::TcpV6,
    };
    cut(&gso(offload, kind, step), &packet, 65_535).unwrap()
}

#[test]
fn a_stream_becomes_one_super_packet_and_the_same_stream_again() {
    for is_v6 in [false, true] {
        for is_udp in [false, true] {
            let packets = stream(is_v6, is_udp, 1368, 40_000);
            let joined = coalesce(&packets);
            assert_eq!(joined.len(), 1);
            let (_, offload) = &joined[0];
            assert_eq!((offload.segment_bytes, offload.needs_checksum), (1368, true));
            assert_eq!(apart(&joined), packets.into_iter().map(without_id).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_run_ends_where_the_stream_does() {
    let packets = stream(false, false, 1000, 5000);
    let broken = |change: fn(&mut Vec<u8>)| {
        let mut packets = packets.clone();
        change(&mut packets[2]);
        write_ipv4_checksum(&mut packets[2]);
        coalesce(&packets).iter().map(|(packet, _)| packet.len()).collect::<Vec<_>>()
    };
    assert_eq!(broken(|_| ()), [5052]);
    for change in [
        // each header field that segments share, one at a time
        (|packet: &mut Vec<u8>| packet[1] ^= 1) as fn(&mut Vec<u8>),
        |packet| packet[4] ^= 1,
        |packet| packet[6] ^= 0x40,
        |packet| packet[8] ^= 1,
        |packet| packet[15] ^= 1,
        |packet| packet[21] ^= 1,
        |packet| packet[24] ^= 1,
        |packet| packet[28] ^= 1,
        |packet| packet[34] ^= 1,
        |packet| packet[45] ^= 1,
    ] {
        assert_eq!(broken(change)[0], 2052, "the run has the first two only");
    }
    // a payload that does not match its checksum is not healed
    assert_eq!(broken(|packet| packet[60] ^= 1), [2052, 1052, 2052]);
    let mut damaged = packets.clone();
    damaged[2][10] ^= 1;
    assert_eq!(coalesce(&damaged)[0].0.len(), 2052, "nor is a header");
    // SYN, RST, FIN, URG, ECE, CWR
    for flag in [0x02, 0x04, 0x01, 0x20, 0x40, 0x80] {
        let mut packets = packets.clone();
        packets[2][33] |= flag;
        assert_eq!(coalesce(&packets)[0].0.len(), 2052, "{flag:#x}");
    }
}

#[test]
fn a_push_or_a_shorter_one_is_the_last() {
    let mut packets = stream(false, false, 1000, 3000);
    packets.extend(stream(false, false, 1000, 3000));
    assert_eq!(coalesce(&packets).len(), 2, "PSH ends a run");
    let datagrams = stream(true, true, 100, 250);
    let twice: Vec<_> = datagrams.iter().chain(&datagrams).cloned().collect();
    assert_eq!(coalesce(&twice).len(), 2, "a shorter datagram ends a run");
}

#[test]
fn a_run_is_bounded() {
    assert_eq!(coalesce(&stream(false, true, 10, 2000))[0].0.len(), 28 + 10 * RUN_MAX);
    let (whole, _) = coalesce(&stream(false, false, 9000, 63_000)).remove(0);
    assert!(whole.len() <= TOTAL_MAX);
    // two streams that follow each other: their sum would be longer than a packet can be
    let mut packets = stream(false, true, 9000, 63_000);
    packets.extend(stream(false, true, 9000, 63_000));
    assert!(coalesce(&packets).iter().all(|(packet, _)| packet.len() <= TOTAL_MAX));
}

#[test]
fn what_has_no_checksum_gets_none() {
    let mut datagrams = stream(false, true, 100, 300);
    for datagram in &mut datagrams {
        put16(datagram, 26, 0_u16);
    }
    assert_eq!(coalesce(&datagrams).len(), 3);
}

/// Packets of several streams in any order, some of them damaged.
fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = (any::<bool>(), any::<bool>(), 1u16..400, 1usize..1500)
        .prop_map(|(is_v6, is_udp, step, length)| stream(is_v6, is_udp, step, length));
    let damage = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..=255));
    (prop::collection::vec((one, damage), 1..6), any::<bool>()).prop_map(|(streams, interleave)| {
        let mut all = Vec::new();
        for (mut packets, damage) in streams {
            if let Some((which, at, by)) = damage {
                let packet = which.get(&packets).clone();
                let at = at.index(packet.len());
                // lengths and version stay: what does not parse never comes here
                if !matches!(at, 0 | 2..=6 | 9 | 32) {
                    let which = which.index(packets.len());
                    packets[which][at] ^= by;
                }
            }
            all.extend(packets);
        }
        if interleave {
            let (even, odd): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
            all = even.into_iter().chain(odd).map(|(_, packet)| packet).collect();
        }
        all
    })
}

proptest! {
    #[test]
    fn cutting_undoes_joining(packets in traffic()) {
        let packets: Vec<_> = packets.into_iter().filter(|packet| IpPacket::parse(packet).is_ok()).collect();
        let joined = coalesce(&packets);
        prop_assert_eq!(apart(&joined), packets.into_iter().map(without_id).collect::<Vec<_>>());
    }

    #[test]
    fn joining_undoes_cutting(is_v6: bool, is_udp: bool, step in 100u16..1500, length in 1usize..6000) {
        let packets = stream(is_v6, is_udp, step, length);
        let joined = coalesce(&packets);
        prop_assert_eq!(joined.len(), 1);
        let again = cut(&joined[0].1, &joined[0].0, 65_535).unwrap();
        for packet in &again {
            assert_sound(packet);
        }
        prop_assert_eq!(again, packets);
    }
}
