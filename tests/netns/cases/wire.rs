//! PL: what a pod that wants out can put on the wire between nodes, and what the wire's errors quote.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::time::Duration;

use crate::lab::{Lab, MARKER, markers};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("pl_18_broadcast_multicast_and_other_frames_of_a_pod_never_reach_the_wire", broadcast),
    ("pl_20_icmp_errors_quote_ciphertext_only", icmp_errors),
    ("hop_limits_are_those_of_two_routers", hop_limits),
    ("traffic_class_and_congestion_marks_cross_the_mesh", traffic_class),
    ("pl_26_a_pod_with_net_admin_gets_nothing_out", net_admin),
];

const SOON: Duration = Duration::from_secs(5);

/// Python that ends with packets of the marker from a pod.
fn python(lab: &Lab, from: &str, script: &str) {
    lab.must(from, &["python3", "-c", &format!("import socket,struct\nM=b'{MARKER}'*4\n{script}")]);
}

/// Frames by Ethernet type in a little-endian pcap, and the source MACs that sent them.
fn frames(pcap: &[u8]) -> Vec<(u16, [u8; 6])> {
    let mut found = Vec::new();
    let mut rest = &pcap[24..];
    while rest.len() > 16 {
        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let frame = &rest[16..16 + length];
        found.push((u16::from_be_bytes([frame[12], frame[13]]), frame[6..12].try_into().expect("six bytes")));
        rest = &rest[16 + length..];
    }
    found
}

/// Everything that goes to more than one, from one pod.
fn shout(lab: &Lab, from: &str) {
    python(
        lab,
        from,
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1)\n\
         s.setsockopt(socket.IPPROTO_IP,socket.IP_MULTICAST_TTL,64)\n\
         for to in (('255.255.255.255',67),('10.244.1.255',9),('10.244.2.255',9),('224.0.0.251',5353),('239.1.2.3',9),('224.0.0.1',9)):\n\
         \x20for i in range(5):\n\
         \x20 try: s.sendto(M,to)\n\
         \x20 except OSError: pass\n\
         s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
         n=socket.if_nametoindex('eth0')\n\
         s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_MULTICAST_HOPS,64)\n\
         s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_MULTICAST_IF,n)\n\
         for to in ('ff02::fb','ff02::1','ff02::2','ff02::1:2','ff05::1:3','ff0e::1'):\n\
         \x20for i in range(5):\n\
         \x20 try: s.sendto(M,(to,5353,0,n))\n\
         \x20 except OSError: pass\n\
         s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0))\n\
         own=s.getsockname()[4]\n\
         for to in (b'\\xff'*6,b'\\x01\\x80\\xc2\\0\\0\\x0e',b'\\x01\\x80\\xc2\\0\\0\\0',b'\\x01\\0\\x5e\\0\\0\\xfb'):\n\
         \x20for kind in (b'\\x08\\0',b'\\x86\\xdd',b'\\x08\\x06',b'\\x88\\xcc',b'\\x81\\0',b'\\x88\\xa8',b'\\x88\\x8e',b'\\0\\x40',b'\\x12\\x34',b'\\x88\\xf5'):\n\
         \x20 s.send(to+own+kind+M)",
    );
}

fn broadcast() {
    let lab = Lab::of_four("nodes: 3");
    let server = lab.ips("demo/server");
    for ip in server {
        lab.pings_within("demo/client", ip, SOON);
    }
    // the control: the same by a process on the underlay is on the wire
    let capture = lab.capture();
    let link = lab.node("n1")["link"].as_str().expect("a link").to_owned();
    let script = format!(
        "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\ns.bind(('{link}',0))\n\
         s.send(b'\\xff'*6+s.getsockname()[4]+b'\\x88\\xcc'+M)"
    );
    python(&lab, "node/n1", &script);
    let control = capture.stop();
    assert!(markers(&control) >= 4, "the capture cannot see a frame of another kind");
    for place in ["demo/client", "demo/server", "plain/server"] {
        let capture = lab.capture();
        shout(&lab, place);
        for ip in server {
            // what was sent before is past once this is answered
            lab.pings_within("demo/client", ip, SOON);
        }
        let wire = capture.stop();
        // what an outsider sends to an address in another node's range is routed there, as without a mesh
        assert!(place == "plain/server" || markers(&wire) == 0, "{place}: {} times", markers(&wire));
        let (mac, frames) = (own_mac(&lab, place), frames(&wire));
        assert!(!frames.is_empty(), "the capture saw nothing");
        for (kind, from) in frames {
            assert!([0x0800, 0x0806, 0x86dd].contains(&kind), "{place}: a frame of type {kind:#06x} is on the wire");
            assert_ne!(from, mac, "{place}: a pod's own frame is on the wire");
        }
    }
}

fn own_mac(lab: &Lab, pod: &str) -> [u8; 6] {
    let text = lab.must(pod, &["ip", "-j", "link", "show", "eth0"]);
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let bytes =
        links[0]["address"].as_str().expect("a MAC").split(':').map(|b| u8::from_str_radix(b, 16).expect("hex"));
    bytes.collect::<Vec<_>>().try_into().expect("six bytes")
}

/// Packets that somebody answers with an error: at each hop, at the end, and because they are too long.
fn provoke(lab: &Lab, from: &str, to: IpAddr) {
    lab.must(from, &["python3", "-c", &provocation(to)]);
}

fn provocation(to: IpAddr) -> String {
    let (family, level, ttl) = if to.is_ipv6() {
        ("AF_INET6", "IPPROTO_IPV6", "IPV6_UNICAST_HOPS")
    } else {
        ("AF_INET", "IPPROTO_IP", "IP_TTL")
    };
    // port 9 is nobody's; IP_MTU_DISCOVER = 10 and IPV6_MTU_DISCOVER = 23, IP_PMTUDISC_PROBE = 3 (linux/in.h, in6.h)
    let discover = if to.is_ipv6() { 23 } else { 10 };
    format!(
        "import socket\nM=b'{MARKER}'*4\n\
         for hops in (1,2,3,64):\n\
         \x20s=socket.socket(socket.{family},socket.SOCK_DGRAM)\n\
         \x20s.setsockopt(socket.{level},socket.{ttl},hops)\n\
         \x20for i in range(10): \n\
         \x20 try: s.sendto(M,('{to}',9))\n\
         \x20 except OSError: pass\n\
         s=socket.socket(socket.{family},socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.{level},{discover},3)\n\
         for size in (1372,1400,1450,1472):\n\
         \x20for i in range(5):\n\
         \x20 try: s.sendto((M*30)[:size],('{to}',9))\n\
         \x20 except OSError: pass"
    )
}

fn icmp_errors() {
    let lab = Lab::of_four("nodes: 3");
    let (sealed, clear) = (lab.ips("demo/server"), lab.ips("plain/server"));
    for (from, to) in [("demo/client", sealed), ("plain/client", clear)] {
        for ip in to {
            lab.pings_within(from, ip, SOON);
        }
    }
    let capture = lab.capture();
    for ip in clear {
        provoke(&lab, "plain/client", ip);
    }
    let control = capture.stop();
    assert!(icmp_quotes(&control) > 10, "the control provokes no errors that quote the marker");
    let capture = lab.capture();
    for ip in sealed {
        provoke(&lab, "demo/client", ip);
        provoke(&lab, "demo/client", ip);
    }
    // the lab does not answer any more once its supervisor is stopped
    let client = lab.pod("demo/client")["path"].as_str().expect("a path").to_owned();
    // a port that nobody listens on: the other node's kernel quotes our datagrams
    let node = lab.node("n2");
    run("kill", &["-STOP", &lab.status()["supervisor"]["pid"].to_string()]);
    run("kill", &["-9", &node["pid"].to_string()]);
    for ip in sealed {
        run("nsenter", &[&format!("--net={client}"), "python3", "-c", &provocation(ip)]);
    }
    let dead = markers(&capture.stop());
    assert_eq!(dead, 0, "an error on the underlay quoted what a pod sent");
}

/// ICMP and ICMPv6 errors in a capture that quote the marker.
fn icmp_quotes(pcap: &[u8]) -> usize {
    let mut found = 0;
    let mut rest = &pcap[24..];
    while rest.len() > 16 {
        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let frame = &rest[16..16 + length];
        let is_icmp = match &frame[12..14] {
            [0x08, 0x00] => frame[23] == 1,
            [0x86, 0xdd] => frame[20] == 58,
            _ => false,
        };
        found += usize::from(is_icmp && markers(frame) > 0);
        rest = &rest[16 + length..];
    }
    found
}

fn net_admin() {
    let lab = Lab::of_four("nodes: 3");
    let (server, node) = (lab.ips("demo/server"), lab.node("n2"));
    for ip in server {
        lab.pings_within("demo/client", ip, SOON);
    }
    let far = node["addresses"][0].as_str().expect("an address").to_owned();
    let (own, gateway) = (lab.ip("demo/client", false), "10.244.1.1");
    let stolen = lab.ip("demo/server", false);
    let other = lab.ip("plain/server", false);
    let before = lab.drops("n1", "spoofed_source");
    let capture = lab.capture();
    let shell = |script: &str| lab.exec("demo/client", &["sh", "-c", script]);
    let send = |source: &str, to: &str| {
        let script = format!(
            "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('{source}',0))\nfor i in range(10): s.sendto(M,('{to}',8080))"
        );
        lab.exec("demo/client", &["python3", "-c", &format!("import socket\nM=b'{MARKER}'*4\n{script}")])
    };
    // rules and routes of its own, another's address, a second interface with a MAC of its own
    shell(
        "nft flush ruleset; ip rule add pref 1 lookup main; sysctl -w net.ipv4.ip_forward=1; sysctl -w net.ipv4.conf.all.rp_filter=0",
    );
    for taken in [stolen.to_string(), other.to_string(), "192.0.2.7".to_owned()] {
        shell(&format!("ip addr add {taken}/32 dev eth0"));
        // to itself it may send what it likes
        for to in [&server[0].to_string(), &far].into_iter().filter(|to| **to != taken) {
            assert!(send(&taken, to).status.success(), "the pod cannot even try");
        }
        shell(&format!("ip addr del {taken}/32 dev eth0"));
    }
    assert!(lab.drops("n1", "spoofed_source") >= before + 50, "a source that is not its own left the link");
    let before = lab.drops("n1", "spoofed_source");
    let made = shell(&format!(
        "ip link add link eth0 name twin type macvlan mode bridge && ip addr add 10.244.1.77/32 dev twin && ip link set twin up && \
         ip route replace {stolen}/32 via {gateway} dev twin onlink src 10.244.1.77"
    ));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    shell(&format!("ip neigh replace {gateway} lladdr 02:00:00:00:00:01 dev twin"));
    send("10.244.1.77", &stolen.to_string());
    eventually("the twin's frames are counted", SOON, || (lab.drops("n1", "spoofed_source") > before).then_some(()));
    shell("ip link del twin");
    // tunnels of its own to a member and to a member's node: VXLAN, IP in IP, GRE, 6in4, and a bare protocol
    let tunnels = "for to in TO:\n\
         \x20s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         \x20for port in (4789,8472,6081,51820,51840): [s.sendto(struct.pack('!II',0x08000000,77<<8)+b'\\xff'*12+b'\\x08\\0'+M,(to,port)) for i in range(5)]\n\
         \x20for protocol in (4,41,47,94,132,253):\n\
         \x20 r=socket.socket(socket.AF_INET,socket.SOCK_RAW,protocol)\n\
         \x20 for i in range(5): r.sendto(b'\\0'*4+M,(to,0))";
    python(&lab, "demo/client", &tunnels.replace("TO", &format!("('{stolen}','{far}')")));
    for ip in server {
        lab.pings_within("demo/client", ip, SOON);
    }
    let wire = capture.stop();
    assert!(wire.len() > 5_000, "the capture saw nothing");
    assert_eq!(markers(&wire), 0, "{own} got something out in clear text");
}

/// Between two pods on two nodes there are two routers: what has one hop left is answered by the own node, what has two by the
/// other one, through the mesh, and what has three arrives.
fn hop_limits() {
    let lab = Lab::of_four("nodes: 3");
    for to in lab.ips("demo/server") {
        lab.pings_within("demo/client", to, SOON);
        let (gateway, far) = match to {
            IpAddr::V4(_) => ("10.244.1.1", "172.31.0.2"),
            IpAddr::V6(_) => ("fd00:10:244:1::1", "fd00:31::2"),
        };
        let ping = |hops: &str| {
            let output = lab.exec("demo/client", &["ping", "-n", "-c", "1", "-W", "2", "-t", hops, &to.to_string()]);
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        for (hops, router) in [("1", gateway), ("2", far)] {
            let said = ping(hops);
            assert!(said.contains(&format!("From {router} icmp_seq=1 Time")), "{hops} hops to {to}: {said}");
        }
        assert!(ping("3").contains("ttl=62"), "three hops to {to}: {}", ping("3"));
    }
}

/// Prints the traffic class of each datagram; socket options of linux/in.h and in6.h.
const CLASSES: &str = "import socket,sys\n\
     s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.bind(('::',9400))\n\
     s.settimeout(10); s.setsockopt(socket.IPPROTO_IP,13,1); s.setsockopt(socket.IPPROTO_IPV6,66,1); print('ready',flush=True)\n\
     while True:\n\
     \x20d,anc,f,a=s.recvmsg(100,200)\n\
     \x20print(' '.join(str(int.from_bytes(v[:4],'little')) for l,t,v in anc),flush=True)\n";

/// RFC 6040: the class of the packet inside arrives as it was sent, outside there is only its congestion mark (`--dscp 0`);
/// what the underlay marks as congested arrives marked, if its sender can understand it.
fn traffic_class() {
    let lab = Lab::of_four("nodes: 3");
    let mut listener = lab.spawn("demo/server", &["python3", "-c", CLASSES]);
    let mut seen = BufReader::new(listener.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert_eq!(seen.next().as_deref(), Some("ready"));
    let send = |to: IpAddr, class: u8| {
        let (family, level, option) = if to.is_ipv6() { ("AF_INET6", 41, 67) } else { ("AF_INET", 0, 1) };
        let script = format!(
            "import socket\ns=socket.socket(socket.{family},socket.SOCK_DGRAM)\ns.setsockopt({level},{option},{class})\ns.sendto(b'x',('{to}',9400))"
        );
        lab.must("demo/client", &["python3", "-c", &script]);
    };
    for to in lab.ips("demo/server") {
        lab.pings_within("demo/client", to, SOON);
        for class in [0, 0xb8, 0xb9, 0xb2] {
            send(to, class);
            assert_eq!(seen.next(), Some(class.to_string()), "to {to}");
        }
    }
    let seal = |text: &str| lab.must("node/n2", &["nft", text]);
    seal(
        "add table netdev congested; add chain netdev congested in { type filter hook ingress device \"eth0\" priority 0; }; \
         add rule netdev congested in udp dport 51840 ip dscp 1-63 counter drop; \
         add rule netdev congested in udp dport 51840 ip ecn != not-ect ip ecn set ce",
    );
    for to in lab.ips("demo/server") {
        // a router marks what says outside, too, that its sender understands marks
        for (sent, arrives) in [(0xb8, 0xb8), (0xb9, 0xbb), (0xb2, 0xb3)] {
            send(to, sent);
            assert_eq!(seen.next(), Some(arrives.to_string()), "to {to}, over a router that is congested");
        }
    }
    seal("add rule netdev congested in udp dport 51840 ip ecn set ce");
    for to in lab.ips("demo/server") {
        for (sent, arrives) in [(0xb9, 0xbb), (0xb2, 0xb3)] {
            // its sender could not see the mark: it is dropped
            send(to, 0xb8);
            send(to, sent);
            assert_eq!(seen.next(), Some(arrives.to_string()), "to {to}, over a congested underlay");
        }
    }
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
}
