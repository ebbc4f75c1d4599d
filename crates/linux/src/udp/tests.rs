//! Real sockets in namespaces of the tests' own.

use super::*;
use crate::fault::Fault;
use crate::netns::Netns;
use crate::poll::Poll;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Gives lo an address, and waits until it is there: the kernel makes IPv6's a moment later, in a work queue of its own.
fn add_address(address: &str, bits: u8) {
    ip(&format!("addr add {address}/{bits} dev lo nodad"));
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_ours = || {
        let route = Command::new("ip").args(["route", "get", address]).output().unwrap();
        String::from_utf8_lossy(&route.stdout).starts_with("local ")
    };
    while !is_ours() {
        assert!(Instant::now() < deadline, "{address} is not ours after ten seconds");
    }
}

/// Runs `work` in a new network namespace whose loopback is up.
pub(super) fn inside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let netns = Netns::create().expect("these tests need root: run them under `unshare -rnm`");
    netns
        .within(|| {
            ip("link set lo up");
            work()
        })
        .unwrap()
}

/// Sends one datagram.
pub(super) fn send(udp: &Udp, to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) -> io::Result<Sent> {
    udp.send(&Transmit { to, from, class: 0, datagrams: datagram, segment_bytes: datagram.len() })
}

fn wait_readable(udp: &Udp, family: Family) {
    let mut poll = Poll::<1>::new().unwrap();
    poll.watch(0, udp.source(family)).unwrap();
    let woken = poll.wait(Some(Instant::now() + Duration::from_secs(10))).unwrap();
    assert!(woken.ready[0], "nothing has come for ten seconds");
}

/// Waits for one message and gives its datagrams as (sender's address, our address, contents).
pub(super) fn receive(udp: &Udp, family: Family) -> Vec<(IpAddr, Option<IpAddr>, Vec<u8>)> {
    let mut batch = Batch::new();
    wait_readable(udp, family);
    assert!(udp.recv(family, &mut batch).unwrap());
    let mut all = Vec::new();
    for message in batch.messages() {
        all.extend(message.bytes.chunks(message.stride).map(|bytes| (message.from.ip(), message.to, bytes.to_vec())));
    }
    all
}

#[test]
fn both_families_share_one_port() {
    inside(|| {
        let a = Udp::bind(0, 0).unwrap();
        let b = Udp::bind(0, 0).unwrap();
        assert_ne!(a.port(), b.port());
        for (family, loopback) in
            [(Family::V4, IpAddr::from(Ipv4Addr::LOCALHOST)), (Family::V6, Ipv6Addr::LOCALHOST.into())]
        {
            assert_eq!(send(&a, SocketAddr::new(loopback, b.port()), None, b"hello").unwrap(), Sent::AsAsked);
            assert_eq!(receive(&b, family), [(loopback, Some(loopback), b"hello".to_vec())]);
            assert!(!b.recv(family, &mut Batch::new()).unwrap(), "and nothing more");
        }
    });
}

#[test]
fn a_reply_leaves_from_the_address_that_was_addressed() {
    inside(|| {
        let addresses = ["10.7.0.1", "10.7.0.2", "fd07::1", "fd07::2"];
        for (address, bits) in addresses.iter().zip([32, 32, 128, 128]) {
            add_address(address, bits);
        }
        let ours = Udp::bind(0, 0).unwrap();
        for address in addresses {
            let address: IpAddr = address.parse().unwrap();
            let family = Family::of(address);
            // bound to a loopback address, which would be the kernel's choice for our side too
            let any = if family == Family::V4 { "127.0.0.1:0" } else { "[::1]:0" };
            let theirs = UdpSocket::bind(any).unwrap();
            theirs.send_to(b"?", SocketAddr::new(address, ours.port())).unwrap();
            let (_, addressed, _) = receive(&ours, family).remove(0);
            assert_eq!(addressed, Some(address));
            send(&ours, theirs.local_addr().unwrap(), addressed, b"!").unwrap();
            assert_eq!(theirs.recv_from(&mut [0; 8]).unwrap().1, SocketAddr::new(address, ours.port()));
        }
    });
}

#[test]
fn a_source_address_that_is_gone_falls_over_to_another() {
    inside(|| {
        let ours = Udp::bind(0, 0).unwrap();
        let peer = Udp::bind(0, 0).unwrap();
        for (family, loopback, gone) in [(Family::V4, "127.0.0.1", "10.7.0.9"), (Family::V6, "::1", "fd07::9")] {
            let loopback: IpAddr = loopback.parse().unwrap();
            let to = SocketAddr::new(loopback, peer.port());
            assert_eq!(send(&ours, to, gone.parse().ok(), b"x").unwrap(), Sent::SourceGone);
            assert_eq!(receive(&peer, family)[0].0, loopback);
        }
    });
}

#[test]
fn a_preference_of_the_other_family_is_no_preference() {
    inside(|| {
        let ours = Udp::bind(0, 0).unwrap();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ours.port());
        assert_eq!(send(&ours, to, Some(Ipv6Addr::LOCALHOST.into()), b"x").unwrap(), Sent::AsAsked);
    });
}

#[test]
fn the_mark_routes_what_is_sent() {
    inside(|| {
        ip("route add local 10.6.0.0/16 dev lo table 77");
        ip("rule add fwmark 0x02000000/0x0f000000 lookup 77");
        let to = |port| SocketAddr::new("10.6.0.1".parse().unwrap(), port);
        let plain = Udp::bind(0, 0).unwrap();
        let marked = Udp::bind(0, 0x0200_0000).unwrap();
        let unreachable = send(&plain, to(marked.port()), None, b"x").unwrap_err();
        assert_eq!(Fault::of(&unreachable), Fault::Unreachable);
        send(&marked, to(plain.port()), None, b"x").unwrap();
    });
}

#[test]
fn a_host_whose_ipv6_is_disabled_uses_ipv4() {
    inside(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let udp = Udp::bind(0, 0).unwrap();
        let port = udp.port();
        send(&udp, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), None, b"x").unwrap();
        assert_eq!(receive(&udp, Family::V4).len(), 1);
        let refused = send(&udp, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), None, b"x").unwrap_err();
        assert_eq!(Fault::of(&refused), Fault::Unreachable);
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    inside(|| {
        let first = Udp::bind(0, 0).unwrap();
        let second = Udp::bind(first.port(), 0).unwrap_err();
        assert!(second.to_string().contains(&first.port().to_string()), "{second}");
        // only one family taken: nothing is left half bound
        let lone = UdpSocket::bind("[::]:0").unwrap();
        let port = lone.local_addr().unwrap().port();
        drop(Udp::bind(port, 0).unwrap_err());
        drop(UdpSocket::bind(("0.0.0.0", port)).unwrap_err());
        drop(lone);
        // a child that another test has forked has our sockets until it becomes its program
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = Udp::bind(port, 0) {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::yield_now();
        }
    });
}

#[test]
fn an_outer_packet_larger_than_the_link_is_fragmented() {
    inside(|| {
        ip("link set lo mtu 1280");
        let ours = Udp::bind(0, 0).unwrap();
        let peer = Udp::bind(0, 0).unwrap();
        for (family, loopback) in
            [(Family::V4, IpAddr::from(Ipv4Addr::LOCALHOST)), (Family::V6, Ipv6Addr::LOCALHOST.into())]
        {
            send(&ours, SocketAddr::new(loopback, peer.port()), None, &[7; 1400]).unwrap();
            assert_eq!(receive(&peer, family)[0].2.len(), 1400);
        }
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), peer.port());
        let too_big = send(&ours, to, None, &[0; 65_508]).unwrap_err();
        assert_eq!(Fault::of(&too_big), Fault::TooBig);
    });
}

#[test]
fn a_forbidding_firewall_is_told_from_a_full_queue() {
    inside(|| {
        let rules = "table inet t { chain o { type filter hook output priority 0; udp dport 9 drop; }; }";
        assert!(Command::new("nft").arg(rules).status().unwrap().success());
        let udp = Udp::bind(0, 0).unwrap();
        let refused = send(&udp, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9), None, b"x").unwrap_err();
        assert_eq!(Fault::of(&refused), Fault::Forbidden);
    });
}

#[test]
fn merged_datagrams_come_apart_again() {
    inside(|| {
        let udp = Udp::bind(0, 0).unwrap();
        let peer = Udp::bind(0, 0).unwrap();
        assert!(peer.has_gso(Family::V4) && peer.has_gro(Family::V6));
        // one GSO send over loopback is received as one GRO message
        let contents: Vec<u8> = (0..250).collect();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), udp.port());
        let transmit = Transmit { to, from: None, class: 0, datagrams: &contents, segment_bytes: 100 };
        assert_eq!(peer.send(&transmit).unwrap(), Sent::AsAsked);
        let lengths: Vec<usize> = receive(&udp, Family::V4).iter().map(|(_, _, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [100, 100, 50]);
    });
}

#[test]
fn an_empty_datagram_is_no_end() {
    inside(|| {
        let udp = Udp::bind(0, 0).unwrap();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), udp.port());
        send(&udp, to, None, b"").unwrap();
        send(&udp, to, None, b"x").unwrap();
        let mut batch = Batch::new();
        assert!(udp.recv(Family::V4, &mut batch).unwrap());
        assert_eq!(batch.messages().map(|message| message.bytes.len()).collect::<Vec<_>>(), [0, 1]);
    });
}

#[test]
fn the_traffic_class_is_sent_and_ecn_is_told() {
    inside(|| {
        add_address("fd07::1", 128);
        let ours = Udp::bind(0, 0).unwrap();
        let peer = Udp::bind(0, 0).unwrap();
        for (family, address, source) in [
            (Family::V4, "127.0.0.1", Some("127.0.0.1")),
            (Family::V6, "::1", Some("fd07::1")),
            (Family::V6, "::1", None),
        ] {
            let to = SocketAddr::new(address.parse().unwrap(), peer.port());
            let from = source.map(|source| source.parse().unwrap());
            ours.send(&Transmit { to, from, class: 0xb8 | 3, datagrams: b"x", segment_bytes: 1 }).unwrap();
            let mut batch = Batch::new();
            wait_readable(&peer, family);
            assert!(peer.recv(family, &mut batch).unwrap());
            assert_eq!(batch.messages().map(|message| message.ecn).collect::<Vec<_>>(), [3]);
        }
    });
}

#[test]
fn several_datagrams_longer_than_the_path_are_refused_and_each_alone_passes() {
    inside(|| {
        ip("link set lo mtu 1280");
        let ours = Udp::bind(0, 0).unwrap();
        let peer = Udp::bind(0, 0).unwrap();
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), peer.port());
        let many = Transmit { to, from: None, class: 0, datagrams: &[7; 2800], segment_bytes: 1400 };
        let refused = Errno::from_io_error(&ours.send(&many).unwrap_err());
        assert!(matches!(refused, Some(Errno::INVAL | Errno::MSGSIZE)), "{refused:?}");
        send(&ours, to, None, &[7; 1400]).unwrap();
        assert_eq!(receive(&peer, Family::V4)[0].2.len(), 1400);
    });
}
