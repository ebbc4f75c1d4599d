//! A large cluster's worth of objects in the API server, without kubelets: memory, rest, and a restart among them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Case;
use super::figures::lists;
use super::trust::{OURS, send_with};
use crate::cluster::{Cluster, NODES};
use crate::pod::namespace;
use crate::report::{Reporter, attachment, key};
use crate::shell::{eventually, run};
use crate::weft;

/// At the end of all, since it leaves a cluster that has much to forget.
pub const LAST: &[(&str, Case)] = &[("figure_five_thousand_pods", five_thousand_pods)];

/// Resident memory in MiB of the first process whose command line begins so, and processor time in seconds: of its whole control
/// group, where what it starts counts too, and what a probe does in its container; and its own.
fn process(cluster: &Cluster, node: &str, command: &str) -> (f64, f64, f64) {
    let text = cluster.must_on(
        node,
        &format!(
            "p=$(pgrep -o -f '^{command}') && awk '/VmRSS/ {{print $2/1024}}' /proc/$p/status && \
             if [ -f /sys/fs/cgroup/cgroup.controllers ]; then \
               awk '/^usage_usec/ {{print $2/1e6}}' /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/$p/cgroup)/cpu.stat; \
             else \
               awk '{{print $1/1e9}}' /sys/fs/cgroup/cpuacct$(sed -n 's/^[0-9]*:[^:]*cpuacct[^:]*://p' /proc/$p/cgroup)/cpuacct.usage; \
             fi && sed 's/.*) //' /proc/$p/stat | awk '{{print ($12 + $13) / 100}}'"
        ),
    );
    let mut numbers = text.split_whitespace().map(|word| word.parse().expect("a number"));
    let mut next = || numbers.next().expect("memory and two times");
    (next(), next(), next())
}

/// Writes the report of every node that has no daemon, as that would: its pods attached, a key for each identity there. How many
/// keys were asked for.
fn reports(cluster: &Cluster) -> usize {
    let own = cluster.json(&["get", "meshnode", "n1"]);
    let epoch = own["spec"]["keys"][0]["epoch"].as_u64().expect("n1 asks for a key");
    let mut by_node: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for pod in cluster.json(&["get", "pods", "-A"])["items"].as_array().expect("a list") {
        let text = |pointer: &str| pod.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
        let (space, node) = (text("/metadata/namespace"), text("/spec/nodeName"));
        if !space.starts_with("scale-") {
            continue;
        }
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let ips: Vec<_> = ips.filter_map(|ip| ip["ip"].as_str().map(str::to_owned)).collect();
        let attached = attachment(space, text("/metadata/name"), text("/metadata/uid"), &ips);
        by_node.entry(node.to_owned()).or_default().push((space.to_owned(), attached));
    }
    let (reporter, mut asked) = (Reporter::new(), 0);
    for (node, pods) in &by_node {
        let number: u32 = node.trim_start_matches("scale-").parse().expect("a number");
        let address = format!("172.20.{}.{}", number / 250, number % 250 + 1);
        let is_enrolled = |space: &&String| space.trim_start_matches("scale-").parse::<u32>().is_ok_and(|n| n % 2 == 0);
        let spaces: BTreeSet<_> = pods.iter().map(|(space, _)| space).filter(is_enrolled).collect();
        let identities = spaces.into_iter().map(|space| format!("spiffe://cluster.local/ns/{space}/sa/default"));
        let keys = identities.chain([format!("spiffe://cluster.local/node/{node}")]).map(|identity| {
            asked += 1;
            key(&identity, epoch, asked)
        });
        let keys = keys.collect::<Vec<_>>().join(",");
        let attached = pods.iter().map(|(_, attached)| attached.as_str()).collect::<Vec<_>>().join(",");
        let said = format!(
            r#""endpoints":["{address}:51840"],"addresses":["{address}"],"keys":[{keys}],"attachments":[{attached}],"observedRevision":0"#
        );
        let spec = reporter.spec(node, node, &said, 1);
        let body = format!(
            r#"{{"apiVersion":"weft.dev/v1alpha1","kind":"MeshNode","metadata":{{"name":"{node}"}},"spec":{spec}}}"#
        );
        let as_node = [
            "Impersonate-User: system:serviceaccount:weft-system:weft-node".to_owned(),
            format!("Impersonate-Extra-Authentication.kubernetes.io%2Fnode-name: {node}"),
        ];
        let (code, said) = send_with(cluster, "admin-token", ("POST", &format!("{OURS}/meshnodes")), &body, &as_node);
        assert_eq!(code, 201, "{said}");
    }
    usize::try_from(asked).expect("a few thousand")
}

const NODE: &str = "/usr/local/bin/meshd node";
const CONTROLLER: &str = "/usr/local/bin/meshd controller";

fn five_thousand_pods(cluster: &Cluster) {
    let (nodes, pods, services) = ("500", "5000", "1000");
    weft::install(cluster, "default");
    // nobody keeps the heartbeats of these nodes
    cluster.plane.kill("kube-controller-manager");
    let spaces: String = (0..20)
        .map(|i| {
            namespace(&format!("scale-{i}"), i % 2 == 0)
                + &format!(
                    "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: default, namespace: scale-{i}}}\n---\n"
                )
        })
        .collect();
    cluster.apply(&spaces);
    let authority = cluster.dir.join("pki/ca.crt").display().to_string();
    let program = include_str!("../load/populate.py");
    let took = run(
        "python3",
        &["-c", program, crate::control_plane::ADDRESS, &authority, "admin-token", nodes, pods, services],
    );
    eprintln!(
        "figure: {nodes} nodes, {pods} running pods of two families and {services} Services written in {:.0} s",
        took.trim().parse::<f64>().expect("a number")
    );
    let keys = reports(cluster);
    // one that lost its lease while all that was written is followed by another
    let path = ["-n", "weft-system", "get", "lease", "weft-controller", "-o", "jsonpath={.spec.holderIdentity}"];
    let (leader, _) = eventually("a controller leads", Duration::from_secs(60), || {
        // a holder is named after its node
        let holder = cluster.kubectl(&path);
        NODES.into_iter().find(|node| holder.split('_').next() == Some(node))
    });
    // it has taken all of it in when every key is bound and its processor rests
    let bound = || {
        let slices = cluster.json(&["get", "meshendpointslices"]);
        let lists =
            slices["items"].as_array().expect("a list").iter().map(|slice| slice["spec"]["bindings"].as_array());
        lists.map(|list| list.map_or(0, Vec::len)).sum::<usize>()
    };
    let (bound, _) =
        eventually("every key is bound", Duration::from_secs(180), || Some(bound()).filter(|n| *n >= keys));
    let rests = || {
        let before = process(cluster, "n1", NODE).1 + process(cluster, leader, CONTROLLER).1;
        std::thread::sleep(Duration::from_secs(3));
        (process(cluster, "n1", NODE).1 + process(cluster, leader, CONTROLLER).1 - before < 0.5).then_some(())
    };
    eventually("Weft has taken it in", Duration::from_secs(180), rests);
    eprintln!(
        "figure: {bound} keys bound, of {keys} asked for in the name of {nodes} nodes, and those of the two that run"
    );
    let (listed, began) = (lists(cluster), Instant::now());
    let before = [process(cluster, "n1", NODE), process(cluster, leader, CONTROLLER)];
    std::thread::sleep(Duration::from_secs(30));
    let seconds = began.elapsed().as_secs_f64();
    let after = [process(cluster, "n1", NODE), process(cluster, leader, CONTROLLER)];
    for (index, (name, goal)) in [("meshd node", 120), ("meshd controller", 250)].iter().enumerate() {
        let share = (after[index].1 - before[index].1) / seconds * 100.0;
        let own = (after[index].2 - before[index].2) / seconds * 100.0;
        eprintln!(
            "figure: {name}: {:.1} MiB resident (goal {goal} MiB), {share:.2} % of a core at rest, {own:.2} % without what it starts \
             and its probes (goal 1 %)",
            after[index].0
        );
    }
    let (full, absent) = lists(cluster);
    eprintln!(
        "figure: full lists of ours in {seconds:.0} s at rest: {} (goal 0); looks for kinds that are not installed: {}",
        full - listed.0,
        absent - listed.1
    );
    // a daemon that begins again
    cluster.must_on("n1", &format!("kill -9 $(pgrep -o -f '^{NODE}')"));
    eventually("the daemon is started again", Duration::from_secs(30), || {
        cluster.on_node("n1", &["pgrep", "-f", &format!("^{NODE}")]).status.success().then_some(())
    });
    let meshctl = weft::program("meshctl").display().to_string();
    let ready = || cluster.on_node("n1", &[&meshctl, "status"]).status.success().then_some(());
    let ((), took) = eventually("the daemon is ready", Duration::from_secs(60), ready);
    eprintln!(
        "figure: from a daemon's start until it has listed everything and serves: {:.1} s (goal 5 s)",
        took.as_secs_f64()
    );
    eprintln!("figure: meshd node after that: {:.1} MiB resident (goal 120 MiB)", process(cluster, "n1", NODE).0);
    cluster.kubectl(&["delete", "nodes", "-l", "!kubernetes.io/hostname", "--wait=false"]);
}
