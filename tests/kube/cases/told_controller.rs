//! MF-05 for the controller: what it says in the end is true, whatever the API server told it on the way.
//!
//! Both controllers ask through the proxy; daemons, kubelets and everybody else ask the server itself. A server that refuses or
//! hangs costs the leader its lease, so that another, or the next life of the same, begins from nothing in the middle of the fault.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Case;
use crate::cluster::{Cluster, NODES};
use crate::pod::{READY, peer_authentication, pod};
use crate::proxy::{CONTROLLERS, Proxy};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("mf_05_a_controller_that_is_answered_wrongly_says_what_is_true_in_the_end", told_wrongly)];

/// The faults and how long each holds: where no answer comes, longer than a lease is held without being renewed.
const FAULTS: [(&str, Duration); 7] = [
    ("refuse", Duration::from_secs(13)),
    ("hang", Duration::from_secs(13)),
    ("flap", Duration::from_secs(7)),
    ("gone", Duration::from_secs(7)),
    ("half", Duration::from_secs(7)),
    ("garbage", Duration::from_secs(7)),
    ("shuffle", Duration::from_secs(7)),
];
/// Lists of one kind from one node while a fault holds, where two processes at most began anew.
const LISTS_MAX: usize = 20;
const IN: &str = "told";

/// An address and whose it is: node, address, namespace and name, UID, identity.
type Said = BTreeSet<[String; 5]>;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

/// What the slices say of the namespace, and their endpoints of it whole.
fn said(cluster: &Cluster) -> (Said, BTreeSet<String>) {
    let slices = items(&cluster.json(&["get", "meshendpointslices"]));
    let endpoints = slices.iter().flat_map(|slice| {
        let node = text(&slice["spec"]["node"]);
        let endpoints = slice["spec"]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.into_iter().filter(|e| e["namespace"] == IN).map(move |endpoint| (node.clone(), endpoint))
    });
    endpoints
        .flat_map(|(node, e)| {
            let whole = format!("{node} {e}");
            let name = format!("{IN}/{}", text(&e["name"]));
            let at = |ip: &str| {
                ([node.clone(), ip.to_owned(), name.clone(), text(&e["uid"]), text(&e["identity"])], whole.clone())
            };
            weft::addresses(&e).map(at).collect::<Vec<_>>()
        })
        .unzip()
}

/// What the API server itself holds of the namespace.
fn truth(cluster: &Cluster) -> Said {
    let pods = items(&cluster.json(&["-n", IN, "get", "pods"]));
    let alive = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    alive
        .flat_map(|pod| {
            let ips = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
            let (node, name) = (text(&pod["spec"]["nodeName"]), format!("{IN}/{}", text(&pod["metadata"]["name"])));
            let identity = format!("spiffe://cluster.local/ns/{IN}/sa/{}", text(&pod["spec"]["serviceAccountName"]));
            let uid = text(&pod["metadata"]["uid"]);
            ips.into_iter().map(move |ip| [node.clone(), text(&ip["ip"]), name.clone(), uid.clone(), identity.clone()])
        })
        .collect()
}

/// The identities of the namespace that each node has a binding for.
fn bound(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let slices = items(&cluster.json(&["get", "meshendpointslices"]));
    let bindings = slices.iter().flat_map(|slice| {
        let bindings = slice["spec"]["bindings"].as_array().cloned().unwrap_or_default();
        bindings.into_iter().map(move |binding| (text(&slice["spec"]["node"]), text(&binding["identity"])))
    });
    bindings.filter(|(_, identity)| identity.contains(&format!("/ns/{IN}/"))).collect()
}

fn whose(said: &Said) -> BTreeSet<(String, String)> {
    said.iter().map(|[node, _, _, _, identity]| (node.clone(), identity.clone())).collect()
}

/// Deletes a pod and waits until it is gone.
fn end(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["-n", IN, "delete", "pod", name, "--timeout=240s"]);
}

fn suffers(cluster: &Cluster, proxy: &Proxy<'_>, fault: &str, within: Duration, round: usize) {
    proxy.set(fault);
    let begin = Instant::now();
    // one comes whom nobody knew, one goes, one is on the other node from now on
    let (here, there) = (NODES[round % 2], NODES[(round + 1) % 2]);
    let comes = format!("comes{round}");
    end(cluster, "moves");
    if round > 0 {
        end(cluster, &format!("comes{}", round - 1));
    }
    cluster.apply(&(pod(IN, &comes, here, READY) + &pod(IN, "moves", there, READY)));
    cluster.apply(&peer_authentication(IN, if round.is_multiple_of(2) { "STRICT" } else { "PERMISSIVE" }));
    // what was ever true of this round: a binding of anything else is one too many
    let accounts = [("comes", here), ("moves", here), ("moves", there), ("client", "n1"), ("server", "n2")];
    let mut allowed: BTreeSet<_> = accounts
        .map(|(account, node)| {
            let account = if account == "comes" { comes.clone() } else { account.to_owned() };
            (node.to_owned(), format!("spiffe://cluster.local/ns/{IN}/sa/{account}"))
        })
        .into();
    if round > 0 {
        let former = format!("spiffe://cluster.local/ns/{IN}/sa/comes{}", round - 1);
        allowed.insert((there.to_owned(), former));
    }
    while begin.elapsed() < within {
        let wrong: Vec<_> = bound(cluster).difference(&allowed).cloned().collect();
        assert!(wrong.is_empty(), "{fault}: bindings of {wrong:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    proxy.set("pass");
    // what was longer than it should be, a list each two seconds of each of two
    let lists_max =
        LISTS_MAX + usize::try_from(begin.elapsed().saturating_sub(within).as_secs()).expect("some seconds");
    let [client, comes, moves] = ["client", &comes, "moves"].map(|name| cluster.pod(&format!("{IN}/{name}")));
    let ended = Instant::now();
    eventually(&format!("{fault}: slices and bindings are true again"), Duration::from_secs(240), || {
        let truth = truth(cluster);
        (said(cluster).0 == truth && bound(cluster) == whose(&truth)).then_some(())
    });
    let took = ended.elapsed().as_secs_f64();
    for pod in [&comes, &moves] {
        for ip in &pod.ips {
            client.pings_within(*ip, Duration::from_secs(90));
        }
    }
    eprintln!("{fault} before the controllers: true {took:.1} s after the new pods were Ready");
    if let Some((lists, which)) = proxy.most_lists(fault) {
        eprintln!("{fault} before the controllers: at most {lists} lists ({which})");
        assert!(lists <= lists_max, "{fault}: {lists} lists of {which}");
    }
}

fn told_wrongly(cluster: &Cluster) {
    let pods = cluster.pods(IN, true, &[("client", "n1"), ("server", "n2"), ("moves", "n1")]);
    pods[0].pings_within(pods[1].ip(false), Duration::from_secs(90));
    let proxy = Proxy::up(cluster, &[CONTROLLERS]);
    weft::await_ready(cluster);
    eventually("slices and bindings are true at the begin", Duration::from_secs(240), || {
        let truth = truth(cluster);
        (said(cluster).0 == truth && bound(cluster) == whose(&truth)).then_some(())
    });
    // two nodes, or one where both are
    let controllers = ["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-controller"];
    eventually("both controllers ask through the proxy", Duration::from_secs(180), || {
        let pods = items(&cluster.json(&controllers));
        let nodes: BTreeSet<_> = pods.iter().map(|pod| text(&pod["status"]["hostIP"])).collect();
        (pods.len() == 2 && BTreeSet::from_iter(proxy.peers()) == nodes).then_some(())
    });
    for (round, (fault, within)) in FAULTS.into_iter().enumerate() {
        suffers(cluster, &proxy, fault, within, round);
    }
    // a controller that never heard a wrong word says the same, to the last field
    let settled = |before: BTreeSet<String>| {
        eventually("the slices stand still", Duration::from_secs(180), || {
            let now = said(cluster).1;
            std::thread::sleep(Duration::from_secs(2));
            (said(cluster).1 == now && (before.is_empty() || now == before)).then_some(now)
        })
        .0
    };
    let disturbed = settled(BTreeSet::new());
    // who came and who moved after people wrote the mode
    cluster.await_enforced(IN, "STRICT", "4/4");
    proxy.down();
    weft::await_ready(cluster);
    settled(disturbed);
    cluster.delete_namespaces(&[IN]);
}
