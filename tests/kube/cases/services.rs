//! PL-21: Services through the mesh, after kube-proxy's translation and before anybody's clear text.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::peer_authentication;
use crate::shell::{attempt, eventually};

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("pl_21_services_of_every_kind", services_of_every_kind)];

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: server, namespace: services}\n\
    spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {app: server}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}\n";

fn outside_reaches(node: &str) -> bool {
    let url = format!("http://{node}:30080/name");
    attempt("curl", &["-sgf", "--noproxy", "*", "-m", "2", &url]).stdout.starts_with(b"server")
}

fn services_of_every_kind(cluster: &Cluster) {
    let plain = cluster.pods("services-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("services", true, &[("client", "n1"), ("neighbour", "n2"), ("server", "n2")]);
    let (client, neighbour, stranger) = (&pods[0], &pods[1], &plain[0]);
    cluster.apply(SERVICE);
    let service = cluster.json(&["-n", "services", "get", "service", "server"]);
    let addresses: Vec<std::net::IpAddr> = service["spec"]["clusterIPs"]
        .as_array()
        .expect("cluster addresses")
        .iter()
        .map(|ip| ip.as_str().expect("text").parse().expect("an address"))
        .collect();
    assert_eq!(addresses.len(), 2, "both families");
    for ip in &addresses {
        let port = crate::pod::at(*ip, 80);
        client.gets(&port, true);
        neighbour.gets(&port, true);
        stranger.gets(&port, true);
    }
    let from_outside = |what: &str, node: &str| {
        eventually(&format!("{what}, {node}"), Duration::from_secs(90), || outside_reaches(node).then_some(()));
    };
    for node in ["10.77.0.12", "[fd77::12]"] {
        from_outside("a NodePort on the pod's own node", node);
    }
    cluster.apply(&peer_authentication("services", "STRICT"));
    for ip in &addresses {
        let port = crate::pod::at(*ip, 80);
        stranger.gets(&port, false);
        client.gets(&port, true);
        neighbour.gets(&port, true);
    }
    // a pod that calls a NodePort: of the other node, from where it comes back to the caller's own, and of the pod's node
    for port in ["10.77.0.11:30080", "[fd77::11]:30080"] {
        neighbour.gets(port, true);
    }
    for port in ["10.77.0.12:30080", "[fd77::12]:30080"] {
        client.gets(port, true);
    }
    for node in ["10.77.0.12", "[fd77::12]"] {
        assert!(!outside_reaches(node), "a caller from outside has no key, and STRICT takes none: {node}");
    }
    // the other node translates such a caller to its own address, and what a node sends to a pod carries the node's identity
    for node in ["10.77.0.11", "[fd77::11]"] {
        from_outside("through another node the caller is that node", node);
    }
    // its endpoints are the pod's addresses: STRICT does not fail the kubelet's probe
    cluster.await_probe("n2", "services/server");
    cluster.delete_namespaces(&["services", "services-plain"]);
}
