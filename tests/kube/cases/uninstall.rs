//! F41: Weft goes away and leaves no object, route, rule, link or file.

use std::time::Duration;

use super::Case;
use super::people::must;
use crate::cluster::{Cluster, NODES, ROOT};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("f41_uninstall_leaves_nothing", uninstall_leaves_nothing)];

/// What a node holds that Weft could have put there; pods' own links come and go.
const HELD: &str = "ls /sys/class/net | grep -v veth; ip rule; ip -6 rule; \
    ip route show table all | grep -v 'cache\\|veth\\|cni0' | sort; ip -6 route show table all | grep -v 'veth\\|expires\\|cni0' | sort; \
    nft list tables | grep -v kube-proxy | sort; ls -A /run/weft /var/lib/weft 2>&1; \
    find /etc/cni /opt/cni /var/lib /run -xdev -iname '*weft*' -o -xdev -iname 'mesh-cni*' | grep -v containerd; \
    cat /etc/cni/net.d/*; ls -A /etc/cni/net.d /opt/cni/bin; \
    cd /proc/sys/net; grep . ipv4/ip_forward ipv6/conf/all/forwarding bridge/bridge-nf-call-ip*tables ipv4/conf/{all,default,eth0}/rp_filter";

fn held(cluster: &Cluster, node: &str) -> String {
    let output = cluster.on_node(node, &["bash", "-c", HELD]);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Writes down what each node holds before Weft comes.
pub fn remember(cluster: &Cluster) {
    // what Weft needs for pods on a bridge is not set on one of them
    cluster.must_on("n1", "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables");
    for node in NODES {
        let text = held(cluster, node);
        std::fs::write(cluster.dir.join(format!("{node}.before")), text).expect("the run's folder takes files");
    }
}

fn uninstall_leaves_nothing(cluster: &Cluster) {
    // pods that were made with mesh-cni, and a conversation that goes on
    let pods = cluster.pods("survivors", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(90));
    let talks: Vec<_> = pods[1].ips.iter().map(|ip| pods[0].talks(*ip, 5, 600)).collect();
    // what the component of the start-up taint adds for the whole cluster
    for file in ["rbac.yaml", "admission.yaml"] {
        cluster.kubectl(&["apply", "-f", &format!("{ROOT}/manifests/components/startup-taint/{file}")]);
    }
    must(cluster, "meshctl", &["uninstall", "--yes"]);
    for talk in talks {
        let (lines, gap) = talk.enough();
        eprintln!("taken away under traffic: {lines} lines, none lost, longest wait {gap:.2} s");
    }
    for node in NODES {
        let before = std::fs::read_to_string(cluster.dir.join(format!("{node}.before"))).expect("it was remembered");
        let after = held(cluster, node);
        let missing = |from: &str, line: &str| !from.lines().any(|one| one == line);
        let gone: Vec<_> = before.lines().filter(|line| missing(&after, line)).collect();
        let left: Vec<_> = after.lines().filter(|line| missing(&before, line)).collect();
        assert!(gone.is_empty() && left.is_empty(), "{node}: gone {gone:#?}, left {left:#?}");
    }
    // the runtime ends their sandboxes without us, by the list as it is and as it was at their ADD
    for node in NODES {
        let remembered = cluster
            .must_on(node, "cat /var/lib/cni/results/* | grep -o '\"config\":\"[^\"]*' | cut -d'\"' -f4 | base64 -d");
        assert!(remembered.contains("host-local") && !remembered.contains("mesh-cni"), "{node}: {remembered}");
    }
    cluster.delete_namespaces(&["survivors"]);
    for (pod, node) in pods.iter().zip(NODES) {
        let held = format!(
            "cat /var/lib/cni/results/* 2>/dev/null | grep -cF {0}/; ls /var/lib/cni/networks/pods | grep -cxF {0}",
            pod.ip(false)
        );
        eventually(&format!("{node} holds nothing of {}", pod.name), Duration::from_secs(180), || {
            let counts = cluster.must_on(node, &format!("{held} || true"));
            (counts.split_whitespace().collect::<Vec<_>>() == ["0", "0"]).then_some(())
        });
    }
    let objects = cluster.kubectl(&[
        "get",
        "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,namespace",
        "-o",
        "name",
    ]);
    let ours: Vec<_> = objects.lines().filter(|name| name.contains("weft")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}
