//! S8, NP-10 by the real binaries: an ICMP error about an allowed flow comes back, through the mesh, on one node and in clear text,
//! and one about a flow that is not there does not.

use std::net::IpAddr;
use std::process::Child;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::policy::{FIVE, SOON, five, lines_of, network_policy};
use crate::agent::Agents;
use crate::lab::Lab;
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[("s08_np_10_errors_about_what_is_allowed_arrive_and_forged_ones_do_not", errors)];

/// Who sends, and to whom: through the mesh, on one node, in clear text.
const PAIRS: [(&str, &str); 3] = [("demo/a", "demo/far"), ("demo/a", "demo/b"), ("plain/c", "plain/out")];
/// Allowed, and nobody listens there.
const SHUT: u16 = 9001;
/// Denied.
const DENIED: u16 = 9500;
/// Source port that a forged error speaks of, and that nobody has ever sent from.
const NEVER: u16 = 5999;

/// Says of each ICMP "unreachable" that arrives, over both families, which UDP source port it quotes.
const LISTEN: &str = "import select,socket\n\
    v4=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_ICMP)\n\
    v6=socket.socket(socket.AF_INET6,socket.SOCK_RAW,socket.IPPROTO_ICMPV6)\n\
    print('ready',flush=True)\n\
    while True:\n\
    \x20for s in select.select([v4,v6],[],[])[0]:\n\
    \x20 d=s.recv(2000)\n\
    \x20 if s is v4: d=d[20:]\n\
    \x20 at=8+(20 if s is v4 else 40)\n\
    \x20 if d[0]==(3 if s is v4 else 1): print(int.from_bytes(d[at:at+2],'big'),flush=True)";

/// Sends a datagram and says what came of it: an answer, `refused` (port unreachable), `too big`, or nothing. Then its port.
const SEND: &str = "import errno,socket,sys\n\
    to,port,size=sys.argv[1],int(sys.argv[2]),int(sys.argv[3])\n\
    v6=':' in to\n\
    s=socket.socket(socket.AF_INET6 if v6 else socket.AF_INET,socket.SOCK_DGRAM)\n\
    s.setsockopt(*((socket.IPPROTO_IPV6,23,2) if v6 else (socket.IPPROTO_IP,10,2)))\n\
    s.settimeout(0.5)\n\
    s.connect((to,port))\n\
    try: s.send(b'x'*size); s.recv(2000); said='answer'\n\
    except ConnectionRefusedError: said='refused'\n\
    except TimeoutError: said='nothing'\n\
    except OSError as e: said='too big' if e.errno==errno.EMSGSIZE else str(e)\n\
    print(said,s.getsockname()[1],sep=',')";

/// Tells `sys.argv[1]` three times that a datagram from its port `NEVER` to a port here was not taken.
const FORGE: &str = "import ipaddress as i,socket,struct,sys\n\
    to,own,never,port=i.ip_address(sys.argv[1]),i.ip_address(sys.argv[2]),int(sys.argv[3]),int(sys.argv[4])\n\
    udp=struct.pack('>HHHH',never,port,8,0)\n\
    def summed(b):\n\
    \x20n=sum(struct.unpack('>%dH'%(len(b)//2),b))\n\
    \x20n=(n>>16)+(n&65535)\n\
    \x20return ~(n+(n>>16))&65535\n\
    if to.version==4:\n\
    \x20head=struct.pack('>BBHHHBBH',69,0,28,1,0,64,17,0)+to.packed+own.packed\n\
    \x20head=head[:10]+struct.pack('>H',summed(head))+head[12:]\n\
    \x20body=struct.pack('>BBHI',3,3,0,0)+head+udp\n\
    \x20body=body[:2]+struct.pack('>H',summed(body))+body[4:]\n\
    \x20s=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_ICMP)\n\
    else:\n\
    \x20body=struct.pack('>BBHI',1,4,0,0)+struct.pack('>IHBB',6<<28,8,17,64)+to.packed+own.packed+udp\n\
    \x20s=socket.socket(socket.AF_INET6,socket.SOCK_RAW,socket.IPPROTO_ICMPV6)\n\
    for _ in range(3): s.sendto(body,(str(to),0))";

/// What came of a datagram, and the port that it was sent from.
fn send(lab: &Lab, from: &str, to: IpAddr, port: u16, size: usize) -> (String, u16) {
    let line = lab.must(from, &["python3", "-c", SEND, &to.to_string(), &port.to_string(), &size.to_string()]);
    let (said, own) = line.trim().split_once(',').expect("what was said, and a port");
    (said.to_owned(), own.parse().expect("a port"))
}

fn forge(lab: &Lab, from: &str, own: IpAddr, to: IpAddr) {
    let numbers = [NEVER, SHUT].map(|number| number.to_string());
    lab.must(from, &["python3", "-c", FORGE, &to.to_string(), &own.to_string(), &numbers[0], &numbers[1]]);
}

/// Waits until a place hears of a port, and returns what it heard before.
fn heard(lines: &Receiver<String>, port: u16) -> Option<Vec<String>> {
    let mut before = Vec::new();
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(1)) {
        if line == port.to_string() {
            return Some(before);
        }
        before.push(line);
    }
    None
}

fn errors() {
    let lab = five("nodes: 2");
    let _agents = Agents::start(&lab, &FIVE);
    let mut listeners: Vec<(Child, Receiver<String>)> = Vec::new();
    for (from, to) in PAIRS {
        let mut child = lab.spawn(from, &["python3", "-u", "-c", LISTEN]);
        let lines = lines_of(&mut child);
        assert_eq!(lines.recv().as_deref(), Ok("ready"));
        for (client, server) in lab.ips(from).into_iter().zip(lab.ips(to)) {
            forge(&lab, to, server, client);
            assert!(heard(&lines, NEVER).is_some(), "the control: without a policy {from} hears anything of {to}");
        }
        listeners.push((child, lines));
    }
    let ports = format!("ports: [{{protocol: UDP, port: 80}}, {{protocol: UDP, port: {SHUT}}}]");
    let among = |list: &str| format!("[{{{list}: [{{podSelector: {{}}}}], {ports}}}]");
    let spec = format!(
        "podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: {}, egress: {}",
        among("from"),
        among("to")
    );
    lab.put("policy.yaml", &["demo", "plain"].map(|ns| network_policy(ns, "some-ports", &spec)).concat());
    for ((from, to), (_, lines)) in PAIRS.iter().zip(&listeners) {
        for (client, server) in lab.ips(from).into_iter().zip(lab.ips(to)) {
            eventually(&format!("{from} is kept from {server}"), SOON, || {
                (send(&lab, from, server, DENIED, 4).0 == "nothing").then_some(())
            });
            while lines.try_recv().is_ok() {}
            forge(&lab, to, server, client);
            // what is said later is heard after it
            let what = format!("{from} is told that {server} takes nothing at an allowed port");
            let before = eventually(&what, SOON, || {
                let (said, own) = send(&lab, from, server, SHUT, 4);
                (said == "refused").then(|| heard(lines, own)).flatten()
            });
            assert!(!before.0.contains(&NEVER.to_string()), "{from} heard a forged error of {server}");
        }
    }
    too_long(&lab);
    for (mut child, _) in listeners {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}

/// What does not fit the way is told to who may send it, by the engine and by the kernel of a node.
fn too_long(lab: &Lab) {
    let link = lab.pod("demo/b")["hostLink"].as_str().expect("a link").to_owned();
    lab.must("node/n1", &["ip", "link", "set", &link, "mtu", "1300"]);
    for to in ["demo/far", "demo/b"] {
        for (server, size) in lab.ips(to).into_iter().zip([1472, 1452]) {
            // the kernel looks at the length before it asks anybody else: what is denied on one node is told its own node's MTU
            if to == "demo/far" {
                assert_eq!(send(lab, "demo/a", server, DENIED, size).0, "nothing", "of a denied port at {server}");
            }
            eventually(&format!("{size} bytes do not fit on the way to {server}"), SOON, || {
                (send(lab, "demo/a", server, 80, size).0 == "too big").then_some(())
            });
            // what fits is answered
            assert_eq!(send(lab, "demo/a", server, 80, 1000).0, "answer", "{server}");
        }
    }
}
