//! TUN devices in namespaces of the tests' own, which end with the test.

use super::*;
use crate::fault::Fault;
use crate::netns::Netns;
use crate::poll::Waker;
use std::net::UdpSocket;
use std::process::Command;

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Runs `work` in a new network namespace.
fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    Netns::create().expect("these tests need root: run them under `unshare -rnm`").within(work).unwrap()
}

fn wait_readable(tun: &Tun) {
    assert!(Waker::new().unwrap().wait([Some(tun.as_fd())], None).unwrap().ready[0]);
}

/// A UDP packet as the kernel would send it, by hand: 10.9.0.2:7 to 10.9.0.1:`port`, no checksums but IP's.
fn udp_packet(port: u16, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(28 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1];
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    packet.extend(7_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[test]
fn packets_pass_both_ways() {
    inside(|| {
        let tun = Tun::open("mesh0").unwrap();
        ip("addr add 10.9.0.1/24 dev mesh0");
        ip("link set mesh0 up");
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        let mut packet = vec![0; PACKET_BYTES_MAX];

        socket.send_to(b"out", "10.9.0.2:7").unwrap();
        // the link also has its own IPv6 chatter: skip to what we sent
        let length = loop {
            wait_readable(&tun);
            let length = tun.recv(&mut packet).unwrap().unwrap();
            if packet[0] >> 4 == 4 {
                break length;
            }
        };
        assert_eq!(&packet[length - 3..length], b"out");
        assert_eq!(packet[16..20], [10, 9, 0, 2], "no header in front of the packet");

        tun.send(&udp_packet(socket.local_addr().unwrap().port(), b"in")).unwrap();
        let (length, from) = socket.recv_from(&mut packet).unwrap();
        assert_eq!((&packet[..length], from.to_string().as_str()), (&b"in"[..], "10.9.0.2:7"));
    });
}

#[test]
fn the_device_and_its_routes_outlive_the_last_queue() {
    inside(|| {
        let first = Tun::open("mesh0").unwrap();
        ip("link set mesh0 mtu 1420 up");
        ip("route add 10.8.0.0/16 dev mesh0");
        drop(first);
        let routes = Command::new("ip").args(["route", "show", "dev", "mesh0"]).output().unwrap();
        assert!(String::from_utf8_lossy(&routes.stdout).contains("10.8.0.0/16"));
        let again = Tun::open("mesh0").unwrap();
        let second_queue = Tun::open("mesh0").unwrap();
        assert_eq!(std::fs::read_to_string("/proc/thread-self/net/route").unwrap().matches("mesh0").count(), 1);
        assert!(again.recv(&mut [0; 64]).is_ok() && second_queue.recv(&mut [0; 64]).is_ok());
    });
}

#[test]
fn a_deleted_device_is_noticed_by_wait_read_and_write() {
    inside(|| {
        let tun = Tun::open("mesh0").unwrap();
        ip("link set mesh0 up");
        ip("link del mesh0");
        wait_readable(&tun);
        assert_eq!(Fault::of(&tun.recv(&mut [0; 64]).unwrap_err()), Fault::Gone);
        assert_eq!(Fault::of(&tun.send(&udp_packet(7, b"x")).unwrap_err()), Fault::Gone);
        Tun::open("mesh0").unwrap();
    });
}

#[test]
fn a_device_that_is_down_refuses_packets_but_lives() {
    inside(|| {
        let tun = Tun::open("mesh0").unwrap();
        assert_eq!(Fault::of(&tun.send(&udp_packet(7, b"x")).unwrap_err()), Fault::Down);
        assert_eq!(tun.recv(&mut [0; 64]).unwrap(), None);
        ip("link set mesh0 up");
        tun.send(&udp_packet(7, b"x")).unwrap();
        assert_eq!(Fault::of(&tun.send(b"\xff no ip packet").unwrap_err()), Fault::Other);
    });
}

#[test]
fn another_kind_of_link_of_that_name_is_left_alone() {
    inside(|| {
        ip("link add mesh0 type veth peer name other");
        let refused = Tun::open("mesh0").unwrap_err();
        assert!(refused.to_string().contains("ip link del mesh0"), "{refused}");
        ip("link show mesh0");
    });
}

#[test]
fn a_name_that_no_link_can_have_is_refused() {
    for bad in ["", ".", "..", "sixteen-bytes-ab", "a b", "a/b", "mesh%d", "a:b", "a\0"] {
        assert!(matches!(Tun::open(bad), Err(TunError::Name { .. })), "{bad:?} was taken");
    }
}

#[test]
fn this_machine_can_have_tun_devices() {
    probe().unwrap();
}
