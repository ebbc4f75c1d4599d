//! NP-11: the table of connections that all pods of a node share: one pod that floods it leaves the others alone.

use std::time::Duration;

use super::policy::{SOON, five, flow, lines_of, until};
use crate::agent::Agents;
use crate::lab::Lab;

pub const CASES: &[(&str, fn())] = &[("np_11_a_pod_that_floods_the_flow_table_leaves_the_others_alone", flood)];

/// The bound of the lab's nodes, and how many flows the flooding pod tries to have of each family to each place.
const BOUND: usize = 300;
const TRIED: usize = 3_000;
/// What the node and the other pods have: probes, discovery, the mesh itself.
const OTHERS: usize = 300;

/// Connections that a node's kernel knows.
fn flows(lab: &Lab, node: &str) -> usize {
    lab.must(node, &["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]).trim().parse().expect("a number")
}

fn flood() {
    let lab = five(&format!("nodes: 2\nflowsPerPod: {BOUND}"));
    let mut agents = Agents::start(&lab, &["demo/b", "demo/far", "plain/c", "plain/out"]);
    // what the flooding pod has already goes on
    let mut own = [false, true].map(|v6| {
        let mut child = flow(&lab, "plain/c", "TCP", lab.ip("plain/out", v6));
        let lines = lines_of(&mut child);
        lines.recv_timeout(SOON).expect("it begins");
        (child, lines)
    });
    // to a pod of its own node, to one elsewhere, and to the node itself; a member does so through the mesh
    for (source, elsewhere) in [("plain/c", "plain/out"), ("demo/a", "demo/far")] {
        let places: Vec<_> = ["demo/b", elsewhere].iter().flat_map(|pod| lab.ips(pod)).collect();
        let node = lab.ask("n1", "status")["underlay"]["addresses"].clone();
        let node = node.as_array().expect("addresses").iter().filter_map(|address| address.as_str());
        let places = places.iter().map(ToString::to_string).chain(node.map(str::to_owned));
        let script = format!(
            "import socket\nfor d in {:?}:\n s=socket.socket(socket.AF_INET6 if ':' in d else socket.AF_INET,socket.SOCK_DGRAM)\n \
             for p in range(2000,{}):\n  try: s.sendto(b'x',(d,p))\n  except OSError: pass",
            places.collect::<Vec<_>>(),
            2000 + TRIED
        );
        lab.must(source, &["python3", "-c", &script]);
        // both families have a bound each
        for node in ["node/n1", "node/n2"] {
            let held = flows(&lab, node);
            println!("{source} floods: {node} knows {held} connections");
            assert!(held <= 4 * BOUND + OTHERS, "{node} knows {held} connections");
        }
        for (from, to) in [("demo/b", "demo/far"), ("demo/far", "demo/b"), ("plain/out", "demo/b")] {
            until(&mut agents, true, from, to, "TCP", 80);
            until(&mut agents, true, from, to, "UDP", 80);
        }
    }
    assert!(flows(&lab, "node/n1") > BOUND, "the flood says something");
    // new flows of the flooding pod are refused, and it is told
    assert!(!agents.reaches("plain/c", "plain/out", false, "TCP", 80), "a flow above the bound began");
    assert!(lab.drops("n1", "flows_exceeded") > u64::try_from(TRIED).expect("small"));
    let metrics = lab.ask("n1", "metrics");
    let is_told = metrics.as_str().is_some_and(|text| text.contains("mesh_drops_total{reason=\"flows_exceeded\"}"));
    assert!(is_told, "{metrics}");
    for (child, lines) in &mut own {
        while lines.try_recv().is_ok() {}
        lines.recv_timeout(Duration::from_secs(2)).expect("what was there before the flood goes on");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    // each has ended and left a place of its family
    until(&mut agents, true, "plain/c", "plain/out", "TCP", 80);
}
