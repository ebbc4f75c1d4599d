//! Headers from tables and from chance; what once crashed others comes as a named case.

use proptest::prelude::*;

use super::*;

pub(crate) fn v4(protocol: u8, fragment_field: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let header = IPV4_HEADER_MIN + options * 4;
    let total = u16::try_from(header + payload.len()).unwrap();
    let mut bytes = vec![0x40 | u8::try_from(header / 4).unwrap(), 0xb8];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0xab, 0xcd]);
    bytes.extend(fragment_field.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.resize(header, 1);
    bytes.extend(payload);
    bytes
}

pub(crate) fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x6b, 0x80, 0, 0];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend([next, 63]);
    bytes.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend(payload);
    bytes
}

#[test]
fn a_plain_v4_packet() {
    let bytes = v4(protocol::UDP, 0x4000, 0, b"payload!");
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!(packet.version(), Version::V4);
    assert_eq!(packet.source(), IpAddr::from([10, 0, 0, 1]));
    assert_eq!(packet.destination(), IpAddr::from([10, 0, 0, 2]));
    assert_eq!((packet.protocol(), packet.hop_limit(), packet.traffic_class()), (17, 64, 0xb8));
    assert_eq!(packet.payload(), b"payload!");
    assert_eq!(packet.fragment(), None, "don't fragment is not a fragment");
}

#[test]
fn v4_options_are_stepped_over() {
    let bytes = v4(protocol::TCP, 0, 10, b"x");
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!((packet.payload_offset(), packet.payload()), (60, &b"x"[..]));
}

#[test]
fn v4_fragments() {
    let first = v4(protocol::UDP, 0x2000, 0, &[0; 8]);
    let fragment = IpPacket::parse(&first).unwrap().fragment().unwrap();
    assert_eq!(fragment, Fragment { identification: 0xabcd, offset_bytes: 0, more: true });
    assert!(fragment.is_first());
    let last = v4(protocol::UDP, 0x1fff, 0, &[0; 8]);
    let fragment = IpPacket::parse(&last).unwrap().fragment().unwrap();
    assert_eq!(fragment, Fragment { identification: 0xabcd, offset_bytes: 65_528, more: false });
}

#[test]
fn a_plain_v6_packet() {
    let bytes = v6(protocol::ICMPV6, b"echo");
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!(packet.version(), Version::V6);
    assert_eq!(packet.source(), "fd00::1".parse::<IpAddr>().unwrap());
    assert_eq!(packet.destination(), "fd00::2".parse::<IpAddr>().unwrap());
    assert_eq!((packet.protocol(), packet.hop_limit(), packet.traffic_class()), (58, 63, 0xb8));
    assert_eq!((packet.total_length(), packet.payload()), (44, &b"echo"[..]));
}

#[test]
fn v6_extension_headers_are_stepped_over() {
    // hop-by-hop (8), destination options (16), AH (12 bytes: length field 1), then UDP
    let mut payload = vec![protocol::DESTINATION_OPTIONS, 0, 0, 0, 0, 0, 0, 0];
    payload.extend([protocol::AH, 1]);
    payload.extend([0; 14]);
    payload.extend([protocol::UDP, 1]);
    payload.extend([0; 10]);
    payload.extend(b"ports");
    let bytes = v6(protocol::HOP_BY_HOP, &payload);
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!((packet.protocol(), packet.payload()), (protocol::UDP, &b"ports"[..]));
}

#[test]
fn v6_fragments() {
    let first = [protocol::UDP, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4];
    let bytes = v6(protocol::FRAGMENT, &first);
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!(packet.fragment(), Some(Fragment { identification: 0xdead_beef, offset_bytes: 0, more: true }));
    assert_eq!(packet.payload(), &[1, 2, 3, 4]);
    // a later fragment whose payload looks like an endless chain of headers is not walked into
    let later = [protocol::HOP_BY_HOP, 0, 0, 8, 0, 0, 0, 1, protocol::HOP_BY_HOP, 255];
    let bytes = v6(protocol::FRAGMENT, &later);
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!(packet.fragment(), Some(Fragment { identification: 1, offset_bytes: 8, more: false }));
    assert_eq!(packet.protocol(), protocol::HOP_BY_HOP);
}

#[test]
fn padding_after_the_packet_is_not_part_of_it() {
    let mut bytes = v4(protocol::UDP, 0, 0, b"12345");
    bytes.resize(32, 0);
    assert_eq!(IpPacket::parse(&bytes).unwrap().bytes().len(), 25);
}

#[test]
fn what_is_refused_and_why() {
    let mut short_header = v4(6, 0, 0, &[]);
    short_header[0] = 0x44;
    let mut long_header = v4(6, 0, 0, &[]);
    long_header[0] = 0x4f;
    let chain: Vec<u8> = [protocol::HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0].repeat(20);
    let table: [(&str, Vec<u8>, ParseError); 9] = [
        ("nothing", vec![], ParseError::Truncated),
        ("version 5", vec![0x50; 40], ParseError::NotIp),
        ("half a v4 header", v4(6, 0, 0, &[])[..19].to_vec(), ParseError::Truncated),
        ("half a v6 header", v6(6, &[])[..39].to_vec(), ParseError::Truncated),
        ("v4 header of four words", short_header, ParseError::HeaderLength),
        ("v4 header over the total length", long_header, ParseError::TotalLength),
        ("cut v4 payload", v4(6, 0, 0, &[0; 9])[..28].to_vec(), ParseError::TotalLength),
        ("cut v6 payload", v6(6, &[0; 9])[..48].to_vec(), ParseError::TotalLength),
        ("an endless v6 chain", v6(protocol::HOP_BY_HOP, &chain), ParseError::TooManyExtensions),
    ];
    for (what, bytes, error) in table {
        assert_eq!(IpPacket::parse(&bytes).unwrap_err(), error, "{what}");
    }
}

/// boringtun hands on inner packets whose IPv4 total length is 0, 3 or 19 (wireguard.md B6); the next parser panics.
#[test]
fn b6_total_length_under_the_header() {
    for total in [0u8, 3, 19] {
        let mut bytes = v4(6, 0, 0, &[0; 20]);
        bytes[3] = total;
        assert_eq!(IpPacket::parse(&bytes).unwrap_err(), ParseError::TotalLength);
    }
}

#[test]
fn a_cut_extension_header_is_refused() {
    let cut = v6(protocol::ROUTING, &[protocol::TCP, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(IpPacket::parse(&cut).unwrap_err(), ParseError::Truncated);
    let none = v6(protocol::FRAGMENT, &[]);
    assert_eq!(IpPacket::parse(&none).unwrap_err(), ParseError::Truncated);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(packet) = IpPacket::parse(&bytes) {
            prop_assert!(packet.total_length() <= bytes.len());
            prop_assert!(packet.payload_offset() <= packet.total_length());
            prop_assert!(packet.payload_offset() >= IPV4_HEADER_MIN);
        }
    }

    #[test]
    fn hostile_headers_never_panic(
        version in prop_oneof![Just(0x45u8), Just(0x60u8)], mut bytes in prop::collection::vec(any::<u8>(), 40..200),
        next in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), Just(135)],
    ) {
        bytes[0] = version;
        let payload = u16::try_from(bytes.len() - 40).unwrap().to_be_bytes();
        if version == 0x60 {
            bytes[4..6].copy_from_slice(&payload);
            bytes[6] = next;
        }
        if let Ok(packet) = IpPacket::parse(&bytes) {
            let flow = crate::Flow::of(&packet);
            prop_assert_eq!(flow.reversed().reversed(), flow);
        }
    }

    #[test]
    fn what_was_built_is_what_is_read(
        protocol in any::<u8>(), options in 0usize..=10, payload in prop::collection::vec(any::<u8>(), 0..100),
        padding in 0usize..16,
    ) {
        let mut bytes = v4(protocol, 0, options, &payload);
        bytes.resize(bytes.len() + padding, 0);
        let packet = IpPacket::parse(&bytes).unwrap();
        prop_assert_eq!(packet.protocol(), protocol);
        prop_assert_eq!(packet.payload(), &payload[..]);
    }
}
