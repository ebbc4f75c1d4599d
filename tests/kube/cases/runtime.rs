//! The runtime's own calls of the plugin: STATUS by its list's version, and a DEL whose network namespace is gone.

use std::time::Duration;

use super::Case;
use crate::cluster::{Cluster, ROOT};
use crate::list::LIST;
use crate::pod::{at, peer_authentication};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("cn_04_the_runtime_ends_a_sandbox_whose_namespace_is_gone", a_namespace_is_gone),
    ("cn_06_the_runtime_asks_for_the_status", the_runtime_asks),
    ("cn_16_cnitool_and_the_runtime_leave_each_others_attachments", cnitool_beside_the_runtime),
];

fn a_namespace_is_gone(cluster: &Cluster) {
    let pods = cluster.pods("ended", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("ended", "STRICT"));
    let server = &pods[1];
    pods[0].pings_within(server.ip(false), Duration::from_secs(90));
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
    cluster.kubectl(&["-n", "ended", "delete", "pod", "server", "--timeout=240s"]);
    eventually("nothing of the pod is left on its node", Duration::from_secs(180), || {
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
    let (said, took) = eventually("the node says that its network is not ready", Duration::from_secs(180), || {
        let said = why();
        said.contains("meshd").then_some(said)
    });
    eprintln!("{:.1} s after the daemon stopped: {said}", took.as_secs_f64());
    cluster.must_on("n2", "pkill -CONT -f '^/usr/local/bin/meshd node'");
    cluster.await_nodes();
    eventually("the node says that all is well", Duration::from_secs(180), || {
        why().contains("kubelet is posting ready").then_some(())
    });
    drop(list);
    cluster.await_chained("n2");
    // and its pods are served as before
    let pods = cluster.pods("asked", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(90));
    cluster.delete_namespaces(&["asked"]);
}

/// A network of its own for cnitool on n2, with the plugins of the node's list.
const TOOL_LIST: &str = "mkdir -p /run/tool; python3 - <<'P'\nimport json\nl=json.load(open('/etc/cni/net.d/10-pods.conflist'))\n\
    l['name']='tool'\nb=l['plugins'][0]\nb['bridge']='cni8'\nb['ipam']={'type':'host-local','ranges':[[{'subnet':'10.98.0.0/24'}]]}\n\
    l['plugins']=[p for p in l['plugins'] if p['type']!='mesh-cni']+[{'type':'mesh-cni'}]\n\
    json.dump(l,open('/run/tool/10-tool.conflist','w'))\nP\n\
    sed 's/\"tool\"/\"pods\"/' /run/tool/10-tool.conflist >/run/tool/20-pods.conflist\n\
    for n in tool1 tool2 tool3; do ip netns add $n; ip -n $n link set lo up; done";

/// What a runtime whose libcni has GC says of its network: everything that it remembers, except for what is cnitool's.
const GC: &str = "python3 - <<'P'\nimport glob,json,os,subprocess\nv=[]\nfor f in glob.glob('/var/lib/cni/results/pods-*'):\n\
    \x20n=json.load(open(f))\n if not n['containerId'].startswith('cnitool-'): v.append({'containerID':n['containerId'],'ifname':n['ifName']})\n\
    c={'cniVersion':'1.1.0','name':'pods','type':'mesh-cni','cni.dev/valid-attachments':v}\n\
    e=dict(os.environ,CNI_COMMAND='GC',CNI_PATH='/opt/cni/bin')\n\
    subprocess.run(['/opt/cni/bin/mesh-cni'],input=json.dumps(c).encode(),env=e,check=True)\nprint(len(v))\nP";

fn cnitool_beside_the_runtime(cluster: &Cluster) {
    let program = format!("{ROOT}/.tools/cnitool/cnitool");
    assert!(std::path::Path::new(&program).exists(), "cnitool is not built: run scripts/setup test");
    let pods = cluster.pods("beside", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("beside", "STRICT"));
    let reaches = || pods.iter().flat_map(|pod| &pod.ips).all(|ip| pods[0].get(&at(*ip, 8080)).is_some());
    eventually("the pods reach each other", Duration::from_secs(90), || reaches().then_some(()));
    let list = NewList(cluster);
    cluster.must_on("n2", &versioned("1.1.0"));
    cluster.must_on("n2", TOOL_LIST);
    let tool = |verb: &str, network: &str, netns: &str| {
        let line =
            format!("NETCONFPATH=/run/tool CNI_PATH=/opt/cni/bin {program} {verb} {network} /run/netns/{netns} 2>&1");
        cluster.on_node("n2", &["sh", "-c", &line])
    };
    let must = |verb: &str, network: &str, netns: &str| {
        let output = tool(verb, network, netns);
        assert!(output.status.success(), "{verb} {network} {netns}: {}", String::from_utf8_lossy(&output.stdout));
    };
    let held = |which: &str| {
        let count = cluster.must_on("n2", &format!("ls /var/lib/weft/attachments | {which} || true"));
        count.trim().parse::<u32>().expect("a number")
    };
    let (of_tool, of_runtime) = ("grep -c ^cnitool-", "grep -vc ^cnitool-");
    cluster.await_only_living("n2");
    let before = held(of_runtime);
    assert!(before > 0 && held(of_tool) == 0, "{before} of the runtime");
    // two of another network, and one of the pods' network that the runtime knows nothing of
    for (network, netns) in [("tool", "tool1"), ("tool", "tool2"), ("pods", "tool3")] {
        must("add", network, netns);
        must("check", network, netns);
        must("status", network, netns);
    }
    assert_eq!((held(of_tool), held(of_runtime)), (3, before));
    // the runtime's GC takes what its network's list does not name, and nothing of the other network
    let named = cluster.must_on("n2", GC);
    assert_eq!(named.trim().parse::<u32>().expect("a number"), before, "the runtime remembers what is attached");
    assert_eq!((held(of_tool), held(of_runtime)), (2, before));
    assert!(!tool("check", "pods", "tool3").status.success(), "CHECK of what was collected");
    for netns in ["tool1", "tool2"] {
        must("check", "tool", netns);
    }
    assert!(reaches(), "a GC cut a pod off");
    // cnitool's own: it names none, and so libcni ends all that it remembers of that network
    let _no_list_for_us = tool("gc", "tool", "tool1");
    assert_eq!((held(of_tool), held(of_runtime)), (0, before));
    assert!(reaches(), "cnitool's GC cut a pod off");
    must("del", "pods", "tool3");
    cluster.must_on("n2", "for n in tool1 tool2 tool3; do ip netns del $n; done; ip link del cni8; rm -r /run/tool");
    drop(list);
    cluster.delete_namespaces(&["beside"]);
}
