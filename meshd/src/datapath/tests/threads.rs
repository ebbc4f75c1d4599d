//! Several data threads: each peer has one, and it does not matter where the kernel puts a packet.

use super::*;
use std::collections::BTreeSet;

/// Identities of a node, each with an address of each family.
const IDENTITIES: u8 = 8;

fn identity(n: u8, i: u8) -> SpiffeId {
    format!("spiffe://test.example/ns/default/sa/workload-{n}-{i}").parse().unwrap()
}

fn secret(n: u8, i: u8) -> StaticSecret {
    StaticSecret::from([n << 4 | i; 32])
}

fn addresses(n: u8, i: u8) -> [IpAddr; 2] {
    [format!("10.0.{n}.{i}").parse().unwrap(), format!("fd00:{n}::{i}").parse().unwrap()]
}

/// Tells a node of its identities and of the other's.
fn introduce(node: &Node, outer_v6: bool) {
    let (n, other) = (node.n, 3 - node.n);
    let local = |i| LocalConfig {
        keys: vec![LocalKey { epoch: 1, secret: secret(n, i), suite: Suite::default() }],
        addresses: addresses(n, i).into(),
    };
    let peer = |i| PeerConfig {
        keys: BTreeMap::from([(1, PublicKey::from(&secret(other, i)))]),
        endpoints: vec![Node::endpoint(other, outer_v6)],
        allowed_ips: addresses(other, i).map(Into::into).into(),
        suites: BTreeMap::new(),
        preshared_key: None,
    };
    let name = |i| PeerName { node: format!("n{other}").parse().unwrap(), identity: identity(other, i) };
    let all = || 1..=IDENTITIES;
    node.handle.send(Order::SetLocals(all().map(|i| (identity(n, i), local(i))).collect())).unwrap();
    node.handle.send(Order::SetPeers(all().map(|i| (name(i), peer(i))).collect())).unwrap();
}

fn nodes(threads: [usize; 2], outer_v6: bool) -> [Node; 2] {
    let [a, b] = two_nodes();
    let nodes = [Node::start_with(a, 1, threads[0]), Node::start_with(b, 2, threads[1])];
    for node in &nodes {
        for i in 2..=IDENTITIES {
            for address in addresses(node.n, i) {
                own(&node.netns, address);
            }
        }
        introduce(node, outer_v6);
    }
    nodes
}

fn socket(node: &Node, i: u8, v6: bool) -> UdpSocket {
    let [v4_address, v6_address] = addresses(node.n, i);
    let address = SocketAddr::new(if v6 { v6_address } else { v4_address }, 0);
    let socket = node.netns.within(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn every_identity_reaches_every_other_over_any_number_of_threads() {
    for (threads, outer_v6) in [([4, 4], false), ([2, 1], true), ([8, 2], false)] {
        let [a, b] = nodes(threads, outer_v6);
        for from in 1..=IDENTITIES {
            for to in 1..=IDENTITIES {
                let v6 = (from + to) % 2 == 0;
                let (ours, theirs) = (socket(&a, from, v6), socket(&b, to, v6));
                let message = [from; 4_000].map(|byte| byte ^ to);
                ours.send_to(&message, theirs.local_addr().unwrap()).unwrap();
                let (received, source) = receive([&a, &b], &theirs);
                assert_eq!((&received[..], source), (&message[..], ours.local_addr().unwrap()));
                theirs.send_to(&received, source).unwrap();
                assert_eq!(receive([&a, &b], &ours).0, message);
            }
        }
        for node in [&a, &b] {
            let snapshot = node.snapshot();
            let pairs: BTreeSet<_> = snapshot.sessions.iter().map(|s| (s.local.clone(), s.peer.clone())).collect();
            assert_eq!(pairs.len(), usize::from(IDENTITIES).pow(2), "{threads:?}");
            assert_eq!(established(&snapshot).len(), pairs.len(), "one session a pair");
            assert_eq!(node.handle.counters().handed_on() > 0, node.handle.threads() > 1);
            // the kernel's own IPv6 has something to say from a link-local address
            let of_workloads = |(label, count): &(&str, u64)| *label != "not_local_source" && *count > 0;
            let lost: Vec<_> = node.handle.counters().drops().filter(of_workloads).collect();
            assert!(lost.is_empty(), "{threads:?}: {lost:?}");
        }
        // a withdrawal counts on every thread
        b.handle.send(Order::SetPeers(BTreeMap::new())).unwrap();
        assert!(b.snapshot().sessions.is_empty());
    }
}

/// The TUN device gives a flow to the queue on which its answers were written (`tun_flow_update` of drivers/net/tun.c), and
/// the port's filter a datagram to the thread that has its session: after its first packets a flow is not handed on.
#[test]
fn a_flow_that_is_answered_finds_its_thread_by_itself() {
    let [a, b] = nodes([4, 4], false);
    for i in 1..=IDENTITIES {
        let v6 = i % 2 == 0;
        let (ours, theirs) = (socket(&a, i, v6), socket(&b, IDENTITIES + 1 - i, v6));
        let echo = || {
            ours.send_to(&MARKER[..], theirs.local_addr().unwrap()).unwrap();
            let (received, source) = receive([&a, &b], &theirs);
            theirs.send_to(&received, source).unwrap();
            receive([&a, &b], &ours);
        };
        // two round trips: each side has written an answer on the right queue
        echo();
        echo();
        let before = [&a, &b].map(|node| node.handle.counters().handed_on());
        for _ in 0..50 {
            echo();
        }
        assert_eq!([&a, &b].map(|node| node.handle.counters().handed_on()), before, "of 100 packets");
    }
}
