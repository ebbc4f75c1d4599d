//! Packets that are longer than their path: cut, fragmented, or sent back with the reason.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::underlay::ip;
use super::{Config, Node, config, pair, pair_of, send};

/// In what time a stream finds its way where long datagrams vanish, from its first byte to its last.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

/// After what time a datagram counts as lost for ever; never waited for when all is well.
const PATH_PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes whose devices take what the link would, as the kernel shell sets them.
fn wide_pair(v6: bool) -> [Node; 2] {
    widen(pair(v6))
}

fn widen(nodes: [Node; 2]) -> [Node; 2] {
    for node in &nodes {
        ip(&node.netns, "link set mesh0 mtu 1500");
    }
    nodes
}

/// One echo request of so many bytes, headers included, and what ping says of it.
fn ping(from: &Node, to: &Node, v6: bool, discovery: &str, bytes: usize) -> (bool, String) {
    let [v4_address, v6_address] = Node::addresses(to.n);
    let (target, headers) = if v6 { (v6_address, 48) } else { (v4_address, 28) };
    let (target, payload) = (target.to_string(), (bytes - headers).to_string());
    let args = ["-n", "-c1", "-W5", "-M", discovery, "-s", &payload, &target];
    let done = from.netns.within(|| Command::new("ping").args(args).output().unwrap()).unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A stream of a megabyte arrives as it was sent.
fn stream(from: &Node, to: &Node, v6: bool) {
    let [v4_address, v6_address] = Node::addresses(to.n);
    let address = SocketAddr::new(if v6 { v6_address } else { v4_address }, 0);
    let listener = to.netns.within(|| TcpListener::bind(address)).unwrap().unwrap();
    let target = listener.local_addr().unwrap();
    let mut sender = from.netns.within(|| TcpStream::connect(target)).unwrap().unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let expected = sent.clone();
    let writer = std::thread::spawn(move || sender.write_all(&sent).unwrap());
    let mut received = Vec::new();
    let mut receiver = listener.accept().unwrap().0;
    receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    receiver.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == expected, "{} of {} bytes, or others", received.len(), expected.len());
}

#[test]
fn mf_12_what_may_be_fragmented_arrives_and_of_the_rest_the_sender_is_told() {
    for underlay_v6 in [false, true] {
        let [a, b] = wide_pair(underlay_v6);
        // fragments of IPv6, of 1,500 bytes: the very first has to arrive
        send(&a, &b, true, 188);
        assert_eq!(a.drops("path_mtu"), 0);
        for bytes in [1421, 1500, 3000] {
            let (arrived, said) = ping(&a, &b, false, "dont", bytes);
            assert!(arrived, "{bytes} bytes that may be fragmented: {said}");
        }
        assert!(ping(&a, &b, false, "do", 1420).0);
        assert_eq!(a.drops("path_mtu"), 0);
        let (arrived, said) = ping(&a, &b, false, "do", 1421);
        assert!(!arrived && said.contains("From 10.0.2.1") && said.contains("mtu = 1420"), "{said}");
        assert_eq!(a.drops("path_mtu"), 1);
    }
}

#[test]
fn mf_12_the_sender_over_ipv6_is_told() {
    let [a, b] = wide_pair(false);
    assert!(ping(&a, &b, true, "do", 1420).0);
    let (arrived, said) = ping(&a, &b, true, "do", 1421);
    assert!(!arrived && said.contains("From fd00:2::1") && said.contains("mtu=1420"), "{said}");
    assert_eq!(a.drops("path_mtu"), 1);
}

#[test]
fn mf_12_streams_are_cut_to_the_path_and_nobody_is_told() {
    for v6 in [false, true] {
        let [a, b] = wide_pair(v6);
        stream(&a, &b, v6);
        stream(&b, &a, !v6);
        assert_eq!((a.drops("path_mtu"), b.drops("path_mtu")), (0, 0));
    }
}

#[test]
fn mf_12_a_path_that_becomes_narrow_is_learned() {
    for v6 in [false, true] {
        let [a, b] = wide_pair(v6);
        stream(&a, &b, false);
        for node in [&a, &b] {
            ip(&node.netns, "link set u0 mtu 1300");
        }
        stream(&a, &b, false);
        let refused = a.handle.counters().fallbacks();
        assert!(refused > 0, "a batch is refused once");
        stream(&a, &b, false);
        assert_eq!(a.handle.counters().fallbacks(), refused, "and then they are made to fit");
    }
}

/// Drops what comes to a node and is longer than 1,300 bytes, and says nothing; one datagram a frame, as a router sees them.
fn swallow_long(from: &Node, to: &Node) {
    ip(&from.netns, "link set u0 gso_max_segs 1");
    let rules = "table netdev hole {
        counter swallowed { }
        chain swallow {
            type filter hook ingress device u0 priority 0;
            meta length > 1300 counter name swallowed drop;
        }
    }";
    let made = to.netns.within(|| Command::new("nft").arg(rules).output().unwrap()).unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// How many it has dropped.
fn swallowed(at: &Node) -> u64 {
    let mut list = Command::new("nft");
    list.args(["list", "counter", "netdev", "hole", "swallowed"]);
    let listed = at.netns.within(|| list.output().unwrap()).unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let count = text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no counter: {text}"))
}

/// A router that drops what is too long and says nothing, in both families of the underlay and inside: a stream gets through.
#[test]
fn mf_12_a_path_that_swallows_long_datagrams_is_found_out() {
    for v6 in [false, true] {
        // a busy machine may be late once; what takes too long takes it every time
        let mut took = [Duration::MAX; 3];
        for took in &mut took {
            let [a, b] = wide_pair(v6);
            send(&a, &b, v6, 1);
            swallow_long(&a, &b);
            let begin = Instant::now();
            stream(&a, &b, v6);
            *took = begin.elapsed();
            let lost = swallowed(&b);
            assert!(lost > 0, "nothing was swallowed");
            stream(&a, &b, !v6);
            assert_eq!(swallowed(&b), lost, "it is remembered");
            assert_eq!(a.drops("path_mtu"), 0);
            // and what is no stream is told, which could not find out by itself
            let (arrived, said) = ping(&a, &b, false, "do", 1400);
            let mtu = if v6 { 1200 } else { 1216 };
            assert!(!arrived && said.contains(&format!("mtu = {mtu}")), "{said}");
            assert!(ping(&a, &b, false, "do", mtu).0);
            if *took < RECOVERY_MAX {
                break;
            }
        }
        assert!(took.iter().any(|took| *took < RECOVERY_MAX), "a stream took {took:?}");
    }
}

/// The same where nothing inside answers, as of a sender of datagrams: the other node is asked, and the sender is told.
#[test]
fn mf_12_a_path_that_swallows_is_found_out_without_tcp() {
    // each takes its four seconds
    std::thread::scope(|scope| [false, true].map(|v6| drop(scope.spawn(move || datagrams_find_their_way(v6)))));
}

fn datagrams_find_their_way(v6: bool) {
    let [a, b] = widen(pair_of(v6, &Config { probes: true, ..config() }));
    send(&a, &b, false, 1);
    let (sender, receiver) = (a.socket(false), b.socket(false));
    receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let to = receiver.local_addr().unwrap();
    let until_it_arrives = |n: u8| {
        let (begin, mut received) = (Instant::now(), [0; 2048]);
        loop {
            // told of the path, the socket refuses one, and cuts the next
            let _told = sender.send_to(&[n; 1372], to);
            if receiver.recv(&mut received).is_ok_and(|length| received[..length] == [n; 1372]) {
                return;
            }
            assert!(begin.elapsed() < PATH_PATIENCE, "long datagrams are lost for ever");
        }
    };
    until_it_arrives(1);
    swallow_long(&a, &b);
    until_it_arrives(2);
    assert!(swallowed(&b) > 0, "nothing was swallowed");
    // the kernel has kept what the sender was told
    let (arrived, said) = ping(&a, &b, false, "do", 1400);
    assert!(!arrived && said.contains(if v6 { "1200" } else { "1216" }), "{said}");
}
