//! PL-21: Services through the mesh, after kube-proxy's translation and before anybody's clear text.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{MARKER, peer_authentication};
use crate::shell::{attempt, eventually};

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("pl_21_services_of_every_kind", services_of_every_kind),
    ("pl_21_names_headless_services_and_hairpins", names_and_hairpins),
];

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
    assert!(outside_reaches("10.77.0.12"), "a NodePort on the pod's own node");
    cluster.apply(&peer_authentication("services", "STRICT"));
    for ip in &addresses {
        let port = crate::pod::at(*ip, 80);
        stranger.gets(&port, false);
        client.gets(&port, true);
        neighbour.gets(&port, true);
    }
    assert!(!outside_reaches("10.77.0.12"), "a caller from outside has no key, and STRICT takes none");
    // the other node translates such a caller to its own address, and what a node sends to a pod carries the node's identity
    assert!(outside_reaches("10.77.0.11"), "through another node the caller is that node");
    // its endpoints are the pod's addresses: STRICT does not fail the kubelet's probe
    cluster.pod("services/server");
    cluster.delete_namespaces(&["services", "services-plain"]);
}

/// The cluster's name service, a Service without an address of its own, and a Service of the pod that calls it.
const NAMES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: names}\n\
    spec: {clusterIP: 10.96.0.10, selector: {app: dns}, ports: [{port: 53, protocol: UDP}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: names}\n\
    spec: {clusterIP: None, ipFamilyPolicy: RequireDualStack, selector: {app: server}, ports: [{port: 8080}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: own, namespace: names}\n\
    spec: {ipFamilyPolicy: RequireDualStack, selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}\n";

fn names_and_hairpins(cluster: &Cluster) {
    let pods = cluster.pods("names", true, &[("client", "n1"), ("server", "n2"), ("dns", "n2")]);
    cluster.apply(&(peer_authentication("names", "STRICT") + NAMES));
    let (server, dns) = (&pods[1], &pods[2]);
    let joined = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let zone = |name: &str, ips: &[std::net::IpAddr]| format!("{name}.names.svc.cluster.local={}", joined(ips));
    let own = cluster.json(&["-n", "names", "get", "service", "own"]);
    let own: Vec<std::net::IpAddr> = own["spec"]["clusterIPs"]
        .as_array()
        .expect("cluster addresses")
        .iter()
        .map(|ip| ip.as_str().expect("text").parse().expect("an address"))
        .collect();
    // a name server as a pod on the other node; what it knows does not matter here, how it is reached does
    let _resolver =
        dns.resolver(dns.ip(false), &[zone("headless", &server.ips), zone("own", &own), zone(MARKER, &own)]);
    let inside = |script: &str| {
        let output = cluster.try_kubectl(&["-n", "names", "exec", "client", "--", "sh", "-c", script]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let capture = cluster.capture();
    // by the pod's own resolv.conf
    let by_name = |name: &str, port: u16| {
        let find = format!("$(nslookup {name}.names.svc.cluster.local | awk '/^Address: /{{print $2; exit}}')");
        cluster.get_inside("names", "client", &find, port).starts_with("server").then_some(())
    };
    eventually("a headless Service by its name", Duration::from_secs(15), || by_name("headless", 8080));
    eventually("a Service by its name", Duration::from_secs(15), || by_name("own", 80));
    let asked = inside(&format!("nslookup {MARKER}.names.svc.cluster.local"));
    assert!(asked.contains(&own[0].to_string()), "{asked}");
    assert_eq!(capture.markers(), 0, "a question to the name server in clear text");
    // a pod that calls its own Service: translated there and back on its own node
    for ip in &own {
        assert_eq!(server.get(&crate::pod::at(*ip, 80)).as_deref(), Some("server"), "hairpin over {ip}");
    }
    cluster.delete_namespaces(&["names"]);
}
