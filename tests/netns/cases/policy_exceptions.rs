//! S1, S2, S3, S9, S10, NP-17, NP-18: whom no policy cuts off, and by what a connection is judged: replies, one's own node,
//! oneself, pods on the host's network, services.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::policy::{CLOSED, FIVE, SOON, five, idle_pod, network_policy, reaches_from, until};
use super::policy_world::ghost;
use crate::agent::Agents;
use crate::lab::Lab;
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[
    ("s01_s02_s03_s10_np_18_replies_ones_own_node_oneself_and_host_network", exceptions),
    ("s03_s09_np_17_a_service_is_judged_by_its_backend_and_nobody_is_cut_off_from_itself", service),
];

fn exceptions() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    for (server, other) in [("demo/far", "demo/b"), ("plain/out", "plain/c")] {
        let (server_ns, server_name) = server.split_once('/').expect("a name");
        let to_server = format!(
            "podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Ingress, Egress], ingress: [], egress: [{{to: \
             [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {server_ns}}}}}, podSelector: {{matchLabels: {{app: {server_name}}}}}}}], \
             ports: [{{port: 80}}]}}]"
        );
        lab.put("policy.yaml", &network_policy("demo", "a", &to_server));
        // S1: the request goes out and its reply comes in, and nothing else does
        until(&mut agents, true, "demo/a", server, "TCP", 80);
        until(&mut agents, false, "demo/a", server, "TCP", 81);
        until(&mut agents, false, "demo/a", other, "TCP", 80);
        until(&mut agents, false, server, "demo/a", "TCP", 80);
    }
    lab.put("policy.yaml", &network_policy("demo", "closed", CLOSED));
    until(&mut agents, false, "demo/far", "demo/a", "TCP", 80);
    for v6 in [false, true] {
        let a = lab.ip("demo/a", v6);
        // S2, NP-18: its own node, both ways; another node only where a rule says so
        assert!(reaches_from(&lab, "node/n1", a, 80), "a probe of the kubelet is refused");
        let node = own_address(&lab, "node/n1", v6);
        assert!(lab.pings("demo/a", node), "a pod does not reach its own node");
        assert!(!reaches_from(&lab, "node/n2", a, 80), "another node's process got in");
        // S3: nobody is cut off from itself. This never leaves the pod; what does, by a service, is `service`'s matter
        assert!(reaches_from(&lab, "demo/a", a, 80));
        assert!(reaches_from(&lab, "demo/a", if v6 { "::1" } else { "127.0.0.1" }.parse().expect("an address"), 80));
    }
    own_node_elsewhere(&lab);
    // S10: a pod on its node's network is no peer by its labels, and its node's address is one by ipBlock
    let host = idle_pod("demo", "host", "n2").replace("spec: {", "spec: {hostNetwork: true, ");
    lab.apply(&host);
    eventually("the pod on the host's network runs", Duration::from_secs(10), || {
        let pods = lab.status()["pods"].clone();
        let host = pods.as_array()?.iter().find(|p| p["name"] == "host")?.clone();
        (host["phase"] == "Running").then_some(())
    });
    let by_label = "podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: host}}}, {podSelector: {matchLabels: {app: b}}}]}]";
    lab.put("label.yaml", &network_policy("demo", "by-label", by_label));
    let b_out = "podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [{}]";
    lab.put("out.yaml", &network_policy("demo", "b-out", b_out));
    until(&mut agents, true, "demo/b", "demo/a", "TCP", 80);
    for v6 in [false, true] {
        assert!(!reaches_from(&lab, "node/n2", lab.ip("demo/a", v6), 80), "a label let a node in");
    }
    // nor is it one on a node that nobody has heard of but by this pod
    let far_off = ghost("far-off", "host", "Running", stranger_address(&lab, false));
    let later = network_policy("demo", "later", "podSelector: {matchLabels: {app: far}}, ingress: [{}]");
    lab.put("far-off.yaml", &(far_off.replace("spec: {", "spec: {hostNetwork: true, ") + &later));
    until(&mut agents, true, "demo/b", "demo/far", "TCP", 80);
    assert!(!reaches_from(&lab, "stranger", lab.ip("demo/a", false), 80), "a label let a foreign node in");
    let blocks = [false, true].map(|v6| {
        let node = own_address(&lab, "node/n2", v6);
        format!("{{ipBlock: {{cidr: '{node}/{}'}}}}", if v6 { 128 } else { 32 })
    });
    let by_block = format!("podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{}]}}]", blocks.join(", "));
    lab.put("block.yaml", &network_policy("demo", "by-block", &by_block));
    for v6 in [false, true] {
        eventually("a node is let in by its address", SOON, || {
            reaches_from(&lab, "node/n2", lab.ip("demo/a", v6), 80).then_some(())
        });
    }
}

/// A node's address on the underlay.
fn own_address(lab: &Lab, node: &str, v6: bool) -> IpAddr {
    let name = node.trim_start_matches("node/");
    let all = lab.ask(name, "status")["underlay"]["addresses"].clone();
    let ips = all.as_array().expect("addresses").iter().filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
    ips.into_iter().find(|ip| ip.is_ipv6() == v6).expect("one of each family")
}

/// S2: an address of the node that is not on it but beyond a router. What goes to and from there is forwarded, and so meets
/// the rules, which traffic of the node's own processes does not: they are not what lets a probe of the kubelet in.
fn own_node_elsewhere(lab: &Lab) {
    let stranger = [false, true].map(|v6| stranger_address(lab, v6));
    let file = format!("{}/lab-nodes.yaml", lab.directory());
    let before = std::fs::read_to_string(&file).expect("the lab describes its nodes");
    let mut nodes: Value = serde_json::from_str(&before).expect("it is JSON");
    let items = nodes["items"].as_array_mut().expect("nodes");
    let own = items.iter_mut().find(|node| node["metadata"]["name"] == "n1").expect("n1");
    let addresses = own["status"]["addresses"].as_array_mut().expect("addresses");
    addresses.extend(stranger.map(|ip| json!({"type": "InternalIP", "address": ip})));
    for ip in stranger {
        assert!(!lab.pings("demo/a", ip), "the control: {ip} is not yet its node's");
    }
    lab.put("lab-nodes.yaml", &nodes.to_string());
    for (ip, v6) in stranger.into_iter().zip([false, true]) {
        eventually("a pod reaches its own node", SOON, || lab.pings("demo/a", ip).then_some(()));
        assert!(reaches_from(lab, "stranger", lab.ip("demo/a", v6), 80), "the own node does not reach its pod");
        assert!(!reaches_from(lab, "stranger", lab.ip("demo/far", v6), 80), "it is the node of others as well");
        assert!(!lab.pings("demo/far", ip), "it is the node of others as well");
    }
    lab.put("lab-nodes.yaml", &before);
    eventually("it is its node's no more", SOON, || (!lab.pings("demo/a", stranger[0])).then_some(()));
}

/// An address of the machine that is on the underlay and in no cluster.
pub(super) fn stranger_address(lab: &Lab, v6: bool) -> IpAddr {
    let family = if v6 { "-6" } else { "-4" };
    let text = lab.must("stranger", &["ip", "-o", family, "addr", "show", "scope", "global"]);
    let word = text.split_whitespace().find(|word| word.contains('/')).expect("an address");
    word.split('/').next().and_then(|ip| ip.parse().ok()).expect("an address")
}

/// A virtual address on the client's node leads to a pod that lets in, or to one that does not.
fn service() {
    let lab = five("nodes: 2");
    let _agents = Agents::start(&lab, &FIVE);
    let vips: [IpAddr; 2] = ["192.0.2.80", "2001:db8::80"].map(|ip| ip.parse().expect("an address"));
    let open = |ip: IpAddr| reaches_from(&lab, "demo/a", ip, 8000);
    let lead_to = |pod: &str| {
        let [v4, v6] = lab.ips(pod);
        let script = format!(
            "add table inet services\ndelete table inet services\ntable inet services {{\nchain c {{\ntype nat hook prerouting priority -100;\n\
             ip daddr {} tcp dport 8000 dnat ip to {v4}:80\nip6 daddr {} tcp dport 8000 dnat ip6 to [{v6}]:80\n}}\n}}\n",
            vips[0], vips[1]
        );
        lab.must("node/n1", &["nft", &script]);
    };
    for pod in ["demo/far", "demo/b"] {
        lead_to(pod);
        assert!(vips.iter().all(|ip| open(*ip)), "the control: {pod} behind a service");
    }
    // rules name the pod and its port, and never the service
    let spec = "podSelector: {matchLabels: {app: b}}, ingress: []";
    lab.put("policy.yaml", &network_policy("demo", "closed", spec));
    let only_far = "podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 80}]}]";
    lab.put("egress.yaml", &network_policy("demo", "egress", only_far));
    eventually("the backend that denies is not reached", SOON, || vips.iter().all(|ip| !open(*ip)).then_some(()));
    lead_to("demo/far");
    for ip in vips {
        assert!(open(ip), "the backend that allows is not reached");
    }
    // S3: a pod behind its own service is not cut off from itself, whatever is closed
    lab.remove("egress.yaml");
    lead_to("demo/a");
    lab.put("policy.yaml", &network_policy("demo", "closed", CLOSED));
    eventually("others are closed", SOON, || {
        (!reaches_from(&lab, "demo/a", lab.ip("demo/b", false), 80)).then_some(())
    });
    lab.must("node/n1", &["nft", "add chain inet services m { type nat hook postrouting priority 100; }; add rule inet services m ct status dnat masquerade"]);
    assert!(vips.iter().all(|ip| open(*ip)), "a pod does not reach itself by its service");
}
