//! TUN devices in namespaces of the tests' own, which end with the test.

use super::*;
use crate::fault::Fault;
use crate::netns::Netns;
use crate::poll::Poll;
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
    let mut poll = Poll::<1>::new().unwrap();
    poll.watch(0, Some(tun.as_fd())).unwrap();
    assert!(poll.wait(None).unwrap().ready[0]);
}

/// Hands a packet to the kernel behind an empty header.
fn send(tun: &Tun, packet: &[u8]) -> io::Result<()> {
    tun.send(&[IoSlice::new(&[0; HEADER_BYTES]), IoSlice::new(packet)])
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
            if packet[HEADER_BYTES] >> 4 == 4 {
                break length;
            }
        };
        assert_eq!(&packet[length - 3..length], b"out");
        assert_eq!(packet[..HEADER_BYTES], [0; HEADER_BYTES], "nothing is left to do");
        assert_eq!(packet[26..30], [10, 9, 0, 2], "the packet follows its header");

        send(&tun, &udp_packet(socket.local_addr().unwrap().port(), b"in")).unwrap();
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
        assert_eq!(Fault::of(&send(&tun, &udp_packet(7, b"x")).unwrap_err()), Fault::Gone);
        Tun::open("mesh0").unwrap();
    });
}

#[test]
fn a_device_that_is_down_refuses_packets_but_lives() {
    inside(|| {
        let tun = Tun::open("mesh0").unwrap();
        assert_eq!(Fault::of(&send(&tun, &udp_packet(7, b"x")).unwrap_err()), Fault::Down);
        assert_eq!(tun.recv(&mut [0; 64]).unwrap(), None);
        ip("link set mesh0 up");
        send(&tun, &udp_packet(7, b"x")).unwrap();
        assert_eq!(Fault::of(&send(&tun, b"\xff no ip packet").unwrap_err()), Fault::Other);
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

#[test]
fn the_kernel_leaves_super_packets_whole_and_takes_them() {
    inside(|| {
        let tun = Tun::open("mesh0").unwrap();
        assert_eq!(tun.set_offload(TunOffload::None), TunOffload::None);
        assert_eq!(tun.set_offload(TunOffload::Tcp), TunOffload::Tcp);
        let best = tun.set_offload(TunOffload::Udp);
        assert!(best >= TunOffload::Tcp);
        ip("addr add 10.9.0.1/24 dev mesh0");
        ip("link set mesh0 up");
        if best < TunOffload::Udp {
            return;
        }
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        let segment: libc::c_int = 1000;
        let length = size_of_val(&segment) as libc::socklen_t;
        // SAFETY: the pointer and the length are those of one c_int, which this option is and the kernel only reads.
        let answer = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const segment).cast(), length)
        };
        assert_eq!(answer, 0);
        socket.send_to(&[7; 4000], "10.9.0.2:7").unwrap();
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let length = loop {
            wait_readable(&tun);
            let length = tun.recv(&mut packet).unwrap().unwrap();
            if packet[HEADER_BYTES] >> 4 == 4 {
                break length;
            }
        };
        assert_eq!(length, HEADER_BYTES + 28 + 4000);
        // NEEDS_CSUM, UDP_L4, and segments of 1000 bytes
        assert_eq!((packet[0], packet[1], u16::from_ne_bytes([packet[4], packet[5]])), (1, 5, 1000));

        // and back, from the other address to our own: one write, four datagrams
        let (source, target) = ([10, 9, 0, 2], [10, 9, 0, 1]);
        packet[HEADER_BYTES + 12..HEADER_BYTES + 16].copy_from_slice(&source);
        packet[HEADER_BYTES + 16..HEADER_BYTES + 20].copy_from_slice(&target);
        packet[HEADER_BYTES + 22..HEADER_BYTES + 24]
            .copy_from_slice(&socket.local_addr().unwrap().port().to_be_bytes());
        tun.send(&[IoSlice::new(&packet[..200]), IoSlice::new(&packet[200..length])]).unwrap();
        for _ in 0..4 {
            assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), 1000);
        }
    });
}
