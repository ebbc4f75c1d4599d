//! Kernels that refuse offloads, at the start and later: packets go one by one, none is lost, and `meshctl status` says so.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::lab::{Lab, namespace, pod, program, scratch};
use crate::shell::run;

pub const CASES: &[(&str, fn())] = &[("mf_10_offloads_that_a_kernel_refuses_are_left_off", refuses)];

/// A daemon under another kernel, by its node's name.
const REFUSE: &str = include_str!("../refuse.py");
/// What one of them sends with instead of the C library.
const REFUSE_C: &str = include_str!("../refuse.c");

/// Forty datagrams with one call, which the mesh carries as one packet each way where it can; how many come back.
const BURST: &str = "import socket,sys\n\
     to=sys.argv[1]\n\
     s=socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET,socket.SOCK_DGRAM)\n\
     s.settimeout(1); s.connect((to,8080)); s.setsockopt(17,103,1000); s.send(b'u'*40000)\n\
     n=0\n\
     try:\n\
     \x20while n<40: s.recv(2000); n+=1\n\
     except TimeoutError: pass\n\
     print(n)";

const BATCHES: [&str; 4] =
    ["udp send over IPv4", "udp receive over IPv4", "udp send over IPv6", "udp receive over IPv6"];

fn offloads(lab: &Lab, node: &str) -> (Vec<String>, u64) {
    let status = lab.ask(node, "status");
    let words = status["offloads"].as_array().expect("a list").iter().filter_map(Value::as_str).map(str::to_owned);
    (words.collect(), status["offload_fallbacks"].as_u64().expect("a number"))
}

fn with(tun: &[&str], batches: &[&str]) -> Vec<String> {
    tun.iter().chain(batches).map(|word| (*word).to_owned()).collect()
}

/// Nothing is lost between these pods, in either family: a burst of UDP, and a stream.
fn all_arrives(lab: &Lab, from: &str, to: &str, what: &str) {
    for ip in lab.ips(to) {
        let came = lab.must(from, &["python3", "-c", BURST, &ip.to_string()]);
        assert_eq!(came.trim(), "40", "{what}: {from} to {ip}");
        let text = "mesh".repeat(25_000);
        assert_eq!(lab.tcp_echo(from, ip, 8080, &text).as_deref(), Some(&*text), "{what}: {from} to {ip}");
    }
    for node in ["n1", "n2", "n3"] {
        let drops = lab.ask(node, "status")["drops"].clone();
        for reason in ["udp_other", "udp_down", "udp_too_big", "tun_other", "tun_down", "tun_too_big"] {
            assert_eq!(drops[reason].as_u64().unwrap_or(0), 0, "{what}: {reason} of {node}");
        }
    }
}

fn refuses() {
    let folder = scratch("bin");
    std::fs::create_dir_all(&folder).expect("the case's folder takes folders");
    std::os::unix::fs::symlink(program("mesh-cni"), format!("{folder}/mesh-cni")).expect("and links");
    let meshd = format!("{folder}/meshd");
    let python = format!("#!/usr/bin/env python3\n{}", REFUSE.replace("@MESHD@", &program("meshd")));
    std::fs::write(&meshd, python).expect("and programs");
    std::fs::set_permissions(&meshd, std::fs::Permissions::from_mode(0o755)).expect("which it can run");
    std::fs::write(format!("{folder}/refuse.c"), REFUSE_C).expect("and source");
    run("cc", &["-shared", "-fPIC", "-O1", "-o", &format!("{folder}/refuse.so"), &format!("{folder}/refuse.c")]);
    let pods = ["n1", "n2", "n3"].map(|node| pod("demo", node, node, node, "app: echo")).concat();
    let lab = Lab::up_with("nodes: 3", &(namespace("demo", true) + &pods), &["--bin-dir", &folder]);
    for (from, to) in [("demo/n3", "demo/n1"), ("demo/n2", "demo/n1"), ("demo/n3", "demo/n2")] {
        for ip in lab.ips(to) {
            lab.pings_within(from, ip, std::time::Duration::from_secs(10));
        }
    }
    let everything = ["tun read: tcp and udp", "tun write: tcp and udp"];
    assert_eq!(offloads(&lab, "n1"), (with(&everything, &BATCHES), 0));
    assert_eq!(offloads(&lab, "n2"), (with(&["tun read: tcp", "tun write: tcp"], &[]), 0));
    assert_eq!(offloads(&lab, "n3"), (with(&everything, &BATCHES), 0));

    // n1's device takes no super packets after all: it is asked once for UDP and once for TCP; its link takes no batches, which is
    // asked once a minute
    all_arrives(&lab, "demo/n3", "demo/n1", "super packets and batches are refused");
    let (on, fallbacks) = offloads(&lab, "n1");
    assert!(
        on == with(&everything[..1], &BATCHES[1..]) && fallbacks == 3 || fallbacks > 3,
        "{on:?}, {fallbacks} times"
    );
    all_arrives(&lab, "demo/n2", "demo/n1", "neither side can");
    all_arrives(&lab, "demo/n3", "demo/n2", "an old kernel");
    assert_eq!(offloads(&lab, "n2").1, 0);

    // the underlay of n3 takes no batches any more; and then its link cannot checksum, which Linux 6.18 does itself
    assert_eq!(offloads(&lab, "n3"), (with(&everything, &BATCHES), 0));
    let node = lab.node("n3");
    run("python3", &["-c", REFUSE, &node["pid"].to_string()]);
    all_arrives(&lab, "demo/n3", "demo/n1", "batches are refused");
    assert_eq!(offloads(&lab, "n3"), (with(&everything, &BATCHES[1..]), 1));
    let link = node["link"].as_str().expect("a link");
    lab.must("node/n2", &["ethtool", "-K", link, "tx", "off"]);
    lab.must("node/n3", &["ethtool", "-K", link, "tx", "off", "rx", "off", "gro", "off"]);
    all_arrives(&lab, "demo/n2", "demo/n3", "no offload of the link");
}
