//! Start order: an API server that a node reaches through the mesh only, an agent that writes the network list anew before the daemon
//! runs, and one that does not stop; a runtime that passes our file over.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::control_plane::ADDRESS;
use crate::list::{BESIDE, Closed};
use crate::pod::{at, peer_authentication, pod};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("an_api_server_behind_the_mesh_is_reached_by_a_daemon_that_restarts", api_server_behind_the_mesh),
    ("pl_04_cn_20_a_list_rewritten_before_the_daemon_runs_lets_no_pod_past", a_list_rewritten_early),
    ("pl_04_a_runtime_that_reads_no_file_beside_its_list_any_more", a_runtime_that_reads_no_file),
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
    eventually("a member reaches the API server by the relay", Duration::from_secs(90), || asks(client).then_some(()));
    eventually("a stranger does not", Duration::from_secs(90), || (!asks(&plain[0])).then_some(()));
    let written = || cluster.must_on("n1", "cat /var/lib/weft/view").contains("\"behind\"").then_some(());
    eventually("the node has written down what it knows", Duration::from_secs(90), written);
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
    weft::kill_daemons(cluster, &["n1"]);
    // it follows the server: what is written now is in force, and a pod that is made now is attached
    let web = at(client.ip(false), 8080);
    plain[0].gets(&web, false);
    let ((), took) = eventually("a new pod of n1 is in the mesh", Duration::from_secs(240), || {
        cluster.apply(&pod("behind", "late", "n1", ""));
        let output = cluster.try_kubectl(&["-n", "behind", "get", "pod", "late", "-o", "jsonpath={.status.phase}"]);
        (output.stdout == b"Running").then_some(())
    });
    eprintln!("{:.1} s after the restart a new pod runs on the node behind the mesh", took.as_secs_f64());
    let late = cluster.pod("behind/late");
    late.pings_within(relay.ip(true), Duration::from_secs(90));
    cluster.apply(&peer_authentication("behind", "PERMISSIVE"));
    plain[0].gets(&web, true);
    let connections = "ss -Htnp state established | grep '\"meshd\"'";
    eventually("the daemon speaks to a server", Duration::from_secs(30), || {
        cluster.on_node("n1", &["sh", "-c", connections]).status.success().then_some(())
    });
    drop(detour);
    drop(relaying);
    cluster.await_nodes();
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["behind", "behind-plain"]);
}

/// n2 as it is while it boots: its daemon does nothing yet, and nobody is behind its socket.
struct Boot<'a>(&'a Cluster);

impl Boot<'_> {
    const BEGIN: &'static str =
        "pkill -STOP -f '^/usr/local/bin/meshd node' && mv /run/weft/cni.sock /run/weft/cni.aside";
    const END: &'static str = "mv /run/weft/cni.aside /run/weft/cni.sock; pkill -CONT -f '^/usr/local/bin/meshd node'";
}

impl Drop for Boot<'_> {
    fn drop(&mut self) {
        self.0.on_node("n2", &["sh", "-c", Self::END]);
    }
}

fn status_of_beside(cluster: &Cluster, node: &str) -> Option<String> {
    let daemon = weft::daemon_pod(cluster, node);
    let ask = ["-n", "weft-system", "exec", &daemon, "--", "meshctl", "status", "-o", "json"];
    let nodes: serde_json::Value = serde_json::from_slice(&cluster.try_kubectl(&ask).stdout).ok()?;
    Some(nodes[0]["chain"]["beside"].as_str()?.to_owned())
}

fn a_list_rewritten_early(cluster: &Cluster) {
    let pods = cluster.pods("early", true, &[("client", "n1"), ("server", "n2")]);
    // this runtime's libcni reads files beside the list, and a pod has started: that is known now
    eventually("status tells that the spare entry is read", Duration::from_secs(120), || {
        (status_of_beside(cluster, "n2")? == "read").then_some(())
    });
    cluster.await_given_back("n2");
    cluster.must_on("n2", Boot::BEGIN);
    let boot = Boot(cluster);
    cluster.rewrite_list();
    cluster.apply(&pod("early", "late", "n2", crate::pod::READY));
    eventually("the runtime asks mesh-cni all the same", Duration::from_secs(240), || {
        let events = cluster.kubectl(&["-n", "early", "get", "events", "-o", "jsonpath={.items[*].message}"]);
        (events.contains("meshd on this node does not answer")).then_some(())
    });
    assert!(!cluster.is_listed("n2"), "it is the file beside the list that was read");
    let phase =
        cluster.kubectl(&["-n", "early", "get", "pod", "late", "-o", "jsonpath={.status.phase}{.status.podIP}"]);
    assert_eq!(phase, "Pending", "a pod started that nobody protects");
    drop(boot);
    let late = cluster.pod("early/late");
    for ip in &late.ips {
        pods[0].pings_within(*ip, Duration::from_secs(90));
    }
    assert!(!cluster.is_listed("n2"), "nobody touches the list any more");
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["early"]);
}

/// The daemon of n2 stands still while this lives.
struct Still<'a>(&'a Cluster);

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.on_node("n2", &["sh", "-c", &format!("kill -CONT $({})", weft::DAEMON)]);
    }
}

/// In the folder that the runtime watches: it looks again when something goes from there, and not when something comes.
const ASIDE: &str = "/etc/cni/net.d/.aside";

/// As after another runtime was put in the place of this one: the file is away meanwhile, and the daemon does not see that.
fn a_runtime_that_reads_no_file(cluster: &Cluster) {
    let pods = cluster.pods("passed", true, &[("client", "n1"), ("gone", "n2")]);
    let gone = pods[1].ip(false).to_string();
    cluster.await_given_back("n2");
    cluster.must_on("n2", &format!("kill -STOP $({})", weft::DAEMON));
    let still = Still(cluster);
    cluster.must_on("n2", &format!("cp {BESIDE} /run/aside && mv {BESIDE} {ASIDE} && rm {ASIDE}"));
    cluster.apply(&pod("passed", "late", "n2", crate::pod::READY));
    let late = cluster.pod("passed/late");
    cluster.kubectl(&["-n", "passed", "delete", "pod", "gone", "--grace-period=0", "--force"]);
    let mentions = |what: &str, ip: &str| cluster.must_on("n2", &format!("cat {what}/* | grep -c '{ip}\\b' || true"));
    eventually("its sandbox is ended, and nobody has told us", Duration::from_secs(120), || {
        (mentions("/var/lib/cni/results", &gone).trim() == "0").then_some(())
    });
    assert_ne!(mentions("/var/lib/weft/attachments", &gone).trim(), "0", "a DEL has come");
    assert_eq!(mentions("/var/lib/weft/attachments", &late.ip(false).to_string()).trim(), "0", "an ADD has come");
    cluster.must_on("n2", &format!("cp /run/aside {ASIDE} && mv {ASIDE} {BESIDE} && rm /run/aside"));
    drop(still);
    eventually("mesh-cni is in the list again", Duration::from_secs(60), || cluster.is_listed("n2").then_some(()));
    assert_eq!(status_of_beside(cluster, "n2").as_deref(), Some("unread"));
    for ip in &late.ips {
        pods[0].pings_within(*ip, Duration::from_secs(90));
    }
    eventually("nothing is left of the pod that ended without a DEL", Duration::from_secs(60), || {
        (mentions("/var/lib/weft/attachments", &gone).trim() == "0").then_some(())
    });
    // the next daemon asks the runtime anew, with the next pod
    weft::kill_daemons(cluster, &["n2"]);
    weft::await_ready(cluster);
    cluster.apply(&pod("passed", "again", "n2", crate::pod::READY));
    cluster.pod("passed/again");
    cluster.await_given_back("n2");
    cluster.delete_namespaces(&["passed"]);
}

fn an_agent_that_keeps_rewriting(cluster: &Cluster) {
    let closed = Closed::begin(cluster);
    // what it counted of another case is forgotten with the process
    weft::kill_daemons(cluster, &["n2"]);
    weft::await_ready(cluster);
    let name = weft::daemon_pod(cluster, "n2");
    let said = |words: &[&str]| {
        let output = cluster.try_kubectl(&[&["-n", "weft-system"], words].concat());
        String::from_utf8_lossy(&output.stdout).matches("keeps taking mesh-cni out").count()
    };
    let status = ["exec", &name, "--", "meshctl", "status"];
    eventually("status tells of the fight", Duration::from_secs(120), || {
        cluster.rewrite_list();
        let again = std::time::Instant::now();
        while again.elapsed() < Duration::from_secs(2) {
            if cluster.is_listed("n2") {
                // the next round: so many within a minute are a fight
                return None;
            }
        }
        (said(&status) > 0).then_some(())
    });
    // many rounds later it is in the log once
    let rounds = std::time::Instant::now();
    eventually("six rounds have passed", Duration::from_secs(10), || {
        (rounds.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert_eq!(said(&["logs", &name]), 1, "how often the log says it");
    assert!(!cluster.is_listed("n2"), "the fight goes on");
    weft::kill_daemons(cluster, &["n2"]);
    closed.await_listed();
    weft::await_ready(cluster);
}
