//! Which packets have ports.

use super::*;
use crate::ip::tests::{v4, v6};

fn flow(bytes: &[u8]) -> Flow {
    Flow::of(&IpPacket::parse(bytes).unwrap())
}

#[test]
fn five_protocols_have_ports_and_others_none() {
    for protocol in 0..=255u8 {
        let ports = flow(&v4(protocol, 0, 0, &[0, 80, 1, 187, 9, 9])).ports;
        if [6, 17, 33, 132, 136].contains(&protocol) {
            assert_eq!(ports, Ports::Both { source: 80, destination: 443 }, "protocol {protocol}");
        } else {
            assert_eq!(ports, Ports::None, "protocol {protocol}");
        }
    }
}

#[test]
fn a_first_fragment_has_ports_and_a_later_one_has_not() {
    assert_eq!(flow(&v4(17, 0x2000, 0, &[0, 1, 0, 2])).ports.destination(), Some(2));
    assert_eq!(flow(&v4(17, 0x0001, 0, &[0, 1, 0, 2])).ports, Ports::Fragment { identification: 0xabcd });
    let later = [17, 0, 0, 8, 0, 0, 0, 7, 0, 1, 0, 2];
    assert_eq!(flow(&v6(44, &later)).ports, Ports::Fragment { identification: 7 });
}

#[test]
fn a_packet_that_ends_before_its_ports_has_none() {
    assert_eq!(flow(&v4(6, 0, 0, &[0, 1, 0])).ports, Ports::None);
}

#[test]
fn reversed_is_the_reply() {
    let there = flow(&v6(6, &[0, 1, 0, 2]));
    let back = there.reversed();
    assert_eq!((back.source, back.ports.source()), (there.destination, Some(2)));
    assert_eq!(there.to_string(), "[fd00::1]:1 -> [fd00::2]:2 protocol 6");
}
