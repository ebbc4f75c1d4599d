//! What breaks in a cluster: the daemon, its rollout, the API server, the controller, a rewritten network list, a node.

use std::time::Duration;

use super::Case;
use crate::cluster::{Cluster, NODES, ROOT};
use crate::pod::{MARKER, READY, at, peer_authentication, pod};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("pl_01_the_daemon_is_killed_under_traffic", the_daemon_is_killed),
    ("up_02_the_daemons_are_rolled_under_traffic", the_daemons_are_rolled),
    ("the_kubelet_and_the_runtime_are_killed", kubelets_and_runtimes_are_restarted),
    ("mf_05_the_api_server_is_killed_and_comes_back", the_api_server_is_killed),
    ("mf_05_pl_11_daemons_restart_while_the_api_server_is_away", the_daemons_restart_without_an_api_server),
    ("the_leading_controller_is_killed", the_leader_is_killed),
    ("the_leading_controller_ends_and_hands_over", the_leader_hands_over),
    ("cn_20_the_network_list_is_rewritten", the_list_is_rewritten),
    ("pl_04_a_node_is_rebooted", a_node_is_rebooted),
];

fn the_daemon_is_killed(cluster: &Cluster) {
    let pods = cluster.pods("killed", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("killed", "STRICT"));
    let (client, server) = (&pods[0], &pods[1]);
    for ip in &server.ips {
        client.pings_within(*ip, Duration::from_secs(30));
    }
    let capture = cluster.capture();
    let talks = server.ips.iter().map(|ip| client.talk(*ip, 120)).collect::<Vec<_>>();
    for node in NODES {
        cluster.must_on(node, "kill -9 $(pgrep -f '^/usr/local/bin/meshd node')");
    }
    let again = |node: &str| {
        let output = cluster.on_node(node, &["pgrep", "-f", "^/usr/local/bin/meshd node"]);
        output.status.success().then_some(())
    };
    for node in NODES {
        eventually(&format!("the daemon of {node} runs again"), Duration::from_secs(30), || again(node));
    }
    weft::await_ready(cluster);
    for ip in &server.ips {
        assert_eq!(client.echo(*ip, MARKER).as_deref(), Some(MARKER), "a new connection");
    }
    for talk in talks {
        let (lines, gap) = talk.enough();
        eprintln!("kill -9 of both daemons: {lines} lines, none lost, longest wait {gap:.2} s");
    }
    assert_eq!(capture.markers(), 0, "clear text while the daemon was away");
    cluster.delete_namespaces(&["killed"]);
}

fn the_daemons_are_rolled(cluster: &Cluster) {
    let pods = cluster.pods("rolled", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server) = (&pods[0], &pods[1]);
    client.pings_within(server.ip(false), Duration::from_secs(30));
    // a policy that lets nobody else in: what the other configuration does not enforce
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: rolled}\n\
         spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 9000}]}]}\n",
    );
    let web = at(server.ip(false), 8080);
    client.gets(&web, false);
    let capture = cluster.capture();
    let talks = server.ips.iter().map(|ip| client.talks(*ip, 100, 300)).collect::<Vec<_>>();
    // to another configuration and back, as an upgrade is
    let roll = |overlay: &str| {
        cluster.kubectl(&["apply", "-k", &format!("{ROOT}/manifests/overlays/{overlay}")]);
        cluster.kubectl(&["-n", "weft-system", "rollout", "status", "daemonset/weft-node", "--timeout=60s"]);
    };
    roll("no-policy");
    client.gets(&web, true);
    roll("default");
    client.gets(&web, false);
    for talk in talks {
        let (lines, gap) = talk.enough();
        eprintln!("two rolling updates: {lines} lines over 100 connections, none broken, longest wait {gap:.2} s");
        // each daemon was ready to take over before its forerunner was ended
        assert!(gap < 3.0, "a connection waited {gap:.2} s for a daemon");
    }
    assert_eq!(capture.markers(), 0, "clear text during a rolling update");
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["rolled"]);
}

fn kubelets_and_runtimes_are_restarted(cluster: &Cluster) {
    let pods = cluster.pods("restarted", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("restarted", "STRICT"));
    let (client, server) = (&pods[0], &pods[1]);
    client.pings_within(server.ip(true), Duration::from_secs(30));
    let uids = |cluster: &Cluster| {
        let path = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}\n{end}";
        cluster.kubectl(&["-n", "restarted", "get", "pods", "client", "server", "-o", path])
    };
    let before = uids(cluster);
    let capture = cluster.capture();
    for program in ["kubelet", "containerd"] {
        let talk = client.talks(server.ip(true), 20, 120);
        for node in NODES {
            // node.sh starts it again, as a supervisor would
            let pid =
                std::fs::read_to_string(cluster.dir.join(node).join(format!("{program}.pid"))).expect("it was started");
            cluster.must_on(node, &format!("kill -9 {}", pid.trim()));
        }
        // a pod that is made now is in the mesh too
        let name = format!("after-{program}");
        cluster.apply(&pod("restarted", &name, "n2", READY));
        let late = cluster.pod(&format!("restarted/{name}"));
        client.pings_within(late.ip(false), Duration::from_secs(30));
        assert_eq!(client.echo(late.ip(false), MARKER).as_deref(), Some(MARKER));
        cluster.await_nodes();
        let (lines, gap) = talk.enough();
        eprintln!("{program} killed on both nodes: {lines} lines, none lost, longest wait {gap:.2} s");
    }
    assert_eq!(capture.markers(), 0, "clear text around a restart of the runtime");
    assert_eq!(before, uids(cluster), "no pod was made again");
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["restarted"]);
}

fn the_api_server_is_killed(cluster: &Cluster) {
    let plain = cluster.pods("api-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("api", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server) = (&pods[0], &pods[1]);
    let capture = cluster.capture();
    let talk = client.talk(server.ip(false), 10);
    cluster.plane.kill("kube-apiserver");
    let (lines, gap) = talk.finish();
    eprintln!("10 s without an API server: {lines} lines, none lost, longest wait {gap:.2} s");
    assert_eq!(capture.markers(), 0, "clear text while the API server was away");
    cluster.plane.start("kube-apiserver");
    cluster.plane.await_ready();
    cluster.apply(&peer_authentication("api", "STRICT"));
    plain[0].gets(&at(server.ip(false), 8080), false);
    assert_eq!(client.get(&at(server.ip(false), 8080)).as_deref(), Some("server"));
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["api", "api-plain"]);
}

fn leader(cluster: &Cluster) -> String {
    let path = "jsonpath={.spec.holderIdentity}";
    cluster.kubectl(&["-n", "weft-system", "get", "lease", "weft-controller", "-o", path])
}

fn the_daemons_restart_without_an_api_server(cluster: &Cluster) {
    let plain = cluster.pods("away-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("away", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("away", "STRICT"));
    let (client, server, stranger) = (&pods[0], &pods[1], &plain[0]);
    for ip in &server.ips {
        stranger.gets(&at(*ip, 8080), false);
        client.gets(&at(*ip, 8080), true);
    }
    let settled =
        || NODES.iter().all(|node| cluster.must_on(node, "cat /var/lib/weft/view").contains("\"away\"")).then_some(());
    eventually("both nodes have written down what they know", Duration::from_secs(10), settled);
    let capture = cluster.capture();
    let talks = server.ips.iter().map(|ip| client.talk(*ip, 120)).collect::<Vec<_>>();
    cluster.plane.kill("kube-apiserver");
    for node in NODES {
        let daemon = "pgrep -f '^/usr/local/bin/meshd node'";
        let before = cluster.must_on(node, daemon);
        cluster.must_on(node, &format!("kill -9 $({daemon})"));
        let again = || {
            let output = cluster.on_node(node, &["sh", "-c", daemon]);
            (output.status.success() && output.stdout != before.as_bytes()).then_some(())
        };
        eventually(&format!("the daemon of {node} runs again"), Duration::from_secs(30), again);
    }
    // what the old daemon's kernel state could not do: a new session needs keys, and those need the view
    for ip in &server.ips {
        client.pings_within(*ip, Duration::from_secs(20));
        assert_eq!(client.echo(*ip, MARKER).as_deref(), Some(MARKER), "a new connection without an API server");
        assert_eq!(stranger.get(&at(*ip, 8080)), None, "STRICT as before");
    }
    for talk in talks {
        let (lines, gap) = talk.enough();
        eprintln!("daemons restarted without an API server: {lines} lines, none lost, longest wait {gap:.2} s");
    }
    assert_eq!(capture.markers(), 0, "clear text while the API server was away");
    cluster.plane.start("kube-apiserver");
    cluster.plane.await_ready();
    // controllers that wait half a minute before they look again would hold up the clearing away
    cluster.plane.kill("kube-controller-manager");
    cluster.plane.start("kube-controller-manager");
    // and it is followed again
    cluster.apply(&peer_authentication("away", "PERMISSIVE"));
    stranger.gets(&at(server.ip(false), 8080), true);
    cluster.apply(&peer_authentication("away", "STRICT"));
    stranger.gets(&at(server.ip(false), 8080), false);
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["away", "away-plain"]);
}

fn the_leader_hands_over(cluster: &Cluster) {
    let before = leader(cluster);
    let node = before.split('_').next().expect("a holder is named after its node").to_owned();
    cluster.must_on(&node, "kill -TERM $(pgrep -f '^/usr/local/bin/meshd controller')");
    let another = || Some(leader(cluster)).filter(|now| *now != before && !now.is_empty()).map(drop);
    let ((), took) = eventually("another controller leads", Duration::from_secs(8), another);
    eprintln!("a leader that ends is followed by another after {:.1} s", took.as_secs_f64());
    weft::await_ready(cluster);
}

fn the_leader_is_killed(cluster: &Cluster) {
    let root = |cluster: &Cluster| cluster.kubectl(&["get", "meshtrust", "local", "-o", "jsonpath={.spec.root}"]);
    let (before, trust) = (leader(cluster), root(cluster));
    let node = before.split('_').next().expect("a holder is named after its node").to_owned();
    cluster.must_on(&node, "kill -9 $(pgrep -f '^/usr/local/bin/meshd controller')");
    eventually("another controller leads", Duration::from_secs(40), || (leader(cluster) != before).then_some(()));
    // it serves: a pod of a new identity gets its key, under the same root
    let pods = cluster.pods("leader", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(20));
    let capture = cluster.capture();
    assert_eq!(pods[0].echo(pods[1].ip(true), MARKER).as_deref(), Some(MARKER));
    assert_eq!(capture.markers(), 0, "clear text under the new leader");
    assert_eq!(root(cluster), trust, "the trust root outlives its controller");
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["leader"]);
}

fn the_list_is_rewritten(cluster: &Cluster) {
    let list = "/etc/cni/net.d/10-pods.conflist";
    let ours = cluster.must_on("n2", &format!("cat {list}"));
    assert!(ours.contains("mesh-cni"), "{ours}");
    // the primary's agent writes its own list again, whole
    let script = format!(
        "python3 -c \"import json; open('{list}.new','w').write(json.load(open('/var/lib/weft/cni-original'))['before'])\" && \
         mv {list}.new {list}"
    );
    cluster.must_on("n2", &script);
    eventually("mesh-cni is chained again", Duration::from_secs(5), || {
        cluster.must_on("n2", &format!("cat {list}")).contains("mesh-cni").then_some(())
    });
    let pods = cluster.pods("rewritten", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(30));
    cluster.delete_namespaces(&["rewritten"]);
}

fn a_node_is_rebooted(cluster: &Cluster) {
    let plain = cluster.pods("reboot-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("reboot", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("reboot", "STRICT"));
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(30));
    let capture = cluster.capture();
    cluster.power_off("n2");
    cluster.boot("n2");
    // the pod stays the same object; its sandbox is made anew, with another address
    let old = pods[1].ips.clone();
    let (server, _) = eventually("the server runs again", Duration::from_secs(90), || {
        let output = cluster.try_kubectl(&["-n", "reboot", "get", "pod", "server", "-o", "json"]);
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let restarted = facts["status"]["containerStatuses"][0]["restartCount"].as_u64()? > 0;
        restarted.then(|| cluster.pod("reboot/server"))
    });
    eprintln!("the server was {old:?} and is {:?}", server.ips);
    weft::await_ready(cluster);
    for ip in &server.ips {
        pods[0].pings_within(*ip, Duration::from_secs(30));
        assert_eq!(pods[0].echo(*ip, MARKER).as_deref(), Some(MARKER));
        assert_eq!(plain[0].get(&at(*ip, 8080)), None, "STRICT after a reboot as before");
    }
    assert_eq!(capture.markers(), 0, "clear text around a reboot");
    cluster.delete_namespaces(&["reboot", "reboot-plain"]);
}
