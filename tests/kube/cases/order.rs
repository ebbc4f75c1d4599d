//! Start order: an API server that a node reaches through the mesh only, and an agent that does not stop rewriting the network list.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::control_plane::ADDRESS;
use crate::pod::{at, peer_authentication, pod};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("an_api_server_behind_the_mesh_is_reached_by_a_daemon_that_restarts", api_server_behind_the_mesh),
    ("cn_20_an_agent_that_keeps_rewriting_the_list_is_told_of_once", an_agent_that_keeps_rewriting),
];

/// Port of the pod that leads to the API server.
const RELAY: u16 = 6443;
/// The API server's own address as a Service, which kube-proxy leads to [`ADDRESS`].
const SERVICE: &str = "10.96.0.1";

/// A node's way to the API server, put back at the end.
struct Detour<'a>(&'a Cluster);

impl Drop for Detour<'_> {
    fn drop(&mut self) {
        self.0.on_node("n1", &["nft", "delete", "table", "ip", "detour"]);
    }
}

fn api_server_behind_the_mesh(cluster: &Cluster) {
    let plain = cluster.pods("behind-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("behind", true, &[("client", "n1"), ("relay", "n2")]);
    cluster.apply(&peer_authentication("behind", "STRICT"));
    let (client, relay) = (&pods[0], &pods[1]);
    let relaying = relay.load(include_str!("../load/relay.py"), &[&RELAY.to_string(), &format!("{ADDRESS}:6443")]);
    let through = at(relay.ip(false), RELAY);
    let asks = |who: &crate::pod::Pod| {
        who.exec(&["curl", "-sk", "--noproxy", "*", "-m", "2", &format!("https://{through}/readyz")]).status.success()
    };
    eventually("a member reaches the API server by the relay", Duration::from_secs(10), || asks(client).then_some(()));
    eventually("a stranger does not", Duration::from_secs(10), || (!asks(&plain[0])).then_some(()));
    let written = || cluster.must_on("n1", "cat /var/lib/weft/view").contains("\"behind\"").then_some(());
    eventually("the node has written down what it knows", Duration::from_secs(10), written);
    // n1 has no other way to the API server than the pod on n2, which takes nothing in clear text
    let detour = Detour(cluster);
    cluster.must_on(
        "n1",
        &format!(
            "nft 'add table ip detour; add chain ip detour away {{ type nat hook output priority -150; }}; \
             add rule ip detour away ip daddr {{ {ADDRESS}, {SERVICE} }} tcp dport {{ 443, 6443 }} dnat to {through}; \
             add chain ip detour shut {{ type filter hook output priority 100; }}; \
             add rule ip detour shut ip daddr {ADDRESS} tcp dport 6443 counter reject with tcp reset'"
        ),
    );
    let daemon = "pgrep -f '^/usr/local/bin/meshd node'";
    let before = cluster.must_on("n1", daemon);
    cluster.must_on("n1", &format!("kill -9 $({daemon})"));
    eventually("the daemon runs again", Duration::from_secs(30), || {
        let output = cluster.on_node("n1", &["sh", "-c", daemon]);
        (output.status.success() && output.stdout != before.as_bytes()).then_some(())
    });
    // it follows the server: what is written now is in force, and a pod that is made now is attached
    let web = at(client.ip(false), 8080);
    plain[0].gets(&web, false);
    let ((), took) = eventually("a new pod of n1 is in the mesh", Duration::from_secs(60), || {
        cluster.apply(&pod("behind", "late", "n1", ""));
        let output = cluster.try_kubectl(&["-n", "behind", "get", "pod", "late", "-o", "jsonpath={.status.phase}"]);
        (output.stdout == b"Running").then_some(())
    });
    eprintln!("{:.1} s after the restart a new pod runs on the node behind the mesh", took.as_secs_f64());
    let late = cluster.pod("behind/late");
    late.pings_within(relay.ip(true), Duration::from_secs(30));
    cluster.apply(&peer_authentication("behind", "PERMISSIVE"));
    plain[0].gets(&web, true);
    let connections = cluster.must_on("n1", "ss -Htnp state established | grep '\"meshd\"'");
    assert!(!connections.is_empty(), "the daemon speaks to no server");
    drop(detour);
    drop(relaying);
    cluster.await_nodes();
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["behind", "behind-plain"]);
}

fn an_agent_that_keeps_rewriting(cluster: &Cluster) {
    let list = "/etc/cni/net.d/10-pods.conflist";
    let rewrite = format!(
        "python3 -c \"import json; open('{list}.new','w').write(json.load(open('/var/lib/weft/cni-original'))['before'])\" && \
         mv {list}.new {list}"
    );
    let is_chained = || cluster.must_on("n2", &format!("cat {list}")).contains("mesh-cni");
    let daemon = "kill -9 $(pgrep -f '^/usr/local/bin/meshd node')";
    // what it counted of another case is forgotten with the process
    cluster.must_on("n2", daemon);
    weft::await_ready(cluster);
    let selector = ["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-node", "-o"];
    let name =
        cluster.kubectl(&[&selector[..], &["jsonpath={.items[?(@.spec.nodeName=='n2')].metadata.name}"]].concat());
    let said = |words: &[&str]| {
        let output = cluster.try_kubectl(&[&["-n", "weft-system"], words].concat());
        String::from_utf8_lossy(&output.stdout).matches("keeps taking mesh-cni out").count()
    };
    let status = ["exec", name.trim(), "--", "meshctl", "status"];
    eventually("status tells of the fight", Duration::from_secs(30), || {
        cluster.must_on("n2", &rewrite);
        let again = std::time::Instant::now();
        while !is_chained() && again.elapsed() < Duration::from_secs(2) {}
        (said(&status) > 0).then_some(())
    });
    // many rounds later it is in the log once
    let rounds = std::time::Instant::now();
    eventually("six rounds have passed", Duration::from_secs(10), || {
        (rounds.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert_eq!(said(&["logs", name.trim()]), 1, "how often the log says it");
    assert!(!is_chained(), "the fight goes on");
    cluster.must_on("n2", daemon);
    eventually("mesh-cni is chained again", Duration::from_secs(60), || is_chained().then_some(()));
    weft::await_ready(cluster);
}
