//! PL: what is on the wire. Every claim of absence has its positive control.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::lab::{Lab, MARKER, markers, namespace, peer_authentication, pod};
use crate::shell::run;

pub const CASES: &[(&str, fn())] = &[
    ("pl_01_pl_02_f1_every_protocol_is_ciphertext_on_the_wire", every_protocol_is_ciphertext),
    ("pl_03_f25_a_pod_that_sends_before_it_is_attached_leaks_nothing", sends_before_attached),
    ("pl_07_pl_10_mode_flapping_and_crashes_leak_nothing", flapping_and_crashes),
    ("pl_13_an_address_that_moves_to_another_pod_takes_no_packet_with_it", address_moves),
    ("pl_21_a_nodes_own_call_of_a_service_goes_through_the_mesh", a_node_calls_a_service),
    ("pl_21_a_node_port_of_a_third_node_leads_back_into_the_mesh", third_node_translates),
    ("t12_flushed_rules_and_filter_are_put_back_and_leak_nothing", flushed_state),
];

/// Sends the marker by every protocol, both families, with replies; returns how many exchanges were answered.
fn traffic(lab: &Lab, from: &str, to: &[IpAddr]) -> usize {
    let text = MARKER.repeat(8);
    let big = MARKER.repeat(400);
    let hex: String = MARKER.bytes().map(|b| format!("{b:02x}")).collect();
    let mut answered = 0;
    for ip in to {
        let ping = ["ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", "-s", "256", "-p", &hex, &ip.to_string()];
        let exchanges = [
            ("ping", lab.exec(from, &ping).status.success()),
            ("tcp", lab.tcp_echo(from, *ip, 8080, &text).as_ref() == Some(&text)),
            ("udp", lab.udp_echo(from, *ip, 8080, &text).as_ref() == Some(&text)),
            // larger than any link; where there is no mesh, the first ones, there and back, learn the path's MTU (RFC 8201)
            ("fragments", (0..3).any(|_| lab.udp_echo(from, *ip, 8080, &big).as_ref() == Some(&big))),
        ];
        for (name, passed) in exchanges {
            println!("{from} to {ip}: {name} {passed}");
            answered += usize::from(passed);
        }
        send_raw(lab, from, *ip);
    }
    answered
}

/// A datagram of protocol 253 (RFC 3692: for experiments), which nobody answers.
fn send_raw(lab: &Lab, from: &str, to: IpAddr) {
    let family = if to.is_ipv6() { "AF_INET6" } else { "AF_INET" };
    let script = format!(
        "import socket\ns=socket.socket(socket.{family},socket.SOCK_RAW,253)\nfor i in range(5): s.sendto(b'{MARKER}'*8,('{to}',0))"
    );
    lab.must(from, &["python3", "-c", &script]);
}

fn every_protocol_is_ciphertext() {
    let lab = Lab::of_four("nodes: 3");
    let (meshed, plain) = (lab.ips("demo/server"), lab.ips("plain/server"));
    for (from, to) in [("plain/client", plain), ("demo/client", meshed)] {
        for ip in to {
            lab.pings_within(from, ip, Duration::from_secs(5));
        }
    }
    let capture = lab.capture();
    // 4 answered exchanges a family
    assert_eq!(traffic(&lab, "plain/client", &plain), 8, "the control's traffic does not pass");
    let clear = capture.stop();
    assert!(markers(&clear) > 100, "the capture cannot see the marker: {}", markers(&clear));
    let capture = lab.capture();
    assert_eq!(traffic(&lab, "demo/client", &meshed), 8, "the mesh's traffic does not pass");
    assert_eq!(traffic(&lab, "demo/server", &lab.ips("demo/client")), 8, "nor back");
    let sealed = capture.stop();
    assert!(sealed.len() > 20_000, "the capture saw nothing: {} bytes", sealed.len());
    assert_eq!(markers(&sealed), 0);
    // the raw protocol arrived too
    let received = lab.ask("n2", "status")["traffic"]["received_packets"].as_u64().unwrap_or(0);
    assert!(received > 20, "only {received} packets came out of the tunnel");
}

fn sends_before_attached() {
    // the pod's first process sends from its first instant, before and after ADD
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    let script = format!(
        "import socket,time\nend=time.time()+6\nwhile time.time()<end:\n for k in (socket.SOCK_DGRAM,):\n  try:\n   s=socket.socket(socket.AF_INET,k); s.sendto(b'{MARKER}',('{server}',8080))\n  except OSError: pass"
    );
    let early = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: early, namespace: demo}}\nspec:\n  nodeName: n1\n  initContainers:\n  \
         - {{name: first, command: [python3, -c, {}]}}\n  containers: [{{name: main}}]\n",
        serde_json::Value::from(script)
    );
    let capture = lab.capture();
    lab.put("early.yaml", &early);
    crate::shell::eventually("the early pod's packets arrive by the tunnel", Duration::from_secs(10), || {
        let sessions = lab.ask("n2", "peers");
        let found = sessions.as_array()?.iter().any(|p| p["node"] == "n1" && p["rx_bytes"].as_u64() > Some(5_000));
        found.then_some(())
    });
    let bytes = capture.stop();
    assert_eq!(markers(&bytes), 0);
}

fn flapping_and_crashes() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let script = format!(
        "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nend=time.time()+60\nwhile time.time()<end:\n try: s.sendto(b'{MARKER}',('{server}',8080))\n except OSError: pass\n time.sleep(0.001)"
    );
    let mut sender = lab.spawn("demo/client", &["python3", "-c", &script]);
    let capture = lab.capture();
    for round in 0..50 {
        lab.put("mode.yaml", &peer_authentication("demo", if round % 2 == 0 { "STRICT" } else { "PERMISSIVE" }));
        lab.put("mesh.yaml", &peer_authentication("weft-system", if round % 3 == 0 { "STRICT" } else { "PERMISSIVE" }));
        if round % 10 == 5 {
            let node = if round % 20 == 5 { "n1" } else { "n2" };
            run("kill", &["-9", &lab.node(node)["pid"].to_string()]);
        }
    }
    lab.pings_within("demo/client", server, Duration::from_secs(15));
    let bytes = capture.stop();
    sender.kill().expect("the sender still runs");
    sender.wait().expect("it ends");
    assert!(bytes.len() > 10_000, "the capture saw nothing");
    assert_eq!(markers(&bytes), 0);
}

fn address_moves() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let script = format!(
        "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nend=time.time()+60\nwhile time.time()<end:\n try: s.sendto(b'{MARKER}',('{server}',8080))\n except OSError: pass\n time.sleep(0.001)"
    );
    let mut sender = lab.spawn("demo/client", &["python3", "-c", &script]);
    let capture = lab.capture();
    run(&crate::lab::program("meshctl"), &["lab", "delete", "pod/demo/server"]);
    crate::shell::eventually("the pod is gone", Duration::from_secs(10), || {
        let pods = lab.status()["pods"].as_array()?.iter().any(|p| p["namespace"] == "demo" && p["name"] == "server");
        (!pods).then_some(())
    });
    // nobody holds the address now: what is sent to it is dropped, and counted
    crate::shell::eventually("packets to nobody are dropped", Duration::from_secs(10), || {
        let drops = lab.ask("n1", "status")["drops"].clone();
        (drops["no_peer"].as_u64() > Some(0) || drops["unknown_destination"].as_u64() > Some(0)).then_some(())
    });
    lab.put("again.yaml", &[namespace("other", true), pod("other", "server", "n2", "thief", "")].concat());
    crate::shell::eventually("the other pod runs", Duration::from_secs(10), || {
        let pods = lab.status();
        pods["pods"].as_array()?.iter().any(|p| p["namespace"] == "other" && !p["addresses"].is_null()).then_some(())
    });
    let bytes = capture.stop();
    sender.kill().expect("the sender still runs");
    sender.wait().expect("it ends");
    assert_eq!(markers(&bytes), 0);
}

/// With several data threads, of which each has a queue of the device that goes.
fn flushed_state() {
    let lab = Lab::of_four("nodes: 3\ndataThreads: 4");
    let server = lab.ips("demo/server");
    for ip in server {
        lab.pings_within("demo/client", ip, Duration::from_secs(5));
    }
    let capture = lab.capture();
    for attack in [
        &["ip", "rule", "flush"][..],
        &["ip", "-6", "rule", "flush"],
        &["ip", "route", "flush", "table", "5182"],
        &["nft", "flush", "ruleset"],
        &["ip", "link", "del", "mesh0"],
    ] {
        lab.must("node/n1", attack);
        if attack.contains(&"rule") {
            // the kernel's own rules are not ours to put back
            let family = if attack.contains(&"-6") { "-6" } else { "-4" };
            for (table, priority) in [("main", "32766"), ("default", "32767")] {
                let _there = lab.exec("node/n1", &["ip", family, "rule", "add", "pref", priority, "lookup", table]);
            }
        }
        for ip in server {
            traffic(&lab, "demo/client", &[ip]);
            lab.pings_within("demo/client", ip, Duration::from_secs(10));
        }
    }
    assert_eq!(markers(&capture.stop()), 0);
}

/// What kube-proxy does on a node whose port a pod calls, when the pod behind it is on another: translated, and sent on by that node. Of
/// IPv4: out of `mesh0` the kernel's masquerading takes a pod gateway's address of IPv6, and the engine refuses that.
fn third_node_translates() {
    let lab = Lab::of_four("nodes: 3");
    lab.put("mode.yaml", &peer_authentication("demo", "STRICT"));
    let addresses: Vec<IpAddr> = lab.node("n3")["addresses"]
        .as_array()
        .expect("addresses")
        .iter()
        .map(|ip| ip.as_str().expect("text").parse().expect("an address"))
        .collect();
    assert_eq!(addresses.len(), 2, "both families");
    for there in addresses {
        let server = lab.ip("demo/server", there.is_ipv6());
        // a pod network's gateway, whose address is more like the pod's than the node's is: of IPv6 the kernel would choose it
        let (family, nodad) = if there.is_ipv6() { ("ip6", "nodad") } else { ("ip", "") };
        let gateway = match server {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() ^ 0x80).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() ^ 0x8000).into()),
        };
        let target = SocketAddr::from((server, 8080));
        let rules = format!(
            "ip link add gw{family} type bridge; ip link set gw{family} up; ip address add {gateway} dev gw{family} {nodad}; \
             nft 'add table {family} port; add chain {family} port pre {{ type nat hook prerouting priority -100; }}; \
             add chain {family} port post {{ type nat hook postrouting priority 100; }}; \
             add rule {family} port pre {family} daddr {there} tcp dport 30080 dnat to {target}; \
             add rule {family} port post ct status dnat masquerade'"
        );
        lab.must("node/n3", &["sh", "-ec", &rules]);
        for from in ["demo/client", "node/n3"] {
            lab.pings_within(from, server, Duration::from_secs(15));
        }
        let capture = lab.capture();
        let said = lab.tcp_echo("demo/client", there, 30080, MARKER);
        assert_eq!(said.as_deref(), Some(MARKER), "{there}: {}", lab.ask("n3", "status")["drops"]);
        assert_eq!(markers(&capture.stop()), 0, "by the port of {there} in clear text");
    }
    assert_eq!(lab.drops("n3", "loop"), 0);
}

/// What kube-proxy does for a node's own process: the Service's address is translated after the first routing decision.
fn a_node_calls_a_service() {
    let lab = Lab::of_four("nodes: 3");
    lab.put("mode.yaml", &peer_authentication("demo", "STRICT"));
    let services = ["10.111.0.1", "fd11::1"];
    for (ip, service) in lab.ips("demo/server").into_iter().zip(services) {
        lab.pings_within("node/n1", ip, Duration::from_secs(5));
        let family = if ip.is_ipv6() { "ip6" } else { "ip" };
        let rules = format!(
            "ip route add {service} dev eth0; nft 'add table {family} service; add chain {family} service out {{ type nat hook output priority -100; }}; \
             add rule {family} service out {family} daddr {service} tcp dport 8080 dnat to {ip}'"
        );
        lab.must("node/n1", &["sh", "-ec", &rules]);
        let capture = lab.capture();
        let said = lab.tcp_echo("node/n1", service.parse().expect("an address"), 8080, MARKER);
        assert_eq!(said.as_deref(), Some(MARKER), "{service}");
        assert_eq!(markers(&capture.stop()), 0, "{service} in clear text");
    }
    // somebody's rule before ours leads to the wire: the node's own packets do not go there, translated or not
    let server = lab.ip("demo/server", false);
    lab.must("node/n1", &["ip", "rule", "add", "pref", "100", "lookup", "main"]);
    let capture = lab.capture();
    for to in [server, "10.111.0.1".parse().expect("an address")] {
        let before = lab.drops("n1", "downgrade_prevented");
        assert_eq!(lab.tcp_echo("node/n1", to, 8080, MARKER), None);
        assert_eq!(lab.udp_echo("node/n1", server, 8080, MARKER), None);
        assert!(lab.drops("n1", "downgrade_prevented") > before, "what went to {to} was not dropped here");
    }
    assert_eq!(markers(&capture.stop()), 0, "a node's own packets in clear text");
}
