//! A node whose own addresses, link or MTU change while its daemon runs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Lab, MARKER, markers, scratch};
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[
    ("underlay_a_nodes_addresses_are_replaced_under_traffic", replaced),
    ("underlay_a_nodes_link_goes_down_and_comes_up", down_and_up),
    ("underlay_an_address_counts_once_it_is_the_nodes_own", duplicate_detection),
    ("underlay_the_mtu_of_a_nodes_link_changes", mtu),
];

const SOON: Duration = Duration::from_secs(5);
/// What a conversation may wait for while its node moves.
const GAP_MAX: f64 = 4.0;

/// Says the marker and hears it, ten times a second, until the file is there; then prints the longest wait.
const TALK: &str = "import os,socket,sys,time\n\
     s=socket.create_connection((sys.argv[1],8080),5)\nf=s.makefile('rb')\nm=sys.argv[2].encode()+b'\\n'\ngap=0\n\
     while not os.path.exists(sys.argv[3]):\n\
     \x20b=time.time(); s.sendall(m); assert f.readline()==m; gap=max(gap,time.time()-b)\n\
     \x20time.sleep(0.1)\nprint(gap)";

/// Conversations between two pods, one for each family.
struct Talks {
    all: Vec<(IpAddr, Child)>,
    end: String,
}

impl Talks {
    fn begin(lab: &Lab, from: &str, to: &str) -> Self {
        let end = format!("{}-end", scratch("talks"));
        let talk = |ip: IpAddr| {
            lab.pings_within(from, ip, SOON);
            (ip, lab.spawn(from, &["python3", "-c", TALK, &ip.to_string(), MARKER, &end]))
        };
        Self { all: lab.ips(to).into_iter().map(talk).collect(), end }
    }

    /// Ends them: none of them broke or waited long.
    fn end(self) {
        std::fs::write(&self.end, "").expect("the case's folder takes files");
        for (ip, talk) in self.all {
            let output = talk.wait_with_output().expect("python3 ends");
            let gap = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>();
            let gap = gap.unwrap_or_else(|_| panic!("to {ip}: {}", String::from_utf8_lossy(&output.stderr)));
            println!("to {ip}: the longest wait was {gap:.2} s");
            assert!(gap < GAP_MAX, "{gap} s without an answer of {ip}");
        }
    }
}

fn set(ips: &[&str]) -> BTreeSet<IpAddr> {
    ips.iter().map(|ip| ip.parse().expect("an address")).collect()
}

fn parsed(list: &Value) -> BTreeSet<IpAddr> {
    let all = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    all.iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect()
}

/// What the node's kubelet says of its addresses.
fn list(lab: &Lab, node: &str, ips: &[&str]) {
    let file = format!("{}/lab-nodes.yaml", lab.directory());
    let mut nodes: Value =
        serde_json::from_str(&std::fs::read_to_string(file).expect("the lab's nodes")).expect("JSON");
    let own = nodes["items"].as_array_mut().expect("items").iter_mut().find(|n| n["metadata"]["name"] == node);
    let all = ips.iter().map(|ip| serde_json::json!({"type": "InternalIP", "address": ip})).collect();
    own.expect("the node")["status"]["addresses"] = Value::Array(all);
    lab.put("lab-nodes.yaml", &nodes.to_string());
}

/// Waits until a node has these addresses wherever they are: its status, its report, and its mesh device.
fn follows(lab: &Lab, node: &str, ips: &[&str], within: Duration) -> Duration {
    let wanted = set(ips);
    let (_, took) = eventually(&format!("{node} follows to {ips:?}"), within, || has(lab, node, &wanted).then_some(()));
    println!("{node} had {ips:?} everywhere after {} ms", took.as_millis());
    took
}

fn has(lab: &Lab, node: &str, wanted: &BTreeSet<IpAddr>) -> bool {
    let port = |ip: &IpAddr| std::net::SocketAddr::new(*ip, 51840).to_string();
    parsed(&lab.ask(node, "status")["underlay"]["addresses"]) == *wanted
        && reported(lab, node, "addresses") == wanted.iter().map(ToString::to_string).collect()
        && reported(lab, node, "endpoints") == wanted.iter().map(port).collect()
        && mesh_addresses(lab, node) == *wanted
}

/// A list in the spec of a node's MeshNode, as the folder holds it.
fn reported(lab: &Lab, node: &str, list: &str) -> BTreeSet<String> {
    let file = format!("{}/weft.dev/meshnodes/{node}.yaml", lab.directory());
    let text = std::fs::read_to_string(file).expect("the report");
    let items = text.lines().skip_while(|line| line.trim() != format!("{list}:")).skip(1).map(str::trim);
    items.map_while(|line| Some(line.strip_prefix("- ")?.trim_matches(['"', '\'']).to_owned())).collect()
}

fn mesh_addresses(lab: &Lab, node: &str) -> BTreeSet<IpAddr> {
    let links: Value =
        serde_json::from_str(&lab.must(&format!("node/{node}"), &["ip", "-j", "addr", "show", "mesh0"])).expect("JSON");
    let all = links[0]["addr_info"].as_array().expect("addresses").iter();
    all.map(|a| a["local"].as_str().expect("text").parse().expect("an address")).collect()
}

/// What is on the wire in clear text is seen there: somebody outside the mesh says the marker.
fn control(lab: &Lab) {
    let capture = lab.capture();
    lab.udp_echo("plain/client", lab.ip("demo/server", false), 8080, MARKER);
    lab.udp_echo("stranger", "172.31.0.2".parse().expect("an address"), 9, MARKER);
    assert!(markers(&capture.stop()) > 0, "the capture cannot see clear text");
}

/// Where another node's daemon sends what is for this one.
fn endpoints(lab: &Lab, at: &str, of: &str) -> BTreeSet<String> {
    let peers = lab.ask(at, "peers");
    let rows = peers.as_array().expect("peers").iter().filter(|p| p["node"] == of && p["state"] == "session");
    rows.map(|p| p["endpoint"].as_str().expect("an endpoint").to_owned()).collect()
}

fn replaced() {
    let lab = Lab::of_four("nodes: 3");
    control(&lab);
    let talks = Talks::begin(&lab, "demo/client", "demo/server");
    let back = Talks::begin(&lab, "demo/server", "demo/client");
    let capture = lab.capture();
    let n1 = |command: &str| lab.must("node/n1", &["sh", "-ec", command]);
    // a second one of the same network stays where the first one goes
    n1("sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1");
    let (old, new) = (["172.31.0.1", "fd00:31::1"], ["172.31.0.101", "fd00:31::101"]);
    list(&lab, "n1", &[old, new].concat());
    n1("ip addr add 172.31.0.101/24 dev eth0; ip addr add fd00:31::101/64 dev eth0 nodad");
    follows(&lab, "n1", &[old, new].concat(), SOON);
    n1("ip addr del 172.31.0.1/24 dev eth0; ip addr del fd00:31::1/64 dev eth0");
    list(&lab, "n1", &new);
    follows(&lab, "n1", &new, SOON);
    let moved = || {
        let at = endpoints(&lab, "n2", "n1");
        (!at.is_empty() && at.iter().all(|e| new.iter().any(|ip| e.contains(ip)))).then_some(())
    };
    eventually("the other node sends there", SOON, moved);
    // the node's own programs go into the mesh with an address that it has
    for ip in lab.ips("demo/server") {
        lab.pings_within("node/n1", ip, SOON);
        let route = lab.must("node/n1", &["ip", "route", "get", &ip.to_string()]);
        assert!(route.contains("mesh0") && new.iter().any(|own| route.contains(&format!("src {own} "))), "{route}");
    }
    talks.end();
    back.end();
    assert_eq!(markers(&capture.stop()), 0, "clear text while a node moved");
    // somebody gives the mesh's device another
    n1("ip addr add 192.0.2.7/32 dev mesh0");
    follows(&lab, "n1", &new, SOON);
    let status = lab.ask("n1", "status");
    assert_eq!(status["ready"], true, "{}", status["blocked_on"]);
}

fn down_and_up() {
    let lab = Lab::of_four("nodes: 3");
    control(&lab);
    let own = ["172.31.0.1", "fd00:31::1"];
    follows(&lab, "n1", &own, SOON);
    for ip in lab.ips("demo/server") {
        lab.pings_within("demo/client", ip, SOON);
    }
    let capture = lab.capture();
    // static addresses of IPv6 go with the link, and routes of both families
    lab.must("node/n1", &["ip", "link", "set", "eth0", "down"]);
    let wrong = || {
        let blocked = lab.ask("n1", "status")["blocked_on"].to_string();
        blocked.contains("underlay: eth0 is down").then_some(blocked)
    };
    let (told, _) = eventually("the node says what is wrong", SOON, wrong);
    assert!(told.contains("172.31.0.1, fd00:31::1"), "{told}");
    for ip in lab.ips("demo/server") {
        assert_eq!(lab.udp_echo("demo/client", ip, 8080, MARKER), None);
    }
    assert!(has(&lab, "n1", &set(&own)), "a link that is down for a while takes a node's addresses away");
    lab.must("node/n1", &["ip", "link", "set", "eth0", "up"]);
    eventually("nothing is wrong any more", SOON, || {
        (lab.ask("n1", "status")["blocked_on"] == serde_json::json!([])).then_some(())
    });
    lab.must("node/n1", &["ip", "addr", "add", "fd00:31::1/64", "dev", "eth0", "nodad"]);
    for ip in lab.ips("demo/server") {
        lab.pings_within("demo/client", ip, Duration::from_secs(15));
    }
    assert!(has(&lab, "n1", &set(&own)), "it is not as it was");
    let log = lab.must("node/n1", &["cat", lab.node("n1")["log"].as_str().expect("a log")]);
    assert!(!log.contains("The underlay changed"), "something was followed meanwhile:\n{log}");
    assert_eq!(markers(&capture.stop()), 0, "clear text while a link was down");
}

/// The kernel asks around for a second or two whether anybody has a new address of IPv6 (RFC 4862 section 5.4).
fn duplicate_detection() {
    let lab = Lab::of_four("nodes: 3");
    let own = ["172.31.0.1", "fd00:31::1"];
    lab.must("node/n1", &["sh", "-ec", "sysctl -qw net.ipv6.conf.all.accept_dad=1 net.ipv6.conf.eth0.accept_dad=1"]);
    list(&lab, "n1", &[&own[..], &["fd00:31::101"]].concat());
    // temporary, on its way out, of the link alone, and another node's: none of these is this node's for others
    let add = "ip addr add fd00:31::102/64 dev eth0 preferred_lft 0 valid_lft 600; ip addr add fd00:31::2/64 dev eth0; \
               ip addr add 169.254.7.7/16 scope link dev eth0; ip addr add fd00:31::101/64 dev eth0";
    lab.must("node/n1", &["sh", "-ec", add]);
    let shown = || lab.must("node/n1", &["ip", "-6", "addr", "show", "dev", "eth0"]);
    let line =
        |text: &str, ip: &str| text.lines().find(|l| l.contains(&format!("{ip}/64"))).unwrap_or_default().to_owned();
    let mut early = 0;
    eventually("the new address is counted", Duration::from_secs(10), || {
        // what the daemon says is older than what the kernel says after it
        let told = parsed(&lab.ask("n1", "status")["underlay"]["addresses"]);
        let is_told = told.contains(&"fd00:31::101".parse::<IpAddr>().expect("an address"));
        if line(&shown(), "fd00:31::101").contains("tentative") {
            assert!(!is_told, "an address that is not the node's yet");
            early += 1;
        }
        is_told.then_some(())
    });
    assert!(early > 0, "the kernel did not ask around");
    assert!(line(&shown(), "fd00:31::2").contains("dadfailed"), "the other node did not speak up: {}", shown());
    follows(&lab, "n1", &[&own[..], &["fd00:31::101"]].concat(), SOON);
}

fn mtu() {
    let lab = Lab::of_four("nodes: 3");
    let talks = Talks::begin(&lab, "demo/client", "demo/server");
    for (mtu, mesh_mtu) in [(1400, 1320), (1500, 1420)] {
        lab.must("node/n1", &["ip", "link", "set", "eth0", "mtu", &mtu.to_string()]);
        eventually(&format!("the mesh follows to {mtu}"), SOON, || {
            let links: Value =
                serde_json::from_str(&lab.must("node/n1", &["ip", "-j", "link", "show", "mesh0"])).expect("JSON");
            let told = lab.ask("n1", "status")["underlay"]["mesh_mtu"].clone();
            (links[0]["mtu"] == mtu && told == mesh_mtu).then_some(())
        });
        let text = "m".repeat(20_000);
        for ip in lab.ips("demo/server") {
            assert_eq!(lab.tcp_echo("demo/client", ip, 8080, &text).as_deref(), Some(text.as_str()), "{ip} at {mtu}");
        }
    }
    talks.end();
}
