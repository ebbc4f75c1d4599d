//! NP-06, NP-09, NP-12: packets that no honest stack sends, or sends at another moment, are judged like any other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use policy::rule_set::{
    Action, Chain, ChainKey, Otherwise, PeerMatch, PortRange, Ports, Proof, Rule, RuleSet, SetKey, Stage, Tier,
};
use policy::{PolicyKind, PolicyRef, Protocol, RuleRef, nft};

use super::policy::{SOON, idle_pod, lines_of};
use super::policy_router::{NODE, Router, addresses, apply, ip_packet, one_allowed};
use crate::lab::{Lab, namespace, peer_authentication};
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[
    ("np_06_what_nobody_asked_for_is_dropped_whatever_its_flags", unasked),
    ("np_09_options_move_no_port_and_a_header_that_lies_goes_nowhere", options),
    ("np_09_a_source_route_leads_nobody_round_the_rules", source_route),
    ("np_12_an_odd_handshake_opens_no_more_than_an_even_one", handshakes),
];

/// Flags of TCP (RFC 9293 section 3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

/// A judged workload may begin TCP to port 80 of a remote one; nothing may begin towards it.
fn only_out() -> RuleSet {
    let mut rules = one_allowed();
    let policy = Arc::new(PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "x".into(), name: "out".into() });
    let condition = PeerMatch { set: SetKey("peer".into()), inside: true, proof: Proof::Unneeded };
    let ranges = vec![PortRange { protocol: Protocol::Tcp, first: 80, last: 80 }];
    let rule = Rule {
        origin: RuleRef { policy, rule: 0 },
        peers: vec![condition],
        ports: Ports::Listed { ranges, other_protocols: false },
        action: Action::Allow,
    };
    let chain = |rules: Vec<Rule>| {
        let stage = Stage { tier: Tier::Network, rules, otherwise: Otherwise::Deny, policies: vec![] };
        Arc::new(Chain { authorization: vec![], network: vec![stage] })
    };
    rules.chains.insert(ChainKey("out".into()), chain(vec![rule]));
    rules.chains.insert(ChainKey("closed".into()), chain(vec![]));
    for subject in rules.workloads.values_mut().filter(|subject| subject.outbound.is_some()) {
        subject.outbound = Some(ChainKey("out".into()));
    }
    rules
}

fn hold(rules: &RuleSet) {
    let members = BTreeSet::new();
    apply(&nft::Program::of(rules, &nft::Here { node: NODE, members: &members }).whole(|_| (0, 0)));
}

/// The judged workload and the one that it may talk to.
fn ends(v6: bool) -> [IpAddr; 2] {
    let all = addresses(v6);
    [all[0], all[4]]
}

fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let numbers = [0, 0, 0, 9, 0, 0, 0, if flags & ACK == 0 { 0 } else { 10 }];
    let rest = [0x50, flags, 16, 0, 0, 0, 0, 0];
    let header = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &numbers, &rest, payload].concat();
    ip_packet(from.0, to.0, 6, 0, &header)
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 16, 0, 0], b"datagram"].concat()
}

fn unasked() {
    let router = Router::new();
    hold(&only_out());
    for v6 in [false, true] {
        let [own, remote] = ends(v6);
        // every set of flags, from the very port that an answer would come from
        for flags in 0..64 {
            let packet = tcp((remote, 80), (own, 5000), flags, b"");
            assert!(!router.passes(&packet), "flags {flags:#04x} that nobody asked for, v6 {v6}");
        }
        // and out of the workload, to a port that it may not begin a connection to
        for flags in [0, SYN, ACK, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | PSH | URG, PSH | ACK] {
            assert!(!router.passes(&tcp((own, 5000), (remote, 81), flags, b"data")), "flags {flags:#04x}, v6 {v6}");
            assert!(!router.passes(&tcp((own, 80), (remote, 5000), flags, b"data")), "flags {flags:#04x}, v6 {v6}");
        }
        for (from, to) in [(80, 5000), (53, 5000), (5000, 53)] {
            assert!(!router.passes(&ip_packet(remote, own, 17, 0, &udp(from, to))), "a UDP answer, v6 {v6}");
        }
        // what was asked for comes
        assert!(router.passes(&tcp((own, 5000), (remote, 80), SYN, b"")), "the question, v6 {v6}");
        assert!(router.passes(&tcp((remote, 80), (own, 5000), SYN | ACK, b"")), "the answer, v6 {v6}");
    }
}

/// An IPv4 packet with options, which are a multiple of four bytes; `words` is what the header says of its own length.
fn with_options(from: IpAddr, to: IpAddr, options: &[u8], words: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ip_packet(from, to, 17, 0, &[options, payload].concat());
    packet[0] = 0x40 | words;
    packet[10..12].fill(0);
    let header = usize::from(words) * 4;
    let sum = packet::checksum::checksum(&packet[..header.min(packet.len())]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn options() {
    let router = Router::new();
    hold(&one_allowed());
    let [own, remote] = ends(false);
    // UDP from the remote workload to port 80 is all that is allowed
    let (good, bad) = (udp(5000, 80), udp(5000, 81));
    // what looks like a UDP header to who forgets that there are options: an option of an unknown kind (30, eight bytes),
    // whose third and fourth bytes are port 80, or 81
    let disguise = |port: u16| [&[30, 8][..], &port.to_be_bytes(), &[0, 16, 0, 0]].concat();
    assert_eq!(disguise(80).len(), 8);
    for options in [vec![1; 4], vec![1; 40], vec![0; 8], disguise(80), vec![7, 7, 4, 0, 0, 0, 0, 0], vec![148, 4, 0, 0]]
    {
        let words = u8::try_from(5 + options.len() / 4).expect("at most 15");
        assert!(!router.forwards(&with_options(remote, own, &options, words, &bad)), "denied with {options:?}");
        assert!(router.forwards(&with_options(remote, own, &options, words, &good)), "allowed with {options:?}");
    }
    assert!(!router.forwards(&with_options(remote, own, &disguise(80), 7, &bad)), "the port is not in the options");
    assert!(router.forwards(&with_options(remote, own, &disguise(81), 7, &good)), "nor is a denied one");
    // a header that is shorter than any, longer than the packet, or that claims what follows it as options
    for words in [0, 1, 4, 15] {
        assert!(!router.forwards(&with_options(remote, own, &[], words, &good)), "{words} words of header");
    }
    // source routes, loose and strict, over the router and on to the workload (RFC 791 section 3.1)
    let IpAddr::V4(hop) = own else { panic!("IPv4 addresses") };
    for kind in [131, 137] {
        let route = [&[1, kind, 7, 4][..], &hop.octets()].concat();
        assert!(!router.forwards(&with_options(remote, own, &route, 7, &bad)), "a source route of kind {kind}");
    }
}

/// A node that follows source routes, as no node should: who is refused directly is refused that way too.
fn source_route() {
    let pods = [idle_pod("demo", "a", "n1"), idle_pod("plain", "c", "n1")].concat();
    let lab = Lab::up("nodes: 1", &[namespace("demo", true), namespace("plain", false), pods].concat());
    lab.put("modes.yaml", &peer_authentication("demo", "STRICT"));
    lab.must("node/n1", &["sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/accept_source_route; do echo 1 > $f; done"]);
    let listen = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('',9))\nprint('ready',flush=True)\n\
                  while True: print(s.recv(100).decode(),flush=True)";
    let mut listener = lab.spawn("demo/a", &["python3", "-u", "-c", listen]);
    let lines = lines_of(&mut listener);
    assert_eq!(lines.recv().as_deref(), Ok("ready"));
    let node = lab.ask("n1", "status")["underlay"]["addresses"].clone();
    let node = node.as_array().expect("addresses").iter().find_map(|ip| ip.as_str()?.parse::<Ipv4Addr>().ok());
    let send = format!(
        "import socket\nfor kind in (131,):\n s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n \
         s.setsockopt(socket.IPPROTO_IP,socket.IP_OPTIONS,bytes([1,kind,7,4])+socket.inet_aton('{}'))\n \
         s.sendto(b'by a source route',('{}',9))",
        node.expect("an IPv4 address"),
        lab.ip("demo/a", false)
    );
    eventually("source routes are refused", SOON, || {
        lab.must("plain/c", &["python3", "-c", &send]);
        (lab.drops("n1", "source_routed") >= 1).then_some(())
    });
    assert!(lines.try_recv().is_err(), "a datagram came by a source route");
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
}

fn handshakes() {
    let router = Router::new();
    hold(&only_out());
    for v6 in [false, true] {
        let [own, remote] = ends(v6);
        let (client, server) = ((own, 5000), (remote, 80));
        // the other end comes first, as in a simultaneous open: it may not begin anything, with data or without
        for payload in [&b""[..], b"data"] {
            assert!(!router.passes(&tcp(server, client, SYN, payload)), "it comes first, v6 {v6}");
        }
        // the workload's own SYN is none of that connection's
        assert!(router.passes(&tcp(client, server, SYN, b"")), "its own question, v6 {v6}");
        // a split handshake: what answers is a bare SYN or ACK; whatever becomes of it, it opens no other port
        for flags in [SYN, ACK, SYN | ACK] {
            let _either = router.passes(&tcp(server, client, flags, b""));
            for (from, to) in [((remote, 80), (own, 5001)), ((remote, 81), (own, 5000)), ((remote, 5000), (own, 80))] {
                assert!(!router.passes(&tcp(from, to, flags, b"data")), "{from:?} to {to:?}, v6 {v6}");
            }
        }
        assert!(router.passes(&tcp(client, server, ACK, b"data")), "the allowed one goes on, v6 {v6}");
        // to a port that is denied: the answer of a colluding server to what was dropped
        let denied = (remote, 81);
        for payload in [&b""[..], b"data"] {
            assert!(!router.passes(&tcp(client, denied, SYN, payload)), "SYN, v6 {v6}");
            assert!(!router.passes(&tcp(denied, client, SYN | ACK, payload)), "its answer, v6 {v6}");
            assert!(!router.passes(&tcp(client, denied, ACK, payload)), "as if nothing had been dropped, v6 {v6}");
            assert!(!router.passes(&tcp(denied, client, ACK, payload)), "and back, v6 {v6}");
        }
        // port 0 is a port like any, and none that a rule names
        for (from, to) in
            [((own, 5000), (remote, 0)), ((own, 0), (remote, 0)), ((remote, 0), (own, 0)), ((remote, 80), (own, 0))]
        {
            assert!(!router.passes(&tcp(from, to, SYN, b"")), "{from:?} to {to:?}, v6 {v6}");
            assert!(!router.passes(&ip_packet(from.0, to.0, 17, 0, &udp(from.1, to.1))), "{from:?} to {to:?}, v6 {v6}");
        }
        assert!(!router.passes(&tcp((own, 0), denied, SYN, b"")), "from port 0, v6 {v6}");
    }
}
