//! The runtime's own calls of the plugin: STATUS by its list's version, and a DEL whose network namespace is gone.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::peer_authentication;
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("cn_04_the_runtime_ends_a_sandbox_whose_namespace_is_gone", a_namespace_is_gone),
    ("cn_06_the_runtime_asks_for_the_status", the_runtime_asks),
];

/// Where the node's list is.
const LIST: &str = "/etc/cni/net.d/10-pods.conflist";

fn a_namespace_is_gone(cluster: &Cluster) {
    let pods = cluster.pods("ended", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("ended", "STRICT"));
    let server = &pods[1];
    pods[0].pings_within(server.ip(false), Duration::from_secs(10));
    let mentions = |what: &str| cluster.must_on("n2", &format!("{what} | grep -c {} || true", server.ip(false)));
    assert_ne!(mentions("nft list ruleset").trim(), "0", "the pod is in the filter");
    // its mount goes: the runtime's DEL has an empty CNI_NETNS, and so has the second one that the kubelet asks for
    let path = cluster.must_on("n2", &format!("grep -l {} /var/lib/cni/results/* | head -n 1", server.ip(false)));
    let result = cluster.must_on("n2", &format!("cat {}", path.trim()));
    let result: serde_json::Value = serde_json::from_str(&result).expect("libcni writes JSON");
    let interfaces = result["result"]["interfaces"].as_array().expect("interfaces").clone();
    let netns = interfaces.iter().find_map(|link| link["sandbox"].as_str().filter(|path| !path.is_empty()));
    let netns = netns.expect("a sandbox").to_owned();
    cluster.must_on("n2", &format!("umount {netns} && rm {netns}"));
    cluster.kubectl(&["-n", "ended", "delete", "pod", "server", "--timeout=30s"]);
    eventually("nothing of the pod is left on its node", Duration::from_secs(15), || {
        let held = [
            mentions("nft list table inet weft"),
            mentions("cat /var/lib/weft/attachments/*"),
            mentions("ls /var/lib/cni/networks/pods"),
            mentions("cat /var/lib/cni/results/*"),
        ];
        held.iter().all(|count| count.trim() == "0").then_some(())
    });
    cluster.delete_namespaces(&["ended"]);
}

/// The list has a version that knows STATUS while this lives.
struct NewList<'a>(&'a Cluster);

impl Drop for NewList<'_> {
    fn drop(&mut self) {
        self.0.on_node(
            "n2",
            &["sh", "-c", &format!("pkill -CONT -f '^/usr/local/bin/meshd node'; {}", versioned("1.0.0"))],
        );
    }
}

/// Changes the list's version and not a byte beside it.
fn versioned(version: &str) -> String {
    format!("sed 's/\\(\"cniVersion\": *\"\\)[0-9.]*/\\1{version}/' {LIST} >{LIST}.new && mv {LIST}.new {LIST}")
}

fn the_runtime_asks(cluster: &Cluster) {
    let list = NewList(cluster);
    cluster.must_on("n2", &versioned("1.1.0"));
    let why = || {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].message}";
        cluster.kubectl(&["get", "node", "n2", "-o", path])
    };
    // a daemon that does not answer: the runtime hears it by STATUS and the kubelet says so
    cluster.must_on("n2", "pkill -STOP -f '^/usr/local/bin/meshd node'");
    let (said, took) = eventually("the node says that its network is not ready", Duration::from_secs(40), || {
        let said = why();
        said.contains("meshd").then_some(said)
    });
    eprintln!("{:.1} s after the daemon stopped: {said}", took.as_secs_f64());
    cluster.must_on("n2", "pkill -CONT -f '^/usr/local/bin/meshd node'");
    cluster.await_nodes();
    eventually("the node says that all is well", Duration::from_secs(40), || {
        why().contains("kubelet is posting ready").then_some(())
    });
    drop(list);
    eventually("mesh-cni is chained", Duration::from_secs(10), || {
        cluster.must_on("n2", &format!("cat {LIST}")).contains("mesh-cni").then_some(())
    });
    // and its pods are served as before
    let pods = cluster.pods("asked", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(10));
    cluster.delete_namespaces(&["asked"]);
}
