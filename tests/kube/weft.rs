//! Weft on the cluster: its image, its manifests, and what it says about itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, NODES, ROOT};
use crate::shell::{eventually, run};

/// How Weft's programs are built: figures are of programs with optimisation.
fn profile() -> String {
    std::env::var("WEFT_KUBE_PROFILE").unwrap_or_else(|_| "dev".to_owned())
}

/// One of Weft's programs as it is in the image.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test binary has a path");
    let built = own.parent().and_then(Path::parent).expect("it is in a target folder");
    match profile().as_str() {
        "dev" => built.join(name),
        profile => built.join(format!("../{}-unknown-linux-gnu/{profile}", std::env::consts::ARCH)).join(name),
    }
}

/// Makes the images that every node imports: Weft's own, one for pods, and the sandbox's.
pub fn images(folder: &Path) {
    let archive = |name: &str| folder.join(format!("{name}.tar")).display().to_string();
    let tool = format!("{ROOT}/scripts/image");
    run(&tool, &["archive", &archive("weft"), &profile()]);
    let root = folder.join("root");
    let place = root.display();
    run(
        "sh",
        &[
            "-ec",
            &format!(
                "mkdir -p {place}/bin {place}/etc {place}/tmp {place}/www; cp /bin/busybox {place}/bin/\n\
                 for a in $({place}/bin/busybox --list); do [ $a = busybox ] || ln -s busybox {place}/bin/$a; done\n\
                 echo root:x:0:0:root:/:/bin/sh > {place}/etc/passwd; chmod 755 {place}; echo hello > {place}/www/index.html"
            ),
        ],
    );
    run(&tool, &["pack", &archive("pause"), "localhost/pause:1", &place.to_string(), "/bin/sleep", "2147483647"]);
    run(&tool, &["pack", &archive("pod"), "localhost/pod:1", &place.to_string(), "/bin/sh"]);
    std::fs::remove_dir_all(&root).expect("the folder was just made");
}

/// Applies an overlay and waits until every pod of Weft is Ready and every node has joined; how long that took.
pub fn install(cluster: &Cluster, overlay: &str) -> Duration {
    let begin = Instant::now();
    cluster.kubectl(&["apply", "-k", &format!("{ROOT}/manifests/overlays/{overlay}")]);
    await_ready(cluster);
    begin.elapsed()
}

/// Waits until Weft serves on every node.
pub fn await_ready(cluster: &Cluster) {
    // one look at everything, since kubectl costs a good part of a core while it asks
    let everything = ["daemonset/weft-node", "deployment/weft-controller"].map(str::to_owned);
    let nodes = NODES.map(|node| format!("meshnode/{node}"));
    let names: Vec<_> = everything.iter().chain(&nodes).map(String::as_str).collect();
    eventually("Weft is Ready and every node has joined", Duration::from_secs(240), || {
        let output = cluster.try_kubectl(&[&["-n", "weft-system", "get", "-o", "json"], &names[..]].concat());
        let list: Value = serde_json::from_slice(&output.stdout).ok()?;
        let [daemons, controller, joining @ ..] = list["items"].as_array()?.as_slice() else { return None };
        let ready = daemons["status"]["observedGeneration"] == daemons["metadata"]["generation"]
            && daemons["status"]["numberReady"] == NODES.len()
            && daemons["status"]["updatedNumberScheduled"] == NODES.len()
            && controller["status"]["readyReplicas"] == controller["spec"]["replicas"]
            && joining.len() == NODES.len()
            && joining.iter().all(|node| node["status"]["joined"] == true);
        if !ready {
            std::thread::sleep(Duration::from_millis(100));
        }
        ready.then_some(())
    });
}

/// The daemon's process on a node, as a shell asks for it.
pub const DAEMON: &str = "pgrep -f '^/usr/local/bin/meshd node'";

/// The daemon's pod on a node. While daemons are rolled there are two, and the one that stays is the newer.
pub fn daemon_pod(cluster: &Cluster, node: &str) -> String {
    let pods = cluster.json(&["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-node"]);
    let all = pods["items"].as_array().into_iter().flatten().filter(|pod| pod["spec"]["nodeName"] == node);
    let newest = all.max_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().map(str::to_owned));
    newest.expect("a daemon")["metadata"]["name"].as_str().expect("a name").to_owned()
}

/// Kills the daemons of some nodes as `kill -9` does, and waits until each kubelet has started another.
pub fn kill_daemons(cluster: &Cluster, nodes: &[&str]) {
    let before: Vec<_> = nodes.iter().map(|node| cluster.must_on(node, DAEMON)).collect();
    for node in nodes {
        cluster.must_on(node, &format!("kill -9 $({DAEMON})"));
    }
    for (node, before) in nodes.iter().zip(before) {
        eventually(&format!("the daemon of {node} runs again"), Duration::from_secs(120), || {
            let output = cluster.on_node(node, &["sh", "-c", DAEMON]);
            (output.status.success() && output.stdout != before.as_bytes()).then_some(())
        });
    }
}

/// The addresses of an endpoint of a slice.
pub fn addresses(endpoint: &Value) -> impl Iterator<Item = &str> {
    endpoint["ips"].as_array().into_iter().flatten().filter_map(Value::as_str)
}
