//! Crafted packets through a TUN device, and the kernel that forwards them or does not.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::Arc;

use linux::tun::{HEADER_BYTES, Tun};
use policy::rule_set::{
    Action, Chain, ChainKey, Otherwise, PeerMatch, PeerSet, PortRange, Ports, Proof, Rule, RuleSet, SetKey, Stage,
    Subject, Tier,
};
use policy::{Blocks, PolicyKind, PolicyRef, Protocol, RuleRef, WorkloadId};

use crate::shell::run;

pub const NODE: &str = "here";
/// Difference between an address and its mark: a probe of this traffic class is a member's.
const MEMBER_CLASS: u8 = 1 << 2;

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
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17 | 132)
    }

    pub fn is_echo(&self) -> bool {
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
        // on a slow machine rounds take longer than a connection that never answered may live, 3 s for SCTP's
        for file in std::fs::read_dir("/proc/sys/net/netfilter").expect("connections are tracked").flatten() {
            let name = file.file_name().into_string().unwrap_or_default();
            if name.starts_with("nf_conntrack_") && name.contains("_timeout") {
                std::fs::write(file.path(), "600").expect("a setting");
            }
        }
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
    let policy = PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "x".into(), name: "p".into() };
    let rule = Rule {
        origin: RuleRef { policy: Arc::new(policy), rule: 0 },
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
