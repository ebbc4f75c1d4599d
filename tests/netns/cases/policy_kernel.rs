//! The compiled rules against the model: crafted packets through a TUN device, judged by the kernel and by the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;

use linux::tun::{HEADER_BYTES, Tun};
use policy::rule_set::{
    Action, Chain, ChainKey, Otherwise, PeerMatch, PeerSet, PortRange, Ports, Proof, Rule, RuleSet, SetKey, Stage,
    Subject, Tier,
};
use policy::{Blocks, Flow, PolicyKind, PolicyRef, Protocol, RuleRef, WorkloadId, nft};

use super::policy_random;
use crate::shell::run;

pub const CASES: &[(&str, fn())] = &[
    ("policy_kernel_and_model_agree_on_random_packets", agree),
    ("np_10_errors_about_an_allowed_flow_pass_and_forged_ones_do_not", errors),
];

/// Probes of the case that compares; each is one packet, and one more backwards where it passes.
const PROBES: usize = 10_000;
/// Rule sets that they are spread over; each replaces the one before by the smallest difference.
const ROUNDS: usize = 40;
pub const NODE: &str = "here";
/// Difference between an address and its mark: a probe of this traffic class is a member's.
const MEMBER_CLASS: u8 = 1 << 2;

/// A small generator of numbers that look random and are the same in each run (xorshift, Marsaglia 2003).
pub struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub port: u16,
    pub member: bool,
}

impl Probe {
    fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17 | 132)
    }

    fn is_echo(&self) -> bool {
        matches!(self.protocol, 1 | 58)
    }

    /// The packet, or the one that answers it.
    pub fn packet(&self, is_reply: bool) -> Vec<u8> {
        let ports = if is_reply { (self.port, self.source_port) } else { (self.source_port, self.port) };
        let mut payload = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
        match self.protocol {
            // sequence, acknowledgement, 20 bytes of header with SYN or SYN ACK, window, no checksum, not urgent
            6 => payload.extend([
                0,
                0,
                0,
                9,
                0,
                0,
                0,
                if is_reply { 10 } else { 0 },
                0x50,
                if is_reply { 0x12 } else { 2 },
                16,
                0,
                0,
                0,
                0,
                0,
            ]),
            17 => payload.extend([0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
            // verification tag, checksum, an INIT chunk (RFC 9260 section 3.3.2), answered by INIT ACK
            132 => payload.extend([
                0,
                0,
                0,
                u8::from(is_reply) * 7,
                0,
                0,
                0,
                0,
                1 + u8::from(is_reply),
                0,
                0,
                20,
                0,
                0,
                0,
                7,
                0,
                1,
                0,
                0,
                0,
                1,
                0,
                1,
                0,
                0,
                0,
                1,
            ]),
            1 => {
                payload =
                    [&[8 - 8 * u8::from(is_reply), 0, 0, 0][..], &self.source_port.to_be_bytes(), &[0, 1]].concat()
            }
            58 => {
                payload = [&[128 + u8::from(is_reply), 0, 0, 0][..], &self.source_port.to_be_bytes(), &[0, 1]].concat()
            }
            _ => payload = vec![0; 16],
        }
        let (from, to) = if is_reply { (self.destination, self.source) } else { (self.source, self.destination) };
        ip_packet(from, to, self.protocol, if self.member { MEMBER_CLASS } else { 0 }, &payload)
    }
}

pub fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            let mut header = vec![0x45, class, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = packet::checksum::checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            [&header, payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let mut header = vec![0x60 | class >> 4, class << 4, 0, 0, length[0], length[1], protocol, 64];
            header.extend(from.octets());
            header.extend(to.octets());
            [&header, payload].concat()
        }
        _ => panic!("two families in one packet"),
    }
}

/// A router of one TUN device: what it lets pass comes out where it went in.
pub struct Router {
    tun: Tun,
}

impl Router {
    pub fn new() -> Self {
        let tun = Tun::open("probe0").expect("a TUN device");
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{key}"), "1").expect("forwarding can be set");
        }
        for conf in ["all", "default", "probe0"] {
            for (key, value) in [("rp_filter", "0"), ("send_redirects", "0"), ("accept_local", "1")] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{conf}/{key}"), value).expect("a setting");
            }
        }
        std::fs::write("/proc/sys/net/ipv6/conf/probe0/addr_gen_mode", "1").expect("a setting");
        // probes carry no checksum of their transport
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0").expect("connections are tracked");
        run("ip", &["link", "set", "probe0", "up"]);
        run("ip", &["route", "add", "default", "dev", "probe0"]);
        run("ip", &["-6", "route", "add", "default", "dev", "probe0"]);
        apply(
            "table inet marks { chain c { type filter hook prerouting priority -150;\nip dscp 1 meta mark set 0x01000000\nip6 dscp 1 meta mark set 0x01000000\n}\n}",
        );
        Self { tun }
    }

    /// Whether the packet comes out again: the kernel forwards it while it is handed over.
    pub fn passes(&self, packet: &[u8]) -> bool {
        let payload = |bytes: &[u8]| bytes[if bytes[0] >> 4 == 4 { 20 } else { 40 }..].to_vec();
        self.gives_out(packet, |out| out.len() == packet.len() && payload(out) == payload(packet))
    }

    /// Whether it does, with its options changed and its destination: what an IPv4 router does on the way.
    pub fn forwards(&self, packet: &[u8]) -> bool {
        self.gives_out(packet, |out| out.len() == packet.len() && out[12..16] == packet[12..16])
    }

    fn gives_out(&self, packet: &[u8], is_it: impl Fn(&[u8]) -> bool) -> bool {
        self.tun.send(&[IoSlice::new(&[0; HEADER_BYTES]), IoSlice::new(packet)]).expect("the device takes packets");
        let mut buffer = vec![0; linux::tun::PACKET_BYTES_MAX];
        let mut found = false;
        while let Some(length) = self.tun.recv(&mut buffer).expect("the device gives packets") {
            found |= is_it(&buffer[HEADER_BYTES..length]);
        }
        found
    }
}

pub fn apply(script: &str) {
    use std::io::Write as _;
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nft runs");
    child.stdin.take().unwrap().write_all(script.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
}

/// Addresses that probes use: local pods, remote ones, the outside, a contested one.
pub fn addresses(v6: bool) -> Vec<IpAddr> {
    let pod = |node: u8, pod: u8| -> IpAddr {
        if v6 {
            Ipv6Addr::new(0xfd00, u16::from(node), 0, 0, 0, 0, 0, u16::from(pod)).into()
        } else {
            Ipv4Addr::new(10, node, 0, pod).into()
        }
    };
    [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (9, 1), (9, 77), (3, 9)].map(|(n, p)| pod(n, p)).to_vec()
}

fn origin(dice: &mut Dice) -> RuleRef {
    let policy =
        PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "x".into(), name: format!("p{}", dice.below(4)) };
    RuleRef { policy: Arc::new(policy), rule: dice.below(3) }
}

fn random_rule_set(dice: &mut Dice) -> RuleSet {
    let mut rules = RuleSet::default();
    let all = [addresses(false), addresses(true)];
    for index in 0..7_usize {
        let id = WorkloadId::new("x", &format!("w{index}"));
        let own: BTreeSet<IpAddr> = all.iter().map(|family| family[index]).collect();
        rules.addresses.extend(own.iter().map(|ip| (*ip, id.clone())));
        let node = Some(if index < 4 { NODE } else { "there" }.to_owned());
        rules.workloads.insert(id, Subject { addresses: own, node, inbound: None, outbound: None });
    }
    rules.contested = all.iter().map(|family| family[9]).collect();
    rules.nodes.insert(NODE.to_owned(), all.iter().map(|family| family[8]).collect());
    for index in 0..6 {
        let mut set = PeerSet::default();
        for (id, subject) in &rules.workloads {
            if dice.one_in(3) {
                set.members.insert(id.clone());
                set.addresses.extend(&subject.addresses);
            }
        }
        for (block, hole) in [
            ("10.2.0.0/16", "10.2.0.2/31"),
            ("fd00:2::/32", "fd00:2::2/127"),
            ("0.0.0.0/0", "10.1.0.0/29"),
            ("10.9.0.1/32", "::/0"),
            ("::/0", "fd00:9::/32"),
        ] {
            if dice.one_in(6) {
                set.blocks.merge(&Blocks::carved(block.parse().unwrap(), &[hole.parse().unwrap()]));
            }
        }
        rules.sets.insert(SetKey(format!("set {index}").into()), Arc::new(set));
    }
    for index in 0..5 {
        let chain = Chain { authorization: random_layer(dice, true), network: random_layer(dice, false) };
        rules.chains.insert(ChainKey(format!("chain {index}").into()), Arc::new(chain));
    }
    let keys: Vec<_> = rules.chains.keys().cloned().collect();
    for subject in rules.workloads.values_mut().filter(|subject| subject.node.as_deref() == Some(NODE)) {
        subject.inbound = (!dice.one_in(3)).then(|| dice.pick(&keys).clone());
        subject.outbound = (!dice.one_in(3)).then(|| dice.pick(&keys).clone());
    }
    rules
}

fn random_layer(dice: &mut Dice, is_authorization: bool) -> Vec<Stage> {
    let tiers = if is_authorization {
        [Tier::Audit, Tier::Deny, Tier::Allow]
    } else {
        [Tier::Admin, Tier::Network, Tier::Baseline]
    };
    let mut stages = Vec::new();
    for tier in tiers {
        if dice.one_in(2) {
            continue;
        }
        let rules = (0..dice.below(6)).map(|_| random_rule(dice)).collect();
        let otherwise = if dice.one_in(3) { Otherwise::Deny } else { Otherwise::Pass };
        stages.push(Stage { tier, rules, otherwise, policies: vec![] });
    }
    stages
}

fn random_rule(dice: &mut Dice) -> Rule {
    let condition = |dice: &mut Dice| PeerMatch {
        // the seventh is not there: nobody
        set: SetKey(format!("set {}", dice.below(7)).into()),
        inside: !dice.one_in(4),
        proof: if dice.one_in(3) { Proof::Needed } else { Proof::Unneeded },
    };
    let peers = match dice.below(8) {
        0 => vec![],
        1 => vec![condition(dice), condition(dice)],
        _ => vec![condition(dice)],
    };
    let range = |dice: &mut Dice| {
        let first = if dice.one_in(8) { 0 } else { 78 + u16::try_from(dice.below(7)).unwrap() };
        let last = if first == 0 { u16::MAX } else { first + u16::try_from(dice.below(3)).unwrap() };
        PortRange { protocol: *dice.pick(&Protocol::ALL), first, last }
    };
    let ports = if dice.one_in(4) {
        Ports::Any
    } else {
        Ports::Listed { ranges: (0..dice.below(5)).map(|_| range(dice)).collect(), other_protocols: dice.one_in(4) }
    };
    let action = *dice.pick(&[Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Audit]);
    Rule { origin: origin(dice), peers, ports, action }
}

fn random_probe(dice: &mut Dice) -> Probe {
    let v6 = dice.one_in(2);
    let all = addresses(v6);
    let (source, mut destination) = (*dice.pick(&all), *dice.pick(&all));
    while destination == source {
        destination = *dice.pick(&all);
    }
    let echo = if v6 { 58 } else { 1 };
    let protocol = *dice.pick(&[6, 6, 17, 17, 132, echo, 253]);
    let port = 77 + u16::try_from(dice.below(10)).unwrap();
    let source_port = 1024 + u16::try_from(dice.below(60_000)).unwrap();
    Probe { source, destination, protocol, source_port, port, member: dice.one_in(2) }
}

/// What the model says of a probe's connection.
fn judge(rules: &RuleSet, members: &BTreeSet<IpAddr>, probe: &Probe) -> bool {
    let proven = probe.member && members.contains(&probe.source) && members.contains(&probe.destination);
    let port = probe.has_ports().then_some(probe.port);
    let flow = Flow {
        source: rules.end(probe.source),
        destination: rules.end(probe.destination),
        protocol: probe.protocol,
        port,
        proven,
    };
    rules.judge(&flow).is_allowed()
}

fn agree() {
    let router = Router::new();
    let dice = &mut Dice(0x5eed_0001_2026_1121);
    let members: BTreeSet<IpAddr> = [false, true]
        .iter()
        .flat_map(|v6| addresses(*v6).into_iter().enumerate())
        .filter(|(i, _)| *i < 6)
        .map(|(_, ip)| ip)
        .collect();
    let mut held = nft::Program::default();
    apply(&held.whole(|_| (0, 0)));
    let mut live: Vec<Probe> = Vec::new();
    // of protocols without ports there is one connection between two addresses: who began it
    let mut began: BTreeMap<(u8, IpAddr, IpAddr), ()> = BTreeMap::new();
    let (mut passed, mut denied, mut cut) = (0, 0, 0);
    for round in 0..ROUNDS {
        // every other one is of the administrator's tiers, by way of the compiler
        let rules = if round % 2 == 0 {
            random_rule_set(dice)
        } else {
            policy_random::tiers(dice, &[addresses(false), addresses(true)])
        };
        let program = nft::Program::of(&rules, &nft::Here { node: NODE, members: &members });
        apply(&held.difference(&program));
        held = program;
        // what passed before is judged anew, both ways
        for probe in std::mem::take(&mut live) {
            let expected = judge(&rules, &members, &probe);
            for is_reply in [false, true] {
                let found = router.passes(&probe.packet(is_reply));
                assert_eq!(
                    found,
                    expected,
                    "round {round}, established, reply {is_reply}: {probe:?}\n{}",
                    shown(&probe)
                );
            }
            cut += usize::from(!expected);
            if expected && !probe.is_echo() && live.len() < 30 {
                live.push(probe);
            }
        }
        // one that is left out is made up for
        while passed + denied < (round + 1) * PROBES / ROUNDS {
            let probe = random_probe(dice);
            if !probe.has_ports() && !probe.is_echo() {
                if began.contains_key(&(probe.protocol, probe.destination, probe.source)) {
                    continue;
                }
                began.insert((probe.protocol, probe.source, probe.destination), ());
            }
            let expected = judge(&rules, &members, &probe);
            let found = router.passes(&probe.packet(false));
            assert_eq!(found, expected, "round {round}: {probe:?}\n{}", shown(&probe));
            if !expected {
                denied += 1;
                continue;
            }
            passed += 1;
            assert!(router.passes(&probe.packet(true)), "round {round}, the answer of {probe:?}\n{}", shown(&probe));
            if live.len() < 60 && !probe.is_echo() {
                live.push(probe);
            }
        }
    }
    println!("{passed} passed, {denied} denied, {cut} live connections cut");
    assert_eq!(passed + denied, PROBES);
    assert!(passed > PROBES / 10 && denied > PROBES / 10 && cut > 100, "the probes say something");
    let by_differences = listed();
    apply(&held.whole(|_| (0, 0)));
    assert_eq!(by_differences, listed(), "changes lead to what is written from nothing");
}

/// The rules as nft lists them, in an order that does not depend on history, without counts.
fn listed() -> Vec<String> {
    let mut all = Vec::new();
    for family in ["ip", "ip6"] {
        let text = run("nft", &["-n", "-s", "list", "table", family, nft::TABLE]);
        for block in text.split("\n\n") {
            if block.contains("set denied") {
                continue;
            }
            let (before, elements) = block.split_once("elements = {").unwrap_or((block, ""));
            let mut words: Vec<_> =
                elements.split([',', '\n']).map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect();
            words.sort();
            all.push(format!("{before}{}", words.join(",").replace(" }", "").replace('}', "")));
        }
    }
    all.sort();
    all
}

fn shown(probe: &Probe) -> String {
    run("nft", &["-n", "list", "table", if probe.source.is_ipv4() { "ip" } else { "ip6" }, nft::TABLE])
}

/// One chain for the first local workload: UDP to port 80 from the first remote one, and nothing else.
pub fn one_allowed() -> RuleSet {
    let mut rules = RuleSet::default();
    for (index, node) in [(0, NODE), (4, "there")] {
        let id = WorkloadId::new("x", &format!("w{index}"));
        let own: BTreeSet<IpAddr> = [false, true].map(|v6| addresses(v6)[index]).into();
        rules.addresses.extend(own.iter().map(|ip| (*ip, id.clone())));
        let chain = (node == NODE).then(|| ChainKey("closed".into()));
        let subject = Subject { addresses: own, node: Some(node.to_owned()), inbound: chain.clone(), outbound: chain };
        rules.workloads.insert(id, subject);
    }
    let (id, peer) = rules.workloads.last_key_value().expect("two workloads");
    let set = PeerSet { members: [id.clone()].into(), addresses: peer.addresses.clone(), blocks: Blocks::default() };
    let key = SetKey("peer".into());
    rules.sets.insert(key.clone(), Arc::new(set));
    let condition = PeerMatch { set: key, inside: true, proof: Proof::Unneeded };
    let ranges = vec![PortRange { protocol: Protocol::Udp, first: 80, last: 80 }];
    let rule = Rule {
        origin: origin(&mut Dice(1)),
        peers: vec![condition],
        ports: Ports::Listed { ranges, other_protocols: false },
        action: Action::Allow,
    };
    let stage = Stage { tier: Tier::Network, rules: vec![rule], otherwise: Otherwise::Deny, policies: vec![] };
    let chain = Chain { authorization: vec![], network: vec![stage] };
    rules.chains.insert(ChainKey("closed".into()), Arc::new(chain));
    rules
}

/// "Too big" (with an MTU of 1400) or "port unreachable" about a packet, as `from` would send it to the packet's source.
pub fn error_about(packet: &[u8], from: IpAddr, to: IpAddr, is_too_big: bool) -> Vec<u8> {
    let start = match (from.is_ipv4(), is_too_big) {
        (true, true) => [3, 4, 0, 0, 0, 0, 5, 0x78],
        (true, false) => [3, 3, 0, 0, 0, 0, 0, 0],
        (false, true) => [2, 0, 0, 0, 0, 0, 5, 0x78],
        (false, false) => [1, 4, 0, 0, 0, 0, 0, 0],
    };
    ip_packet(from, to, if from.is_ipv4() { 1 } else { 58 }, 0, &[&start, packet].concat())
}

fn errors() {
    let router = Router::new();
    let rules = one_allowed();
    let members = BTreeSet::new();
    let here = nft::Here { node: NODE, members: &members };
    let open = nft::Program::of(&rules, &here);
    apply(&open.whole(|_| (0, 0)));
    let mut closed = rules.clone();
    closed.sets.clear();
    let closed = nft::Program::of(&closed, &here);
    for v6 in [false, true] {
        let all = addresses(v6);
        let (server, client, some_router) = (all[0], all[4], all[7]);
        let flow =
            Probe { source: client, destination: server, protocol: 17, source_port: 5000, port: 80, member: false };
        assert!(router.passes(&flow.packet(false)) && router.passes(&flow.packet(true)));
        let unreachable = error_about(&flow.packet(false), server, client, false);
        let too_big = error_about(&flow.packet(true), some_router, server, true);
        assert!(router.passes(&unreachable), "port unreachable about an allowed flow, v6 {v6}");
        assert!(router.passes(&too_big), "too big about an allowed answer, v6 {v6}");
        // a flow that is not there: forged, whichever way it goes
        let never = Probe { source_port: 5001, ..flow };
        assert!(!router.passes(&error_about(&never.packet(false), server, client, false)), "forged, leaving, v6 {v6}");
        assert!(
            !router.passes(&error_about(&never.packet(true), some_router, server, true)),
            "forged, arriving, v6 {v6}"
        );
        // an answer that nobody asked for, and a packet of a connection that does not exist (NP-06)
        let asked_by_nobody = Probe { source: client, destination: server, source_port: 80, port: 5002, ..flow };
        assert!(!router.passes(&asked_by_nobody.packet(false)), "an unasked answer, v6 {v6}");
        apply(&open.difference(&closed));
        assert!(!router.passes(&flow.packet(false)) && !router.passes(&flow.packet(true)), "the flow is cut, v6 {v6}");
        assert!(!router.passes(&unreachable) && !router.passes(&too_big), "so are errors about it, v6 {v6}");
        apply(&closed.difference(&open));
        assert!(router.passes(&flow.packet(true)), "and it goes on where it is allowed again, v6 {v6}");
    }
}
