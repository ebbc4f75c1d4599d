//! MF-12: pods that believe in the underlay's MTU send what they like, and no pod is touched for it.

use std::process::Child;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::policy::{SOON, lines_of, network_policy};
use crate::lab::{Lab, namespace, pod};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("mf_12_pods_keep_their_mtu_and_a_link_may_shrink", shrinks),
    ("fragments_inside_are_carried_and_judged_by_the_ports_of_the_first", fragments),
    ("mf_12_a_wire_that_swallows_is_found_out_without_tcp_over_ipv4", || swallows(false)),
    ("mf_12_a_wire_that_swallows_is_found_out_without_tcp_over_ipv6", || swallows(true)),
];

/// Payload of a UDP echo that fills a packet of 1,500 bytes over IPv4 and IPv6, which is longer than the mesh carries, and
/// one that is sent in fragments.
const SIZES: [usize; 3] = [1452, 1472, 3000];

/// Everything arrives at the first try where its sender lets it be fragmented; the rest is told and learns.
fn shrinks() {
    let lab = Lab::of_four("nodes: 3");
    let exchange = |what: &str| {
        for to in lab.ips("demo/server") {
            let text = "mtu ".repeat(20_000);
            assert_eq!(lab.tcp_echo("demo/client", to, 8080, &text).as_deref(), Some(&*text), "{what}: TCP to {to}");
            for size in SIZES {
                let text = "m".repeat(size);
                eventually(&format!("{what}: {size} bytes of UDP to {to}"), Duration::from_secs(5), || {
                    (lab.udp_echo("demo/client", to, 8080, &text)? == text).then_some(())
                });
            }
        }
    };
    let link = lab.must("demo/client", &["ip", "-o", "link", "show", "eth0"]);
    assert!(link.contains("mtu 1500"), "the pod's own: {link}");
    exchange("as it is");
    for node in ["n1", "n2"] {
        let link = lab.node(node)["link"].as_str().expect("a link").to_owned();
        lab.must(&format!("node/{node}"), &["ip", "link", "set", &link, "mtu", "1400"]);
    }
    exchange("after the link has shrunk");
}

/// What sends, in each family, the second half of a datagram whose first half never comes.
const LATER_HALF: &str = "import ipaddress as i,socket,struct,sys\n\
    for own,to in zip(sys.argv[1::2],sys.argv[2::2]):\n\
    \x20own,to=i.ip_address(own),i.ip_address(to)\n\
    \x20if to.version==4:\n\
    \x20 s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_RAW)\n\
    \x20 p=struct.pack('>BBHHHBBH',69,0,1020,77,100,64,17,0)+own.packed+to.packed\n\
    \x20else:\n\
    \x20 s=socket.socket(socket.AF_INET6,socket.SOCK_RAW,socket.IPPROTO_RAW)\n\
    \x20 p=struct.pack('>IHBB',6<<28,1008,44,64)+own.packed+to.packed+struct.pack('>BBHI',17,0,800,77)\n\
    \x20s.sendto(p+bytes(1000),(str(to),0))";

/// Fragments that a pod has been given, of both families.
fn given(lab: &Lab, pod: &str) -> u32 {
    let count = "sed -n 's/^Ip: \\([0-9].*\\)/\\1/p' /proc/net/snmp | cut -d' ' -f14; sed -n 's/^Ip6ReasmReqds *//p' /proc/net/snmp6";
    lab.must(pod, &["sh", "-c", count]).split_whitespace().map(|n| n.parse::<u32>().expect("a number")).sum()
}

/// A datagram that comes in fragments is let through or not as the ports of its first one say; a later one by itself goes nowhere.
fn fragments() {
    let lab = Lab::of_four("nodes: 3");
    let text = "f".repeat(3_000);
    let all_pass = |lab: &Lab| {
        for to in lab.ips("demo/server") {
            eventually(&format!("fragments to {to}"), SOON, || {
                (lab.udp_echo("demo/client", to, 8080, &text)? == text).then_some(())
            });
        }
    };
    all_pass(&lab);
    assert!(given(&lab, "demo/server") > 0, "they did not come in fragments");

    let ports = |udp: u16| {
        let spec = format!(
            "podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{ports: [{{protocol: UDP, port: {udp}}}, {{protocol: TCP, port: 8080}}]}}]"
        );
        network_policy("demo", "server", &spec)
    };
    lab.put("policy.yaml", &ports(9));
    for to in lab.ips("demo/server") {
        eventually("the policy counts", SOON, || {
            lab.udp_echo("demo/client", to, 8080, "short").is_none().then_some(())
        });
    }
    let before = given(&lab, "demo/server");
    let [own, to] = ["demo/client", "demo/server"].map(|pod| lab.ips(pod).map(|ip| ip.to_string()));
    for to in lab.ips("demo/server") {
        assert_eq!(lab.udp_echo("demo/client", to, 8080, &text), None, "to a port that is not allowed");
    }
    lab.must("demo/client", &["python3", "-c", LATER_HALF, &own[0], &to[0], &own[1], &to[1]]);
    // what comes later on the same way has come through
    for to in lab.ips("demo/server") {
        eventually("a stream is allowed", SOON, || lab.tcp_echo("demo/client", to, 8080, "after"));
    }
    assert_eq!(given(&lab, "demo/server"), before, "a fragment that is not allowed came into the pod");

    lab.put("policy.yaml", &ports(8080));
    all_pass(&lab);
}

/// What the wire to a node carries once it has become narrow, in bytes; a bridge drops what is longer and tells nobody.
const NARROW: &str = "1400";

/// Payload of a datagram that the mesh carries as one and the narrow wire does not.
const LONG: &str = "1350";

/// In what time long datagrams have to arrive again: five rounds of probes take 3.5 s, the rest is for a machine that does other things.
const FOUND_MAX: Duration = Duration::from_secs(10);

/// After what time they count as lost for ever; never waited for when all is well.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Says of each long datagram to port 9100 with which letter it begins.
const TAKE: &str = "import socket,sys\n\
    s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.bind(('::',9100)); print('ready',flush=True)\n\
    while True:\n\
    \x20d=s.recv(2000)\n\
    \x20if len(d)==int(sys.argv[1]): print(chr(d[0]),flush=True)";

/// Sends long datagrams that begin with a letter, twenty a second to each address. Told that one is too long, the kernel cuts the
/// next ones.
const SEND: &str = "import socket,sys,time\n\
    s={v6:socket.socket(socket.AF_INET6 if v6 else socket.AF_INET,socket.SOCK_DGRAM) for v6 in (False,True)}\n\
    while True:\n\
    \x20for to in sys.argv[3:]:\n\
    \x20 try: s[':' in to].sendto(sys.argv[1].encode()*int(sys.argv[2]),(to,9100))\n\
    \x20 except OSError: pass\n\
    \x20time.sleep(0.05)";

/// A pod that takes long datagrams, and what it says of them.
struct Taker {
    child: Child,
    lines: Receiver<String>,
}

impl Taker {
    fn start(lab: &Lab, pod: &str) -> Self {
        let mut child = lab.spawn(pod, &["python3", "-c", TAKE, LONG]);
        let lines = lines_of(&mut child);
        let taker = Self { child, lines };
        taker.wait_for("ready");
        taker
    }

    /// How long it takes until one comes that begins so.
    fn wait_for(&self, letter: &str) -> Duration {
        let begin = Instant::now();
        loop {
            let left = FOR_EVER.saturating_sub(begin.elapsed());
            let line = self.lines.recv_timeout(left);
            if line.unwrap_or_else(|_| panic!("{letter} does not come within {FOR_EVER:?}")) == letter {
                return begin.elapsed();
            }
        }
    }
}

/// The wires to two nodes become narrow and nobody is told; what is sent there by UDP alone arrives again soon, and so do the
/// answers to long pings, which have to find their own way back.
fn swallows(v6: bool) {
    let servers = ["n2", "n3"].map(|node| (node, format!("demo/to-{node}")));
    let pods = servers.clone().map(|(node, _)| pod("demo", &format!("to-{node}"), node, "server", "app: server"));
    let manifests = namespace("demo", true) + &pod("demo", "client", "n1", "client", "app: client") + &pods.concat();
    let families =
        if v6 { "families: [ipv6]\npodFamilies: [ipv4, ipv6]" } else { "families: [ipv4]\npodFamilies: [ipv4, ipv6]" };
    let lab = Lab::up(&format!("nodes: 3\n{families}"), &manifests);
    let addresses = servers.clone().map(|(_, pod)| lab.ip(&pod, v6));
    for to in addresses {
        lab.pings_within("demo/client", to, FOUND_MAX);
    }
    let texts = addresses.map(|to| to.to_string());
    let send = |letter: &str| {
        let command = [&["python3", "-c", SEND, letter, LONG][..], &texts.each_ref().map(String::as_str)].concat();
        lab.spawn("demo/client", &command)
    };
    let takers = servers.clone().map(|(_, pod)| Taker::start(&lab, &pod));
    let mut sender = send("a");
    for taker in &takers {
        taker.wait_for("a");
    }
    end(&mut sender);

    let wire = lab.status()["underlay"]["namespace"].as_str().expect("a namespace").to_owned();
    for (node, _) in &servers {
        run("ip", &["-n", &wire, "link", "set", node, "mtu", NARROW]);
    }
    let begin = Instant::now();
    let mut sender = send("b");
    let took = takers.each_ref().map(|taker| {
        taker.wait_for("b");
        begin.elapsed()
    });
    end(&mut sender);
    println!("long datagrams arrive again after {took:?}");
    // a busy machine may be late with one of them
    assert!(took.into_iter().any(|took| took <= FOUND_MAX), "it took {took:?}");
    for to in &texts {
        // until one is answered
        lab.must("demo/client", &["ping", "-n", "-i", "0.2", "-c", "1", "-w", "60", "-M", "dont", "-s", LONG, to]);
    }
    for mut taker in takers {
        end(&mut taker.child);
    }
}

fn end(child: &mut Child) {
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
