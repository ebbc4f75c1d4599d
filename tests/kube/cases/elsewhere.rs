//! `meshctl install` and `uninstall` live where Weft is not in the usual folders, or its image has another name: k3s' own folders,
//! and Harvester's list by its name.
//!
//! The nodes' containerd is told k3s' folders; k3s' own programs are not here, nor is Multus, which on Harvester stands before Canal.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Case;
use super::people::must;
use crate::cluster::{Cluster, NODES};
use crate::pod::peer_authentication;
use crate::shell::eventually;
use crate::weft;

/// The cases of this file; they come after Weft was taken away, and leave it away.
pub const CASES: &[(&str, Case)] =
    &[("f41_k3s_and_harvester_get_weft_by_meshctl_and_are_left_as_they_were", k3s_and_harvester)];

/// Where the network list and the plugins are.
type Folders = (&'static str, &'static str);
const USUAL: Folders = ("/etc/cni/net.d", "/opt/cni/bin");
const K3S: Folders = ("/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni");
/// Weft's image under another name.
const IMAGE: &str = "registry.example/weft:1";

/// Puts a node's list and plugins elsewhere and lets its containerd look for them there. It ends by itself where the folder that it
/// watches goes, so the old ones stay until it is another.
fn put_elsewhere(cluster: &Cluster, node: &str, from: Folders, to: Folders) {
    let ((list, plugins), (to_list, to_plugins)) = (from, to);
    cluster.must_on(
        node,
        &format!("mkdir -p {to_list} {to_plugins}; cp -a {list}/. {to_list}/; cp -a {plugins}/. {to_plugins}/"),
    );
    let folder = cluster.dir.join(node);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the node's folder has it");
    let text = read("containerd.toml").replace(&format!("\"{list}\""), &format!("\"{to_list}\""));
    let text = text.replace(&format!("\"{plugins}\""), &format!("\"{to_plugins}\""));
    std::fs::write(folder.join("containerd.toml"), text).expect("the run's folder takes files");
    let before = read("containerd.pid");
    cluster.must_on(node, &format!("kill -9 {}", before.trim()));
    let ctr = cluster.tools.join("ctr").display().to_string();
    eventually(&format!("containerd of {node} is back"), Duration::from_secs(120), || {
        (read("containerd.pid") != before && cluster.on_node(node, &[&ctr, "version"]).status.success()).then_some(())
    });
    cluster.must_on(node, &format!("rm -r {list} {plugins}"));
}

/// Every file of a node that an installation may change, with its content.
fn files(cluster: &Cluster, (list, plugins): Folders) -> BTreeMap<&'static str, String> {
    let look = format!(
        "cd {list} && sha256sum * && ls -A {plugins} && ls -d /var/lib/weft /run/weft 2>&1; nft list tables | grep -i weft; \
         ls -d {} {} 2>&1; ls /sys/class/net/mesh0 2>&1 || true",
        USUAL.0, K3S.0
    );
    NODES.map(|node| (node, cluster.must_on(node, &look))).into()
}

/// Installs an overlay, sees that pods are members of the mesh by this list, and takes it all away again.
fn come_and_go(cluster: &Cluster, overlay: &str, folders: Folders, list: &str) {
    let before = files(cluster, folders);
    // and once more, where Weft is there already: its daemons first, then its controllers
    for _twice in 0..2 {
        must(cluster, "meshctl", &["install", "--overlay", overlay, "--image", IMAGE]);
    }
    weft::await_ready(cluster);
    let path = "jsonpath={.items[*].spec.containers[*].image}";
    let images =
        cluster.kubectl(&["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/part-of=weft", "-o", path]);
    assert!(images.split_whitespace().all(|image| image == IMAGE), "{overlay}: {images}");
    for node in NODES {
        let plugins = cluster.must_on(node, &format!("ls {}", folders.1));
        assert!(plugins.contains("mesh-cni"), "{overlay}: {node}: {plugins}");
        let file = cluster.must_on(node, &format!("cat {}/pods/50-mesh-cni.conf", folders.0));
        assert!(file.contains("mesh-cni"), "{overlay}: {node}: {file}");
    }
    let pods = cluster.pods(overlay, true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication(overlay, "STRICT"));
    for ip in &pods[1].ips {
        pods[0].pings_within(*ip, Duration::from_secs(90));
    }
    for node in NODES {
        // the runtime has called it by that file
        eventually("the list is given back", Duration::from_secs(60), || {
            let text = cluster.must_on(node, &format!("cat {}/{list}", folders.0));
            (!text.contains("mesh-cni")).then_some(())
        });
    }
    must(cluster, "meshctl", &["uninstall", "--yes"]);
    assert_eq!(files(cluster, folders), before, "{overlay}: what is left, or gone");
    // pods still come and go
    let namespace = format!("{overlay}-after");
    let pods = cluster.pods(&namespace, false, &[("client", "n1"), ("server", "n2")]);
    for ip in &pods[1].ips {
        pods[0].pings_within(*ip, Duration::from_secs(90));
    }
    cluster.delete_namespaces(&[overlay, &namespace]);
}

fn k3s_and_harvester(cluster: &Cluster) {
    // alone, this case comes after the one that installs Weft
    if cluster.try_kubectl(&["get", "namespace", "weft-system"]).status.success() {
        must(cluster, "meshctl", &["uninstall", "--yes"]);
    }
    let ctr = cluster.tools.join("ctr").display().to_string();
    for node in NODES {
        cluster.must_on(node, &format!("{ctr} -n k8s.io image tag localhost/weft:dev {IMAGE}"));
        put_elsewhere(cluster, node, USUAL, K3S);
    }
    cluster.await_nodes();
    come_and_go(cluster, "k3s", K3S, "10-pods.conflist");
    for node in NODES {
        put_elsewhere(cluster, node, K3S, USUAL);
        cluster.must_on(node, &format!("mv {0}/10-pods.conflist {0}/10-canal.conflist", USUAL.0));
    }
    cluster.await_nodes();
    come_and_go(cluster, "harvester", USUAL, "10-canal.conflist");
    // an overlay with an object of a kind that this cluster does not have yet
    must(cluster, "meshctl", &["install", "--overlay", "strict", "--image", IMAGE]);
    let mode = ["-n", "weft-system", "get", "pa", "default", "-o", "jsonpath={.spec.mtls.mode}"];
    assert_eq!(cluster.kubectl(&mode), "STRICT");
    must(cluster, "meshctl", &["uninstall", "--yes"]);
    for node in NODES {
        cluster.must_on(node, &format!("mv {0}/10-canal.conflist {0}/10-pods.conflist", USUAL.0));
    }
}
