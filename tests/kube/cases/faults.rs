//! What breaks in a cluster: the daemon, its rollout, the API server, the controller, a rewritten network list, a node.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::{Cluster, NODES, ROOT};
use crate::list::Closed;
use crate::pod::{MARKER, READY, at, peer_authentication, pod};
use crate::promise::keeps;
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

/// Longest wait for what comes within seconds on a machine that is not slow and busy.
const SOON: Duration = Duration::from_secs(120);
/// The longest wait for a line while daemons are rolled, in seconds.
pub const WAIT_MAX: f64 = 3.0;

fn the_daemon_is_killed(cluster: &Cluster) {
    let pods = cluster.pods("killed", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("killed", "STRICT"));
    let (client, server) = (&pods[0], &pods[1]);
    for ip in &server.ips {
        client.pings_within(*ip, SOON);
    }
    let capture = cluster.capture();
    let talks = server.ips.iter().map(|ip| client.talk(*ip, 900)).collect::<Vec<_>>();
    weft::kill_daemons(cluster, &NODES);
    weft::await_ready(cluster);
    for ip in &server.ips {
        // a node is Ready until its kubelet has looked again, and a daemon that runs may not serve yet
        eventually("a new connection", SOON, || client.echo(*ip, MARKER).filter(|text| text == MARKER));
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
    client.pings_within(server.ip(false), SOON);
    // a policy that lets nobody else in: what the other configuration does not enforce
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: rolled}\n\
         spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 9000}]}]}\n",
    );
    let web = at(server.ip(false), 8080);
    client.gets(&web, false);
    let capture = cluster.capture();
    // to another configuration and back, as an upgrade is
    let roll = |overlay: &str| {
        cluster.kubectl(&["apply", "-k", &format!("{ROOT}/manifests/overlays/{overlay}")]);
        cluster.kubectl(&["-n", "weft-system", "rollout", "status", "daemonset/weft-node", "--timeout=300s"]);
    };
    // each daemon is ready to take over before its forerunner is ended: else it is 12.6 s, by TCP's repetitions
    keeps("the longest wait for a line on 200 connections, through two rolling updates", WAIT_MAX, || {
        let talks = server.ips.iter().map(|ip| client.talks(*ip, 100, 900)).collect::<Vec<_>>();
        roll("no-policy");
        client.gets(&web, true);
        roll("default");
        client.gets(&web, false);
        let waits = talks.into_iter().map(|talk| {
            let (lines, gap) = talk.enough();
            eprintln!("two rolling updates: {lines} lines over 100 connections, none broken, longest wait {gap:.2} s");
            gap
        });
        waits.fold(0.0, f64::max)
    });
    assert_eq!(capture.markers(), 0, "clear text during a rolling update");
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["rolled"]);
}

fn kubelets_and_runtimes_are_restarted(cluster: &Cluster) {
    let pods = cluster.pods("restarted", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("restarted", "STRICT"));
    let (client, server) = (&pods[0], &pods[1]);
    client.pings_within(server.ip(true), SOON);
    let uids = |cluster: &Cluster| {
        let path = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}\n{end}";
        cluster.kubectl(&["-n", "restarted", "get", "pods", "client", "server", "-o", path])
    };
    let before = uids(cluster);
    let capture = cluster.capture();
    for program in ["kubelet", "containerd"] {
        let talk = client.talks(server.ip(true), 20, 900);
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
        client.pings_within(late.ip(false), SOON);
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
    let ask = || cluster.kubectl(&["-n", "weft-system", "get", "lease", "weft-controller", "-o", path]);
    eventually("a controller leads", SOON, || Some(ask()).filter(|holder| !holder.is_empty())).0
}

/// Who holds the lease, whenever somebody writes it; nobody is an empty name.
fn holders(cluster: &Cluster) -> impl Iterator<Item = String> {
    let mut watch = Command::new(cluster.tools.join("kubectl"))
        .arg("--kubeconfig")
        .arg(cluster.dir.join("pki/admin.kubeconfig"))
        .args(["-n", "weft-system", "get", "lease", "weft-controller", "-w", "--request-timeout=300s", "-o"])
        .arg("jsonpath={.spec.holderIdentity}{\"\\n\"}")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    lines.map_while(Result::ok).chain(std::iter::from_fn(move || watch.wait().ok().and(None)))
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
    eventually("both nodes have written down what they know", SOON, settled);
    let capture = cluster.capture();
    let talks = server.ips.iter().map(|ip| client.talk(*ip, 900)).collect::<Vec<_>>();
    cluster.plane.kill("kube-apiserver");
    weft::kill_daemons(cluster, &NODES);
    // what the old daemon's kernel state could not do: a new session needs keys, and those need the view
    for ip in &server.ips {
        client.pings_within(*ip, SOON);
        assert_eq!(client.echo(*ip, MARKER).as_deref(), Some(MARKER), "a new connection without an API server");
        assert!(stranger.is_refused_by(&at(*ip, 8080)), "STRICT as before");
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
    let mut holders = holders(cluster);
    assert_eq!(holders.next().as_ref(), Some(&before), "who leads");
    let node = before.split('_').next().expect("a holder is named after its node").to_owned();
    cluster.must_on(&node, "kill -TERM $(pgrep -f '^/usr/local/bin/meshd controller')");
    let begin = Instant::now();
    // it is given back, and not waited for until it ends by itself
    assert_eq!(holders.find(|holder| *holder != before).as_deref(), Some(""), "the lease after its holder has ended");
    let another = holders.find(|holder| !holder.is_empty()).expect("another leads");
    assert_ne!(another, before, "a holder that has ended");
    eprintln!("a leader that ends is followed by another after {:.1} s", begin.elapsed().as_secs_f64());
    weft::await_ready(cluster);
}

fn the_leader_is_killed(cluster: &Cluster) {
    let root = |cluster: &Cluster| cluster.kubectl(&["get", "meshtrust", "local", "-o", "jsonpath={.spec.root}"]);
    let (before, trust) = (leader(cluster), root(cluster));
    let node = before.split('_').next().expect("a holder is named after its node").to_owned();
    cluster.must_on(&node, "kill -9 $(pgrep -f '^/usr/local/bin/meshd controller')");
    eventually("another controller leads", Duration::from_secs(180), || (leader(cluster) != before).then_some(()));
    // it serves: a pod of a new identity gets its key, under the same root
    let pods = cluster.pods("leader", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), SOON);
    let capture = cluster.capture();
    assert_eq!(pods[0].echo(pods[1].ip(true), MARKER).as_deref(), Some(MARKER));
    assert_eq!(capture.markers(), 0, "clear text under the new leader");
    assert_eq!(root(cluster), trust, "the trust root outlives its controller");
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["leader"]);
}

fn the_list_is_rewritten(cluster: &Cluster) {
    let closed = Closed::begin(cluster);
    cluster.rewrite_list();
    closed.await_listed();
    let pods = cluster.pods("rewritten", true, &[("client", "n1"), ("server", "n2")]);
    pods[0].pings_within(pods[1].ip(false), SOON);
    cluster.delete_namespaces(&["rewritten"]);
}

fn a_node_is_rebooted(cluster: &Cluster) {
    let plain = cluster.pods("reboot-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("reboot", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("reboot", "STRICT"));
    pods[0].pings_within(pods[1].ip(false), SOON);
    let capture = cluster.capture();
    cluster.power_off("n2");
    cluster.boot("n2");
    // the pod stays the same object; its sandbox is made anew, with another address
    let old = pods[1].ips.clone();
    let (server, _) = eventually("the server runs again", Duration::from_secs(300), || {
        let output = cluster.try_kubectl(&["-n", "reboot", "get", "pod", "server", "-o", "json"]);
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let restarted = facts["status"]["containerStatuses"][0]["restartCount"].as_u64()? > 0;
        restarted.then(|| cluster.pod("reboot/server"))
    });
    eprintln!("the server was {old:?} and is {:?}", server.ips);
    weft::await_ready(cluster);
    for ip in &server.ips {
        pods[0].pings_within(*ip, SOON);
        assert_eq!(pods[0].echo(*ip, MARKER).as_deref(), Some(MARKER));
        assert!(plain[0].is_refused_by(&at(*ip, 8080)), "STRICT after a reboot as before");
    }
    assert_eq!(capture.markers(), 0, "clear text around a reboot");
    cluster.delete_namespaces(&["reboot", "reboot-plain"]);
}
